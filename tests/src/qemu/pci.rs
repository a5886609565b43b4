//! Just enough PCI to find a device and give it addresses.

use super::error::QemuError;
use super::qtest::{Access, Session, low};

/// The configuration space of bus 0 on the `virt` machine with `highmem-ecam=off`.
const ECAM: u64 = 0x3f00_0000;
/// Where addresses for devices' memory begin.
const MMIO: u64 = 0x1000_0000;

const ID: u64 = 0x00;
const COMMAND: u64 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_MASTER: u32 = 1 << 2;
const BAR0: u64 = 0x10;
/// The low bits of a memory BAR, which are not part of the address.
const BAR_FLAGS: u32 = 0xf;

/// Function 0 of a device on bus 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Function {
    device: u8,
}

impl Function {
    /// All functions 0 on bus 0 with these ids: device in the upper half, vendor in the lower.
    pub(super) fn find(session: &mut Session<'_>, id: u32) -> Result<Vec<Self>, QemuError> {
        let mut found = Vec::new();
        for device in 0..32 {
            let function = Self { device };
            if function.read(session, ID)? == id {
                found.push(function);
            }
        }
        Ok(found)
    }

    /// Bus, device and function as one number: the function's StreamID.
    pub(super) fn bdf(self) -> u32 {
        u32::from(self.device) << 3
    }

    fn read(self, session: &mut Session<'_>, register: u64) -> Result<u32, QemuError> {
        session
            .access(Access::ReadL(self.config(register)))
            .map(low)
    }

    fn write(self, session: &mut Session<'_>, register: u64, value: u32) -> Result<(), QemuError> {
        session
            .access(Access::WriteL(self.config(register), value))
            .map(drop)
    }

    fn config(self, register: u64) -> u64 {
        ECAM + (u64::from(self.bdf()) << 12) + register
    }

    /// Gives the function's 32-bit memory BAR 0 an address from `space`, and lets the function
    /// answer there and do DMA.
    pub(super) fn enable(
        self,
        session: &mut Session<'_>,
        space: &mut AddressSpace,
    ) -> Result<u64, QemuError> {
        self.write(session, BAR0, u32::MAX)?;
        let size = (!(self.read(session, BAR0)? & !BAR_FLAGS)).wrapping_add(1);
        let bar = space.take(size);
        self.write(session, BAR0, bar)?;
        self.write(session, COMMAND, COMMAND_MEMORY | COMMAND_MASTER)?;
        Ok(u64::from(bar))
    }
}

/// Addresses for devices' memory, each given once.
#[derive(Debug)]
pub(super) struct AddressSpace {
    next: u32,
}

impl AddressSpace {
    pub(super) fn new() -> Self {
        Self { next: low(MMIO) }
    }

    /// `size` bytes, a power of two, aligned to it.
    fn take(&mut self, size: u32) -> u32 {
        let start = self.next.next_multiple_of(size.max(1));
        self.next = start + size;
        start
    }
}
