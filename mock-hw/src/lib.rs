//! Hardware for tests of IOMMU drivers, and for trying them out on a host.
//!
//! - [`MockMemory`]: DMA memory with physical addresses, that checks how it is used;
//! - [`MockClock`]: time that passes only when somebody waits;
//! - [`bank`]: register banks that are mocked, recorded, or plain storage;
//! - [`smmuv3`]: a model of an SMMUv3 with a TLB and a configuration cache;
//! - [`DmaDevice`]: a device that does DMA through a model.
//!
//! Models decode every bit on their own, from the specifications; no driver's code is in them.

mod arena;
pub mod bank;
mod clock;
mod device;
mod ledger;
mod memory;
pub mod smmuv3;

pub use clock::MockClock;
pub use device::{Access, DmaDevice, Outcome, Translate};
pub use memory::{BusError, MockMemory, POISON, StoreHook};
