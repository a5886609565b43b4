use super::*;

#[test]
fn pages_and_blocks_translate() {
    let rig = Rig::up();
    rig.stage1();
    assert_eq!(rig.read(5, 0x20_3abc), to(DATA + 0xabc));
    assert_eq!(rig.write(5, 0x5f_ffff), to(0x405f_ffff));
    assert_eq!(rig.write(5, 0x7fff_fff0), to(0x7fff_fff0));
    let StreamConfig::Stage1 { stage1, eats: 0 } = rig.model.stream_config(5) else {
        panic!()
    };
    let context = stage1.descriptor.unwrap();
    assert_eq!(
        (stage1.vmid, context.asid, context.record, context.stall),
        (2, 7, true, false)
    );
    let tables = context.low.unwrap();
    assert_eq!(
        (tables.root.0, tables.input_bits, tables.start_level),
        (S1, 39, 1)
    );
    rig.is_clean();
}

#[test]
fn a_device_reads_and_writes_across_pages() {
    let rig = Rig::up();
    rig.stage1();
    rig.poke(
        S1 + 0x2018,
        &[(DATA + 0x5000) | PAGE, (DATA + 0x1000) | PAGE],
    );
    let device = DmaDevice::new(&rig.model, 5);
    assert_eq!(device.write(0x20_3ffe, &[1, 2, 3, 4]), to(DATA + 0x5ffe));
    assert_eq!(
        (rig.peek(DATA + 0x5ff8), rig.peek(DATA + 0x1000)),
        (0x0201_0000_0000_0000, 0x0403)
    );
    let mut bytes = [0; 4];
    assert_eq!(device.read(0x20_3ffe, &mut bytes), to(DATA + 0x5ffe));
    assert_eq!(bytes, [1, 2, 3, 4]);
    assert_eq!(device.write(0x20_4ffe, &[9; 4]), Outcome::Faulted);
    assert_eq!(
        rig.events(),
        [[0x0000_0005_0000_0010, 0x0200_0000_0000, 0x20_5000, 0]]
    );
    rig.is_clean();
}

#[test]
fn faults_are_recorded_word_by_word() {
    let rig = Rig::up();
    rig.stage1();
    rig.poke(
        S1 + 0x2000,
        &[
            DATA | READ_ONLY,
            DATA | PAGE & !0x400,
            1 << 44 | PAGE,
            DATA | PAGE & !0x40,
        ],
    );
    let faults = [
        (
            0x20_7123,
            Access::Read,
            [0x0000_0005_0000_0010, 0x0208_0000_0000],
        ),
        (
            0x80_0000_0000,
            Access::Read,
            [0x0000_0005_0000_0010, 0x0208_0000_0000],
        ),
        (
            0xff80_0000_0000_0000,
            Access::Write,
            [0x0000_0005_0000_0010, 0x0200_0000_0000],
        ),
        (
            0x20_0000,
            Access::Write,
            [0x0000_0005_0000_0013, 0x0200_0000_0000],
        ),
        (
            0x20_1000,
            Access::Read,
            [0x0000_0005_0000_0012, 0x0208_0000_0000],
        ),
        (
            0x20_2008,
            Access::Read,
            [0x0000_0005_0000_0011, 0x0208_0000_0000],
        ),
        (
            0x20_3008,
            Access::Read,
            [0x0000_0005_0000_0013, 0x0208_0000_0000],
        ),
    ];
    for (iova, access, [first, second]) in faults {
        assert_eq!(rig.model.transact(5, None, iova, access), Outcome::Faulted);
        assert_eq!(rig.events(), [[first, second, iova, 0]], "{iova:#x}");
    }
    assert_eq!(
        rig.read(5, 0x20_0000),
        to(DATA),
        "read-only is not unreadable"
    );
    // A table outside memory: F_WALK_EABT with CLASS TT and the address of the descriptor.
    rig.poke(S1 + 0x1010, &[0x1003]);
    rig.submit(&[TLBI_ALL, SYNC]);
    assert_eq!(rig.write(5, 0x40_5000), Outcome::Faulted);
    assert_eq!(
        rig.events(),
        [[0x0000_0005_0000_000b, 0x0100_0000_0000, 0x40_5000, 0x1028]]
    );
    rig.is_clean();
}

