//! Which fields matter, and to whom.

use super::*;

/// What becomes of one stream whose entry and descriptor turn from one pair to another: by way of an
/// entry that aborts, so that nothing is mixed and no tag is used twice.
fn turned(ids: &ModelConfig, from: (Words, Words), to: (Words, Words), declared: &Image) -> Rig {
    let before = Image::new(from.0).context(0, from.1);
    let mut rig = Rig::with(ids.clone(), Atomicity::Word, &before);
    rig.expect(&[&before, &Image::new(abort())]);
    rig.put(abort(), &[0]);
    rig.run(&[CFGI_STE, SYNC, TLBI_ALL, [0x20, 0], SYNC]);
    rig.put(to.0, &[1, 2, 3, 4, 5, 6, 7]);
    rig.sync();
    for (at, word) in (CD..).step_by(8).zip(to.1) {
        rig.store(at, &[word]);
    }
    rig.expect(&[&Image::new(abort()), declared]);
    rig.is_clean();
    rig.put(to.0, &[0]);
    rig
}

/// Whether a change of these bits of an entry, or of its descriptor, is one of what the stream does.
fn matters(ids: &ModelConfig, entry: Words, of_cd: bool, field: (u32, u32, u64)) -> bool {
    matters_in(ids, (entry, cd(ROOT, 7)), of_cd, field)
}

fn matters_in(
    ids: &ModelConfig,
    plain: (Words, Words),
    of_cd: bool,
    field: (u32, u32, u64),
) -> bool {
    let changed = if of_cd {
        (plain.0, set(plain.1, &[field]))
    } else {
        (set(plain.0, &[field]), plain.1)
    };
    let declared = Image::new(plain.0).context(0, plain.1);
    let rig = turned(ids, plain, changed, &declared);
    let wrong = !rig.checker.failures().is_empty();
    if wrong {
        rig.failed("which none of the 2 images does");
    }
    wrong
}

/// The fields of an entry, where they matter: bypass, stage 1, stage 2, both.
type Fields<'a> = &'a [((u32, u32, u64), [bool; 4])];

fn check_fields(ids: &ModelConfig, fields: Fields<'_>) {
    let kinds = [bypass(), one(CD, 2), two(ROOT, 2), nested(CD, ROOT, 2)];
    for (field, where_it_matters) in fields {
        let found = kinds.map(|kind| matters(ids, kind, false, *field));
        assert_eq!(found, *where_it_matters, "{field:?}");
        // Nothing matters where everything is aborted.
        let aborting = set(abort(), &[*field]);
        let declared = Image::new(abort());
        turned(ids, (bypass(), [0; 8]), (aborting, [0; 8]), &declared).is_clean();
    }
}

const NOWHERE: [bool; 4] = [false; 4];
const STAGE1: [bool; 4] = [false, true, false, true];
const STAGE2: [bool; 4] = [false, false, true, true];
const NESTED: [bool; 4] = [false, false, false, true];
const TRANSLATED: [bool; 4] = [false, true, true, true];
const PASSED: [bool; 4] = [true; 4];

