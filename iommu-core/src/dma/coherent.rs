//! Memory that the CPU and a device use at the same time: rings, descriptors, mailboxes.

#![forbid(unsafe_code)]

use core::fmt;

use super::buffer::Failed;
use super::direction::Bidirectional;
use super::handle::Dma;
use super::mapped::Mapped;
use super::platform::DmaPlatform;
use crate::addr::Iova;
use crate::error::Result;
use crate::memory::DmaBlock;
use crate::platform::RawLock;
use crate::sync::AtomicU64;

/// Whole pages, zeroed, that the CPU and a device both read and write, by words of 64 bits.
///
/// Dropping it takes it from the device and frees it.
#[must_use = "dropping the handle takes the memory from the device"]
pub struct Coherent<P: DmaPlatform> {
    mapped: Mapped<DmaBlock<P::Memory>, Bidirectional, P>,
}

impl<P: DmaPlatform, L: RawLock> Dma<P, L> {
    /// Allocates at least `size` bytes and lends them to the device.
    ///
    /// Context: as [`map`](Self::map).
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    pub fn allocate_coherent(&self, size: usize) -> Result<Coherent<P>> {
        let block = self.pages(size, "coherent memory for a device")?;
        let mapped = self.map(block, Bidirectional)?;
        Ok(Coherent { mapped })
    }
}

impl<P: DmaPlatform> Coherent<P> {
    /// Where the device finds it.
    #[must_use]
    #[inline]
    pub fn iova(&self) -> Iova {
        self.mapped.iova()
    }

    /// The number of bytes: whole pages.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    #[inline]
    pub fn len(&self) -> usize {
        self.mapped.len()
    }

    /// All its words, in memory order: for code that has its own way of accessing them, and sees to
    /// the caches itself where the device does not see them.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        self.mapped.words()
    }

    /// The little-endian word `index`, loaded by one access. See
    /// [`DmaMemory::read_barrier`](crate::DmaMemory::read_barrier) for the order of loads.
    ///
    /// Context: any, interrupt-safe.
    ///
    /// # Panics
    ///
    /// Where there is no such word.
    #[must_use]
    #[inline]
    pub fn load(&self, index: usize) -> u64 {
        self.mapped.load_word(index)
    }

    /// Stores the little-endian word `index` by one access. See
    /// [`DmaMemory::write_barrier`](crate::DmaMemory::write_barrier) for the order of stores.
    ///
    /// For a device that does not see the CPU's caches the word is cleaned, with the line that it is
    /// in: the device must not write to that line at the same time.
    ///
    /// Context: any, interrupt-safe.
    ///
    /// # Panics
    ///
    /// Where there is no such word.
    #[inline]
    pub fn store(&self, index: usize, value: u64) {
        self.mapped.store_word(index, value);
    }

    /// Takes the memory from the device and frees it.
    ///
    /// Context: as [`Mapped::unmap`].
    ///
    /// # Errors
    ///
    /// As [`Mapped::unmap`]: the memory is never freed then.
    pub fn free(self) -> Result {
        self.mapped
            .unmap()
            .map(drop)
            .map_err(|Failed { error, .. }| error)
    }
}

impl<P: DmaPlatform> fmt::Debug for Coherent<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Coherent({:#x} bytes at {})", self.len(), self.iova())
    }
}
