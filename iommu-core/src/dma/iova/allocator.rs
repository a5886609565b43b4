//! The allocator: magazines in front of a tree.

use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU64;

use lock_api::{Mutex, MutexGuard};
use static_assertions::assert_impl_all;

use super::chain::Chain;
use super::magazine::{Batch, Magazines, ORDERS, batch_size};
use super::tree::{Pages, Tree};
use super::{Constraints, IovaRange};
use crate::addr::AddrRange;
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::geometry::Geometry;
use crate::platform::{RawLock, SpinLock};

/// Hands out ranges of one address space.
///
/// CPU numbers only keep CPUs out of each other's way: any number is right at any time, merely slow
/// where it is another CPU's or has no cache. Free a range to the allocator that it came from:
/// another one would hand it out as its own.
pub struct IovaAllocator<L: RawLock = SpinLock> {
    caches: Vec<Cache<L>>,
    page_shift: u32,
    tree: Mutex<L, Tree>,
}
assert_impl_all!(IovaAllocator: Send, Sync);

/// One CPU's magazines, apart from other CPUs' cache lines.
#[repr(align(128))]
struct Cache<L: RawLock>(Mutex<L, Magazines>);

impl<L: RawLock> IovaAllocator<L> {
    /// An allocator of the whole aperture of `geometry`, in units of its smallest page, with a cache
    /// for each CPU that is numbered below `cpus`.
    ///
    /// Takes 3 KiB for each CPU, and up to 16 KiB besides.
    ///
    /// Context: as the heap.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] where the smallest page is not of 4 KiB to 1 GiB or the
    /// aperture has no whole page; [`ErrorKind::OutOfMemory`].
    pub fn new(geometry: &Geometry, cpus: usize) -> Result<Self> {
        let invalid = |reason| Error::new(ErrorKind::InvalidArgument, reason);
        let page_shift = geometry.page_sizes.trailing_zeros();
        if !(12..=30).contains(&page_shift) {
            return Err(invalid("pages must be of 4 KiB to 1 GiB"));
        }
        let pages = whole_pages(geometry.aperture, page_shift).ok_or_else(|| {
            invalid("the aperture has no whole page").of(Culprit::Range(geometry.aperture))
        })?;
        let mut caches = Vec::new();
        caches
            .try_reserve_exact(cpus)
            .map_err(|_| Error::out_of_memory("caches of IOVAs"))?;
        caches.resize_with(cpus, || Cache(Mutex::new(Magazines::EMPTY)));
        Ok(Self {
            caches,
            page_shift,
            tree: Mutex::new(Tree::new(pages)?),
        })
    }

    /// Takes a range of at least `size` bytes that keeps to `constraints`.
    ///
    /// Up to [`LARGEST_CACHED`](super::LARGEST_CACHED) pages, it has the next power of two of pages;
    /// above that, the next number of whole pages. Either way it lies at the start of a block of the
    /// next power of two that was free as a whole, and is aligned like that. Low addresses are
    /// preferred.
    ///
    /// Context: as the heap; interrupt-safe where that and the lock are.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidArgument`]: size zero, or an alignment that is no power of two;
    /// - [`ErrorKind::NoSpace`]: there is no such block, with all magazines emptied. Ranges that
    ///   other CPUs are allocating or freeing at this moment may be missed.
    /// - [`ErrorKind::OutOfMemory`]: no memory to remember what is taken.
    #[inline(always)]
    pub fn allocate(&self, cpu: usize, size: u64, constraints: &Constraints) -> Result<IovaRange> {
        let order = self.order(size);
        if order < ORDERS
            && let Some(size) = NonZeroU64::new(1 << (self.page_shift + order))
            && let Some(cache) = self.cache(cpu)
            && let Some(mut magazines) = cache.try_lock()
            && let Some(start) = magazines[order].pop_if(constraints.allow(size))
        {
            return Ok(IovaRange { start, size });
        }
        self.allocate_slowly(cpu, size, constraints)
    }

    /// Gives a range back. It may be handed out again before this returns.
    ///
    /// Allocates nothing. Context: as the heap; interrupt-safe where that and the lock are.
    #[inline(always)]
    pub fn free(&self, cpu: usize, range: IovaRange) {
        let order = self.order_of(&range);
        if order < ORDERS
            && let Some(cache) = self.cache(cpu)
            && let Some(mut magazines) = cache.try_lock()
            && magazines[order].push(range.start)
        {
            return;
        }
        self.free_slowly(cpu, range);
    }

