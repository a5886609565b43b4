//! Random operations that mean something for what is mapped.

use iommu_core::Prot;

use super::leaves::Leaves;
use super::{G1, K4, M2, WINDOW};
use crate::differential::rng::Rng;

const RW: Prot = Prot::READ.union(Prot::WRITE);

/// One call of a paging domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    Map {
        iova: u64,
        phys: u64,
        len: u64,
        prot: Prot,
    },
    Unmap {
        iova: u64,
        len: u64,
    },
    Protect {
        iova: u64,
        len: u64,
        prot: Prot,
    },
    Split {
        iova: u64,
    },
    Merge {
        iova: u64,
        size: u64,
    },
}

impl Op {
    /// What it is about; of the block that is split, the page that was named.
    pub(super) fn range(self) -> (u64, u64) {
        match self {
            Self::Map { iova, len, .. }
            | Self::Unmap { iova, len }
            | Self::Protect { iova, len, .. } => (iova, len),
            Self::Split { iova } => (iova, K4),
            Self::Merge { iova, size } => (iova, size),
        }
    }

    /// What it is called in counts.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Map { .. } => "map",
            Self::Unmap { .. } => "unmap",
            Self::Protect { .. } => "protect",
            Self::Split { .. } => "split",
            Self::Merge { .. } => "merge",
        }
    }
}

/// The pages that devices have: whole blocks of 2 MiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) base: u64,
    pub(super) len: u64,
}

impl Target {
    /// Where it lies in its GiB: what a block of 1 GiB leads there.
    pub(super) fn in_its_gib(self) -> u64 {
        self.base % G1
    }
}

/// Of 100 kinds of operations, those from here on split and merge.
const RESIZES: u64 = 70;

/// The next operation on `leaves`.
pub(super) fn next(rng: &mut Rng, leaves: &Leaves, target: Target) -> Op {
    let kinds = match leaves.is_resizable() || rng.percent(10) {
        true => 100,
        false => RESIZES,
    };
    let kind = match leaves.is_empty() && rng.percent(90) {
        true => 0,
        false => rng.below(kinds),
    };
    match kind {
        0..36 => map(rng, target),
        36..62 => {
            let (iova, len) = part(rng, leaves, target);
            Op::Unmap { iova, len }
        }
        62..RESIZES => {
            let (iova, len) = part(rng, leaves, target);
            let prot = rng.pick(&[Prot::READ, RW]);
            Op::Protect { iova, len, prot }
        }
        RESIZES..86 => Op::Split {
            iova: inside(rng, leaves, target),
        },
        _ => {
            let n = rng.index(usize::MAX);
            let table = match rng.below(10) {
                0..7 => leaves.nth_block_of_leaves(n).or(leaves.nth_table(n)),
                7..9 => leaves.nth_table(n),
                _ => None,
            };
            let (size, iova) = table.unwrap_or_else(|| (M2, place(rng, target) & !(M2 - 1)));
            Op::Merge { iova, size }
        }
    }
}

fn map(rng: &mut Rng, target: Target) -> Op {
    let prot = if rng.percent(80) { RW } else { Prot::READ };
    let blocks = target.len / M2;
    let block = target.base + rng.below(blocks - 1) * M2;
    let page = |rng: &mut Rng, pages: u64| {
        let last = target.len / K4 - pages;
        target.base + rng.below(last + 1) * K4
    };
    let at = place(rng, target);
    let at_block = at & !(M2 - 1);
    let (iova, phys, len) = match rng.below(100) {
        0..30 => {
            let pages = 1 + rng.below(4);
            (at, page(rng, pages), pages * K4)
        }
        // By pages, though by a whole table of them.
        30..38 => (at_block, page(rng, 512), M2),
        38..70 => (at_block, block, M2),
        70..80 => (at_block, block, 2 * M2),
        // From the last page before a block to the first behind it.
        80..92 if block > target.base => (at_block - K4, block - K4, M2 + 2 * K4),
        80..92 => (at_block, block, M2 + K4),
        _ => (at & !(G1 - 1), target.base & !(G1 - 1), G1),
    };
    Op::Map {
        iova,
        phys,
        len,
        prot,
    }
}

/// A page of the window: of the blocks that one of 1 GiB leads to the target, or next to a boundary
/// of 1 GiB.
fn place(rng: &mut Rng, target: Target) -> u64 {
    let same = target.in_its_gib();
    let block = match rng.below(10) {
        0..6 => same + rng.below(target.len / M2) * M2,
        6 => G1 - M2,
        7 => G1,
        _ => G1 + same,
    };
    let page = match rng.below(4) {
        0 => 0,
        1 => rng.below(3),
        2 => 511 - rng.below(3),
        _ => rng.below(512),
    };
    WINDOW + block + page * K4
}

/// A page that is mapped, if there is one: of a block where that can be.
fn inside(rng: &mut Rng, leaves: &Leaves, target: Target) -> u64 {
    let n = rng.index(usize::MAX);
    match leaves.nth_block(n).or(leaves.nth(n)) {
        Some((at, leaf)) => at + rng.below(leaf.size / K4) * K4,
        None => place(rng, target),
    }
}

/// Something to unmap or to change: mostly what can be.
fn part(rng: &mut Rng, leaves: &Leaves, target: Target) -> (u64, u64) {
    let Some((at, leaf)) = leaves.nth(rng.index(usize::MAX)) else {
        return (place(rng, target), K4);
    };
    let run = leaves.run(at).unwrap_or(at..at + leaf.size);
    match rng.below(100) {
        0..35 => (at, leaf.size),
        35..65 => (run.start, run.end - run.start),
        // From here to the end of what is mapped, or up to here.
        65..75 => (at, run.end - at),
        75..85 => (run.start, at + leaf.size - run.start),
        // All that one table has.
        85..90 => (at & !(M2 - 1), M2),
        // A part of a leaf, where it is larger than a page.
        90..95 => (at + rng.below(leaf.size / K4) * K4, K4),
        _ => (place(rng, target), (1 + rng.below(3)) * K4),
    }
}
