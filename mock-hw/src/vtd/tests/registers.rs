//! Registers: handshakes, register-based invalidation, protected regions, and what must not be
//! done.

use super::*;

#[test]
fn capabilities_are_those_of_the_configuration() {
    let ids = |config| {
        let rig = Rig::new(config);
        assert_eq!(rig.bank.read32(0), 0x10);
        let halves = [0x10, 0x14].map(|at| u64::from(rig.bank.read32(at)));
        assert_eq!(halves[1] << 32 | halves[0], rig.bank.read64(0x10));
        rig.is_clean();
        (rig.bank.read64(8), rig.bank.read64(0x10))
    };
    assert_eq!(ids(VtdConfig::default()), (0xd2_008c_222f_0606, 0xf42));
    assert_eq!(ids(VtdConfig::caching()).0, 0xd2_008c_222f_0686);
    assert_eq!(ids(VtdConfig::scalable()).1, 0x4998_8000_0f42);
    assert_eq!(
        ids(VtdConfig::first_level().with_pasid_bits(0)),
        (0x1d2_008c_222f_0606, 0x8800_0000_0f42)
    );
    let odd = VtdConfig::default()
        .with_widths(&[3], 39)
        .with_domain_bits(8)
        .with_page_selective(None)
        .with_fault_records(4, 0x1e00)
        .with_large_pages(false, false)
        .with_draining(false, false)
        .with_write_buffer(true)
        .with_protected_regions(true, true)
        .with_flush_on_root(true);
    assert_eq!(ids(odd).0, 0x8000_0301_e026_0272);
}

#[test]
fn commands_are_acknowledged_late() {
    let rig = Rig::new(VtdConfig {
        ack_reads: 2,
        ..VtdConfig::default()
    });
    rig.bank.write64(0x90, QUEUE);
    rig.bank.write32(GCMD, QIE);
    let seen = [0; 3].map(|_: u32| rig.bank.read32(GSTS));
    assert_eq!(seen, [0, 0, QIE]);
    rig.bank.write64(0x20, ROOT);
    rig.bank.write32(GCMD, QIE | SRTP);
    let seen = [0; 3].map(|_: u32| rig.bank.read32(GSTS));
    assert_eq!(seen, [QIE, QIE, QIE | SRTP]);
    rig.is_clean();
}

#[test]
fn commands_come_one_at_a_time() {
    let rig = Rig::new(VtdConfig::default());
    rig.bank.write32(GCMD, QIE | SRTP);
    rig.noted("GCMD asked for 0x44000000: more than one");
    let rig = Rig::new(VtdConfig::default());
    rig.bank.write32(GCMD, SRTP);
    rig.bank.write32(GCMD, QIE);
    rig.noted("GCMD was written with 0x4000000 before");
    let rig = Rig::new(VtdConfig::default());
    // The write buffer needs no flush here.
    rig.bank.write32(GCMD, 1 << 27);
    rig.noted("GCMD was written with bits 0x8000000");
    let rig = Rig::new(VtdConfig::default().with_write_buffer(true));
    rig.bank.write32(GCMD, 1 << 27);
    assert_eq!([rig.bank.read32(GSTS), rig.bank.read32(GSTS)], [1 << 27, 0]);
    rig.is_clean();
}

#[test]
fn a_command_may_stick() {
    let rig = Rig::up();
    rig.model.stick(Handshake::Translation, true);
    rig.bank.write32(GCMD, QIE);
    for _ in 0..9 {
        assert_eq!(rig.bank.read32(GSTS) & TE, TE);
    }
    rig.refuses(8, 0, 2);
    // Software gave up, and does something else.
    rig.bank.write32(GCMD, QIE | SRTP);
    rig.bank.read32(GSTS);
    rig.model.stick(Handshake::Translation, false);
    assert_eq!(rig.bank.read32(GSTS), QIE | SRTP);
    assert_eq!(rig.read(8, 0), to(0));
    rig.is_clean();
}

