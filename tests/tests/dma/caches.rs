//! A device that does not see the CPU's caches: what is cleaned for it, and what invalidated.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use iommu_core::dma::{Bidirectional, Dma, FromDevice, ToDevice};
use iommu_core::{Device, DeviceInfo, DmaBlock, DmaMemory, Invalidation, PhysAddr};
use mock_hw::MockMemory;

use super::setup::{PAGE, Setup};

/// What was done to the caches: an operation, from where, how many bytes.
type Operation = (&'static str, u64, usize);

/// Memory that notes what is done to the caches.
#[derive(Clone, Debug)]
struct Noting {
    memory: MockMemory,
    operations: Arc<Mutex<Vec<Operation>>>,
}

impl Noting {
    fn note(&self, operation: Operation) {
        self.operations.lock().unwrap().push(operation);
    }

    fn take(&self) -> Vec<Operation> {
        std::mem::take(&mut self.operations.lock().unwrap())
    }
}

// SAFETY: all of it is the memory's own answer.
unsafe impl DmaMemory for Noting {
    fn allocate(&self, size: usize, align: usize) -> Option<PhysAddr> {
        self.memory.allocate(size, align)
    }
    unsafe fn free(&self, addr: PhysAddr, size: usize, align: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.memory.free(addr, size, align) }
    }
    fn pointer(&self, addr: PhysAddr) -> NonNull<u8> {
        self.memory.pointer(addr)
    }
    fn is_coherent(&self) -> bool {
        true
    }
    fn clean(&self, addr: PhysAddr, len: usize) {
        self.note(("clean", addr.0, len));
    }
    fn write_barrier(&self) {
        self.note(("write barrier", 0, 0));
    }
    fn invalidate(&self, addr: PhysAddr, len: usize) {
        self.note(("invalidate", addr.0, len));
    }
    fn read_barrier(&self) {
        self.note(("read barrier", 0, 0));
    }
}

const WRITES_DONE: Operation = ("write barrier", 0, 0);
const READS_DONE: Operation = ("read barrier", 0, 0);

fn device(setup: &Setup, info: DeviceInfo) -> (Device, Dma<Noting>, Noting) {
    let memory = Noting {
        memory: setup.memory.clone(),
        operations: Arc::default(),
    };
    let device = setup.add(info);
    let dma = device.dma(memory.clone()).unwrap();
    (device, dma, memory)
}

fn non_coherent(setup: &Setup) -> (Device, Dma<Noting>, Noting) {
    device(setup, DeviceInfo::new("nic").streams([0x10]).non_coherent())
}

fn page(memory: &Noting) -> DmaBlock<Noting> {
    DmaBlock::new(memory, PAGE, PAGE, "a buffer").unwrap()
}

#[test]
fn a_transmit_buffer_is_cleaned_each_time_it_is_handed_over() {
    for setup in Setup::both() {
        let (_device, dma, memory) = non_coherent(&setup);
        let buffer = page(&memory);
        let clean = ("clean", buffer.addr().0, PAGE);
        let mut tx = dma.map(buffer, ToDevice).unwrap();
        assert_eq!(memory.take(), [clean, WRITES_DONE]);
        let view = tx.sync_for_cpu();
        assert_eq!(memory.take(), []);
        drop(view);
        assert_eq!(memory.take(), [clean, WRITES_DONE]);
        tx.unmap().unwrap();
        assert_eq!(memory.take(), []);
    }
}

#[test]
fn a_receive_buffer_is_invalidated_each_time_the_cpu_looks() {
    for setup in Setup::both() {
        let (_device, dma, memory) = non_coherent(&setup);
        let buffer = page(&memory);
        let clean = ("clean", buffer.addr().0, PAGE);
        let invalidate = ("invalidate", buffer.addr().0, PAGE);
        let mut rx = dma.map(buffer, FromDevice).unwrap();
        // No dirty line may be written back over what the device writes.
        assert_eq!(memory.take(), [clean, WRITES_DONE]);
        let view = rx.sync_for_cpu();
        assert_eq!(memory.take(), [READS_DONE, invalidate]);
        drop(view);
        assert_eq!(memory.take(), [clean, WRITES_DONE]);
        rx.unmap().unwrap();
        assert_eq!(memory.take(), [READS_DONE, invalidate]);
    }
}

