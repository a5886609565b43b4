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
        [0x0008_0002_0000_0012, 0x20_3001], // ASID
        [0x0007_0001_0000_0012, 0x20_3001], // VMID
        [0x0007_0002_0000_0012, 0x20_4001], // address
        [0x0007_0001_0000_0011, 0],         // ASID of another VMID
        [0x0002_0000_002a, 0x20_3001],      // stage 2
        [0x0007_0002_0000_0012, 0x20_3901], // 4 KiB, level 1
        [0x0007_0002_0000_0012, 0x20_0a01], // 4 KiB, level 2
        [0x0007_0002_0000_2012, 0x20_0701], // 4 KiB, three pages up to 0x20_2fff, level 3
        [0x0007_0002_0000_2012, 0x20_0b01], // 16 KiB
    ];
    for command in wrong {
        if command[1] != 0x20_3901 && command[1] != 0x20_0b01 {
            rig.submit(&[command, SYNC]);
        }
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
    rig.stage1_at(0x40_0000_0000);
    use iommu_core::DmaMemory;
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

impl Rig {
    /// Stage 1 for stream 5 with room for more below `_limit`.
    fn stage1_at(&self, _limit: u64) {
        self.ste(5, &[STE_S1, 0, 2]);
        self.poke(CD, &[CD_39, S1, 0, 0xff]);
        self.poke(S1, &[S1 + 0x1003]);
    }
}
