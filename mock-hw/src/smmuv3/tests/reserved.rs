use super::*;

/// What a transaction of stream 5 brings up, besides what memory has anyway.
fn noted(config: ModelConfig, ste: &[u64], cd: &[u64]) -> Vec<String> {
    let rig = Rig::up_with(config);
    rig.stage1();
    rig.stage2();
    rig.ste(5, ste);
    rig.poke(CD, cd);
    rig.read(5, 0x20_3000);
    rig.read(5, 0x20_3000);
    rig.model.violations()
}

/// Sets each of these bits in stream 5's entry; it is legal all the same, and noted once.
fn entry(ste: [u64; 8], bits: &[usize]) {
    for bit in bits {
        let mut words = ste;
        words[bit / 64] |= 1 << (bit % 64);
        assert_eq!(
            noted(ModelConfig::default(), &words, &[CD_39, S1, 0, 0xff]),
            [format!("STE 0x5 has reserved bits set: {bit}")]
        );
    }
}

#[test]
fn reserved_bits_of_an_entry_are_noted() {
    let stage1 = [STE_S1, 0, 2, 0, 0, 0, 0, 0];
    // Always, and for want of a feature.
    let always = [
        56, 58, 105, 107, 192, 193, 248, 252, 254, 255, 288, 303, 319, 328,
    ];
    let rest = [376, 383, 384, 387, 388, 439, 440, 447];
    let features = [
        82, 88, 89, 90, 94, 95, 96, 99, 100, 101, 104, 108, 109, 112, 115,
    ];
    let more = [190, 191, 272, 287, 320, 327, 329, 331, 332, 375, 448, 511];
    for bits in [&always[..], &rest, &features, &more] {
        entry(stage1, bits);
    }
    // With stage 2: S2HAFT, S2PIE, S2POE, S2SL0[2], S2DS, S2TTB[55:52].
    let stage2 = [STE_S2, 0, S2_39, S2, 0, 0, 0, 0];
    entry(stage2, &[187, 188, 189, 194, 195, 244, 247]);
}

#[test]
fn what_is_ignored_or_not_reserved_is_not_noted() {
    let clean: [&[u64]; 5] = [
        // Config 0b000: all of it; V is 0: all of it.
        &[!0xe, !0, !0, !0, !0, !0, !0, !0],
        &[!1, !0, !0, !0, !0, !0, !0, !0],
        // S1DSS to S1CSH, S2HWU, DRE, CONT, DCP, MEV, SW, NSCFG, and IMPLEMENTATION DEFINED bits.
        &[STE_S1, 0xfff0_c000_00fb_ffff, 0xffff_0002, 0, 0xffff],
        // The fields of stage 2 without it; Config 0b101.
        &[STE_S1, 0, 0x3fff_ffff_ffff_0002, 0x00ff_ffff_ffff_fffc],
        // The fields of stage 1 without it; Config 0b110.
        &[0xf8ff_ffff_ffff_fffd, 0xff, S2_39, S2],
    ];
    for ste in clean {
        let noted = noted(ModelConfig::default(), ste, &[CD_39, S1, 0, 0xff]);
        assert_eq!(noted, [""; 0], "{ste:x?}");
    }
    // ATTR_TYPES_OVR: MTCFG with its MemAttr, ALLOCCFG, SHCFG. Without MTCFG, MemAttr is RES0.
    let types = ModelConfig {
        idr1: 0x0a73_0010,
        ..Default::default()
    };
    let cd = [CD_39, S1, 0, 0xff];
    let ste = |word1| [STE_S1, word1, 2];
    assert_eq!(noted(types.clone(), &ste(0x31ff_0000_0000), &cd), [""; 0]);
    assert_eq!(
        noted(types, &ste(0x3002_0000_0000), &cd),
        ["STE 0x5 has reserved bits set: 97"]
    );
}

#[test]
fn reserved_bits_of_a_descriptor_are_noted() {
    let bits = [
        66, 67, 116, 119, 120, 121, 122, 123, 130, 131, 184, 185, 186, 187, 352, 367, 368, 375,
        376, 383, 384, 431, 432, 447, 448, 495, 496, 511,
    ];
    for bit in bits {
        let mut words = [CD_39, S1, 0, 0xff, 0, 0, 0, 0];
        words[bit / 64] |= 1 << (bit % 64);
        assert_eq!(
            noted(ModelConfig::default(), &[STE_S1, 0, 2], &words),
            [format!("CD 0x0 of stream 0x5 has reserved bits set: {bit}")]
        );
    }
    // NSCFG0, HWU0, AMAIR, IMPLEMENTATION DEFINED bits; TTB1 and its fields with EPD1.
    let words = [
        CD_39 | 0x3fff_0000,
        S1 | 0xf000_0000_0000_0001,
        0xf0ff_ffff_ffff_fff3,
        0xff,
        !0,
        0xffff_ffff,
    ];
    assert_eq!(
        noted(ModelConfig::default(), &[STE_S1, 0, 2], &words),
        [""; 0]
    );
}

