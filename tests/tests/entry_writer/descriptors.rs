//! Context descriptors changed in place, while their stream uses them.

use arm_smmu_v3::spec::cd::Cd;
use iommu_core::entry::{Plan, Rules, Store, Target};
use iommu_core::{Atomicity, PhysAddr};
use mock_hw::smmuv3::{EntryChecker, Image};
use proptest::collection;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::kinds::{Kind, Stage1, Words, descriptor_of, table};
use crate::rig::{STREAM, SYNC, hardware};

const CFGI_CD: [u64; 2] = [0x0005_0000_0005, 1];
const TLBI_NSNH_ALL: [u64; 2] = [0x30, 0];
/// Faults are recorded (5.4, R).
const RECORD: u64 = 1 << 45;

/// No walks (EPD0, EPD1), aborts (A), no event (R, S), ASID 0.
fn silenced(words: Words) -> Words {
    let mut silent = words;
    silent[0] = silent[0] & !(0b11 << 44 | 0xffff << 48) | 1 << 14 | 1 << 30 | 1 << 46;
    silent
}

/// Every kind of descriptor: none, two processes of one memory, another one, one of that which does
/// not record its faults. (One that is silent comes about on the way alone. The checker counts its
/// memory types, though nothing is translated.)
fn kinds() -> [(&'static str, Words); 5] {
    let mut quiet = descriptor_of(3, 3, false);
    quiet[0] &= !RECORD;
    [
        ("none", [0; 8]),
        ("one", descriptor_of(1, 1, false)),
        ("another ASID", descriptor_of(2, 1, false)),
        ("another process", descriptor_of(3, 3, false)),
        ("a quiet one", quiet),
    ]
}

struct Rig {
    checker: EntryChecker,
    stream: Kind,
    live: Words,
    on: Words,
}

impl Rig {
    fn new(on: Words, atomicity: Atomicity) -> Self {
        let stream = Kind::stage1(Stage1 {
            dss: 2,
            forbids_stalls: true,
            table: 0,
        });
        let mut checker = EntryChecker::new(hardware(), atomicity);
        checker.set_memory(PhysAddr(table(0)), &on);
        checker.watch(STREAM, PhysAddr(0x4001_0140), stream.words());
        Self {
            checker,
            stream,
            live: on,
            on,
        }
    }

    fn image(&self, descriptor: Words) -> Image {
        Image::new(self.stream.words()).context(0, descriptor)
    }

    /// Writes another descriptor, and invalidates and waits as its plan asks; then nothing of the
    /// last one is left in the TLB.
    fn change(&mut self, to: Words, atomicity: Atomicity) -> Plan {
        let target: Target<Cd, 8> = Target::new(to).expect("a target");
        let rules = Rules {
            atomicity,
            ..Rules::default()
        };
        let plan = Plan::new(&self.live, &target, rules).expect("a plan");
        let mut images = vec![self.image(self.on), self.image(to)];
        if plan.breaks() {
            images.push(self.image(silenced(to)));
        }
        self.checker.expect(STREAM, &images);
        let at = table(0);
        for round in plan.rounds() {
            let checker = &mut self.checker;
            round.apply(&mut self.live, &target, |store| match store {
                Store::Word { word, value } => {
                    checker.store(PhysAddr(at + 8 * word as u64), &[value]);
                }
                Store::Pair { pair, values } => {
                    checker.store(PhysAddr(at + 16 * pair as u64), &values);
                }
            });
            self.checker.command(CFGI_CD);
            self.checker.command(SYNC);
        }
        self.on = to;
        self.checker.expect(STREAM, &[self.image(to)]);
        self.checker.command(TLBI_NSNH_ALL);
        self.checker.command(SYNC);
        plan
    }
}

#[test]
fn every_pair_of_descriptors_is_seen_as_one_of_the_two() {
    for atomicity in [Atomicity::Word, Atomicity::Pair] {
        let mut broken = 0;
        for (from, old) in kinds() {
            for (to, new) in kinds() {
                let mut rig = Rig::new(old, atomicity);
                broken += usize::from(rig.change(new, atomicity).breaks());
                let failures = rig.checker.failures().join("\n");
                assert_eq!(failures, "", "{from} to {to}, {atomicity:?}");
            }
        }
        // By words, a table and an ASID cannot be changed at once.
        assert_eq!(broken, if atomicity == Atomicity::Word { 8 } else { 0 });
    }
}

#[test]
fn descriptors_change_in_as_few_rounds_as_entries_do() {
    let [(_, none), (_, one), (_, other), (_, process), _] = kinds();
    let cases = [
        (none, one, ["fill 1 3, swing 0", "fill 2 3, swing 0 1"]),
        (one, none, ["swing 0", "swing 0 1"]),
        (one, other, ["swing 0", "swing 0 1"]),
        (one, process, ["refuse 0, swing 1, swing 0", "swing 0 1"]),
        (one, one, ["nothing", "nothing"]),
    ];
    for (from, to, expected) in cases {
        for (atomicity, expected) in [Atomicity::Word, Atomicity::Pair].into_iter().zip(expected) {
            let plan = Rig::new(from, atomicity).change(to, atomicity);
            assert_eq!(plan.to_string(), expected, "{atomicity:?}");
        }
    }
}

#[test]
fn random_chains_of_descriptors_are_seen_as_what_they_are() {
    let config = Config {
        cases: 100,
        failure_persistence: None,
        ..Config::default()
    };
    // Each ASID has one table; whether faults are recorded may change.
    let descriptor = (0..6u64, any::<bool>()).prop_map(|(asid, records)| match asid {
        0 => [0; 8],
        asid => {
            let mut words = descriptor_of(asid, asid, false);
            words[0] &= if records { u64::MAX } else { !RECORD };
            words
        }
    });
    let chains = (collection::vec(descriptor, 50), any::<bool>());
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let outcome = TestRunner::new_with_rng(config, random).run(&chains, |(chain, pairs)| {
        let atomicity = if pairs {
            Atomicity::Pair
        } else {
            Atomicity::Word
        };
        let mut rig = Rig::new([0; 8], atomicity);
        for descriptor in chain {
            rig.change(descriptor, atomicity);
            let failures = rig.checker.failures();
            prop_assert!(failures.is_empty(), "{}", failures.join("\n"));
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
