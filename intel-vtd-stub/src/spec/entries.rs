//! The tables of legacy mode: a root table with an entry for each bus, a context table of each bus
//! with an entry for each device and function (9.1, 9.3).

use bitfield_struct::bitfield;
use iommu_core::{Culprit, Error, ErrorKind, PhysAddr, StreamId};
use static_assertions::const_assert_eq;

/// The bytes in a root table and in a context table: 256 entries of 16.
pub(crate) const TABLE_SIZE: usize = 4096;

/// The number of words of a root entry and of a context entry.
pub const CONTEXT_ENTRY_WORDS: usize = 2;

/// A source id: 8 bits of bus, 5 of device, 3 of function.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SourceId(u16);

impl SourceId {
    /// The 16 bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The bus: an index into the root table.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Device and function: an index into the bus's context table.
    #[must_use]
    pub const fn devfn(self) -> u8 {
        self.0.to_be_bytes()[1]
    }
}

impl TryFrom<StreamId> for SourceId {
    type Error = Error;

    fn try_from(stream: StreamId) -> Result<Self, Error> {
        match u16::try_from(stream.0) {
            Ok(id) => Ok(Self(id)),
            Err(_) => Err(Error::new(ErrorKind::OutOfRange, "a source id has 16 bits")
                .of(Culprit::Stream(stream))),
        }
    }
}

/// A word of a root entry: in legacy mode the low one, the high one being reserved; in scalable mode
/// the low one is for devices 0 to 15, the high one for devices 16 to 31 (9.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RootWord {
    /// Bit 0: the bus has a context table.
    pub p: bool,
    #[bits(11)]
    __: u16,
    /// Bits 63:12: the context table's address, in units of 4 KiB.
    #[bits(52)]
    pub ctp: u64,
}

impl RootWord {
    /// The entry of a bus whose context table is at `table`, a multiple of 4 KiB.
    #[must_use]
    pub const fn pointing_to(table: PhysAddr) -> Self {
        Self::new().with_p(true).with_ctp(table.0 >> 12)
    }
}

/// What becomes of a device's requests: 2 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TranslationType(u8);

impl TranslationType {
    /// Untranslated requests are translated; ATS is refused.
    pub const TRANSLATE: Self = Self(0);
    /// As [`TRANSLATE`](Self::TRANSLATE), and ATS is answered.
    pub const TRANSLATE_ATS: Self = Self(1);
    /// Untranslated requests pass as they are; ATS is refused. Needs ECAP.PT.
    pub const PASS_THROUGH: Self = Self(2);

    /// From the 2 bits of the field.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0b11)
    }

    /// The 2 bits of the field.
    #[must_use]
    pub const fn into_bits(self) -> u8 {
        self.0
    }
}

/// The depth of page tables: 3 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressWidth(u8);

impl AddressWidth {
    /// None: where the field is reserved.
    pub const NONE: Self = Self(0);
    /// 39 bits of input, 3 levels.
    pub const BITS_39: Self = Self(1);
    /// 48 bits of input, 4 levels.
    pub const BITS_48: Self = Self(2);
    /// 57 bits of input, 5 levels.
    pub const BITS_57: Self = Self(3);

    /// From the 3 bits of the field.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0b111)
    }

    /// The 3 bits of the field.
    #[must_use]
    pub const fn into_bits(self) -> u8 {
        self.0
    }
}

/// The low word of a context entry. Where `p` is clear, hardware looks at nothing else but `fpd`.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextLow {
    /// Bit 0: the entry is valid. Without it every request is refused.
    pub p: bool,
    /// Bit 1: do not record faults.
    pub fpd: bool,
    /// Bits 3:2: what becomes of requests.
    #[bits(2)]
    pub tt: TranslationType,
    #[bits(8)]
    __: u8,
    /// Bits 63:12: the page table's address, in units of 4 KiB; ignored in pass-through.
    #[bits(52)]
    pub asr: u64,
}

/// The high word of a context entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextHigh {
    /// Bits 2:0: the page table's depth; in pass-through, the greatest that the hardware has.
    #[bits(3)]
    pub aw: AddressWidth,
    #[bits(5)]
    __: u8,
    /// Bits 23:8: the domain id that cached translations are tagged with.
    pub did: u16,
    #[bits(40)]
    __: u64,
}

/// A context entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContextEntry {
    /// Bits 63:0.
    pub low: ContextLow,
    /// Bits 127:64.
    pub high: ContextHigh,
}
const_assert_eq!(256 * CONTEXT_ENTRY_WORDS * 8, TABLE_SIZE);

impl ContextEntry {
    /// The entry of a device whose requests pass untranslated.
    #[must_use]
    pub const fn pass_through(aw: AddressWidth, did: u16) -> Self {
        Self {
            low: ContextLow::new()
                .with_p(true)
                .with_tt(TranslationType::PASS_THROUGH),
            high: ContextHigh::new().with_aw(aw).with_did(did),
        }
    }

    /// The entry of a device whose requests are translated by the page table at `table`, a multiple
    /// of 4 KiB, of this depth.
    #[must_use]
    pub const fn translating(table: PhysAddr, aw: AddressWidth, did: u16) -> Self {
        Self {
            low: ContextLow::new().with_p(true).with_asr(table.0 >> 12),
            high: ContextHigh::new().with_aw(aw).with_did(did),
        }
    }

    /// From the words in memory.
    #[must_use]
    pub const fn from_words([low, high]: [u64; CONTEXT_ENTRY_WORDS]) -> Self {
        Self {
            low: ContextLow::from_bits(low),
            high: ContextHigh::from_bits(high),
        }
    }

    /// The words in memory.
    #[must_use]
    pub const fn to_words(self) -> [u64; CONTEXT_ENTRY_WORDS] {
        [self.low.into_bits(), self.high.into_bits()]
    }
}
