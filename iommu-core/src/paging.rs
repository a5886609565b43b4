//! A backend's half of a paging domain.

use core::any::Any;

use static_assertions::assert_obj_safe;

use crate::addr::{Iova, PhysAddr};
use crate::domain::Prot;
use crate::error::{Error, ErrorKind, Result};
use crate::flush::Flush;
use crate::geometry::Geometry;
use crate::pgtable::Undisturbed;

/// A mapping that stopped half way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapError {
    /// How many bytes from the start of the range are mapped.
    pub mapped: u64,
    /// Why it stopped.
    pub error: Error,
}

/// A backend's half of a paging domain.
///
/// The caller has checked that ranges are not empty, aligned to the smallest page, and within
/// [`geometry`](Self::geometry), unless [`checks_ranges`](Self::checks_ranges). Calls come from
/// several CPUs at once.
pub trait PagingOps: Any + Send + Sync {
    /// What can be mapped. Never changes.
    fn geometry(&self) -> Geometry;

    /// Whether [`map`](Self::map), [`unmap`](Self::unmap) and [`translate`](Self::translate) take any
    /// range and refuse those that the caller would: [`ErrorKind::InvalidArgument`] and
    /// [`ErrorKind::OutOfRange`] as in [`Domain::map`](crate::Domain::map). Then the caller does not
    /// look at them first. Never changes.
    fn checks_ranges(&self) -> bool {
        false
    }

    /// Maps. When this returns, a device attached to the domain uses the new mapping.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`] at an address that is mapped, [`ErrorKind::OutOfMemory`] for a
    /// table; with how far it came.
    fn map(
        &self,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
    ) -> core::result::Result<(), MapError>;

    /// Maps where the range is one page of the smallest size and nothing stands in the way: all
    /// tables are there, and nothing else is mapped. Whether it did; where not, nothing changed, and
    /// [`map`](Self::map) does it or says why not. The provided method leaves it all to that.
    fn map_page(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> bool {
        let _ = (iova, phys, len, prot);
        false
    }

    /// Maps all of it or nothing. What to call; not for backends to write.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map). Where what was mapped first cannot be confirmed to be gone, the error
    /// is that of the undo, and says that it [stays](Error::stays).
    fn map_all(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> Result {
        match self.map_page(iova, phys, len, prot) {
            true => Ok(()),
            false => self.map_or_undo(iova, phys, len, prot),
        }
    }

    /// The part of [`map_all`](Self::map_all) that is seldom needed.
    #[doc(hidden)]
    #[inline(never)]
    fn map_or_undo(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> Result {
        match self.map(iova, phys, len, prot) {
            Ok(()) => Ok(()),
            Err(MapError { mapped: 0, error }) => Err(error),
            Err(MapError { mapped, error }) => Err(undone(error, iova, self.unmap(iova, mapped))),
        }
    }

    /// Unmaps. When this returns `Ok`, no device reaches memory through the range any more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] where a part of the range is not mapped and
    /// [`ErrorKind::InvalidArgument`] where the range ends inside a larger page: nothing changed.
    /// [`ErrorKind::IommuTimedOut`], [`ErrorKind::DeviceTimedOut`] or [`ErrorKind::Hardware`] where the
    /// tables were changed but the hardware did not confirm: devices may go on using the old
    /// translation.
    fn unmap(&self, iova: Iova, len: u64) -> Result;

    /// Unmaps without having hardware forget what was there, where that is left to
    /// [`flush`](Self::flush). Nobody maps there before that. The provided method leaves nothing: it is
    /// [`unmap`](Self::unmap).
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap).
    fn unmap_lazily(&self, iova: Iova, len: u64) -> Result<Flush> {
        self.unmap(iova, len).map(|()| Flush::NotNeeded)
    }

    /// Has hardware forget everything that was unmapped before this is called. When this returns
    /// `Ok`, no device reaches memory through it any more. The provided method has nothing to do, as
    /// where [`unmap_lazily`](Self::unmap_lazily) is the provided one.
    ///
    /// # Errors
    ///
    /// Failures of the hardware as in [`unmap`](Self::unmap): it did not confirm.
    fn flush(&self) -> Result {
        Ok(())
    }

    /// Where an access to `iova` goes, by the tables in memory.
    fn translate(&self, iova: Iova) -> Option<PhysAddr>;

    /// Changes what a mapping allows. When this returns `Ok`, devices can do no more than that.
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap); [`ErrorKind::Busy`] where somebody else changes the same range: a
    /// part of it may have changed, and devices may go by what was allowed there before.
    /// [`ErrorKind::Unsupported`], which is the provided method.
    fn protect(&self, iova: Iova, len: u64, prot: Prot) -> Result {
        let _ = (iova, len, prot);
        Err(no_such_change())
    }

    /// Splits the block that `iova` is in into leaves of the next smaller size.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], [`ErrorKind::InvalidArgument`], [`ErrorKind::Busy`] and
    /// [`ErrorKind::OutOfMemory`] as in [`Walker::split`](crate::pgtable::Walker::split): nothing
    /// changed. Failures of the hardware as in [`unmap`](Self::unmap): it may go by the block.
    /// [`ErrorKind::Unsupported`], which is the provided method.
    fn split(&self, iova: Iova) -> Result {
        let _ = iova;
        Err(no_such_change())
    }

    /// Merges the leaves of `size` bytes from `iova` on into one block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], [`ErrorKind::InvalidArgument`] and [`ErrorKind::Busy`] as in
    /// [`Walker::merge`](crate::pgtable::Walker::merge): nothing changed.
    /// Failures of the hardware as in [`unmap`](Self::unmap): it may go by the leaves.
    /// [`ErrorKind::Unsupported`], which is the provided method.
    fn merge(&self, iova: Iova, size: u64, promise: Undisturbed) -> Result {
        let _ = (iova, size, promise);
        Err(no_such_change())
    }
}
assert_obj_safe!(PagingOps);

/// What became of a mapping that failed half way.
#[cold]
fn undone(error: Error, iova: Iova, undo: Result) -> Error {
    match undo {
        Ok(()) => error,
        Err(undo) => {
            log::error!("a mapping at {iova} failed half way ({error}) and stays: {undo}");
            undo.that_stays()
        }
    }
}

fn no_such_change() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "this IOMMU does not change mappings in place",
    )
}
