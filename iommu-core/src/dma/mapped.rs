//! A buffer that is lent to a device.

#![forbid(unsafe_code)]

use alloc::sync::Arc;
use core::fmt;
use core::marker::PhantomData;

use super::buffer::{self, DmaBuffer, Failed, Piece};
use super::direction::{Bidirectional, DeviceReads, DeviceWrites, Direction};
use super::iova::IovaRange;
use super::platform::DmaPlatform;
use super::retired::Retired;
use super::space::{Share, Space};
use crate::addr::{Iova, PhysAddr};
use crate::error::{Error, ErrorKind, Result};
use crate::flush::Unflushed;
use crate::memory::DmaBlock;
use crate::platform::DmaMemory;
use crate::sync::AtomicU64;

/// A buffer that a device reaches at [`iova`](Self::iova), and nobody else until
/// [`sync_for_cpu`](Self::sync_for_cpu), [`unmap`](Self::unmap) or [`retire`](Self::retire).
///
/// Dropping it unmaps it and drops the buffer; forgetting it leaves the buffer lent for good, which
/// is harmless.
#[must_use = "dropping the handle takes the buffer from the device"]
pub struct Mapped<B: DmaBuffer, D: Direction, P: DmaPlatform> {
    pub(super) share: Arc<Share<P>>,
    /// Taken by the end of the mapping, which is the end of the handle too.
    parts: Option<Parts<B, P>>,
    iova: Iova,
    len: usize,
    coherent: bool,
    direction: PhantomData<D>,
}

struct Parts<B, P: DmaPlatform> {
    buffer: B,
    loan: Loan<P>,
}

/// How the device reaches a buffer.
pub(super) struct Loan<P: DmaPlatform> {
    pub(super) iova: Iova,
    /// What it reaches in place of the buffer.
    pub(super) bounce: Option<DmaBlock<P::Memory>>,
    /// `None` where addresses pass untranslated.
    pub(super) range: Option<IovaRange>,
}

impl<B: DmaBuffer, P: DmaPlatform> Parts<B, P> {
    /// Calls `visit` with the memory that the device reaches.
    fn with_lent<R>(&self, visit: impl FnOnce(&mut dyn Iterator<Item = Piece<'_>>) -> R) -> R {
        match &self.loan.bounce {
            Some(bounce) => visit(&mut bounce.pieces()),
            None => visit(&mut self.buffer.pieces()),
        }
    }
}

impl<B: DmaBuffer, D: Direction, P: DmaPlatform> Mapped<B, D, P> {
    #[inline]
    pub(super) fn new(
        share: Arc<Share<P>>,
        buffer: B,
        loan: Loan<P>,
        len: usize,
        coherent: bool,
    ) -> Self {
        let iova = loan.iova;
        let mapped = Self {
            share,
            parts: Some(Parts { buffer, loan }),
            iova,
            len,
            coherent,
            direction: PhantomData,
        };
        mapped.hand_over();
        mapped
    }

    /// Where the device finds the buffer's first byte; the others follow.
    #[must_use]
    #[inline]
    pub fn iova(&self) -> Iova {
        self.iova
    }

    /// The number of bytes, never 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the device reaches a copy, in pages of its own.
    #[must_use]
    pub fn is_bounced(&self) -> bool {
        self.parts
            .as_ref()
            .is_some_and(|parts| parts.loan.bounce.is_some())
    }

    /// Takes the bytes back for a look, without unmapping: what the device wrote before it said that
    /// it is done is visible. Dropping the view hands them to the device again.
    ///
    /// Call it when the device does not use the buffer: of what the two do at the same time, any
    /// mixture of bytes may result.
    ///
    /// Context: any, interrupt-safe.
    pub fn sync_for_cpu(&mut self) -> CpuView<'_, B, D, P> {
        self.take_over();
        CpuView(self)
    }

