//! Which I/O virtual addresses of a domain are taken.
//!
//! An [`IovaAllocator`] hands out ranges of one address space. It knows nothing of page tables: that
//! a range is free to be handed out again, because nothing is mapped there and no IOMMU remembers
//! what was, is for its owner to say, with [`free`](IovaAllocator::free).
//!
//! ```
//! use iommu_core::dma::iova::{Constraints, IovaAllocator};
//! use iommu_core::{AddrRange, Geometry};
//!
//! let geometry = Geometry {
//!     aperture: AddrRange::new(0, 1 << 48).unwrap(),
//!     physical: AddrRange::EVERYTHING,
//!     page_sizes: 1 << 12 | 1 << 21 | 1 << 30,
//! };
//! let iovas: IovaAllocator = IovaAllocator::new(&geometry, 4)?;
//! iovas.reserve(AddrRange::new(0, 1).unwrap())?; // IOVA 0 is never handed out
//! iovas.reserve(AddrRange::new(0xfee0_0000, 0x10_0000).unwrap())?; // nor are MSI doorbells
//!
//! let cpu = 0; // Platform::current_cpu()
//! let device = Constraints::NONE.below_bits(32);
//! let range = iovas.allocate(cpu, 3 * 4096, &device)?;
//! assert_eq!(range.size(), 4 * 4096); // a power of two of pages,
//! assert!(range.iova().is_aligned(4 * 4096)); // and aligned to it
//! iovas.free(cpu, range);
//! # Ok::<(), iommu_core::Error>(())
//! ```
//!
//! # How it works
//!
//! A *tree* of bitmaps, 64-fold at each level, has a bit for each page. A node knows the largest
//! free block below each of its children, so the lowest free block of any size is found by one
//! descent, whatever lies around it, and neighbours that are free are one larger block without
//! anybody merging them. There are nodes only where something is taken: memory grows with what is in
//! use (600 bytes for every 4,096 pages that are used in part), not with the address space.
//!
//! In front of the tree, each CPU has a *magazine* for each power of two of pages up to
//! [`LARGEST_CACHED`]: a small stack of ranges. Nearly every call ends there, after a few dozen
//! instructions, the same for every size and for every number of ranges. Magazines are filled and
//! emptied a few ranges at a time. Nothing is lost in them: before an allocation fails for lack of
//! space, all magazines are emptied into the tree.
//!
//! What it costs, on x86-64: 75 instructions to allocate and free through a magazine; some thousand
//! where it goes to the tree, for any size; where space has run out, a few hundred for each range in
//! the magazines of all CPUs besides.
//!
//! # Locks and contexts
//!
//! One lock for each CPU's magazines, which others take only where they have the same number or
//! space ran out, and one for the tree. All are held for a bounded number of instructions, one at a
//! time, and never while memory is allocated or freed. With a lock that keeps interrupts off
//! ([`RawLock`](crate::RawLock)), [`allocate`](IovaAllocator::allocate) and
//! [`free`](IovaAllocator::free) may be called in interrupts where the heap may be used there.

#![forbid(unsafe_code)]

mod allocator;
mod chain;
mod magazine;
mod node;
#[cfg(test)]
mod tests;
mod tree;
mod word;

use core::fmt;
use core::num::NonZeroU64;

use crate::addr::Iova;
pub use allocator::IovaAllocator;
use magazine::ORDERS;

/// The largest range that magazines keep, in pages. Larger ones are allocated from the tree and
/// freed into it, at a cost that grows with the depth of the tree, not with their size or the number
/// of ranges.
pub const LARGEST_CACHED: u64 = 1 << (ORDERS - 1);

/// Where ranges for one device, or of one kind, have to lie. Made once, used for every range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Constraints {
    align: u64,
    last: u64,
    /// The last address of a range from a magazine: 0 where none will do.
    last_cached: u64,
}

impl Constraints {
    /// Anywhere.
    pub const NONE: Self = Self {
        align: 1,
        last: u64::MAX,
        last_cached: u64::MAX,
    };

    /// Aligned to `align` bytes, a power of two, where the size does not ask for more already.
    #[must_use]
    pub const fn aligned(self, align: u64) -> Self {
        Self { align, ..self }.checked()
    }

    /// Every address fits `bits` bits: a device's DMA mask.
    #[must_use]
    pub const fn below_bits(self, bits: u32) -> Self {
        let last = match bits {
            0..64 => (1 << bits) - 1,
            _ => u64::MAX,
        };
        Self { last, ..self }.checked()
    }

    /// Whether a range of `size` from a magazine, a power of two, may start at an address.
    #[inline(always)]
    fn allow(&self, size: NonZeroU64) -> impl Fn(u64) -> bool {
        move |start| start | (size.get() - 1) <= self.last_cached
    }

    const fn checked(mut self) -> Self {
        self.last_cached = match self.align {
            1 => self.last,
            _ => 0,
        };
        self
    }
}

impl Default for Constraints {
    fn default() -> Self {
        Self::NONE
    }
}

/// A range of IOVAs that is its owner's alone until it is [freed](IovaAllocator::free).
///
/// Dropping or forgetting it leaks the addresses: nobody is ever given them again. That is harmless,
/// and what to do with a range that a device may go on using.
#[must_use = "a range that is not freed is lost to its address space"]
#[derive(PartialEq, Eq, Hash)]
pub struct IovaRange {
    start: u64,
    /// A power of two for ranges that magazines keep; others have [`UNCACHED`](Self::UNCACHED) set.
    size: NonZeroU64,
}

impl IovaRange {
    const UNCACHED: u64 = 1;

    /// The first address.
    #[must_use]
    #[inline]
    pub const fn iova(&self) -> Iova {
        Iova(self.start)
    }

    /// The number of bytes, a multiple of the page size: see [`IovaAllocator::allocate`].
    #[must_use]
    #[inline]
    pub const fn size(&self) -> u64 {
        self.size.get() & !Self::UNCACHED
    }

    const fn last(&self) -> u64 {
        self.start + (self.size() - 1)
    }
}

impl fmt::Debug for IovaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IovaRange({:#x}..={:#x})", self.start, self.last())
    }
}
