//! Random cases.

use super::case::{Case, Config, Entry, Flaw, Leaf, Path, PathFlaw, Root, Source, Tree, Unit};
use super::encode::{LARGE, first, mask, second, shift};
use super::image::leaf_word;
use super::layout::{DATA, DATA_SIZE, HOLE, is_interrupt};
use super::steps::steps;
use crate::differential::rng::Rng;

/// An address worth an access, and what it goes through.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) iova: u64,
    pub(super) via: &'static str,
}

/// What of a case its parts depend on.
#[derive(Clone, Copy)]
struct Mode {
    unit: Unit,
    scalable: bool,
}

/// The case of this seed and number.
pub(super) fn case(seed: u64, index: u64, unit: Unit) -> Case {
    let mut rng = Rng::new(seed, index);
    let rng = &mut rng;
    // Legacy tables of a unit that has only first-level ones mean nothing.
    let scalable = match unit {
        Unit::Second => rng.percent(85),
        _ => unit == Unit::First,
    };
    let mode = Mode { unit, scalable };
    let did = 1 + rng.below(0xfff0);
    let mut targets: [[Vec<Target>; 2]; 2] = Default::default();
    let mut source = |rng: &mut Rng, s: usize| {
        let mut config = |c: usize| {
            let did = did + s as u64 * 2 + c as u64;
            let did = u16::try_from(did).unwrap_or(1);
            config(rng, mode, did, &mut targets[s][c])
        };
        let mut configs = [config(0), config(1)];
        let path = path(rng, scalable);
        let mut start = entry(rng, true);
        if path.is_silent() {
            // Mask: QEMU does not check a PASID entry if it need not tell.
            start = Entry::Config(rng.index(2));
            configs
                .iter_mut()
                .for_each(|config| config.flaw = Flaw::None);
        }
        Source {
            configs,
            path,
            start,
        }
    };
    let sources = [source(rng, 0), source(rng, 1)];
    let root = match rng.below(100) {
        0 => Root::NotPresent,
        1 => Root::Reserved(rng.pick(&[1, 2, 5, 11, unit.bits(), 51, 63])),
        2 => Root::ContextHole,
        3 => Root::Hole,
        _ => Root::Good,
    };
    let steps = steps(rng, scalable, &sources, &targets);
    Case {
        unit,
        scalable,
        root,
        sources,
        steps,
    }
}

fn path(rng: &mut Rng, scalable: bool) -> Path {
    let flaw = match rng.below(40) {
        0 => PathFlaw::ContextNotPresent,
        1 => PathFlaw::ContextReserved(rng.pick(&[5, 8, 63, 64 + 21, 64 + 63, 128, 200, 255])),
        2 => PathFlaw::DirectoryHole,
        3 => PathFlaw::DirectoryNotPresent,
        4 => PathFlaw::TableHole,
        _ => PathFlaw::None,
    };
    Path {
        // Mask: QEMU does not look at how many PASIDs a directory has; the least is 2 to the 13th.
        rid_pasid: {
            let bits = rng.pick(&[0, 5, 8, 13]);
            u16::try_from(rng.bits(bits)).unwrap_or(0)
        },
        faults_off: [scalable && rng.percent(5), scalable && rng.percent(5)],
        flaw: if scalable { flaw } else { PathFlaw::None },
    }
}

/// What an entry holds, at the start or later.
pub(super) fn entry(rng: &mut Rng, start: bool) -> Entry {
    match rng.below(if start { 40 } else { 10 }) {
        0 | 1 => Entry::Absent(rng.index(2)),
        n if n % 4 == 0 => Entry::Config(1),
        _ => Entry::Config(0),
    }
}

fn config(rng: &mut Rng, mode: Mode, did: u16, targets: &mut Vec<Target>) -> Config {
    let most_levels = if mode.unit == Unit::Narrow { 3 } else { 4 };
    let tree = (!rng.percent(15)).then(|| tree(rng, mode, most_levels, targets));
    if tree.is_none() {
        for _ in 0..3 {
            targets.push(Target {
                iova: data_or_hole(rng),
                via: "no table",
            });
        }
    }
    let flaw = match rng.percent(12) {
        true => flaw(rng, mode, tree.as_ref()),
        false => Flaw::None,
    };
    Config {
        did,
        faults_off: rng.percent(10),
        tree,
        most_levels,
        flaw,
    }
}

fn data_or_hole(rng: &mut Rng) -> u64 {
    match rng.below(10) {
        0 => HOLE + rng.bits(20),
        _ => DATA + rng.below(DATA_SIZE),
    }
}

fn flaw(rng: &mut Rng, mode: Mode, tree: Option<&Tree>) -> Flaw {
    let bits = mode.unit.bits();
    match (mode.scalable, tree) {
        (false, None) => rng.pick(&[Flaw::Kind(1), Flaw::Kind(3), Flaw::Width(0), Flaw::Width(3)]),
        (false, Some(_)) => match rng.below(4) {
            0 => rng.pick(&[Flaw::Kind(1), Flaw::Kind(3)]),
            1 => Flaw::Width(rng.pick(&[0, 3, 4, 5, 6, 7])),
            2 => Flaw::Reserved(rng.pick(&[4, 11, bits, 51, 63, 64 + 7, 64 + 24, 64 + 63])),
            _ => Flaw::RootHole,
        },
        // Mask: QEMU looks at no reserved bit of a PASID entry.
        (true, tree) => {
            let other = if mode.unit == Unit::First { 2 } else { 1 };
            match (rng.below(3), tree) {
                (1, Some(tree)) if tree.first_level => Flaw::Width(rng.pick(&[1, 2, 3])),
                (1, Some(_)) => Flaw::Width(rng.pick(&[0, 3, 4, 5, 6, 7])),
                (2, Some(_)) => Flaw::RootHole,
                _ => Flaw::Kind(rng.pick(&[0, 3, 5, 6, 7, other])),
            }
        }
    }
}

