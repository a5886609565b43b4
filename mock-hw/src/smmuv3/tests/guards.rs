use super::*;

/// With messages, page requests, ATS; range invalidation as ever.
fn rich() -> ModelConfig {
    ModelConfig {
        idr0: 0x0d45_341b,
        ..Default::default()
    }
}

#[test]
fn where_messages_go_stays_while_they_are_sent() {
    let rig = Rig::new(rich());
    rig.bank.write64(0x68, 0x4040_0000);
    rig.bank.write32(0x70, 7);
    rig.bank.write32(0x74, 0x3f);
    rig.is_clean();
    for (enable, wide, words, name) in [
        (1, 0x68, [0x70, 0x74], "GERROR_IRQ_CFG"),
        (4, 0xb0, [0xb8, 0xbc], "EVENTQ_IRQ_CFG"),
        (2, 0xd0, [0xd8, 0xdc], "PRIQ_IRQ_CFG"),
    ] {
        let rig = Rig::new(rich());
        rig.bank.write32(0x50, 7 & !enable);
        while rig.bank.read32(0x54) != 7 & !enable {}
        rig.bank.write64(wide, 0x4040_0000);
        rig.bank.write32(words[0], 9);
        rig.bank.write32(words[1], 0xf);
        rig.is_clean();
        // It is enabled before that is acknowledged, and until its end is.
        rig.bank.write32(0x50, 7);
        rig.bank.write32(words[0], 8);
        rig.noted(name);
        while rig.bank.read32(0x54) != 7 {}
        rig.bank.write64(wide, 0);
        rig.bank.write32(words[1], 0);
        rig.bank.write32(0x50, 0);
        rig.bank.write32(words[0], 8);
        assert_eq!(rig.model.violations().len(), 4);
        let kept = (
            rig.bank.read64(wide),
            rig.bank.read32(words[0]),
            rig.bank.read32(words[1]),
        );
        assert_eq!(kept, (0x4040_0000, 9, 0xf));
    }
}

#[test]
fn reserved_bits_of_registers_are_noted() {
    let narrow = [
        (0x20, 0x20),
        (0x20, 0x2),
        (0x20, 0x10),
        (0x20, 0x40),
        (0x28, 0x1000),
        (0x2c, 0x10),
        (0x2c, 0x4),
        (0x2c, 0x8),
        (0x2c, 0x1),
        (0x44, 0x8020_0000),
        (0x44, 0x8000_4000),
        (0x44, 0x8000_0020),
        (0x50, 0x8),
        (0x50, 0x2),
        (0x70, 0x1),
        (0x74, 0x1),
        (0x88, 0x4_0000),
        (0x88, 0x800),
        (0xdc, 0x1),
        // Of queues of one entry.
        (0x98, 0x10_0000),
        (0x98, 0x2),
        (0x9c, 0x8000_0000),
        (0x9c, 0x2),
        (0x1_00a8, 0x4000_0000),
        (0x1_00a8, 0x2),
        (0x1_00ac, 0x10_0000),
        (0x1_00cc, 0x1),
        // No such register, or not for software.
        (0x0, 0x0),
        (0x24, 0x1),
        (0x40, 0x0),
        (0x60, 0x0),
        (0xdc0, 0x1),
        (0x1_0000, 0x1),
    ];
    for (offset, value) in narrow {
        let rig = Rig::new(ModelConfig::default());
        rig.bank.write32(offset, value);
        assert_eq!(rig.model.violations().len(), 1, "{value:#x} at {offset:#x}");
    }
    let rig = Rig::new(rich());
    for (offset, value) in [
        (0x28, 0xfff),
        (0x2c, 0x2),
        (0x44, 0x801f_3f1f),
        (0x48, !0),
        (0x50, 0x7),
        (0x98, 0),
        (0x1_00ac, 0x8000_0000),
        (0xdc0, 0),
        (0x20, 0x1f),
    ] {
        rig.bank.write32(offset, value);
    }
    rig.is_clean();
    let wide = [
        (0x80, 63),
        (0x80, 56),
        (0x80, 44),
        (0x80, 5),
        (0x90, 63),
        (0x90, 61),
        (0x90, 55),
        (0xa0, 56),
        (0xa0, 44),
        (0x68, 12),
        (0xb0, 2),
        (0xc0, 12),
        (0xd0, 12),
    ];
    for (offset, bit) in wide {
        let rig = Rig::new(ModelConfig::default());
        rig.bank.write64(offset, 1 << bit);
        assert_eq!(rig.model.violations().len(), 1, "bit {bit} at {offset:#x}");
    }
    for (offset, bit) in [(0x68, 1), (0x68, 56), (0xb0, 44)] {
        let rig = Rig::new(rich());
        rig.bank.write64(offset, 1 << bit);
        assert_eq!(rig.model.violations().len(), 1, "bit {bit} at {offset:#x}");
    }
    let rig = Rig::new(rich());
    rig.bank.write64(0x80, 0x4000_0fff_ffff_ffc0);
    rig.bank.write64(0x90, 0x4000_0fff_ffff_ffff);
    rig.bank.write64(0xd0, 0x0000_0fff_ffff_fffc);
    rig.is_clean();
}

