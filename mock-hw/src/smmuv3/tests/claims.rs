use super::*;

const CFGI_5: [u64; 2] = [0x0005_0000_0003, 1];
const OTHER_STAGE_1: &str = "ASID Some(7) of VMID 0x2 is used with another stage 1";

/// Stream 9, as stream 5 but with this descriptor, at CD + 0x1000.
fn beside(rig: &Rig, cd: &[u64]) {
    rig.ste(9, &[STE_S1 + 0x1000, 0, 2]);
    rig.poke(CD + 0x1000, cd);
    rig.poke(S1 + 0x8000, &[0x4000_0000 | BLOCK]);
}

#[test]
fn one_asid_means_one_set_of_tables() {
    let used = |cd: &[u64]| {
        let rig = Rig::up();
        rig.stage1();
        rig.read(5, 0x20_3000);
        beside(&rig, cd);
        rig.read(9, 0x4000_0000);
        rig.read(9, 0x4000_0000);
        rig
    };
    used(&[CD_39, S1 + 0x8000, 0, 0xff]).noted(OTHER_STAGE_1);
    // T0SZ; MAIR; TBI.
    used(&[CD_39 - 1, S1, 0, 0xff]).noted(OTHER_STAGE_1);
    used(&[CD_39, S1, 0, 0xfe]).noted(OTHER_STAGE_1);
    used(&[CD_39 | 1 << 38, S1, 0, 0xff]).noted(OTHER_STAGE_1);
    // In the other set too: lookups do not tell the sets apart.
    used(&[CD_39 | 1 << 47, S1 + 0x8000, 0, 0xff]).noted(OTHER_STAGE_1);
    // The same tables; what a TLB does not cache (S, R, A); another ASID; what EPD1 hides.
    used(&[CD_39, S1, 0, 0xff]).is_clean();
    used(&[CD_39 & !(1 << 45), S1, 0, 0xff]).is_clean();
    used(&[CD_39 + (1 << 48), S1 + 0x8000, 0, 0xff]).is_clean();
    used(&[CD_39 | 0x19 << 16, S1, 0x40, 0xff]).is_clean();
}

#[test]
fn an_asid_is_free_again_after_its_invalidation() {
    let moved = |between: &[[u64; 2]]| {
        let rig = Rig::up();
        rig.stage1();
        rig.read(5, 0x20_3000);
        rig.ste(5, &[ABORT]);
        rig.submit(&[CFGI_5, SYNC]);
        rig.submit(between);
        beside(&rig, &[CD_39, S1 + 0x8000, 0, 0xff]);
        rig.read(9, 0x20_3000);
        rig
    };
    let enough = [
        [0x0007_0002_0000_0011, 0],
        [0x0002_0000_0010, 0],
        [0x0002_0000_0028, 0],
        TLBI_ALL,
    ];
    for tlbi in enough {
        let rig = moved(&[tlbi, SYNC]);
        rig.is_clean();
        assert_eq!(rig.read(9, 0x20_3000), to(0x4020_3000));
    }
    let too_little: [&[[u64; 2]]; 6] = [
        &[SYNC],
        &[[0x0008_0002_0000_0011, 0], SYNC],
        &[[0x0007_0003_0000_0011, 0], SYNC],
        &[[0x0003_0000_0010, 0], SYNC],
        // One page only; not synchronised.
        &[[0x0007_0002_0000_0012, 0x20_3000], SYNC],
        &[TLBI_ALL],
    ];
    for batch in too_little {
        moved(batch).noted(OTHER_STAGE_1);
    }
}

#[test]
fn one_vmid_means_one_stage_2() {
    let used = |ste: &[u64]| {
        let rig = Rig::up();
        rig.stage2();
        rig.read(6, 0x20_3000);
        rig.ste(7, ste);
        rig.read(7, 0x20_3000);
        rig
    };
    const OTHER: &str = "VMID 0x3 is used with another stage 2";
    used(&[STE_S2, 0, S2_39, S2 + 0x2000]).noted(OTHER);
    // S2AFFD; S2T0SZ.
    used(&[STE_S2, 0, S2_39 | 1 << 53, S2]).noted(OTHER);
    used(&[STE_S2, 0, S2_39 - (1 << 32), S2]).noted("VMID 0x3 is used with another stage 2");
    // S2R; another VMID; S2PTW, which means nothing here.
    used(&[STE_S2, 0, S2_39 & !(1 << 58), S2]).is_clean();
    used(&[STE_S2, 0, S2_39 + 1, S2 + 0x2000]).is_clean();
    used(&[STE_S2, 0, S2_39 & !(1 << 54), S2]).is_clean();
    // Free again: by VMID, not by ASID, nor by stage 1 alone.
    let reused = |tlbi| {
        let rig = used(&[ABORT]);
        rig.ste(6, &[ABORT]);
        rig.submit(&[CFGI_ALL, SYNC, tlbi, SYNC]);
        rig.ste(8, &[STE_S2, 0, S2_39, S2 + 0x2000]);
        rig.read(8, 0x20_3000);
        rig
    };
    reused([0x0003_0000_0028, 0]).is_clean();
    reused(TLBI_ALL).is_clean();
    reused([0x0003_0000_0010, 0]).noted(OTHER);
    reused([0x0002_0000_0028, 0]).noted(OTHER);
}

