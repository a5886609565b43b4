use super::*;

/// The descriptor or the table is now at [`OTHER_CD`].
fn moved(mut entry: Words) -> Words {
    entry[0] = entry[0] - CD + OTHER_CD;
    entry
}

/// CMD_CFGI_CD for stream 5.
fn cfgi_cd(substream: u64, leaf: u64) -> [u64; 2] {
    [0x0005_0000_0005 | substream << 12, leaf]
}

const CFGI_CD_ALL: [u64; 2] = [0x0005_0000_0006, 0];

/// Substreams: S1CDMax, S1DSS 2 (transactions without one use descriptor 0).
fn with_substreams(context: u64, bits: u64) -> Words {
    set(one(context, 2), &[(63, 59, bits), (65, 64, 2)])
}

/// Stage 1 of one descriptor, moved to another one; and what follows.
fn swung() -> Rig {
    let from = Image::new(one(CD, 2)).context(0, cd(ROOT, 7));
    let to = Image::new(moved(from.entry)).context(0, cd(OTHER_ROOT, 8));
    let mut rig = Rig::new(&from);
    // Whole and valid before anything leads to it: that needs no invalidation.
    for (at, word) in (OTHER_CD..).step_by(8).zip(cd(OTHER_ROOT, 8)) {
        rig.store(at, &[word]);
    }
    rig.expect(&[&from, &to]);
    rig.put(to.entry, &[0]);
    rig.is_clean();
    rig
}

#[test]
fn stage_1_is_exchanged_by_its_pointer() {
    let mut rig = swung();
    rig.sync();
    rig.is_clean();
    // The old descriptor is free for anything.
    rig.store(CD + 8, &[0xbad]);
    rig.store(CD, &[0]);
    rig.is_clean();
    let to = Image::new(one(OTHER_CD, 2)).context(0, cd(OTHER_ROOT, 8));
    rig.expect(&[&to]);
    rig.is_clean();
}

#[test]
fn the_old_descriptor_is_in_use_until_the_entry_is_confirmed() {
    let too_little: [&[[u64; 2]]; 5] = [
        &[],
        &[CFGI_STE],
        &[SYNC],
        // The entry is cached still, and leads there again.
        &[CFGI_CD_ALL, SYNC],
        &[cfgi_cd(0, 0), SYNC],
    ];
    for commands in too_little {
        let mut rig = swung();
        rig.run(commands);
        rig.is_clean();
        rig.store(CD + 8, &[0xbad0]);
        rig.failed("context descriptor 0x0 from 0x40030000 [7620");
    }
}

#[test]
fn an_entry_is_seen_with_the_descriptor_of_the_one_before() {
    // The old descriptor stalls, which the new entry forbids. All of the entry changes in one store.
    let from = Image::new(one(CD, 2)).context(0, set(cd(ROOT, 7), &[(44, 44, 1)]));
    let forbids = set(moved(from.entry), &[(91, 91, 1)]);
    let to = Image::new(forbids).context(0, cd(OTHER_ROOT, 8));
    let between = Image::new(moved(from.entry)).context(0, cd(OTHER_ROOT, 8));
    let mut rig = Rig::with(rich(), Atomicity::Pair, &from);
    rig.describe(OTHER_CD, cd(OTHER_ROOT, 8));
    rig.expect(&[&from, &to]);
    rig.store(ENTRY, &forbids[..2]);
    rig.failed("the context descriptor is seen ILLEGAL: S where the stream forbids stalls");
    // It does when there are two steps.
    let mut rig = Rig::with(rich(), Atomicity::Pair, &from);
    rig.describe(OTHER_CD, cd(OTHER_ROOT, 8));
    rig.expect(&[&from, &between, &to]);
    rig.store(ENTRY, &between.entry[..2]);
    rig.sync();
    rig.store(ENTRY, &forbids[..2]);
    rig.sync();
    rig.is_clean();
}

