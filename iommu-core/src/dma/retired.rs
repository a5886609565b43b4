//! A buffer that was taken from its device, and is to be given back.

#![forbid(unsafe_code)]

use core::fmt;

use super::buffer::{DmaBuffer, Failed};
use super::direction::Direction;
use super::mapped::Mapped;
use super::platform::DmaPlatform;
use crate::error::Result;
use crate::flush::Unflushed;

/// A buffer that is mapped no more, kept until the hardware has forgotten that it was.
///
/// With [strict](crate::Invalidation::Strict) invalidation that is so from the start. With
/// [lazy](crate::Invalidation::Lazy) invalidation, somebody has to
/// [flush](crate::Domain::flush) the domain: whoever asks for a buffer first does, for all that were
/// retired until then. So a ring that keeps what it retired in the slot, and
/// [reclaims](Self::reclaim) it when the slot is used again, waits for the hardware about once for
/// each time around.
///
/// Dropping it reclaims the buffer and drops it; forgetting it leaves the buffer and its addresses
/// taken for good, which is harmless.
#[must_use = "dropping the handle may wait for the hardware"]
pub struct Retired<B: DmaBuffer, D: Direction, P: DmaPlatform> {
    mapped: Mapped<B, D, P>,
    unflushed: Unflushed,
}

impl<B: DmaBuffer, D: Direction, P: DmaPlatform> Retired<B, D, P> {
    #[inline]
    pub(super) fn new(mapped: Mapped<B, D, P>, unflushed: Unflushed) -> Self {
        Self { mapped, unflushed }
    }

    /// Whether the buffer can be had without waiting.
    ///
    /// Context: any, interrupt-safe.
    #[must_use]
    #[inline]
    pub fn is_flushed(&self) -> bool {
        self.mapped.share.domain().is_flushed(self.unflushed)
    }

    /// Gives the buffer back: no device reaches it any more, and what the device wrote is in it.
    /// Flushes the domain where nobody has since the buffer was retired.
    ///
    /// Context: any in which the platform's memory and the heap can be used; waits for the hardware
    /// unless the buffer [is flushed](Self::is_flushed).
    ///
    /// # Errors
    ///
    /// As [`Mapped::unmap`].
    #[expect(
        clippy::missing_panics_doc,
        reason = "the parts are there for as long as the handle"
    )]
    pub fn reclaim(mut self) -> core::result::Result<B, Failed<B>> {
        self.end().expect("the parts leave with the handle")
    }

    #[inline]
    fn end(&mut self) -> Option<core::result::Result<B, Failed<B>>> {
        let unflushed = self.unflushed;
        self.mapped
            .end(|space, range, _| -> Result { space.reclaim(range, unflushed) })
    }
}

impl<B: DmaBuffer, D: Direction, P: DmaPlatform> Drop for Retired<B, D, P> {
    fn drop(&mut self) {
        drop(self.end());
    }
}

impl<B: DmaBuffer, D: Direction, P: DmaPlatform> fmt::Debug for Retired<B, D, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (len, iova) = (self.mapped.len(), self.mapped.iova());
        write!(f, "Retired({len:#x} bytes at {iova})")
    }
}
