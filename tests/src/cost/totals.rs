//! How the ninety transitions compare in all.

use std::collections::BTreeMap;

use iommu_core::Atomicity;

use super::{Line, Subject, Way};

/// What all transitions of one stream table entry take together.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Totals {
    /// How many there are: ninety.
    pub transitions: usize,
    /// Those that break, from and to.
    pub broken: Vec<[&'static str; 2]>,
    /// How often they wait for the hardware.
    pub waits: usize,
}

impl Totals {
    /// With stores of this width. With `retag` the VMID may change by itself.
    #[must_use]
    pub fn of(lines: &[Line], atomicity: Atomicity, retag: bool) -> Self {
        let lines = lines.iter().filter(|line| line.atomicity == atomicity);
        Self::sum(lines.filter(|line| line.retag || !retag), |line| {
            (line.breaks.is_some(), line.counts.waits)
        })
    }

    /// In Linux.
    #[must_use]
    pub fn linux(lines: &[Line]) -> Self {
        Self::sum(lines.iter(), |line| {
            line.linux
                .map_or((false, 0), |linux| (linux.way == Way::Breaks, linux.waits))
        })
    }

    fn sum<'a>(
        lines: impl Iterator<Item = &'a Line>,
        figures: impl Fn(&Line) -> (bool, usize),
    ) -> Self {
        let ninety = lines.filter(|line| {
            line.streams == 1 && matches!(line.subject, Subject::Entry | Subject::Stalling)
        });
        // A line for a VMID that must not change by itself comes last and counts.
        let pairs: BTreeMap<_, _> = ninety.map(|line| ([line.from, line.to], line)).collect();
        let mut totals = Self::default();
        for (pair, line) in pairs {
            let (breaks, waits) = figures(line);
            totals.transitions += 1;
            totals.waits += waits;
            if breaks {
                totals.broken.push(pair);
            }
        }
        totals
    }
}
