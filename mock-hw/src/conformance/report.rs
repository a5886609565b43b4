//! What a run found.

use std::fmt;

/// How a rule ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The backend keeps it.
    Passed,
    /// It does not apply: the capability that is missing.
    Skipped(&'static str),
    /// It is broken: the first thing that was otherwise than it should be.
    Failed(String),
}

/// Each rule, and how it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    testbed: String,
    rules: Vec<(&'static str, Outcome)>,
}

impl Report {
    pub(super) fn new(testbed: String) -> Self {
        let rules = Vec::new();
        Self { testbed, rules }
    }

    pub(super) fn push(&mut self, rule: &'static str, outcome: Outcome) {
        self.rules.push((rule, outcome));
    }

    /// All rules in the order in which they were tried.
    #[must_use]
    pub fn rules(&self) -> &[(&'static str, Outcome)] {
        &self.rules
    }

    /// The names of the rules that are broken.
    pub fn failed(&self) -> impl Iterator<Item = &'static str> {
        let failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_));
        let rules = self.rules.iter();
        rules.filter_map(move |(rule, outcome)| failed(outcome).then_some(*rule))
    }

    /// The names of the rules that do not apply.
    pub fn skipped(&self) -> impl Iterator<Item = &'static str> {
        let skipped = |outcome: &Outcome| matches!(outcome, Outcome::Skipped(_));
        let rules = self.rules.iter();
        rules.filter_map(move |(rule, outcome)| skipped(outcome).then_some(*rule))
    }

    /// Ends a test.
    ///
    /// # Panics
    ///
    /// Where a rule is broken, with the whole report.
    #[track_caller]
    pub fn assert(&self) {
        assert!(self.failed().next().is_none(), "{self}");
    }
}

impl fmt::Display for Report {
    /// A line for each rule, then the sum. Widths are given so that failures stand out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.testbed)?;
        for (rule, outcome) in &self.rules {
            match outcome {
                Outcome::Passed => writeln!(f, "  passed   {rule}")?,
                Outcome::Skipped(why) => writeln!(f, "  skipped  {rule} ({why})")?,
                Outcome::Failed(how) => writeln!(f, "  FAILED   {rule}\n           {how}")?,
            }
        }
        let (failed, skipped) = (self.failed().count(), self.skipped().count());
        let passed = self.rules.len() - failed - skipped;
        write!(f, "{passed} passed, {skipped} skipped, {failed} failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new("a toy".into());
        report.push("1 first", Outcome::Passed);
        report.push("2 second", Outcome::Skipped("no PASIDs"));
        report
    }

    #[test]
    fn a_report_reads_well() {
        let mut report = report();
        report.assert();
        report.push(
            "3 third",
            Outcome::Failed("device 0 reaches too much".into()),
        );
        assert_eq!(
            report.to_string(),
            "a toy\n  passed   1 first\n  skipped  2 second (no PASIDs)\n  FAILED   3 third\n           \
             device 0 reaches too much\n1 passed, 1 skipped, 1 failed"
        );
    }

    #[test]
    #[should_panic(expected = "FAILED   3 third")]
    fn a_broken_rule_ends_the_test() {
        let mut report = report();
        report.push("3 third", Outcome::Failed(String::new()));
        report.assert();
    }
}
