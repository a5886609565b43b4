//! Whole attaches through the core and the driver, on a model, under the eyes of the device.

use arm_smmu_v3::spec::ste::Ste;
use iommu_core::Atomicity;
use iommu_core::entry::Rules;
use mock_hw::smmuv3::{ModelConfig, Order};

use super::rig::On::{self, Blocked, First, Identity, OtherFirst, OtherSecond, Second};
use super::rig::{IDR0_ATS, Rig};
use super::watch::Seen;
use super::why::why;
use super::{Failure, Line, STREAMS, Subject, linux, widths};

/// How many seeds attaches are watched with on hardware that fetches, caches and invalidates
/// whenever it likes.
const SEEDS: u64 = 4;

/// An attach.
struct Attach {
    from: &'static str,
    to: &'static str,
    /// What the device is moved to before; it starts blocked, its entries as nobody used them yet.
    before: &'static [On],
    last: On,
    /// Whether another device is on the stage-2 domain.
    shared: bool,
    /// Whether device and SMMU have ATS.
    ats: bool,
}

const fn attach(from: &'static str, before: &'static [On], to: &'static str, last: On) -> Attach {
    Attach {
        from,
        to,
        before,
        last,
        shared: false,
        ats: false,
    }
}

const fn shared(attach: Attach) -> Attach {
    Attach {
        shared: true,
        ..attach
    }
}

const fn ats(attach: Attach) -> Attach {
    Attach {
        ats: true,
        ..attach
    }
}

/// What stands in brackets is about the device, the entry or the domain, not what the device is on.
const ATTACHES: [Attach; 25] = [
    attach("blocked (fresh)", &[], "S1", First),
    attach("blocked (was S1)", &[First, Blocked], "S1", First),
    attach("blocked (was S2)", &[Second, Blocked], "S1", First),
    attach("S1", &[First], "S1'", OtherFirst),
    attach("S1", &[First], "identity", Identity),
    attach("identity", &[Identity], "S1", First),
    attach("S1", &[First], "blocked", Blocked),
    attach("blocked (fresh)", &[], "S2", Second),
    attach("blocked (was S2)", &[Second, Blocked], "S2", Second),
    attach("S2", &[Second], "blocked", Blocked),
    attach("S1", &[First], "S2", Second),
    attach("S2", &[Second], "S1", First),
    shared(attach("S1", &[First], "S2 (shared)", Second)),
    shared(attach("S2 (shared)", &[Second], "S1", First)),
    attach("S2", &[Second], "S2'", OtherSecond),
    attach("identity", &[Identity], "S2", Second),
    attach("S2", &[Second], "identity", Identity),
    ats(attach("blocked (fresh; ATS)", &[], "S1", First)),
    ats(attach(
        "blocked (was S1; ATS)",
        &[First, Blocked],
        "S1",
        First,
    )),
    ats(attach("S1 (ATS)", &[First], "S1'", OtherFirst)),
    ats(attach("S1 (ATS)", &[First], "identity", Identity)),
    ats(attach("S1 (ATS)", &[First], "blocked", Blocked)),
    ats(attach("S1 (ATS)", &[First], "S2", Second)),
    ats(attach("S2 (ATS)", &[Second], "S1", First)),
    ats(attach("S2 (ATS)", &[Second], "S2'", OtherSecond)),
];

/// All attaches, for each width of a store and each number of streams.
///
/// Each is done on hardware of several tempers, while every stream of the device reads after every
/// store to its entry and every command: it is hitless where all that was ever seen is what the old
/// domain shows or the new one, and what was counted is the same on all.
///
/// # Errors
///
/// Where a device sees what neither domain shows, something is reported, an attach fails, or the
/// hardware complains.
pub fn attaches() -> Result<Vec<Line>, Failure> {
    let mut lines = Vec::new();
    for attach in &ATTACHES {
        for &atomicity in widths() {
            for number in 0..STREAMS.len() {
                let line = attach.line(number, atomicity);
                let name = || format!("{} to {}, {atomicity:?}", attach.from, attach.to);
                lines.push(line.map_err(|error| format!("{}: {error}", name()))?);
            }
        }
    }
    Ok(lines)
}

/// From the tamest hardware to the most adverse.
fn hardware() -> impl Iterator<Item = ModelConfig> {
    let orders = [Order::InOrder, Order::Adverse].map(|order| ModelConfig {
        order,
        ..ModelConfig::default()
    });
    let random = (1..=SEEDS).map(move |seed| ModelConfig {
        order: Order::Random,
        partial: true,
        seed,
        ..ModelConfig::default()
    });
    orders.into_iter().chain(random)
}

impl Attach {
    fn line(&self, number: usize, atomicity: Atomicity) -> Result<Line, Failure> {
        let streams = STREAMS[number];
        let mut outcomes = hardware().map(|mut config| {
            if self.ats {
                config.idr0 |= IDR0_ATS;
            }
            let rig = Rig::new(config, atomicity, streams)?;
            if self.shared {
                rig.share(Second)?;
            }
            self.before.iter().try_for_each(|on| rig.attach(*on))?;
            rig.watch(self.before.last().copied().unwrap_or(Blocked), self.last)
        });
        let mut outcome = outcomes.next().ok_or("no hardware")??;
        for other in outcomes {
            let other = other?;
            if (&other.counts, &other.rounds) != (&outcome.counts, &outcome.rounds) {
                return Err(format!("{other:?} here, {outcome:?} there").into());
            }
            outcome.between.extend(other.between);
        }
        let rules = Rules {
            atomicity,
            retag: !self.shared,
        };
        let [before, after] = &outcome.entries;
        let reason = why::<Ste>(before, after, rules);
        let breaks = match outcome.between.iter().collect::<Vec<_>>()[..] {
            [] => None,
            [Seen::Nothing] => Some(reason.ok_or("the device is refused for no reason")?),
            _ => return Err(format!("the device saw {:?}", outcome.between).into()),
        };
        Ok(Line {
            subject: Subject::Attach,
            from: self.from,
            to: self.to,
            streams,
            atomicity,
            retag: rules.retag,
            plan: words(&outcome.rounds),
            through_abort: None,
            counts: outcome.counts,
            breaks,
            // With ATS nobody has measured it.
            linux: (!self.ats)
                .then(|| linux::attach(self.from, self.to, number))
                .flatten(),
        })
    }
}

/// "1 2 3, 0": the words that each round stored.
fn words(rounds: &[u8]) -> String {
    let numbers = |round: &u8| {
        let stored = (0..8).filter(|word| round >> word & 1 != 0);
        let names: Vec<String> = stored.map(|word| word.to_string()).collect();
        names.join(" ")
    };
    rounds.iter().map(numbers).collect::<Vec<_>>().join(", ")
}