#[test]
fn fields_of_an_entry_matter_where_they_are_not_ignored() {
    check_fields(
        &rich(),
        &[
            // S1Fmt, S1DSS without substreams.
            ((5, 4, 1), NOWHERE),
            ((65, 64, 1), NOWHERE),
            // S1CIR, S1COR, S1CSH.
            ((67, 66, 2), STAGE1),
            ((69, 68, 2), STAGE1),
            ((71, 70, 2), STAGE1),
            // DRE, DCP; MEV; what is software's.
            ((76, 76, 1), TRANSLATED),
            ((81, 81, 1), TRANSLATED),
            ((83, 83, 1), NOWHERE),
            ((87, 84, 5), NOWHERE),
            // EATS: passed untranslated, Translation Requests are denied.
            ((93, 92, 1), TRANSLATED),
            // Without the hypervisor, STRW is RES0; so are overrides.
            ((95, 94, 2), NOWHERE),
            ((109, 99, 0x7ff), NOWHERE),
            // What is IMPLEMENTATION DEFINED.
            ((127, 116, 1), PASSED),
            ((159, 144, 1), PASSED),
            ((271, 256, 1), PASSED),
            // S2VMID; S2T0SZ, S2IR0, S2OR0, S2SH0; S2PS; S2AFFD, S2PTW, S2R.
            ((143, 128, 9), TRANSLATED),
            ((165, 160, 26), STAGE2),
            ((169, 168, 2), STAGE2),
            ((171, 170, 2), STAGE2),
            ((173, 172, 2), STAGE2),
            ((178, 176, 3), STAGE2),
            ((181, 181, 1), STAGE2),
            ((182, 182, 1), NESTED),
            ((186, 186, 0), STAGE2),
            ((185, 185, 1), STAGE2),
            // S2TTB, and its bits below the size of the table.
            ((243, 196, OTHER_ROOT >> 4), STAGE2),
            ((199, 196, 5), NOWHERE),
            // PARTID, PMG without MPAM; the Secure stage 2; S2POI.
            ((287, 272, 1), NOWHERE),
            ((327, 320, 1), NOWHERE),
            ((447, 384, 1), NOWHERE),
            ((511, 448, 1), NOWHERE),
        ],
    );
}

#[test]
fn fields_matter_where_the_hardware_knows_them() {
    let ids = ModelConfig {
        // Overrides of types and permissions.
        idr1: rich().idr1 | 0b11 << 26,
        // PBHA, MPAM, FWB, permission indirection of stage 2, the Translation Hardening Extension.
        idr3: rich().idr3 | 1 << 3 | 1 << 7 | 1 << 8 | 1 << 19 | 1 << 21,
        // Hyp; HTTU 3.
        idr0: rich().idr0 | 1 << 9 | 0b11 << 6,
        ..rich()
    };
    // SHCFG matters but to stage 1; MemAttr only with MTCFG.
    let untranslated = [true, false, true, false];
    check_fields(
        &ids,
        &[
            ((99, 96, 5), NOWHERE),
            ((100, 99, 0b10), PASSED),
            ((104, 101, 8), PASSED),
            ((109, 108, 1), untranslated),
            ((113, 112, 2), PASSED),
            ((115, 114, 2), PASSED),
            ((95, 94, 2), [false, true, false, false]),
            ((72, 72, 1), STAGE2),
            ((89, 89, 1), STAGE2),
            ((90, 90, 1), STAGE1),
            ((287, 272, 1), PASSED),
            ((327, 320, 1), PASSED),
            ((184, 183, 0b10), STAGE2),
            ((184, 183, 0b11), STAGE2),
            // S2HD alone.
            ((184, 183, 0b01), NOWHERE),
            ((188, 188, 1), STAGE2),
            ((331, 329, 1), STAGE2),
        ],
    );
}

#[test]
fn fields_of_a_descriptor_matter_where_they_are_not_ignored() {
    let ids = rich();
    let ignored = [
        // EPD1: all of the upper half.
        (29, 16, 0x1fff),
        (179, 132, 5),
        // UWXN; NSCFG0; what is RES0; PARTID; indirection, unless it is there.
        (37, 37, 1),
        (64, 64, 1),
        (120, 120, 1),
        (367, 352, 1),
        (187, 187, 1),
        (511, 384, 0),
        // Bits of TTB0 below the size of the table.
        (71, 68, 5),
    ];
    for field in ignored {
        assert!(!matters(&ids, one(CD, 2), true, field), "{field:?}");
    }
    let relevant = [
        (5, 0, 26),
        (7, 6, 1),
        (9, 8, 2),
        (11, 10, 2),
        (13, 12, 2),
        (30, 16, 25 | 2 << 6),
        (34, 32, 3),
        (35, 35, 1),
        (36, 36, 1),
        (38, 38, 1),
        (39, 39, 1),
        (40, 40, 1),
        (44, 44, 1),
        (45, 45, 0),
        (47, 47, 1),
        (63, 48, 8),
        // HAD0.
        (65, 65, 1),
        (115, 68, OTHER_ROOT >> 4),
        (255, 192, 0xfe),
        (319, 256, 1),
        (351, 320, 1),
    ];
    for field in relevant {
        assert!(matters(&ids, one(CD, 2), true, field), "{field:?}");
    }
}

