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
mod group;
mod iommu;
mod member;
mod memory;
mod mmio;
mod ops;
mod park;
pub mod pgtable;
mod platform;
mod reserved;

pub use addr::{AddrRange, Iova, Pasid, PhysAddr, StreamId};
pub use device::{Device, DeviceInfo, Rest};
pub use domain::{Domain, DomainKind, DomainRef, Geometry, MapError, MappedBlock, PagingOps, Prot};
pub use error::{Culprit, Error, ErrorKind, Result};
pub use group::Group;
pub use iommu::{DefaultDomain, Iommu, IommuConfig};
pub use member::{Attached, Member};
pub use memory::DmaBlock;
pub use mmio::MmioBank;
pub use ops::{IommuOps, PagingConfig, Probed, Slot, Stage};
pub use platform::{
    BasicPlatform, Clock, DeviceControl, DmaMemory, NoControl, Platform, RawLock, RegisterBank,
    SpinLock,
};
pub use reserved::{FirmwareRegion, ReservedKind, ReservedRegion};
