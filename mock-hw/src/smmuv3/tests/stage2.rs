use super::*;

#[test]
fn start_levels_follow_sl0() {
    let rig = Rig::up();
    rig.stage2();
    assert_eq!(rig.read(6, 0x20_3abc), to(DATA + 0xabc));
    // S2SL0 2 (level 0), S2T0SZ 20 (44 bits).
    rig.ste(7, &[STE_S2, 0, 0x044c_3594_0000_0004, S2 + 0x2_0000]);
    rig.poke(S2 + 0x2_00f8, &[S2 + 0x3]);
    rig.poke(S2 + 0x8, &[0x4000_0000 | S2_BLOCK]);
    assert_eq!(rig.write(7, 0xf80_4000_0010), to(0x4000_0010));
    let StreamConfig::Stage2 { stage2, eats: 0 } = rig.model.stream_config(7) else {
        panic!()
    };
    assert_eq!(
        (
            stage2.vmid,
            stage2.tables.start_level,
            stage2.tables.input_bits
        ),
        (4, 0, 44)
    );
    // S2SL0 0 (level 2) with 44 bits: not with any number of tables.
    rig.ste(8, &[STE_S2, 0, 0x044c_3514_0000_0004, S2]);
    assert_eq!(
        rig.model.why_invalid(8),
        Some("S2SL0 and S2T0SZ do not fit each other")
    );
    rig.is_clean();
}

#[test]
fn concatenated_tables_are_one() {
    let rig = Rig::up();
    // S2SL0 1 (level 1), S2T0SZ 24 (40 bits): two tables of level 1. The base is aligned to both.
    rig.ste(6, &[STE_S2, 0, 0x044c_3558_0000_0003, S2 + 0x1000]);
    rig.poke(S2 + 0x1000, &[0x4000_0000 | S2_BLOCK]);
    assert_eq!(rig.read(6, 0x80_0000_0008), to(0x4000_0008));
    assert_eq!(rig.read(6, 0x100_0000_0000), Outcome::Faulted);
    assert_eq!(
        rig.events(),
        [[
            0x0000_0006_0000_0010,
            0x0288_0000_0000,
            0x100_0000_0000,
            0x100_0000_0000
        ]]
    );
    rig.noted("S2TTB of STE 0x6 is 0x40201000, not aligned");
}

#[test]
fn stage_2_faults_tell_the_intermediate_address() {
    let rig = Rig::up();
    rig.stage2();
    rig.poke(S2 + 0x1_1020, &[DATA | S2_PAGE & !0x80]);
    assert_eq!(
        (rig.read(6, 0x20_4000), rig.write(6, 0x20_4008)),
        (to(DATA), Outcome::Faulted)
    );
    assert_eq!(rig.read(6, 0x20_5678), Outcome::Faulted);
    assert_eq!(
        rig.events(),
        [
            [
                0x0000_0006_0000_0013,
                0x0280_0000_0000,
                0x20_4008,
                0x20_4000
            ],
            [
                0x0000_0006_0000_0010,
                0x0288_0000_0000,
                0x20_5678,
                0x20_5000
            ],
        ]
    );
    // Without S2R.
    rig.ste(7, &[STE_S2, 0, S2_39 & !(1 << 58), S2]);
    assert_eq!(rig.read(7, 0x20_5678), Outcome::Aborted);
    assert_eq!(rig.events(), [[0; 4]; 0]);
    rig.is_clean();
}

/// Stream 8: stage 1 as [`Rig::stage1`], its tables and data at intermediate addresses 0x4000_0000
/// lower than physical ones.
fn nested() -> Rig {
    let rig = Rig::up();
    rig.ste(8, &[0x3_000f, 0, S2_39, S2]);
    rig.poke(CD, &[CD_39, S1 - 0x4000_0000]);
    rig.poke(S1, &[0x10_1003]);
    rig.poke(S1 + 0x1008, &[0x10_2003]);
    rig.poke(S1 + 0x2018, &[0x40_0000 | PAGE]);
    rig.poke(S2, &[S2 + 0x1_0003]);
    for block in 0..4 {
        rig.poke(
            S2 + 0x1_0000 + block * 8,
            &[(0x4000_0000 + block * 0x20_0000) | S2_BLOCK],
        );
    }
    rig
}

