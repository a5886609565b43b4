//! Blocks of memory that devices reach: the mapping owns the block.

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::Ordering;

use crate::addr::Iova;
use crate::domain::{Domain, DomainRef, Prot};
use crate::error::{Error, Result};
use crate::memory::DmaBlock;
use crate::platform::DmaMemory;

impl Domain {
    /// Maps a whole block of memory at `iova` and keeps it for as long as it is mapped, so that a
    /// device can never reach memory that was given back.
    ///
    /// Context: as [`map`](Self::map).
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
            Err(error) => {
                if error.stays() {
                    self.leak(&block);
                }
                let block = (!error.stays()).then_some(block);
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
    ///
    /// Context: any, interrupt-safe.
    #[must_use]
    pub fn leaked_bytes(&self) -> usize {
        self.leaked.load(Ordering::Relaxed)
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
    /// Context: as [`Domain::unmap`].
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
