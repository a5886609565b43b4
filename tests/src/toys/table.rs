//! The toy backend's paging domains, with switches.

use std::ops::Range;
use std::result::Result as Outcome;
use std::sync::Arc;

use iommu_core::{
    AddrRange, DmaBlock, Error, ErrorKind, Flush, Geometry, Iova, MapError, PagingOps, PhysAddr,
    Platform, Prot, RegisterBank, Result,
};
use mock_hw::toy::{self, FORGET_PAGE, FORGET_TABLE, PAGES};

use super::Break;
use super::backend::{Inner, fail};

/// A paging domain: one table.
pub(super) struct Table<P: Platform> {
    pub(super) toy: Arc<Inner<P>>,
    pub(super) words: DmaBlock<P::Memory>,
}

/// The numbers of the pages in a range.
fn pages(iova: Iova, len: u64) -> Range<usize> {
    (iova.0 / 4096) as usize..((iova.0 + len) / 4096) as usize
}

impl<P: Platform> Table<P> {
    /// Makes the hardware forget what it knows of a range, also that nothing was there.
    fn forget(&self, iova: Iova, len: u64) -> Result {
        let forget = |page| FORGET_PAGE | (page as u64) << 3 | self.words.addr().0;
        self.toy.run(pages(iova, len).map(forget))
    }
}

impl<P: Platform> PagingOps for Table<P> {
    fn geometry(&self) -> Geometry {
        let pages = PAGES << u32::from(self.toy.is(Break::TooWide));
        let large = u64::from(self.toy.is(Break::PageTooLarge)) << 14;
        Geometry {
            aperture: AddrRange::new(0, pages * 4096).expect("it is not empty"),
            physical: AddrRange::EVERYTHING,
            page_sizes: 4096 | large,
        }
    }

    fn map(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> Outcome<(), MapError> {
        let replaces = self.toy.is(Break::MapReplaces);
        if !replaces && pages(iova, len).any(|page| self.words.load(page) != 0) {
            let error = Error::new(ErrorKind::AlreadyExists, "a page is mapped");
            return Err(MapError { mapped: 0, error });
        }
        let [read, write] = [Prot::READ, Prot::WRITE].map(|right| u64::from(prot.contains(right)));
        let write = write | u64::from(self.toy.is(Break::AlwaysWritable));
        let most = match self.toy.broken {
            Some(Break::RangeCutShort) => 16,
            Some(Break::PageTooLarge) if len == 1 << 14 => 1,
            _ => usize::MAX,
        };
        for (page, phys) in pages(iova, len).zip((phys.0..).step_by(4096)).take(most) {
            self.words.store(page, phys | write << 1 | read);
        }
        if self.toy.is(Break::MapSilent) {
            return Ok(());
        }
        let forgotten = self.forget(iova, len);
        forgotten.map_err(|error| MapError { mapped: len, error })
    }

    fn unmap(&self, iova: Iova, len: u64) -> Result {
        let lax = [
            Break::UnmapOfNothing,
            Break::RangeCutShort,
            Break::PageTooLarge,
        ];
        let lax = lax.iter().any(|lax| self.toy.is(*lax));
        if !lax && pages(iova, len).any(|page| self.words.load(page) == 0) {
            return fail(ErrorKind::NotFound, "a page is not mapped");
        }
        let len = len + 4096 * u64::from(self.toy.is(Break::UnmapTooMuch));
        pages(iova, len).for_each(|page| self.words.store(page, 0));
        match self.toy.broken {
            Some(Break::UnmapSilent) => Ok(()),
            Some(Break::UnmapHurries) => {
                let mut issued = self.toy.issued.lock();
                for page in pages(iova, len) {
                    let command = FORGET_PAGE | (page as u64) << 3 | self.words.addr().0;
                    self.toy.platform.bank().write64(toy::COMMAND, command);
                    *issued = issued.wrapping_add(1);
                }
                Ok(())
            }
            Some(Break::UnmapWaitIgnored) => self.forget(iova, len).or(Ok(())),
            _ => self.forget(iova, len),
        }
    }

    fn unmap_lazily(&self, iova: Iova, len: u64) -> Result<Flush> {
        if self.toy.is(Break::FlushEmpty) {
            pages(iova, len).for_each(|page| self.words.store(page, 0));
            return Ok(Flush::Needed);
        }
        self.unmap(iova, len).map(|()| Flush::NotNeeded)
    }

    fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        let word = self.words.load(pages(iova, 0).start);
        let offset = if self.toy.is(Break::TranslateLies) {
            0
        } else {
            iova.0 % 4096
        };
        (word != 0).then_some(PhysAddr((word & !4095) + offset))
    }
}

impl<P: Platform> Drop for Table<P> {
    fn drop(&mut self) {
        if self.toy.is(Break::TableLeaks) {
            self.words.leak();
        }
        if self.toy.is(Break::TableStale) {
            return;
        }
        // No device is on it. What is cached goes before the memory is somebody else's table.
        if self.toy.run([FORGET_TABLE | self.words.addr().0]).is_err() {
            self.words.leak();
        }
    }
}
