//! What a driver maps with.

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use super::buffer::{DmaBuffer, Failed, Piece, copy};
use super::direction::Direction;
use super::iova::Constraints;
use super::mapped::{Loan, Mapped};
use super::platform::DmaPlatform;
use super::space::{Refused, Share, Space};
use crate::addr::{AddrRange, Iova};
use crate::device::{Context, Device, DeviceInfo, attach_if_deferred};
use crate::domain::Prot;
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::group::Group;
use crate::iommu::DeviceId;
use crate::memory::DmaBlock;
use crate::platform::{RawLock, SpinLock};
use crate::reserved::ReservedRegion;

/// Lends memory to one device, in the default domain of its group.
///
/// What is mapped is reached by every device of the group while the group is on that domain: it is
/// the driver that stops a device before the group is attached to another one.
///
/// A clone is another handle to the same, with a little memory of the heap. CPUs that map at the same
/// time do not slow each other down where each has one of its own.
pub struct Dma<P: DmaPlatform, L: RawLock = SpinLock> {
    /// What `share` leads to, by one load less.
    space: Arc<Space<P>>,
    share: Arc<Share<P>>,
    constraints: Constraints,
    bits: u32,
    context: Context,
    group: Group<L>,
    id: DeviceId,
    info: Arc<DeviceInfo>,
    reserved: Arc<[ReservedRegion]>,
    deferred: Arc<AtomicBool>,
}

impl<L: RawLock> Device<L> {
    /// What maps memory for this device. The first call for a group decides on the `platform` that
    /// all of the group's devices use.
    ///
    /// IOVAs keep out of the reserved regions of all devices of the group; IOVA 0 is never handed
    /// out.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where the group has no default domain, [`ErrorKind::NotPermitted`]
    /// where somebody claimed it, [`ErrorKind::InvalidArgument`] where another type of platform is
    /// in use already; [`ErrorKind::OutOfMemory`].
    pub fn dma<P: DmaPlatform>(&self, platform: P) -> Result<Dma<P, L>> {
        let state = &mut *self.group.state.lock();
        state.check_not_claimed()?;
        let space = Space::of(state, platform)?;
        Ok(Dma {
            share: Share::new(space.clone()),
            space,
            constraints: Constraints::NONE,
            bits: u64::BITS,
            context: Context::MayBlock,
            group: self.group.clone(),
            id: self.id,
            info: self.info.clone(),
            reserved: self.reserved.clone(),
            deferred: self.deferred.clone(),
        })
    }
}

impl<P: DmaPlatform, L: RawLock> Dma<P, L> {
    /// The same for a device that drives `bits` address bits only: its DMA mask.
    #[must_use]
    pub fn below_bits(mut self, bits: u32) -> Self {
        self.constraints = self.constraints.below_bits(bits);
        self.bits = bits;
        self
    }

    /// The same for use in `context`. Where that may not block, the deferred attach of a device is
    /// not performed: until [`Device::attach_now`] was called, mapping ends in
    /// [`ErrorKind::WouldBlock`].
    #[must_use]
    pub fn in_context(mut self, context: Context) -> Self {
        self.context = context;
        self
    }

    /// Never hands out addresses in `range`: for whoever maps there by
    /// [`Domain::map`](crate::Domain::map).
    ///
    /// Context: as the heap.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`] where a part of it was handed out, [`ErrorKind::OutOfMemory`].
    pub fn reserve(&self, range: AddrRange) -> Result {
        self.space.reserve_range(range)
    }

