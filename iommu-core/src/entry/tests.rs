use std::string::ToString;
use std::vec::Vec;

use super::*;
use crate::platform::Atomicity;

/// A VT-d legacy context entry (VT-d 9.3): P 0, FPD 1, TT 3:2, SLPTPTR 63:12; AW 66:64, DID 87:72.
struct Context;

const PRESENT: u64 = 1;
const FPD: u64 = 2;
const PASS_THROUGH: u64 = 2 << 2;

impl Layout<2> for Context {
    const NAME: &'static str = "a context entry";
    const DEFINED: [u64; 2] = [!0xff0, 0xff_ff07];

    fn used(entry: &[u64; 2]) -> &'static [u64; 2] {
        match entry[0] & (PRESENT | 0xc) {
            0b1001 => &[0xfff, u64::MAX],
            present if present & PRESENT != 0 => &[u64::MAX, u64::MAX],
            _ => &[PRESENT | FPD, 0],
        }
    }

    fn refuses(entry: &[u64; 2]) -> bool {
        entry[0] & PRESENT == 0
    }

    fn refusing(_target: &[u64; 2]) -> u64 {
        FPD
    }

    const MOVABLE: [u64; 2] = [0, 0xff_ff00];
    const TAG: [u64; 2] = Self::MOVABLE;

    fn detour(_live: &[u64; 2], _target: &[u64; 2]) -> Detour<2> {
        Detour {
            ahead: Self::TAG,
            behind: [0, 0],
        }
    }
}

fn paging(table: u64, domain: u64) -> [u64; 2] {
    [PRESENT | table, 2 | domain << 8]
}

fn through(domain: u64) -> [u64; 2] {
    [PRESENT | PASS_THROUGH, 2 | domain << 8]
}

const REFUSES: [u64; 2] = [0, 0];
const WORDS: Rules = Rules {
    atomicity: Atomicity::Word,
    retag: false,
};
const PAIRS: Rules = Rules {
    atomicity: Atomicity::Pair,
    retag: false,
};

fn target(words: [u64; 2]) -> Target<Context, 2> {
    Target::new(words).unwrap()
}

fn plan(live: [u64; 2], to: [u64; 2], rules: Rules) -> Plan {
    Plan::new(&live, &target(to), rules).unwrap()
}

#[test]
fn plans_are_as_short_as_the_entry_allows() {
    let (one, other) = (paging(0x1000, 1), paging(0x2000, 2));
    let retag = Rules {
        retag: true,
        ..WORDS
    };
    let cases = [
        (REFUSES, one, WORDS, "fill 1, swing 0"),
        (REFUSES, one, PAIRS, "swing 0 1"),
        (one, REFUSES, WORDS, "swing 0"),
        (one, one, WORDS, "nothing"),
        // Only the table changes.
        (one, paging(0x2000, 1), WORDS, "swing 0"),
        // What the target ignores stays: no table is needed to pass through.
        (one, through(1), WORDS, "swing 0"),
        (one, other, WORDS, "refuse 0, swing 1, swing 0"),
        (one, other, PAIRS, "swing 0 1"),
        (one, other, retag, "ahead 1, swing 0"),
    ];
    for (live, to, rules, expected) in cases {
        let plan = plan(live, to, rules);
        assert_eq!(plan.to_string(), expected, "{live:x?} to {to:x?}");
        assert_eq!(plan.breaks(), expected.starts_with("refuse"));
    }
}

