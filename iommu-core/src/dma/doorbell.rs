//! Doorbells: where devices send their interrupts (MSI), in the address space that they see.

use alloc::vec::Vec;

use lock_api::Mutex;

use super::handle::Dma;
use super::platform::DmaPlatform;
use crate::addr::{AddrRange, Iova, PhysAddr};
use crate::domain::Prot;
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::platform::RawLock;
use crate::reserved::{ReservedKind, ReservedRegion};

const PROT: Prot = Prot::WRITE.union(Prot::DEVICE);

/// The doorbells of a domain: which pages are mapped where. They stay for as long as the domain.
pub(super) struct Doorbells<L: RawLock>(Mutex<L, Vec<(PhysAddr, Iova)>>);

impl<L: RawLock> Doorbells<L> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Where the page at `phys` is mapped, at or below `last`.
    fn find(&self, phys: PhysAddr, last: u64) -> Option<Iova> {
        let known = self.0.lock();
        let mut fitting = known.iter().filter(|(_, iova)| iova.0 <= last);
        fitting
            .find(|(page, _)| *page == phys)
            .map(|(_, iova)| *iova)
    }

    /// Whether a doorbell is mapped at `iova`.
    fn is_at(&self, iova: Iova) -> bool {
        self.0.lock().iter().any(|(_, at)| *at == iova)
    }

    /// Makes room for one more.
    fn reserve(&self) -> Result {
        let reserved = self.0.lock().try_reserve(1);
        reserved.map_err(|_| Error::out_of_memory("a list of doorbells"))
    }

    fn add(&self, phys: PhysAddr, iova: Iova) {
        self.0.lock().push((phys, iova));
    }
}

impl<P: DmaPlatform, L: RawLock> Dma<P, L> {
    /// Lets the device write to the doorbell of an interrupt controller. Returns the address that
    /// the device's MSIs are to have.
    ///
    /// That is the doorbell's own where nothing translates, and where the IOMMU tells interrupts from
    /// other writes (the device has a region of the kind [`ReservedKind::Msi`] there). Elsewhere the
    /// doorbell's page is mapped: in the device's window for that ([`ReservedKind::SoftwareMsi`]) or,
    /// where it has none, at IOVAs like any other. It is mapped once, for all devices of the group,
    /// and stays mapped for as long as the domain lives.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] where `doorbell` is not a multiple of 4, the size of what is
    /// written there; [`ErrorKind::NoSpace`] where the window is full, or no IOVAs are left below the
    /// device's mask; [`ErrorKind::OutOfRange`] where the device or the IOMMU cannot address the
    /// doorbell; otherwise as [`map`](Self::map).
    ///
    /// # Safety
    ///
    /// All devices of the group can write to the whole page, of the size that the domain maps, that
    /// `doorbell` is in: it holds nothing but doorbells that they may ring, now and later.
    pub unsafe fn map_doorbell(&self, doorbell: PhysAddr) -> Result<Iova> {
        if !doorbell.is_aligned(4) {
            let unaligned = Error::new(ErrorKind::InvalidArgument, "an unaligned doorbell");
            return Err(unaligned.of(Culprit::Phys(doorbell)));
        }
        let own = AddrRange::page(doorbell.0, 4);
        self.prepare()?;
        let space = self.space();
        let untranslated = |region: &ReservedRegion| {
            region.kind() == ReservedKind::Msi && region.range().contains(own)
        };
        if space.is_identity() || self.reserved().iter().any(untranslated) {
            return match own.last() <= self.last_address() {
                true => Ok(Iova(doorbell.0)),
                false => Err(Error::new(
                    ErrorKind::OutOfRange,
                    "the device cannot address the doorbell",
                )
                .of(Culprit::Phys(doorbell))),
            };
        }
        let page_size = space.page_size();
        let page = PhysAddr(doorbell.0 & !(page_size - 1));
        let _one_at_a_time = self.group().state.lock();
        let iova = match space.doorbells().find(page, self.last_address()) {
            Some(iova) => iova,
            None => {
                space.doorbells().reserve()?;
                // SAFETY: the caller's promise.
                let iova = unsafe { self.map_page(page, page_size) }?;
                space.doorbells().add(page, iova);
                iova
            }
        };
        Ok(Iova(iova.0 + (doorbell.0 - page.0)))
    }

    /// Maps a page for doorbells, for good.
    ///
    /// # Safety
    ///
    /// As [`map_doorbell`](Self::map_doorbell).
    unsafe fn map_page(&self, page: PhysAddr, size: u64) -> Result<Iova> {
        let space = self.space();
        let is_window = |region: &&ReservedRegion| region.kind() == ReservedKind::SoftwareMsi;
        let Some(window) = self.reserved().iter().find(is_window) else {
            let pages = || core::iter::once((page, size));
            // SAFETY: the caller's promise; it is never unmapped.
            let range = unsafe { space.map(self.constraints(), PROT, size, pages) };
            let range = range.map_err(|refused| refused.error)?;
            return Ok(range.map_or(Iova(page.0), |range| range.iova()));
        };
        let iova = self.page_of(window.range(), size).ok_or(Error::new(
            ErrorKind::NoSpace,
            "the window for doorbells is full, or out of the device's reach",
        ))?;
        // SAFETY: the caller's promise.
        unsafe { space.domain().map(iova, page, size, PROT) }?;
        Ok(iova)
    }

    /// The first page of a window that has no doorbell yet.
    fn page_of(&self, window: AddrRange, size: u64) -> Option<Iova> {
        let mut at = window.start().checked_next_multiple_of(size)?;
        loop {
            let page = AddrRange::new(at, size)?;
            if !window.contains(page) || page.last() > self.last_address() {
                return None;
            }
            if !self.space().doorbells().is_at(Iova(at)) {
                return Some(Iova(at));
            }
            at = page.last().checked_add(1)?;
        }
    }
}
