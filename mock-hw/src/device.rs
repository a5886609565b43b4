//! A device that reads and writes memory through a model of an IOMMU.

use std::fmt;
use std::sync::Arc;

use iommu_core::PhysAddr;

use crate::memory::MockMemory;

/// What a transaction does to memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// The device reads.
    Read,
    /// The device writes.
    Write,
}

/// What an IOMMU made of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It goes on to this address.
    Translated(PhysAddr),
    /// It was refused and nobody was told.
    Aborted,
    /// It was refused, with a record in the event queue if that takes any.
    Faulted,
    /// It waits for software to resume it, as the event with this tag says.
    Stalled(u16),
}

/// A model of an IOMMU, as a device sees it.
pub trait Translate: Send + Sync {
    /// Asks for one transaction, that stays in a 4 KiB page.
    fn transact(&self, stream: u32, substream: Option<u32>, iova: u64, access: Access) -> Outcome;
    /// The memory behind the IOMMU.
    fn memory(&self) -> &MockMemory;
}

/// A device with one StreamID that does DMA.
#[derive(Clone)]
pub struct DmaDevice {
    iommu: Arc<dyn Translate>,
    stream: u32,
    substream: Option<u32>,
}

impl DmaDevice {
    /// A device behind `iommu` that presents `stream`.
    #[must_use]
    pub fn new<T: Translate + Clone + 'static>(iommu: &T, stream: u32) -> Self {
        Self {
            iommu: Arc::new(iommu.clone()),
            stream,
            substream: None,
        }
    }

    /// The same device, its transactions with this PASID or SubstreamID.
    #[must_use]
    pub fn with_substream(&self, substream: Option<u32>) -> Self {
        Self {
            substream,
            ..self.clone()
        }
    }

    /// Reads from `iova` on, up to the first page that is refused. Tells where the first byte came
    /// from, or why it stopped.
    ///
    /// A translated address where no memory answers aborts.
    pub fn read(&self, iova: u64, to: &mut [u8]) -> Outcome {
        let mut rest = to;
        self.pages(iova, rest.len(), Access::Read, |addr, len| {
            let (page, tail) = std::mem::take(&mut rest).split_at_mut(len);
            rest = tail;
            self.iommu.memory().dma_read(addr, page).is_ok()
        })
    }

    /// Writes from `iova` on, up to the first page that is refused. Tells where the first byte went,
    /// or why it stopped.
    ///
    /// A translated address where no memory answers aborts.
    pub fn write(&self, iova: u64, from: &[u8]) -> Outcome {
        let mut rest = from;
        self.pages(iova, from.len(), Access::Write, |addr, len| {
            let (page, tail) = rest.split_at(len);
            rest = tail;
            self.iommu.memory().dma_write(addr, page).is_ok()
        })
    }

    fn pages(
        &self,
        mut iova: u64,
        mut left: usize,
        access: Access,
        mut each: impl FnMut(PhysAddr, usize) -> bool,
    ) -> Outcome {
        let mut first = None;
        loop {
            let room = 0x1000 - usize::try_from(iova & 0xfff).unwrap_or(0);
            let len = left.min(room);
            let outcome = self
                .iommu
                .transact(self.stream, self.substream, iova, access);
            let Outcome::Translated(addr) = outcome else {
                return outcome;
            };
            if !each(addr, len) {
                return Outcome::Aborted;
            }
            left -= len;
            iova = iova.wrapping_add(len as u64);
            let first = *first.get_or_insert(outcome);
            if left == 0 {
                return first;
            }
        }
    }
}

impl fmt::Debug for DmaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "DmaDevice(stream {:#x}, substream {:x?})",
            self.stream, self.substream
        )
    }
}