#[test]
fn fields_matter_where_other_fields_say_so() {
    let ids = ModelConfig {
        // Hyp, HTTU 3.
        idr0: rich().idr0 | 1 << 9 | 0b11 << 6,
        // PBHA, MPAM, a device permission table, permission indirection of both stages, the overlay of
        // stage 2.
        idr3: rich().idr3 | 1 << 3 | 1 << 7 | 1 << 15 | 1 << 18 | 1 << 19 | 1 << 20,
        ..rich()
    };
    let both = nested(CD, ROOT, 2);
    let upper = set(cd(OTHER_ROOT, 7), &[(30, 30, 0), (21, 16, 25), (23, 22, 2)]);
    let plain = cd(ROOT, 7);
    let overlaid = set(both, &[(188, 188, 1), (189, 189, 1)]);
    // An entry, and a descriptor, in which a field matters; the field; and what makes it matter.
    type Case = ((Words, Words), bool, (u32, u32, u64), (bool, u32, u32, u64));
    let cases: [Case; 15] = [
        // S2AFFD without S2HA; S2R without S2S.
        ((both, plain), false, (181, 181, 1), (false, 184, 184, 1)),
        ((both, plain), false, (186, 186, 0), (false, 185, 185, 1)),
        // DPT_VMATCH with EATS 3; VMSPtr with S1MPAM; S2POI with S2POE.
        (
            (set(both, &[(93, 92, 3)]), plain),
            false,
            (191, 190, 2),
            (false, 93, 92, 0),
        ),
        (
            (set(both, &[(90, 90, 1)]), plain),
            false,
            (375, 332, 1),
            (false, 90, 90, 0),
        ),
        (
            (overlaid, plain),
            false,
            (451, 448, 8),
            (false, 189, 189, 0),
        ),
        // AFFD without HA; R without S; PARTID and PMG with S1MPAM; HWU0 with HAD0.
        ((one(CD, 2), plain), true, (35, 35, 1), (true, 43, 43, 1)),
        ((one(CD, 2), plain), true, (45, 45, 0), (true, 44, 44, 1)),
        (
            (set(one(CD, 2), &[(90, 90, 1)]), plain),
            true,
            (367, 352, 1),
            (false, 90, 90, 0),
        ),
        (
            (set(one(CD, 2), &[(90, 90, 1)]), plain),
            true,
            (375, 368, 1),
            (false, 90, 90, 0),
        ),
        (
            (one(CD, 2), set(plain, &[(65, 65, 1)])),
            true,
            (124, 124, 1),
            (true, 65, 65, 0),
        ),
        // PIE with S1PIE; PIIP with both.
        (
            (set(one(CD, 2), &[(88, 88, 1)]), plain),
            true,
            (187, 187, 1),
            (false, 88, 88, 0),
        ),
        (
            (
                set(one(CD, 2), &[(88, 88, 1)]),
                set(plain, &[(187, 187, 1)]),
            ),
            true,
            (450, 448, 1),
            (true, 187, 187, 0),
        ),
        // T1SZ, IR1 and TTB1 without EPD1.
        ((one(CD, 2), upper), true, (21, 16, 26), (true, 30, 30, 1)),
        ((one(CD, 2), upper), true, (25, 24, 1), (true, 30, 30, 1)),
        (
            (one(CD, 2), upper),
            true,
            (179, 132, OTHER_ROOT >> 4),
            (true, 30, 30, 1),
        ),
    ];
    for ((entry, words), of_cd, field, (of_cd_too, high, low, value)) in cases {
        let case = format!("{field:?}, {high}:{low}");
        assert!(matters_in(&ids, (entry, words), of_cd, field), "{case}");
        let without = if of_cd_too {
            (entry, set(words, &[(high, low, value)]))
        } else {
            (set(entry, &[(high, low, value)]), words)
        };
        assert!(!matters_in(&ids, without, of_cd, field), "{case}");
    }
    // A regime without upper half and ASIDs.
    let hypervisor = (set(one(CD, 2), &[(95, 94, 2)]), upper);
    for field in [
        (21, 16, 26),
        (30, 30, 1),
        (63, 48, 8),
        (40, 40, 1),
        (179, 132, 0x100),
    ] {
        assert!(!matters_in(&ids, hypervisor, true, field), "{field:?}");
    }
    assert!(!matters_in(&ids, hypervisor, false, (143, 128, 9)));
}

