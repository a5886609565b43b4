use iommu_core::DmaMemory;

use super::*;

const CFGI_STE_5: [u64; 2] = [0x0005_0000_0003, 1];
/// VMID 2, ASID 7, Leaf, 0x20_3000.
const TLBI_VA: [u64; 2] = [0x0007_0002_0000_0012, 0x20_3001];

#[test]
fn entries_stay_until_invalidated_and_synchronised() {
    let rig = Rig::up();
    rig.ste(5, &[BYPASS]);
    assert_eq!(rig.model.cached_stream_config(5), None);
    assert_eq!(rig.read(5, 0x1000), to(0x1000));
    rig.ste(5, &[ABORT]);
    assert_eq!(rig.read(5, 0x1000), to(0x1000));
    assert_eq!(rig.model.stream_config(5), StreamConfig::Abort);
    assert_eq!(
        rig.model.cached_stream_config(5),
        Some(StreamConfig::Bypass)
    );
    rig.submit(&[CFGI_STE_5]);
    assert_eq!(rig.read(5, 0x1000), to(0x1000), "not before CMD_SYNC");
    rig.submit(&[SYNC]);
    assert_eq!(rig.read(5, 0x1000), Outcome::Aborted);
    // An entry that says no is kept just so.
    rig.ste(5, &[BYPASS]);
    assert_eq!(rig.read(5, 0x1000), Outcome::Aborted);
    // Range 2: StreamIDs 0 to 7.
    rig.submit(&[[0x0000_0000_0004, 2], SYNC]);
    assert_eq!(rig.read(5, 0x1000), to(0x1000));
    rig.is_clean();
}

#[test]
fn translations_stay_until_invalidated_and_synchronised() {
    let rig = Rig::up();
    rig.stage1();
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    rig.poke(S1 + 0x2018, &[(DATA + 0x1000) | PAGE]);
    let wrong = [
        [0x0008_0002_0000_0012, 0x20_3001], // another ASID
        [0x0007_0001_0000_0012, 0x20_3001], // another VMID
        [0x0007_0002_0000_0012, 0x20_4001], // another address
        [0x0007_0001_0000_0011, 0],         // another VMID, all of the ASID
        [0x0002_0000_002a, 0x20_3001],      // stage 2
        [0x0007_0002_0091_f012, 0x501],     // 16384 pages of 4 KiB, level 1
        [0x0007_0002_0000_4012, 0x20_0601], // 5 pages of 4 KiB, level 2
        [0x0007_0002_0000_2012, 0x20_0701], // 3 pages of 4 KiB, level 3
        [0x0007_0002_0000_4012, 0x20_0b01], // 5 pages of 16 KiB, level 3
    ];
    for command in wrong {
        rig.submit(&[command, SYNC]);
        assert_eq!(rig.read(5, 0x20_3000), to(DATA), "{command:x?}");
    }
    rig.submit(&[TLBI_VA]);
    assert_eq!(rig.read(5, 0x20_3000), to(DATA), "not before CMD_SYNC");
    rig.submit(&[SYNC]);
    assert_eq!(rig.read(5, 0x20_3000), to(DATA + 0x1000));
    rig.is_clean();
}

#[test]
fn each_scope_that_covers_a_translation_drops_it() {
    let rig = Rig::up();
    rig.stage1();
    let scopes = [
        TLBI_VA,
        [0x0002_0000_0013, 0x20_3001],
        [0x0007_0002_0000_0011, 0],
        [0x0002_0000_0010, 0],
        [0x0002_0000_0028, 0],
        TLBI_ALL,
        // NUM 3, TG 1, TTL 3: four pages.
        [0x0007_0002_0000_3012, 0x20_0701],
        // SCALE 9, TG 1: 512 pages.
        [0x0007_0002_0090_0012, 0x20_0401],
    ];
    for (turn, command) in (1..).zip(scopes) {
        rig.read(5, 0x20_3000);
        rig.poke(S1 + 0x2018, &[(DATA + turn * 0x1000) | PAGE]);
        rig.submit(&[command, SYNC]);
        assert_eq!(
            rig.read(5, 0x20_3000),
            to(DATA + turn * 0x1000),
            "{command:x?}"
        );
    }
    rig.is_clean();
}

