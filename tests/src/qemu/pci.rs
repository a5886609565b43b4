//! Just enough PCI to find a device and give it addresses.

use super::error::QemuError;
use super::qtest::{Access, Session, low};

/// The I/O ports of configuration space: what is accessed, and the data.
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const CONFIG_ENABLE: u32 = 1 << 31;

const ID: u8 = 0x00;
const COMMAND: u8 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_MASTER: u32 = 1 << 2;
const BAR0: u8 = 0x10;
/// The low bits of a memory BAR, which are not part of the address.
const BAR_FLAGS: u32 = 0xf;

/// Where the configuration space of bus 0 is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ConfigSpace {
    /// In memory, from this address on.
    Memory(u64),
    /// Behind the I/O ports of a PC.
    Ports,
}

/// Function 0 of a device on bus 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Function {
    space: ConfigSpace,
    device: u8,
}

impl Function {
    /// All functions 0 on bus 0 with these ids: device in the upper half, vendor in the lower.
    pub(super) fn find(
        session: &mut Session<'_>,
        space: ConfigSpace,
        id: u32,
    ) -> Result<Vec<Self>, QemuError> {
        let mut found = Vec::new();
        for device in 0..32 {
            let function = Self { space, device };
            if function.read(session, ID)? == id {
                found.push(function);
            }
        }
        Ok(found)
    }

    /// Bus, device and function as one number: the function's StreamID or source id.
    pub(super) fn bdf(self) -> u32 {
        u32::from(self.device) << 3
    }

    fn read(self, session: &mut Session<'_>, register: u8) -> Result<u32, QemuError> {
        let value = match self.space {
            ConfigSpace::Memory(base) => {
                session.access(Access::ReadL(self.address(base, register)))?
            }
            ConfigSpace::Ports => {
                let select = Access::OutL(CONFIG_ADDRESS, self.selector(register));
                session.batch([select, Access::InL(CONFIG_DATA)])?[1]
            }
        };
        Ok(low(value))
    }

    fn write(self, session: &mut Session<'_>, register: u8, value: u32) -> Result<(), QemuError> {
        match self.space {
            ConfigSpace::Memory(base) => session
                .access(Access::WriteL(self.address(base, register), value))
                .map(drop),
            ConfigSpace::Ports => {
                let select = Access::OutL(CONFIG_ADDRESS, self.selector(register));
                session
                    .batch([select, Access::OutL(CONFIG_DATA, value)])
                    .map(drop)
            }
        }
    }

    fn address(self, base: u64, register: u8) -> u64 {
        base + (u64::from(self.bdf()) << 12) + u64::from(register)
    }

    fn selector(self, register: u8) -> u32 {
        CONFIG_ENABLE | self.bdf() << 8 | u32::from(register)
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
    pub(super) fn new(start: u32) -> Self {
        Self { next: start }
    }

    /// `size` bytes, a power of two, aligned to it.
    fn take(&mut self, size: u32) -> u32 {
        let start = self.next.next_multiple_of(size.max(1));
        self.next = start + size;
        start
    }
}
