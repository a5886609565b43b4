//! Page tables: one walker, compiled for each format.
//!
//! # A range belongs to its caller
//!
//! Any number of CPUs map and unmap in one [`PageTable`] at once, each in ranges of its own, and none
//! waits for another: there is no lock. Pages are looked at by loads and written by plain stores.
//! What ranges share is the tables above them, and what is in those changes by compare-exchange alone:
//!
//! - a table that is missing is *built* apart, with all the leaves that it is built for, and then
//!   linked; who comes second frees his own and goes on in the winner's;
//! - a table whose whole span one unmap covers is *retired*: its descriptor becomes an invalid one
//!   that keeps the address and says which unmap it was. Nothing is mapped there until that unmap's
//!   invalidation has completed;
//! - then the unmap *reclaims* it: its descriptor becomes empty, and the table goes back to its
//!   memory. If the invalidation did not complete, that never happens.
//!
//! # Callers that break the rule
//!
//! The rule keeps mappings right. It is not what keeps memory safe: safe code may call what it likes
//! with whatever ranges.
//!
//! - A [`Walker`] is counted from before its first look at the table until it is gone. A table that
//!   was unlinked is freed only if nobody but who frees it was counted at some moment after that;
//!   otherwise it is put aside, and freed by a later reclaim or with the page table. Nobody waits.
//! - A table is reclaimed by the unmap that retired it: the number in the descriptor belongs to that
//!   unmap alone until it has reclaimed. So no table goes back before *its* invalidation completed.
//! - A leaf is written only by who maps it, or exchanged for another to the same memory. So once an
//!   unmap of all that somebody mapped has succeeded, no device reaches it, whoever else mapped or
//!   unmapped the same addresses meanwhile. [`Walker::merge`] is the exception: it wants a promise.

mod armv8;
mod change;
mod limbo;
mod map;
mod presence;
mod reclaim;
mod table;
#[cfg(test)]
mod tests;

mod unmap;
mod vtd;

pub use armv8::{Granule, Granule4K, Granule16K, Granule64K, Stage1, Stage2};
pub use change::Undisturbed;
pub use table::{PageTable, Walker};
pub use unmap::Unmapped;
pub use vtd::{FirstStage, SecondStage};

use crate::addr::PhysAddr;
use crate::domain::Prot;

/// The level of pages, the last of a walk. Levels are counted as Arm does: the one above is 2, and
/// so on up to 0.
pub const LAST_LEVEL: u8 = 3;

/// How one kind of page table writes its descriptors, 64-bit words all of them.
///
/// # Safety
///
/// Of what the constants make,
///
/// - [`is_table`](Self::is_table) is true for an address in [`ADDRESS`](Self::ADDRESS) with
///   [`TABLE`](Self::TABLE), and false for zero, for leaves above the last level, and for every word
///   whose bits 4:0 are zero;
/// - [`is_valid`](Self::is_valid) is true for leaves and tables, and false for every word whose bits
///   4:0 are zero; where it is true for what several words have in common, it is for each. To
///   hardware such a word maps nothing, whatever else is in it;
/// - hardware never changes the descriptor of a table.
pub unsafe trait Format: Send + Sync + 'static {
    /// log2 of the size of a page, at least 12.
    const PAGE_SHIFT: u32;
    /// log2 of the number of descriptors of a table.
    const INDEX_BITS: u32 = Self::PAGE_SHIFT - 3;
    /// The least and the largest number of bits of an input address.
    const INPUT_BITS: (u32, u32) = (32, 48);
    /// A bit for each size of a leaf.
    const PAGE_SIZES: u64;
    /// The first and the last level that a root can have.
    const ROOT_LEVELS: (u8, u8);
    /// The largest number of tables that the root may consist of, side by side.
    const MAX_ROOT_TABLES: usize;
    /// The bits of a descriptor that hold an address.
    const ADDRESS: u64;
    /// What the descriptor of a table has besides the address.
    const TABLE: u64;
    /// What a leaf at each level has besides the address, and whatever it allows.
    const LEAF: [u64; 4];
    /// What a leaf has besides that, by what it allows: by the bits of a [`Prot`].
    const ATTRIBUTES: [u64; 16];

    /// Whether a descriptor above the last level is that of a table.
    fn is_table(descriptor: u64) -> bool;
    /// Whether a descriptor maps something, or is that of a table.
    fn is_valid(descriptor: u64) -> bool;

    /// The descriptor of a leaf at `level`: of the page or block at `phys`, which is aligned to its
    /// size and has no bits but those of [`ADDRESS`](Self::ADDRESS), with what `prot` allows.
    #[must_use]
    #[inline(always)]
    fn leaf(phys: PhysAddr, level: u8, prot: Prot) -> u64 {
        let attributes = Self::ATTRIBUTES[usize::from(prot.bits() & 0xf)];
        phys.0 | Self::LEAF[usize::from(level & 3)] | attributes
    }

    /// The descriptor of the table at `phys`.
    #[must_use]
    #[inline(always)]
    fn table(phys: PhysAddr) -> u64 {
        phys.0 & Self::ADDRESS | Self::TABLE
    }
}

/// log2 of the bytes that one descriptor at `level` spans.
const fn span_shift<F: Format>(level: u8) -> u32 {
    F::PAGE_SHIFT + F::INDEX_BITS * LAST_LEVEL as u32 - F::INDEX_BITS * level as u32
}

/// The bytes that one descriptor at `level` spans.
const fn span<F: Format>(level: u8) -> u64 {
    1 << span_shift::<F>(level)
}

/// The bytes of a table.
const fn table_size<F: Format>() -> usize {
    8 << F::INDEX_BITS
}
