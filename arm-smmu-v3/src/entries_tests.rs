//! What entries are in memory, against literals worked out from the masks of Linux
//! (`arm-smmu-v3.h`: `STRTAB_STE_*`, `CTXDESC_CD_*`) and checked against those of FreeBSD
//! (`smmureg.h`: `STE*`, `CD*`).

use super::*;
use crate::features::IdRegisters;

/// Both stages, 16-bit tags, no stalls, `STE.SHCFG` not obeyed, 44 bits.
const PLAIN: [u32; 3] = [0x0944_101b, 0x0107_0010, 0x14];
/// As [`PLAIN`], with stalls and `STE.SHCFG`, and with 48 bits.
const RICH: [u32; 3] = [0x0844_101b, 0x0907_0010, 0x15];

fn features([idr0, idr1, idr5]: [u32; 3]) -> Features {
    Features::decode(&IdRegisters {
        idr0: idr0.into(),
        idr1: idr1.into(),
        idr3: 0.into(),
        idr5: idr5.into(),
        aidr: 0.into(),
    })
    .unwrap()
}

const COHERENT: WalkAttributes = WalkAttributes::new(true);
const NOT_COHERENT: WalkAttributes = WalkAttributes::new(false);

fn ste_is(entry: Ste, words: [u64; 4]) {
    let [word0, word1, word2, word3] = words;
    assert_eq!(
        entry.to_words(),
        [word0, word1, word2, word3, 0, 0, 0, 0],
        "{entry}"
    );
}

#[test]
fn abort() {
    // V; CFG_ABORT.
    ste_is(super::abort(), [0x1, 0, 0, 0]);
}

#[test]
fn unused() {
    // V, CFG_ABORT, and word 1 as stage 1 has it, with SHCFG as bypass has it.
    ste_is(super::unused(&features(PLAIN), COHERENT), [0x1, 0xd4, 0, 0]);
    ste_is(
        super::unused(&features(RICH), NOT_COHERENT),
        [0x1, 0x1000_0800_0080, 0, 0],
    );
}

#[test]
fn bypass() {
    // V, CFG_BYPASS; SHCFG_INCOMING only where SMMU_IDR1.ATTR_TYPES_OVR.
    ste_is(super::bypass(&features(PLAIN)), [0x9, 0, 0, 0]);
    ste_is(
        super::bypass(&features(RICH)),
        [0x9, 0x1000_0000_0000, 0, 0],
    );
}

#[test]
fn stage1() {
    let cd = PhysAddr(0x0000_8765_4321_0fc0);
    // V, CFG_S1_TRANS, S1CTXPTR; S1CIR and S1COR WBRA, S1CSH inner; word 2: VMID 0.
    ste_is(
        super::stage1(&features(PLAIN), COHERENT, cd),
        [0x0000_8765_4321_0fcb, 0xd4, 0, 0],
    );
    // S1STALLD; S1CIR and S1COR not cached, S1CSH outer; SHCFG_INCOMING.
    ste_is(
        super::stage1(&features(RICH), NOT_COHERENT, cd),
        [0x0000_8765_4321_0fcb, 0x1000_0800_0080, 0, 0],
    );
    // No address reaches fields above or below the pointer.
    ste_is(
        super::stage1(&features(PLAIN), COHERENT, PhysAddr(u64::MAX)),
        [0x00ff_ffff_ffff_ffcb, 0xd4, 0, 0],
    );
}

#[test]
fn stage2() {
    let table = |root, root_level, input_bits| Table {
        root: PhysAddr(root),
        root_level,
        input_bits,
        granule: Granule::K4,
    };
    // V, CFG_S2_TRANS; VMID; T0SZ 20, SL0 2, IR0 1, OR0 1, SH0 3, TG 0, PS 4, AA64, S2R; S2TTB.
    ste_is(
        super::stage2(
            &features(PLAIN),
            COHERENT,
            table(0x9_0000_0000, 0, 44),
            0xab,
        ),
        [0xd, 0, 0x040c_3594_0000_00ab, 0x9_0000_0000],
    );
    // SHCFG_INCOMING; T0SZ 24, SL0 1, IR0 0, OR0 0, SH0 2, PS 5.
    ste_is(
        super::stage2(
            &features(RICH),
            NOT_COHERENT,
            table(0x0000_8765_4321_0000, 1, 40),
            0xffff,
        ),
        [
            0xd,
            0x1000_0000_0000,
            0x040d_2058_0000_ffff,
            0x0000_8765_4321_0000,
        ],
    );
    // T0SZ 24, SL0 1 for level 2, TG 2; the same with TG 1.
    for (granule, field) in [(Granule::K16, 0b10), (Granule::K64, 0b01)] {
        let table = Table {
            granule,
            ..table(0x9_0000_0000, 2, 40)
        };
        let word2 = 0x040c_3558_0000_00ab | field << 46;
        ste_is(
            super::stage2(&features(PLAIN), COHERENT, table, 0xab),
            [0xd, 0, word2, 0x9_0000_0000],
        );
    }
}

#[test]
fn cd() {
    let table = |root, input_bits| Table {
        root: PhysAddr(root),
        root_level: 0,
        input_bits,
        granule: Granule::K4,
    };
    // T0SZ 16, TG0 0, IRGN0 1, ORGN0 1, SH0 3, EPD1, V, IPS 4, AA64, R, A, ASET, ASID; TTB0; no
    // TTB1; MAIR: index 0 write-back allocating (0xff), index 1 Device-nGnRE (0x04), as the Arm
    // architecture encodes them.
    let full = super::cd(&features(PLAIN), COHERENT, table(0x8800_3000, 48), 0x1234);
    assert_eq!(
        full.to_words(),
        [0x1234_e204_c000_3510, 0x8800_3000, 0, 0x04ff, 0, 0, 0, 0]
    );
    // T0SZ 25, IRGN0 0, ORGN0 0, SH0 2, IPS 5.
    let small = super::cd(&features(RICH), NOT_COHERENT, table(0x9_0000_1000, 39), 1);
    assert_eq!(
        small.to_words(),
        [0x0001_e205_c000_2019, 0x9_0000_1000, 0, 0x04ff, 0, 0, 0, 0]
    );
    // The same with TG0 2, and 1.
    for (granule, field) in [(Granule::K16, 0b10), (Granule::K64, 0b01)] {
        let table = Table {
            granule,
            ..table(0x9_0000_1000, 39)
        };
        let other = super::cd(&features(RICH), NOT_COHERENT, table, 1);
        assert_eq!(other.to_words()[0], 0x0001_e205_c000_2019 | field << 6);
    }
}