#[test]
fn what_was_retired_is_invalidated_when_it_is_given_back() {
    for policy in [Invalidation::Strict, Invalidation::Lazy] {
        for setup in Setup::both() {
            let (device, dma, memory) = non_coherent(&setup);
            device.domain().unwrap().set_invalidation(policy);
            let buffer = page(&memory);
            let invalidate = ("invalidate", buffer.addr().0, PAGE);
            let rx = dma.map(buffer, FromDevice).unwrap();
            let tx = dma.map(page(&memory), ToDevice).unwrap();
            memory.take();
            let (rx, tx) = (rx.retire().unwrap(), tx.retire().unwrap());
            // The device may be writing still.
            assert_eq!(memory.take(), [], "{setup:?}, {policy:?}");
            rx.reclaim().unwrap();
            assert_eq!(memory.take(), [READS_DONE, invalidate]);
            tx.reclaim().unwrap();
            assert_eq!(memory.take(), []);
        }
    }
}

#[test]
fn every_piece_of_a_list_and_what_was_bounced_is_seen_to() {
    for setup in Setup::both() {
        let (_device, dma, memory) = non_coherent(&setup);
        let list = vec![page(&memory), page(&memory)];
        let [a, b] = [list[0].addr().0, list[1].addr().0];
        let rx = dma.map(list, Bidirectional).unwrap();
        assert_eq!(
            memory.take(),
            [("clean", a, PAGE), ("clean", b, PAGE), WRITES_DONE]
        );
        drop(rx);
        memory.take();
        let small = DmaBlock::new(&memory, 64, 64, "a buffer").unwrap();
        let own = small.addr().0;
        let rx = dma.map(small, FromDevice).unwrap();
        let operations = memory.take();
        let [("clean", copy, PAGE), WRITES_DONE] = operations[..] else {
            panic!("{operations:?}");
        };
        assert_ne!(copy, own);
        rx.unmap().unwrap();
        assert_eq!(memory.take(), [READS_DONE, ("invalidate", copy, PAGE)]);
    }
}

#[test]
fn words_of_coherent_memory_are_seen_to_one_by_one() {
    for setup in Setup::both() {
        let (_device, dma, memory) = non_coherent(&setup);
        let ring = dma.allocate_coherent(PAGE).unwrap();
        let [("clean", start, PAGE), WRITES_DONE] = memory.take()[..] else {
            panic!("zeros are cleaned too");
        };
        ring.store(3, 1);
        assert_eq!(memory.take(), [("clean", start + 24, 8)]);
        assert_eq!(ring.load(5), 0);
        assert_eq!(memory.take(), [("invalidate", start + 40, 8)]);
    }
}

#[test]
fn lines_that_are_shared_with_neighbours_are_bounced_without_translation_too() {
    for setup in Setup::both_on_identity() {
        let (_device, dma, memory) = non_coherent(&setup);
        let small = DmaBlock::new(&memory, 64, 64, "a buffer").unwrap();
        assert!(dma.map(small, FromDevice).unwrap().is_bounced());
    }
}

#[test]
fn a_device_that_sees_the_caches_needs_barriers_only() {
    for setup in Setup::both() {
        let (_device, dma, memory) = device(&setup, DeviceInfo::new("nic").streams([0x10]));
        let mut rx = dma.map(page(&memory), Bidirectional).unwrap();
        drop(rx.sync_for_cpu());
        rx.unmap().unwrap();
        assert_eq!(
            memory.take(),
            [WRITES_DONE, READS_DONE, WRITES_DONE, READS_DONE]
        );
    }
}
