//! Random cases on this workspace's model of an SMMUv3 and on QEMU's: data and events have to
//! agree.
//!
//! A case is a stream table, two streams with two configurations each (stage 1, stage 2 or both;
//! granules, sizes, start levels, pages, blocks, permissions, flaws), and steps: accesses of 1, 2
//! or 4 bytes, changes of tables and entries in place, invalidations that are right, wrong or left
//! out, commands that do not exist. It is encoded here once more from the specification, and
//! written as raw words to the same physical addresses of both machines: neither the driver nor a
//! bit table of the model takes part.
//!
//! # What is compared
//!
//! A model without anything in its caches says what an access does by what memory says at that
//! moment: the address that it reaches, nothing, or one event, bit by bit. Both machines have to do
//! that: a read returns what is there, a write changes those bytes of the data and no others, a
//! refused access moves nothing and leaves exactly that event.
//!
//! # What may be stale
//!
//! After a change the architecture leaves open for how long caches hide it, until the commands that
//! it needs were waited for (3.21). Until then an access may do what it does under any subset of
//! the open changes, and both machines have to do one of those things: QEMU, which drops entries at
//! once, and the model, which drops none that it may keep. How often each showed something old is
//! counted. Which command meets which need follows from the guarantees of 4.3 and 4.4 alone. A leaf
//! that leads to a fault other than F_PERMISSION is never cached, so making it valid is seen at
//! once.
//!
//! # Where QEMU deviates
//!
//! Each mask carries its reason: those that are applied to events are counted with it, and inputs
//! that are not generated are listed in `masks.rs`.

mod case;
mod command;
mod counts;
mod edit;
mod encode;
mod explain;
mod generate;
mod image;
mod layout;
mod leaves;
mod masks;
mod oracle;
mod remedy;
pub(crate) mod rng;
mod run;
mod side;
mod steps;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::thread;

use iommu_core::RegisterBank;
use mock_hw::smmuv3::ModelConfig;

pub use self::counts::Counts;

use self::case::{Case, Environment};
use self::oracle::Oracle;
use self::run::Bench;
use self::side::Side;
use crate::machine::Machine;
use crate::model::ModelMachine;
use crate::qemu::{self, MachineConfig, Stage};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What all randomness comes from.
    pub seed: u64,
    /// The number of cases, at least.
    pub cases: u64,
}

/// The kinds of SMMU, and the share of cases of each in percent. The format of QEMU's stream table
/// stays two-level once it was, so each has a QEMU of its own.
const ENVIRONMENTS: [(Environment, u64); 4] = [
    (environment(Stage::Nested, false), 40),
    (environment(Stage::Nested, true), 40),
    (environment(Stage::One, false), 10),
    (environment(Stage::Two, true), 10),
];

const fn environment(stage: Stage, two_level: bool) -> Environment {
    Environment { stage, two_level }
}

/// Every so many cases, all data is looked at.
const DAMAGE_INTERVAL: u64 = 64;

/// Runs random cases on the model and on QEMU, in two threads.
///
/// # Errors
///
/// The first divergence, with the smallest case that was found to show it; or why QEMU does not
/// start.
pub fn run(settings: Settings) -> Result<Counts, String> {
    let worker = |numbers: [usize; 2]| {
        let mut counts = Counts::default();
        for number in numbers {
            let (environment, share) = ENVIRONMENTS[number];
            let first = (number as u64) << 40;
            let cases = first..first + (settings.cases * share).div_ceil(100);
            counts.merge(with_qemu(settings.seed, cases, environment)?);
        }
        Ok::<_, String>(counts)
    };
    let (one, two) = thread::scope(|scope| {
        let other = scope.spawn(|| worker([1, 3]));
        let one = worker([0, 2]);
        (one, other.join())
    });
    let two = two.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let mut all = one?;
    all.merge(two?);
    Ok(all)
}

fn with_qemu(seed: u64, cases: Range<u64>, environment: Environment) -> Result<Counts, String> {
    let qemu = qemu::Machine::start(&MachineConfig {
        stage: environment.stage,
        edus: 2,
        ..MachineConfig::default()
    });
    let qemu = qemu.map_err(|error| error.to_string())?;
    let model = ModelMachine::new(model_config(environment), 2);
    compare(&model, "QEMU", &qemu, seed, cases, environment)
}

/// The model that has what QEMU's SMMU has.
fn model_config(environment: Environment) -> ModelConfig {
    match environment.stage {
        Stage::One => ModelConfig::stage1(),
        Stage::Two => ModelConfig::stage2(),
        Stage::Nested => ModelConfig::default(),
    }
}

/// Runs the cases of these numbers on a model and on another machine.
fn compare<O: Machine>(
    model: &ModelMachine,
    name: &'static str,
    other: &O,
    seed: u64,
    cases: Range<u64>,
    environment: Environment,
) -> Result<Counts, String> {
    let config = model_config(environment);
    let mut bench = Bench {
        model: Side::new("model", model),
        other: Side::new(name, other),
        oracle: Oracle::new(model.memory(), &config),
        serial: 0,
    };
    let mut counts = Counts::default();
    let last = cases.end.saturating_sub(1);
    for index in cases {
        let case = generate::case(seed, index, environment);
        let mut result = bench.run(&case, &mut counts);
        if result.is_ok() && (index % DAMAGE_INTERVAL == 0 || index == last) {
            result = bench.damage();
        }
        if let Err(what) = result {
            let (small, story) = shrink(&mut bench, case, &what);
            return Err(format!(
                "seed {seed:#x}, case {index:#x}, at its smallest:\n{small:#x?}\n{story}\n\n\
                 As generated it differed {what}"
            ));
        }
    }
    let violations = (model.model().violations(), model.memory().violations());
    if violations.0.is_empty() && violations.1.is_empty() {
        Ok(counts)
    } else {
        Err(format!(
            "the cases broke rules of the model: {violations:?}"
        ))
    }
}

/// Leaves out steps, then leaves of tables, one at a time, as long as the case still diverges.
fn shrink<M: RegisterBank, O: RegisterBank>(
    bench: &mut Bench<'_, M, O>,
    mut case: Case,
    what: &str,
) -> (Case, String) {
    let mut story = what.to_owned();
    let mut attempt = |case: &mut Case, smaller: Case| {
        if let Err(what) = bench.run(&smaller, &mut Counts::default()) {
            story = what;
            *case = smaller;
        }
    };
    for at in (0..case.steps.len()).rev() {
        let mut smaller = case.clone();
        smaller.steps.remove(at);
        attempt(&mut case, smaller);
    }
    let lists = case.leaves().len();
    for list in 0..lists {
        for at in (0..case.leaves()[list].len()).rev() {
            let mut smaller = case.clone();
            smaller.leaves()[list].remove(at);
            attempt(&mut case, smaller);
        }
    }
    (case, story)
}
