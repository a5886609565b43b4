//! Hardware for tests of IOMMU drivers, and for trying them out on a host.
//!
//! - [`MockMemory`]: DMA memory with physical addresses, that checks how it is used;
//! - [`MockClock`]: time that passes only when somebody waits;
//! - [`bank`]: register banks that are mocked, recorded, or plain storage;
//! - [`fault`]: a register bank that breaks as a test wants it to;
//! - [`smmuv3`]: a model of an SMMUv3 with a TLB and a configuration cache;
//! - [`vtd`]: a model of a VT-d unit with an IOTLB, a context cache and a PASID cache;
//! - [`DmaDevice`]: a device that does DMA through a model;
//! - [`smmuv3::AtsDevice`]: one that keeps translations in a cache of its own (PCIe ATS);
//! - [`conformance`]: a suite that tells whether a backend keeps its promises;
//! - [`toy`]: an IOMMU small enough to write a first backend for.
//!
//! ```
//! use iommu_core::{PhysAddr, RegisterBank};
//! use mock_hw::smmuv3::{ModelConfig, SmmuModel};
//! use mock_hw::{DmaDevice, MockMemory, Outcome};
//!
//! let memory = MockMemory::new(PhysAddr(0x4000_0000), 0x1_0000);
//! memory.reserve(PhysAddr(0x4000_0000), 0x1000);
//! let smmu = SmmuModel::new(memory, ModelConfig::default());
//! let nic = DmaDevice::new(&smmu, 0x10);
//! // Out of reset, everything passes.
//! assert_eq!(nic.write(0x4000_0000, b"hello"), Outcome::Translated(PhysAddr(0x4000_0000)));
//! // GBPA: Update, ABORT.
//! smmu.bank().write32(0x44, 0x8010_0000);
//! while smmu.bank().read32(0x44) & 0x8000_0000 != 0 {}
//! assert_eq!(nic.write(0x4000_0000, b"hello"), Outcome::Aborted);
//! ```
//!
//! Models decode every bit on their own, from the specifications; no driver's code is in them.

mod arena;
pub mod bank;
mod chance;
mod clock;
pub mod conformance;
mod device;
pub mod fault;
mod ledger;
mod memory;
mod ops;
pub mod smmuv3;
pub mod toy;
pub mod vtd;

pub use clock::MockClock;
pub use device::{Access, DmaDevice, Outcome, Translate};
pub use memory::{BusError, MockMemory, POISON, StoreHook};
pub use ops::{MockIommuOps, MockPagingOps};
