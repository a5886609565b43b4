//! Direct mappings: the 1:1 mappings that firmware pinned devices to, in one paging domain.

use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

use once_cell::race::OnceBox;

use crate::addr::{AddrRange, Iova, PhysAddr};
use crate::domain::{Domain, PagingOps, Prot};
use crate::error::{Culprit, Error, ErrorKind, Result};

/// The ranges of a domain that are mapped 1:1 for firmware, each counted by the devices that need
/// it.
///
/// A chain that only grows: [`overlaps`](Self::overlaps) runs on the mapping path, takes no lock
/// and, where no device was ever pinned, costs one load. Changes are made with the core's lock for
/// them held.
#[derive(Default)]
pub(crate) struct DirectMappings {
    first: OnceBox<Entry>,
}

struct Entry {
    range: AddrRange,
    users: AtomicUsize,
    next: OnceBox<Entry>,
}

impl DirectMappings {
    pub(crate) const fn new() -> Self {
        Self {
            first: OnceBox::new(),
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        core::iter::successors(self.first.get(), |entry| entry.next.get())
    }

    fn live(&self) -> impl Iterator<Item = &Entry> {
        self.entries()
            .filter(|entry| entry.users.load(Ordering::Acquire) > 0)
    }

    /// Whether a part of `range` is pinned.
    pub(crate) fn overlaps(&self, range: AddrRange) -> bool {
        self.live().any(|entry| entry.range.overlaps(range))
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
                next: OnceBox::new(),
            })
        })
    }

    /// Calls `visit` with each part of `range` that no live entry covers, in rising order.
    fn gaps(&self, range: AddrRange, mut visit: impl FnMut(AddrRange) -> Result) -> Result {
        let mut at = range.start();
        loop {
            let here = AddrRange::inclusive(at, at);
            let covered = self
                .live()
                .filter(|e| here.is_some_and(|here| e.range.contains(here)));
            match covered.map(|entry| entry.range.last()).max() {
                Some(last) if last >= range.last() => return Ok(()),
                Some(last) => at = last + 1,
                None => {
                    let next = self
                        .live()
                        .map(|e| e.range.start())
                        .filter(|&s| s > at)
                        .min();
                    let last = next.map_or(range.last(), |start| range.last().min(start - 1));
                    if let Some(gap) = AddrRange::inclusive(at, last) {
                        visit(gap)?;
                    }
                    if last == range.last() {
                        return Ok(());
                    }
                    at = last + 1;
                }
            }
        }
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
    fn direct_pages(&self, range: AddrRange) -> Option<AddrRange> {
        self.geometry()
            .map(|geometry| range.to_pages(geometry.page_size()))
    }

    /// Maps each of `ranges` 1:1 and counts one more device that needs it. All or nothing.
    ///
    /// Call with the core's lock for direct mappings held.
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
        let Some(pages) = self.direct_pages(range) else {
            return Ok(());
        };
        let Some(geometry) = self.geometry() else {
            return Ok(());
        };
        if !geometry.aperture.contains(pages) || !geometry.physical.contains(pages) {
            return Err(Error::new(
                ErrorKind::OutOfRange,
                "the domain cannot map a region that firmware pinned",
            )
            .of(Culprit::Range(range)));
        }
        let entry = self.direct.entry(pages);
        let mut reached = None;
        let mapped = self.direct.gaps(pages, |gap| {
            self.map_direct(gap)?;
            reached = Some(gap.last());
            Ok(())
        });
        match mapped {
            Ok(()) => {
                entry.users.fetch_add(1, Ordering::AcqRel);
                Ok(())
            }
            Err(error) => {
                if let Some(done) =
                    reached.and_then(|last| AddrRange::inclusive(pages.start(), last))
                {
                    self.unmap_gaps(done);
                }
                Err(match error.kind() {
                    ErrorKind::AlreadyExists => Error::new(
                        ErrorKind::AlreadyExists,
                        "the domain maps something else where firmware pinned a region",
                    )
                    .of(Culprit::Range(range)),
                    _ => error,
                })
            }
        }
    }

    /// Counts one device fewer that needs `ranges`, and unmaps what nobody needs any more.
    ///
    /// Call with the core's lock for direct mappings held, and only for ranges that are held.
    pub(crate) fn drop_direct(&self, ranges: &[AddrRange]) {
        for range in ranges {
            let Some(pages) = self.direct_pages(*range) else {
                return;
            };
            if self
                .direct
                .entry(pages)
                .users
                .fetch_sub(1, Ordering::AcqRel)
                == 1
            {
                self.unmap_gaps(pages);
            }
        }
    }

    fn direct_ops(&self, gap: AddrRange) -> Result<(&dyn PagingOps, u64)> {
        // An aperture is smaller than all of the address space, so the length fits.
        Ok((self.ops()?, gap.len_minus_one() + 1))
    }

    fn map_direct(&self, gap: AddrRange) -> Result {
        let (ops, len) = self.direct_ops(gap)?;
        self.map_or_undo(ops, Iova(gap.start()), PhysAddr(gap.start()), len, PROT)
    }

    fn unmap_gaps(&self, pages: AddrRange) {
        let unmapped = self.direct.gaps(pages, |gap| {
            let (ops, len) = self.direct_ops(gap)?;
            ops.unmap(Iova(gap.start()), len)
        });
        if let Err(error) = unmapped {
            log::error!("a direct mapping of {pages} could not be taken away: {error}");
        }
    }
}