#[test]
fn faults_are_silent_without_r() {
    let rig = Rig::up();
    rig.stage1();
    rig.poke(CD, &[CD_39 & !(1 << 45)]);
    assert_eq!(rig.read(5, 0x20_9000), Outcome::Aborted);
    assert_eq!(rig.events(), [[0; 4]; 0]);
}

#[test]
fn a_bad_cd_is_recorded() {
    let rig = Rig::up();
    rig.stage1();
    let bad = [
        CD_39 & !(1 << 31), // V
        CD_39 | 1 << 44,    // S without stalls
        CD_39 & !(1 << 46), // no A where TERM_MODEL is 1
        CD_39 & !(1 << 41), // AA64
        CD_39 & !0x3f | 10, // T0SZ
        CD_39 | 0b11 << 6,  // TG0
        CD_39 | 1 << 43,    // HA without HTTU
        CD_39 | 1 << 15,    // ENDI
    ];
    for word in bad {
        rig.poke(CD, &[word]);
        rig.submit(&[[0x0005_0000_0005, 1], SYNC]);
        assert_eq!(rig.read(5, 0x20_3000), Outcome::Faulted);
        assert_eq!(
            rig.events(),
            [[0x0000_0005_0000_000a, 0, 0, 0]],
            "{word:#x}"
        );
    }
    rig.ste(5, &[0x100b]);
    rig.submit(&[[0x0005_0000_0003, 1], SYNC]);
    assert_eq!(rig.read(5, 0x20_3000), Outcome::Faulted);
    assert_eq!(rig.events(), [[0x0000_0005_0000_0009, 0, 0, 0x1000]]);
    rig.is_clean();
}

#[test]
fn high_addresses_use_ttb1_in_its_own_encoding() {
    let rig = Rig::up();
    rig.stage1();
    // T1SZ 25, TG1 2 (4 KiB), no EPD1.
    rig.poke(
        CD,
        &[CD_39 & !(1 << 30) | 25 << 16 | 2 << 22, S1, S1 + 0x8000],
    );
    rig.poke(S1 + 0x8ff8, &[0x4000_0000 | BLOCK]);
    assert_eq!(rig.read(5, 0xffff_ffff_c012_3456), to(0x4012_3456));
    assert_eq!(rig.read(5, 0xffff_ff00_0000_0000), Outcome::Faulted);
    rig.is_clean();
}

#[test]
fn other_granules_translate() {
    let rig = Rig::up();
    rig.stage1();
    // 16 KiB, T0SZ 28 (36 bits): level 2 has 11 bits, level 3 too.
    rig.poke(CD, &[CD_39 & !0x3f | 28 | 2 << 6]);
    rig.poke(S1, &[S1 + 0x4003, 0x4200_0000 | BLOCK]);
    rig.poke(S1 + 0x4008, &[(DATA + 0x4000) | PAGE]);
    assert_eq!(
        (rig.read(5, 0x7fff), rig.read(5, 0x3ff_ffff)),
        (to(DATA + 0x7fff), to(0x43ff_ffff))
    );
    // 64 KiB, T0SZ 22 (42 bits): level 2 has 13 bits, level 3 too.
    rig.poke(CD, &[CD_39 & !0x3f | 22 | 1 << 6]);
    rig.poke(S1, &[S1 + 0x1_0003]);
    rig.poke(S1 + 0x1_0008, &[(DATA + 0x1_0000) | PAGE]);
    rig.submit(&[CFGI_ALL, SYNC, TLBI_ALL, SYNC]);
    assert_eq!(rig.read(5, 0x1_fff0), to(DATA + 0x1_fff0));
    rig.is_clean();
}

