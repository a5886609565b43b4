//! A device that does not see the CPU's caches, and caches that write back and forget nothing by
//! themselves: each side sees what the other did once it was handed over, and not before.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use iommu_core::dma::{Bidirectional, CpuView, Dma, FromDevice, ToDevice};
use iommu_core::{Device, DeviceInfo, DmaBlock, DmaMemory, Invalidation, Iova, PhysAddr};
use mock_hw::MockMemory;

use super::setup::{PAGE, Setup};

/// What memory has where nothing was cleaned.
const JUNK: u8 = 0xdd;

/// Memory behind a cache. Devices reach the memory, the CPU the cache.
#[derive(Clone, Debug)]
struct Cached {
    memory: MockMemory,
    cache: MockMemory,
}

impl Cached {
    fn over(memory: &MockMemory) -> Self {
        Self {
            memory: memory.clone(),
            cache: MockMemory::new(memory.base(), memory.size()),
        }
    }

    /// What the CPU sees at its own.
    fn seen_by_cpu(&self, addr: PhysAddr) -> u8 {
        byte(&self.cache, addr).load(Ordering::Relaxed)
    }
}

/// A byte of either, at an address that is allocated.
fn byte(of: &MockMemory, at: PhysAddr) -> &AtomicU8 {
    // SAFETY: it is in the arena, which lives as long as `of` and is accessed atomically only.
    unsafe { of.pointer(at).cast().as_ref() }
}

fn copy(from: &MockMemory, to: &MockMemory, addr: PhysAddr, len: usize) {
    for at in (addr.0..).take(len).map(PhysAddr) {
        let value = byte(from, at).load(Ordering::Relaxed);
        byte(to, at).store(value, Ordering::Relaxed);
    }
}

// SAFETY: what is allocated is the memory's; the cache has a byte for each of its bytes, where
// pointers lead, and is as contiguous, aligned and lasting.
unsafe impl DmaMemory for Cached {
    fn allocate(&self, size: usize, align: usize) -> Option<PhysAddr> {
        let addr = self.memory.allocate(size, align)?;
        for at in (addr.0..).take(size).map(PhysAddr) {
            byte(&self.memory, at).store(JUNK, Ordering::Relaxed);
            byte(&self.cache, at).store(0, Ordering::Relaxed);
        }
        Some(addr)
    }
    unsafe fn free(&self, addr: PhysAddr, size: usize, align: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.memory.free(addr, size, align) }
    }
    fn pointer(&self, addr: PhysAddr) -> NonNull<u8> {
        self.cache.pointer(addr)
    }
    fn is_coherent(&self) -> bool {
        true
    }
    fn clean(&self, addr: PhysAddr, len: usize) {
        copy(&self.cache, &self.memory, addr, len);
    }
    fn write_barrier(&self) {
        self.memory.write_barrier();
    }
    fn invalidate(&self, addr: PhysAddr, len: usize) {
        copy(&self.memory, &self.cache, addr, len);
    }
    fn read_barrier(&self) {
        self.memory.read_barrier();
    }
}

fn nic(setup: &Setup) -> (Device, Dma<Cached>, Cached) {
    let memory = Cached::over(&setup.memory);
    let device = setup.add(DeviceInfo::new("nic").streams([0x10]).non_coherent());
    let dma = device.dma(memory.clone()).unwrap();
    (device, dma, memory)
}

fn block(memory: &Cached, size: usize) -> DmaBlock<Cached> {
    DmaBlock::new(memory, size, PAGE, "a buffer").unwrap()
}

fn bytes_of(block: &DmaBlock<Cached>) -> [u8; 8] {
    let mut bytes = [0; 8];
    block.read_at(0, &mut bytes);
    bytes
}

#[test]
fn a_device_reads_what_was_handed_over_and_nothing_newer() {
    for setup in Setup::both() {
        let (_device, dma, memory) = nic(&setup);
        let buffer = block(&memory, PAGE);
        buffer.write_at(0, &[7; 8]);
        let mut tx = dma.map(buffer, ToDevice).unwrap();
        let at = tx.iova();
        assert_eq!(setup.read(at), Some([7; 8]), "{setup:?}");
        for round in 10..15 {
            let before = setup.read::<8>(at);
            let mut view = tx.sync_for_cpu();
            view.write(0, &[round; 8]).unwrap();
            assert_eq!(setup.read(at), before, "{setup:?}: not cleaned yet");
            view.sync_for_device();
            assert_eq!(setup.read(at), Some([round; 8]), "{setup:?}");
        }
        // One that is forgotten hands nothing over.
        let mut view = tx.sync_for_cpu();
        view.write(0, &[99; 8]).unwrap();
        std::mem::forget(view);
        assert_eq!(setup.read(at), Some([14; 8]), "{setup:?}");
        setup.check();
    }
}

