//! Domains: what a device's DMA means.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bitflags::bitflags;
use static_assertions::assert_impl_all;

use crate::addr::{AddrRange, Iova, PhysAddr};
use crate::direct::DirectMappings;
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::fault::FaultHandler;
use crate::flush::{Flush, Flushes, Invalidation, Unflushed};
use crate::geometry::{Geometry, check_range, invalid};
use crate::paging::PagingOps;
use crate::pgtable::Undisturbed;

/// What a domain does with DMA.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DomainKind {
    /// Every address passes untranslated: the device reaches all of memory.
    Identity,
    /// Every access is refused.
    Blocked,
    /// Addresses are translated by page tables that software fills with [`Domain::map`].
    Paging,
    /// Addresses are translated by a guest's tables, then by a paging domain.
    Nested,
}

bitflags! {
    /// What a device may do with a mapping.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Prot: u8 {
        /// The device may read. First-stage tables cannot deny this: stage 1 on Arm, the first
        /// stage of VT-d.
        const READ = 1 << 0;
        /// The device may write.
        const WRITE = 1 << 1;
        /// The device may not fetch instructions.
        const NO_EXECUTE = 1 << 2;
        /// The target is not memory but another device's registers.
        const DEVICE = 1 << 3;
    }
}

/// What a device's DMA means: shared by every device that is attached to it, and alive for as long
/// as one is.
pub struct Domain {
    kind: DomainKind,
    paging: Option<Box<dyn PagingOps>>,
    /// Whether calls go to the backend as they are: it checks them, and nothing was ever pinned.
    /// Found out by the first call.
    direct_calls: AtomicBool,
    faults: Option<Arc<dyn FaultHandler>>,
    lazy: AtomicBool,
    flushes: Flushes,
    pub(crate) direct: DirectMappings,
    pub(crate) leaked: AtomicUsize,
}
assert_impl_all!(Domain: Send, Sync);

/// A shared domain. Two are the same domain if `Arc::ptr_eq` says so.
pub type DomainRef = Arc<Domain>;

impl Domain {
    fn new(kind: DomainKind, paging: Option<Box<dyn PagingOps>>) -> DomainRef {
        Arc::new(Self {
            kind,
            paging,
            direct_calls: AtomicBool::new(false),
            faults: None,
            lazy: AtomicBool::new(false),
            flushes: Flushes::new(),
            direct: DirectMappings::new(),
            leaked: AtomicUsize::new(0),
        })
    }

    /// A domain that passes everything. A backend makes one and hands out clones of it.
    #[must_use]
    pub fn identity() -> DomainRef {
        Self::new(DomainKind::Identity, None)
    }

    /// A domain that refuses everything. A backend makes one and hands out clones of it.
    #[must_use]
    pub fn blocked() -> DomainRef {
        Self::new(DomainKind::Blocked, None)
    }

    /// A paging domain over a backend's half of it.
    #[must_use]
    pub fn paging(ops: impl PagingOps) -> DomainRef {
        Self::new(DomainKind::Paging, Some(Box::new(ops)))
    }

    /// The same domain, its page faults handled by `handler`; `None` where it is shared already.
    pub(crate) fn with_faults(
        mut self: Arc<Self>,
        handler: Arc<dyn FaultHandler>,
    ) -> Option<DomainRef> {
        Arc::get_mut(&mut self)?.faults = Some(handler);
        Some(self)
    }

    /// What handles its page faults.
    #[must_use]
    pub fn fault_handler(&self) -> Option<&Arc<dyn FaultHandler>> {
        self.faults.as_ref()
    }

    /// What it does with DMA.
    #[must_use]
    pub fn kind(&self) -> DomainKind {
        self.kind
    }

    /// What can be mapped; `None` where nothing can.
    #[must_use]
    pub fn geometry(&self) -> Option<Geometry> {
        self.paging.as_ref().map(|paging| paging.geometry())
    }

