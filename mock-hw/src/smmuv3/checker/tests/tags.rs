use super::*;

const OTHER_TABLES: &str = "which has other tables or attributes of stream";

/// CMD_TLBI_NH_ASID, CMD_TLBI_NH_ALL, CMD_TLBI_S12_VMALL.
fn by_asid(vmid: u64, asid: u64) -> [u64; 2] {
    [0x11 | vmid << 32 | asid << 48, 0]
}
fn by_vmid(vmid: u64) -> [u64; 2] {
    [0x10 | vmid << 32, 0]
}
fn by_vmid_all(vmid: u64) -> [u64; 2] {
    [0x28 | vmid << 32, 0]
}

/// Stage 1 of stream 5, turned to abort; what follows; and another stage 1 under the same tag.
fn reused(ids: ModelConfig, before: &[[u64; 2]], to: Image) -> Rig {
    let from = Image::new(one(CD, 2)).context(0, cd(ROOT, 7));
    let none = Image::new(abort());
    let mut rig = Rig::with(ids, Atomicity::Word, &from);
    rig.expect(&[&from, &none]);
    rig.put(none.entry, &[0]);
    rig.run(before);
    rig.is_clean();
    for (context, words) in &to.contexts {
        rig.describe(OTHER_CD + u64::from(*context) * 64, *words);
    }
    rig.expect(&[&from, &none, &to]);
    rig.put(to.entry, &[1, 2]);
    rig.sync();
    rig.put(to.entry, &[0]);
    rig
}

#[test]
fn an_asid_is_free_when_its_translations_were_invalidated_after_their_last_use() {
    let other = || Image::new(one(OTHER_CD, 2)).context(0, cd(OTHER_ROOT, 7));
    let reused = |before: &[[u64; 2]], to| reused(ModelConfig::default(), before, to);
    for enough in [by_asid(2, 7), by_vmid(2), by_vmid_all(2), TLBI_ALL] {
        reused(&[CFGI_STE, SYNC, enough, SYNC], other()).is_clean();
    }
    let too_little: [&[[u64; 2]]; 8] = [
        &[CFGI_STE, SYNC],
        // Before the entry is confirmed, it can fill the TLB again.
        &[CFGI_STE, TLBI_ALL, SYNC],
        &[TLBI_ALL, CFGI_STE, SYNC],
        &[TLBI_ALL, SYNC, CFGI_STE, SYNC],
        // Another ASID, another VMID, the hypervisor, one page.
        &[CFGI_STE, SYNC, by_asid(2, 8), SYNC],
        &[
            CFGI_STE,
            SYNC,
            by_asid(3, 7),
            by_vmid(3),
            by_vmid_all(3),
            SYNC,
        ],
        &[CFGI_STE, SYNC, [0x20, 0], SYNC],
        &[CFGI_STE, SYNC, [0x12 | 2 << 32 | 7 << 48, 0], SYNC],
    ];
    for commands in too_little {
        reused(commands, other()).failed(OTHER_TABLES);
    }
    // Other tags, or the same tables, need nothing; what a TLB does not have may differ.
    let enough: &[[u64; 2]] = &[CFGI_STE, SYNC];
    reused(
        enough,
        Image::new(one(OTHER_CD, 2)).context(0, cd(OTHER_ROOT, 8)),
    )
    .is_clean();
    reused(
        enough,
        Image::new(one(OTHER_CD, 3)).context(0, cd(OTHER_ROOT, 7)),
    )
    .is_clean();
    let same = |field| Image::new(one(OTHER_CD, 2)).context(0, set(cd(ROOT, 7), &[field]));
    for field in [(45, 45, 0), (47, 47, 0), (351, 320, 1)] {
        reused(enough, same(field)).is_clean();
    }
    for field in [(5, 0, 26), (36, 36, 1), (255, 192, 1), (319, 256, 1)] {
        reused(enough, same(field)).failed(OTHER_TABLES);
    }
    // The other set of ASIDs is the same one for what is not global.
    let set = Image::new(one(OTHER_CD, 2)).context(0, set(cd(OTHER_ROOT, 7), &[(47, 47, 1)]));
    reused(enough, set).failed(OTHER_TABLES);
}

