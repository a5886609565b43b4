use super::*;

/// Both configurations of most tests: all streams abort; stage 1.
fn abort_and_stage1() -> (Image, Image) {
    let to = Image::new(one(CD, 2)).context(0, cd(ROOT, 7));
    (Image::new(abort()), to)
}

/// From abort to stage 1: everything but the first word, these commands, the first word.
fn filled_then_swung(between: &[[u64; 2]]) -> Rig {
    let (from, to) = abort_and_stage1();
    let mut rig = Rig::new(&from);
    rig.describe(CD, cd(ROOT, 7));
    rig.expect(&[&from, &to]);
    rig.put(to.entry, &[1, 2]);
    rig.run(between);
    rig.is_clean();
    rig.put(to.entry, &[0]);
    rig
}

#[test]
fn words_are_filled_and_confirmed_before_the_critical_one() {
    let enough: [&[[u64; 2]]; 4] = [
        &[CFGI_STE, SYNC],
        &[CFGI_ALL, SYNC],
        // A range of two streams; of one invalidation, any SYNC behind it will do.
        &[[0x0004_0000_0004, 0], SYNC],
        &[SYNC, CFGI_STE, TLBI_ALL, SYNC, CFGI_STE],
    ];
    for between in enough {
        let mut rig = filled_then_swung(between);
        rig.sync();
        rig.is_clean();
        assert_eq!(rig.checker.views(5), 1);
    }
    let too_little: [&[[u64; 2]]; 7] = [
        &[],
        &[CFGI_STE],
        &[SYNC, CFGI_STE],
        // Another stream; another range; descriptors only.
        &[[0x0006_0000_0003, 1], SYNC],
        &[[0x0006_0000_0004, 0], SYNC],
        &[[0x0005_0000_0005, 0], SYNC],
        &[[0x0005_0000_0006, 0], SYNC],
    ];
    for between in too_little {
        filled_then_swung(between).failed("without substream are translated");
    }
}

#[test]
fn a_failure_says_what_was_seen_and_how() {
    let rig = filled_then_swung(&[]);
    let [first, ..] = rig.checker.failures() else {
        panic!("nothing failed")
    };
    for what in [
        "stream 0x5: transactions without substream are translated by stage 1 (NS-EL1, VMID 0x",
        "ASID 0x7",
        "which none of the 2 images does",
        "entry [4003000b, 0, ",
        "memory does not have words [1",
        "context descriptor 0x0 from 0x40030000",
        "as in memory",
    ] {
        assert!(first.contains(what), "{first}\nnot {what}");
    }
}

#[test]
fn what_is_stored_after_an_invalidation_is_not_confirmed_by_it() {
    let (from, to) = abort_and_stage1();
    let mut rig = Rig::new(&from);
    rig.describe(CD, cd(ROOT, 7));
    rig.expect(&[&from, &to]);
    rig.put(to.entry, &[1]);
    rig.run(&[CFGI_STE]);
    rig.put(to.entry, &[2]);
    rig.run(&[SYNC]);
    rig.is_clean();
    rig.put(to.entry, &[0]);
    rig.failed("without substream are translated by stage 1 (NS-EL1, VMID 0x0");
}

#[test]
fn a_prefilled_entry_needs_one_store() {
    let (_, to) = abort_and_stage1();
    let from = Image::new(set(to.entry, &[(3, 1, 0)]));
    let mut rig = Rig::new(&from);
    rig.describe(CD, cd(ROOT, 7));
    rig.expect(&[&from, &to]);
    rig.put(to.entry, &[0]);
    rig.sync();
    rig.expect(&[&to]);
    rig.is_clean();
}

/// From one stage 2 to another.
fn another_stage2(atomicity: Atomicity, stores: &[&[usize]]) -> Rig {
    let (from, to) = (Image::new(two(ROOT, 3)), Image::new(two(OTHER_ROOT, 4)));
    let mut rig = Rig::with(ModelConfig::default(), atomicity, &from);
    rig.expect(&[&from, &to]);
    for store in stores {
        let words: Vec<_> = store.iter().map(|at| to.entry[*at]).collect();
        rig.store(ENTRY + 8 * store[0] as u64, &words);
    }
    rig.sync();
    rig.expect(&[&to]);
    rig
}

#[test]
fn two_words_change_as_one_only_where_they_are_fetched_as_one() {
    use Atomicity::{Pair, Word};
    another_stage2(Pair, &[&[2, 3]]).is_clean();
    let torn = "translated by stage 2 (VMID 0x";
    another_stage2(Pair, &[&[2], &[3]]).failed(torn);
    another_stage2(Pair, &[&[3], &[2]]).failed(torn);
    another_stage2(Word, &[&[2], &[3]]).failed(torn);
    another_stage2(Word, &[&[2, 3]]).failed(torn);
    // Two words that are not one unit.
    let (from, to) = (Image::new(two(ROOT, 3)), Image::new(two(OTHER_ROOT, 3)));
    let mut rig = Rig::with(ModelConfig::default(), Pair, &from);
    let mut to = to.entry;
    to[4] = 0xffff;
    rig.expect(&[&from, &Image::new(to)]);
    rig.store(ENTRY + 24, &to[3..5]);
    rig.failed("memory does not have words [4, 5] any more");
}

#[test]
fn a_silent_abort_is_declared() {
    let (from, to) = (Image::new(two(ROOT, 3)), Image::new(two(OTHER_ROOT, 4)));
    let broken = |images: &[&Image]| {
        let mut rig = Rig::new(&from);
        rig.expect(images);
        rig.put(abort(), &[0]);
        rig.sync();
        rig.put(to.entry, &[2, 3]);
        rig.sync();
        rig.put(to.entry, &[0]);
        rig.sync();
        rig
    };
    broken(&[&from, &to, &Image::new(abort())]).is_clean();
    broken(&[&from, &to]).failed("without substream are aborted silently");
}

