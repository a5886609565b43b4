//! Context descriptors (5.4).

use bitfield_struct::bitfield;
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bits 63:0.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Word0 {
    /// Bits 5:0. 64 minus the bits of an input address.
    #[bits(6)]
    pub t0sz: u8,
    /// Bits 7:6. Granule: 0 4 KiB, 1 64 KiB, 2 16 KiB.
    #[bits(2)]
    pub tg0: u8,
    /// Bits 9:8. Walks, inner: 1 write-back, read- and write-allocate.
    #[bits(2)]
    pub ir0: u8,
    /// Bits 11:10. Walks, outer.
    #[bits(2)]
    pub or0: u8,
    /// Bits 13:12. Walks, shareability: 3 inner.
    #[bits(2)]
    pub sh0: u8,
    /// Bit 14. No walks through TTB0.
    pub epd0: bool,
    /// Bit 15. Big-endian tables.
    pub endi: bool,
    #[bits(14)]
    __: u16,
    /// Bit 30. No walks through TTB1.
    pub epd1: bool,
    /// Bit 31.
    pub valid: bool,
    /// Bits 34:32. Output address size, as `SMMU_IDR5.OAS`.
    #[bits(3)]
    pub ips: u8,
    /// Bit 35. Access flag faults are off.
    pub affd: bool,
    #[bits(5)]
    __: u8,
    /// Bit 41. VMSAv8-64 tables.
    pub aa64: bool,
    #[bits(2)]
    __: u8,
    /// Bit 44. Faults stall.
    pub s: bool,
    /// Bit 45. Faults are recorded.
    pub r: bool,
    /// Bit 46. Faults abort; else they read as zero and ignore writes.
    pub a: bool,
    /// Bit 47. The ASID is not shared with CPUs' broadcast invalidation.
    pub aset: bool,
    /// Bits 63:48.
    pub asid: u16,
}

/// Bits 127:64.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Word1 {
    #[bits(4)]
    __: u8,
    /// Bits 119:68. The table's address divided by 16.
    #[bits(52)]
    pub ttb0: u64,
    __: u8,
}

/// A context descriptor.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(64))]
pub struct Cd {
    /// Bits 63:0.
    pub word0: Word0,
    /// Bits 127:64.
    pub word1: Word1,
    /// Bits 191:128: TTB1, not used here.
    pub word2: u64,
    /// Bits 255:192: memory attributes that descriptors choose from, eight of eight bits.
    pub mair: u64,
    /// Bits 511:256, not used here.
    pub rest: [u64; 4],
}
const_assert_eq!(size_of::<Cd>(), 64);
const_assert_eq!(core::mem::offset_of!(Cd, mair), 24);

impl Cd {
    /// The descriptor as words, the first first.
    #[must_use]
    pub fn to_words(self) -> [u64; 8] {
        zerocopy::transmute!(self)
    }

    /// The descriptor that these words are.
    #[must_use]
    pub fn from_words(words: [u64; 8]) -> Self {
        zerocopy::transmute!(words)
    }
}