#[test]
fn substreams_find_their_descriptors() {
    // SSIDSIZE 16, CD2L.
    let rig = Rig::up_with(ModelConfig {
        idr1: 0x0273_0410,
        idr0: 0x0d4c_101b,
        ..Default::default()
    });
    rig.stage1();
    // S1CDMax 2, S1DSS 0b10.
    rig.ste(5, &[2 << 59 | STE_S1, 2]);
    rig.poke(CD + 64, &[CD_39, S1, 0, 0xff]);
    let read = |substream| rig.model.transact(5, substream, 0x20_3000, Access::Read);
    assert_eq!((read(None), read(Some(1))), (to(DATA), to(DATA)));
    assert_eq!(
        (read(Some(0)), read(Some(4)), read(Some(2))),
        (Outcome::Faulted, Outcome::Faulted, Outcome::Faulted)
    );
    let events = rig
        .events()
        .into_iter()
        .map(|event| event[0])
        .collect::<Vec<_>>();
    assert_eq!(
        events,
        [
            0x0000_0005_0000_0006,
            0x0000_0005_0000_4008,
            0x0000_0005_0000_280a
        ]
    );
    // Two levels of 64 KiB, S1CDMax 11: substream 1025 is the second of the second table.
    rig.ste(5, &[11 << 59 | 0x4005_002b, 0]);
    rig.poke(0x4005_0008, &[0x4006_0001]);
    rig.poke(0x4006_0040, &[CD_39, S1, 0, 0xff]);
    rig.submit(&[[0x0005_0000_0003, 1], SYNC]);
    assert_eq!(
        (read(Some(1025)), read(Some(1)), read(None)),
        (to(DATA), Outcome::Faulted, Outcome::Faulted)
    );
    let events = rig
        .events()
        .into_iter()
        .map(|event| event[0])
        .collect::<Vec<_>>();
    assert_eq!(events, [0x0000_0005_0000_1008, 0x0000_0005_0000_0006]);
    rig.is_clean();
}

#[test]
fn stalled_transactions_wait_for_software() {
    let rig = Rig::up_with(ModelConfig {
        idr0: 0x0844_101b,
        ..Default::default()
    });
    rig.stage1();
    rig.poke(CD, &[CD_39 | 1 << 44]);
    let Outcome::Stalled(first) = rig.read(5, 0x20_4000) else {
        panic!()
    };
    let Outcome::Stalled(second) = rig.write(5, 0x20_4000) else {
        panic!()
    };
    let events = rig.events();
    assert_eq!(
        events[0],
        [
            0x0000_0005_0000_0010,
            0x0208_8000_0000 | u64::from(first),
            0x20_4000,
            0
        ]
    );
    assert_eq!(rig.model.resumed(first), None);
    rig.poke(S1 + 0x2020, &[DATA | PAGE]);
    rig.submit(&[
        [0x0005_0000_1044, u64::from(first)],
        [0x0005_0000_0045, 0],
        SYNC,
    ]);
    assert_eq!(rig.model.resumed(first), Some(to(DATA)));
    assert_eq!(rig.model.resumed(second), Some(Outcome::Aborted));
    rig.is_clean();
}

#[test]
fn tables_limit_what_is_below_them() {
    let rig = Rig::up();
    rig.stage1();
    // APTable: no writes.
    rig.poke(S1, &[1 << 62 | (S1 + 0x1003)]);
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    assert_eq!(rig.write(5, 0x20_3000), Outcome::Faulted);
    // HAD0.
    rig.poke(CD, &[CD_39, S1 | 2]);
    rig.submit(&[CFGI_ALL, SYNC, TLBI_ALL, SYNC]);
    assert_eq!(rig.write(5, 0x20_3000), to(DATA));
    // APTable: no unprivileged access.
    rig.poke(CD, &[CD_39, S1]);
    rig.poke(S1, &[1 << 61 | (S1 + 0x1003)]);
    rig.submit(&[CFGI_ALL, SYNC, TLBI_ALL, SYNC]);
    assert_eq!(rig.read(5, 0x20_3000), Outcome::Faulted);
    rig.is_clean();
}

