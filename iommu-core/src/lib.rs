//! The policy and mechanism that every IOMMU driver shares.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod addr;
mod device;
mod direct;
mod domain;
mod error;
mod fault;
mod fence;
mod group;
mod iommu;
mod member;
mod memory;
mod mmio;
mod ops;
mod ownership;
mod park;
mod pasid;
pub mod pgtable;
mod platform;
mod registry;
mod reserved;
mod transaction;

pub use addr::{AddrRange, Iova, Pasid, PhysAddr, StreamId};
pub use device::{Context, Device, DeviceInfo, Rest};
pub use domain::{
    Domain, DomainKind, DomainRef, Geometry, MapBlockError, MapError, MappedBlock, PagingOps, Prot,
};
pub use error::{Culprit, Error, ErrorKind, Result};
pub use fault::{Fault, FaultHandler, PageRequest, PageResponse};
pub use fence::ResetFence;
pub use group::Group;
pub use iommu::{DefaultDomain, InstanceId, Iommu, IommuConfig};
pub use member::{Attached, Member};
pub use memory::DmaBlock;
pub use mmio::MmioBank;
pub use ops::{IommuOps, PagingConfig, Probed, Slot, Stage};
pub use ownership::{Claim, Share};
pub use platform::{
    BasicPlatform, Clock, DeviceControl, DmaMemory, NoControl, Platform, RawLock, RegisterBank,
    SpinLock,
};
pub use reserved::{FirmwareRegion, ReservedKind, ReservedRegion};