    /// Unmaps and gives the buffer back: no device reaches it any more, and what the device wrote is
    /// in it. Where nothing translates, it is the driver that knows that the device is done.
    ///
    /// Context: any in which the platform's memory and the heap can be used; waits for the hardware.
    ///
    /// # Errors
    ///
    /// The hardware did not confirm: as [`Domain::unmap`](crate::Domain::unmap). What the device may
    /// go on reaching is never given back, nor are its IOVAs. That is the buffer, or what it was
    /// bounced to; then the buffer is in the error, without what the device wrote.
    #[expect(
        clippy::missing_panics_doc,
        reason = "the parts are there for as long as the handle"
    )]
    pub fn unmap(mut self) -> core::result::Result<B, Failed<B>> {
        self.end(Space::unmap)
            .expect("the parts leave with the handle")
    }

    /// Unmaps, and has the hardware forget it when the domain's policy says: now, or later with
    /// others ([`Domain::set_invalidation`](crate::Domain::set_invalidation)). The handle that this
    /// returns gives the buffer back once the hardware has.
    ///
    /// Context: any in which the platform's memory can be used; waits for the hardware where the policy
    /// is strict, or page tables go too.
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap).
    pub fn retire(mut self) -> core::result::Result<Retired<B, D, P>, Failed<B>> {
        let range = self
            .parts
            .as_ref()
            .and_then(|parts| parts.loan.range.as_ref());
        let retired = match range {
            Some(range) => self.share.retire(range, self.lent() as u64),
            None => Ok(Unflushed::NOTHING),
        };
        match retired {
            Ok(unflushed) => Ok(Retired::new(self, unflushed)),
            Err(error) => Err(self.lose(error)),
        }
    }

    /// Ends the mapping: `unmap` takes so many bytes of its range from the device.
    #[inline]
    pub(super) fn end(
        &mut self,
        unmap: impl FnOnce(&Space<P>, IovaRange, u64) -> Result,
    ) -> Option<core::result::Result<B, Failed<B>>> {
        let lent = self.lent() as u64;
        let unmapped = match self.parts.as_mut()?.loan.range.take() {
            Some(range) => unmap(&self.share, range, lent),
            None => Ok(()),
        };
        match unmapped {
            Ok(()) => self.parts.take().map(|parts| Ok(self.reclaim(parts))),
            Err(error) => Some(Err(self.lose(error))),
        }
    }

    /// How many bytes the device reaches.
    #[inline]
    fn lent(&self) -> usize {
        let bounce = self
            .parts
            .as_ref()
            .and_then(|parts| parts.loan.bounce.as_ref());
        bounce.map_or(self.len, DmaBlock::size)
    }

    /// Never gives back what the device may go on reaching.
    #[cold]
    fn lose(&mut self, error: Error) -> Failed<B> {
        let lent = self.lent();
        let Some(Parts { buffer, loan }) = self.parts.take() else {
            let buffer = None;
            return Failed { error, buffer };
        };
        let mut buffer = Some(buffer);
        match loan.bounce {
            Some(bounce) => self.share.leak(bounce, lent, &error),
            None => self.share.leak(buffer.take(), lent, &error),
        }
        Failed { error, buffer }
    }

    /// The buffer with what the device wrote, once it is unmapped.
    #[inline(always)]
    fn reclaim(&self, parts: Parts<B, P>) -> B {
        if D::DEVICE_WRITES {
            self.observe(&parts);
            if let Some(bounce) = &parts.loan.bounce {
                // Where addresses pass untranslated, the device may be writing still.
                buffer::copy(bounce, &parts.buffer, !self.share.is_identity());
            }
        }
        parts.buffer
    }

    fn memory(&self) -> &P::Memory {
        self.share.platform().memory()
    }

    /// Makes what the CPU wrote visible to the device, for register writes that follow.
    fn hand_over(&self) {
        if let (false, Some(parts)) = (self.coherent, &self.parts) {
            parts.with_lent(|pieces| {
                pieces.for_each(|piece| self.memory().clean(piece.addr, piece.bytes.len()));
            });
        }
        self.memory().write_barrier();
    }

    /// Makes what the device wrote visible to the CPU.
    fn take_over(&self) {
        if let (true, Some(parts)) = (D::DEVICE_WRITES, &self.parts) {
            self.observe(parts);
        }
    }

    fn observe(&self, parts: &Parts<B, P>) {
        self.memory().read_barrier();
        if !self.coherent {
            parts.with_lent(|pieces| {
                pieces.for_each(|piece| self.memory().invalidate(piece.addr, piece.bytes.len()));
            });
        }
    }

    /// Calls `visit` with the pieces of `len` bytes from `offset` on.
    fn with_bytes<R>(
        &self,
        offset: usize,
        len: usize,
        visit: impl FnOnce(&mut dyn Iterator<Item = Piece<'_>>) -> R,
    ) -> Result<R> {
        let end = offset.checked_add(len);
        match &self.parts {
            Some(parts) if end.is_some_and(|end| end <= self.len) => {
                Ok(parts.with_lent(|pieces| visit(&mut buffer::within(pieces, offset, len))))
            }
            _ => Err(Error::new(
                ErrorKind::OutOfRange,
                "beyond the end of the buffer",
            )),
        }
    }
}