#[test]
fn a_stream_table_has_a_known_shape() {
    let enabled = |cfg| {
        let rig = Rig::new(ModelConfig::default());
        rig.bank.write64(0x80, STREAMS);
        rig.bank.write32(0x88, cfg);
        rig.cr0(1);
        rig
    };
    for cfg in [0x6, 0x1_0190, 0x1_0210, 0x1_0290] {
        enabled(cfg).is_clean();
    }
    // SPLIT 7; FMT 2 and 3.
    for cfg in [0x1_01d0, 0x2_0006, 0x3_0006] {
        enabled(cfg).noted("STRTAB_BASE_CFG is");
    }
}

#[test]
fn events_are_taken_out_in_order() {
    let rig = Rig::up();
    for _ in 0..3 {
        rig.model.post_raw_event([1; 4]);
    }
    rig.bank.write32(0x1_00ac, 2);
    rig.bank.write32(0x1_00ac, 2);
    rig.is_clean();
    rig.bank.write32(0x1_00ac, 1);
    rig.noted("EVENTQ_CONS was moved to 0x1, past PROD or back");
    let rig = Rig::up();
    rig.bank.write32(0x1_00ac, 1);
    rig.noted("EVENTQ_CONS was moved to 0x1");
    // An overflow is acknowledged once it was.
    let rig = Rig::up();
    rig.bank.write32(0x1_00ac, 0x8000_0000);
    rig.noted("EVENTQ_CONS acknowledges an overflow that was not");
}

#[test]
fn queues_are_enabled_with_indexes_that_fit() {
    for (register, enable, name) in [(0x98, 8, "the command"), (0x1_00a8, 4, "the event")] {
        let rig = Rig::new(ModelConfig::default());
        rig.bank.write64(0x90, COMMANDS | 2);
        rig.bank.write64(0xa0, EVENTS | 2);
        rig.model.freeze_commands(true);
        rig.bank.write32(register, 5);
        rig.cr0(enable);
        rig.noted(&format!("{name} queue was enabled with 5 entries"));
        rig.cr0(0);
        rig.bank.write32(register, 4);
        rig.cr0(enable);
        assert_eq!(rig.model.violations().len(), 1);
    }
}

#[test]
fn acknowledgements_can_take_their_time() {
    let rig = Rig::new(ModelConfig::default());
    for register in [AckRegister::Cr0, AckRegister::IrqCtrl, AckRegister::Gbpa] {
        rig.model.delay_ack(register, 3);
    }
    rig.bank.write32(0x44, 0x8010_0000);
    rig.bank.write32(0x20, 8);
    rig.bank.write32(0x50, 1);
    let looks = |at| [0; 4].map(|_: u32| rig.bank.read32(at));
    assert_eq!(rig.read(5, 0), to(0), "not in force");
    assert_eq!(
        looks(0x44),
        [0x8010_0000, 0x8010_0000, 0x8010_0000, 0x0010_0000]
    );
    assert_eq!((looks(0x24), looks(0x54)), ([0, 0, 0, 8], [0, 0, 0, 1]));
    assert_eq!(rig.read(5, 0), Outcome::Aborted);
    rig.model.delay_ack(AckRegister::Cr0, 0);
    rig.bank.write32(0x20, 0);
    assert_eq!(rig.bank.read32(0x24), 0);
    rig.is_clean();
}

#[test]
fn interrupts_are_switched_one_change_at_a_time() {
    let rig = Rig::new(ModelConfig::default());
    rig.bank.write32(0x50, 1);
    rig.bank.write32(0x50, 5);
    rig.is_clean();
    rig.bank.write32(0x50, 4);
    rig.noted("IRQ_CTRL was changed again before IRQ_CTRLACK");
}