#[test]
fn a_descriptor_is_torn_like_an_entry() {
    let from = Image::new(one(CD, 2)).context(0, cd(ROOT, 7));
    let to = Image::new(from.entry).context(0, cd(OTHER_ROOT, 8));
    let changed = |atomicity, stores: [&[u64]; 2]| {
        let mut rig = Rig::with(ModelConfig::default(), atomicity, &from);
        rig.expect(&[&from, &to]);
        let mut at = CD;
        for words in stores {
            rig.store(at, words);
            at += 8 * words.len() as u64;
        }
        rig
    };
    let words = cd(OTHER_ROOT, 8);
    changed(Atomicity::Pair, [&words[..2], &[]]).is_clean();
    let torn = "ASID 0x8, TTB [40100000, 0]";
    changed(Atomicity::Word, [&words[..2], &[]]).failed(torn);
    changed(Atomicity::Word, [&words[..1], &words[1..2]]).failed(torn);
}

#[test]
fn a_descriptor_is_confirmed_by_its_own_invalidation() {
    // R; then what is IMPLEMENTATION DEFINED. A TLB has neither.
    let quiet = set(cd(ROOT, 7), &[(45, 45, 0)]);
    let last = set(quiet, &[(351, 320, 1)]);
    let image = |words| Image::new(with_substreams(CD, 2)).context(3, words);
    let [from, between, to] = [cd(ROOT, 7), quiet, last].map(image);
    let changed = |commands: &[[u64; 2]]| {
        let mut rig = Rig::with(rich(), Atomicity::Word, &from);
        rig.expect(&[&from, &between]);
        rig.store(CD + 3 * 64, &quiet[..1]);
        rig.run(commands);
        rig.expect(&[&from, &between, &to]);
        rig.is_clean();
        rig.store(CD + 3 * 64 + 40, &last[5..6]);
        rig
    };
    for enough in [
        cfgi_cd(3, 1),
        cfgi_cd(3, 0),
        CFGI_CD_ALL,
        CFGI_STE,
        CFGI_ALL,
    ] {
        changed(&[enough, SYNC]).is_clean();
    }
    let other_stream = [0x0006_0000_3005, 0];
    for too_little in [cfgi_cd(2, 0), cfgi_cd(0, 0), other_stream, SYNC] {
        changed(&[too_little, SYNC]).failed("with substream 0x3 are translated");
    }
    changed(&[CFGI_CD_ALL]).failed("with substream 0x3 are translated");
}

#[test]
fn a_descriptor_in_a_live_table_is_filled_before_it_is_valid() {
    let from = Image::new(with_substreams(CD, 2)).context(0, cd(ROOT, 7));
    let to = from.clone().context(3, cd(OTHER_ROOT, 8));
    let filled = |commands: &[[u64; 2]], images: &[&Image]| {
        let mut rig = Rig::with(rich(), Atomicity::Word, &from);
        rig.expect(images);
        for at in 1..8 {
            rig.store(CD + 3 * 64 + 8 * at as u64, &[cd(OTHER_ROOT, 8)[at]]);
        }
        rig.run(commands);
        rig.is_clean();
        rig.store(CD + 3 * 64, &[cd(OTHER_ROOT, 8)[0]]);
        rig
    };
    filled(&[cfgi_cd(3, 1), SYNC], &[&from, &to]).is_clean();
    filled(&[cfgi_cd(3, 1)], &[&from, &to]).failed("with substream 0x3 are translated");
    // That it becomes valid is to be declared; that it becomes invalid, too.
    filled(&[cfgi_cd(3, 1), SYNC], &[&from]).failed("with substream 0x3 are translated");
    let mut rig = filled(&[cfgi_cd(3, 1), SYNC], &[&from, &to]);
    rig.run(&[cfgi_cd(3, 1), SYNC]);
    rig.expect(&[&to]);
    rig.store(CD + 3 * 64, &[0]);
    rig.failed("with substream 0x3 are refused with C_BAD_CD");
}

