//! The rules, by subject.

mod blocked;
mod broken;
mod deferred;
mod dma;
mod faults;
mod lifecycle;
mod mapping;
mod ownership;
mod park;
mod pasids;
mod reuse;
mod streams;
mod transactions;

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::lab::{Bench, Verdict};
use super::spy::words;
use super::{Capabilities, DeviceSetup, Outcome, Report, Setup, Testbed};

/// A promise that a backend makes.
struct Rule {
    name: &'static str,
    when: When,
    check: fn(&Bench<'_>) -> Verdict,
}

/// Whether a rule applies.
enum When {
    Always,
    /// Where the testbed has this; skipped otherwise.
    Has(Need),
    /// Where the testbed does not have this; not mentioned otherwise.
    Lacks(Need),
}

/// A capability.
#[derive(Clone, Copy)]
enum Need {
    Identity,
    Pasids,
    Stages,
    Deferred,
    PageFaults,
    BrokenWaits,
}

impl Need {
    fn is_met(self, can: &Capabilities) -> bool {
        match self {
            Self::Identity => can.identity,
            Self::Pasids => can.pasids > 0,
            Self::Stages => can.stages.len() > 1,
            Self::Deferred => can.deferred,
            Self::PageFaults => can.page_faults,
            Self::BrokenWaits => can.breakable,
        }
    }

    fn absence(self) -> &'static str {
        match self {
            Self::Identity => "no identity domain",
            Self::Pasids => "no PASIDs",
            Self::Stages => "one stage of translation",
            Self::Deferred => "no deferred attach",
            Self::PageFaults => "no page faults",
            Self::BrokenWaits => "answers cannot be kept back",
        }
    }
}

const fn rule(name: &'static str, check: fn(&Bench<'_>) -> Verdict) -> Rule {
    let when = When::Always;
    Rule { name, when, check }
}

const fn with(need: Need, name: &'static str, check: fn(&Bench<'_>) -> Verdict) -> Rule {
    let when = When::Has(need);
    Rule { name, when, check }
}

const fn without(need: Need, name: &'static str, check: fn(&Bench<'_>) -> Verdict) -> Rule {
    let when = When::Lacks(need);
    Rule { name, when, check }
}

const RULES: [&[Rule]; 13] = [
    lifecycle::RULES,
    park::RULES,
    blocked::RULES,
    transactions::RULES,
    deferred::RULES,
    ownership::RULES,
    broken::RULES,
    streams::RULES,
    pasids::RULES,
    mapping::RULES,
    dma::RULES,
    reuse::RULES,
    faults::RULES,
];

pub(super) fn run(testbed: &dyn Testbed, chosen: impl Fn(&str) -> bool) -> Report {
    let mut report = Report::new(testbed.name());
    let bench = Bench::new(testbed);
    for rule in RULES.into_iter().flatten() {
        if !chosen(rule.name) {
            continue;
        }
        match rule.when {
            When::Has(need) if !need.is_met(&bench.can) => {
                report.push(rule.name, Outcome::Skipped(need.absence()));
                continue;
            }
            When::Lacks(need) if need.is_met(&bench.can) => continue,
            When::Always | When::Has(_) | When::Lacks(_) => {}
        }
        // What a rule leaves behind when it panics is dropped, and nobody else uses it.
        let verdict = catch_unwind(AssertUnwindSafe(|| (rule.check)(&bench)));
        report.push(
            rule.name,
            match verdict {
                Ok(Ok(())) => Outcome::Passed,
                Ok(Err(how)) => Outcome::Failed(how),
                Err(panic) => Outcome::Failed(format!("it panics: {}", words(&*panic))),
            },
        );
    }
    let books = bench.books.into_inner();
    for (name, found) in [
        (EVERY_BYTE, books.kept),
        (NO_MISUSE_OF_MEMORY, books.memory),
        (NO_MISUSE_OF_HARDWARE, books.hardware),
    ] {
        report.push(name, found.map_or(Outcome::Passed, Outcome::Failed));
    }
    report
}

// What is asked when a machine is given up, whatever the rule was.
const EVERY_BYTE: &str = "3.10 lifetimes: when all is over, every byte of memory is given back";
const NO_MISUSE_OF_MEMORY: &str = "3.10 lifetimes: hardware reads nothing that was given back";
const NO_MISUSE_OF_HARDWARE: &str = "4 hardware: it sees nothing that it must not see";

const PINNED: DeviceSetup = DeviceSetup {
    pinned: true,
    alias_of: None,
    deferred: false,
};

const PLAIN: DeviceSetup = DeviceSetup {
    pinned: false,
    ..PINNED
};

fn setup(devices: &[DeviceSetup]) -> Setup {
    let devices = devices.to_vec();
    Setup { devices }
}