#[test]
fn a_target_uses_every_bit_that_it_sets() {
    // A table of an entry that passes through, and a bit that is reserved.
    let with_table = [through(1)[0] | 0x1000, through(1)[1]];
    let error = Target::<Context, 2>::new(with_table).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a context entry sets bits 0x1000 of word 0, which it does not use"
    );
    let reserved = [paging(0x1000, 1)[0] | 0x10, 0];
    assert!(Target::<Context, 2>::new(reserved).is_err());
    assert_eq!(Error::from(error).kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_live_entry_with_unknown_bits_can_only_be_taken_out() {
    let mut live = paging(0x1000, 1);
    live[1] |= 1 << 40;
    let error = Plan::new(&live, &target(paging(0x1000, 2)), WORDS).unwrap_err();
    let EntryError::Unknown { word, bits, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((word, bits), (1, 1 << 40));
    assert_eq!(Error::from(error).kind(), ErrorKind::Unsupported);
    assert_eq!(plan(live, REFUSES, WORDS).to_string(), "swing 0");
    // Once it refuses, nobody uses the bit, and the next fill clears it.
    live[0] = 0;
    for round in plan(live, paging(0x1000, 2), WORDS).rounds() {
        round.apply(&mut live, &target(paging(0x1000, 2)), |_| ());
    }
    assert_eq!(live, paging(0x1000, 2));
}

#[test]
fn the_rest_of_a_plan_is_the_plan_of_what_is_there_then() {
    let entries = [
        REFUSES,
        paging(0x1000, 1),
        paging(0x2000, 2),
        paging(0x2000, 1),
        through(1),
        through(3),
    ];
    for rules in [
        WORDS,
        PAIRS,
        Rules {
            retag: true,
            ..WORDS
        },
    ] {
        for live in entries {
            for to in entries {
                let to = target(to);
                let mut entry = live;
                let mut left: Vec<Round> =
                    Plan::new(&entry, &to, rules).unwrap().rounds().collect();
                while !left.is_empty() {
                    let round = left.remove(0);
                    let mut stored = [0; 2];
                    round.apply(&mut entry, &to, |store| match store {
                        Store::Word { word, value } => stored[word] = value,
                        Store::Pair { values, .. } => stored = values,
                    });
                    for word in round.words() {
                        assert_eq!(
                            entry[word], stored[word],
                            "what is stored is what it becomes"
                        );
                    }
                    // A plan that breaks has other names for its rounds once it has broken.
                    let words = |rounds: &[Round]| -> Vec<u8> {
                        rounds.iter().map(|round| round.words).collect()
                    };
                    let rest: Vec<Round> =
                        Plan::new(&entry, &to, rules).unwrap().rounds().collect();
                    assert_eq!(words(&rest), words(&left), "{live:x?} to {to:x?}");
                }
                assert!(to.is(&entry), "{live:x?} to {to:x?} became {entry:x?}");
            }
        }
    }
}

#[derive(Default)]
struct Recorder {
    stored: Vec<Store>,
    confirmed: usize,
    /// Which confirmation fails.
    fails: Option<usize>,
}

impl Device for Recorder {
    type Error = &'static str;

    fn store(&mut self, store: Store) {
        self.stored.push(store);
    }

    fn confirm(&mut self) -> Result<(), Self::Error> {
        self.confirmed += 1;
        match self.fails {
            Some(number) if number == self.confirmed => Err("no answer"),
            _ => Ok(()),
        }
    }
}

#[test]
fn writing_carries_out_the_plan_and_stops_where_nothing_is_confirmed() {
    let mut unknown = paging(0x1000, 1);
    unknown[1] |= 1 << 40;
    let entries = [
        REFUSES,
        paging(0x1000, 1),
        paging(0x2000, 2),
        through(3),
        unknown,
    ];
    for rules in [
        WORDS,
        PAIRS,
        Rules {
            retag: true,
            ..WORDS
        },
    ] {
        for live in entries {
            for to in &entries[..4] {
                let to = target(*to);
                let Ok(plan) = Plan::new(&live, &to, rules) else {
                    let mut device = Recorder::default();
                    let refused = write(&mut { live }, &to, rules, &mut device);
                    assert!(matches!(refused, Err(WriteError::Entry(_))));
                    assert_eq!(device.stored, []);
                    continue;
                };
                let mut planned = (live, Vec::new());
                for (number, round) in (1..).zip(plan.rounds()) {
                    round.apply(&mut planned.0, &to, |store| planned.1.push(store));
                    let mut entry = live;
                    let mut device = Recorder {
                        fails: Some(number),
                        ..Recorder::default()
                    };
                    let error = write(&mut entry, &to, rules, &mut device).unwrap_err();
                    assert_eq!((entry, &device.stored), (planned.0, &planned.1));
                    let of = plan.len();
                    assert_eq!(
                        error.to_string(),
                        std::format!("no answer, in round {number} of {of} of writing entries")
                    );
                }
                let (mut entry, mut device) = (live, Recorder::default());
                write(&mut entry, &to, rules, &mut device).unwrap();
                assert_eq!((entry, device.stored), planned);
                assert_eq!(device.confirmed, plan.len());
            }
        }
    }
}

/// Every mixture of what a round changes, at every round, means the old entry, the new one, the
/// old one with the new tag, or refuses.
#[test]
fn mixtures_mean_one_of_the_two_or_a_waypoint() {
    let entries = [REFUSES, paging(0x1000, 1), paging(0x2000, 2), through(3)];
    let meaning = |entry: [u64; 2]| {
        let used = Context::used(&entry);
        [entry[0] & used[0] & !FPD, entry[1] & used[1]]
    };
    for retag in [false, true] {
        let rules = Rules { retag, ..WORDS };
        for live in entries {
            for to in entries {
                let plan = plan(live, to, rules);
                let mut allowed = Vec::from([meaning(live), meaning(to)]);
                if retag {
                    allowed.push(meaning([live[0], to[1]]));
                }
                if plan.breaks() {
                    allowed.push(meaning(REFUSES));
                }
                let mut before = live;
                for round in plan.rounds() {
                    let mut after = before;
                    round.apply(&mut after, &target(to), |_| ());
                    for mixture in [before, [before[0], after[1]], [after[0], before[1]], after] {
                        assert!(allowed.contains(&meaning(mixture)), "{plan}: {mixture:x?}");
                    }
                    before = after;
                }
            }
        }
    }
}

/// A VT-d scalable-mode PASID table entry of 512 bits (VT-d 9.6): P 0, FPD 1, AW 4:2, PGTT 8:6,
/// SLPTPTR 63:12; DID 79:64, PWSNP 87, PGSNP 88; FLPM 131:130, FLPTPTR 191:140. Linux' `pasid.h`
/// agrees.
struct Pasid;

const SECOND_LEVEL: [u64; 8] = [!0xe20, 0x180_ffff, 0, 0, 0, 0, 0, 0];
const FIRST_LEVEL: [u64; 8] = [0x1c3, 0x180_ffff, !0xff3, 0, 0, 0, 0, 0];

impl Layout<8> for Pasid {
    const NAME: &'static str = "a PASID table entry";
    const DEFINED: [u64; 8] = {
        let mut all = SECOND_LEVEL;
        all[2] = FIRST_LEVEL[2];
        all
    };

    fn used(entry: &[u64; 8]) -> &'static [u64; 8] {
        match (entry[0] & 1, entry[0] >> 6 & 7) {
            (0, _) => &[3, 0, 0, 0, 0, 0, 0, 0],
            (_, 1) => &FIRST_LEVEL,
            _ => &SECOND_LEVEL,
        }
    }

    fn refuses(entry: &[u64; 8]) -> bool {
        entry[0] & 1 == 0
    }

    fn refusing(_target: &[u64; 8]) -> u64 {
        FPD
    }
}

#[test]
fn entries_of_eight_words_are_planned_by_words_and_by_pairs() {
    let absent = [0; 8];
    let second = |table: u64, domain: u64| [1 | 2 << 6 | table, domain, 0, 0, 0, 0, 0, 0];
    let first = |table: u64, domain: u64| [1 | 1 << 6, domain, table, 0, 0, 0, 0, 0];
    let cases = [
        (absent, second(0x1000, 1), "fill 1, swing 0", "swing 0 1"),
        (
            absent,
            first(0x1000, 1),
            "fill 1 2, swing 0",
            "fill 2 3, swing 0 1",
        ),
        (second(0x1000, 1), absent, "swing 0", "swing 0 1"),
        (second(0x1000, 1), second(0x2000, 1), "swing 0", "swing 0 1"),
        (
            second(0x1000, 1),
            second(0x2000, 2),
            "refuse 0, swing 1, swing 0",
            "swing 0 1",
        ),
        // From one level to the other in one domain: the other table is filled first.
        (
            second(0x1000, 1),
            first(0x2000, 1),
            "fill 2, swing 0",
            "fill 2 3, swing 0 1",
        ),
    ];
    for (live, to, words, pairs) in cases {
        let to: Target<Pasid, 8> = Target::new(to).unwrap();
        for (rules, expected) in [(WORDS, words), (PAIRS, pairs)] {
            let plan = Plan::new(&live, &to, rules).unwrap();
            assert_eq!(plan.to_string(), expected);
            let mut entry = live;
            plan.rounds()
                .for_each(|round| round.apply(&mut entry, &to, |_| ()));
            assert!(to.is(&entry));
        }
    }
}