    /// Never hands out any page that a part of `window` lies in. What is outside the aperture, or
    /// reserved already, is no error.
    ///
    /// Context: as the heap. Empties all magazines: meant for when a device is added.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`] where a part of the window is in use, or being allocated or
    /// freed at this moment; [`ErrorKind::OutOfMemory`]. Nothing is reserved then.
    pub fn reserve(&self, window: AddrRange) -> Result {
        self.empty_magazines();
        let pages = Pages {
            first: window.start() >> self.page_shift,
            last: window.last() >> self.page_shift,
        };
        let mut list = Vec::new();
        let mut nodes = Chain::default();
        loop {
            let mut tree = self.tree.lock();
            let (windows, nodes_needed) = tree.needs(pages);
            if list.capacity() >= windows && nodes.len() >= nodes_needed {
                tree.add_spares(nodes);
                let result = tree.reserve(pages, &mut list);
                let surplus = tree.trim();
                drop(tree);
                drop(surplus);
                return result.map_err(|error| error.of(Culprit::Range(window)));
            }
            drop(tree);
            list.try_reserve_exact(windows)
                .map_err(|_| Error::out_of_memory("a list of reserved IOVAs"))?;
            nodes = Chain::new(nodes_needed)?;
        }
    }

    /// The order of the smallest block that has `size` bytes; more than any for 0.
    #[inline(always)]
    fn order(&self, size: u64) -> u32 {
        let further_pages = size.wrapping_sub(1) >> self.page_shift;
        (further_pages << 1 | 1).ilog2()
    }

    /// The order of a range that magazines keep; more than any of these for others.
    #[inline(always)]
    fn order_of(&self, range: &IovaRange) -> u32 {
        range.size.trailing_zeros().wrapping_sub(self.page_shift)
    }

    #[inline(always)]
    fn cache(&self, cpu: usize) -> Option<&Mutex<L, Magazines>> {
        self.caches.get(cpu).map(|cache| &cache.0)
    }

    #[cold]
    #[inline(never)]
    fn allocate_slowly(
        &self,
        cpu: usize,
        size_asked: u64,
        constraints: &Constraints,
    ) -> Result<IovaRange> {
        let invalid = |reason| Err(Error::new(ErrorKind::InvalidArgument, reason));
        if size_asked == 0 {
            return invalid("a range of no bytes");
        }
        if !constraints.align.is_power_of_two() {
            return invalid("an alignment must be a power of two");
        }
        let no_space = || Error::new(ErrorKind::NoSpace, "no free range of IOVAs");
        let order = self.order(size_asked);
        let Some((pages, size)) = self.rounded(size_asked, order) else {
            return Err(no_space());
        };
        let align_order = constraints.align.ilog2().saturating_sub(self.page_shift);
        if align_order <= order && constraints.align > 1 {
            // The size asks for that already.
            return self.allocate(cpu, size_asked, &constraints.aligned(1));
        }
        let bound = match constraints.last.checked_add(1) {
            Some(end) => end >> self.page_shift,
            None => 1 << (u64::BITS - self.page_shift),
        };
        let cached = order < ORDERS && align_order <= order;
        if cached && let Some(cache) = self.cache(cpu) {
            // Somebody else may have held the lock.
            let start = cache.lock()[order].pop_if(constraints.allow(size));
            if let Some(start) = start {
                return Ok(IovaRange { start, size });
            }
        }
        for last_try in [false, true] {
            if last_try {
                self.empty_magazines();
            }
            let page = if cached {
                self.take_batch(cpu, order, bound, last_try)?
            } else {
                self.take_pages(pages, order.max(align_order), bound)?
            };
            if let Some(page) = page {
                let start = page << self.page_shift;
                return Ok(IovaRange { start, size });
            }
        }
        Err(no_space())
    }

    /// How many pages a range for `size` bytes has, and the size it has; `None` where that is more
    /// than all addresses but one.
    fn rounded(&self, size: u64, order: u32) -> Option<(u64, NonZeroU64)> {
        let (pages, flag) = match order {
            0..ORDERS => (1 << order, 0),
            _ => (((size - 1) >> self.page_shift) + 1, IovaRange::UNCACHED),
        };
        if pages > u64::MAX >> self.page_shift {
            return None;
        }
        Some((pages, NonZeroU64::new(pages << self.page_shift | flag)?))
    }

