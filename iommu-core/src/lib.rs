//! The policy and mechanism that every IOMMU driver shares.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod addr;
mod error;
mod memory;
mod mmio;
mod platform;

pub use addr::{AddrRange, Iova, Pasid, PhysAddr, StreamId};
pub use error::{Culprit, Error, ErrorKind, Result};
pub use memory::DmaBlock;
pub use mmio::MmioBank;
pub use platform::{
    BasicPlatform, Clock, DeviceControl, DmaMemory, NoControl, Platform, RawLock, RegisterBank,
    SpinLock,
};
