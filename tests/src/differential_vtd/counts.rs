//! What was seen, and how often.

use std::collections::BTreeMap;
use std::fmt;

use super::descriptor::Descriptor;
use super::encode::fault;
use super::oracle::Expected;

/// How often each class of outcome occurred.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Cases that ran.
    pub cases: u64,
    /// Cases in which a device read or wrote data.
    pub cases_with_data: u64,
    classes: BTreeMap<String, u64>,
}

impl Counts {
    /// How often a class of outcome occurred; its name is as [`Display`](fmt::Display) prints it.
    #[must_use]
    pub fn of(&self, class: &str) -> u64 {
        self.classes.get(class).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, class: impl Into<String>) {
        *self.classes.entry(class.into()).or_default() += 1;
    }

    pub(super) fn case(&mut self, moved: bool) {
        self.cases += 1;
        self.cases_with_data += u64::from(moved);
    }

    pub(super) fn access(&mut self, outcome: Expected, mode: &str, via: &str, write: bool) {
        match outcome {
            Expected::Reaches(_) => {
                self.add(if write { "data written" } else { "data read" });
                self.add(format!("data through {mode}"));
                self.add(format!("data through {via}"));
            }
            Expected::Nothing | Expected::Elsewhere => self.add("no data, no fault"),
            Expected::Fault(record) => self.add(format!("fault {:#04x}", fault::reason(&record))),
        }
    }

    pub(super) fn stale(&mut self, model: bool, qemu: bool) {
        self.add("stale allowed");
        if model {
            self.add("stale seen on the model");
        }
        if qemu {
            self.add("stale seen on QEMU");
        }
    }

    pub(super) fn invalidation(&mut self, descriptor: Descriptor, served: usize) {
        let text = format!("{descriptor:?}");
        let name = text.split([' ', '{', '(']).next().unwrap_or_default();
        self.add(format!("descriptor {name}"));
        if served == 0 {
            self.add("invalidation that settled nothing");
        }
    }

    /// Adds what another run counted.
    pub(super) fn merge(&mut self, other: Self) {
        self.cases += other.cases;
        self.cases_with_data += other.cases_with_data;
        for (class, count) in other.classes {
            *self.classes.entry(class).or_default() += count;
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} cases, {} of them moved data",
            self.cases, self.cases_with_data
        )?;
        for (class, count) in &self.classes {
            writeln!(f, "{count:8}  {class}")?;
        }
        Ok(())
    }
}
