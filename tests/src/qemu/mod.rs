//! QEMU's IOMMUs as a second opinion: a driver runs in the test process, and its registers, its
//! memory and its devices are those of a machine in QEMU.
//!
//! QEMU's models were not written here, and they keep a real configuration cache and TLB: a driver
//! that they obey is right about bit positions, about orders, and about what has to be invalidated.
//!
//! [`Machine`] is an Arm `virt` with an SMMUv3, for `qemu-system-aarch64` 9.1 or later; [`Q35`] is a
//! PC with a VT-d, for `qemu-system-x86_64` 10.0 or later. Both need a host with Unix sockets; where a
//! program is missing, `start` says how to get it.
//!
//! ```no_run
//! use iommu_core::RegisterBank;
//! use tests::qemu::{Machine, MachineConfig, Q35, Q35Config};
//!
//! let machine = Machine::start(&MachineConfig::default())?;
//! assert_eq!(machine.bank().read32(0), 0x0d44_101b); // SMMU_IDR0
//! machine.edus()[0].write(0x4100_0000, b"the SMMU is off: an IOVA is a physical address");
//!
//! let machine = Q35::start(&Q35Config::default())?;
//! assert_eq!(machine.bank().read64(0x10), 0xf42); // ECAP_REG
//! # Ok::<(), tests::qemu::QemuError>(())
//! ```

mod bank;
mod board;
mod bypass;
mod disk;
mod edu;
mod error;
mod machine;
mod pci;
mod process;
mod q35;
mod qtest;
mod ram;

pub use bank::QtestBank;
pub use disk::{Disk, DiskQueues};
pub use edu::Edu;
pub use error::QemuError;
pub use machine::{Machine, MachineConfig, QemuPlatform, RAM_BASE, SMMU_BASE, SMMU_SIZE, Stage};
pub use process::Process;
pub use q35::{Q35, Q35Config, VTD_BASE, VTD_SIZE};
pub use qtest::{Access, Qtest, Session};
pub use ram::RAM_SIZE;
