use iommu_core::DmaBlock;

use super::*;

const BASE: PhysAddr = PhysAddr(0x8000_0000);

fn memory() -> MockMemory {
    MockMemory::new(BASE, 0x10_0000)
}

fn free(memory: &MockMemory, addr: PhysAddr, size: usize, align: usize) {
    // SAFETY: nothing uses the block; wrong frees are what is tested, and are refused.
    unsafe { memory.free(addr, size, align) }
}

#[test]
fn blocks_are_zeroed_aligned_and_reused() {
    let memory = memory();
    let a = memory.allocate(24, 8).unwrap();
    let b = memory.allocate(0x4000, 0x4000).unwrap();
    assert_eq!((a.0, b.0), (0x8000_0000, 0x8000_4000));
    assert_eq!(memory.pointer(b).addr().get() % 0x4000, 0);
    assert_eq!(
        (memory.allocated(), memory.blocks(), memory.allocations()),
        (0x4018, 2, 2)
    );
    memory.write_word(b, 0x1122).unwrap();
    free(&memory, b, 0x4000, 0x4000);
    // SAFETY: in the arena, which is accessed atomically only.
    let left = unsafe { memory.pointer(b).cast::<AtomicU64>().as_ref() };
    assert_eq!(left.load(Ordering::Relaxed), POISON);
    assert_eq!(memory.allocate(0x4000, 0x4000), Some(b));
    assert_eq!(memory.read_word(b), Ok(0));
    assert_eq!(memory.violations(), [""; 0]);
}

#[test]
fn wrong_frees_are_recorded_and_do_nothing() {
    let memory = memory();
    let a = memory.allocate(0x1000, 0x1000).unwrap();
    free(&memory, a, 0x2000, 0x1000);
    free(&memory, a, 0x1000, 0x800);
    free(&memory, PhysAddr(a.0 + 8), 0x1000, 0x1000);
    assert_eq!((memory.violations().len(), memory.blocks()), (3, 1));
    free(&memory, a, 0x1000, 0x1000);
    free(&memory, a, 0x1000, 0x1000);
    assert!(memory.violations()[3].ends_with("freed already"));
    memory.reserve(BASE, 0x1000);
    assert_eq!(memory.allocate(8, 8), Some(PhysAddr(BASE.0 + 0x1000)));
    free(&memory, BASE, 0x1000, 0x1000);
    assert!(memory.violations()[4].ends_with("reserved"));
    assert_eq!(memory.allocate(8, 3), None);
    assert_eq!(memory.violations().len(), 6);
}

#[test]
fn one_allocation_fails_on_request() {
    let memory = memory();
    memory.fail_allocation(Some(1));
    let results = [(); 3].map(|()| memory.allocate(8, 8).is_some());
    assert_eq!(results, [true, false, true]);
    memory.fail_allocation(Some(0));
    memory.fail_allocation(None);
    assert!(memory.allocate(8, 8).is_some());
    assert_eq!(memory.allocate(0x20_0000, 8), None);
}