#[test]
fn pointers_that_are_not_aligned_are_noted() {
    let rig = |ste: &[u64], cd: &[u64]| {
        let rig = Rig::up_with(ModelConfig {
            idr0: 0x0d4c_101b,
            idr1: 0x0273_0510,
            ..Default::default()
        });
        rig.ste(5, ste);
        rig.poke(CD, cd);
        rig.poke(CD + 0x40, cd);
        rig
    };
    let cd = [CD_39, S1, 0, 0xff];
    // S1CDMax 2, linear: four descriptors, 256 bytes.
    let linear = rig(&[2 << 59 | 0x4003_004b, 2, 2], &cd);
    linear.read(5, 0);
    linear.noted("S1ContextPtr of STE 0x5 is 0x40030040, not aligned to its size of 2^8 bytes");
    // S1CDMax 10 and 4 KiB tables: 16 pointers. S1CDMax 14 and 64 KiB tables: as many.
    for ste in [10 << 59 | 0x4005_005b, 14 << 59 | 0x4005_006b] {
        let rig = rig(&[ste, 2, 2], &cd);
        rig.poke(0x4005_0040, &[CD | 1]);
        rig.read(5, 0);
        rig.noted("S1ContextPtr of STE 0x5 is 0x40050040, not aligned to its size of 2^7 bytes");
    }
    // One bit less, and 64 bytes do.
    for ste in [9 << 59 | 0x4005_005b, 13 << 59 | 0x4005_006b] {
        let rig = rig(&[ste, 2, 2], &cd);
        rig.poke(0x4005_0040, &[CD | 1]);
        rig.read(5, 0);
        rig.is_clean();
    }
    // 39 bits: 512 descriptors, 4 KiB.
    let table = rig(&[STE_S1, 0, 2], &[CD_39, S1 + 0x800, 0, 0xff]);
    table.read(5, 0);
    table.noted("TTB0 of CD 0x0 of stream 0x5 is 0x40100800, not aligned");
    // TTB1 too: EPD1 is 0, TG1 4 KiB, T1SZ 25.
    let table = rig(
        &[STE_S1, 0, 2],
        &[CD_39 & !(1 << 30) | 0x0099_0000, S1, S1 + 0x10, 0xff],
    );
    table.read(5, 0);
    table.noted("TTB1 of CD 0x0 of stream 0x5 is 0x40100010, not aligned");
}

#[test]
fn first_level_descriptors_have_reserved_bits() {
    // Two levels of streams: SPLIT 8, 16 bits.
    let streams = |level1| {
        let rig = Rig::new(ModelConfig::default());
        rig.bank.write64(0x80, STREAMS);
        rig.bank.write32(0x88, 0x1_0210);
        rig.queues();
        rig.enable();
        rig.poke(STREAMS, &[level1]);
        rig.poke(0x4002_0000 + 5 * 64, &[BYPASS]);
        assert_eq!(rig.read(5, 0x1000), to(0x1000));
        rig
    };
    for bit in [5, 56, 63] {
        streams(0x4002_0009 | 1 << bit).noted(&format!("L1STD 0x0 has reserved bits set: {bit}"));
    }
    streams(0x4002_0009).is_clean();
    // Two levels of contexts, of 4 KiB and 64 KiB.
    let contexts = |format: u64, level1| {
        let rig = Rig::up_with(ModelConfig {
            idr0: 0x0d4c_101b,
            idr1: 0x0273_0410,
            ..Default::default()
        });
        rig.stage1();
        rig.ste(5, &[8 << 59 | 0x4005_000b | format << 4, 2, 2]);
        rig.poke(0x4005_0000, &[level1]);
        rig.poke(0x4006_1000, &[CD_39, S1, 0, 0xff]);
        assert_eq!(rig.read(5, 0x20_3000), to(DATA));
        rig
    };
    for bit in [1, 11, 56, 63] {
        contexts(1, 0x4006_1001 | 1 << bit).noted(&format!(
            "L1CD 0x0 of stream 0x5 has reserved bits set: {bit}"
        ));
    }
    contexts(1, 0x4006_1001).is_clean();
    contexts(2, 0x4006_1001).noted("L1CD 0x0 of stream 0x5 has reserved bits set: 12");
}

