//! Bit positions, taken from the specification once more: this test shares no table with the driver
//! or with the model.

/// Offsets of registers (6.2, 6.3).
pub(super) mod reg {
    pub(crate) const CR0: usize = 0x20;
    pub(crate) const CR0ACK: usize = 0x24;
    pub(crate) const CR1: usize = 0x28;
    pub(crate) const CR2: usize = 0x2c;
    pub(crate) const GERROR: usize = 0x60;
    pub(crate) const GERRORN: usize = 0x64;
    pub(crate) const STRTAB_BASE: usize = 0x80;
    pub(crate) const STRTAB_BASE_CFG: usize = 0x88;
    pub(crate) const CMDQ_BASE: usize = 0x90;
    pub(crate) const CMDQ_PROD: usize = 0x98;
    pub(crate) const CMDQ_CONS: usize = 0x9c;
    pub(crate) const EVENTQ_BASE: usize = 0xa0;
    pub(crate) const EVENTQ_PROD: usize = 0x1_00a8;
    pub(crate) const EVENTQ_CONS: usize = 0x1_00ac;
}

/// `CR0` (6.3.9).
pub(super) const SMMUEN: u32 = 1 << 0;
pub(super) const EVENTQEN: u32 = 1 << 2;
pub(super) const CMDQEN: u32 = 1 << 3;
/// `CR2.RECINVSID` (6.3.12).
pub(super) const RECINVSID: u32 = 1 << 1;

/// The lowest `count` bits.
pub(super) const fn mask(count: u32) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

/// Writes the bits `high` to `low` of a structure, counted from bit 0 of its first word.
pub(super) fn put(words: &mut [u64], high: u32, low: u32, value: u64) {
    let word = &mut words[(low / 64) as usize];
    let mask = mask(high - low + 1);
    *word = *word & !(mask << (low % 64)) | (value & mask) << (low % 64);
}

/// Fields of a stream table entry: highest and lowest bit (5.2).
pub(super) mod ste {
    pub(crate) const V: (u32, u32) = (0, 0);
    pub(crate) const CONFIG: (u32, u32) = (3, 1);
    pub(crate) const S1_CONTEXT_PTR: (u32, u32) = (55, 6);
    pub(crate) const S1_DSS: (u32, u32) = (65, 64);
    pub(crate) const S1_CIR: (u32, u32) = (67, 66);
    pub(crate) const S1_COR: (u32, u32) = (69, 68);
    pub(crate) const S1_CSH: (u32, u32) = (71, 70);
    pub(crate) const S1_STALLD: (u32, u32) = (91, 91);
    pub(crate) const S2_VMID: (u32, u32) = (143, 128);
    pub(crate) const S2_T0SZ: (u32, u32) = (165, 160);
    pub(crate) const S2_SL0: (u32, u32) = (167, 166);
    pub(crate) const S2_IR0: (u32, u32) = (169, 168);
    pub(crate) const S2_OR0: (u32, u32) = (171, 170);
    pub(crate) const S2_SH0: (u32, u32) = (173, 172);
    pub(crate) const S2_TG: (u32, u32) = (175, 174);
    pub(crate) const S2_PS: (u32, u32) = (178, 176);
    pub(crate) const S2_AA64: (u32, u32) = (179, 179);
    pub(crate) const S2_ENDI: (u32, u32) = (180, 180);
    pub(crate) const S2_AFFD: (u32, u32) = (181, 181);
    pub(crate) const S2_S: (u32, u32) = (185, 185);
    pub(crate) const S2_R: (u32, u32) = (186, 186);
    pub(crate) const S2_TTB: (u32, u32) = (247, 196);
}