impl<B: DmaBuffer, D: Direction, P: DmaPlatform> Drop for Mapped<B, D, P> {
    #[inline]
    fn drop(&mut self) {
        if self.parts.is_some() {
            drop(self.end(Space::unmap));
        }
    }
}

impl<B: DmaBuffer, D: Direction, P: DmaPlatform> fmt::Debug for Mapped<B, D, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapped({:#x} bytes at {})", self.len, self.iova)
    }
}

/// The bytes of a mapped buffer while the CPU has them. Dropping it makes what the CPU wrote visible
/// to the device, for register writes that follow.
#[must_use = "dropping the view hands the bytes to the device again"]
pub struct CpuView<'a, B: DmaBuffer, D: Direction, P: DmaPlatform>(&'a mut Mapped<B, D, P>);

impl<B: DmaBuffer, D: Direction, P: DmaPlatform> CpuView<'_, B, D, P> {
    /// Hands the bytes to the device again.
    ///
    /// Context: any, interrupt-safe.
    pub fn sync_for_device(self) {}
}

impl<B: DmaBuffer, D: DeviceWrites, P: DmaPlatform> CpuView<'_, B, D, P> {
    /// Copies out of the buffer, from byte `offset` on.
    ///
    /// Context: any, interrupt-safe.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfRange`] where the buffer has fewer bytes: nothing was copied.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result {
        self.0
            .with_bytes(offset, to.len(), |pieces| buffer::read(pieces, to))
    }
}

impl<B: DmaBuffer, D: DeviceReads, P: DmaPlatform> CpuView<'_, B, D, P> {
    /// Copies into the buffer, from byte `offset` on.
    ///
    /// Context: any, interrupt-safe.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfRange`] where the buffer has fewer bytes: nothing was copied.
    pub fn write(&mut self, offset: usize, from: &[u8]) -> Result {
        self.0
            .with_bytes(offset, from.len(), |pieces| buffer::write(pieces, from))
    }
}

impl<B: DmaBuffer, D: Direction, P: DmaPlatform> Drop for CpuView<'_, B, D, P> {
    fn drop(&mut self) {
        self.0.hand_over();
    }
}

impl<B: DmaBuffer, D: Direction, P: DmaPlatform> fmt::Debug for CpuView<'_, B, D, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuView of {:?}", self.0)
    }
}

impl<P: DmaPlatform> Mapped<DmaBlock<P::Memory>, Bidirectional, P> {
    /// The words of a block that is lent in place.
    pub(super) fn words(&self) -> &[AtomicU64] {
        self.block().words()
    }

    /// A word of a block that is lent in place.
    pub(super) fn load_word(&self, index: usize) -> u64 {
        let block = self.block();
        assert!(index < block.words().len(), "there is no word {index}");
        if !self.coherent {
            let at = PhysAddr(block.addr().0 + index as u64 * 8);
            self.memory().invalidate(at, 8);
        }
        block.load(index)
    }

    /// Stores a word of a block that is lent in place.
    pub(super) fn store_word(&self, index: usize, value: u64) {
        let block = self.block();
        block.store(index, value);
        if !self.coherent {
            let at = PhysAddr(block.addr().0 + index as u64 * 8);
            self.memory().clean(at, 8);
        }
    }

    fn block(&self) -> &DmaBlock<P::Memory> {
        let parts = self.parts.as_ref();
        let parts = parts.expect("the parts leave with the handle");
        &parts.buffer
    }
}