#[test]
fn each_substream_is_a_class_by_itself() {
    // A new table: transactions without substream get another stage 1, substream 3 keeps its own.
    let from = Image::new(with_substreams(CD, 2))
        .context(0, cd(ROOT, 7))
        .context(3, cd(ROOT, 9));
    let to = Image::new(moved(from.entry))
        .context(0, cd(OTHER_ROOT, 8))
        .context(3, cd(ROOT, 9));
    let swung = |third: Words, to: &Image, ordered: bool| {
        let mut rig = Rig::with(rich(), Atomicity::Word, &from);
        rig.describe(OTHER_CD, cd(OTHER_ROOT, 8));
        rig.describe(OTHER_CD + 3 * 64, third);
        rig.expect(&[&from, to]);
        rig.put(to.entry, &[0]);
        if ordered {
            rig.sync();
            rig.expect(&[to]);
        }
        rig
    };
    swung(cd(ROOT, 9), &to, false).is_clean();
    swung(cd(ROOT, 9), &to, true).is_clean();
    swung([0; 8], &to, false).failed("with substream 0x3 are refused");
    // One more than was declared.
    let without = Image::new(to.entry).context(0, cd(OTHER_ROOT, 8));
    swung([0; 8], &without, true).is_clean();
    swung(cd(ROOT, 9), &without, true).failed("with substream 0x3 are translated");
    // One that nobody ever declared.
    let mut rig = swung(cd(ROOT, 9), &to, true);
    rig.describe(OTHER_CD + 64, cd(ROOT, 9));
    rig.expect(&[&to]);
    rig.failed("with substream 0x1 are translated");
    let illegal = to.clone().context(1, set(cd(ROOT, 8), &[(41, 41, 0)]));
    let mut rig = swung(cd(ROOT, 9), &to, true);
    rig.expect(&[&to, &illegal]);
    rig.failed("image 1 is ILLEGAL: AA64");
    // The range.
    let mut wide = to.clone();
    wide.entry = set(wide.entry, &[(63, 59, 3)]);
    swung(cd(ROOT, 9), &wide, true).is_clean();
    let mut rig = swung(cd(ROOT, 9), &wide, true);
    rig.expect(&[&to]);
    rig.failed("with substream 0x4 are refused with C_BAD_CD");
}

/// Two levels, of 64 descriptors each; 7 bits of SubstreamID.
fn two_levels() -> Image {
    let entry = set(with_substreams(CD, 7), &[(5, 4, 1)]);
    Image::new(entry).context(0, cd(ROOT, 7))
}

/// A table of 64 descriptors, and its first level.
const LEAF: u64 = 0x4005_0000;
const SECOND_LEAF: u64 = 0x4006_0000;

/// Substream 0x41 appears with a second-level table.
fn with_second_leaf() -> (Rig, Image, Image) {
    let from = two_levels();
    let to = from.clone().context(0x41, cd(OTHER_ROOT, 8));
    let mut checker = EntryChecker::new(rich(), Atomicity::Word);
    checker.watch(5, PhysAddr(ENTRY), from.entry);
    checker.set_memory(PhysAddr(CD), &[LEAF | 1]);
    checker.set_memory(PhysAddr(LEAF), &cd(ROOT, 7));
    checker.expect(5, std::slice::from_ref(&from));
    let mut rig = Rig { checker };
    rig.is_clean();
    rig.expect(&[&from, &to]);
    for (at, word) in (SECOND_LEAF + 64..).step_by(8).zip(cd(OTHER_ROOT, 8)) {
        rig.store(at, &[word]);
    }
    rig.store(CD + 8, &[SECOND_LEAF | 1]);
    rig.is_clean();
    (rig, from, to)
}