    /// Takes a block of `order` below page `bound`; unless `alone`, others for the magazine of `cpu`
    /// as well.
    fn take_batch(&self, cpu: usize, order: u32, bound: u64, alone: bool) -> Result<Option<u64>> {
        let Some(cache) = self.cache(cpu).filter(|_| !alone) else {
            return Ok(self.tree_to_take()?.take(order, bound, 1).pop());
        };
        let mut batch = self.tree_to_take()?.take(order, bound, batch_size(order));
        let mut left = Batch::EMPTY;
        {
            let magazine = &mut cache.lock()[order];
            while batch.len() > 1
                && let Some(page) = batch.pop()
            {
                let start = page << self.page_shift;
                if !magazine.push(start) {
                    left.push(start);
                }
            }
        }
        self.give_back(order, left);
        Ok(batch.pop())
    }

    /// Takes `pages` at the start of a block of `order` below page `bound`.
    fn take_pages(&self, pages: u64, order: u32, bound: u64) -> Result<Option<u64>> {
        let mut tree = self.tree_to_take()?;
        let page = tree.find(order, bound);
        if let Some(first) = page {
            let last = first + (pages - 1);
            tree.mark(Pages { first, last }, false);
        }
        Ok(page)
    }

    /// The tree, with the nodes that taking a block may need.
    fn tree_to_take(&self) -> Result<MutexGuard<'_, L, Tree>> {
        let tree = self.tree.lock();
        let needed = tree.path();
        if tree.has_spares(needed) {
            return Ok(tree);
        }
        drop(tree);
        let nodes = Chain::new(needed)?;
        let mut tree = self.tree.lock();
        tree.add_spares(nodes);
        Ok(tree)
    }

    #[cold]
    #[inline(never)]
    fn free_slowly(&self, cpu: usize, range: IovaRange) {
        let order = self.order_of(&range);
        let Some(cache) = self.cache(cpu).filter(|_| order < ORDERS) else {
            return self.free_pages([Pages {
                first: range.start >> self.page_shift,
                last: range.last() >> self.page_shift,
            }]);
        };
        let batch = {
            let magazine = &mut cache.lock()[order];
            if magazine.push(range.start) {
                return;
            }
            let batch = magazine.spill();
            magazine.push(range.start);
            batch
        };
        self.give_back(order, batch);
    }

    /// Moves everything that magazines hold into the tree.
    pub(super) fn empty_magazines(&self) {
        for Cache(cache) in &self.caches {
            for order in 0..ORDERS {
                loop {
                    let batch = cache.lock()[order].spill();
                    if batch.len() == 0 {
                        break;
                    }
                    self.give_back(order, batch);
                }
            }
        }
    }

    fn give_back(&self, order: u32, mut batch: Batch) {
        if batch.len() == 0 {
            return;
        }
        let pages = |start| {
            let first = start >> self.page_shift;
            let last = first + ((1 << order) - 1);
            Pages { first, last }
        };
        self.free_pages(core::iter::from_fn(|| batch.pop().map(pages)));
    }

    /// Frees pages that were taken, each range as it was.
    fn free_pages(&self, ranges: impl IntoIterator<Item = Pages>) {
        let mut tree = self.tree.lock();
        for pages in ranges {
            tree.mark(pages, true);
        }
        let surplus = tree.trim();
        drop(tree);
        drop(surplus);
    }

    /// How many nodes the tree has.
    #[cfg(test)]
    pub(super) fn nodes(&self) -> usize {
        self.tree.lock().nodes()
    }
}

impl<L: RawLock> fmt::Debug for IovaAllocator<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let page = 1_u64 << self.page_shift;
        let cpus = self.caches.len();
        write!(f, "IovaAllocator(pages of {page:#x} bytes, {cpus} CPUs)")
    }
}

/// The pages that lie in `range` as a whole.
fn whole_pages(range: AddrRange, page_shift: u32) -> Option<Pages> {
    let within = (1 << page_shift) - 1;
    let first = (range.start() >> page_shift) + u64::from(range.start() & within != 0);
    let end = (range.last() >> page_shift) + u64::from(range.last() & within == within);
    let last = end.checked_sub(1)?;
    (first <= last).then_some(Pages { first, last })
}