#[test]
fn stage_1_alone_and_nested_do_not_share_a_vmid() {
    let used = |vmid: u64, between| {
        let rig = Rig::up();
        rig.stage1();
        rig.read(5, 0x20_3000);
        rig.ste(5, &[ABORT]);
        rig.submit(&[CFGI_5, SYNC, between, SYNC]);
        // Nested, in another VMID than stream 5, or in the same; another ASID.
        rig.ste(9, &[STE_S1 + 0x1004, 0, S2_39 - 3 + vmid, S2]);
        rig.poke(S2, &[S2 + 0x1_0003]);
        rig.poke(S2 + 0x1_0000, &[0, 0x4000_0000 | S2_BLOCK]);
        rig.poke(S2 + 8, &[0x4000_0000 | S2_BLOCK]);
        rig.poke(CD + 0x1000, &[CD_39 + (1 << 48), S1, 0, 0xff]);
        rig.read(9, 0x20_3000);
        rig
    };
    used(3, TLBI_ALL).is_clean();
    used(2, TLBI_ALL).is_clean();
    used(2, [0x0002_0000_0010, 0]).is_clean();
    for too_little in [SYNC, [0x0007_0002_0000_0011, 0], [0x0003_0000_0010, 0]] {
        used(2, too_little).noted("VMID 0x2 is used with and without stage 2");
    }
    used(3, SYNC).is_clean();
    // Stage 2 alone has only intermediate addresses: that is no conflict.
    let rig = Rig::up();
    rig.stage1();
    rig.read(5, 0x20_3000);
    rig.stage2();
    rig.ste(6, &[STE_S2, 0, S2_39 - 1, S2]);
    assert_eq!(rig.read(6, 0x20_3000), to(DATA));
    rig.is_clean();
}

#[test]
fn both_sets_of_asids_are_one_for_pages_that_are_not_global() {
    let rig = Rig::up();
    rig.stage1();
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    beside(&rig, &[CD_39 | 1 << 47, S1 + 0x8000, 0, 0xff]);
    assert_eq!(rig.read(9, 0x20_3000), to(DATA), "through stream 5's entry");
}

#[test]
fn overlapping_translations_conflict() {
    let rig = Rig::up();
    rig.stage1();
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    // The page's table becomes a block elsewhere; a leaf invalidation of another page drops the
    // pointer to the table, not the page.
    rig.poke(S1 + 0x1008, &[0x4060_0000 | BLOCK]);
    rig.submit(&[[0x0007_0002_0000_0012, 0x20_5000], SYNC]);
    assert_eq!(rig.read(5, 0x20_4000), to(0x4060_4000));
    rig.is_clean();
    assert_eq!(rig.read(5, 0x20_3000), to(DATA), "the older one");
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    rig.noted("the TLB has conflicting translations of 0x203000");
}

#[test]
fn the_same_translation_twice_needs_break_before_make_below_level_2() {
    let twice = |bbml: u32| {
        let rig = Rig::up_with(ModelConfig {
            idr3: 0x0414 | bbml << 11,
            ..Default::default()
        });
        rig.stage1();
        rig.poke(S1 + 0x2018, &[0x4040_3000 | PAGE]);
        rig.read(5, 0x20_3000);
        rig.poke(S1 + 0x1008, &[0x4040_0000 | BLOCK]);
        rig.submit(&[[0x0007_0002_0000_0012, 0x20_5000], SYNC]);
        rig.read(5, 0x20_4000);
        assert_eq!(rig.read(5, 0x20_3000), to(0x4040_3000));
        rig
    };
    twice(2).is_clean();
    twice(1).noted("the TLB has conflicting translations");
}