#[test]
fn transactions_without_substream_go_where_s1dss_says() {
    let dss = |value| {
        let entry = set(one(CD, 2), &[(63, 59, 2), (65, 64, value)]);
        Image::new(entry).context(0, cd(ROOT, 7))
    };
    let seen_as = |actual: &Image, declared: &Image| {
        let mut rig = Rig::with(rich(), Atomicity::Word, actual);
        rig.expect(&[declared]);
        rig
    };
    seen_as(&dss(0), &dss(3)).is_clean();
    seen_as(&dss(0), &dss(1)).failed("without substream are refused with F_STREAM_DISABLED");
    seen_as(&dss(1), &dss(0)).failed("without substream are passed untranslated");
    seen_as(&dss(2), &dss(0)).failed("without substream are translated");
    // Substream 0 is taken.
    let mut rig = seen_as(&dss(2), &dss(0));
    rig.expect(&[&dss(2)]);
    let taken = rig.checker.failures().iter();
    assert!(
        taken
            .into_iter()
            .any(|what| what.contains("substream 0x0 are refused with F_STREAM"))
    );
    // Without stage 1, there is no substream at all.
    seen_as(&Image::new(bypass()), &dss(1))
        .failed("substream 0x0 are refused with C_BAD_SUBSTREAMID");
    // A flip is one word.
    let mut rig = Rig::with(rich(), Atomicity::Word, &dss(1));
    rig.expect(&[&dss(1), &dss(2)]);
    rig.put(dss(2).entry, &[1]);
    rig.sync();
    rig.expect(&[&dss(2)]);
    rig.is_clean();
}

#[test]
fn translation_requests_see_eats_with_what_it_translates() {
    let from = Image::new(one(CD, 2)).context(0, cd(ROOT, 7));
    let to = Image::new(set(two(ROOT, 2), &[(93, 92, 1)]));
    let early = Image::new(set(from.entry, &[(93, 92, 1)])).context(0, cd(ROOT, 7));
    let changed = |images: &[&Image]| {
        let mut rig = Rig::with(rich(), Atomicity::Word, &from);
        rig.expect(images);
        rig.put(to.entry, &[2, 3]);
        rig.put(early.entry, &[1]);
        rig.sync();
        rig
    };
    changed(&[&from, &to, &early]).is_clean();
    changed(&[&from, &to])
        .failed("Translation Requests without substream are answered (EATS 1) from:");
    // They do not fault, so they do not see how faults are reported.
    let quiet = Image::new(early.entry).context(0, set(cd(ROOT, 7), &[(45, 45, 0)]));
    let mut rig = Rig::with(rich(), Atomicity::Word, &from);
    rig.expect(&[&from, &quiet]);
    rig.put(quiet.entry, &[1]);
    rig.store(CD, &[set(cd(ROOT, 7), &[(45, 45, 0)])[0]]);
    rig.is_clean();
}

#[test]
fn hints_are_refused() {
    let mut rig = Rig::new(&Image::new(bypass()));
    rig.store(ENTRY + 8, &[1 << 13]);
    rig.failed("CONT is in use");
}
