//! The tables of scalable mode: a root table with two context tables for each bus, and for each
//! device a directory of tables of PASIDs (9.2, 9.4 to 9.6).

use bitfield_struct::bitfield;
use iommu_core::PhysAddr;
use static_assertions::const_assert_eq;

use super::AddressWidth;

/// The number of words of a scalable-mode context entry.
pub const CONTEXT_WORDS: usize = 4;
/// The number of words of a PASID table entry.
pub const PASID_WORDS: usize = 8;
/// The number of entries of a PASID table, and so of PASIDs of one directory entry.
pub const TABLE_PASIDS: u32 = 64;

/// The low word of a scalable-mode context entry. Where `p` is clear, hardware looks at nothing else
/// but `fpd`.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ScalableContextLow {
    /// Bit 0: the entry is valid. Without it every request is refused.
    pub p: bool,
    /// Bit 1: do not record faults.
    pub fpd: bool,
    /// Bit 2: ATS is answered.
    pub dte: bool,
    /// Bit 3: requests with PASID are translated.
    pub paside: bool,
    /// Bit 4: page requests are taken.
    pub pre: bool,
    #[bits(4)]
    __: u8,
    /// Bits 11:9: the directory has 2^(7 + this many) entries.
    #[bits(3)]
    pub pdts: u8,
    /// Bits 63:12: the directory's address, in units of 4 KiB.
    #[bits(52)]
    pub pasiddirptr: u64,
}

/// The second word of a scalable-mode context entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ScalableContextHigh {
    /// Bits 19:0: the PASID that requests without PASID are translated by.
    #[bits(20)]
    pub rid_pasid: u32,
    /// Bit 20: requests without PASID are privileged.
    pub rid_priv: bool,
    #[bits(43)]
    __: u64,
}

/// An entry of a PASID directory.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Bit 0: there is a table.
    pub p: bool,
    /// Bit 1: do not record faults.
    pub fpd: bool,
    #[bits(10)]
    __: u16,
    /// Bits 63:12: the table's address, in units of 4 KiB.
    #[bits(52)]
    pub smptblptr: u64,
}

impl DirectoryEntry {
    /// The entry of 64 PASIDs whose table is at `table`, a multiple of 4 KiB.
    #[must_use]
    pub const fn pointing_to(table: PhysAddr) -> Self {
        Self::new().with_p(true).with_smptblptr(table.0 >> 12)
    }
}

/// How requests with a PASID are translated: 3 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pgtt(u8);

impl Pgtt {
    /// By the first stage.
    pub const FIRST_STAGE: Self = Self(1);
    /// By the second stage.
    pub const SECOND_STAGE: Self = Self(2);
    /// By the first stage, nested in the second.
    pub const NESTED: Self = Self(3);
    /// Not at all: they pass as they are. Needs ECAP.PT.
    pub const PASS_THROUGH: Self = Self(4);

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

/// Word 0 of a PASID table entry. Where `p` is clear, hardware looks at nothing else but `fpd`.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PasidWord0 {
    /// Bit 0: the entry is valid. Without it every request is refused.
    pub p: bool,
    /// Bit 1: do not record faults.
    pub fpd: bool,
    /// Bits 4:2: the second stage's depth; in pass-through, the greatest that the hardware has.
    #[bits(3)]
    pub aw: AddressWidth,
    #[bits(1)]
    __: u8,
    /// Bits 8:6: how requests are translated.
    #[bits(3)]
    pub pgtt: Pgtt,
    /// Bit 9: accessed and dirty bits in the second stage.
    pub ssade: bool,
    #[bits(2)]
    __: u8,
    /// Bits 63:12: the second stage's address, in units of 4 KiB.
    #[bits(52)]
    pub ssptptr: u64,
}

/// Word 1 of a PASID table entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PasidWord1 {
    /// Bits 15:0: the domain id that cached translations are tagged with.
    pub did: u16,
    #[bits(7)]
    __: u8,
    /// Bit 23: walks see the CPU's caches. Needs ECAP.SMPWC.
    pub pwsnp: bool,
    /// Bit 24: translated requests snoop, whatever the device says.
    pub pgsnp: bool,
    #[bits(39)]
    __: u64,
}

