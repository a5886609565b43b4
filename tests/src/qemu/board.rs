//! What the machines have in common: how QEMU is started, and how its devices are found.

use std::ffi::OsStr;
use std::sync::Arc;

use mock_hw::MockMemory;

use super::bypass::Bypass;
use super::disk::{DISK_ID, Disk};
use super::edu::{EDU_ID, Edu};
use super::error::QemuError;
use super::pci::{AddressSpace, ConfigSpace, Function};
use super::process::{Files, Process, check_version};
use super::qtest::Qtest;
use super::ram::{GuestRam, RAM_SIZE};

/// The PCI device number of the first `edu`; the others follow.
const FIRST_EDU: usize = 2;

/// A disk that has as many bytes as anybody asks for, none of them kept.
const DISK: [&str; 4] = [
    "-blockdev",
    "null-co,node-name=nothing,size=1073741824",
    "-device",
    "nvme,drive=nothing,serial=0,addr=1f.0,mdts=0",
];

/// A kind of machine, as far as starting it goes.
pub(super) struct Board {
    /// The oldest version of QEMU that will do: major and minor.
    pub(super) oldest: (u32, u32),
    /// Where RAM begins.
    pub(super) ram_base: u64,
    /// Whether the IOMMU sees the CPU's caches, as it says itself.
    pub(super) coherent: bool,
    pub(super) config_space: ConfigSpace,
    /// Where addresses for devices' memory begin.
    pub(super) mmio: u32,
    pub(super) bypass: Bypass,
}

/// A machine that runs.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) qtest: Qtest,
    pub(super) memory: MockMemory,
    pub(super) edus: Vec<Edu>,
    pub(super) disk: Option<Disk>,
}

/// The devices of a machine.
#[derive(Clone, Copy)]
pub(super) struct Devices {
    /// How many `edu` devices.
    pub(super) edus: usize,
    pub(super) disk: bool,
}

impl Board {
    /// Starts QEMU with what `arguments` says of the machine (`ram0` is its memory) and these
    /// devices, and sets up PCI.
    pub(super) fn start(
        &self,
        binary: &OsStr,
        devices: Devices,
        arguments: impl FnOnce(&Files) -> Result<Vec<String>, QemuError>,
    ) -> Result<Parts, QemuError> {
        check_version(binary, self.oldest)?;
        let files = Files::new()?;
        let ram = Arc::new(GuestRam::create(&files.ram(), self.ram_base)?);
        let mut args = arguments(&files)?;
        args.extend(common_arguments(&files, &ram));
        args.extend(edu_arguments(devices.edus));
        if devices.disk {
            args.extend(DISK.map(String::from));
        }
        let (process, stream) = Process::start(binary, &args, files)?;
        let qtest = Qtest::new(process, stream)?;

        // QEMU connects first and makes its devices then: that it answers at all is part of starting.
        let edus = self.find(&qtest, EDU_ID, devices.edus)?;
        let disks = self.find(&qtest, DISK_ID, devices.disk.into())?;
        let mut space = AddressSpace::new(self.mmio);
        let edus = edus
            .into_iter()
            .map(|function| Edu::enable(&qtest, &ram, self.bypass, function, &mut space))
            .collect::<Result<_, _>>()?;
        let mut disks = disks
            .into_iter()
            .map(|function| Disk::enable(&qtest, function, &mut space));
        Ok(Parts {
            disk: disks.next().transpose()?,
            qtest,
            memory: ram.memory(self.coherent),
            edus,
        })
    }

    fn find(&self, qtest: &Qtest, id: u32, count: usize) -> Result<Vec<Function>, QemuError> {
        let functions = Function::find(&mut qtest.session(), self.config_space, id)
            .map_err(QemuError::at_start)?;
        if functions.len() != count {
            let problem = format!("{} devices {id:#x}, not {count}", functions.len());
            return Err(QemuError::Device { problem });
        }
        Ok(functions)
    }
}

fn common_arguments(files: &Files, ram: &GuestRam) -> Vec<String> {
    let ram_path = files.ram().display().to_string();
    [
        // With no CPU running, virtual time jumps to the next timer, so DMA does not take 100 ms.
        "-accel",
        "tcg,thread=single",
        "-icount",
        "shift=0,sleep=off",
        "-m",
        &format!("{}M", RAM_SIZE >> 20),
        "-object",
        &format!(
            "memory-backend-file,id=ram0,size={RAM_SIZE},offset={},mem-path={ram_path},share=on",
            ram.offset()
        ),
        "-display",
        "none",
        "-nodefaults",
    ]
    .map(String::from)
    .into()
}

fn edu_arguments(edus: usize) -> impl Iterator<Item = String> {
    let device = |number| format!("edu,addr={number:02x}.0,dma_mask={:#x}", u64::MAX);
    (FIRST_EDU..)
        .take(edus)
        .flat_map(move |number| ["-device".into(), device(number)])
}