#[test]
fn nested_stages_translate_everything_twice() {
    let rig = nested();
    assert_eq!(rig.write(8, 0x20_3abc), to(DATA + 0xabc));
    assert!(matches!(
        rig.model.stream_config(8),
        StreamConfig::Nested { .. }
    ));
    // A stage 1 fault has no intermediate address.
    assert_eq!(rig.read(8, 0x20_4000), Outcome::Faulted);
    assert_eq!(
        rig.events(),
        [[0x0000_0008_0000_0010, 0x0208_0000_0000, 0x20_4000, 0]]
    );
    rig.is_clean();
}

#[test]
fn nested_faults_tell_what_was_translated() {
    let rig = nested();
    // The output.
    rig.poke(S2 + 0x1_0010, &[0]);
    assert_eq!(rig.write(8, 0x20_3abc), Outcome::Faulted);
    // The tables, and the context descriptor: both in the first block.
    rig.poke(S2 + 0x1_0000, &[0]);
    rig.submit(&[CFGI_ALL, SYNC, TLBI_ALL, SYNC]);
    assert_eq!(rig.read(8, 0x20_3abc), Outcome::Faulted);
    rig.poke(S2 + 0x1_0000, &[S2 + 0x1_2003]);
    rig.poke(S2 + 0x1_2180, &[CD | S2_PAGE]);
    assert_eq!(rig.read(8, 0x20_3abc), Outcome::Faulted);
    assert_eq!(
        rig.events(),
        [
            [
                0x0000_0008_0000_0010,
                0x0280_0000_0000,
                0x20_3abc,
                0x40_0000
            ],
            [0x0000_0008_0000_0010, 0x0088_0000_0000, 0x20_3abc, 0x3_0000],
            [
                0x0000_0008_0000_0010,
                0x0188_0000_0000,
                0x20_3abc,
                0x10_0000
            ],
        ]
    );
    rig.is_clean();
}

#[test]
fn an_intermediate_invalidation_leaves_what_combines_both_stages() {
    let rig = nested();
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.poke(S2 + 0x1_0010, &[0x4060_0000 | S2_BLOCK]);
    rig.submit(&[[0x0003_0000_002a, 0x40_0000], SYNC]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.submit(&[[0x0003_0000_0010, 0], SYNC]);
    assert_eq!(rig.read(8, 0x20_3000), to(0x4060_0000));
    rig.is_clean();
}

#[test]
fn stage_2_guards_the_tables_of_stage_1() {
    let rig = nested();
    // 4 KiB pages under the first block; the level 2 table of stage 1 may be written only.
    rig.poke(S2 + 0x1_0000, &[S2 + 0x1_2003]);
    rig.poke(S2 + 0x1_2180, &[CD | S2_PAGE]);
    rig.poke(
        S2 + 0x1_2800,
        &[S1 | S2_PAGE, (S1 + 0x1000) | S2_PAGE & !0x40],
    );
    assert_eq!(rig.write(8, 0x20_3abc), Outcome::Faulted);
    assert_eq!(
        rig.events(),
        [[
            0x0000_0008_0000_0013,
            0x1180_0000_0000,
            0x20_3abc,
            0x10_1000
        ]]
    );
    rig.is_clean();
}

#[test]
fn a_block_over_smaller_pages_goes_as_a_whole() {
    let rig = nested();
    // Stage 1: a block at IOVA 0x40_0000. Stage 2: its pages, in reverse order.
    rig.poke(S1 + 0x1010, &[0x40_0000 | BLOCK]);
    rig.poke(S2 + 0x1_0010, &[S2 + 0x1_3003]);
    rig.poke(S2 + 0x1_3000, &[(DATA + 0x1000) | S2_PAGE, DATA | S2_PAGE]);
    assert_eq!(rig.read(8, 0x40_0008), to(DATA + 0x1008));
    assert_eq!(rig.read(8, 0x40_1008), to(DATA + 8));
    rig.poke(S1 + 0x1010, &[0x60_0000 | BLOCK]);
    rig.submit(&[[0x0007_0003_0000_0012, 0x5f_f001], SYNC]);
    assert_eq!(rig.read(8, 0x40_0008), to(0x4060_0008));
    assert_eq!(rig.read(8, 0x40_1008), to(0x4060_1008));
    rig.is_clean();
}
