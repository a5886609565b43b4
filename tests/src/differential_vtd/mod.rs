//! Random cases on this workspace's model of a VT-d unit and on QEMU's: data and faults have to agree.
//!
//! A case is a root table, two devices with two configurations each (pass-through, second- or
//! first-level tables; levels, pages of all sizes, rights, flaws), and steps: accesses of 1, 2 or 4
//! bytes, changes of tables and entries in place, invalidations that are right, wrong or left out,
//! descriptors that do not exist. One kind of unit is invalidated by registers, the others by the
//! queue. It is encoded here once more, and written as raw words to the same
//! physical addresses of both machines: neither the driver nor a bit table of the model takes part.
//!
//! # What is compared
//!
//! A model without anything in its caches says what an access does by what memory says at that
//! moment: the address that it reaches, nothing, or one fault record, bit by bit. Both machines have
//! to do that: a read returns what is there, a write changes those bytes of the data and no others, a
//! refused access moves nothing and leaves exactly that fault. The first access of a case, which finds
//! all caches empty, sets the same accessed and dirty flags on both.
//!
//! What reads returned is compared after some cases: QEMU's device has to be asked with translation
//! off, and QEMU's caches are empty after that ([`Edu`](crate::qemu::Edu)).
//!
//! # What may be stale
//!
//! After a change the architecture leaves open for how long caches hide it, until what it needs was
//! invalidated, in order, and waited for. Until then an access may do what it does under any subset
//! of the open changes, and both machines have to do one of those things: QEMU, which caches little,
//! and the model, which drops nothing that it may keep. How often each showed something old is
//! counted. Without caching mode, an entry that is not present is never cached, so making it present
//! is seen at once.
//!
//! # Where QEMU deviates
//!
//! Each mask carries its reason: those that are applied to faults are counted with it, and inputs that
//! are not generated are listed in `masks.rs`.

mod case;
mod counts;
mod descriptor;
mod device;
mod edit;
mod encode;
mod explain;
mod generate;
mod image;
mod layout;
mod masks;
mod oracle;
mod remedy;
mod run;
mod side;
mod steps;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::thread;

use iommu_core::{PhysAddr, RegisterBank};
use mock_hw::vtd::{VtdConfig, VtdModel};
use mock_hw::{DmaDevice, MockMemory};

pub use self::counts::Counts;
pub use crate::differential::Settings;

use self::case::{Case, Unit};
use self::device::{Device, ModelDevice};
use self::oracle::Oracle;
use self::run::Bench;
use self::side::Side;
use crate::qemu::{Q35, Q35Config};

/// The kinds of unit, and the share of cases of each in percent.
const UNITS: [(Unit, u64); 5] = [
    (Unit::Plain, 25),
    (Unit::Second, 25),
    (Unit::First, 25),
    (Unit::Caching, 15),
    (Unit::Narrow, 10),
];

/// Every so many cases, all data is looked at.
const DAMAGE_INTERVAL: u64 = 64;

/// Runs random cases on the model and on QEMU, in two threads.
///
/// # Errors
///
/// The first divergence, with the smallest case that was found to show it; or why QEMU does not
/// start.
pub fn run(settings: Settings) -> Result<Counts, String> {
    let worker = |numbers: &[usize]| {
        let mut counts = Counts::default();
        for &number in numbers {
            let (unit, share) = UNITS[number];
            let first = (number as u64) << 40;
            let cases = first..first + (settings.cases * share).div_ceil(100);
            counts.merge(with_qemu(settings.seed, cases, unit)?);
        }
        Ok::<_, String>(counts)
    };
    let (one, two) = thread::scope(|scope| {
        let other = scope.spawn(|| worker(&[1, 2]));
        let one = worker(&[0, 3, 4]);
        (one, other.join())
    });
    let two = two.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let mut all = one?;
    all.merge(two?);
    Ok(all)
}

fn with_qemu(seed: u64, cases: Range<u64>, unit: Unit) -> Result<Counts, String> {
    let qemu = Q35::start(&Q35Config {
        scalable: unit.has_scalable_mode(),
        first_level: unit == Unit::First,
        caching_mode: unit == Unit::Caching,
        aw_bits: if unit == Unit::Narrow { 39 } else { 48 },
        edus: 2,
        ..Q35Config::default()
    });
    let qemu = qemu.map_err(|error| error.to_string())?;
    let devices = qemu.edus().iter().map(|edu| edu as &dyn Device).collect();
    let memory = qemu.memory().clone();
    let side = Side::new("QEMU", qemu.bank(), memory, devices, unit);
    compare(&Modelled::new(unit), side, seed, cases, unit)
}