#[test]
fn any_address_in_a_block_invalidates_it() {
    let rig = Rig::up();
    rig.stage1();
    assert_eq!(rig.read(5, 0x40_0000), to(DATA));
    rig.poke(S1 + 0x1010, &[0x4060_0000 | BLOCK]);
    rig.submit(&[[0x0007_0002_0000_0012, 0x5f_f001], SYNC]);
    assert_eq!(rig.read(5, 0x40_0000), to(0x4060_0000));
}

#[test]
fn a_leaf_invalidation_leaves_pointers_to_tables() {
    let rig = Rig::up();
    rig.stage1();
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    rig.poke(S1 + 0x1008, &[DATA & !0x1f_ffff | BLOCK]);
    rig.submit(&[TLBI_VA, SYNC]);
    assert_eq!(rig.read(5, 0x20_3000), to(DATA), "through the old table");
    rig.submit(&[[TLBI_VA[0], 0x20_3000], SYNC]);
    assert_eq!(rig.read(5, 0x20_3000), to(0x4040_3000));
}

#[test]
fn a_table_that_is_freed_too_early_is_seen() {
    let memory = MockMemory::new(PhysAddr(0x4000_0000), 0x80_0000);
    memory.reserve(PhysAddr(0x4000_0000), 0x40_0000);
    let model = SmmuModel::new(memory.clone(), ModelConfig::default());
    let rig = Rig {
        bank: model.bank(),
        memory,
        model,
    };
    rig.bank.write64(0x80, STREAMS);
    rig.bank.write32(0x88, 6);
    rig.queues();
    rig.enable();
    rig.stage1();
    let table = rig.memory.allocate(0x1000, 0x1000).unwrap();
    rig.poke(S1 + 0x1008, &[table.0 | 3]);
    rig.poke(table.0, &[0x4000_0000 | PAGE]);
    assert_eq!(rig.read(5, 0x20_0000), to(0x4000_0000));
    rig.poke(S1 + 0x1008, &[0]);
    // SAFETY: nothing but the model uses it, and that it does is what is tested.
    unsafe { rig.memory.free(table, 0x1000, 0x1000) };
    rig.submit(&[TLBI_VA, SYNC]);
    rig.read(5, 0x20_1000);
    assert_eq!(rig.memory.violations().len(), 1);
}

#[test]
fn global_entries_survive_their_asid() {
    let rig = Rig::up();
    rig.stage1();
    rig.poke(S1 + 0x2018, &[DATA | PAGE & !0x800]);
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    rig.poke(S1 + 0x2018, &[0]);
    rig.submit(&[[0x0007_0002_0000_0011, 0], SYNC]);
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    rig.submit(&[[0x0009_0002_0000_0012, 0x20_3001], SYNC]);
    assert_eq!(rig.read(5, 0x20_3000), Outcome::Faulted);
}

#[test]
fn a_context_stays_until_invalidated() {
    let rig = Rig::up();
    rig.stage1();
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    rig.poke(CD, &[CD_39 & !(1 << 31)]);
    assert_eq!(rig.read(5, 0x40_0000), to(DATA));
    rig.submit(&[[0x0005_0000_1005, 1], SYNC]);
    assert_eq!(rig.read(5, 0x40_0000), to(DATA), "another SubstreamID");
    rig.submit(&[[0x0005_0000_0006, 0], SYNC]);
    assert_eq!(rig.read(5, 0x40_0000), Outcome::Faulted);
    rig.poke(CD, &[CD_39]);
    rig.submit(&[CFGI_STE_5, SYNC]);
    assert_eq!(
        rig.read(5, 0x40_0000),
        to(DATA),
        "an STE takes its CDs with it"
    );
}