#[test]
fn a_second_level_is_filled_before_anything_leads_to_it() {
    let (mut rig, from, to) = with_second_leaf();
    rig.run(&[cfgi_cd(0x40, 0), SYNC]);
    rig.expect(&[&to]);
    rig.is_clean();
    rig.expect(&[&from]);
    rig.failed("with substream 0x41 are translated");
    // Until it is confirmed, it may not be there.
    for too_little in [cfgi_cd(0x40, 1), cfgi_cd(0, 0)] {
        let (mut rig, _, to) = with_second_leaf();
        rig.run(&[too_little, SYNC]);
        rig.expect(&[&to]);
        rig.failed("with substream 0x41 are refused with C_BAD_CD or C_BAD_SUBSTREAMID");
    }
}

#[test]
fn a_first_level_that_leads_nowhere_is_noticed_at_once() {
    let (mut rig, _, to) = with_second_leaf();
    rig.run(&[CFGI_CD_ALL, SYNC]);
    rig.expect(&[&to]);
    rig.is_clean();
    rig.store(CD + 8, &[0]);
    rig.failed("with substream 0x41 are refused with C_BAD_CD or C_BAD_SUBSTREAMID");
}

#[test]
fn a_first_level_that_nobody_described_leads_nowhere() {
    let (mut rig, _, to) = with_second_leaf();
    rig.run(&[CFGI_CD_ALL, SYNC]);
    rig.expect(&[&to]);
    let mut wide = to;
    wide.entry = set(wide.entry, &[(63, 59, 10)]);
    rig.expect(&[&wide]);
    rig.put(wide.entry, &[0]);
    rig.sync();
    rig.checker.failures.clear();
    let further = wide.context(0x300, cd(OTHER_ROOT, 8));
    rig.expect(&[&further]);
    rig.failed("with substream 0x300 are refused");
}

#[test]
fn an_empty_second_level_is_in_use_too() {
    // The first level of substreams from 0x200 on is in a line of its own.
    let mut from = two_levels();
    from.entry = set(from.entry, &[(63, 59, 10)]);
    let emptied = |commands: &[[u64; 2]], late: &[[u64; 2]]| {
        let mut checker = EntryChecker::new(rich(), Atomicity::Word);
        checker.watch(5, PhysAddr(ENTRY), from.entry);
        checker.set_memory(PhysAddr(CD), &[LEAF | 1]);
        checker.set_memory(PhysAddr(CD + 64), &[SECOND_LEAF | 1]);
        checker.set_memory(PhysAddr(LEAF), &cd(ROOT, 7));
        checker.expect(5, std::slice::from_ref(&from));
        let mut rig = Rig { checker };
        rig.run(commands);
        rig.store(CD + 64, &[0]);
        rig.run(late);
        rig.is_clean();
        rig.store(SECOND_LEAF, &cd(OTHER_ROOT, 8)[..2]);
        rig
    };
    emptied(&[], &[CFGI_CD_ALL, SYNC]).is_clean();
    emptied(&[CFGI_CD_ALL], &[SYNC]).failed("with substream 0x200 are translated");
}

#[test]
fn a_table_of_two_levels_is_exchanged_by_its_pointer() {
    let from = two_levels();
    let to = Image::new(moved(from.entry)).context(0, cd(OTHER_ROOT, 8));
    let swung = |commands: &[[u64; 2]]| {
        let mut checker = EntryChecker::new(rich(), Atomicity::Word);
        checker.watch(5, PhysAddr(ENTRY), from.entry);
        checker.set_memory(PhysAddr(CD), &[LEAF | 1]);
        checker.set_memory(PhysAddr(LEAF), &cd(ROOT, 7));
        checker.set_memory(PhysAddr(OTHER_CD), &[SECOND_LEAF | 1]);
        checker.set_memory(PhysAddr(SECOND_LEAF), &cd(OTHER_ROOT, 8));
        checker.expect(5, &[from.clone(), to.clone()]);
        let mut rig = Rig { checker };
        rig.put(to.entry, &[0]);
        rig.run(commands);
        rig.is_clean();
        // The old first level, and what it led to.
        rig.store(CD, &[0xbad0_0001]);
        rig.store(LEAF, &[0xbad]);
        rig
    };
    let mut rig = swung(&[CFGI_STE, SYNC]);
    rig.expect(&[&to]);
    rig.is_clean();
    swung(&[CFGI_CD_ALL, SYNC]).failed("without substream are refused");
}