/// The model that has what QEMU's unit has.
fn model_config(unit: Unit) -> VtdConfig {
    let plain = VtdConfig::default();
    match unit {
        Unit::Plain => plain,
        Unit::Caching => VtdConfig::caching(),
        Unit::Narrow => VtdConfig {
            host_bits: 39,
            ..plain.with_widths(&[3], 39)
        },
        Unit::Second => with_rid_pasid(VtdConfig::scalable()),
        // QEMU sets flags in first-level tables, as only a unit that snoops them may.
        Unit::First => with_rid_pasid(VtdConfig::first_level()).with_coherent(true),
    }
}

/// QEMU uses `RID_PASID` though it does not say so (`ECAP.RPS`).
fn with_rid_pasid(config: VtdConfig) -> VtdConfig {
    VtdConfig {
        ecap: config.ecap | 1 << 49,
        ..config
    }
}

/// A model with two devices behind it.
struct Modelled {
    unit: Unit,
    config: VtdConfig,
    model: VtdModel,
    memory: MockMemory,
    devices: [ModelDevice; 2],
}

impl Modelled {
    fn new(unit: Unit) -> Self {
        let config = model_config(unit);
        let memory = MockMemory::new(PhysAddr(0x20_0000), 0x1e0_0000);
        let model = VtdModel::new(memory.clone(), config.clone());
        let devices = layout::SOURCES
            .map(|source| ModelDevice::new(DmaDevice::new(&model, u32::from(source))));
        Self {
            unit,
            config,
            model,
            memory,
            devices,
        }
    }

    fn side(&self, name: &'static str) -> Side<'_, mock_hw::vtd::VtdBank> {
        let devices = self.devices.iter().map(|device| device as _).collect();
        Side::new(
            name,
            self.model.bank(),
            self.memory.clone(),
            devices,
            self.unit,
        )
    }
}

/// Runs the cases of these numbers on a model and on another machine.
fn compare<O: RegisterBank>(
    model: &Modelled,
    other: Side<'_, O>,
    seed: u64,
    cases: Range<u64>,
    unit: Unit,
) -> Result<Counts, String> {
    let mut bench = Bench {
        model: model.side("model"),
        other,
        oracle: Oracle::new(model.memory.clone(), &model.config),
        serial: 0,
        values: Vec::new(),
        used: 0,
        waiting: Vec::new(),
    };
    let mut counts = Counts::default();
    let last = cases.end.saturating_sub(1);
    for index in cases {
        let case = generate::case(seed, index, unit);
        let mut result = bench.run(index, &case, &mut counts);
        if result.is_ok() && (index % DAMAGE_INTERVAL == 0 || index == last) {
            let settled = bench.settle(&mut counts);
            result = settled.and_then(|()| bench.damage().map_err(|what| (index, what)));
        }
        if let Err((index, what)) = result {
            let case = generate::case(seed, index, unit);
            let (small, story) = shrink(&mut bench, case, &what);
            return Err(format!(
                "seed {seed:#x}, case {index:#x}, at its smallest:\n{small:#x?}\n{story}\n\n\
                 As generated it differed {what}"
            ));
        }
    }
    let violations = (model.model.violations(), model.memory.violations());
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
        let mut counts = Counts::default();
        bench.waiting.clear();
        let ran = bench.run(0, &smaller, &mut counts);
        if let Err((_, what)) = ran.and_then(|()| bench.settle(&mut counts)) {
            story = what;
            *case = smaller;
        }
    };
    for at in (0..case.steps.len()).rev() {
        let mut smaller = case.clone();
        smaller.steps.remove(at);
        attempt(&mut case, smaller);
    }
    for list in 0..case.leaves().len() {
        for at in (0..case.leaves()[list].len()).rev() {
            let mut smaller = case.clone();
            smaller.leaves()[list].remove(at);
            attempt(&mut case, smaller);
        }
    }
    (case, story)
}
