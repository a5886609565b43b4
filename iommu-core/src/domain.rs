//! Domains: what a device's DMA means.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

use bitflags::bitflags;
use static_assertions::{assert_impl_all, assert_obj_safe};

use crate::addr::{AddrRange, Iova, PhysAddr};
use crate::direct::DirectMappings;
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::fault::FaultHandler;
use crate::memory::DmaBlock;
use crate::platform::DmaMemory;

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
        /// The device may read. Stage-1 tables of the Arm architecture cannot deny this.
        const READ = 1 << 0;
        /// The device may write.
        const WRITE = 1 << 1;
        /// The device may not fetch instructions.
        const NO_EXECUTE = 1 << 2;
        /// The target is not memory but another device's registers.
        const DEVICE = 1 << 3;
    }
}

/// What a paging domain can map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// The IOVAs that can be mapped.
    pub aperture: AddrRange,
    /// The physical addresses that can be mapped to.
    pub physical: AddrRange,
    /// A bit for each page size: `1 << 12` for 4 KiB. The lowest is the unit of [`Domain::map`].
    pub page_sizes: u64,
}

impl Geometry {
    /// The smallest page, in bytes.
    #[must_use]
    pub const fn page_size(&self) -> u64 {
        1 << self.page_sizes.trailing_zeros()
    }
}

/// A mapping that stopped half way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapError {
    /// How many bytes from the start of the range are mapped.
    pub mapped: u64,
    /// Why it stopped.
    pub error: Error,
}

/// A mapping that did not come about.
pub(crate) struct NotMapped {
    pub(crate) error: Error,
    /// Nothing of it is left, and that is confirmed.
    undone: bool,
}

/// A backend's half of a paging domain.
///
/// The caller has checked that ranges are not empty, aligned to the smallest page, and within
/// [`geometry`](Self::geometry). Calls come from several CPUs at once.
pub trait PagingOps: Any + Send + Sync {
    /// What can be mapped. Never changes.
    fn geometry(&self) -> Geometry;

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

    /// Unmaps. When this returns `Ok`, no device reaches memory through the range any more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] where a part of the range is not mapped and
    /// [`ErrorKind::InvalidArgument`] where the range ends inside a larger page: nothing changed.
    /// [`ErrorKind::IommuTimedOut`] or [`ErrorKind::DeviceTimedOut`] where the tables were changed
    /// but the hardware did not confirm: devices may go on using the old translation.
    fn unmap(&self, iova: Iova, len: u64) -> Result;

    /// Where an access to `iova` goes, by the tables in memory.
    fn translate(&self, iova: Iova) -> Option<PhysAddr>;
}
assert_obj_safe!(PagingOps);

/// What a device's DMA means: shared by every device that is attached to it, and alive for as long
/// as one is.
pub struct Domain {
    kind: DomainKind,
    paging: Option<Box<dyn PagingOps>>,
    faults: Option<Arc<dyn FaultHandler>>,
    pub(crate) direct: DirectMappings,
    leaked: AtomicUsize,
}
assert_impl_all!(Domain: Send, Sync);

/// A shared domain. Two are the same domain if `Arc::ptr_eq` says so.
pub type DomainRef = Arc<Domain>;

