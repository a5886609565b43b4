//! The policy and mechanism that every IOMMU driver shares: which domain a device is on, and when.
//!
//! Three parties meet here.
//!
//! - The **platform** provides register access, DMA memory, a clock and locks ([`Platform`]), and a
//!   way to talk to each device ([`DeviceControl`]).
//! - A **backend** drives one kind of IOMMU ([`IommuOps`]): it knows how a device is moved from one
//!   domain to another, and decides nothing.
//! - The **core** ([`Iommu`]) decides. Devices come in [`Group`]s that move together, prepared all
//!   before any is committed. A [`Device`] that is released is parked: on the backend's release
//!   domain, or on identity where firmware pinned the device and parking would block it.
//!
//! What a device's DMA means is a [`Domain`]: identity, blocked, or paging, with page tables from
//! [`pgtable`]. Memory is given to devices through [`dma`], whose mappings own it.
//!
//! [`writing_a_backend`] goes from an empty crate to one that passes the conformance suite.
//!
//! # Errors and dead hardware
//!
//! Every call that can fail says how, with an [`Error`] that has a kind, an errno and a culprit.
//! Every wait is bounded. A device that the hardware did not confirm to have moved is
//! [`Attached::Uncertain`]: everything it might be using stays allocated, for good if need be.
//!
//! # Contexts
//!
//! Calls that change what a device is attached to may block, and take locks in the order that
//! [`Iommu`] states. Mapping and unmapping take none of those, and hold no lock while they wait for
//! the hardware. Each function that may be called from an interrupt says so.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod addr;
mod attached;
mod device;
mod direct;
pub mod dma;
mod domain;
pub mod entry;
mod error;
mod fault;
mod fence;
mod flush;
mod geometry;
mod group;
mod ids;
mod iommu;
mod lifecycle;
mod mapped;
mod member;
mod memory;
mod mmio;
mod ops;
mod ownership;
mod paging;
mod park;
mod pasid;
pub mod pgtable;
mod platform;
mod registry;
mod reserved;
mod sync;
mod transaction;
pub mod writing_a_backend;

pub use addr::{AddrRange, Iova, Pasid, PhysAddr, StreamId};
pub use attached::Attached;
pub use device::{Context, Device, DeviceInfo, Rest};
pub use domain::{Domain, DomainKind, DomainRef, Prot};
pub use error::{Culprit, Error, ErrorKind, Result};
pub use fault::{Fault, FaultHandler, PageRequest, PageResponse};
pub use fence::ResetFence;
pub use flush::{Flush, Invalidation, Unflushed};
pub use geometry::Geometry;
pub use group::Group;
pub use ids::Ids;
pub use iommu::{DefaultDomain, InstanceId, Iommu, IommuConfig};
pub use mapped::{MapBlockError, MappedBlock};
pub use member::Member;
pub use memory::{DmaBlock, DmaEntry};
pub use mmio::MmioBank;
pub use ops::{IommuOps, PagingConfig, Probed, Slot, Stage};
pub use ownership::{Claim, Share};
pub use paging::{MapError, PagingOps};
pub use platform::{
    Atomicity, BasicPlatform, Clock, DeviceControl, DmaMemory, NoControl, Platform, RawLock,
    RegisterBank, SpinLock, has_pairs, store_pair,
};
pub use reserved::{FirmwareRegion, ReservedKind, ReservedRegion};
