//! The `Hal` of the `virtio-drivers` crate over [`iommu_core::dma`]: to copy into a kernel.
//!
//! That trait has no `self`, so each device has a type of its own, [`DeviceHal`], by the number of a
//! slot. Its `share` is given borrowed bytes from anywhere, even from a stack, and may not fail:
//! bytes are copied to pages that the device has alone, lent before there is any traffic.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use iommu_core::dma::{Bidirectional, Coherent, Dma, DmaPlatform, Mapped};
use iommu_core::{DmaBlock, Result};
use mock_hw::MockMemory;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// What `Hal` takes for no address. The core never hands out IOVA 0, so a device that uses it is
/// refused.
const NOWHERE: PhysAddr = 0;

type Bounce<P> = Mapped<DmaBlock<<P as DmaPlatform>::Memory>, Bidirectional, P>;

/// What is lent to one device.
struct Lent<P: DmaPlatform> {
    dma: Dma<P>,
    /// Lent pages that nobody uses.
    pool: Vec<Bounce<P>>,
    /// How many pages the pool is for.
    pages: usize,
    /// By IOVA.
    shared: BTreeMap<PhysAddr, Bounce<P>>,
    allocated: BTreeMap<PhysAddr, Coherent<P>>,
}

static SLOTS: [Mutex<Option<Lent<MockMemory>>>; 8] = [const { Mutex::new(None) }; 8];

/// The `Hal` of the device in a slot.
#[derive(Debug)]
pub(crate) struct DeviceHal<const SLOT: usize>;

impl<const SLOT: usize> DeviceHal<SLOT> {
    /// Puts a device into the slot, with `pages` to share buffers by: what the queues of its driver
    /// take at a time.
    pub(crate) fn install(dma: Dma<MockMemory>, pages: usize) -> Result {
        let page = || -> Result<_> {
            let block = dma.allocate_pages(PAGE_SIZE)?;
            Ok(dma.map(block, Bidirectional)?)
        };
        let pool = (0..pages).map(|_| page()).collect::<Result<_>>()?;
        *Self::slot() = Some(Lent {
            dma,
            pool,
            pages,
            shared: BTreeMap::new(),
            allocated: BTreeMap::new(),
        });
        Ok(())
    }

    /// Takes everything from the device. Its driver is gone.
    pub(crate) fn remove() {
        *Self::slot() = None;
    }

    /// How many buffers are shared and how much is allocated: nothing when a driver has gone.
    pub(crate) fn in_use() -> (usize, usize) {
        let lent = |lent: &Lent<_>| (lent.shared.len(), lent.allocated.len());
        Self::slot().as_ref().map_or((0, 0), lent)
    }

    fn slot() -> MutexGuard<'static, Option<Lent<MockMemory>>> {
        SLOTS[SLOT].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: DmaPlatform> Lent<P> {
    /// A lent buffer of at least `len` bytes: from the pool, which cannot fail, or one of its own.
    fn take(&mut self, len: usize) -> Option<Bounce<P>> {
        if len <= PAGE_SIZE
            && let Some(page) = self.pool.pop()
        {
            return Some(page);
        }
        let block = self.dma.allocate_pages(len).ok()?;
        self.dma.map(block, Bidirectional).ok()
    }

    fn put_back(&mut self, bounce: Bounce<P>) {
        if bounce.len() == PAGE_SIZE && self.pool.len() < self.pages {
            self.pool.push(bounce);
        }
    }
}

// SAFETY: memory from `dma_alloc` is a block that the slot keeps until `dma_dealloc`: whole zeroed
// pages, aligned, that nobody else has a pointer to. `share` and `unshare` access the bytes that
// they are given only within the call.
unsafe impl<const SLOT: usize> Hal for DeviceHal<SLOT> {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let mut slot = Self::slot();
        let allocated = slot.as_mut().and_then(|lent| {
            let memory = lent.dma.allocate_coherent(pages * PAGE_SIZE).ok()?;
            let (iova, start) = (memory.iova().0, NonNull::from(memory.words()).cast());
            lent.allocated.insert(iova, memory);
            Some((iova, start))
        });
        allocated.unwrap_or((NOWHERE, NonNull::dangling()))
    }

    unsafe fn dma_dealloc(paddr: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        // What the hardware does not confirm is leaked; the driver must not go down over it.
        drop(
            Self::slot()
                .as_mut()
                .and_then(|lent| lent.allocated.remove(&paddr)),
        );
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("the transport of these tests has no registers in memory")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        let mut slot = Self::slot();
        // SAFETY: the caller's promise: valid, and nobody else's during the call.
        let bytes = unsafe { buffer.as_ref() };
        let shared = slot.as_mut().and_then(|lent| {
            let mut bounce = lent.take(bytes.len())?;
            // Copied for either direction: what the device does not write comes back as it was.
            bounce.sync_for_cpu().write(0, bytes).ok()?;
            let iova = bounce.iova().0;
            lent.shared.insert(iova, bounce);
            Some(iova)
        });
        shared.unwrap_or(NOWHERE)
    }

    unsafe fn unshare(paddr: PhysAddr, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
        let mut slot = Self::slot();
        let Some(lent) = slot.as_mut() else { return };
        let Some(mut bounce) = lent.shared.remove(&paddr) else {
            return;
        };
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: the caller's promise: valid, and nobody else's during the call.
            let bytes = unsafe { buffer.as_mut() };
            // It was that long when it was shared.
            drop(bounce.sync_for_cpu().read(0, bytes));
        }
        lent.put_back(bounce);
    }
}