impl Domain {
    fn new(kind: DomainKind, paging: Option<Box<dyn PagingOps>>) -> DomainRef {
        Arc::new(Self {
            kind,
            paging,
            faults: None,
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

    pub(crate) fn ops(&self) -> Result<&dyn PagingOps> {
        self.paging.as_deref().ok_or(Error::new(
            ErrorKind::Unsupported,
            "this domain has no mappings of its own",
        ))
    }

    /// Maps `len` bytes from `iova` to `phys`. When this returns `Ok`, attached devices use the
    /// mapping; where it fails, nothing is mapped, but for the last errors below.
    ///
    /// [`map_block`](Self::map_block) is the safe way.
    ///
    /// Context: any in which the platform's memory can be allocated.
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
    /// [`unmap`](Self::unmap) returned `Ok`. Until then nobody may rely on it being unchanged, and
    /// it must not be given to anybody else.
    pub unsafe fn map(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> Result {
        self.try_map(iova, phys, len, prot)
            .map_err(|not_mapped| not_mapped.error)
    }

    fn try_map(
        &self,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
    ) -> core::result::Result<(), NotMapped> {
        let ops = self.check_map(iova, phys, len, prot);
        let ops = ops.map_err(|error| NotMapped {
            error,
            undone: true,
        })?;
        self.map_or_undo(ops, iova, phys, len, prot)
    }

    fn check_map(
        &self,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
    ) -> Result<&dyn PagingOps> {
        let (ops, range) = self.check(iova, len)?;
        if !prot.intersects(Prot::READ | Prot::WRITE) {
            return Err(invalid(
                iova,
                "a mapping that allows neither read nor write",
            ));
        }
        let target =
            AddrRange::new(phys.0, len).ok_or(invalid(iova, "the physical range wraps around"))?;
        if !phys.is_aligned(ops.geometry().page_size()) {
            return Err(invalid(iova, "the physical address is not page-aligned"));
        }
        if !ops.geometry().physical.contains(target) {
            return Err(
                Error::new(ErrorKind::OutOfRange, "the hardware cannot address this")
                    .of(Culprit::Range(target)),
            );
        }
        if self.direct.overlaps(range) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "firmware pinned a part of the range",
            )
            .of(Culprit::Range(range)));
        }
        Ok(ops)
    }

    /// Maps all of it or nothing. Where that cannot be confirmed, the error is that of the undo.
    pub(crate) fn map_or_undo(
        &self,
        ops: &dyn PagingOps,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
    ) -> core::result::Result<(), NotMapped> {
        let Err(MapError { mapped, error }) = ops.map(iova, phys, len, prot) else {
            return Ok(());
        };
        match if mapped > 0 {
            ops.unmap(iova, mapped)
        } else {
            Ok(())
        } {
            Ok(()) => Err(NotMapped {
                error,
                undone: true,
            }),
            Err(undo) => {
                log::error!("a mapping at {iova} failed half way ({error}) and stays: {undo}");
                Err(NotMapped {
                    error: undo,
                    undone: false,
                })
            }
        }
    }

    /// Unmaps `len` bytes from `iova`. When this returns `Ok`, no device reaches anything through
    /// them and the memory may be used for something else. A range is for whoever mapped it to
    /// unmap.
    ///
    /// Context: any; waits for the hardware, without a lock that other mappings need.
    ///
    /// # Errors
    ///
    /// As [`PagingOps::unmap`] says; [`ErrorKind::NotPermitted`] where firmware pinned a part of
    /// the range; [`ErrorKind::InvalidArgument`], [`ErrorKind::OutOfRange`] and
    /// [`ErrorKind::Unsupported`] as in [`map`](Self::map).
    pub fn unmap(&self, iova: Iova, len: u64) -> Result {
        let (ops, range) = self.check(iova, len)?;
        if self.direct.overlaps(range) {
            return Err(Error::new(
                ErrorKind::NotPermitted,
                "firmware pinned a part of the range",
            )
            .of(Culprit::Range(range)));
        }
        ops.unmap(iova, len)
    }

    /// Where an access to `iova` goes, by the domain's tables.
    #[must_use]
    pub fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        match self.kind {
            DomainKind::Identity => Some(PhysAddr(iova.0)),
            DomainKind::Blocked | DomainKind::Nested => None,
            DomainKind::Paging => {
                let ops = self.paging.as_deref()?;
                let byte = AddrRange::new(iova.0, 1)?;
                ops.geometry()
                    .aperture
                    .contains(byte)
                    .then(|| ops.translate(iova))
                    .flatten()
            }
        }
    }

    fn check(&self, iova: Iova, len: u64) -> Result<(&dyn PagingOps, AddrRange)> {
        let ops = self.ops()?;
        let geometry = ops.geometry();
        let range = AddrRange::new(iova.0, len)
            .ok_or(invalid(iova, "the range is empty or wraps around"))?;
        if (iova.0 | len) & (geometry.page_size() - 1) != 0 {
            return Err(invalid(
                iova,
                "address and length must be multiples of the page size",
            ));
        }
        if !geometry.aperture.contains(range) {
            return Err(
                Error::new(ErrorKind::OutOfRange, "beyond the domain's aperture")
                    .of(Culprit::Range(range)),
            );
        }
        Ok((ops, range))
    }

