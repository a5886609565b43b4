//! Direct mappings: the 1:1 mappings that firmware pinned devices to, in one paging domain.

use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use once_cell::race::OnceBox;

use crate::addr::{AddrRange, Iova, PhysAddr};
use crate::domain::{Domain, Prot};
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::paging::PagingOps;

/// The ranges of a domain that are mapped 1:1 for firmware, each counted by the devices that need
/// it.
///
/// A chain that only grows: to ask it takes no lock
/// and, where no device was ever pinned, costs one load. Changes are made with the core's lock for
/// them held.
#[derive(Default)]
pub(crate) struct DirectMappings {
    first: OnceBox<Entry>,
}

struct Entry {
    range: AddrRange,
    users: AtomicUsize,
    /// The mapping is there: what is counted but not yet mapped may still be somebody else's to
    /// unmap.
    mapped: AtomicBool,
    next: OnceBox<Entry>,
}

impl DirectMappings {
    pub(crate) const fn new() -> Self {
        Self {
            first: OnceBox::new(),
        }
    }

    /// Whether nothing was ever pinned.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.get().is_none()
    }

    fn live(&self) -> impl Iterator<Item = &Entry> {
        core::iter::successors(self.first.get(), |entry| entry.next.get())
            .filter(|entry| entry.users.load(Ordering::Acquire) > 0)
    }

    /// Whether a part of `range` is pinned, or about to be: nobody else maps there.
    pub(crate) fn claims(&self, range: AddrRange) -> bool {
        self.live().any(|entry| entry.range.overlaps(range))
    }

    /// Whether a part of `range` is pinned: nobody unmaps there.
    pub(crate) fn holds(&self, range: AddrRange) -> bool {
        self.live()
            .any(|entry| entry.mapped.load(Ordering::Acquire) && entry.range.overlaps(range))
    }

    fn entry(&self, range: AddrRange) -> &Entry {
        let mut link = &self.first;
        while let Some(entry) = link.get() {
            if entry.range == range {
                return entry;
            }
            link = &entry.next;
        }
        link.get_or_init(|| {
            Box::new(Entry {
                range,
                users: AtomicUsize::new(0),
                mapped: AtomicBool::new(false),
                next: OnceBox::new(),
            })
        })
    }

    /// Calls `visit` with each part of `of`, up to `end`, that no other live entry covers, in
    /// rising order.
    fn gaps(&self, of: &Entry, end: u64, mut visit: impl FnMut(AddrRange) -> Result) -> Result {
        let others = || {
            let others = self.live().filter(|other| !core::ptr::eq(*other, of));
            others.map(|other| other.range)
        };
        let mut at = of.range.start();
        while at <= end {
            let covering = others().filter(|other| other.start() <= at && at <= other.last());
            let last = match covering.map(AddrRange::last).max() {
                Some(last) => last,
                None => {
                    let next = others().map(AddrRange::start).filter(|&start| start > at);
                    let last = next.min().map_or(end, |start| end.min(start - 1));
                    if let Some(gap) = AddrRange::inclusive(at, last) {
                        visit(gap)?;
                    }
                    last
                }
            };
            let Some(next) = last.checked_add(1) else {
                break;
            };
            at = next;
        }
        Ok(())
    }
}

impl fmt::Debug for DirectMappings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.live().map(|entry| entry.range))
            .finish()
    }
}

const PROT: Prot = Prot::READ.union(Prot::WRITE);

impl Domain {
    /// Maps each of `ranges` 1:1 and counts one more device that needs it. All or nothing.
    ///
    /// Call with the core's lock for direct mappings held.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfRange`] for a region beyond the domain's geometry,
    /// [`ErrorKind::AlreadyExists`] where something else is mapped, [`ErrorKind::OutOfMemory`].
    pub(crate) fn hold_direct(&self, ranges: &[AddrRange]) -> Result {
        for (done, range) in ranges.iter().enumerate() {
            if let Err(error) = self.hold_one(*range) {
                self.drop_direct(&ranges[..done]);
                return Err(error);
            }
        }
        Ok(())
    }

    fn hold_one(&self, range: AddrRange) -> Result {
        let ops = self.ops()?;
        let geometry = ops.geometry();
        let pages = range.to_pages(geometry.page_size());
        if !geometry.aperture.contains(pages) || !geometry.physical.contains(pages) {
            return Err(Error::new(
                ErrorKind::OutOfRange,
                "the domain cannot map a region that firmware pinned",
            )
            .of(Culprit::Range(range)));
        }
        let entry = self.direct.entry(pages);
        self.stop_direct_calls();
        // Counted before it is mapped: from here on nobody else maps there.
        if entry.users.fetch_add(1, Ordering::AcqRel) > 0 {
            return Ok(());
        }
        let mut reached = None;
        let mapped = self.direct.gaps(entry, pages.last(), |gap| {
            let (start, len) = extent(gap);
            ops.map_all(start, PhysAddr(start.0), len, PROT)?;
            reached = Some(gap.last());
            Ok(())
        });
        let Err(error) = mapped else {
            entry.mapped.store(true, Ordering::Release);
            return Ok(());
        };
        if let Some(end) = reached {
            self.unmap_gaps(ops, entry, end);
        }
        entry.users.fetch_sub(1, Ordering::AcqRel);
        Err(match error.kind() {
            ErrorKind::AlreadyExists => Error::new(
                ErrorKind::AlreadyExists,
                "the domain maps something else where firmware pinned a region",
            )
            .of(Culprit::Range(range)),
            _ => error,
        })
    }

    /// Counts one device fewer that needs `ranges`, and unmaps what nobody needs any more.
    ///
    /// Call with the core's lock for direct mappings held, and only for ranges that are held.
    pub(crate) fn drop_direct(&self, ranges: &[AddrRange]) {
        let Ok(ops) = self.ops() else { return };
        for range in ranges {
            let pages = range.to_pages(ops.geometry().page_size());
            let entry = self.direct.entry(pages);
            if entry.users.load(Ordering::Acquire) == 1 {
                self.unmap_gaps(ops, entry, pages.last());
                entry.mapped.store(false, Ordering::Release);
            }
            entry.users.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Takes away what `entry` alone holds, up to `end`.
    fn unmap_gaps(&self, ops: &dyn PagingOps, entry: &Entry, end: u64) {
        let visited = self.direct.gaps(entry, end, |gap| {
            let (start, len) = extent(gap);
            if let Err(error) = ops.unmap(start, len) {
                log::error!("a direct mapping of {gap} could not be taken away: {error}");
            }
            Ok(())
        });
        debug_assert!(visited.is_ok());
    }
}

/// Where a gap starts and how long it is: an aperture is smaller than all of the address space, so
/// the length fits.
fn extent(gap: AddrRange) -> (Iova, u64) {
    (Iova(gap.start()), gap.len_minus_one() + 1)
}