/// Fields of a context descriptor (5.4).
pub(super) mod cd {
    pub(crate) const T0SZ: (u32, u32) = (5, 0);
    pub(crate) const TG0: (u32, u32) = (7, 6);
    pub(crate) const IR0: (u32, u32) = (9, 8);
    pub(crate) const OR0: (u32, u32) = (11, 10);
    pub(crate) const SH0: (u32, u32) = (13, 12);
    pub(crate) const EPD0: (u32, u32) = (14, 14);
    pub(crate) const ENDI: (u32, u32) = (15, 15);
    pub(crate) const T1SZ: (u32, u32) = (21, 16);
    pub(crate) const TG1: (u32, u32) = (23, 22);
    pub(crate) const EPD1: (u32, u32) = (30, 30);
    pub(crate) const V: (u32, u32) = (31, 31);
    pub(crate) const IPS: (u32, u32) = (34, 32);
    pub(crate) const AFFD: (u32, u32) = (35, 35);
    pub(crate) const TBI0: (u32, u32) = (38, 38);
    pub(crate) const TBI1: (u32, u32) = (39, 39);
    pub(crate) const AA64: (u32, u32) = (41, 41);
    pub(crate) const HA: (u32, u32) = (43, 43);
    pub(crate) const S: (u32, u32) = (44, 44);
    pub(crate) const R: (u32, u32) = (45, 45);
    pub(crate) const A: (u32, u32) = (46, 46);
    pub(crate) const ASET: (u32, u32) = (47, 47);
    pub(crate) const ASID: (u32, u32) = (63, 48);
    pub(crate) const HAD0: (u32, u32) = (65, 65);
    pub(crate) const TTB0: (u32, u32) = (119, 68);
    pub(crate) const HAD1: (u32, u32) = (129, 129);
    pub(crate) const TTB1: (u32, u32) = (183, 132);
    pub(crate) const MAIR: (u32, u32) = (255, 192);
}

/// Sets one field.
pub(super) fn set(words: &mut [u64; 8], field: (u32, u32), value: impl Into<u64>) {
    put(words, field.0, field.1, value.into());
}

/// An address in its field: the field's lowest bit is also the address's.
pub(super) fn set_address(words: &mut [u64; 8], field: (u32, u32), address: u64) {
    put(words, field.0, field.1, address >> (field.1 % 64));
}

/// `TG0` and `S2TG` of a granule, given as a power of two.
pub(super) fn low_granule(bits: u32) -> u64 {
    match bits {
        12 => 0,
        16 => 1,
        _ => 2,
    }
}

/// `TG1` of a granule.
pub(super) fn high_granule(bits: u32) -> u64 {
    match bits {
        14 => 1,
        12 => 2,
        _ => 3,
    }
}

/// The number of address bits that `IPS` or `S2PS` stands for (values to 5).
pub(super) fn size_bits(field: u8) -> u32 {
    [32, 36, 40, 42, 44, 48][usize::from(field)]
}

/// Bits of VMSAv8-64 descriptors (Arm ARM D8.3).
pub(super) mod pte {
    pub(crate) const VALID: u64 = 1 << 0;
    /// With `VALID`: a table above level 3, a page at level 3.
    pub(crate) const TABLE_OR_PAGE: u64 = 1 << 1;
    /// Stage 1, `AP[1]`: unprivileged accesses are allowed too.
    pub(crate) const AP_UNPRIVILEGED: u64 = 1 << 6;
    /// Stage 1, `AP[2]`: no writes.
    pub(crate) const AP_READ_ONLY: u64 = 1 << 7;
    /// Stage 2, `S2AP[0]` and `S2AP[1]`.
    pub(crate) const S2AP_READ: u64 = 1 << 6;
    pub(crate) const S2AP_WRITE: u64 = 1 << 7;
    pub(crate) const AF: u64 = 1 << 10;
    pub(crate) const NOT_GLOBAL: u64 = 1 << 11;
}

/// The lowest address bit that a table at `level` resolves.
pub(super) fn shift(granule: u32, level: u32) -> u32 {
    granule + (3 - level) * (granule - 3)
}

/// The level at which a stage 1 walk of this many bits starts.
pub(super) fn start_level(granule: u32, input_bits: u32) -> u32 {
    4 - (input_bits - granule).div_ceil(granule - 3)
}
