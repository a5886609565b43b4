//! Which bits mean something (5.2, 5.4): all others are cleared, so that entries which mean the same
//! become equal.

use super::super::bits::bit;
use super::super::config::{Context, Stage2};
use super::super::settings::ModelConfig;

/// The bits `high` to `low` of a structure, in the word that they are in.
const fn bits(high: u32, low: u32) -> u64 {
    (u64::MAX >> (63 - (high - low))) << (low % 64)
}

const fn when(condition: bool, bits: u64) -> u64 {
    if condition { bits } else { 0 }
}

/// The fields of a context descriptor that a TLB may have cached (5.4.1): all but V, A, R, S, PARTID,
/// PMG and what is IMPLEMENTATION DEFINED. ASET and ASID are the tag.
pub(super) const STAGE1_CACHED: [u64; 8] = {
    let low = !(bits(31, 31) | bits(46, 44) | bits(47, 47) | bits(63, 48));
    // HWU0 and HWU1 are not among them.
    let (first, second) = (!bits(127, 124), !bits(191, 188));
    [
        low,
        first,
        second,
        u64::MAX,
        u64::MAX,
        0,
        u64::MAX,
        u64::MAX,
    ]
};

/// The same of what [`stage2`] gives (5.2.1). S2VMID is the tag; S2PTW counts where it is not IGNORED.
pub(super) const STAGE2_CACHED: [u64; 5] = {
    let control = !(bits(143, 128) | PROTECTED_WALK | bits(186, 185));
    [bits(89, 89), control, u64::MAX, u64::MAX, u64::MAX]
};

/// S2PTW, in the second word of [`stage2`].
pub(super) const PROTECTED_WALK: u64 = bits(182, 182);

/// S2VMID there.
pub(super) const VMID: u64 = bits(143, 128);

/// What of a stream table entry holds whatever its translations are: words 1, 2, 4 and 5.
///
/// MEV and CONT are hints and PPAR is about page requests; they are not looked at.
pub(super) fn attributes(
    ids: &ModelConfig,
    ste: &[u64; 8],
    (one, two): (bool, bool),
    eats: u8,
) -> [u64; 4] {
    let (types, permissions) = (ids.idr1 & 1 << 27 != 0, ids.idr1 & 1 << 26 != 0);
    let mpam = ids.idr3_bit(7);
    let machine = one && two && mpam && bit(ste, 90);
    let first = bits(127, 116)
        // MTCFG, ALLOCCFG; MemAttr.
        | when(types, bits(104, 100))
        | when(types && bit(ste, 100), bits(99, 96))
        // SHCFG: shareability is that of stage 1 where there is one (13.5).
        | when(types && !one, bits(109, 108))
        | when(permissions, bits(115, 112))
        // DRE, DCP.
        | when(one || two, bits(76, 76) | bits(81, 81))
        // S1CIR, S1COR, S1CSH; S1MPAM.
        | when(one, bits(71, 66) | when(mpam, bits(90, 90)));
    [
        ste[1] & first,
        // DPT_VMATCH.
        ste[2] & (bits(159, 144) | when(eats == 3, bits(191, 190))),
        // PARTID.
        ste[4] & (bits(271, 256) | when(mpam, bits(287, 272))),
        // PMG, VMSPtr.
        ste[5] & (when(mpam, bits(327, 320)) | when(machine, bits(375, 332))),
    ]
}