    /// Lends a buffer to the device. Everything that the CPU wrote there before is visible to the
    /// device, for register writes that follow.
    ///
    /// The device reaches whole pages. A buffer that does not fill its own is copied to pages that
    /// it has alone (bounced) and back, so that the device never reaches its neighbours. The same
    /// goes for what is not one range of addresses where nothing translates, and for what shares
    /// pages where the device does not see the CPU's caches.
    ///
    /// Context: any in which the platform's memory and the heap can be used; waits for the hardware
    /// where [`Domain::map`](crate::Domain::map) does. See [`in_context`](Self::in_context).
    ///
    /// # Errors
    ///
    /// With the buffer, where devices cannot reach it:
    ///
    /// - [`ErrorKind::InvalidArgument`]: no bytes;
    /// - [`ErrorKind::NoSpace`]: no IOVAs left, or none below the device's mask;
    /// - [`ErrorKind::OutOfRange`]: memory that the IOMMU cannot address or, where nothing
    ///   translates, the device;
    /// - [`ErrorKind::OutOfMemory`]: for tables, or a bounce buffer;
    /// - [`ErrorKind::AlreadyExists`]: others mapped by hand where IOVAs were free;
    /// - [`ErrorKind::Busy`]: the group was attached to another domain or claimed, or the device was
    ///   released: it would find something else at the address, or nothing;
    /// - [`ErrorKind::WouldBlock`], and as [`Device::attach_now`]: the attach is deferred until now;
    /// - failures of the hardware, as [`Domain::map`](crate::Domain::map).
    pub fn map<B: DmaBuffer, D: Direction>(
        &self,
        buffer: B,
        _: D,
    ) -> core::result::Result<Mapped<B, D, P>, Failed<B>> {
        let len = buffer.len();
        match self.lend(&buffer, len, D::PROT) {
            Ok(loan) => {
                let share = self.share.clone();
                Ok(Mapped::new(share, buffer, loan, len, self.is_coherent()))
            }
            Err(Refused { error, reached }) => {
                let mut buffer = Some(buffer);
                if reached {
                    self.space.leak(buffer.take(), len, &error);
                }
                Err(Failed { error, buffer })
            }
        }
    }

    /// Lends a copy of `bytes` to the device while `run` is called with its address, and copies back
    /// what the device wrote. The device never reaches `bytes` themselves.
    ///
    /// Context: as [`map`](Self::map), and waits for the hardware.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map), before `run` was called; as [`Mapped::unmap`], after: nothing was
    /// copied back then.
    pub fn with_bounced<D: Direction, R>(
        &self,
        bytes: &mut [u8],
        direction: D,
        run: impl FnOnce(Iova) -> R,
    ) -> Result<R> {
        let block = self.pages(bytes.len(), "a bounce buffer")?;
        block.write_at(0, bytes);
        let mapped = self.map(block, direction)?;
        let result = run(mapped.iova());
        let block = mapped.unmap()?;
        if D::DEVICE_WRITES {
            block.read_at(0, bytes);
        }
        Ok(result)
    }

    /// Whether the device sees the CPU's caches.
    #[must_use]
    pub fn is_coherent(&self) -> bool {
        self.info.is_coherent()
    }

    /// Zeroed memory for at least `len` bytes in pages that are lent as they are, without bounce.
    ///
    /// Context: any in which the platform's memory can be allocated.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] for no bytes, [`ErrorKind::OutOfMemory`].
    pub fn allocate_pages(&self, len: usize) -> Result<DmaBlock<P::Memory>> {
        self.pages(len, "pages for a device")
    }

    pub(super) fn pages(&self, len: usize, what: &'static str) -> Result<DmaBlock<P::Memory>> {
        if len == 0 {
            return Err(empty());
        }
        let page = usize::try_from(self.space.page_size());
        let sizes = page.ok().and_then(|page| {
            let size = len.checked_next_multiple_of(page)?;
            Some((size, page))
        });
        let (size, page) = sizes.ok_or(Error::out_of_memory(what))?;
        DmaBlock::new(self.space.platform().memory(), size, page, what)
    }

    pub(super) fn space(&self) -> &Space<P> {
        &self.space
    }

    pub(super) fn group(&self) -> &Group<L> {
        &self.group
    }

    /// The device's reserved regions.
    pub(super) fn reserved(&self) -> &[ReservedRegion] {
        &self.reserved
    }

    pub(super) fn constraints(&self) -> &Constraints {
        &self.constraints
    }

    /// The last address that the device drives.
    pub(super) fn last_address(&self) -> u64 {
        match self.bits {
            0..64 => (1 << self.bits) - 1,
            _ => u64::MAX,
        }
    }

    /// Whether what is mapped will be reached; performs the attach that was deferred until now.
    #[inline]
    pub(super) fn prepare(&self) -> Result {
        if self.space.is_in_use() && !self.deferred.load(Ordering::Acquire) {
            return Ok(());
        }
        self.prepare_slowly()
    }