    /// The backend's half, where it is a `T`.
    #[must_use]
    pub fn backend<T: PagingOps>(&self) -> Option<&T> {
        let any: &dyn Any = self.paging.as_deref()?;
        any.downcast_ref()
    }

    /// The backend's half, where a call can go there as it is.
    #[inline(always)]
    fn direct_ops(&self) -> Option<&dyn PagingOps> {
        match self.direct_calls.load(Ordering::Relaxed) {
            true => self.paging.as_deref(),
            false => None,
        }
    }

    /// Finds out whether calls can go to the backend as they are from here on.
    fn look(&self, ops: &dyn PagingOps) {
        if ops.checks_ranges() && self.direct.is_empty() {
            self.direct_calls.store(true, Ordering::SeqCst);
            // Who pins something sees that, or is seen here.
            if !self.direct.is_empty() {
                self.stop_direct_calls();
            }
        }
    }

    /// Something is pinned: every call is looked at.
    pub(crate) fn stop_direct_calls(&self) {
        self.direct_calls.store(false, Ordering::SeqCst);
    }

    pub(crate) fn ops(&self) -> Result<&dyn PagingOps> {
        self.paging.as_deref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "this domain has no mappings of its own",
            )
        })
    }

    /// Maps `len` bytes from `iova` to `phys`. When this returns `Ok`, attached devices use the
    /// mapping; where it fails, nothing is mapped, but for the last errors below.
    ///
    /// [`map_block`](Self::map_block) is the safe way.
    ///
    /// Context: any in which the platform's memory can be allocated; waits for the hardware, without a
    /// lock that other mappings need, where that may keep what was not mapped (VT-d's caching mode),
    /// and to undo the half of a mapping that fails.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidArgument`]: length zero, an address or the length not a multiple of the
    ///   smallest page, a range that wraps around, or neither read nor write asked for;
    /// - [`ErrorKind::OutOfRange`]: outside the domain's [`Geometry`];
    /// - [`ErrorKind::AlreadyExists`]: a part of the range is mapped, or pinned by firmware;
    /// - [`ErrorKind::OutOfMemory`]: no memory for a table;
    /// - [`ErrorKind::Unsupported`]: not a paging domain;
    /// - [`ErrorKind::IommuTimedOut`], [`ErrorKind::DeviceTimedOut`], [`ErrorKind::Hardware`]: it
    ///   failed half way, and the hardware did not confirm that the first half is gone. Devices may
    ///   go on using that: treat the memory as mapped for good.
    ///
    /// # Safety
    ///
    /// Devices attached to the domain can read and write the memory at `phys`, as `prot` says, until
    /// [`unmap`](Self::unmap) returned `Ok`, or [`unmap_lazily`](Self::unmap_lazily) and a flush that
    /// covers it. Until then nobody may rely on it being unchanged, and it must not be given to anybody
    /// else.
    pub unsafe fn map(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> Result {
        self.try_map(iova, phys, len, prot)
    }

    /// The error says whether anything [stays](Error::stays).
    #[inline(always)]
    pub(crate) fn try_map(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> Result {
        match self.direct_ops() {
            Some(ops) => ops.map_all(iova, phys, len, prot),
            None => self.try_map_slowly(iova, phys, len, prot),
        }
    }

    #[cold]
    #[inline(never)]
    fn try_map_slowly(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> Result {
        let ops = self.check_map(iova, phys, len, prot)?;
        self.look(ops);
        ops.map_all(iova, phys, len, prot)
    }

    fn check_map(
        &self,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
    ) -> Result<&dyn PagingOps> {
        let ops = self.ops()?;
        let geometry = &ops.geometry();
        let range = check_range(geometry, iova, len)?;
        check_prot(iova, prot)?;
        let target =
            AddrRange::new(phys.0, len).ok_or(invalid(iova, "the physical range wraps around"))?;
        if !phys.is_aligned(geometry.page_size()) {
            return Err(invalid(iova, "the physical address is not page-aligned"));
        }
        if !geometry.physical.contains(target) {
            return Err(
                Error::new(ErrorKind::OutOfRange, "the hardware cannot address this")
                    .of(Culprit::Range(target)),
            );
        }
        if self.direct.claims(range) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "firmware pinned a part of the range",
            )
            .of(Culprit::Range(range)));
        }
        Ok(ops)
    }

    /// Unmaps `len` bytes from `iova`. When this returns `Ok`, no device reaches anything through
    /// them and the memory may be used for something else. A range is for whoever mapped it to
    /// unmap.
    ///
    /// Context: any in which the platform's memory can be allocated and freed, as page tables may go;
    /// waits for the hardware, without a lock that other mappings need.
    ///
    /// # Errors
    ///
    /// As [`PagingOps::unmap`] says; [`ErrorKind::NotPermitted`] where firmware pinned a part of
    /// the range; [`ErrorKind::InvalidArgument`], [`ErrorKind::OutOfRange`] and
    /// [`ErrorKind::Unsupported`] as in [`map`](Self::map).
    pub fn unmap(&self, iova: Iova, len: u64) -> Result {
        match self.direct_ops() {
            Some(ops) => ops.unmap(iova, len),
            None => self.unmap_slowly(iova, len),
        }
    }

    #[cold]
    #[inline(never)]
    fn unmap_slowly(&self, iova: Iova, len: u64) -> Result {
        let ops = self.check_change(iova, len)?;
        self.look(ops);
        ops.unmap(iova, len)
    }

    /// Unmaps `len` bytes from `iova`, and leaves it to [`flush`](Self::flush) to have hardware
    /// forget what was there. Until that was called after this returned, and returned `Ok` itself,
    /// devices may go on reaching it: it is as good as mapped, and not to be mapped again. What is
    /// mapped there before the flush is not what devices use, and hardware may report a conflict.
    ///
    /// Where page tables go with it, there is nothing left to be flushed: this waits as
    /// [`unmap`](Self::unmap) does.
    ///
    /// Context: as [`unmap`](Self::unmap), without the wait.
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap).
    pub fn unmap_lazily(&self, iova: Iova, len: u64) -> Result<Unflushed> {
        let ops = match self.direct_ops() {
            Some(ops) => ops,
            None => self.check_change(iova, len)?,
        };
        Ok(match ops.unmap_lazily(iova, len)? {
            Flush::Needed => self.flushes.unflushed(),
            Flush::NotNeeded => Unflushed::NOTHING,
        })
    }

    /// Has hardware forget everything that was [unmapped lazily](Self::unmap_lazily) before this is
    /// called. When this returns `Ok`, no device reaches anything through it.
    ///
    /// Context: any; waits for the hardware, without a lock that mappings need.
    ///
    /// # Errors
    ///
    /// Failures of the hardware as in [`PagingOps::unmap`]: it did not confirm;
    /// [`ErrorKind::Unsupported`] where it is not a paging domain.
    pub fn flush(&self) -> Result {
        let ops = self.ops()?;
        self.flushes.run(|| ops.flush())
    }

    /// Whether the domain was flushed after this was unmapped, lazily, from this domain: then no device
    /// reaches it.
    ///
    /// Context: any, interrupt-safe.
    #[must_use]
    #[inline]
    pub fn is_flushed(&self, unflushed: Unflushed) -> bool {
        self.flushes.is_flushed(unflushed)
    }

    /// When [`dma`](crate::dma) has hardware forget what was unmapped:
    /// [strictly](Invalidation::Strict), unless somebody said otherwise.
    #[must_use]
    #[inline]
    pub fn invalidation(&self) -> Invalidation {
        match self.lazy.load(Ordering::Relaxed) {
            true => Invalidation::Lazy,
            false => Invalidation::Strict,
        }
    }

    /// Says when [`dma`](crate::dma) is to have hardware forget what is unmapped from now on.
    ///
    /// Context: any, interrupt-safe.
    pub fn set_invalidation(&self, invalidation: Invalidation) {
        let lazy = invalidation == Invalidation::Lazy;
        self.lazy.store(lazy, Ordering::Relaxed);
    }

    /// Changes what devices may do with `len` bytes from `iova`, all of it mapped. When this returns
    /// `Ok`, they can do no more than `prot` says.
    ///
    /// Context: any; waits for the hardware, without a lock that other mappings need.
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap); [`ErrorKind::InvalidArgument`] where neither read nor write is
    /// asked for; [`ErrorKind::Unsupported`] where the backend cannot; [`ErrorKind::Busy`] where
    /// somebody else changes the same range: a part of it may have changed.
    ///
    /// # Safety
    ///
    /// As [`map`](Self::map), with the new `prot`.
    pub unsafe fn protect(&self, iova: Iova, len: u64, prot: Prot) -> Result {
        check_prot(iova, prot)?;
        self.check_change(iova, len)?.protect(iova, len, prot)
    }

    /// Splits the block that `iova` is in into leaves of the next smaller size, so that a part of it
    /// can be unmapped. Devices do not notice.
    ///
    /// Context: any in which the platform's memory can be allocated; waits for the hardware, without
    /// a lock that other mappings need.
    ///
    /// # Errors
    ///
    /// As [`PagingOps::split`] says; [`ErrorKind::OutOfRange`] beyond the aperture.
    pub fn split(&self, iova: Iova) -> Result {
        let ops = self.ops()?;
        let geometry = ops.geometry();
        let page = geometry.page_size();
        check_range(&geometry, Iova(iova.0 & !(page - 1)), page)?;
        ops.split(iova)
    }

    /// Merges the leaves of `size` bytes from `iova` on, one of the domain's page sizes, into one
    /// block: they lead to one aligned piece of memory and allow the same. Devices do not notice.
    ///
    /// Context: as [`unmap`](Self::unmap).
    ///
    /// # Errors
    ///
    /// As [`PagingOps::merge`] says; [`ErrorKind::OutOfRange`] beyond the aperture,
    /// [`ErrorKind::NotPermitted`] where firmware pinned a part of the range.
    ///
    /// # Safety
    ///
    /// Nobody else maps, unmaps or changes any part of the range meanwhile.
    pub unsafe fn merge(&self, iova: Iova, size: u64) -> Result {
        let ops = self.check_change(iova, size)?;
        // SAFETY: the caller says so.
        let promise = unsafe { Undisturbed::new() };
        ops.merge(iova, size, promise)
    }

    fn check_change(&self, iova: Iova, len: u64) -> Result<&dyn PagingOps> {
        let ops = self.ops()?;
        let range = check_range(&ops.geometry(), iova, len)?;
        if self.direct.holds(range) {
            return Err(Error::new(
                ErrorKind::NotPermitted,
                "firmware pinned a part of the range",
            )
            .of(Culprit::Range(range)));
        }
        Ok(ops)
    }

    /// Where an access to `iova` goes, by the domain's tables.
    ///
    /// Context: any, interrupt-safe.
    #[must_use]
    pub fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        match self.direct_ops() {
            Some(ops) => ops.translate(iova),
            None => self.translate_slowly(iova),
        }
    }

    #[cold]
    #[inline(never)]
    fn translate_slowly(&self, iova: Iova) -> Option<PhysAddr> {
        match self.kind {
            DomainKind::Identity => Some(PhysAddr(iova.0)),
            DomainKind::Blocked | DomainKind::Nested => None,
            DomainKind::Paging => {
                let ops = self.ops().ok()?;
                self.look(ops);
                let byte = AddrRange::new(iova.0, 1)?;
                let inside = ops.geometry().aperture.contains(byte);
                inside.then(|| ops.translate(iova)).flatten()
            }
        }
    }
}

fn check_prot(iova: Iova, prot: Prot) -> Result {
    match prot.intersects(Prot::READ | Prot::WRITE) {
        true => Ok(()),
        false => Err(invalid(
            iova,
            "a mapping that allows neither read nor write",
        )),
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Domain({:?} at {:p})", self.kind, self)
    }
}
