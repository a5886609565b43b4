//! A PC with a VT-d: QEMU's `q35` and `intel-iommu`.

use std::ffi::OsString;
use std::fs;

use iommu_core::BasicPlatform;
use mock_hw::MockMemory;

use super::QemuPlatform;
use super::bank::QtestBank;
use super::board::{Board, Devices, Parts};
use super::bypass::Bypass;
use super::edu::Edu;
use super::error::QemuError;
use super::pci::ConfigSpace;
use super::process::Files;
use super::qtest::Qtest;
use crate::clock::SystemClock;

/// Where the VT-d's registers begin on the `q35` machine.
pub const VTD_BASE: u64 = 0xfed9_0000;
/// The number of bytes of its registers.
pub const VTD_SIZE: usize = 0x1000;

const BOARD: Board = Board {
    // The first with first-level translation.
    oldest: (10, 0),
    ram_base: 0,
    // ECAP.C is 0, though QEMU reads memory as it is.
    coherent: false,
    config_space: ConfigSpace::Ports,
    mmio: 0xe000_0000,
    bypass: Bypass::Vtd,
};

/// 64-bit words of registers that are two of 32 bits each. QEMU aborts on 64-bit writes to some of
/// them, and does not act on others.
const PAIRS: &[usize] = &[0x18, 0x30, 0x38, 0x40, 0x60, 0x68, 0x98, 0xa0, 0xa8];

/// What `q35` machine to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Q35Config {
    /// `x-scalable-mode`: scalable-mode tables are supported beside legacy ones.
    pub scalable: bool,
    /// `x-flts`: scalable mode has first-level translation, and no second-level translation.
    /// Only with [`scalable`](Self::scalable).
    pub first_level: bool,
    /// `x-pasid-mode`: `ECAP.PASID`. Only with [`scalable`](Self::scalable).
    pub pasid: bool,
    /// `caching-mode`: `CAP.CM`.
    pub caching_mode: bool,
    /// `pt`: `ECAP.PT`.
    pub pass_through: bool,
    /// `aw-bits`, 39 or 48: the width of addresses, of devices and of the host.
    pub aw_bits: u8,
    /// The number of `edu` devices, 29 at most. Their source ids are 0x10, 0x18, 0x20 and so on.
    pub edus: usize,
    /// The program: a name to look for in `PATH`, or a path.
    pub binary: OsString,
}

impl Default for Q35Config {
    /// Legacy mode with pass-through, 48 bits, one device, `qemu-system-x86_64`.
    fn default() -> Self {
        Self {
            scalable: false,
            first_level: false,
            pasid: false,
            caching_mode: false,
            pass_through: true,
            aw_bits: 48,
            edus: 1,
            binary: "qemu-system-x86_64".into(),
        }
    }
}

/// A PC (`q35`) with a VT-d in QEMU, whose CPU is halted: the test process is its CPU.
///
/// Its VT-d is as after reset, translation off and without interrupt remapping. QEMU runs until the
/// machine and everything it gave out (banks, devices) is dropped, so that a driver may outlive this
/// value; then the process is gone and its files are removed.
///
/// The VT-d says that it does not see the CPU's caches (`ECAP.C` = 0), and so does
/// [`memory`](Self::memory): a driver has to clean what it stores. QEMU itself reads memory as it is,
/// so whether that was done shows in [`MockMemory::cleaned`] alone.
#[derive(Debug)]
pub struct Q35(Parts);

impl Q35 {
    /// Starts QEMU and sets up PCI. Takes a fifth of a second.
    ///
    /// # Errors
    ///
    /// [`QemuError`]; nothing is left behind.
    pub fn start(config: &Q35Config) -> Result<Self, QemuError> {
        let devices = Devices {
            edus: config.edus,
            disk: false,
        };
        BOARD
            .start(&config.binary, devices, |files| arguments(config, files))
            .map(Self)
    }

    /// The VT-d's registers. 64-bit writes to registers of 32 bits arrive as two, the lower first.
    #[must_use]
    pub fn bank(&self) -> QtestBank {
        QtestBank::new(self.0.qtest.clone(), VTD_BASE, VTD_SIZE).with_pairs(PAIRS)
    }

    /// The machine's RAM above 2 MiB, for tables, queues and buffers.
    #[must_use]
    pub fn memory(&self) -> &MockMemory {
        &self.0.memory
    }

    /// The VT-d's registers, the RAM and the host's clock.
    #[must_use]
    pub fn platform(&self) -> QemuPlatform {
        BasicPlatform {
            bank: self.bank(),
            memory: self.0.memory.clone(),
            clock: SystemClock::new(),
        }
    }

    /// The DMA masters, in the order of their source ids.
    #[must_use]
    pub fn edus(&self) -> &[Edu] {
        &self.0.edus
    }

    /// Access to every physical address and I/O port of the machine, and to QEMU's process.
    #[must_use]
    pub fn qtest(&self) -> &Qtest {
        &self.0.qtest
    }
}

/// Firmware that does nothing: `cli; hlt; jmp` back to `hlt`, at the address where a PC's CPU starts.
const HALT: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfc];
const FIRMWARE_SIZE: usize = 0x1_0000;
const RESET_VECTOR: usize = 0xfff0;

fn arguments(config: &Q35Config, files: &Files) -> Result<Vec<String>, QemuError> {
    let firmware_path = files.path().join("firmware");
    let mut firmware = vec![0; FIRMWARE_SIZE];
    firmware[RESET_VECTOR..RESET_VECTOR + HALT.len()].copy_from_slice(&HALT);
    fs::write(&firmware_path, firmware).map_err(QemuError::host("writing firmware"))?;

    let mut vtd = format!("intel-iommu,intremap=off,aw-bits={}", config.aw_bits);
    for (option, on) in [
        ("pt", config.pass_through),
        ("caching-mode", config.caching_mode),
        ("x-scalable-mode", config.scalable),
        ("x-flts", config.first_level),
        ("x-pasid-mode", config.pasid),
    ] {
        vtd += &format!(",{option}={}", if on { "on" } else { "off" });
    }
    let arguments = [
        "-machine",
        "q35,pit=off,hpet=off,smm=off,memory-backend=ram0",
        "-bios",
        &firmware_path.display().to_string(),
        // Before the devices behind it.
        "-device",
        &vtd,
    ];
    Ok(arguments.map(String::from).into())
}

impl crate::machine::Machine for Q35 {
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
