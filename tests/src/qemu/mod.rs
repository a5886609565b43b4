//! QEMU's SMMUv3 as a second opinion: a driver runs in the test process, and its registers, its
//! memory and its devices are those of a machine in QEMU.
//!
//! QEMU's model was not written here, and it keeps a real configuration cache and TLB: a driver that
//! it obeys is right about bit positions, about orders, and about what has to be invalidated.
//!
//! Needs `qemu-system-aarch64` 9.1 or later on a host with Unix sockets; where it is missing,
//! [`Machine::start`] says how to get it.
//!
//! ```no_run
//! use iommu_core::RegisterBank;
//! use tests::qemu::{Machine, MachineConfig};
//!
//! let machine = Machine::start(&MachineConfig::default())?;
//! assert_eq!(machine.bank().read32(0), 0x0d44_101b); // SMMU_IDR0
//! machine.edus()[0].write(0x4100_0000, b"the SMMU is off: an IOVA is a physical address");
//! # Ok::<(), tests::qemu::QemuError>(())
//! ```

mod bank;
mod edu;
mod error;
mod machine;
mod pci;
mod process;
mod qtest;
mod ram;

pub use bank::QtestBank;
pub use edu::Edu;
pub use error::{OLDEST_QEMU, QemuError};
pub use machine::{Machine, MachineConfig, QemuPlatform, SMMU_BASE, SMMU_SIZE, Stage};
pub use process::Process;
pub use qtest::{Access, Qtest, Session};
pub use ram::{RAM_BASE, RAM_SIZE};
