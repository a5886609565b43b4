//! Stream table entries (5.2) and level-1 stream table descriptors (5.1).

use core::fmt;

use bitfield_struct::bitfield;
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `STE.Config` (5.2): what happens to a stream. Values that are not named are reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config(pub u8);

impl Config {
    /// Terminate, without an event.
    pub const ABORT: Self = Self(0b000);
    /// Pass untranslated.
    pub const BYPASS: Self = Self(0b100);
    /// Stage 1.
    pub const STAGE1: Self = Self(0b101);
    /// Stage 2.
    pub const STAGE2: Self = Self(0b110);
    /// Both stages.
    pub const NESTED: Self = Self(0b111);

    /// Whether traffic is terminated: any value with the top bit clear (5.2).
    #[must_use]
    pub const fn aborts(self) -> bool {
        self.0 & 0b100 == 0
    }

    /// Whether stage 1 translates.
    #[must_use]
    pub const fn has_stage1(self) -> bool {
        self.0 & 0b101 == 0b101
    }

    /// Whether stage 2 translates.
    #[must_use]
    pub const fn has_stage2(self) -> bool {
        self.0 & 0b110 == 0b110
    }

    const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    const fn into_bits(self) -> u8 {
        self.0
    }
}

/// Bits 63:0.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Word0 {
    /// Bit 0.
    pub valid: bool,
    /// Bits 3:1.
    #[bits(3)]
    pub config: Config,
    /// Bits 5:4. The CD table: 0 linear, 1 two levels of 4 KiB, 2 two levels of 64 KiB.
    #[bits(2)]
    pub s1_fmt: u8,
    /// Bits 55:6. The CD table's address divided by 64.
    #[bits(50)]
    pub s1_context_ptr: u64,
    #[bits(3)]
    __: u8,
    /// Bits 63:59. log2 of the number of CDs.
    #[bits(5)]
    pub s1_cd_max: u8,
}

/// Bits 127:64.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Word1 {
    /// Bits 65:64. Traffic without SubstreamID: 0 terminate, 1 bypass, 2 use CD 0.
    #[bits(2)]
    pub s1_dss: u8,
    /// Bits 67:66. CD fetches, inner: 0 non-cacheable, 1 write-back, read- and write-allocate, 2
    /// write-through, 3 write-back, no write-allocate.
    #[bits(2)]
    pub s1_cir: u8,
    /// Bits 69:68. CD fetches, outer, as `s1_cir`.
    #[bits(2)]
    pub s1_cor: u8,
    /// Bits 71:70. CD fetches, shareability: 0 none, 2 outer, 3 inner.
    #[bits(2)]
    pub s1_csh: u8,
    #[bits(11)]
    __: u16,
    /// Bit 83. Events of the stream may be merged.
    pub mev: bool,
    #[bits(7)]
    __: u8,
    /// Bit 91. Stage-1 stalls are not allowed.
    pub s1_stalld: bool,
    /// Bits 93:92. ATS: 0 refused, 1 full, 2 split-stage.
    #[bits(2)]
    pub eats: u8,
    /// Bits 95:94. StreamWorld: 0 EL1, 2 EL2.
    #[bits(2)]
    pub strw: u8,
    #[bits(12)]
    __: u16,
    /// Bits 109:108. Shareability: 0 none, 1 as it came in, 2 outer, 3 inner.
    #[bits(2)]
    pub shcfg: u8,
    #[bits(18)]
    __: u32,
}