#[test]
fn the_cpu_reads_what_the_device_wrote_before_it_looked() {
    for setup in Setup::both() {
        let (_device, dma, memory) = nic(&setup);
        let buffer = block(&memory, PAGE);
        let own = buffer.addr();
        let mut rx = dma.map(buffer, FromDevice).unwrap();
        let read = |view: &CpuView<'_, _, FromDevice, _>| {
            let mut bytes = [0; 8];
            view.read(0, &mut bytes).unwrap();
            bytes
        };
        for round in 1..6 {
            assert!(setup.write(rx.iova(), &[round; 8]));
            assert_eq!(memory.seen_by_cpu(own), round - 1, "not yet");
            let view = rx.sync_for_cpu();
            assert_eq!(read(&view), [round; 8], "{setup:?}");
            view.sync_for_device();
        }
        assert!(setup.write(rx.iova(), &[6; 8]));
        assert_eq!(bytes_of(&rx.unmap().unwrap()), [6; 8], "{setup:?}");
        setup.check();
    }
}

#[test]
fn both_directions_take_turns() {
    for setup in Setup::both() {
        let (_device, dma, memory) = nic(&setup);
        // Two pieces; and one that is bounced.
        let list = vec![block(&memory, PAGE), block(&memory, PAGE)];
        let mut list = dma.map(list, Bidirectional).unwrap();
        let mut small = dma.map(block(&memory, 64), Bidirectional).unwrap();
        assert!(small.is_bounced() && !list.is_bounced());
        assert_eq!(setup.read(small.iova()), Some([0; 64]), "cleaned");
        for round in 1..6_u8 {
            let mut view = list.sync_for_cpu();
            view.write(PAGE - 8, &[round; 16]).unwrap();
            view.sync_for_device();
            let across = Iova(list.iova().0 + PAGE as u64 - 8);
            assert_eq!(setup.read(across), Some([round; 16]), "{setup:?}");
            assert!(setup.write(across, &[!round; 16]));
            let mut seen = [0; 16];
            list.sync_for_cpu().read(PAGE - 8, &mut seen).unwrap();
            assert_eq!(seen, [!round; 16], "{setup:?}");

            let mut view = small.sync_for_cpu();
            view.write(0, &[round; 8]).unwrap();
            view.sync_for_device();
            assert_eq!(setup.read(small.iova()), Some([round; 8]), "{setup:?}");
            assert!(setup.write(small.iova(), &[!round; 8]));
            let mut seen = [0; 8];
            small.sync_for_cpu().read(0, &mut seen).unwrap();
            assert_eq!(seen, [!round; 8], "{setup:?}");
        }
        assert!(setup.write(list.iova(), &[77; 8]) && setup.write(small.iova(), &[88; 8]));
        assert_eq!(bytes_of(&list.unmap().unwrap()[0]), [77; 8], "{setup:?}");
        assert_eq!(bytes_of(&small.unmap().unwrap()), [88; 8], "{setup:?}");
        setup.check();
    }
}

#[test]
fn what_was_retired_comes_back_with_the_last_that_the_device_wrote() {
    for policy in [Invalidation::Strict, Invalidation::Lazy] {
        for setup in Setup::both() {
            let (device, dma, memory) = nic(&setup);
            device.domain().unwrap().set_invalidation(policy);
            let rx = dma.map(block(&memory, PAGE), FromDevice).unwrap();
            let at = rx.iova();
            assert!(setup.write(at, &[1; 8]));
            let rx = rx.retire().unwrap();
            // The models go on translating what was not invalidated.
            let lazy = policy == Invalidation::Lazy;
            assert_eq!(setup.write(at, &[2; 8]), lazy, "{setup:?}, {policy:?}");
            let last = if lazy { [2; 8] } else { [1; 8] };
            assert_eq!(bytes_of(&rx.reclaim().unwrap()), last, "{setup:?}");
            setup.check();
        }
    }
}

#[test]
fn words_of_coherent_memory_pass_both_ways_at_once() {
    for setup in Setup::both() {
        let (_device, dma, _) = nic(&setup);
        let ring = dma.allocate_coherent(PAGE).unwrap();
        assert_eq!(setup.read(ring.iova()), Some([0; PAGE]), "{setup:?}");
        for round in 1..6_u8 {
            ring.store(0, u64::from_le_bytes([round; 8]));
            assert_eq!(setup.read(ring.iova()), Some([round; 8]), "{setup:?}");
            assert!(setup.write(ring.iova(), &[!round; 8]));
            assert_eq!(ring.load(0), u64::from_le_bytes([!round; 8]), "{setup:?}");
        }
        ring.free().unwrap();
        setup.check();
    }
}

#[test]
fn borrowed_bytes_pass_both_ways() {
    for setup in Setup::both() {
        let (_device, dma, _) = nic(&setup);
        let mut bytes = [1; 8];
        let done = dma.with_bounced(&mut bytes, Bidirectional, |at| {
            assert_eq!(setup.read(at), Some([1; 8]), "{setup:?}");
            assert!(setup.write(at, &[2; 8]));
        });
        done.unwrap();
        assert_eq!(bytes, [2; 8], "{setup:?}");
        setup.check();
    }
}
