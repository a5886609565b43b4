//! Random steps of a case.

use super::case::{ContextEdit, Entry, Environment, Invalidation, LeafEdit, Step, Stream};
use super::generate::{Target, entry};
use super::image::raw_command;
use super::layout::{DATA, DATA_SIZE, HOLE};
use super::rng::Rng;

/// Steps in the making.
struct Steps<'a> {
    streams: &'a [Stream; 2],
    targets: &'a [[Vec<Target>; 2]; 2],
    entries: [Entry; 2],
    list: Vec<Step>,
}

pub(super) fn steps(
    rng: &mut Rng,
    environment: Environment,
    streams: &[Stream; 2],
    targets: &[[Vec<Target>; 2]; 2],
) -> Vec<Step> {
    let mut steps = Steps {
        streams,
        targets,
        entries: [streams[0].start, streams[1].start],
        list: Vec::new(),
    };
    for _ in 0..1 + rng.below(3) {
        steps.access(rng);
    }
    for _ in 0..1 + rng.below(3) {
        match rng.below(16) {
            0 => steps
                .list
                .push(Step::IllegalCommand(illegal(rng, environment))),
            1..11 => steps.change(rng),
            _ => steps.access(rng),
        }
        steps.access(rng);
    }
    steps.list
}

/// A command that no SMMU of this kind has.
///
/// Mask: QEMU accepts those for EL2 and EL3, for stalls, ATS and PRI, though it has none of them.
fn illegal(rng: &mut Rng, environment: Environment) -> [u64; 2] {
    const SSEC: u64 = 1 << 10;
    let mut opcodes = vec![0x00, 0x08, 0x0f, 0x14, 0x2f, 0x31, 0x47, 0x7f, 0xff];
    opcodes.extend([0x03 | SSEC, 0x04 | SSEC, 0x05 | SSEC, 0x06 | SSEC]);
    if !environment.has_stage1() {
        opcodes.extend([0x10, 0x11, 0x12, 0x13]);
    }
    if !environment.has_stage2() {
        opcodes.extend([0x28, 0x2a]);
    }
    let opcode = rng.pick(&opcodes);
    let mut words = raw_command(opcode & 0xff);
    words[0] |= opcode & SSEC;
    words
}

impl Steps<'_> {
    fn access(&mut self, rng: &mut Rng) {
        let stream = usize::from(rng.percent(25));
        let target = self.target(rng, stream);
        self.push_access(rng, stream, target);
    }

    fn push_access(&mut self, rng: &mut Rng, stream: usize, target: Target) {
        let size = rng.pick(&[4, 4, 4, 2, 1]);
        self.list.push(Step::Access {
            stream,
            write: rng.percent(50),
            size,
            iova: target.iova & !(size as u64 - 1),
            via: target.via,
        });
    }

    fn target(&mut self, rng: &mut Rng, stream: usize) -> Target {
        if let Entry::Config(which) = self.entries[stream] {
            return rng.pick(&self.targets[stream][which]);
        }
        let iova = match rng.below(10) {
            0 => HOLE + rng.bits(20),
            _ => DATA + rng.below(DATA_SIZE),
        };
        Target {
            iova,
            via: "no table",
        }
    }

    /// A change between two accesses that show it, with or without its invalidation.
    fn change(&mut self, rng: &mut Rng) {
        let stream = usize::from(rng.percent(25));
        let target = self.target(rng, stream);
        self.push_access(rng, stream, target);
        let config = match self.entries[stream] {
            Entry::Config(which) => which,
            _ => rng.index(2),
        };
        let has_stage1 = self.streams[stream].configs[config].stage1.is_some();
        match rng.below(10) {
            0..2 => {
                let to = entry(rng, false);
                self.entries[stream] = to;
                self.list.push(Step::EditEntry { stream, to });
            }
            2 | 3 if has_stage1 => self.list.push(Step::EditContext {
                stream,
                config,
                how: rng.pick(&[
                    ContextEdit::Invalidate,
                    ContextEdit::Restore,
                    ContextEdit::ToggleRecord,
                ]),
            }),
            _ => self.list.push(Step::EditLeaf {
                stream,
                config,
                // The first leaf is a good one; stage 2 comes after stage 1.
                leaf: rng.pick(&[0, 0, 1, 2, 3, 4, 5, 6]),
                how: match rng.below(8) {
                    0 | 1 => LeafEdit::Invalidate,
                    2 | 3 => LeafEdit::Move(1 + rng.below(7)),
                    4 | 5 => LeafEdit::ToggleWrite,
                    6 => LeafEdit::ToggleAccessFlag,
                    _ => LeafEdit::Restore,
                },
            }),
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
            self.push_access(rng, stream, target);
        }
    }
}
