//! Lazy invalidation: a retired buffer is given back when the hardware has forgotten it, and many of
//! them wait for that together.

use std::sync::Mutex;

use iommu_core::dma::{Dma, FromDevice, Retired};
use iommu_core::{DmaBlock, DomainRef, ErrorKind, Invalidation};
use mock_hw::MockMemory;

use super::setup::{PAGE, Setup};

type Packet = Retired<DmaBlock<MockMemory>, FromDevice, MockMemory>;

/// Both, with devices whose domain is invalidated lazily.
fn both() -> impl Iterator<Item = (Setup, Dma<MockMemory>, DomainRef)> {
    Setup::both().into_iter().map(|setup| {
        let (device, dma) = setup.nic();
        let domain = device.domain().unwrap();
        domain.set_invalidation(Invalidation::Lazy);
        // It stays on its domain until the end.
        std::mem::forget(device);
        (setup, dma, domain)
    })
}

/// A buffer that the device has written to, and so knows the way to, and that is retired.
fn retire(setup: &Setup, dma: &Dma<MockMemory>) -> (Packet, iommu_core::Iova) {
    let rx = dma.map(setup.page(), FromDevice).unwrap();
    let at = rx.iova();
    assert!(setup.write(at, b"a packet"), "{setup:?}");
    (rx.retire().unwrap(), at)
}

#[test]
fn buffers_that_were_retired_wait_together_and_only_once() {
    for (setup, dma, domain) in both() {
        let (retired, at): (Vec<_>, Vec<_>) = (0..100).map(|_| retire(&setup, &dma)).unzip();
        assert!(retired.iter().all(|rx| !rx.is_flushed()), "{setup:?}");
        let baseline = setup.waits();
        for rx in retired {
            let mut packet = [0; 8];
            rx.reclaim().unwrap().read_at(0, &mut packet);
            assert_eq!(&packet, b"a packet");
        }
        assert_eq!(setup.waits() - baseline, 1, "{setup:?}");
        for at in at {
            assert!(!setup.write(at, b"too late"), "{setup:?}");
        }
        assert_eq!(domain.leaked_bytes(), 0);
        setup.check();
    }
}

#[test]
fn retiring_waits_for_nothing_and_cuts_nobody_off_that_is_not_retired() {
    for (setup, dma, domain) in both() {
        let stays = dma.map(setup.page(), FromDevice).unwrap();
        let baseline = setup.waits();
        let (rx, _) = retire(&setup, &dma);
        assert_eq!(setup.waits(), baseline, "{setup:?}");
        domain.flush().unwrap();
        assert!(rx.is_flushed());
        let baseline = setup.waits();
        drop(rx);
        assert_eq!(setup.waits(), baseline, "{setup:?}");
        assert!(setup.write(stays.iova(), b"still here"), "{setup:?}");
    }
}

/// The models keep what was not invalidated: what is lazy is seen to be.
#[test]
fn until_the_flush_neither_memory_nor_addresses_are_anybody_elses() {
    for (setup, dma, domain) in both() {
        let (rx, at) = retire(&setup, &dma);
        let allocated = setup.memory.allocated();
        let others: Vec<_> = (0..200)
            .map(|_| dma.map(setup.page(), FromDevice).unwrap())
            .collect();
        assert!(others.iter().all(|other| other.iova() != at), "{setup:?}");
        assert!(setup.write(at, b"a relic!"), "{setup:?}: it is not lazy");
        for other in others {
            let mut bytes = [0; 8];
            other.unmap().unwrap().read_at(0, &mut bytes);
            assert_eq!(bytes, [0; 8], "{setup:?}");
        }
        assert_eq!(setup.memory.allocated(), allocated, "{setup:?}");
        drop(rx);
        assert!(!setup.write(at, b"too late"), "{setup:?}");
        assert!(setup.memory.allocated() < allocated, "{setup:?}");
        assert_eq!(domain.leaked_bytes(), 0);
        setup.check();
    }
}

#[test]
fn a_flush_before_a_buffer_was_retired_is_none_for_it() {
    for (setup, dma, domain) in both() {
        let (first, _) = retire(&setup, &dma);
        domain.flush().unwrap();
        let (second, at) = retire(&setup, &dma);
        assert!(first.is_flushed() && !second.is_flushed());
        let baseline = setup.waits();
        drop(second);
        assert_eq!(setup.waits() - baseline, 1, "{setup:?}");
        assert!(!setup.write(at, b"too late"), "{setup:?}");
    }
}

#[test]
fn a_flush_that_is_not_confirmed_gives_nothing_back_and_a_later_one_does() {
    for (setup, dma, domain) in both() {
        let (first, at) = retire(&setup, &dma);
        let (second, _) = retire(&setup, &dma);
        let allocated = setup.memory.allocated();
        setup.freeze(true);
        let failed = first.reclaim().unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::IommuTimedOut, "{setup:?}");
        assert!(failed.buffer.is_none());
        assert_eq!(domain.leaked_bytes(), PAGE);
        assert_eq!(setup.memory.allocated(), allocated);
        assert!(!second.is_flushed());
        setup.freeze(false);
        drop(second.reclaim().unwrap());
        let next: Vec<_> = (0..64)
            .map(|_| dma.map(setup.page(), FromDevice).unwrap())
            .collect();
        assert!(next.iter().all(|rx| rx.iova() != at), "{setup:?}");
        assert_eq!(domain.leaked_bytes(), PAGE);
        setup.check();
    }
}

