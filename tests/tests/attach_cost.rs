//! What the example `attach_cost` shows keeps what was promised: fewer waits than Linux, the same
//! for any number of streams, and hitless but where no order of stores can be.

use std::sync::LazyLock;

use iommu_core::Atomicity;
use tests::cost::{self, Line, STREAMS, Subject, Totals, Way, widths};

static TRANSITIONS: LazyLock<Vec<Line>> =
    LazyLock::new(|| cost::transitions().expect("transitions"));
static ATTACHES: LazyLock<Vec<Line>> = LazyLock::new(|| cost::attaches().expect("attaches"));

fn all() -> impl Iterator<Item = &'static Line> {
    TRANSITIONS.iter().chain(ATTACHES.iter())
}

#[test]
fn four_of_ninety_transitions_break_by_words_none_by_pairs_and_linux_breaks_32() {
    let linux = Totals::linux(&TRANSITIONS);
    assert_eq!((linux.transitions, linux.broken.len()), (90, 32));
    for &width in widths() {
        let totals = Totals::of(&TRANSITIONS, width, true);
        let expected: &[[&str; 2]] = match width {
            Atomicity::Word => &[
                ["S2", "S2'"],
                ["S2'", "S2"],
                ["S2'", "S2+stall"],
                ["S2+stall", "S2'"],
            ],
            Atomicity::Pair => &[],
        };
        assert_eq!(totals.broken, expected, "{width:?}");
        assert_eq!(totals.transitions, 90);
        assert!(totals.waits < linux.waits);
    }
}

#[test]
fn no_transition_waits_or_breaks_more_than_in_linux() {
    for line in TRANSITIONS.iter() {
        let linux = line.linux.expect("a figure for each");
        assert!(line.counts.waits <= linux.waits, "{line:?}");
        assert!(
            line.breaks.is_none() || linux.way == Way::Breaks,
            "{line:?}"
        );
    }
}

#[test]
fn waits_are_the_rounds_and_the_same_for_any_number_of_streams() {
    for line in all() {
        let ats = line.from.contains("ATS");
        if (line.from, line.to) == ("S2", "blocked") {
            // What is cleared behind it is not waited for.
            assert_eq!(line.counts.waits + 1, line.counts.rounds, "{line:?}");
        } else if !ats {
            assert_eq!(line.counts.waits, line.counts.rounds, "{line:?}");
        }
        let same = |other: &&Line| {
            (other.subject, other.from, other.to) == (line.subject, line.from, line.to)
                && (other.atomicity, other.retag) == (line.atomicity, line.retag)
        };
        let others: Vec<&Line> = all().filter(same).collect();
        let streams: Vec<u32> = others.iter().map(|other| other.streams).collect();
        assert_eq!(streams, STREAMS, "{line:?}");
        for other in others {
            assert_eq!(other.counts.waits, line.counts.waits, "{line:?}, {other:?}");
        }
    }
}

/// Only a stage 2 that others use, or that another one replaces, is entered or left through abort.
#[test]
fn attaches_wait_no_more_than_promised() {
    for line in ATTACHES.iter() {
        let pairs = line.atomicity == Atomicity::Pair;
        let by = |words, by_pairs| if pairs { by_pairs } else { words };
        let (most, hitless) = match (line.from, line.to) {
            ("blocked (fresh)" | "blocked (was S1)" | "blocked (was S2)", "S1") => (1, true),
            ("S1", "S1'") => (1, true),
            ("S1", "identity") | ("identity", "S1") => (by(2, 1), true),
            ("S1" | "S2", "blocked") | ("S2", "identity") => (1, true),
            ("blocked (fresh)" | "blocked (was S2)" | "identity", "S2") => (2, true),
            ("S1", "S2") | ("S2", "S1") => (3, true),
            ("S1", "S2 (shared)") | ("S2 (shared)", "S1") => (3, false),
            ("S2", "S2'") => (by(3, 1), pairs),
            ("blocked (fresh; ATS)", "S1") => (by(2, 1), true),
            ("blocked (was S1; ATS)" | "S1 (ATS)", "S1" | "S1'") => (1, true),
            ("S1 (ATS)", "identity" | "blocked") => (2, true),
            ("S1 (ATS)", "S2") | ("S2 (ATS)", "S1") => (3, true),
            // By words through abort, and the device gives up its translations before.
            ("S2 (ATS)", "S2'") => (by(4, 1), pairs),
            other => panic!("nothing was promised of {other:?}"),
        };
        assert!(line.counts.waits <= most, "{line:?}");
        assert_eq!(line.breaks.is_none(), hitless, "{line:?}");
        if let Some(linux) = line.linux {
            assert!(line.counts.waits <= linux.waits, "{line:?}");
        }
    }
}

#[test]
fn what_breaks_says_which_fields_are_in_the_way() {
    let why = |subject, from, to, retag| {
        let line = all().find(|line| {
            (line.subject, line.from, line.to) == (subject, from, to)
                && (line.atomicity, line.retag) == (Atomicity::Word, retag)
        });
        line.and_then(|line| line.breaks.as_deref())
    };
    let tables = Some("no one store covers word 2 (S2VMID) + word 3 (S2TTB)");
    assert_eq!(why(Subject::Entry, "S2", "S2'", true), tables);
    assert_eq!(why(Subject::Attach, "S2", "S2'", true), tables);
    let tag = Some("no one store covers word 0 (Config) + word 2 (S2VMID); others use the VMID");
    assert_eq!(why(Subject::Entry, "S1", "S2'", false), tag);
    assert_eq!(why(Subject::Entry, "S1", "S2'", true), None);
    assert_eq!(why(Subject::Attach, "S1", "S2 (shared)", false), tag);
    let domain = Some("no one store covers word 0 (ASID) + word 1 (TTB0)");
    assert_eq!(
        why(Subject::Context, "domain", "other domain", true),
        domain
    );
}

#[test]
fn the_table_fits_120_columns_and_each_record_its_header() {
    let table = cost::table(&TRANSITIONS, &ATTACHES);
    for line in table.lines() {
        assert!(line.chars().count() <= 120, "{line}");
    }
    let lines: Vec<Line> = all().cloned().collect();
    let csv = cost::csv(&lines);
    let (header, records) = csv.split_once('\n').expect("a header");
    let fields = |line: &str| line.split(',').count();
    assert_eq!(records.lines().count(), lines.len());
    for record in records.lines() {
        assert_eq!(fields(record), fields(header), "{record}");
        assert!(
            record.split(',').all(|field| field.trim() == field),
            "{record}"
        );
    }
}
