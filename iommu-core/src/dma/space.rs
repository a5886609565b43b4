//! The address space of a default domain: its IOVAs, and what is mapped at them.

use alloc::sync::Arc;
use core::any::Any;
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, Ordering};

use super::doorbell::Doorbells;
use super::iova::{Constraints, IovaAllocator, IovaRange};
use super::platform::DmaPlatform;
use crate::addr::{AddrRange, Iova, PhysAddr};
use crate::domain::{Domain, DomainKind, DomainRef, Prot};
use crate::error::{Error, ErrorKind, Result};
use crate::flush::{Invalidation, Unflushed};
use crate::group::State;
use crate::reserved::ReservedRegion;

/// How often other IOVAs are tried where somebody mapped at those that were free.
const ATTEMPTS: usize = 16;

/// Where nothing translates, memory is given out by the smallest page that any IOMMU has: what
/// shares a line of cache with a buffer is nobody else's either.
const IDENTITY_PAGE: u64 = 1 << 12;

/// A group's default domain with the allocator of its IOVAs: one for each domain.
pub(crate) struct Space<P: DmaPlatform> {
    domain: DomainRef,
    platform: P,
    /// `None` where addresses pass untranslated.
    iovas: Option<IovaAllocator<P::IrqLock>>,
    page_size: u64,
    doorbells: Doorbells<P::IrqLock>,
    /// The group is on the domain.
    in_use: AtomicBool,
}

/// One handle's share of a space. What is mapped with the handle is counted here, in cache lines
/// that no other handle counts in.
#[repr(align(128))]
pub(super) struct Share<P: DmaPlatform>(Arc<Space<P>>);

impl<P: DmaPlatform> Share<P> {
    pub(super) fn new(space: Arc<Space<P>>) -> Arc<Self> {
        Arc::new(Self(space))
    }
}

impl<P: DmaPlatform> Deref for Share<P> {
    type Target = Space<P>;

    #[inline(always)]
    fn deref(&self) -> &Space<P> {
        &self.0
    }
}

/// A [`Space`], whatever its platform.
pub(crate) trait AnySpace: Any {
    /// Never hands out addresses in these regions.
    fn reserve(&self, regions: &[ReservedRegion]) -> Result;
    /// Says whether the group is on the domain.
    fn set_in_use(&self, in_use: bool);
}

/// A mapping that did not come about.
pub(super) struct Refused {
    pub(super) error: Error,
    /// Devices may go on reaching a part of it.
    pub(super) reached: bool,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let reached = false;
        Self { error, reached }
    }
}

impl<P: DmaPlatform> Space<P> {
    fn new(domain: DomainRef, platform: P) -> Result<Self> {
        let unsupported = |reason| Err(Error::new(ErrorKind::Unsupported, reason));
        let (iovas, page_size) = match (domain.kind(), domain.geometry()) {
            (DomainKind::Identity, _) => (None, IDENTITY_PAGE),
            (DomainKind::Paging, Some(geometry)) => {
                let iovas = IovaAllocator::new(&geometry, platform.cpus())?;
                // Too many devices and drivers take 0 for no address at all.
                AddrRange::new(0, 1).map_or(Ok(()), |zero| iovas.reserve(zero))?;
                (Some(iovas), geometry.page_size())
            }
            _ => return unsupported("the group's default domain maps nothing"),
        };
        Ok(Self {
            domain,
            platform,
            iovas,
            page_size,
            doorbells: Doorbells::new(),
            in_use: AtomicBool::new(true),
        })
    }

    /// The space of a group's default domain. The first caller decides on the platform.
    pub(crate) fn of(state: &mut State, platform: P) -> Result<Arc<Self>> {
        if let Some(space) = &state.space {
            let space: Arc<dyn Any + Send + Sync> = space.clone();
            let other = "the devices of a group are mapped for with one type of platform";
            return space
                .downcast()
                .map_err(|_| Error::new(ErrorKind::InvalidArgument, other));
        }
        let Some(domain) = state.default.clone() else {
            let none = "the group has no default domain";
            return Err(Error::new(ErrorKind::Unsupported, none));
        };
        let space = Arc::new(Self::new(domain, platform)?);
        for member in &state.members {
            space.reserve(&member.reserved())?;
        }
        space.set_in_use(state.is_on(state.default.as_ref()));
        state.space = Some(space.clone());
        Ok(space)
    }

    pub(super) fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    pub(super) fn platform(&self) -> &P {
        &self.platform
    }

    /// The unit of mapping, in bytes.
    pub(super) fn page_size(&self) -> u64 {
        self.page_size
    }

    /// Whether addresses pass untranslated.
    pub(super) fn is_identity(&self) -> bool {
        self.iovas.is_none()
    }

    /// Whether the group is on the domain, as far as can be said without its lock.
    #[inline]
    pub(super) fn is_in_use(&self) -> bool {
        self.in_use.load(Ordering::Relaxed)
    }

    /// What is mapped of interrupt controllers.
    pub(super) fn doorbells(&self) -> &Doorbells<P::IrqLock> {
        &self.doorbells
    }