/// What a leaf leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    Data,
    Hole,
}

fn tree(rng: &mut Rng, mode: Mode, most_levels: u32, targets: &mut Vec<Target>) -> Tree {
    let first_level = mode.unit == Unit::First;
    let levels = match first_level {
        true => 4,
        false => 3 + rng.small(most_levels - 2),
    };
    let mut tree = Tree {
        first_level,
        levels,
        clear_flags: first_level && rng.percent(30),
        leaves: Vec::new(),
    };
    let bits = shift(levels) + 9;
    let mut near = rng.bits(bits);
    for n in 0..1 + rng.below(4) {
        let good = n == 0;
        let level = rng.pick(&[1, 1, 1, 1, 2, 2, 3]);
        let size = shift(level);
        near ^= match rng.below(4) {
            0 => rng.bits(bits),
            1 => rng.bits(24),
            _ => rng.bits(16),
        };
        let input = near & !mask(size);
        let (output, kind) = output(rng, level, good);
        let word = match good {
            true => leaf_word(&tree, level, output),
            false => bad_or_good(rng, mode, &tree, level, output),
        };
        tree.leaves.push(Leaf { input, level, word });
        for _ in 0..3 {
            let within = match kind {
                Output::Data if size > 12 => DATA - output + rng.below(DATA_SIZE),
                _ => rng.bits(size),
            };
            targets.push(Target {
                iova: input + within,
                via: ["a 4 KiB page", "a 2 MiB page", "a 1 GiB page"][level as usize - 1],
            });
        }
    }
    probes(rng, mode, bits, targets);
    if first_level {
        // Canonical: the highest bit goes on to bit 63.
        for target in targets.iter_mut().filter(|target| target.iova >> 47 == 1) {
            target.iova |= !mask(48);
        }
    }
    targets.retain(|target| !is_interrupt(target.iova));
    if targets.is_empty() {
        targets.push(Target {
            iova: 0,
            via: "nothing",
        });
    }
    tree
}

/// Addresses that lead nowhere.
fn probes(rng: &mut Rng, mode: Mode, bits: u32, targets: &mut Vec<Target>) {
    if rng.percent(40) {
        targets.push(Target {
            iova: rng.bits(bits),
            via: "nothing",
        });
    }
    if rng.percent(25) {
        // Out of range; a first-level address that is not canonical.
        let beyond = match mode.unit {
            Unit::First => rng.bits(47) | 1 << (48 + rng.below(15)),
            _ => rng.bits(bits) | 1 << (bits + rng.small(64 - bits)),
        };
        targets.push(Target {
            iova: beyond,
            via: "nothing",
        });
    }
}

/// Where a leaf leads.
fn output(rng: &mut Rng, level: u32, good: bool) -> (u64, Output) {
    let size = shift(level);
    if !good && rng.percent(6) {
        return (HOLE, Output::Hole);
    }
    let data = match size > 12 {
        true => DATA & !mask(size),
        false => DATA + (rng.below(DATA_SIZE) & !mask(size)),
    };
    (data, Output::Data)
}

/// A leaf with fewer rights, reserved bits, or one that is not there; or a good one.
fn bad_or_good(rng: &mut Rng, mode: Mode, tree: &Tree, level: u32, output: u64) -> u64 {
    let word = leaf_word(tree, level, output);
    // Mask: QEMU looks at rights before reserved bits, so a leaf has at most one flaw.
    match rng.below(10) {
        0 if level > 1 => {
            // A table that is not there.
            word & !LARGE & !(mask(48) & !mask(12)) | HOLE
        }
        1 | 2 => word | 1 << reserved_bit(rng, mode, tree, level),
        3..6 if tree.first_level => match rng.below(3) {
            0 => word & !1,
            1 => word & !first::WRITE,
            _ => word & !first::USER,
        },
        3..6 => match rng.below(3) {
            0 => word & !(second::READ | second::WRITE),
            1 => word & !second::READ,
            _ => word & !second::WRITE,
        },
        _ => word,
    }
}

fn reserved_bit(rng: &mut Rng, mode: Mode, tree: &Tree, level: u32) -> u32 {
    let beyond = mode.unit.bits();
    let mut bits = vec![beyond, 51];
    if !tree.first_level {
        bits.push(second::TRANSIENT.trailing_zeros());
        // Mask: where there is scalable mode, QEMU takes the snoop bit, ECAP.SC or not.
        if !mode.unit.has_scalable_mode() {
            bits.push(second::SNOOP.trailing_zeros());
        }
    }
    match level {
        2 => bits.extend([13, 20]),
        3 => bits.extend([13, 21, 29]),
        _ => {}
    }
    rng.pick(&bits)
}
