//! The heap under an allocator of IOVAs: how much of it is used, and what happens where there is no
//! more.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use iommu_core::dma::iova::{Constraints, IovaAllocator, IovaRange};
use iommu_core::{AddrRange, ErrorKind, Geometry};

/// The system's heap, which counts for each thread and says no where it was told to.
struct Heap;

thread_local! {
    static USED: Cell<isize> = const { Cell::new(0) };
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    /// How many allocations succeed before all fail.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

// SAFETY: memory comes from the system's heap and goes back there, with the same layout.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if LEFT.get() == 0 {
            return std::ptr::null_mut();
        }
        LEFT.set(LEFT.get() - 1);
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        USED.set(USED.get() + layout.size().cast_signed());
        // SAFETY: the caller keeps to what is asked of it here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        USED.set(USED.get() - layout.size().cast_signed());
        // SAFETY: the caller keeps to what is asked of it here.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static HEAP: Heap = Heap;

/// Calls `call` with a heap that gives out so many more blocks.
fn with_blocks<T>(blocks: usize, call: impl FnOnce() -> T) -> T {
    LEFT.set(blocks);
    let result = call();
    LEFT.set(usize::MAX);
    result
}

const PAGE: u64 = 4096;
/// One node of the map, with what belongs to it.
const NODE: isize = 640;

fn allocator(bits: u32) -> IovaAllocator {
    IovaAllocator::new(&geometry(bits), 1).expect("memory")
}

fn geometry(bits: u32) -> Geometry {
    Geometry {
        aperture: AddrRange::new(0, 1 << bits).expect("not empty"),
        physical: AddrRange::EVERYTHING,
        page_sizes: PAGE,
    }
}

fn take(iovas: &IovaAllocator, pages: u64) -> iommu_core::Result<IovaRange> {
    iovas.allocate(0, pages * PAGE, &Constraints::NONE)
}

#[test]
fn memory_follows_what_is_in_use() {
    for bits in [30, 39, 48, 57] {
        let before = USED.get();
        let iovas = allocator(bits);
        let empty = USED.get() - before;
        assert!(empty < 24 << 10, "{empty} bytes for nothing in {bits} bits");

        let mut ranges = Vec::with_capacity(100_000);
        let before = USED.get();
        for _ in 0..100_000 {
            ranges.push(take(&iovas, 1).expect("space"));
        }
        let used = USED.get() - before;
        // 4096 pages for each node.
        assert!(used <= 40 * NODE, "{used} bytes for 100,000 pages");

        for range in ranges {
            iovas.free(0, range);
        }
        let kept = USED.get() - before;
        assert!(kept <= 24 * NODE, "{kept} bytes are kept");
    }
}

#[test]
fn everything_is_given_back() {
    let before = USED.get();
    let iovas = allocator(48);
    iovas
        .reserve(AddrRange::new(0xfee0_0000, 0x10_0000).expect("not empty"))
        .expect("free");
    let ranges: Vec<_> = (0..1000).map(|n| take(&iovas, 1 + n % 3000)).collect();
    drop(iovas);
    drop(ranges);
    assert_eq!(USED.get(), before);
}

#[test]
fn a_heap_without_memory_is_an_error_and_nothing_is_lost() {
    let mut blocks = 0;
    let iovas: IovaAllocator = loop {
        let result = with_blocks(blocks, || IovaAllocator::new(&geometry(48), 1));
        match result {
            Ok(iovas) => break iovas,
            Err(error) => assert_eq!(error.kind(), ErrorKind::OutOfMemory),
        }
        blocks += 1;
    };
    assert!(blocks > 0);

    // Whatever succeeds, succeeds as a whole; whatever does not, can be asked for again.
    let window = AddrRange::new(0x1234_5678, 0x1000_0000).expect("not empty");
    let mut ranges = Vec::with_capacity(100_000);
    let mut failed = 0;
    for round in 0..20_000_u64 {
        let pages = 1 << (round % 13);
        let mut blocks = 0;
        while with_blocks(blocks, || {
            let result = take(&iovas, pages).map(|range| ranges.push(range));
            result.is_err_and(|error| {
                assert_eq!(error.kind(), ErrorKind::OutOfMemory);
                true
            })
        }) {
            blocks += 1;
            failed += 1;
        }
    }
    assert!(failed > 100, "only {failed} allocations ran out of memory");
    for range in ranges {
        // Freeing needs none.
        with_blocks(0, || iovas.free(0, range));
    }
    let mut blocks = 0;
    while let Err(error) = with_blocks(blocks, || iovas.reserve(window)) {
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        blocks += 1;
    }
    assert!(blocks > 0);

    // All there is but for the window, in the largest pieces.
    let half = take(&iovas, 1 << 35).expect("the upper half");
    assert_eq!(half.iova().0, 1 << 47);
    let quarter = take(&iovas, 1 << 34).expect("the second quarter");
    assert_eq!(quarter.iova().0, 1 << 46);
}

#[test]
fn a_warm_allocator_allocates_nothing() {
    let iovas = allocator(48);
    for pages in [1, 64, 1024] {
        let range = take(&iovas, pages).expect("space");
        iovas.free(0, range);
        let before = ALLOCATIONS.get();
        for _ in 0..1000 {
            let range = take(&iovas, pages).expect("space");
            iovas.free(0, range);
        }
        assert_eq!(ALLOCATIONS.get(), before);
    }
}
