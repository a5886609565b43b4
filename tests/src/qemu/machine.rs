//! A whole machine: QEMU, its SMMU, its RAM and its devices.

use std::ffi::OsString;
use std::sync::Arc;

use iommu_core::{BasicPlatform, Iova, StreamId};
use mock_hw::MockMemory;

use super::bank::QtestBank;
use super::edu::{EDU_ID, Edu};
use super::error::QemuError;
use super::pci::{AddressSpace, Function};
use super::process::{Files, Process, check_version};
use super::qtest::Qtest;
use super::ram::{GuestRam, RAM_SIZE};
use crate::clock::SystemClock;

/// Where the SMMU's registers begin on the `virt` machine.
pub const SMMU_BASE: u64 = 0x0905_0000;
/// The number of bytes of its registers: both pages.
pub const SMMU_SIZE: usize = 0x2_0000;

/// The PCI device number of the first `edu`; the others follow.
const FIRST_EDU: usize = 2;

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
    /// The number of `edu` devices, 30 at most. Their StreamIDs are 0x10, 0x18, 0x20 and so on.
    pub edus: usize,
    /// The program: a name to look for in `PATH`, or a path.
    pub binary: OsString,
}

impl Default for MachineConfig {
    /// Both stages, one device, `qemu-system-aarch64`.
    fn default() -> Self {
        Self {
            stage: Stage::default(),
            edus: 1,
            binary: "qemu-system-aarch64".into(),
        }
    }
}

/// What a driver of a [`Machine`]'s SMMU runs on.
pub type QemuPlatform = BasicPlatform<QtestBank, MockMemory, SystemClock>;

/// An Arm `virt` machine in QEMU, whose CPU never runs: the test process is its CPU.
///
/// Its SMMU is as after reset, translation off. QEMU runs until the machine and everything it gave
/// out (banks, devices) is dropped, so that a driver may outlive this value; then the process is
/// gone and its files are removed.
#[derive(Debug)]
pub struct Machine {
    qtest: Qtest,
    memory: MockMemory,
    edus: Vec<Edu>,
}

impl Machine {
    /// Starts QEMU and sets up PCI. Takes a tenth of a second.
    ///
    /// # Errors
    ///
    /// [`QemuError`]; nothing is left behind.
    pub fn start(config: &MachineConfig) -> Result<Self, QemuError> {
        check_version(&config.binary)?;
        let files = Files::new()?;
        let ram = Arc::new(GuestRam::create(&files.ram())?);
        let args = arguments(config, &files, &ram);
        let (process, stream) = Process::start(&config.binary, &args, files)?;
        let qtest = Qtest::new(process, stream)?;

        // QEMU connects first and makes its devices then: that it answers at all is part of starting.
        let functions =
            Function::find(&mut qtest.session(), EDU_ID).map_err(QemuError::at_start)?;
        if functions.len() != config.edus {
            let problem = format!("{} edu devices, not {}", functions.len(), config.edus);
            return Err(QemuError::Device { problem });
        }
        let mut space = AddressSpace::new();
        let edus = functions
            .into_iter()
            .map(|function| Edu::enable(&qtest, &ram, function, &mut space))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            qtest,
            memory: ram.memory(),
            edus,
        })
    }

    /// The SMMU's registers.
    #[must_use]
    pub fn bank(&self) -> QtestBank {
        QtestBank::new(self.qtest.clone(), SMMU_BASE, SMMU_SIZE)
    }

    /// The machine's RAM, for tables, queues and buffers.
    #[must_use]
    pub fn memory(&self) -> &MockMemory {
        &self.memory
    }

    /// The SMMU's registers, the RAM and the host's clock.
    #[must_use]
    pub fn platform(&self) -> QemuPlatform {
        BasicPlatform {
            bank: self.bank(),
            memory: self.memory.clone(),
            clock: SystemClock::new(),
        }
    }

    /// The DMA masters, in the order of their StreamIDs.
    #[must_use]
    pub fn edus(&self) -> &[Edu] {
        &self.edus
    }

    /// Access to every physical address of the machine, and to QEMU's process.
    #[must_use]
    pub fn qtest(&self) -> &Qtest {
        &self.qtest
    }
}

fn arguments(config: &MachineConfig, files: &Files, ram: &GuestRam) -> Vec<String> {
    let ram_path = files.ram().display().to_string();
    let mut args = vec![
        // Machines of 9.2 and later do not let the stages be chosen.
        "-machine".into(),
        "virt-9.1,iommu=smmuv3,highmem-ecam=off,memory-backend=ram0".into(),
        "-global".into(),
        format!("arm-smmuv3.stage={}", config.stage.option()),
        "-cpu".into(),
        "cortex-a57,start-powered-off=on".into(),
        // With no CPU running, virtual time jumps to the next timer, so DMA does not take 100 ms.
        "-accel".into(),
        "tcg,thread=single".into(),
        "-icount".into(),
        "shift=0,sleep=off".into(),
        "-m".into(),
        format!("{}M", RAM_SIZE >> 20),
        "-object".into(),
        format!(
            "memory-backend-file,id=ram0,size={RAM_SIZE},offset={},mem-path={ram_path},share=on",
            ram.offset()
        ),
        "-display".into(),
        "none".into(),
        "-nodefaults".into(),
    ];
    for device in (FIRST_EDU..).take(config.edus) {
        args.push("-device".into());
        args.push(format!("edu,addr={device:02x}.0,dma_mask={:#x}", u64::MAX));
    }
    args
}

impl crate::machine::Master for Edu {
    fn stream(&self) -> StreamId {
        self.stream_id()
    }

    fn write(&self, iova: Iova, bytes: &[u8]) {
        Self::write(self, iova, bytes);
    }

    fn read(&self, iova: Iova, to: &mut [u8]) {
        Self::read(self, iova, to);
    }
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
