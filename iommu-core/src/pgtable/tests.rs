//! The walker in plain memory, with nothing else: what runs under Miri.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::ptr::NonNull;

use spin::Mutex;

use super::{PageTable, Stage1, Stage2, Undisturbed};
use crate::{DmaMemory, ErrorKind, Iova, PhysAddr, Prot};

const K4: u64 = 1 << 12;
const M2: u64 = 1 << 21;
const RW: Prot = Prot::READ.union(Prot::WRITE);

/// The heap: physical addresses are the CPU's. It knows its blocks, so pointers are to what they are
/// of: Miri finds those that are used for something else.
#[derive(Clone, Debug, Default)]
struct Heap(Arc<Mutex<BTreeMap<u64, NonNull<u8>>>>);

// SAFETY: what pointers lead to is accessed atomically only.
unsafe impl Send for Heap {}
// SAFETY: as for `Send`.
unsafe impl Sync for Heap {}

impl Heap {
    /// How many blocks there are.
    fn blocks(&self) -> usize {
        self.0.lock().len()
    }
}

// SAFETY: blocks are the global allocator's, zeroed, and nobody else's until they are freed.
unsafe impl DmaMemory for Heap {
    fn allocate(&self, size: usize, align: usize) -> Option<PhysAddr> {
        let layout = Layout::from_size_align(size, align).ok()?;
        // SAFETY: no block here is of size 0.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let addr = block.addr().get() as u64;
        self.0.lock().insert(addr, block);
        Some(PhysAddr(addr))
    }

    unsafe fn free(&self, addr: PhysAddr, size: usize, align: usize) {
        let layout = Layout::from_size_align(size, align).expect("as it was");
        let block = self.0.lock().remove(&addr.0).expect("a block");
        // SAFETY: `allocate` was asked for this and returned it.
        unsafe { dealloc(block.as_ptr(), layout) }
    }

    fn pointer(&self, addr: PhysAddr) -> NonNull<u8> {
        let blocks = self.0.lock();
        let (start, block) = blocks.range(..=addr.0).next_back().expect("a block");
        let offset = usize::try_from(addr.0 - start).expect("it is in a block");
        // SAFETY: offsets are within blocks.
        unsafe { block.add(offset) }
    }

    fn is_coherent(&self) -> bool {
        true
    }
    fn clean(&self, _: PhysAddr, _: usize) {}
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
}

#[test]
fn tables_come_and_go_with_what_is_mapped() {
    let heap = Heap::default();
    let table = PageTable::<_, Stage1>::new(&heap, 39, 48).unwrap();
    let walker = table.enter(0);
    walker
        .map(Iova(M2 - K4), PhysAddr(K4), K4 + M2, RW)
        .unwrap();
    assert_eq!(heap.blocks(), 4);
    assert_eq!(walker.translate(Iova(M2 + 5)), Some(PhysAddr(2 * K4 + 5)));
    assert!(walker.map_page(Iova(0), PhysAddr(0), K4, RW));
    assert!(!walker.map_page(Iova(0), PhysAddr(0), K4, RW));
    assert!(walker.unmap_page(Iova(0), K4) && !walker.unmap_page(Iova(0), K4));
    let unmapped = walker.unmap(Iova(M2), M2).unwrap();
    let refused = walker.map(Iova(M2), PhysAddr(0), K4, RW).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::AlreadyExists);
    walker.reclaim(unmapped);
    assert_eq!(heap.blocks(), 3);
    drop(walker);
    drop(table);
    assert_eq!(heap.blocks(), 0);
}

#[test]
fn blocks_are_split_and_merged() {
    let heap = Heap::default();
    let table = PageTable::<_, Stage2>::new(&heap, 39, 48).unwrap();
    let table = table.with_live_resizing();
    let walker = table.enter(0);
    walker.map(Iova(M2), PhysAddr(4 * M2), M2, RW).unwrap();
    let blocks = heap.blocks();
    walker.reclaim(walker.split(Iova(M2 + K4)).unwrap());
    assert_eq!(walker.translate(Iova(M2 + K4)), Some(PhysAddr(4 * M2 + K4)));
    walker.reclaim(walker.protect(Iova(M2), M2, Prot::READ).unwrap());
    // SAFETY: there is nobody else.
    let promise = unsafe { Undisturbed::new() };
    let merged = walker.merge(Iova(M2), M2, promise).unwrap();
    assert_eq!(heap.blocks(), blocks + 1, "not before the reclaim");
    walker.reclaim(merged);
    assert_eq!(heap.blocks(), blocks);
}

#[test]
fn a_table_waits_until_nobody_is_inside() {
    let heap = Heap::default();
    let table = PageTable::<_, Stage1>::new(&heap, 39, 48).unwrap();
    let blocks = || heap.blocks();
    for at in [0, M2] {
        table.enter(0).map(Iova(at), PhysAddr(K4), M2, RW).unwrap();
    }
    let full = blocks();
    let inside = table.enter(1);
    let walker = table.enter(0);
    walker.reclaim(walker.unmap(Iova(0), M2).unwrap());
    assert_eq!(blocks(), full + 1, "put aside, on a sheet");
    // The addresses are free already.
    walker.map(Iova(0), PhysAddr(0), K4, RW).unwrap();
    drop(inside);
    walker.reclaim(walker.unmap(Iova(M2), M2).unwrap());
    assert_eq!(
        blocks(),
        full,
        "the sheet, and the new table for the old two"
    );
    drop(walker);
    drop(table);
    assert_eq!(blocks(), 0);
}

/// As many numbers as there are for unmaps that retire tables are taken: tables stay, and empty.
#[test]
fn without_a_number_tables_stay() {
    let heap = Heap::default();
    let table = PageTable::<_, Stage1>::new(&heap, 39, 48).unwrap();
    let walker = table.enter(0);
    walker.map(Iova(0), PhysAddr(K4), M2, RW).unwrap();
    while table.ids.take().is_some() {}
    let blocks = heap.blocks();
    let unmapped = walker.unmap(Iova(0), M2).unwrap();
    assert!(unmapped.has_tables(), "hardware is to forget all the same");
    walker.reclaim(unmapped);
    assert_eq!((walker.translate(Iova(0)), heap.blocks()), (None, blocks));
    walker.map(Iova(0), PhysAddr(K4), M2, RW).unwrap();
}