#[test]
fn reserved_bits_of_commands_are_noted() {
    // Each with all that may be set: range invalidation; ATS, PRI, stalls; substreams.
    let full = [
        [0x0000_003f_ffff_f801, 0],
        [0x0000_003f_ffff_f802, 0xffff_ffff_ffff_f3ff],
        [0x0000_003f_0000_0003, 1],
        [0xffff_ffff_0000_0004, 0x1f],
        [0x0000_003f_ffff_f005, 1],
        [0x0000_003f_0000_0006, 0],
        [0x0000_ffff_0000_0010, 0],
        [0xffff_ffff_0000_0011, 0],
        [0xffff_ffff_01f1_f012, 0x4000_0701],
        [0x0000_ffff_01f1_f013, 0x4000_0701],
        [0x0000_ffff_0000_0028, 0],
        [0x0000_ffff_01f1_f02a, 0x4000_0701],
        [0x30, 0],
        [0x0000_003f_ffff_fa40, 0xffff_ffff_ffff_f034],
        [0x0000_003f_ffff_f841, 0x21ff],
        [0x0000_003f_0000_3044, 0xffff],
        [0x0000_003f_0000_0045, 0],
        [0xffff_ffff_0fc0_2046, 0x000f_ffff_ffff_fffc],
    ];
    let config = ModelConfig {
        idr0: 0x0845_141b,
        idr1: 0x0273_0510,
        ..Default::default()
    };
    for command in full {
        let rig = Rig::up_with(config.clone());
        rig.submit(&[command]);
        assert_eq!(rig.bank.read32(0x60), 0, "{command:x?}");
        rig.is_clean();
        // One more bit that means nothing; 8 never does.
        rig.submit(&[[command[0] | 1 << 8, command[1]]]);
        rig.noted(&format!(
            "the command {:#x} {:#x} has reserved bits set: 8",
            command[0] | 1 << 8,
            command[1]
        ));
    }
    let noted = |config: ModelConfig, command, bits: &str| {
        let rig = Rig::up_with(config);
        rig.submit(&[command, SYNC]);
        assert_eq!(rig.bank.read32(0x60), 0, "{command:x?}");
        let [low, high] = command;
        rig.noted(&format!(
            "the command {low:#x} {high:#x} has reserved bits set: {bits}"
        ));
    };
    let ids = ModelConfig::default;
    // Without TG there is no range and no level.
    noted(ids(), [0x0007_0002_0000_1012, 0x20_3001], "12");
    noted(ids(), [0x0007_0002_0100_0012, 0x20_3101], "24, 72");
    noted(ids(), [0x0007_0002_0200_2012, 0x20_0701], "25");
    noted(ids(), [0x0007_0002_0000_0013, 0x20_3001], "48, 49, 50");
    noted(ids(), [0x0002_0000_002a, 0x0010_0000_0020_3001], "116");
    let narrow = ModelConfig {
        idr0: ids().idr0 & !(1 << 12 | 1 << 18),
        ..ids()
    };
    noted(narrow, [0x0107_0102_0000_0011, 0], "40, 56");
    noted(ModelConfig::stage1(), [0x0007_0001_0000_0011, 0], "32");
    // No range invalidation at all.
    let plain = ModelConfig {
        idr3: 0x1014,
        ..ids()
    };
    noted(plain, [0x0007_0002_0000_0012, 0x20_0401], "74");
}

#[test]
fn parameters_out_of_range_are_noted() {
    let rig = |command| {
        let rig = Rig::up();
        rig.submit(&[command]);
        assert_eq!(rig.bank.read32(0x60), 0);
        rig
    };
    for command in [
        [0x0001_0000_0000_0003, 1],
        [0x0001_0000_0000_0004, 3],
        [0x0005_0000_1005, 1],
        [0x0005_0000_1801, 0],
    ] {
        rig(command).noted("the command");
    }
    for command in [
        [0xffff_0000_0003, 1],
        [!0xffff_ffff | 4, 0x1f],
        [0x0005_0000_1001, 0],
    ] {
        rig(command).is_clean();
    }
}
