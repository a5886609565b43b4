use super::*;

#[test]
fn identification_is_as_configured() {
    let rig = Rig::new(ModelConfig::default());
    let ids = [0, 4, 8, 0xc, 0x10, 0x14, 0x18, 0x1c, 0x44].map(|at| rig.bank.read32(at));
    assert_eq!(
        ids,
        [0x0d44_101b, 0x0273_0010, 0, 0x1414, 0, 0x74, 0, 1, 0x1000]
    );
}

#[test]
fn an_acknowledgement_takes_a_second_look() {
    let rig = Rig::new(ModelConfig::default());
    rig.bank.write32(0x20, 0xffff_ffff);
    assert_eq!(
        [
            rig.bank.read32(0x20),
            rig.bank.read32(0x24),
            rig.bank.read32(0x24)
        ],
        [0xd, 0, 0xd]
    );
    rig.bank.write32(0x50, 5);
    assert_eq!([rig.bank.read32(0x54), rig.bank.read32(0x54)], [0, 5]);
    let rig = Rig::new(ModelConfig {
        slow_acks: false,
        ..Default::default()
    });
    rig.bank.write32(0x20, 1);
    assert_eq!(rig.bank.read32(0x24), 1);
}

#[test]
fn gbpa_changes_with_update_only() {
    let rig = Rig::new(ModelConfig::default());
    assert_eq!(rig.read(1, 0x1234), to(0x1234));
    rig.bank.write32(0x44, 0x0010_0000);
    assert_eq!(
        (rig.bank.read32(0x44), rig.model.violations().len()),
        (0x1000, 1)
    );
    rig.bank.write32(0x44, 0x8010_0000);
    rig.bank.write32(0x44, 0x8000_0000);
    assert_eq!(
        rig.model.violations().len(),
        2,
        "while the update is under way"
    );
    assert_eq!(
        [rig.bank.read32(0x44), rig.bank.read32(0x44)],
        [0x8010_0000, 0x0010_0000]
    );
    assert_eq!(rig.read(1, 0x1234), Outcome::Aborted);
}

#[test]
fn acknowledgements_can_be_withheld() {
    let rig = Rig::new(ModelConfig::default());
    for register in [AckRegister::Cr0, AckRegister::IrqCtrl, AckRegister::Gbpa] {
        rig.model.stick_ack(register, true);
    }
    rig.bank.write32(0x20, 1);
    rig.bank.write32(0x50, 1);
    rig.bank.write32(0x44, 0x8010_0000);
    for _ in 0..9 {
        assert_eq!((rig.bank.read32(0x24), rig.bank.read32(0x54)), (0, 0));
        assert_eq!(rig.bank.read32(0x44), 0x8010_0000);
    }
    assert_eq!(
        rig.read(1, 0x1000),
        to(0x1000),
        "neither enabled nor aborting"
    );
    rig.model.stick_ack(AckRegister::Gbpa, false);
    assert_eq!(
        (rig.read(1, 0x1000), rig.bank.read32(0x44)),
        (Outcome::Aborted, 0x0010_0000)
    );
    rig.is_clean();
}

#[test]
fn wide_registers_have_halves() {
    let rig = Rig::new(ModelConfig {
        idr0: 0x0d44_301b,
        ..Default::default()
    });
    rig.bank.write32(0x80, 0x4001_0000);
    rig.bank.write32(0x84, 0x4000_0001);
    assert_eq!(rig.bank.read64(0x80), 0x4000_0001_4001_0000);
    rig.bank.write64(0x68, 0x0000_0344_5566_7788);
    assert_eq!(
        (rig.bank.read32(0x68), rig.bank.read32(0x6c)),
        (0x5566_7788, 0x344)
    );
    rig.is_clean();
    assert_eq!(rig.bank.read64(0x20), 0);
    rig.bank.write64(0x98, 1);
    rig.bank.read32(0xa8);
    assert_eq!(rig.model.violations().len(), 3);
}