#[test]
fn a_device_reaches_only_what_somebody_owns() {
    let memory = memory();
    let a = memory.allocate(0x1000, 0x1000).unwrap();
    memory
        .dma_write(PhysAddr(a.0 + 0xffc), &[1, 2, 3, 4])
        .unwrap();
    let mut bytes = [0; 2];
    memory.dma_read(PhysAddr(a.0 + 0xffe), &mut bytes).unwrap();
    assert_eq!(bytes, [3, 4]);
    assert_eq!(
        memory.read_word(PhysAddr(a.0 + 0xff8)),
        Ok(0x0403_0201_0000_0000)
    );

    assert_eq!(
        memory.read_word(PhysAddr(0x1000)),
        Err(BusError(PhysAddr(0x1000)))
    );
    assert_eq!(
        memory.read_word(PhysAddr(a.0 + 4)),
        Err(BusError(PhysAddr(a.0 + 4)))
    );
    assert_eq!(
        memory.dma_write(PhysAddr(u64::MAX), &[0; 2]),
        Err(BusError(PhysAddr(u64::MAX)))
    );
    assert_eq!(
        memory.violations(),
        [""; 0],
        "outside the arena nobody's memory is harmed"
    );

    let past = PhysAddr(a.0 + 0x1000);
    assert_eq!(
        memory.dma_write(PhysAddr(a.0 + 0xfff), &[9; 2]),
        Err(BusError(past))
    );
    assert_eq!(memory.violations().len(), 1);
    free(&memory, a, 0x1000, 0x1000);
    assert_eq!(memory.read_word(a), Err(BusError(a)));
    assert_eq!(memory.violations().len(), 2);

    memory.reserve(PhysAddr(BASE.0 + 0x8000), 0x1000);
    memory.write_word(PhysAddr(BASE.0 + 0x8000), 7).unwrap();
    memory.reserve(PhysAddr(BASE.0 + 0x8800), 8);
    assert_eq!(memory.violations().len(), 3);
    assert_eq!((memory.allocated(), memory.blocks()), (0, 0));
}

#[test]
fn the_hook_sees_each_store_after_it_happened() {
    let memory = memory();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (log, reader) = (seen.clone(), memory.clone());
    memory.set_store_hook(Some(Arc::new(move |addr, values| {
        for (at, value) in (addr.0..).step_by(8).zip(values) {
            assert_eq!(reader.read_word(PhysAddr(at)), Ok(*value));
        }
        log.lock().unwrap().push((addr, values.to_vec()));
    })));
    let block = DmaBlock::new(&memory, 64, 64, "an entry").unwrap();
    let at = block.addr();
    block.store(1, 5);
    block.store_pair(1, [6, 7]);
    memory.set_store_hook(None);
    block.store(1, 8);
    let expected = [
        (PhysAddr(at.0 + 8), vec![5]),
        (PhysAddr(at.0 + 16), vec![6, 7]),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
    assert_eq!(block.load_pair(1), [6, 7]);
    assert_eq!([block.load(2), block.load(3)], [6, 7]);
}

#[test]
fn without_coherence_hardware_sees_a_store_once_it_is_cleaned() {
    let memory = memory();
    let a = memory.allocate(64, 64).unwrap();
    memory.set_coherent(false);
    assert!(!memory.is_coherent());
    memory.store_word(memory.word(a), 1u64.to_le());
    memory.store_word(memory.word(a), 2u64.to_le());
    assert_eq!((memory.read_word(a), memory.cleaned(a, 64)), (Ok(0), false));
    memory.clean(a, 8);
    assert_eq!((memory.read_word(a), memory.cleaned(a, 64)), (Ok(2), true));
    // What was not cleaned is gone with the block.
    memory.store_word(memory.word(a), 3u64.to_le());
    free(&memory, a, 64, 64);
    assert_eq!(memory.allocate(64, 64), Some(a));
    assert_eq!(memory.read_word(a), Ok(0));
}

#[test]
fn memory_of_somebody_else_is_kept_until_the_last_handle_is_gone() {
    #[repr(align(4096))]
    struct Page([AtomicU8; 0x1_0000]);
    let page = Arc::new(Page([const { AtomicU8::new(0xff) }; 0x1_0000]));
    let arena = NonNull::from(&page.0).cast();
    // SAFETY: the clone of the `Arc` keeps the page, whose bytes are atomics.
    let memory = unsafe { MockMemory::over(BASE, arena, 0x1_0000, Box::new(page.clone())) };
    let handle = memory.clone();
    drop(memory);
    let a = handle.allocate(8, 8).unwrap();
    assert_eq!(
        (handle.read_word(a), page.0[0].load(Ordering::Relaxed)),
        (Ok(0), 0)
    );
    assert_eq!(Arc::strong_count(&page), 2);
    drop(handle);
    assert_eq!(Arc::strong_count(&page), 1);
}