#[test]
fn an_invalidation_of_translations_is_waited_for() {
    let passed_on = |commands: &[[u64; 2]]| {
        let none = Image::new(abort());
        let from = Image::new(one(CD, 2)).context(0, cd(ROOT, 7));
        let mut rig = Rig::new(&from);
        rig.expect(&[&from, &none]);
        rig.put(none.entry, &[0]);
        rig.sync();
        rig.run(commands);
        rig.describe(OTHER_CD, cd(OTHER_ROOT, 7));
        rig.checker.watch(6, PhysAddr(ENTRY + 64), one(OTHER_CD, 2));
        let to = Image::new(one(OTHER_CD, 2)).context(0, cd(OTHER_ROOT, 7));
        rig.checker.expect(6, &[to]);
        rig
    };
    passed_on(&[TLBI_ALL, SYNC]).is_clean();
    passed_on(&[TLBI_ALL]).failed("of stream 0x5 (not invalidated since)");
    passed_on(&[SYNC, TLBI_ALL]).failed("of stream 0x5 (not invalidated since)");
}

#[test]
fn what_happens_to_others_meanwhile_does_not_matter() {
    let mut rig = reused(
        ModelConfig::default(),
        &[CFGI_STE, SYNC, TLBI_ALL],
        Image::new(one(OTHER_CD, 3)).context(0, cd(OTHER_ROOT, 8)),
    );
    // The stream was looked at between the invalidation and the CMD_SYNC.
    let other = Image::new(one(CD, 2)).context(0, cd(OTHER_ROOT, 7));
    rig.describe(CD, cd(OTHER_ROOT, 7));
    rig.checker.watch(6, PhysAddr(ENTRY + 64), other.entry);
    rig.checker.expect(6, &[other]);
    rig.is_clean();
}

#[test]
fn a_tag_that_is_taken_again_is_in_use_again() {
    let from = Image::new(one(CD, 2)).context(0, cd(ROOT, 7));
    let none = Image::new(abort());
    let mut rig = Rig::new(&from);
    rig.expect(&[&from, &none]);
    for entry in [none.entry, from.entry] {
        rig.put(entry, &[0]);
        rig.sync();
    }
    rig.run(&[TLBI_ALL, SYNC]);
    rig.is_clean();
    let other = Image::new(one(OTHER_CD, 2)).context(0, cd(OTHER_ROOT, 7));
    rig.describe(OTHER_CD, cd(OTHER_ROOT, 7));
    rig.checker.watch(6, PhysAddr(ENTRY + 64), other.entry);
    rig.checker.expect(6, &[other]);
    rig.failed("of stream 0x5 (in use)");
}

#[test]
fn without_stage_2_there_is_no_vmid() {
    let other = || Image::new(one(OTHER_CD, 3)).context(0, cd(OTHER_ROOT, 7));
    let confirmed: &[[u64; 2]] = &[CFGI_STE, SYNC];
    reused(ModelConfig::stage1(), confirmed, other()).failed(OTHER_TABLES);
    let flushed = |vmid| [CFGI_STE, SYNC, by_asid(vmid, 7), SYNC];
    reused(ModelConfig::stage1(), &flushed(0), other()).is_clean();
    reused(ModelConfig::stage1(), &flushed(2), other()).failed(OTHER_TABLES);
}

#[test]
fn a_regime_without_asids_has_one_set_of_tables() {
    let ids = || ModelConfig {
        idr0: ModelConfig::default().idr0 | 1 << 9,
        ..ModelConfig::default()
    };
    // STRW; without EPD1, which is not looked at.
    let hypervisor = |context, root, asid| {
        let entry = set(one(context, 2), &[(95, 94, 0b10)]);
        Image::new(entry).context(0, cd(root, asid))
    };
    let turned = |flush: [u64; 2]| {
        let (from, to) = (hypervisor(CD, ROOT, 7), hypervisor(OTHER_CD, OTHER_ROOT, 8));
        let none = Image::new(abort());
        let mut rig = Rig::with(ids(), Atomicity::Word, &from);
        rig.describe(OTHER_CD, cd(OTHER_ROOT, 8));
        rig.expect(&[&from, &none, &to]);
        rig.put(none.entry, &[0]);
        rig.run(&[CFGI_STE, SYNC, flush, SYNC]);
        rig.put(to.entry, &[0]);
        rig
    };
    turned([0x20, 0]).is_clean();
    turned(TLBI_ALL).failed("Hypervisor, which has other tables");
}

