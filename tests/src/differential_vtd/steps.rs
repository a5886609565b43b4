//! Random steps of a case.

use super::case::{Entry, Invalidation, LeafEdit, Source, Step};
use super::generate::{Target, entry};
use crate::differential::rng::Rng;

/// Steps in the making.
struct Steps<'a> {
    scalable: bool,
    sources: &'a [Source; 2],
    targets: &'a [[Vec<Target>; 2]; 2],
    entries: [Entry; 2],
    list: Vec<Step>,
}

pub(super) fn steps(
    rng: &mut Rng,
    scalable: bool,
    sources: &[Source; 2],
    targets: &[[Vec<Target>; 2]; 2],
) -> Vec<Step> {
    let mut steps = Steps {
        scalable,
        sources,
        targets,
        entries: [sources[0].start, sources[1].start],
        list: Vec::new(),
    };
    for _ in 0..1 + rng.below(3) {
        steps.access(rng);
    }
    for _ in 0..1 + rng.below(3) {
        match rng.below(16) {
            0 => steps.list.push(Step::IllegalDescriptor(illegal(rng))),
            1..12 => steps.change(rng),
            _ => steps.access(rng),
        }
        steps.access(rng);
    }
    steps.list
}

/// The first word of a descriptor that no unit has: a type that is reserved, or a granularity.
fn illegal(rng: &mut Rng) -> u64 {
    rng.pick(&[0x0, 0xf, 0xe, 0x1, 0x2, 1 << 63 | 0x12, 1 << 12 | 0x11])
}

impl Steps<'_> {
    fn access(&mut self, rng: &mut Rng) {
        let source = usize::from(rng.percent(25));
        let target = self.target(rng, source);
        self.push_access(rng, source, target);
    }

    fn push_access(&mut self, rng: &mut Rng, source: usize, target: Target) {
        let size = rng.pick(&[4, 4, 4, 2, 1]);
        self.list.push(Step::Access {
            source,
            write: rng.percent(50),
            size,
            iova: target.iova & !(size as u64 - 1),
            via: target.via,
        });
    }

    fn target(&mut self, rng: &mut Rng, source: usize) -> Target {
        let (Entry::Config(which) | Entry::Absent(which)) = self.entries[source];
        rng.pick(&self.targets[source][which])
    }

    /// Changes an entry. One that is present becomes another only by way of one that is not, with what
    /// was cached of it invalidated in between.
    fn edit_entry(&mut self, rng: &mut Rng, source: usize, to: Entry) {
        if let (Entry::Config(from), Entry::Config(_)) = (self.entries[source], to) {
            let absent = Entry::Absent(from);
            self.list.push(Step::EditEntry { source, to: absent });
            let variant = u8::try_from(rng.bits(8)).unwrap_or(0);
            self.list
                .push(Step::Invalidate(Invalidation::Right(variant)));
        }
        self.entries[source] = to;
        self.list.push(Step::EditEntry { source, to });
    }

    /// A change between two accesses that show it, with or without its invalidation.
    fn change(&mut self, rng: &mut Rng) {
        let source = usize::from(rng.percent(25));
        let target = self.target(rng, source);
        self.push_access(rng, source, target);
        let (Entry::Config(config) | Entry::Absent(config)) = self.entries[source];
        let has_leaves = self.sources[source].configs[config].tree.is_some();
        match rng.below(12) {
            0..3 if !self.sources[source].path.is_silent() => {
                let to = entry(rng, false);
                self.edit_entry(rng, source, to);
            }
            3 if self.scalable => self.list.push(Step::TogglePath { source }),
            _ if has_leaves => self.list.push(Step::EditLeaf {
                source,
                config,
                // The first leaf is a good one.
                leaf: rng.pick(&[0, 0, 1, 2, 3]),
                how: match rng.below(9) {
                    0 | 1 => LeafEdit::Invalidate,
                    2 | 3 => LeafEdit::Move(1 + rng.below(7)),
                    4 | 5 => LeafEdit::ToggleWrite,
                    6 => LeafEdit::ToggleRead,
                    _ => LeafEdit::Restore,
                },
            }),
            _ => {}
        }
        let variant = u8::try_from(rng.bits(8)).unwrap_or(0);
        match rng.below(10) {
            0..6 => self
                .list
                .push(Step::Invalidate(Invalidation::Right(variant))),
            6 => self.list.push(Step::Invalidate(Invalidation::All)),
            7 => self
                .list
                .push(Step::Invalidate(Invalidation::Wrong(variant))),
            _ => {}
        }
        if rng.percent(80) {
            self.push_access(rng, source, target);
        }
    }
}