#[test]
fn translation_is_enabled_last() {
    let rig = Rig::new(VtdConfig::default());
    rig.command(TE);
    rig.noted("translation is enabled and no root table was set");
    let start = || {
        let rig = Rig::new(VtdConfig::default());
        rig.queue();
        rig.root(ROOT);
        rig
    };
    let rig = start();
    rig.submit(&[IOTLB_ALL, FENCE, CONTEXT_ALL, WAIT]);
    rig.command(QIE | TE);
    rig.noted("translation is enabled before all caches were invalidated");
    let rig = start();
    rig.submit(&[CONTEXT_ALL, IOTLB_ALL, WAIT]);
    rig.command(QIE | TE);
    rig.noted("translation is enabled before all caches were invalidated");
    let rig = start();
    rig.submit(&[CONTEXT_ALL, FENCE, IOTLB_ALL, WAIT]);
    rig.bank.write64(0x20, T2);
    rig.command(QIE | TE);
    rig.noted("RTADDR is 0x40020000, but the root table that was set is 0x40000000");
    let rig = Rig::new(VtdConfig::default().with_flush_on_root(true));
    rig.root(ROOT);
    rig.command(TE);
    rig.is_clean();
}

#[test]
fn the_root_table_is_used_once_it_is_set() {
    let rig = Rig::up();
    rig.second_level();
    rig.bank.write64(0x20, T2);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.flush(&[CONTEXT_ALL, IOTLB_ALL]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.root(T2);
    // What is cached stays, but where the unit says otherwise.
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    assert_eq!(rig.read(8, 0x40_0000), to(DATA));
    rig.flush(&[CONTEXT_ALL, IOTLB_ALL]);
    rig.refuses(8, 0x20_3000, 1);
    let rig = Rig::up_with(VtdConfig::default().with_flush_on_root(true));
    rig.second_level();
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.root(T2);
    rig.refuses(8, 0x20_3000, 1);
    rig.is_clean();
}

#[test]
fn modes_that_there_are_not_are_refused() {
    let rig = Rig::up();
    rig.root(ROOT | 2 << 10);
    rig.refuses(8, 0, 0x30);
    let violations = rig.model.violations();
    assert!(violations[0].starts_with("reserved bits 0x800"));
    assert_eq!(violations[1], "RTADDR names the mode 2, which there is not");
    assert_eq!(
        violations[2],
        "the mode of the root table was changed while it is in use"
    );
    let mut config = VtdConfig::default();
    config.ecap |= 1 << 52;
    let rig = Rig::new(config);
    rig.queue();
    rig.root(ROOT | 3 << 10);
    rig.submit(&[CONTEXT_ALL, FENCE, IOTLB_ALL, WAIT]);
    rig.command(QIE | TE);
    assert_eq!(rig.read(8, 0), Outcome::Aborted);
    assert_eq!(rig.bank.read32(FSTS), 0);
    rig.is_clean();
}

/// A rig without a queue, whose source 8 has used its page, which is then gone.
fn by_register() -> Rig {
    let rig = Rig::new(VtdConfig::default().with_queued_invalidation(false));
    rig.poke(ROOT, &[CONTEXTS | 1, 0]);
    rig.root(ROOT);
    rig.bank.write64(0x28, 1 << 63 | 1 << 61);
    while rig.bank.read32(0x2c) >> 31 != 0 {}
    rig.bank.write64(0xf8, 1 << 63 | 1 << 60);
    while rig.bank.read64(0xf8) >> 63 != 0 {}
    rig.command(TE);
    rig.second_level();
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig
}

#[test]
fn registers_invalidate() {
    let rig = by_register();
    rig.poke(S2 + 0x2018, &[0]);
    rig.bank.write64(0xf0, 0x20_3000);
    rig.bank.write32(0xf8, 0);
    rig.bank.write32(0xfc, 0xb000_0005);
    assert_eq!(rig.bank.read32(0xfc), 0xb000_0005, "under way");
    assert_eq!(rig.bank.read32(0xfc), 0x3600_0005, "done, as asked for");
    rig.refuses(8, 0x20_3000, 6);
    rig.context(8, [0, 0]);
    rig.bank.write64(0x28, 0xe000_0000_0008_0005);
    rig.bank.read64(0x28);
    assert_eq!(rig.bank.read64(0x28), 0x7800_0000_0008_0005);
    rig.refuses(8, 0x40_0000, 2);
    rig.is_clean();
}

#[test]
fn registers_may_stick_and_do_nothing_beside_a_queue() {
    let rig = by_register();
    rig.model.stick(Handshake::Iotlb, true);
    rig.poke(S2 + 0x2018, &[0]);
    rig.bank.write64(0xf8, 1 << 63 | 1 << 60);
    for _ in 0..9 {
        assert_eq!(rig.bank.read64(0xf8) >> 63, 1);
    }
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.model.stick(Handshake::Iotlb, false);
    rig.refuses(8, 0x20_3000, 6);
    rig.is_clean();
    rig.bank.write64(0xf8, 1 << 63 | 1 << 60);
    rig.bank.write64(0xf8, 1 << 63 | 1 << 60);
    rig.noted("IOTLB was written while an invalidation is under way");
    let rig = Rig::up();
    rig.second_level();
    rig.read(8, 0x20_3000);
    rig.poke(S2 + 0x2018, &[0]);
    rig.bank.write64(0xf8, 1 << 63 | 1 << 60);
    assert_eq!(rig.bank.read64(0xf8) >> 63, 0);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.noted("IOTLB was used while the queue is enabled");
}

#[test]
fn protected_regions_keep_devices_out() {
    let config = VtdConfig::default().with_protected_regions(true, true);
    let rig = Rig::up_with(config.clone());
    rig.bank.write32(0x68, 0x4030_0000);
    rig.bank.write32(0x6c, 0x404f_ffff);
    rig.bank.write64(0x70, 1 << 32);
    rig.bank.write64(0x78, 1 << 32);
    rig.bank.write32(0x64, 1 << 31);
    let seen = [0; 2].map(|_: u32| rig.bank.read32(0x64));
    assert_eq!(seen, [1 << 31, 1 << 31 | 1]);
    rig.command(QIE);
    assert_eq!(rig.read(8, 0x4040_0000), Outcome::Aborted);
    assert_eq!(rig.read(8, 0x1_000f_f000), Outcome::Aborted);
    assert_eq!(rig.read(8, 0x1_0010_0000), to(0x1_0010_0000));
    // What is translated too.
    rig.command(QIE | TE);
    rig.second_level();
    assert_eq!(rig.read(8, 0x20_3000), Outcome::Aborted);
    rig.bank.write32(0x64, 0);
    while rig.bank.read32(0x64) != 0 {}
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.is_clean();
}

#[test]
fn what_means_nothing_stays_unwritten() {
    let note = |offset: usize, value: u64, wide: bool, what: &str| {
        let rig = Rig::new(VtdConfig::default());
        match wide {
            true => rig.bank.write64(offset, value),
            false => rig.bank.write32(offset, u32::try_from(value).unwrap()),
        }
        rig.noted(what);
    };
    note(0x20, 0x4000_0010, true, "reserved bits 0x10");
    note(0x28, 1 << 40, true, "reserved bits 0x10000000000");
    note(0x34, 0x80, false, "reserved bits 0x80");
    note(0x38, 1, false, "reserved bits 0x1");
    note(0x64, 1 << 31, false, "reserved bits 0x80000000");
    note(0x88, 0x10_0000, true, "reserved bits 0x100000");
    note(0x08, 1, true, "0x1 was written at 0x8");
    note(0x1c, 0, false, "0x0 was written at 0x1c");
    note(0x300, 1, false, "0x1 was written at 0x300");
    note(0x38, 0, true, "64 bits were written at 0x38");
    note(0x20, 1 << 50 | ROOT, true, "reserved bits 0x4000000000000");
    let rig = Rig::new(VtdConfig::default());
    assert_eq!(rig.bank.read64(0xa0), 0);
    rig.noted("64 bits were read at 0xa0");
    let rig = Rig::up();
    rig.bank.write64(0x90, QUEUE);
    rig.noted("the register at 0x90 was written while");
}

#[test]
fn the_queue_is_switched_only_when_it_is_empty() {
    let rig = Rig::new(VtdConfig::default());
    rig.bank.write64(0x90, QUEUE);
    rig.bank.write64(IQT, 16);
    rig.command(QIE);
    rig.noted("the queue is enabled with IQT at 0x10");
    let rig = Rig::up();
    rig.model.freeze_queue(true);
    rig.submit(&[WAIT]);
    rig.command(TE);
    rig.noted("the queue is disabled with IQH at 0x40 and IQT at 0x50");
}

#[test]
#[should_panic(expected = "no register of 8 bytes at offset 0x4")]
fn accesses_are_aligned() {
    Rig::new(VtdConfig::default()).bank.read64(4);
}