    /// Maps a whole block of memory at `iova` and keeps it for as long as it is mapped, so that a
    /// device can never reach memory that was given back.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map), with the block; without it where devices may go on reaching it. Then
    /// it is never given back, and counted in [`leaked_bytes`](Self::leaked_bytes).
    pub fn map_block<M: DmaMemory>(
        self: &Arc<Self>,
        iova: Iova,
        block: DmaBlock<M>,
        prot: Prot,
    ) -> core::result::Result<MappedBlock<M>, MapBlockError<M>> {
        match self.try_map(iova, block.addr(), block.size() as u64, prot) {
            Ok(()) => Ok(MappedBlock {
                domain: self.clone(),
                iova,
                block: Some(block),
            }),
            Err(NotMapped { error, undone }) => {
                if !undone {
                    self.leak(&block);
                }
                let block = undone.then_some(block);
                Err(MapBlockError { error, block })
            }
        }
    }

    fn leak<M: DmaMemory>(&self, block: &DmaBlock<M>) {
        self.leaked.fetch_add(block.size(), Ordering::Relaxed);
        block.leak();
    }

    /// How many bytes were never given back because the hardware did not confirm that it stopped
    /// using them.
    #[must_use]
    pub fn leaked_bytes(&self) -> usize {
        self.leaked.load(Ordering::Relaxed)
    }
}

fn invalid(iova: Iova, reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, reason).of(Culprit::Iova(iova))
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Domain({:?} at {:p})", self.kind, self)
    }
}

/// A block that was not mapped.
pub struct MapBlockError<M: DmaMemory> {
    /// Why.
    pub error: Error,
    /// The block, unless devices may go on reaching it.
    pub block: Option<DmaBlock<M>>,
}

impl<M: DmaMemory> From<MapBlockError<M>> for Error {
    /// The reason. The block is given back to its memory.
    fn from(failed: MapBlockError<M>) -> Self {
        failed.error
    }
}

impl<M: DmaMemory> fmt::Debug for MapBlockError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapBlockError")
            .field("error", &self.error)
            .field("block", &self.block)
            .finish()
    }
}

impl<M: DmaMemory> fmt::Display for MapBlockError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<M: DmaMemory> core::error::Error for MapBlockError<M> {}

/// A block of memory that devices reach at [`iova`](Self::iova). Dropping it unmaps it; forgetting
/// it leaves the memory mapped and allocated for good, which is harmless.
#[must_use = "dropping the handle unmaps the block"]
#[derive(Debug)]
pub struct MappedBlock<M: DmaMemory> {
    domain: DomainRef,
    iova: Iova,
    /// Taken by the end of the mapping, which is the end of the handle too.
    block: Option<DmaBlock<M>>,
}

impl<M: DmaMemory> MappedBlock<M> {
    /// Where devices find the block.
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.iova
    }

    /// The block. A device may be changing it.
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        reason = "the block is there for as long as the handle"
    )]
    pub fn block(&self) -> &DmaBlock<M> {
        self.block
            .as_ref()
            .expect("the block leaves with the handle")
    }

    /// Unmaps and gives the block back: no device reaches it any more.
    ///
    /// # Errors
    ///
    /// As [`Domain::unmap`]. The block is then never given back, and counted in
    /// [`Domain::leaked_bytes`].
    #[expect(
        clippy::missing_panics_doc,
        reason = "the block is there for as long as the handle"
    )]
    pub fn unmap(mut self) -> Result<DmaBlock<M>> {
        self.end().expect("the block leaves with the handle")
    }

    fn end(&mut self) -> Option<Result<DmaBlock<M>>> {
        let block = self.block.take()?;
        Some(match self.domain.unmap(self.iova, block.size() as u64) {
            Ok(()) => Ok(block),
            Err(error) => {
                log::error!(
                    "{block:?} at IOVA {} is never given back: {error}",
                    self.iova
                );
                self.domain.leak(&block);
                Err(error)
            }
        })
    }
}

impl<M: DmaMemory> Drop for MappedBlock<M> {
    fn drop(&mut self) {
        drop(self.end());
    }
}