#[test]
fn tables_do_not_change_under_a_tag_in_use() {
    // In one store, seen by all as the old or the new descriptor.
    let from = Image::new(one(CD, 2)).context(0, cd(ROOT, 7));
    let to = Image::new(from.entry).context(0, cd(OTHER_ROOT, 7));
    let mut rig = Rig::new(&from);
    rig.expect(&[&from, &to]);
    rig.store(CD + 8, &[cd(OTHER_ROOT, 7)[1]]);
    rig.failed(
        "Virtual { vmid: 2, asid: 7 }, which has other tables or attributes of stream 0x5 (in use)",
    );
}

/// Streams 5 and 6 as they stand.
fn both(five: &Image, six: &Image) -> Rig {
    let mut rig = Rig::new(five);
    if let Some(words) = six.contexts.get(&0) {
        rig.describe(six.entry[0] & mask(56) & !63, *words);
    }
    rig.checker.watch(6, PhysAddr(ENTRY + 64), six.entry);
    rig.checker.expect(6, std::slice::from_ref(six));
    rig
}

#[test]
fn a_tag_means_the_same_to_all_streams() {
    let stage1 = |context, root, asid| Image::new(one(context, 2)).context(0, cd(root, asid));
    let five = stage1(CD, ROOT, 7);
    both(&five, &stage1(OTHER_CD, ROOT, 7)).is_clean();
    both(&five, &stage1(OTHER_CD, OTHER_ROOT, 8)).is_clean();
    both(&five, &stage1(OTHER_CD, OTHER_ROOT, 7)).failed("stream 0x6 can fill the TLB's Virtual");
    let stage2 = |root, vmid| Image::new(two(root, vmid));
    both(&stage2(ROOT, 3), &stage2(ROOT, 3)).is_clean();
    both(&stage2(ROOT, 3), &stage2(OTHER_ROOT, 4)).is_clean();
    both(&stage2(ROOT, 3), &stage2(OTHER_ROOT, 3))
        .failed("Intermediate { vmid: 3 }, which has other");
    // How faults are reported is each stream's own business, and so is S2PTW without stage 1.
    let quiet = |words| Image::new(set(words, &[(186, 186, 0), (182, 182, 1)]));
    both(&stage2(ROOT, 3), &quiet(two(ROOT, 3))).is_clean();
    let guest = |words| Image::new(words);
    both(
        &guest(nested(CD, ROOT, 3)),
        &guest(nested(OTHER_CD, ROOT, 3)),
    )
    .is_clean();
    both(&guest(nested(CD, ROOT, 3)), &stage2(ROOT, 3)).is_clean();
    both(
        &guest(nested(CD, ROOT, 3)),
        &quiet(nested(OTHER_CD, ROOT, 3)),
    )
    .failed("Nested { vmid: 3 }");
}

#[test]
fn one_stage_and_two_do_not_share_a_vmid() {
    let alone = Image::new(one(CD, 3)).context(0, cd(ROOT, 7));
    let guest = Image::new(nested(OTHER_CD, ROOT, 3));
    both(&alone, &guest).failed("which has the other number of stages of stream 0x5");
    both(&guest, &alone).failed("which has the other number of stages of stream 0x5");
    both(&alone, &Image::new(nested(OTHER_CD, ROOT, 4))).is_clean();
    // Nor do streams of one stage each.
    both(&alone, &Image::new(two(ROOT, 3))).failed("which has the other stage of stream 0x5");
    both(&alone, &Image::new(two(ROOT, 4))).is_clean();
}

