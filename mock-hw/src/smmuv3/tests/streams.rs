use super::*;

#[test]
fn abort_is_silent_and_bypass_passes() {
    let rig = Rig::up();
    rig.ste(4, &[ABORT]);
    rig.ste(5, &[BYPASS]);
    assert_eq!(
        (rig.read(4, 0x1000), rig.write(5, 0xfff_1234_5678)),
        (Outcome::Aborted, to(0xfff_1234_5678))
    );
    assert_eq!(rig.events(), [[0; 4]; 0]);
    assert_eq!(rig.model.stream_config(4), StreamConfig::Abort);
    assert_eq!(rig.model.stream_config(5), StreamConfig::Bypass);
    // Past the 44 bits of output: F_ADDR_SIZE of the input, at stage 1.
    assert_eq!(rig.read(5, 0x1000_0000_0000), Outcome::Faulted);
    assert_eq!(
        rig.events(),
        [[0x0000_0005_0000_0011, 0x0208_0000_0000, 0x1000_0000_0000, 0]]
    );
    rig.is_clean();
}

#[test]
fn an_invalid_entry_is_a_bad_ste() {
    let rig = Rig::up();
    assert_eq!(rig.read(5, 0x1000), Outcome::Faulted);
    // Stage 2 that is consistent but for S2T0SZ, 63.
    rig.ste(6, &[STE_S2, 0, 0x044c_357f_0000_0003, S2]);
    assert_eq!(
        rig.model.transact(6, None, 0, Access::Write),
        Outcome::Faulted
    );
    assert_eq!(
        rig.events(),
        [
            [0x0000_0005_0000_0004, 0, 0, 0],
            [0x0000_0006_0000_0004, 0, 0, 0]
        ]
    );
    assert_eq!(rig.model.stream_config(6), StreamConfig::Invalid);
    assert_eq!(rig.model.why_invalid(6), Some("S2T0SZ is out of range"));
    rig.is_clean();
}

#[test]
fn a_stream_out_of_range_is_recorded_if_wanted() {
    let rig = Rig::up();
    assert_eq!(rig.read(64, 0), Outcome::Faulted);
    assert_eq!(rig.events(), [[0x0000_0040_0000_0002, 0, 0, 0]]);
    rig.cr0(0x8);
    rig.bank.write32(0x2c, 0);
    rig.cr0(0xd);
    assert_eq!(rig.read(64, 0), Outcome::Aborted);
    assert_eq!(rig.events(), [[0; 4]; 0]);
    rig.is_clean();
}

#[test]
fn a_substream_needs_stage_1_with_substreams() {
    let rig = Rig::up();
    rig.ste(5, &[BYPASS]);
    assert_eq!(
        rig.model.transact(5, Some(9), 0x1000, Access::Read),
        Outcome::Faulted
    );
    assert_eq!(rig.events(), [[0x0000_0005_0000_9008, 0, 0, 0]]);
    rig.is_clean();
}

/// 16 StreamIDs' bits, SPLIT 8: 256 first-level entries.
fn two_levels() -> Rig {
    let rig = Rig::new(ModelConfig::default());
    rig.bank.write64(0x80, STREAMS);
    rig.bank.write32(0x88, 0x1_0210);
    rig.queues();
    rig.enable();
    rig
}

#[test]
fn a_two_level_table_is_followed_and_its_first_level_cached() {
    let rig = two_levels();
    // Span 9: 256 entries at 0x4002_0000.
    rig.poke(STREAMS + 8, &[0x4002_0009]);
    rig.poke(0x4002_0000 + 5 * 64, &[BYPASS]);
    assert_eq!(rig.read(0x105, 0x1000), to(0x1000));
    assert_eq!(rig.model.stream_entry(0x105), Some(PhysAddr(0x4002_0140)));

    assert_eq!(rig.read(0x205, 0x1000), Outcome::Faulted);
    assert_eq!(rig.events(), [[0x0000_0205_0000_0002, 0, 0, 0]]);
    rig.poke(STREAMS + 16, &[0x4002_0009]);
    rig.submit(&[[0x0205_0000_0003, 1], SYNC]);
    assert_eq!(
        rig.read(0x205, 0x1000),
        Outcome::Faulted,
        "Leaf = 1 leaves the first level"
    );
    rig.submit(&[[0x0205_0000_0003, 0], SYNC]);
    assert_eq!(rig.read(0x205, 0x1000), to(0x1000));
    rig.is_clean();
}

#[test]
fn a_span_limits_its_entries_and_wants_their_alignment() {
    let rig = two_levels();
    // Span 4: 8 entries.
    rig.poke(STREAMS, &[0x4002_0004]);
    rig.poke(0x4002_0000 + 7 * 64, &[BYPASS, 0, 0, 0, 0, 0, 0, 0, BYPASS]);
    assert_eq!((rig.read(7, 0), rig.read(8, 0)), (to(0), Outcome::Faulted));
    // Span 10: more than SPLIT + 1.
    rig.poke(STREAMS + 8, &[0x4002_000a]);
    rig.events();
    assert_eq!(rig.read(0x100, 0), Outcome::Faulted);
    assert_eq!(rig.events(), [[0x0000_0100_0000_0002, 0, 0, 0]]);
    rig.is_clean();
    rig.poke(STREAMS + 16, &[0x4002_0049]);
    assert_eq!(rig.read(0x207, 0), to(0), "aligned down");
    assert_eq!(rig.model.violations().len(), 1);
}

#[test]
fn a_stream_table_that_is_not_in_memory_cannot_be_fetched() {
    let rig = Rig::new(ModelConfig::default());
    rig.bank.write64(0x80, 0x1_0000);
    rig.bank.write32(0x88, 6);
    rig.queues();
    rig.enable();
    assert_eq!(rig.read(3, 0), Outcome::Faulted);
    assert_eq!(rig.events(), [[0x0000_0003_0000_0003, 0, 0, 0x1_00c0]]);
    rig.is_clean();
}
