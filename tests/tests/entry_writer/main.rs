//! The writer of live entries before `mock-hw`'s checker: at every store, whatever hardware may make
//! of the entry is its old meaning, its new one, or a waypoint declared here, for each class of
//! transactions; and no tag ever stands for two sets of tables.
//!
//! The checker decodes by itself; nothing here asks the writer what it thinks is safe, but whether
//! its plan breaks.

mod descriptors;
mod kinds;
mod rig;

use std::cell::Cell;

use iommu_core::Atomicity;
use iommu_core::entry::Rules;
use proptest::collection;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use kinds::{Kind, Stage1, Stage2};
use rig::Rig;

/// All rules that a caller may state.
fn rules() -> impl Iterator<Item = Rules> {
    let atomicities = [Atomicity::Word, Atomicity::Pair];
    atomicities
        .into_iter()
        .flat_map(|atomicity| [false, true].map(|retag| Rules { atomicity, retag }))
}

/// The ten kinds of Linux' table, and entries with both stages.
fn kinds() -> Vec<(&'static str, Kind)> {
    let s1 = Stage1 {
        dss: 2,
        forbids_stalls: true,
        table: 0,
    };
    let s2 = Stage2 {
        stalls: false,
        tables: 1,
    };
    let stage1 = |stage1, ats| Kind::stage1(stage1).with_ats(ats);
    let stage2 = |stage2, ats| Kind::stage2(stage2).with_ats(ats);
    let stalling2 = Stage2 { stalls: true, ..s2 };
    vec![
        ("abort", Kind::Abort),
        ("bypass", Kind::Bypass { share: 1 }),
        ("s1_term", stage1(Stage1 { dss: 0, ..s1 }, 1)),
        ("s1_byp", stage1(Stage1 { dss: 1, ..s1 }, 1)),
        ("s1_ssid0", stage1(s1, 1)),
        (
            "ssid0_stall",
            stage1(
                Stage1 {
                    forbids_stalls: false,
                    ..s1
                },
                0,
            ),
        ),
        ("s2", stage2(s2, 1)),
        ("s2_stall", stage2(stalling2, 0)),
        ("ssid0'", stage1(Stage1 { table: 1, ..s1 }, 1)),
        ("s2'", stage2(Stage2 { tables: 2, ..s2 }, 1)),
        (
            "another table, stalling",
            stage1(
                Stage1 {
                    forbids_stalls: false,
                    table: kinds::STALLING,
                    ..s1
                },
                0,
            ),
        ),
        ("s1 without ATS", stage1(s1, 0)),
        ("nested", Kind::nested(s1, s2).with_ats(1)),
        ("nested, split ATS", Kind::nested(s1, s2).with_ats(2)),
        (
            "nested, bypass",
            Kind::nested(Stage1 { dss: 1, ..s1 }, s2).with_ats(0),
        ),
        (
            "nested'",
            Kind::nested(Stage1 { table: 1, ..s1 }, Stage2 { tables: 2, ..s2 }).with_ats(1),
        ),
    ]
}

#[test]
fn every_pair_of_kinds_is_seen_as_one_of_the_two() {
    for rules in rules() {
        for (from, old) in kinds() {
            for (to, new) in kinds() {
                let mut rig = Rig::new(rules.atomicity, &old);
                rig.change(&new, rules);
                rig.is_clean(&format!("{from} to {to}, {rules:?}"));
            }
        }
    }
}

/// The checker is able to notice: a plan that is carried out without one of its waits.
#[test]
fn no_wait_after_a_fill_can_be_left_out() {
    for atomicity in [Atomicity::Word, Atomicity::Pair] {
        let rules = Rules {
            atomicity,
            retag: false,
        };
        let mut noticed = 0;
        // Of a bypass, only the attributes are filled: those are a waypoint.
        let translating = kinds().into_iter().filter(|(name, _)| *name != "bypass");
        for (name, new) in translating {
            let rounds = Rig::new(atomicity, &Kind::Abort).change(&new, rules).len();
            for round in 0..rounds {
                let mut rig = Rig::new(atomicity, &Kind::Abort);
                rig.skips(round);
                rig.change(&new, rules);
                assert!(
                    rig.failed(),
                    "abort to {name}: round {round} was not waited for"
                );
                noticed += 1;
            }
        }
        assert!(noticed >= 15, "{noticed}");
    }
}

/// Chains of random entries, so that each starts with what those before it left in its words.
#[test]
fn random_chains_are_seen_as_what_they_are_at_every_store() {
    const LENGTH: usize = 50;
    const CHAINS: u32 = 1200;
    let config = Config {
        cases: CHAINS,
        failure_persistence: None,
        ..Config::default()
    };
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let steps = (kinds::any(), any::<bool>());
    let chains = (collection::vec(steps, LENGTH), any::<bool>());
    let counts = Cell::new((0, 0));
    let outcome = TestRunner::new_with_rng(config, random).run(&chains, |(chain, pairs)| {
        let atomicity = if pairs {
            Atomicity::Pair
        } else {
            Atomicity::Word
        };
        let mut rig = Rig::new(atomicity, &Kind::Abort);
        for (kind, retag) in chain {
            let plan = rig.change(&kind, Rules { atomicity, retag });
            let (all, hitless) = counts.get();
            counts.set((all + 1, hitless + u32::from(!plan.breaks())));
            prop_assert!(!rig.failed(), "{}", rig.report());
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let (transitions, hitless) = counts.get();
    println!("{transitions} transitions, {hitless} of them hitless");
    assert!(transitions >= 50_000, "{transitions}");
}