    /// Never hands out addresses in `range`.
    pub(super) fn reserve_range(&self, range: AddrRange) -> Result {
        match &self.iovas {
            Some(iovas) => iovas.reserve(range),
            None => Ok(()),
        }
    }

    /// Maps pieces of whole pages (where, how many bytes), `len` bytes in all, one after the other.
    /// `None` where addresses pass untranslated: there is nothing to map then.
    ///
    /// # Safety
    ///
    /// As [`Domain::map`]: nobody else is given the memory before [`unmap`](Self::unmap) returned
    /// `Ok`; where this fails, only where nothing was [`reached`](Refused::reached).
    pub(super) unsafe fn map<I: Iterator<Item = (PhysAddr, u64)>>(
        &self,
        constraints: &Constraints,
        prot: Prot,
        len: u64,
        pieces: impl Fn() -> I,
    ) -> core::result::Result<Option<IovaRange>, Refused> {
        let Some(iovas) = &self.iovas else {
            return Ok(None);
        };
        let mut attempt = 1;
        loop {
            let cpu = self.platform.current_cpu();
            let range = iovas.allocate(cpu, len, constraints)?;
            // SAFETY: the caller's promise.
            let mapped = unsafe { self.map_at(range.iova(), prot, pieces()) };
            let (mapped, error) = match mapped {
                Ok(()) => return Ok(Some(range)),
                Err(failed) => failed,
            };
            self.undo(range.iova(), mapped, error.clone())?;
            if error.kind() != ErrorKind::AlreadyExists {
                iovas.free(cpu, range);
                return Err(error.into());
            }
            // The range stays taken: somebody else mapped there.
            if attempt == ATTEMPTS {
                return Err(error.into());
            }
            attempt += 1;
        }
    }

    /// Maps pieces from `iova` on; how far it came, where that was not to the end.
    ///
    /// # Safety
    ///
    /// As [`map`](Self::map).
    unsafe fn map_at(
        &self,
        iova: Iova,
        prot: Prot,
        pieces: impl Iterator<Item = (PhysAddr, u64)>,
    ) -> core::result::Result<(), (u64, Error)> {
        let mut mapped = 0;
        for (phys, len) in pieces.filter(|(_, len)| *len > 0) {
            // SAFETY: the caller's promise.
            unsafe { self.domain.map(Iova(iova.0 + mapped), phys, len, prot) }
                .map_err(|error| (mapped, error))?;
            mapped += len;
        }
        Ok(())
    }

    /// Takes away what was mapped before `error`.
    fn undo(&self, iova: Iova, mapped: u64, error: Error) -> core::result::Result<(), Refused> {
        let undone = match mapped {
            0 => Ok(()),
            _ => self.domain.unmap(iova, mapped),
        };
        match undone {
            Ok(()) if !error.stays() => Ok(()),
            Ok(()) => Err(error),
            Err(undo) => {
                log::error!("a mapping at {iova} failed half way ({error}) and stays: {undo}");
                Err(undo)
            }
        }
        .map_err(|error| Refused {
            error,
            reached: true,
        })
    }

    /// Unmaps the first `len` bytes of a range and frees it. Where that fails, devices may go on
    /// using both: the range is nobody's any more.
    #[inline]
    pub(super) fn unmap(&self, range: IovaRange, len: u64) -> Result {
        self.domain.unmap(range.iova(), len)?;
        self.free(range);
        Ok(())
    }

    /// Unmaps the first `len` bytes of a range, as the domain's policy says. The range is freed by
    /// [`reclaim`](Self::reclaim). Where this fails, devices may go on using it.
    #[inline]
    pub(super) fn retire(&self, range: &IovaRange, len: u64) -> Result<Unflushed> {
        match self.domain.invalidation() {
            Invalidation::Lazy => self.domain.unmap_lazily(range.iova(), len),
            Invalidation::Strict => {
                self.domain.unmap(range.iova(), len)?;
                Ok(Unflushed::NOTHING)
            }
        }
    }

    /// Frees a range that was retired, once the domain is flushed. Where that fails, devices may go
    /// on using it: it is nobody's any more.
    #[inline]
    pub(super) fn reclaim(&self, range: IovaRange, unflushed: Unflushed) -> Result {
        if !self.domain.is_flushed(unflushed) {
            self.domain.flush()?;
        }
        self.free(range);
        Ok(())
    }

    #[inline]
    fn free(&self, range: IovaRange) {
        if let Some(iovas) = &self.iovas {
            iovas.free(self.platform.current_cpu(), range);
        }
    }

    /// Never gives back `value`, `bytes` of memory that devices may go on using.
    #[cold]
    #[inline(never)]
    pub(super) fn leak<T>(&self, value: T, bytes: usize, error: &Error) {
        log::error!("{bytes:#x} bytes that a device may reach are never given back: {error}");
        self.domain.leaked.fetch_add(bytes, Ordering::Relaxed);
        core::mem::forget(value);
    }
}

impl<P: DmaPlatform> AnySpace for Space<P> {
    fn reserve(&self, regions: &[ReservedRegion]) -> Result {
        regions
            .iter()
            .try_for_each(|region| self.reserve_range(region.range()))
    }

    fn set_in_use(&self, in_use: bool) {
        self.in_use.store(in_use, Ordering::Relaxed);
    }
}
