use super::*;

#[test]
fn an_illegal_command_stops_the_queue_until_it_is_replaced() {
    let rig = Rig::up();
    let start = rig.bank.read32(0x9c);
    rig.submit(&[SYNC, [0xff, 0], SYNC]);
    assert_eq!(rig.bank.read32(0x9c), 0x0100_0000 | (start + 1));
    assert_eq!(rig.bank.read32(0x60), 1);
    rig.submit(&[SYNC]);
    assert_eq!(rig.bank.read32(0x9c), 0x0100_0000 | (start + 1));
    rig.poke(COMMANDS + u64::from(start + 1) * 16, &SYNC);
    rig.bank.write32(0x64, 1);
    assert_eq!(rig.bank.read32(0x9c) & 0xf_ffff, start + 4);
    // The next error toggles back.
    rig.submit(&[[0, 0]]);
    assert_eq!(rig.bank.read32(0x60), 0);
    rig.is_clean();
}

#[test]
fn reserved_encodings_are_illegal() {
    let illegal = [
        [0x00, 0],
        [0x0005_0000_0403, 1],              // SSec
        [0x07, 0],                          // no MPAM
        [0x18, 0],                          // EL3
        [0x20, 0],                          // no hypervisor regime
        [0x50, 0],                          // Secure
        [0x0007_0002_0000_0012, 0x20_3401], // TG without range and TTL
        [0x0007_0002_0000_0012, 0x20_0901], // 16 KiB and level 1, which is none
        [0x40, 0],                          // no ATS
        [0x41, 0],                          // no PRI
        [0x44, 0],                          // no stalls
        [0x45, 0],
        [0x3046, 0], // CS 3
        [0x70, 0],   // no DPT
        [0x80, 0],
    ];
    for command in illegal {
        let rig = Rig::up();
        rig.submit(&[command]);
        assert_eq!(rig.bank.read32(0x9c) >> 24, 1, "{command:x?}");
        rig.is_clean();
    }
    // Without stage 2, and without stage 1.
    for (config, command) in [
        (ModelConfig::stage1(), [0x28, 0]),
        (ModelConfig::stage1(), [0x2a, 0]),
        (ModelConfig::stage2(), [0x10, 0]),
        (ModelConfig::stage2(), [0x05, 1]),
    ] {
        let rig = Rig::up_with(config);
        rig.submit(&[command]);
        assert_eq!(rig.bank.read32(0x9c) >> 24, 1, "{command:x?}");
    }
    // With ATS, PRI and stalls.
    let rig = Rig::up_with(ModelConfig {
        idr0: 0x0845_141b,
        ..Default::default()
    });
    rig.submit(&[
        [0x40, 52],
        [0x41, 0x2000],
        [0x44, 0],
        [0x45, 0],
        [0x01, 0],
        [0x2046, 0],
    ]);
    assert_eq!(rig.bank.read32(0x60), 0);
    rig.submit(&[[0x41, 0x3000]]);
    assert_eq!(rig.bank.read32(0x60), 1);
}

#[test]
fn a_queue_outside_memory_aborts() {
    let rig = Rig::new(ModelConfig::default());
    rig.bank.write64(0x90, 0x1_0000 | 8);
    rig.cr0(8);
    rig.bank.write32(0x98, 1);
    assert_eq!(
        (rig.bank.read32(0x9c), rig.bank.read32(0x60)),
        (0x0200_0000, 1)
    );
}

#[test]
fn commands_are_counted() {
    let rig = Rig::up();
    rig.model.clear_commands();
    rig.submit(&[CFGI_ALL, SYNC]);
    rig.submit(&[TLBI_ALL, TLBI_ALL, SYNC]);
    assert_eq!(
        rig.model.commands(),
        [CFGI_ALL, SYNC, TLBI_ALL, TLBI_ALL, SYNC]
    );
    assert_eq!((rig.model.syncs(), rig.model.max_batch()), (2, 3));
}

#[test]
fn a_queue_can_be_frozen_and_made_to_fail() {
    let rig = Rig::up();
    rig.model.clear_commands();
    rig.model.freeze_commands(true);
    rig.submit(&[SYNC, SYNC]);
    assert_eq!(rig.model.syncs(), 0);
    rig.model.freeze_commands(false);
    assert_eq!(rig.model.syncs(), 2);
    rig.model.fail_command(1);
    rig.submit(&[SYNC, SYNC]);
    assert_eq!((rig.model.syncs(), rig.bank.read32(0x9c) >> 24), (3, 1));
}

#[test]
fn an_ignored_command_invalidates_nothing() {
    let rig = Rig::up();
    rig.ste(5, &[BYPASS]);
    rig.read(5, 0);
    rig.ste(5, &[ABORT]);
    rig.model.ignore_command(Box::new(|opcode| opcode == 3));
    rig.submit(&[[0x0005_0000_0003, 1], SYNC]);
    assert_eq!(rig.read(5, 0), to(0));
    rig.submit(&[CFGI_ALL, SYNC]);
    assert_eq!(rig.read(5, 0), Outcome::Aborted);
}

#[test]
fn a_dead_atc_fails_the_next_sync_only() {
    let rig = Rig::up_with(ModelConfig {
        idr0: 0x0d44_141b,
        ..Default::default()
    });
    rig.model.kill_atc(5, true);
    rig.submit(&[[0x0005_0000_0040, 52], SYNC]);
    assert_eq!((rig.bank.read32(0x9c) >> 24, rig.bank.read32(0x60)), (3, 1));
    rig.model.clear_commands();
    rig.bank.write32(0x64, 1);
    assert_eq!(rig.model.syncs(), 1);
}

#[test]
fn a_sync_may_signal_by_message() {
    let rig = Rig::up_with(ModelConfig {
        idr0: 0x0d44_301b,
        ..Default::default()
    });
    rig.submit(&[[0x1234_5678_0000_1046, DATA + 4]]);
    assert_eq!(rig.peek(DATA), 0x1234_5678_0000_0000);
    rig.submit(&[[0x1234_5678_0000_1046, 0x1000]]);
    assert_eq!(rig.bank.read32(0x60), 0x10);
}

#[test]
fn events_overflow_once_until_acknowledged() {
    let rig = Rig::up();
    for stream in 0..4 {
        rig.model.post_raw_event([stream, !0, stream, !0]);
    }
    assert_eq!(rig.bank.read32(0x1_00a8), 4);
    rig.model.post_raw_event([9; 4]);
    rig.model.post_raw_event([9; 4]);
    assert_eq!(rig.bank.read32(0x1_00a8), 0x8000_0004);
    assert_eq!(
        rig.events(),
        [0, 1, 2, 3].map(|stream| [stream, !0, stream, !0])
    );
    rig.bank.write32(0x1_00ac, 0x8000_0004);
    for _ in 0..5 {
        rig.model.post_raw_event([7; 4]);
    }
    assert_eq!(rig.bank.read32(0x1_00a8), 0, "wrapped, and toggled back");
    rig.is_clean();
}

#[test]
fn an_event_queue_outside_memory_is_a_global_error() {
    let rig = Rig::new(ModelConfig::default());
    rig.bank.write64(0xa0, 0x1_0000 | 2);
    rig.model.post_raw_event([1; 4]);
    rig.cr0(4);
    rig.model.post_raw_event([1; 4]);
    assert_eq!((rig.bank.read32(0x60), rig.bank.read32(0x1_00a8)), (4, 0));
    rig.model.set_gerror(0x104);
    assert_eq!(rig.bank.read32(0x60), 0x104);
}