    #[cold]
    fn prepare_slowly(&self) -> Result {
        if !self.space.is_in_use() {
            let elsewhere = "the group is not on its default domain";
            let culprit = Culprit::Device(self.info.shared_name());
            return Err(Error::new(ErrorKind::Busy, elsewhere).of(culprit));
        }
        attach_if_deferred(
            &self.deferred,
            &self.group,
            self.id,
            &self.info,
            self.context,
        )
    }

    #[inline]
    fn lend<B: DmaBuffer>(
        &self,
        buffer: &B,
        len: usize,
        prot: Prot,
    ) -> core::result::Result<Loan<P>, Refused> {
        // Before a deferred attach is performed for nothing.
        if len == 0 {
            return Err(empty().into());
        }
        self.prepare()?;
        if self.can_lend_in_place(buffer) {
            return self.map_pieces(prot, buffer);
        }
        self.lend_bounced(buffer, len, prot)
    }

    #[cold]
    fn lend_bounced(
        &self,
        buffer: &impl DmaBuffer,
        len: usize,
        prot: Prot,
    ) -> core::result::Result<Loan<P>, Refused> {
        let bounce = self.pages(len, "a bounce buffer")?;
        copy(buffer, &bounce, !self.space.is_identity());
        match self.map_pieces(prot, &bounce) {
            Ok(loan) => Ok(Loan {
                bounce: Some(bounce),
                ..loan
            }),
            Err(Refused { error, reached }) => {
                if reached {
                    let size = bounce.size();
                    self.space.leak(bounce, size, &error);
                }
                Err(error.into())
            }
        }
    }

    #[inline]
    fn can_lend_in_place(&self, buffer: &impl DmaBuffer) -> bool {
        let page = self.space.page_size();
        let mut pieces = buffer.pieces().filter(|piece| !piece.bytes.is_empty());
        if !self.space.is_identity() {
            return pieces.all(|piece| piece.is_whole_pages(page));
        }
        let mut end = None;
        pieces.all(|piece| {
            let follows = end.is_none_or(|end| end == piece.addr.0);
            end = Some(piece.addr.0.wrapping_add(piece.bytes.len() as u64));
            follows && (self.is_coherent() || piece.is_whole_pages(page))
        })
    }

    /// Maps a buffer as it is.
    #[inline(always)]
    fn map_pieces(
        &self,
        prot: Prot,
        buffer: &impl DmaBuffer,
    ) -> core::result::Result<Loan<P>, Refused> {
        let len = buffer.len() as u64;
        let extent = |piece: Piece<'_>| (piece.addr, piece.bytes.len() as u64);
        let pieces = || buffer.pieces().map(extent);
        // SAFETY: the buffer owns its memory. The caller keeps it for as long as the range is
        // mapped, and leaks it where devices may reach it afterwards.
        let range = unsafe { self.space.map(&self.constraints, prot, len, pieces) }?;
        let iova = match &range {
            Some(range) => range.iova(),
            None => self.untranslated(buffer.pieces())?,
        };
        Ok(Loan {
            iova,
            bounce: None,
            range,
        })
    }

    /// Where the device finds pieces that follow each other, without translation.
    fn untranslated<'a>(&self, pieces: impl Iterator<Item = Piece<'a>>) -> Result<Iova> {
        let mut first = None;
        for piece in pieces.filter(|piece| !piece.bytes.is_empty()) {
            if piece.last() > self.last_address() {
                let beyond = "the device cannot address this memory";
                let error = Error::new(ErrorKind::OutOfRange, beyond);
                return Err(error.of(Culprit::Phys(piece.addr)));
            }
            first = first.or(Some(Iova(piece.addr.0)));
        }
        first.ok_or_else(empty)
    }
}

fn empty() -> Error {
    Error::new(ErrorKind::InvalidArgument, "a buffer of no bytes")
}

impl<P: DmaPlatform, L: RawLock> Clone for Dma<P, L> {
    fn clone(&self) -> Self {
        Self {
            space: self.space.clone(),
            share: Share::new(self.space.clone()),
            constraints: self.constraints,
            bits: self.bits,
            context: self.context,
            group: self.group.clone(),
            id: self.id,
            info: self.info.clone(),
            reserved: self.reserved.clone(),
            deferred: self.deferred.clone(),
        }
    }
}

impl<P: DmaPlatform, L: RawLock> fmt::Debug for Dma<P, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bits) = (self.info.name(), self.bits);
        write!(f, "Dma({name}, {bits} bits, {:?})", self.space.domain())
    }
}