/// Stream 5 moves from one context descriptor to another with the same ASID.
fn switch(batch: &[[u64; 2]]) -> Outcome {
    let rig = Rig::up();
    rig.stage1();
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    rig.poke(CD + 0x1000, &[CD_39, S1 + 0x8000]);
    rig.poke(S1 + 0x8000, &[0x4000_0000 | BLOCK]);
    rig.ste(5, &[STE_S1 + 0x1000, 0, 2]);
    rig.submit(batch);
    rig.is_clean();
    rig.read(5, 0x20_3000)
}

#[test]
fn the_tlb_is_refilled_through_stale_configuration() {
    let asid = [0x0007_0002_0000_0011, 0];
    assert_eq!(
        switch(&[CFGI_STE_5, asid, SYNC]),
        to(DATA),
        "no order between two CMD_SYNC"
    );
    assert_eq!(
        switch(&[asid, SYNC, CFGI_STE_5, SYNC]),
        to(DATA),
        "the wrong order"
    );
    assert_eq!(switch(&[CFGI_STE_5, SYNC]), to(DATA), "no TLB invalidation");
    assert_eq!(switch(&[CFGI_STE_5, SYNC, asid, SYNC]), to(0x4020_3000));
}

#[test]
fn a_level_keeps_pointers_to_tables_at_and_below_it() {
    let rig = Rig::up();
    rig.stage1();
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    rig.poke(S1 + 0x1008, &[DATA & !0x1f_ffff | BLOCK]);
    // One page of 4 KiB, not only leaves: level 2, then level 3.
    rig.submit(&[TLBI_VA, [TLBI_VA[0], 0x20_0600], SYNC]);
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    rig.submit(&[TLBI_VA, [TLBI_VA[0], 0x20_0700], SYNC]);
    assert_eq!(rig.read(5, 0x20_3000), to(0x4040_3000));
}

#[test]
fn global_entries_stay_in_their_set_of_asids() {
    let rig = Rig::up();
    rig.stage1();
    rig.poke(S1 + 0x2018, &[DATA | PAGE & !0x800]);
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    // Stream 9: ASID 8, same VMID; then ASET too.
    rig.ste(9, &[STE_S1 + 0x1000, 0, 2]);
    rig.poke(CD + 0x1000, &[CD_39 + (1 << 48), S1 + 0x8000]);
    rig.poke(S1 + 0x8000, &[0x4000_0000 | BLOCK]);
    assert_eq!(rig.read(9, 0x20_3000), to(DATA));
    rig.poke(CD + 0x1000, &[(CD_39 + (1 << 48)) | 1 << 47]);
    rig.submit(&[CFGI_ALL, SYNC]);
    assert_eq!(rig.read(9, 0x20_3000), to(0x4020_3000));
}

#[test]
fn a_first_level_of_contexts_stays_until_invalidated() {
    // SSIDSIZE 16, CD2L.
    let (idr0, idr1) = (0x0d4c_101b, 0x0273_0410);
    let rig = Rig::up_with(ModelConfig {
        idr0,
        idr1,
        ..Default::default()
    });
    rig.stage1();
    // S1Fmt 0b10, S1CDMax 11, S1DSS 0b10.
    rig.ste(5, &[11 << 59 | 0x4005_002b, 2]);
    rig.poke(0x4005_0000, &[0x4006_0001]);
    rig.poke(0x4006_0000, &[CD_39, S1]);
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    rig.poke(0x4005_0000, &[0]);
    rig.submit(&[[0x0005_0000_0005, 1], SYNC]);
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    rig.submit(&[[0x0005_0000_0005, 0], SYNC]);
    assert_eq!(rig.read(5, 0x20_3000), Outcome::Faulted);
    assert_eq!(rig.events(), [[0x0000_0005_0000_0008, 0, 0, 0]]);
}

#[test]
fn nothing_is_fetched_while_disabled() {
    let rig = Rig::up();
    rig.stage1();
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    rig.cr0(0xc);
    rig.submit(&[CFGI_STE_5, SYNC, SYNC]);
    assert_eq!(rig.model.cached_stream_config(5), None);
    rig.cr0(0xd);
    rig.submit(&[SYNC]);
    assert!(
        rig.model.cached_stream_config(5).is_some(),
        "fetched again, unasked"
    );
}
