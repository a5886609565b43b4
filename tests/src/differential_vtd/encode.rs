//! Bit positions, taken from Linux's and QEMU's headers once more: this test shares no table with the
//! driver or with the model.

/// Offsets of registers.
pub(super) mod reg {
    pub(crate) const GCMD: usize = 0x18;
    pub(crate) const GSTS: usize = 0x1c;
    pub(crate) const RTADDR: usize = 0x20;
    pub(crate) const CCMD: usize = 0x28;
    pub(crate) const FSTS: usize = 0x34;
    pub(crate) const IQH: usize = 0x80;
    pub(crate) const IQT: usize = 0x88;
    pub(crate) const IQA: usize = 0x90;
    pub(crate) const IVA: usize = 0xf0;
    pub(crate) const IOTLB: usize = 0xf8;
    pub(crate) const FAULT: usize = 0x220;
}

/// `GCMD` and `GSTS`.
pub(super) const TE: u32 = 1 << 31;
pub(super) const SRTP: u32 = 1 << 30;
pub(super) const QIE: u32 = 1 << 26;
/// `RTADDR`: scalable mode.
pub(super) const SCALABLE: u64 = 0b01 << 10;
/// `FSTS`: overflow and pending fault.
pub(super) const PFO: u32 = 1 << 0;
pub(super) const PPF: u32 = 1 << 1;
/// `IQA`: descriptors of 256 bits.
pub(super) const WIDE: u64 = 1 << 11;

/// `CCMD` and `IOTLB`: invalidate, until it is done.
pub(super) const BUSY: u64 = 1 << 63;

/// The upper word of a fault record.
pub(super) mod fault {
    pub(crate) const F: u64 = 1 << 63;
    /// The PASID is one.
    pub(crate) const PASID_PRESENT: u64 = 1 << 31;
    pub(crate) const PASID: u64 = 0xf_ffff << 40;
    pub(crate) const REASON: u64 = 0xff << 32;

    /// The reason.
    pub(crate) fn reason(record: &[u64; 2]) -> u64 {
        record[1] >> 32 & 0xff
    }
}

/// The lowest bit of every entry but those of second-level tables.
pub(super) const PRESENT: u64 = 1 << 0;
/// Of context entries, PASID directory entries and PASID entries: faults are not recorded.
pub(super) const FAULTS_OFF: u64 = 1 << 1;

/// Second-level entries.
pub(super) mod second {
    pub(crate) const READ: u64 = 1 << 0;
    pub(crate) const WRITE: u64 = 1 << 1;
    pub(crate) const SNOOP: u64 = 1 << 11;
    pub(crate) const TRANSIENT: u64 = 1 << 62;
}

/// First-level entries.
pub(super) mod first {
    pub(crate) const WRITE: u64 = 1 << 1;
    pub(crate) const USER: u64 = 1 << 2;
    pub(crate) const ACCESSED: u64 = 1 << 5;
    pub(crate) const DIRTY: u64 = 1 << 6;
}

/// Of entries above the last level: a page, not a table. Reserved at level 4.
pub(super) const LARGE: u64 = 1 << 7;

/// The lowest `count` bits.
pub(super) const fn mask(count: u32) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

/// The lowest address bit that a table at `level` resolves; pages of 4 KiB are at level 1.
pub(super) const fn shift(level: u32) -> u32 {
    12 + (level - 1) * 9
}

/// `AW` of tables with this many levels.
pub(super) fn width(levels: u32) -> u64 {
    u64::from(levels) - 2
}
