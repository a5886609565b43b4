//! Fault recording registers (11.4.7.6), and what the reasons in them mean (7.1.3).

use core::fmt;

use iommu_core::{Iova, Pasid, StreamId};

/// What a request that was refused wanted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// To write.
    Write,
    /// A page: it is a page request.
    Page,
    /// To read, or to have an address translated.
    Read,
    /// To read and write at once.
    Atomic,
}

/// A request that the hardware refused: one fault recording register.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    low: u64,
    high: u64,
}

/// Bit 63 of a record's high word: there is a fault in it; writing 1 empties it.
pub(crate) const F: u64 = 1 << 63;
const TYPE_1: u64 = 1 << 62;
const PASID_PRESENT: u64 = 1 << 31;
const EXECUTE: u64 = 1 << 30;
const PRIVILEGED: u64 = 1 << 29;
const TYPE_2: u64 = 1 << 28;

impl Fault {
    /// From the two words of a record.
    #[must_use]
    pub const fn from_words(low: u64, high: u64) -> Self {
        Self { low, high }
    }

    /// The device that made the request.
    #[must_use]
    pub const fn source(self) -> StreamId {
        StreamId((self.high & 0xffff) as u32)
    }

    /// Its PASID, where it has one.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "20 bits are masked out")]
    pub fn pasid(self) -> Option<Pasid> {
        let pasid = (self.high >> 40 & 0xf_ffff) as u32;
        (self.high & PASID_PRESENT != 0).then(|| Pasid::new(pasid).expect("20 bits"))
    }

    /// The page that it wanted to access. `None` where it is an interrupt.
    #[must_use]
    pub fn iova(self) -> Option<Iova> {
        (!self.is_interrupt()).then_some(Iova(self.low & !0xfff))
    }

    /// What it wanted.
    #[must_use]
    pub const fn access(self) -> Access {
        match (self.high & TYPE_1 != 0, self.high & TYPE_2 != 0) {
            (false, false) => Access::Write,
            (false, true) => Access::Page,
            (true, false) => Access::Read,
            (true, true) => Access::Atomic,
        }
    }

    /// Whether it wanted to execute what it reads.
    #[must_use]
    pub const fn is_execute(self) -> bool {
        self.high & EXECUTE != 0
    }

    /// Whether it was made with privileges.
    #[must_use]
    pub const fn is_privileged(self) -> bool {
        self.high & PRIVILEGED != 0
    }

    /// Why it was refused, as the architecture numbers it.
    #[must_use]
    pub const fn reason(self) -> u8 {
        (self.high >> 32 & 0xff) as u8
    }

    /// Whether an interrupt was refused, by interrupt remapping.
    #[must_use]
    pub const fn is_interrupt(self) -> bool {
        matches!(self.reason(), 0x20..=0x2f)
    }

    /// The reason in words; `None` for one that is not known here.
    #[must_use]
    pub const fn reason_name(self) -> Option<&'static str> {
        Some(match self.reason() {
            0x01 => "the root entry is not present",
            0x02 => "the context entry is not present",
            0x03 => "the context entry is invalid",
            0x04 => "the address is too large",
            0x05 => "writing is not allowed",
            0x06 => "reading is not allowed",
            0x07 => "a paging entry cannot be read",
            0x08 => "the root entry cannot be read",
            0x09 => "the context entry cannot be read",
            0x0a => "reserved bits in the root entry",
            0x0b => "reserved bits in the context entry",
            0x0c => "reserved bits in a paging entry",
            0x0d => "the context entry refuses ATS",
            0x0e => "the address is mapped to the interrupt range",
            0x20 => "reserved bits in the interrupt request",
            0x21 => "the interrupt index is too large",
            0x22 => "the interrupt remapping entry is not present",
            0x23 => "the interrupt remapping entry cannot be read",
            0x24 => "reserved bits in the interrupt remapping entry",
            0x25 => "interrupts in the compatibility format are refused",
            0x26 => "the interrupt is not this device's",
            0x27 => "the posted interrupt descriptor cannot be read",
            0x28 => "reserved bits in the posted interrupt descriptor",
            0x30 => "the root table address register is invalid",
            0x31 => "a PASID in legacy mode",
            0x32 => "a page request in legacy mode",
            0x33 => "all DMA is refused",
            0x38 => "the scalable-mode root entry cannot be read",
            0x39 => "the scalable-mode root entry is not present",
            0x3a => "reserved bits in the scalable-mode root entry",
            0x40 => "the scalable-mode context entry cannot be read",
            0x41 => "the scalable-mode context entry is not present",
            0x42 => "reserved bits in the scalable-mode context entry",
            0x43 => "the scalable-mode context entry is invalid",
            0x44 => "the scalable-mode context entry refuses ATS",
            0x45 => "the scalable-mode context entry refuses PASIDs",
            0x46 => "the PASID is beyond its directory",
            0x47 => "the scalable-mode context entry refuses page requests",
            0x48 => "the PASID is that of requests without PASID",
            0x50 => "the PASID directory entry cannot be read",
            0x51 => "the PASID directory entry is not present",
            0x52 => "reserved bits in the PASID directory entry",
            0x58 => "the PASID table entry cannot be read",
            0x59 => "the PASID table entry is not present",
            0x5a => "reserved bits in the PASID table entry",
            0x5b => "the PASID table entry is invalid",
            0x5c => "executing is not supported",
            0x5d => "privileged requests are not allowed",
            0x70 => "a first-stage entry cannot be read",
            0x71 => "a first-stage entry is not present",
            0x72 => "reserved bits in a first-stage entry",
            0x73 => "the first stage cannot be read",
            0x78 => "a second-stage entry cannot be read",
            0x79 => "a second-stage entry allows nothing",
            0x7a => "reserved bits in a second-stage entry",
            0x7b => "the second stage cannot be read",
            0x7c => "an accessed or dirty bit in a second stage that is not snooped",
            0x80 => "the address is not canonical",
            0x81 => "the page is for privileged requests",
            0x83 => "the host address is too large",
            0x84 => "the address is too large for the second stage",
            0x85 => "writing is not allowed in scalable mode",
            0x86 => "reading is not allowed in scalable mode",
            0x87 => "the address is mapped to the interrupt range in scalable mode",
            0x89 => "the PASID is larger than the hardware supports",
            0x90 => "an accessed or dirty bit in a first stage that is not snooped",
            0x91 => "an accessed or dirty bit could not be set",
            _ => return None,
        })
    }
}

/// "source 0x0010, write of 0x1000: writing is not allowed (0x05)"
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "source {:#06x}, ", self.source().0)?;
        if let Some(pasid) = self.pasid() {
            write!(f, "PASID {pasid}, ")?;
        }
        match self.iova() {
            None => write!(f, "interrupt {:#x}", self.low >> 48)?,
            Some(iova) => {
                let access = match self.access() {
                    Access::Write => "write",
                    Access::Page => "page request",
                    Access::Read if self.is_execute() => "fetch",
                    Access::Read => "read",
                    Access::Atomic => "atomic access",
                };
                let privileged = if self.is_privileged() {
                    "privileged "
                } else {
                    ""
                };
                write!(f, "{privileged}{access} of {iova}")?;
            }
        }
        let reason = self.reason_name().unwrap_or("for an unknown reason");
        write!(f, ": {reason} ({:#04x})", self.reason())
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fault({self})")
    }
}