#[test]
fn a_second_level_is_in_use_until_its_first_and_its_descriptors_are_confirmed() {
    let removed = |commands: &[[u64; 2]]| {
        let (mut rig, from, to) = with_second_leaf();
        rig.run(&[CFGI_CD_ALL, SYNC]);
        rig.expect(&[&from, &to]);
        rig.store(CD + 8, &[0]);
        rig.run(commands);
        rig.expect(&[&from]);
        rig
    };
    for enough in [cfgi_cd(0x41, 0), CFGI_CD_ALL, CFGI_STE] {
        let mut rig = removed(&[enough, SYNC]);
        rig.store(SECOND_LEAF + 72, &[0xbad0]);
        rig.is_clean();
    }
    // In two steps, the first level first.
    removed(&[cfgi_cd(0x40, 0), SYNC, cfgi_cd(0x41, 1), SYNC]).is_clean();
    let too_little: [&[[u64; 2]]; 6] = [
        &[cfgi_cd(0x41, 1), SYNC],
        &[cfgi_cd(0x40, 0), SYNC],
        &[cfgi_cd(0, 0), SYNC],
        // What one drops, the other's stale pointer leads to again.
        &[cfgi_cd(0x41, 1), cfgi_cd(0x40, 0), SYNC],
        &[cfgi_cd(0x40, 0), cfgi_cd(0x41, 1), SYNC],
        &[cfgi_cd(0x41, 0)],
    ];
    for commands in too_little {
        removed(commands).failed("with substream 0x41 are translated");
    }
}

#[test]
fn streams_that_share_a_descriptor_cache_it_each() {
    let from = Image::new(one(CD, 2)).context(0, cd(ROOT, 7));
    let quiet = set(cd(ROOT, 7), &[(45, 45, 0)]);
    let to = Image::new(from.entry).context(0, quiet);
    let changed = |commands: &[[u64; 2]]| {
        let mut rig = Rig::new(&from);
        rig.checker.watch(6, PhysAddr(ENTRY + 64), from.entry);
        for stream in [5, 6] {
            rig.checker.expect(stream, &[from.clone(), to.clone()]);
        }
        rig.store(CD, &quiet[..1]);
        rig.run(commands);
        for stream in [5, 6] {
            rig.checker.expect(stream, std::slice::from_ref(&to));
        }
        rig
    };
    changed(&[cfgi_cd(0, 1), [0x0006_0000_0005, 1], SYNC]).is_clean();
    changed(&[CFGI_ALL, SYNC]).is_clean();
    changed(&[cfgi_cd(0, 1), SYNC]).failed("stream 0x6: transactions without substream");
}

#[test]
fn behind_stage_2_a_descriptor_is_known_by_its_place() {
    let from = Image::new(nested(CD, ROOT, 2));
    let to = Image::new(nested(OTHER_CD, ROOT, 2));
    let mut rig = Rig::new(&from);
    rig.expect(&[&from, &to]);
    // Whatever the guest writes there.
    rig.store(CD, &[0xbad]);
    rig.put(to.entry, &[0]);
    rig.sync();
    rig.expect(&[&to]);
    rig.is_clean();
    // A descriptor of one stage 2 is seen with another.
    let other = Image::new(nested(OTHER_CD, OTHER_ROOT, 3));
    let mut rig = Rig::with(ModelConfig::default(), Atomicity::Pair, &to);
    rig.expect(&[&to, &other]);
    rig.store(ENTRY + 16, &other.entry[2..4]);
    rig.failed("VMID 0x2, Guest { table: 40040000, format: 0, index: 0, vmid: 3, root: 40200000 }");
}