#[test]
fn where_invalidation_is_strict_a_retired_buffer_is_out_of_reach_at_once() {
    for setup in Setup::both() {
        let (_device, dma) = setup.nic();
        let (rx, at) = retire(&setup, &dma);
        assert!(rx.is_flushed(), "{setup:?}");
        assert!(!setup.write(at, b"too late"), "{setup:?}");
        setup.freeze(true);
        drop(rx.reclaim().unwrap());
        let rx = dma.map(setup.page(), FromDevice).unwrap();
        let failed = rx.retire().unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::IommuTimedOut);
        assert!(failed.buffer.is_none());
        setup.freeze(false);
    }
}

#[test]
fn where_nothing_translates_there_is_nothing_to_wait_for() {
    for setup in Setup::both_on_identity() {
        let (device, dma) = setup.nic();
        let domain = device.domain().unwrap();
        domain.set_invalidation(Invalidation::Lazy);
        let (rx, _) = retire(&setup, &dma);
        assert!(rx.is_flushed());
        rx.reclaim().unwrap();
        let error = domain.flush().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn tables_that_go_with_a_buffer_are_given_back_without_a_flush() {
    const LARGE: usize = 4 << 20;
    for (setup, dma, _) in both() {
        let near = dma.map(setup.page(), FromDevice).unwrap();
        // Less aligned than large pages are: it takes tables of its own.
        let block = setup.block(LARGE, PAGE);
        assert_ne!(block.addr().0 % (2 << 20), 0);
        let before = setup.memory.allocated();
        let rx = dma.map(block, FromDevice).unwrap();
        let rx = rx.retire().unwrap();
        assert!(rx.is_flushed(), "{setup:?}");
        assert!(setup.memory.allocated() <= before, "{setup:?}");
        drop((rx, near));
        setup.check();
    }
}

#[test]
fn a_forgotten_one_is_harmless() {
    for (setup, dma, _) in both() {
        let (rx, at) = retire(&setup, &dma);
        std::mem::forget(rx);
        let others: Vec<_> = (0..64)
            .map(|_| dma.map(setup.page(), FromDevice).unwrap())
            .collect();
        assert!(others.iter().all(|other| other.iova() != at), "{setup:?}");
        drop(others);
        setup.check();
    }
}

#[test]
fn a_bounced_buffer_gets_what_the_device_wrote() {
    for (setup, dma, _) in both() {
        let rx = dma.map(setup.block(16, 8), FromDevice).unwrap();
        let at = rx.iova();
        assert!(setup.write(at, b"a packet"));
        let buffer = rx.retire().unwrap().reclaim().unwrap();
        let mut packet = [0; 8];
        buffer.read_at(0, &mut packet);
        assert_eq!(&packet, b"a packet");
        assert!(!setup.write(at, b"too late"), "{setup:?}");
    }
}

#[test]
fn threads_that_retire_get_buffers_back_that_no_device_reaches() {
    for (setup, dma, domain) in both() {
        setup.slow_down();
        let memory = &setup.memory;
        // The models translate and store in two steps. Hardware is done with both before an
        // invalidation completes (SMMUv3 4.7.3; VT-d 6.5.4); here, whoever has a buffer back waits
        // for that.
        let under_way = Mutex::new(());
        let write = |at: u64, thread: u8| {
            let _one = under_way.lock().unwrap();
            setup.hardware.write(at, &[thread; PAGE]);
        };
        let (write, under_way) = (&write, &under_way);
        std::thread::scope(|scope| {
            for thread in 1..=3_u8 {
                let dma = dma.clone();
                scope.spawn(move || {
                    let mut ring: Vec<(Packet, u64)> = Vec::new();
                    for round in 0..300_usize {
                        if ring.len() == 8 {
                            let (oldest, at) = ring.remove(round % 8);
                            let mine = oldest.reclaim().unwrap();
                            drop(under_way.lock().unwrap());
                            mine.write_at(0, &[0xee; PAGE]);
                            write(at, thread);
                            let mut bytes = [0; PAGE];
                            mine.read_at(0, &mut bytes);
                            assert!(bytes.iter().all(|byte| *byte == 0xee), "{round}");
                        }
                        let page = DmaBlock::new(memory, PAGE, PAGE, "a buffer").unwrap();
                        let rx = dma.map(page, FromDevice).unwrap();
                        let at = rx.iova().0;
                        write(at, thread);
                        ring.push((rx.retire().unwrap(), at));
                    }
                });
            }
        });
        assert_eq!(domain.leaked_bytes(), 0);
        setup.check();
    }
}