#[test]
fn privilege_comes_from_the_entry_if_it_may() {
    // ATTR_PERMS_OVR.
    let rig = Rig::up_with(ModelConfig {
        idr1: 0x0673_0010,
        ..Default::default()
    });
    rig.stage1();
    rig.poke(S1 + 0x2018, &[DATA | READ_ONLY & !0x40]);
    // PRIVCFG 0b11.
    rig.ste(5, &[STE_S1, 3 << 48, 2]);
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    assert_eq!(rig.write(5, 0x20_3000), Outcome::Faulted);
    assert_eq!(
        rig.events(),
        [[0x0000_0005_0000_0013, 0x0202_0000_0000, 0x20_3000, 0]]
    );
    rig.is_clean();
}

#[test]
fn large_granules_have_blocks_at_level_2_only() {
    let rig = Rig::up();
    rig.stage1();
    // 16 KiB, T0SZ 25 (39 bits): from level 1 on.
    rig.poke(CD, &[CD_39 | 2 << 6]);
    rig.poke(S1, &[BLOCK]);
    assert_eq!(rig.read(5, 0x1000), Outcome::Faulted);
    assert_eq!(
        rig.events(),
        [[0x0000_0005_0000_0010, 0x0208_0000_0000, 0x1000, 0]]
    );
}

#[test]
fn addresses_out_of_range_are_illegal_at_once() {
    let config = ModelConfig::default();
    let far = 1 << 44;
    let ste = |words: [u64; 4]| {
        let [a, b, c, d] = words;
        config.decode_stream(&[a, b, c, d, 0, 0, 0, 0])
    };
    assert_eq!(
        ste([STE_S1 | far, 0, 0, 0]),
        Err("S1ContextPtr is out of range")
    );
    assert_eq!(ste([STE_S2, 0, S2_39, far]), Err("S2TTB is out of range"));
    let Ok(StreamConfig::Stage1 { stage1, .. }) = ste([STE_S1, 0, 0, 0]) else {
        panic!()
    };
    let cd = |root| config.decode_context(&stage1, &[CD_39, root, 0, 0, 0, 0, 0, 0]);
    assert_eq!(cd(far), Err("TTB is out of range"));
    assert_eq!(cd(S1).map(|context| context.asid), Ok(7));
}

#[test]
fn disabling_ends_all_stalls() {
    let rig = Rig::up_with(ModelConfig {
        idr0: 0x0844_101b,
        ..Default::default()
    });
    rig.stage1();
    rig.poke(CD, &[CD_39 | 1 << 44]);
    let Outcome::Stalled(tag) = rig.read(5, 0x20_4000) else {
        panic!()
    };
    rig.cr0(0xc);
    assert_eq!(rig.model.resumed(tag), Some(Outcome::Aborted));
}

#[test]
fn the_top_byte_is_ignored_on_request() {
    let rig = Rig::up();
    rig.stage1();
    assert_eq!(rig.read(5, 0xab00_0000_0020_3000), Outcome::Faulted);
    rig.poke(CD, &[CD_39 | 1 << 38]);
    rig.submit(&[CFGI_ALL, SYNC, TLBI_ALL, SYNC]);
    assert_eq!(rig.read(5, 0xab00_0000_0020_3000), to(DATA));
    rig.is_clean();
}

#[test]
fn no_context_reaches_past_the_output_size() {
    let rig = Rig::up();
    rig.stage1();
    // IPS 5: 48 bits, of which there are 44.
    rig.poke(CD, &[CD_39 + (1 << 32)]);
    rig.poke(S1 + 0x2018, &[1 << 44 | PAGE]);
    assert_eq!(rig.read(5, 0x20_3000), Outcome::Faulted);
    assert_eq!(rig.events()[0][0], 0x0000_0005_0000_0011);
    rig.is_clean();
}
