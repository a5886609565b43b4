//! Random leaves of tables.

use super::encode::{mask, pte, shift};
use super::layout::{DATA, DATA_SIZE, HOLE};
use super::rng::Rng;

/// What a leaf leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Data,
    Hole,
    TooLarge,
}

/// Where a leaf leads.
pub(super) fn output(
    rng: &mut Rng,
    granule: u32,
    level: u32,
    bits: u32,
    good: bool,
) -> (u64, Output) {
    let size = shift(granule, level);
    let data = if size >= 19 {
        DATA & !mask(size)
    } else {
        DATA + (rng.below(DATA_SIZE) & !mask(size))
    };
    match rng.below(100) {
        _ if good => (data, Output::Data),
        0..5 => (HOLE, Output::Hole),
        // The lowest bit beyond the output size, or another one.
        5..9 => {
            let bit = rng.pick(&[bits, 46, 47]).max(bits);
            (data | 1 << bit, Output::TooLarge)
        }
        _ => (data, Output::Data),
    }
}

/// An offset in a leaf that leads to the data, where the leaf does.
pub(super) fn reached(rng: &mut Rng, output: u64, size: u32, kind: Output) -> u64 {
    match kind {
        Output::Data if size >= 19 => DATA - output + rng.below(DATA_SIZE),
        _ => rng.bits(size.min(30)),
    }
}

/// The level of a leaf: mostly a page.
pub(super) fn leaf_level(rng: &mut Rng, granule: u32, start: u32, bits: u32) -> u32 {
    // Mask: QEMU takes blocks for valid at levels that have none, so there are none there.
    let highest = if granule == 12 { 1 } else { 2 };
    let blocks: Vec<u32> = (start.max(highest)..3)
        .filter(|level| shift(granule, *level) < bits)
        .collect();
    if blocks.is_empty() || rng.percent(60) {
        3
    } else {
        rng.pick(&blocks)
    }
}

/// An address near another one, in the same tables mostly, or anywhere.
pub(super) fn place_near(rng: &mut Rng, near: u64, bits: u32, granule: u32) -> u64 {
    let distance = match rng.below(4) {
        0 => bits,
        1 => (granule + granule).min(bits),
        _ => (granule + 4).min(bits),
    };
    near ^ rng.bits(distance)
}

/// The type bits of a valid leaf.
pub(super) fn page_or_block(level: u32) -> u64 {
    if level == 3 {
        pte::VALID | pte::TABLE_OR_PAGE
    } else {
        pte::VALID
    }
}

/// The name of a leaf of this size.
pub(super) fn via(granule: u32, level: u32) -> &'static str {
    match (granule, level) {
        (12, 3) => "a 4 KiB page",
        (14, 3) => "a 16 KiB page",
        (16, 3) => "a 64 KiB page",
        (12, 2) => "a 2 MiB block",
        (12, _) => "a 1 GiB block",
        (14, _) => "a 32 MiB block",
        _ => "a 512 MiB block",
    }
}
