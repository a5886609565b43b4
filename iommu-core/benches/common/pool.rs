//! The heap as DMA memory, with a stock of zeroed tables: what an allocator and zeroing cost is not
//! the page table's to answer for.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex};

use iommu_core::{DmaMemory, PhysAddr};

const TABLE: usize = 4096;

/// Physical addresses are the CPU's.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Mutex<Stock>>);

#[derive(Default)]
struct Stock {
    clean: Vec<PhysAddr>,
    used: Vec<PhysAddr>,
}

impl Pool {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    fn stock(&self) -> std::sync::MutexGuard<'_, Stock> {
        self.0.lock().expect("nobody panicked")
    }

    /// Zeroes what was freed, so that it is there to be allocated.
    pub(crate) fn tidy(&self) {
        let mut stock = self.stock();
        while let Some(table) = stock.used.pop() {
            // SAFETY: it was freed, so it is nobody's, and a table in size.
            unsafe { self.pointer(table).write_bytes(0, TABLE) };
            stock.clean.push(table);
        }
        stock.clean.reserve(8);
        stock.used.reserve(8);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pool")
    }
}

// SAFETY: blocks are the global allocator's, or tables that were freed and zeroed: of the layout
// asked for, and theirs alone until they are freed; both kinds of address are the same.
unsafe impl DmaMemory for Pool {
    fn allocate(&self, size: usize, align: usize) -> Option<PhysAddr> {
        if (size, align) == (TABLE, TABLE)
            && let Some(table) = self.stock().clean.pop()
        {
            return Some(table);
        }
        let layout = Layout::from_size_align(size.max(1), align).ok()?;
        // SAFETY: the layout is not of size 0.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(PhysAddr(block.as_ptr().expose_provenance() as u64))
    }

    unsafe fn free(&self, addr: PhysAddr, size: usize, align: usize) {
        if (size, align) == (TABLE, TABLE) {
            self.stock().used.push(addr);
            return;
        }
        let layout = Layout::from_size_align(size.max(1), align).expect("it was allocated");
        // SAFETY: the caller says that this is what `allocate` was asked for and returned.
        unsafe { dealloc(self.pointer(addr).as_ptr(), layout) }
    }

    #[inline(always)]
    fn pointer(&self, addr: PhysAddr) -> NonNull<u8> {
        #[expect(clippy::cast_possible_truncation, reason = "it came from a pointer")]
        let pointer = std::ptr::with_exposed_provenance_mut(addr.0 as usize);
        // SAFETY: the caller says that it is in a block, so it is not zero.
        unsafe { NonNull::new_unchecked(pointer) }
    }

    #[inline(always)]
    fn is_coherent(&self) -> bool {
        true
    }
    fn clean(&self, _: PhysAddr, _: usize) {}
    #[inline(always)]
    fn write_barrier(&self) {
        fence(Ordering::Release);
    }
    #[inline(always)]
    fn read_barrier(&self) {
        fence(Ordering::Acquire);
    }
}