/// Stage 1 takes the VMID of the stage 2 that is to come, then stage 2 comes.
fn retagged(others: &Image) -> (Rig, Image) {
    let from = Image::new(one(CD, 0)).context(0, cd(ROOT, 7));
    let to = Image::new(two(OTHER_ROOT, 4));
    let mut between = from.clone();
    between.entry[2] = to.entry[2];
    let mut rig = both(&from, others);
    rig.expect(&[&from, &between, &to]);
    rig.put(to.entry, &[3]);
    rig.put(to.entry, &[2]);
    rig.sync();
    rig.put(to.entry, &[0]);
    rig.sync();
    rig.put(to.entry, &[1]);
    rig.expect(&[&to]);
    (rig, from)
}

#[test]
fn a_stage_1_takes_the_vmid_of_the_stage_2_to_come_if_no_other_stream_has_it() {
    retagged(&Image::new(bypass())).0.is_clean();
    let (rig, _) = retagged(&Image::new(two(OTHER_ROOT, 4)));
    rig.failed(
        "stream 0x5 can fill the TLB's Virtual { vmid: 4, asid: 7 }, which has the other stage",
    );
    // Until that tag is flushed, it is that stage 1's.
    let again = |flush: &[[u64; 2]]| {
        let (mut rig, _) = retagged(&Image::new(bypass()));
        rig.run(flush);
        let to = Image::new(one(OTHER_CD, 4)).context(0, cd(OTHER_ROOT, 7));
        rig.describe(OTHER_CD, cd(OTHER_ROOT, 7));
        rig.expect(&[&Image::new(two(OTHER_ROOT, 4)), &to]);
        rig.put(to.entry, &[1]);
        rig.sync();
        rig.put(to.entry, &[0]);
        rig
    };
    again(&[by_asid(4, 7), SYNC]).is_clean();
    again(&[by_asid(0, 7), SYNC]).failed(OTHER_TABLES);
    again(&[]).failed(OTHER_TABLES);
}

#[test]
fn streams_that_turn_together_share_a_vmid_on_the_way() {
    let from = Image::new(one(CD, 0)).context(0, cd(ROOT, 7));
    let to = Image::new(two(OTHER_ROOT, 4));
    let mut between = from.clone();
    between.entry[2] = to.entry[2];
    let entries = [ENTRY, ENTRY + 64];
    let turned = |path: [&Image; 3], words: &[usize], six_stays: bool| {
        let mut rig = both(path[0], path[0]);
        rig.describe(CD, cd(ROOT, 7));
        let six = if six_stays { &path[..1] } else { &path[..] };
        let all = |images: &[&Image]| images.iter().copied().cloned().collect::<Vec<_>>();
        rig.checker.expect(6, &all(six));
        rig.expect(&path);
        // Step by step, both streams.
        for word in words {
            for at in &entries[..if six_stays { 1 } else { 2 }] {
                let value = path[2].entry[*word];
                rig.store(at + 8 * *word as u64, &[value]);
            }
            rig.run(&[CFGI_ALL, SYNC]);
        }
        rig
    };
    turned([&from, &between, &to], &[3, 2, 0, 1], false).is_clean();
    turned([&to, &between, &from], &[1, 0, 2, 3], false).is_clean();
    // Stream 6 has its stage 2, and is none of stream 5's business.
    let rig = turned([&to, &between, &from], &[1, 0], true);
    rig.failed("Virtual { vmid: 4, asid: 7 }, which has the other stage of stream 0x6 (in use)");
}

#[test]
fn a_vmid_is_free_when_both_kinds_of_addresses_were_invalidated() {
    let turned = |flush: [u64; 2]| {
        let (from, to) = (Image::new(two(ROOT, 3)), Image::new(two(OTHER_ROOT, 3)));
        let none = Image::new(abort());
        let mut rig = Rig::new(&from);
        rig.expect(&[&from, &none, &to]);
        rig.put(none.entry, &[0]);
        rig.run(&[CFGI_STE, SYNC, flush, SYNC]);
        rig.put(to.entry, &[3]);
        rig.sync();
        rig.put(to.entry, &[0]);
        rig
    };
    turned(by_vmid_all(3)).is_clean();
    turned(TLBI_ALL).is_clean();
    for too_little in [by_vmid(3), by_vmid_all(4), [0x2a | 3 << 32, 0], SYNC] {
        turned(too_little).failed("Intermediate { vmid: 3 }, which has other tables");
    }
}