/// What of a stream table entry its stage 2 depends on: words 1, 2, 3, 5 and 7.
pub(super) fn stage2(
    ids: &ModelConfig,
    ste: &[u64; 8],
    decoded: &Stage2,
    nested: bool,
) -> [u64; 5] {
    let (updates, stalls) = (bit(ste, 184), bit(ste, 185));
    let overlay = ids.idr3_bit(20) && bit(ste, 189);
    let control = VMID
        // S2T0SZ to S2ENDI; S2HA; S2S.
        | bits(180, 160)
        | bits(185, 184)
        // S2AFFD, S2HD.
        | when(!updates, bits(181, 181))
        | when(updates, bits(183, 183))
        | when(nested, PROTECTED_WALK)
        // S2R: stalls are recorded always.
        | when(!stalls, bits(186, 186))
        // S2HAFT, S2PIE, S2POE.
        | when(ids.httu() == 3, bits(187, 187))
        | when(ids.idr3_bit(19), bits(188, 188))
        | when(ids.idr3_bit(20), bits(189, 189));
    // S2SL0_2, S2DS.
    let large = when(ids.idr5 & 1 << 7 != 0, bits(195, 194));
    [
        // S2HWU; S2FWB.
        ste[1] & (when(ids.idr3_bit(3), bits(75, 72)) | when(ids.idr3_bit(8), bits(89, 89))),
        ste[2] & control,
        ste[3] & large | decoded.tables.root.0,
        // AssuredOnly, TL0, TL1.
        ste[5] & when(ids.idr3_bit(21), bits(331, 329)),
        ste[7] & when(overlay, u64::MAX),
    ]
}

/// What the meaning of a context descriptor depends on in the stream table entry that leads to it
/// (5.4.1, 16.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reading {
    pub(super) hypervisor: bool,
    pub(super) stall_disabled: bool,
    pub(super) indirection: bool,
    /// `S1MPAM`, where there is MPAM.
    pub(super) partition: bool,
}

/// What of a context descriptor matters, in all its words.
pub(super) fn stage1(
    ids: &ModelConfig,
    reading: Reading,
    cd: &[u64; 8],
    decoded: &Context,
) -> [u64; 8] {
    let guest = !reading.hypervisor;
    let (low, high) = (!guest || !bit(cd, 14), guest && !bit(cd, 30));
    let (updates, stalls) = (bit(cd, 43), bit(cd, 44));
    let indirect = ids.idr3_bit(18) && reading.indirection && bit(cd, 187);
    let control = bits(31, 31)
        // IPS; WXN; TBI0; AA64; HA; S; A; ASET. UWXN is IGNORED with AA64.
        | bits(34, 32) | bits(36, 36) | bits(38, 38) | bits(41, 41) | bits(43, 43)
        | bits(44, 44) | bits(46, 46) | bits(47, 47)
        // AFFD, HD.
        | when(!updates, bits(35, 35))
        | when(updates, bits(42, 42))
        // R: stalls are recorded always.
        | when(!stalls, bits(45, 45))
        // EPD0, EPD1, TBI1, PAN, ASID.
        | when(guest, bits(14, 14) | bits(30, 30) | bits(40, 39) | bits(63, 48))
        | when(low, bits(13, 0))
        | when(high, bits(29, 16))
        // ENDI.
        | when(low || high, bits(15, 15));
    let (had, e0pd) = (ids.idr3_bit(2), guest && ids.idr3_bit(13));
    let hints = |switch: u32| had && ids.idr3_bit(3) && bit(cd, switch);
    // HAD0, E0PD0, HAFT, PnCH, EPAN, HWU0.
    let first = when(had, bits(65, 65))
        | when(e0pd, bits(66, 66))
        | when(ids.httu() == 3, bits(67, 67))
        | when(ids.idr3_bit(21), bits(122, 122))
        | when(ids.idr3_bit(17) && guest && !indirect, bits(123, 123))
        | when(hints(65), bits(127, 124));
    // HAD1, E0PD1, AIE, DS, PIE, HWU1.
    let second = when(had && guest, bits(129, 129))
        | when(e0pd, bits(130, 130))
        | when(ids.idr3_bit(23), bits(131, 131))
        | when(ids.idr5 & 1 << 7 != 0, bits(186, 186))
        | when(indirect, bits(187, 187))
        | when(guest && hints(129), bits(191, 188));
    [
        cd[0] & control,
        cd[1] & first | decoded.low.map_or(0, |tables| tables.root.0),
        cd[2] & second | decoded.high.map_or(0, |tables| tables.root.0),
        cd[3],
        cd[4],
        // PARTID, PMG.
        cd[5] & (bits(351, 320) | when(reading.partition, bits(375, 352))),
        cd[6] & when(indirect && guest, bits(431, 384)),
        cd[7] & when(indirect, bits(495, 448)),
    ]
}