/// Word 2 of a PASID table entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PasidWord2 {
    /// Bit 0: privileged requests are allowed.
    pub sre: bool,
    #[bits(1)]
    __: u8,
    /// Bits 3:2: the first stage's depth: 0 is 4 levels, 1 is 5.
    #[bits(2)]
    pub fspm: u8,
    /// Bit 4: privileged requests obey write protection too.
    pub wpe: bool,
    #[bits(7)]
    __: u8,
    /// Bits 63:12: the first stage's address, in units of 4 KiB.
    #[bits(52)]
    pub fsptptr: u64,
}

/// A PASID table entry, without its last five words, which are zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PasidEntry {
    /// Bits 63:0.
    pub word0: PasidWord0,
    /// Bits 127:64.
    pub word1: PasidWord1,
    /// Bits 191:128.
    pub word2: PasidWord2,
}

const_assert_eq!(TABLE_PASIDS as usize * PASID_WORDS * 8, super::TABLE_SIZE);
const_assert_eq!(128 * CONTEXT_WORDS * 8, super::TABLE_SIZE);

impl PasidEntry {
    /// The entry whose requests pass untranslated.
    #[must_use]
    pub const fn pass_through(aw: AddressWidth, did: u16) -> Self {
        Self {
            word0: PasidWord0::new()
                .with_p(true)
                .with_aw(aw)
                .with_pgtt(Pgtt::PASS_THROUGH),
            word1: PasidWord1::new().with_did(did),
            word2: PasidWord2::new(),
        }
    }

    /// The entry translated by the second stage at `table`, a multiple of 4 KiB, of this depth.
    #[must_use]
    pub const fn second_stage(table: PhysAddr, aw: AddressWidth, did: u16) -> Self {
        Self {
            word0: PasidWord0::new()
                .with_p(true)
                .with_aw(aw)
                .with_pgtt(Pgtt::SECOND_STAGE)
                .with_ssptptr(table.0 >> 12),
            word1: PasidWord1::new().with_did(did),
            word2: PasidWord2::new(),
        }
    }

    /// The entry translated by the first stage at `table`, a multiple of 4 KiB, of 4 levels.
    #[must_use]
    pub const fn first_stage(table: PhysAddr, did: u16) -> Self {
        Self {
            // Hardware ignores it, or reserves it where it has no second stage (9.6, AW); QEMU 10.0
            // has none, and refuses all but small addresses without it.
            word0: PasidWord0::new()
                .with_p(true)
                .with_aw(AddressWidth::BITS_48)
                .with_pgtt(Pgtt::FIRST_STAGE),
            word1: PasidWord1::new().with_did(did),
            word2: PasidWord2::new().with_fsptptr(table.0 >> 12),
        }
    }

    /// From the words in memory, of which the last five do not count.
    #[must_use]
    pub const fn from_words([word0, word1, word2, ..]: [u64; PASID_WORDS]) -> Self {
        Self {
            word0: PasidWord0::from_bits(word0),
            word1: PasidWord1::from_bits(word1),
            word2: PasidWord2::from_bits(word2),
        }
    }

    /// The words in memory.
    #[must_use]
    pub const fn to_words(self) -> [u64; PASID_WORDS] {
        let [word0, word1, word2] = [
            self.word0.into_bits(),
            self.word1.into_bits(),
            self.word2.into_bits(),
        ];
        [word0, word1, word2, 0, 0, 0, 0, 0]
    }
}

/// The words of the scalable-mode context entry of a device whose PASID directory of 128 entries is
/// at `directory`, a multiple of 4 KiB. Requests without PASID are translated by PASID 0, those
/// with one where `pasids` says so.
#[must_use]
pub const fn scalable_context(directory: PhysAddr, pasids: bool) -> [u64; CONTEXT_WORDS] {
    let low = ScalableContextLow::new()
        .with_p(true)
        .with_paside(pasids)
        .with_pasiddirptr(directory.0 >> 12);
    [
        low.into_bits(),
        ScalableContextHigh::new().into_bits(),
        0,
        0,
    ]
}