#[test]
fn what_breaks_silicon_is_noted() {
    let rig = Rig::up();
    let writes = [
        |rig: &Rig| rig.bank.write64(0x80, 0),
        |rig: &Rig| rig.bank.write32(0x88, 0),
        |rig: &Rig| rig.bank.write32(0x28, 0xd40),
        |rig: &Rig| rig.bank.write32(0x28, 0x15),
        |rig: &Rig| rig.bank.write32(0x2c, 0),
        |rig: &Rig| rig.bank.write64(0x90, 0),
        |rig: &Rig| rig.bank.write32(0x9c, 0),
        |rig: &Rig| rig.bank.write32(0xa0, 0),
        |rig: &Rig| rig.bank.write32(0x1_00a8, 0),
        |rig: &Rig| rig.bank.write32(0x64, 1),
    ];
    for (count, write) in (1..).zip(writes) {
        write(&rig);
        assert_eq!(
            rig.model.violations().len(),
            count,
            "{:?}",
            rig.model.violations()
        );
    }
    assert_eq!(rig.bank.read64(0x80), STREAMS);
    // While the disable is not acknowledged, too.
    rig.bank.write32(0x20, 0);
    rig.bank.write32(0x88, 0);
    assert_eq!(rig.model.violations().len(), 11);
    rig.bank.write32(0x20, 0xd);
    assert!(rig.model.violations()[11].starts_with("CR0 was changed again"));
}

#[test]
fn bases_are_aligned_to_their_sizes() {
    let rig = Rig::new(ModelConfig::default());
    rig.bank.write64(0x80, STREAMS + 0x40);
    rig.bank.write32(0x88, 6);
    rig.bank.write64(0x90, (COMMANDS + 0x100) | 8);
    rig.bank.write64(0xa0, (EVENTS + 0x20) | 2);
    rig.cr0(0xd);
    assert_eq!(rig.model.violations().len(), 3);
    let rig = Rig::new(ModelConfig::default());
    rig.bank.write64(0x90, 0x4000_0000 | 20);
    rig.cr0(8);
    assert_eq!(rig.model.violations().len(), 1);
}

#[test]
fn prod_past_full_stops_the_queue() {
    let rig = Rig::up();
    let cons = rig.bank.read32(0x9c);
    rig.model.freeze_commands(true);
    rig.bank.write32(0x98, (cons + 0x100) & 0x1ff);
    rig.is_clean();
    rig.bank.write32(0x98, (cons + 0x101) & 0x1ff);
    assert_eq!(rig.model.violations().len(), 1);
    rig.model.freeze_commands(false);
    assert_eq!(rig.bank.read32(0x9c), cons);
    // Disabling and enabling the queue starts it again.
    rig.cr0(0);
    rig.model.clear_commands();
    rig.bank.write32(0x98, cons);
    rig.cr0(8);
    rig.submit(&[SYNC]);
    assert_eq!(rig.model.syncs(), 1);
}

#[test]
fn nothing_that_software_writes_panics() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let rig = Rig::new(ModelConfig {
        idr0: 0x0e4f_7fff,
        idr1: 0x7fff_ffff,
        idr3: !0,
        ..Default::default()
    });
    for round in 0..300 {
        for at in (0x20..0xe0).step_by(4).chain([0x1_00a8, 0x1_00ac]) {
            rig.bank
                .write32(at, u32::try_from(random() & 0xffff_ffff).unwrap());
        }
        for at in (0x4000_0000..0x4002_0000u64).step_by(8 * (1 + round % 7)) {
            rig.poke(at, &[random() & 0xffff_00ff_40ff_ffff]);
        }
        for base in [0x80, 0x90, 0xa0] {
            rig.bank.write32(base + 4, 0);
        }
        rig.bank.write32(0x20, 0x1f);
        rig.bank.read32(0x24);
        for _ in 0..20 {
            let stream = u32::try_from(random() & 0x1ff).unwrap();
            let substream = (random() & 1 == 0).then_some(stream >> 4);
            rig.model.transact(
                stream,
                substream,
                random() >> (random() & 31),
                Access::Write,
            );
            let _ = rig.model.stream_config(stream);
            let _ = rig.model.cached_stream_config(stream);
        }
        rig.bank.write32(0x20, 0);
        rig.bank.read32(0x24);
    }
}