/// Bits 191:128.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Word2 {
    /// Bits 143:128.
    pub s2_vmid: u16,
    __: u16,
    /// Bits 165:160. 64 minus the bits of an input address.
    #[bits(6)]
    pub s2_t0sz: u8,
    /// Bits 167:166. Start level with 4 KiB granule: 0 level 2, 1 level 1, 2 level 0.
    #[bits(2)]
    pub s2_sl0: u8,
    /// Bits 169:168. Walks, inner: 1 write-back, read- and write-allocate.
    #[bits(2)]
    pub s2_ir0: u8,
    /// Bits 171:170. Walks, outer.
    #[bits(2)]
    pub s2_or0: u8,
    /// Bits 173:172. Walks, shareability: 3 inner.
    #[bits(2)]
    pub s2_sh0: u8,
    /// Bits 175:174. Granule: 0 4 KiB, 1 64 KiB, 2 16 KiB.
    #[bits(2)]
    pub s2_tg: u8,
    /// Bits 178:176. Output address size, as `SMMU_IDR5.OAS`.
    #[bits(3)]
    pub s2_ps: u8,
    /// Bit 179. VMSAv8-64 tables.
    pub s2_aa64: bool,
    /// Bit 180. Big-endian tables.
    pub s2_endi: bool,
    /// Bit 181. Access flag faults are off.
    pub s2_affd: bool,
    /// Bit 182. Stage-1 walks must not go to device memory.
    pub s2_ptw: bool,
    #[bits(2)]
    __: u8,
    /// Bit 185. Faults stall.
    pub s2_s: bool,
    /// Bit 186. Faults are recorded.
    pub s2_r: bool,
    #[bits(5)]
    __: u8,
}

/// Bits 255:192.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Word3 {
    #[bits(4)]
    __: u8,
    /// Bits 247:196. The stage-2 table's address divided by 16.
    #[bits(52)]
    pub s2_ttb: u64,
    __: u8,
}

/// A stream table entry.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct Ste {
    /// Bits 63:0.
    pub word0: Word0,
    /// Bits 127:64.
    pub word1: Word1,
    /// Bits 191:128.
    pub word2: Word2,
    /// Bits 255:192.
    pub word3: Word3,
    /// Bits 511:256, not used here.
    pub rest: [u64; 4],
}
const_assert_eq!(size_of::<Ste>(), 64);
const_assert_eq!(core::mem::offset_of!(Ste, word3), 24);

/// The number of 64-bit words in an entry.
pub const WORDS: usize = 8;

impl Ste {
    /// `EATS`: full ATS (5.2).
    pub const FULL_ATS: u8 = 1;

    /// The entry as words, the first first.
    #[must_use]
    pub fn to_words(self) -> [u64; WORDS] {
        zerocopy::transmute!(self)
    }

    /// The entry that these words are.
    #[must_use]
    pub fn from_words(words: [u64; WORDS]) -> Self {
        zerocopy::transmute!(words)
    }
}

impl fmt::Display for Ste {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            word0,
            word1,
            word2,
            word3,
            ..
        } = self;
        if !word0.valid() {
            return f.write_str("invalid");
        }
        let config = word0.config();
        match config {
            _ if config.aborts() => return f.write_str("abort"),
            Config::BYPASS => return f.write_str("bypass"),
            Config::STAGE1 | Config::STAGE2 | Config::NESTED => {}
            Config(reserved) => return write!(f, "reserved configuration {reserved:#b}"),
        }
        if config != Config::STAGE2 {
            write!(f, "stage 1, CD at {:#x}", word0.s1_context_ptr() << 6)?;
            if word0.s1_cd_max() > 0 {
                write!(f, ", 2^{} CDs, DSS {}", word0.s1_cd_max(), word1.s1_dss())?;
            }
        }
        if config != Config::STAGE1 {
            write!(
                f,
                "{}stage 2, VMID {}, table at {:#x}, {} input bits",
                if config == Config::NESTED { "; " } else { "" },
                word2.s2_vmid(),
                word3.s2_ttb() << 4,
                64 - u32::from(word2.s2_t0sz()),
            )?;
        }
        match word1.eats() {
            0 => Ok(()),
            eats => write!(f, ", ATS {eats}"),
        }
    }
}

impl fmt::Debug for Ste {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ste({self}; {:x?})", self.to_words())
    }
}

/// A level-1 stream table descriptor (5.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct L1Std {
    /// Bits 4:0. 0: not valid; n: 2^(n-1) entries at the address.
    #[bits(5)]
    pub span: u8,
    __: bool,
    /// Bits 55:6. The level-2 table's address divided by 64.
    #[bits(50)]
    pub l2_ptr: u64,
    __: u8,
}
const_assert_eq!(size_of::<L1Std>(), 8);
