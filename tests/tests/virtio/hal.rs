//! The `Hal` of the `virtio-drivers` crate over [`iommu_core::dma`]: to copy into a kernel.
//!
//! That trait has no `self`, so each device has a type of its own, [`DeviceHal`], by the number of a
//! slot. Its `share` is given borrowed bytes from anywhere, even from a stack, and has no error to
//! return. Bytes are copied to pages that the device has alone. Those for buffers of up to a page are
//! lent before there is any traffic, as many as a driver has buffers on their way: sharing them
//! cannot fail. A larger buffer takes memory; where there is none, the device is told [`NOWHERE`] and
//! faults there, and the request ends as it does for any device that cannot reach its data.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use iommu_core::dma::{Bidirectional, Coherent, Dma, DmaPlatform, Mapped};
use iommu_core::{AddrRange, Device, DmaBlock, DomainKind, Error, ErrorKind, Result};
use mock_hw::MockMemory;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// What `dma_alloc` returns for no memory; the core never hands out IOVA 0.
const NO_MEMORY: PhysAddr = 0;

/// Where a buffer is that could not be shared. From here on the device reaches nothing for as many
/// bytes as a descriptor can say, 2^32: not the start of some other buffer, as it would from 0 on.
pub(crate) const NOWHERE: PhysAddr = 1 << 32;

type Bounce<P> = Mapped<DmaBlock<<P as DmaPlatform>::Memory>, Bidirectional, P>;

/// What is lent to one device.
struct Lent<P: DmaPlatform> {
    dma: Dma<P>,
    /// Lent pages that nobody uses.
    pool: Vec<Bounce<P>>,
    /// How many pages the pool is for, and how long one is: the IOMMU's may be more than 4 KiB.
    pages: usize,
    page_len: usize,
    /// By IOVA.
    shared: BTreeMap<PhysAddr, Bounce<P>>,
    allocated: BTreeMap<PhysAddr, Coherent<P>>,
}

static SLOTS: [Mutex<Option<Lent<MockMemory>>>; 9] = [const { Mutex::new(None) }; 9];

/// The `Hal` of the device in a slot.
#[derive(Debug)]
pub(crate) struct DeviceHal<const SLOT: usize>;

impl<const SLOT: usize> DeviceHal<SLOT> {
    /// Puts a device into the slot, with `pages` to share buffers by: what the queues of its driver
    /// take at a time.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where its addresses are not translated: it would find something
    /// anywhere. [`ErrorKind::AlreadyExists`] where [`NOWHERE`] is in use, or firmware has named it
    /// for the device; those who put several devices into a group look at all of theirs. As
    /// [`Device::dma`] and [`Dma::map`].
    pub(crate) fn install(device: &Device, memory: MockMemory, pages: usize) -> Result {
        if device.domain().map(|domain| domain.kind()) != Some(DomainKind::Paging) {
            let open = "addresses of the device are not translated";
            return Err(Error::new(ErrorKind::Unsupported, open));
        }
        let nowhere = AddrRange::page(NOWHERE, 1 << 32);
        let mut regions = device.reserved_regions().iter();
        if regions.any(|region| region.range().overlaps(nowhere)) {
            let taken = "firmware has named what has to be nowhere";
            return Err(Error::new(ErrorKind::AlreadyExists, taken));
        }
        let dma = device.dma(memory)?;
        dma.reserve(nowhere)?;
        let page = || -> Result<_> {
            let block = dma.allocate_pages(PAGE_SIZE)?;
            Ok(dma.map(block, Bidirectional)?)
        };
        let pool = (0..pages).map(|_| page()).collect::<Result<Vec<_>>>()?;
        *Self::slot() = Some(Lent {
            dma,
            page_len: pool.first().map_or(0, Mapped::len),
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
    /// A lent buffer of at least `len` bytes: from the pool, or with memory of its own.
    fn take(&mut self, len: usize) -> Option<Bounce<P>> {
        if len <= self.page_len
            && let Some(page) = self.pool.pop()
        {
            return Some(page);
        }
        let block = self.dma.allocate_pages(len).ok()?;
        self.dma.map(block, Bidirectional).ok()
    }

    fn put_back(&mut self, bounce: Bounce<P>) {
        if bounce.len() == self.page_len && self.pool.len() < self.pages {
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
        allocated.unwrap_or((NO_MEMORY, NonNull::dangling()))
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
        // Nothing was lent, and nothing is there: the device faults, whatever the length.
        shared.unwrap_or(NOWHERE)
    }

    unsafe fn unshare(paddr: PhysAddr, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
        let mut slot = Self::slot();
        let Some(lent) = slot.as_mut() else { return };
        // It is not there where it could not be shared: the bytes stay as they are.
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
