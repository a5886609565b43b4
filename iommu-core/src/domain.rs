//! Domains: what a device's DMA means.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt;
use core::sync::atomic::AtomicUsize;

use bitflags::bitflags;
use static_assertions::{assert_impl_all, assert_obj_safe};

use crate::addr::{AddrRange, Iova, PhysAddr};
use crate::direct::DirectMappings;
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::fault::FaultHandler;

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
    pub(crate) undone: bool,
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

    pub(crate) fn try_map(
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
        if self.direct.claims(range) {
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
        if self.direct.holds(range) {
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
}

fn invalid(iova: Iova, reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, reason).of(Culprit::Iova(iova))
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Domain({:?} at {:p})", self.kind, self)
    }
}
