//! An Arm machine with an SMMUv3: QEMU's `virt`.

use std::ffi::OsString;

use iommu_core::BasicPlatform;
use mock_hw::MockMemory;

use super::bank::QtestBank;
use super::board::{Board, Devices, Parts};
use super::bypass::Bypass;
use super::disk::Disk;
use super::edu::Edu;
use super::error::QemuError;
use super::pci::ConfigSpace;
use super::qtest::Qtest;
use crate::clock::SystemClock;

/// Where the SMMU's registers begin on the `virt` machine.
pub const SMMU_BASE: u64 = 0x0905_0000;
/// The number of bytes of its registers: both pages.
pub const SMMU_SIZE: usize = 0x2_0000;

/// Where RAM begins on the `virt` machine.
pub const RAM_BASE: u64 = 0x4000_0000;

const BOARD: Board = Board {
    // The first with both stages and their nesting.
    oldest: (9, 1),
    ram_base: RAM_BASE,
    coherent: true,
    config_space: ConfigSpace::Memory(0x3f00_0000),
    mmio: 0x1000_0000,
    bypass: Bypass::Smmu,
};

/// The stages of translation that the SMMU has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Stage {
    /// Stage 1 only.
    One,
    /// Stage 2 only.
    Two,
    /// Both, and one on top of the other.
    #[default]
    Nested,
}

impl Stage {
    fn option(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Two => "2",
            Self::Nested => "nested",
        }
    }
}

/// What machine to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MachineConfig {
    /// The stages of translation that the SMMU has.
    pub stage: Stage,
    /// The number of `edu` devices, 30 at most, 29 with a disk. Their StreamIDs are 0x10, 0x18, 0x20
    /// and so on.
    pub edus: usize,
    /// Whether there is a disk.
    pub disk: bool,
    /// The program: a name to look for in `PATH`, or a path.
    pub binary: OsString,
}

impl Default for MachineConfig {
    /// Both stages, one `edu`, no disk, `qemu-system-aarch64`.
    fn default() -> Self {
        Self {
            stage: Stage::default(),
            edus: 1,
            disk: false,
            binary: "qemu-system-aarch64".into(),
        }
    }
}

/// What a driver of an IOMMU in QEMU runs on.
pub type QemuPlatform = BasicPlatform<QtestBank, MockMemory, SystemClock>;

/// An Arm `virt` machine in QEMU, whose CPU never runs: the test process is its CPU.
///
/// Its SMMU is as after reset, translation off. QEMU runs until the machine and everything it gave
/// out (banks, devices) is dropped, so that a driver may outlive this value; then the process is
/// gone and its files are removed.
#[derive(Debug)]
pub struct Machine(Parts);

impl Machine {
    /// Starts QEMU and sets up PCI. Takes a tenth of a second.
    ///
    /// # Errors
    ///
    /// [`QemuError`]; nothing is left behind.
    pub fn start(config: &MachineConfig) -> Result<Self, QemuError> {
        let devices = Devices {
            edus: config.edus,
            disk: config.disk,
        };
        BOARD
            .start(&config.binary, devices, |_| Ok(arguments(config)))
            .map(Self)
    }

    /// The SMMU's registers.
    #[must_use]
    pub fn bank(&self) -> QtestBank {
        QtestBank::new(self.0.qtest.clone(), SMMU_BASE, SMMU_SIZE)
    }

    /// The machine's RAM, for tables, queues and buffers.
    #[must_use]
    pub fn memory(&self) -> &MockMemory {
        &self.0.memory
    }

    /// The SMMU's registers, the RAM and the host's clock.
    #[must_use]
    pub fn platform(&self) -> QemuPlatform {
        BasicPlatform {
            bank: self.bank(),
            memory: self.0.memory.clone(),
            clock: SystemClock::new(),
        }
    }

    /// The DMA masters, in the order of their StreamIDs.
    #[must_use]
    pub fn edus(&self) -> &[Edu] {
        &self.0.edus
    }

    /// The disk, where there is one.
    #[must_use]
    pub fn disk(&self) -> Option<&Disk> {
        self.0.disk.as_ref()
    }

    /// Access to every physical address of the machine, and to QEMU's process.
    #[must_use]
    pub fn qtest(&self) -> &Qtest {
        &self.0.qtest
    }
}

fn arguments(config: &MachineConfig) -> Vec<String> {
    [
        // Machines of 9.2 and later do not let the stages be chosen.
        "-machine",
        "virt-9.1,iommu=smmuv3,highmem-ecam=off,memory-backend=ram0",
        "-global",
        &format!("arm-smmuv3.stage={}", config.stage.option()),
        "-cpu",
        "cortex-a57,start-powered-off=on",
    ]
    .map(String::from)
    .into()
}

impl crate::machine::Machine for Machine {
    type Bank = QtestBank;
    type Clock = SystemClock;

    fn platform(&self) -> QemuPlatform {
        Self::platform(self)
    }

    fn memory(&self) -> MockMemory {
        Self::memory(self).clone()
    }

    fn masters(&self) -> Vec<&dyn crate::machine::Master> {
        self.edus().iter().map(|edu| edu as _).collect()
    }
}
