//! Page tables: one walker, one small file per format.

mod armv8;
mod table;
mod vtd;

pub use armv8::{Stage1, Stage2};
pub use table::{PAGE_SIZES, PageTable, Unlinked};
pub use vtd::{FirstStage, SecondStage};

use crate::addr::PhysAddr;
use crate::domain::Prot;

/// How one kind of page table writes its descriptors: 64-bit words, 4 KiB pages, nine bits of the
/// address per level.
///
/// Levels are counted as Arm does: 3 holds pages, 2 blocks of 2 MiB, 1 blocks of 1 GiB, 0 only
/// tables.
///
/// # Safety
///
/// The walker follows what [`decode`](Self::decode) says: it must give [`Descriptor::Table`] for
/// exactly the descriptors that [`table`](Self::table) makes, with the address that was given, and
/// [`Descriptor::Invalid`] for a word of zero.
pub unsafe trait Format: Send + Sync + 'static {
    /// The largest number of tables that the first level may consist of, side by side.
    const MAX_ROOT_TABLES: usize;

    /// The descriptor of a page or block at `level` with the access that `prot` allows.
    fn leaf(phys: PhysAddr, level: u8, prot: Prot) -> u64;
    /// The descriptor of a next-level table.
    fn table(phys: PhysAddr) -> u64;
    /// What a descriptor at `level` says.
    fn decode(descriptor: u64, level: u8) -> Descriptor;
}

/// What a descriptor says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Descriptor {
    /// Nothing is mapped.
    Invalid,
    /// The next level continues there.
    Table(PhysAddr),
    /// The walk ends: a page or block starts there.
    Leaf(PhysAddr),
}