#[test]
fn what_was_ignored_before_is_not_mixed_with_what_matters_after() {
    // S2VMID is left over from stage 1, and cleared while nothing looks at it.
    let (stage1, pass) = (
        Image::new(one(CD, 2)).context(0, cd(ROOT, 7)),
        Image::new(bypass()),
    );
    let next = Image::new(one(OTHER_CD, 0)).context(0, cd(OTHER_ROOT, 8));
    let cleared = |confirmed: bool| {
        let mut rig = Rig::new(&stage1);
        rig.describe(OTHER_CD, cd(OTHER_ROOT, 8));
        rig.expect(&[&stage1, &pass]);
        rig.put(pass.entry, &[0]);
        rig.sync();
        rig.put(next.entry, &[2]);
        // Posted; or waited for.
        rig.run(&[CFGI_STE]);
        if confirmed {
            rig.run(&[SYNC]);
        }
        rig.expect(&[&pass, &next]);
        rig.is_clean();
        rig.put(next.entry, &[0]);
        rig
    };
    cleared(true).is_clean();
    cleared(false).failed("without substream are translated by stage 1 (NS-EL1, VMID 0x2");
}

#[test]
fn an_invalid_entry_is_declared_too() {
    let (invalid, to) = (Image::new([0; 8]), abort_and_stage1().1);
    let made = |stores: [&[usize]; 2], images: &[&Image]| {
        let mut rig = Rig::new(&invalid);
        rig.describe(CD, cd(ROOT, 7));
        rig.expect(images);
        rig.put(to.entry, stores[0]);
        rig.sync();
        rig.put(to.entry, stores[1]);
        rig.sync();
        rig
    };
    made([&[1, 2], &[0]], &[&invalid, &to]).is_clean();
    made([&[1, 0], &[2]], &[&invalid, &to]).failed("translated by stage 1 (NS-EL1, VMID 0x0");
    made([&[1, 2], &[0]], &[&to]).failed("the entry is seen with V = 0");
}

#[test]
fn an_illegal_entry_is_wrong_in_any_case() {
    // S2S, and EATS 1: each alone is legal.
    let from = Image::new(set(two(ROOT, 3), &[(185, 185, 1)]));
    let to = Image::new(set(two(ROOT, 3), &[(93, 92, 1)]));
    let neither = Image::new(two(ROOT, 3));
    let changed = |order: [usize; 2], confirmed: bool, images: &[&Image]| {
        let mut rig = Rig::with(rich(), Atomicity::Word, &from);
        rig.expect(images);
        rig.put(to.entry, &order[..1]);
        if confirmed {
            rig.sync();
        }
        rig.put(to.entry, &order[1..]);
        rig
    };
    changed([2, 1], true, &[&from, &neither, &to]).is_clean();
    let illegal = "the entry is seen ILLEGAL: EATS is 1 with S2S";
    changed([1, 2], true, &[&from, &neither, &to]).failed(illegal);
    changed([2, 1], false, &[&from, &neither, &to]).failed(illegal);
    // Not even where nothing valid is expected; nor can it be declared.
    let both = Image::new(set(from.entry, &[(93, 92, 1)]));
    changed([1, 2], true, &[&from, &to, &Image::new([0; 8])]).failed(illegal);
    changed([2, 1], true, &[&from, &neither, &to, &both]).failed("image 3 is ILLEGAL");
    // What lies between is `to` for transactions, and `from` for Translation Requests.
    changed([2, 1], true, &[&from, &to]).is_clean();
}

#[test]
fn a_table_of_descriptors_is_aligned_to_its_size() {
    // S1CDMax, S1Fmt; the lowest bit of S1ContextPtr that may be set.
    for (bits, format, lowest) in [(2, 0, 8), (6, 1, 6), (10, 1, 7), (10, 2, 6)] {
        let reach = |bit: u32| {
            let entry = set(one(CD | 1 << bit, 2), &[(63, 59, bits), (5, 4, format)]);
            let mut checker = EntryChecker::new(rich(), Atomicity::Word);
            checker.watch(5, PhysAddr(ENTRY), entry);
            checker.expect(5, &[Image::new(entry)]);
            checker
                .failures()
                .iter()
                .any(|what| what.contains("not aligned"))
        };
        assert!(!reach(lowest), "{bits} {format}");
        assert!(lowest == 6 || reach(lowest - 1), "{bits} {format}");
    }
}

#[test]
fn the_number_of_views_is_bounded() {
    let mut rig = Rig::new(&Image::new(abort()));
    for value in 1..=3 {
        for at in 1..8 {
            rig.store(ENTRY + 8 * at, &[value]);
        }
    }
    // Seven words of four values are more than anybody looks at.
    rig.failed("too many stores");
    assert!(rig.checker.views(5) <= 8192);
    rig.sync();
    assert_eq!(rig.checker.views(5), 1);
    // The same of a descriptor that is not valid yet.
    let mut rig = Rig::new(&Image::new(one(CD, 2)));
    for value in 1..=3 {
        for at in 1..8 {
            rig.store(CD + 8 * at, &[value]);
        }
    }
    rig.failed("too many stores");
    // Values that return are known.
    let mut rig = Rig::new(&Image::new(abort()));
    for value in [1, 0, 1, 2, 1, 0] {
        rig.store(ENTRY + 8, &[value]);
    }
    assert_eq!(rig.checker.views(5), 3);
    rig.is_clean();
}
