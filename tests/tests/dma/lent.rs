//! What is lent is reached, as its direction says, until it is unmapped.

use iommu_core::dma::{Bidirectional, FromDevice, ToDevice};
use iommu_core::{DefaultDomain, DmaBlock, ErrorKind};

use super::setup::{PAGE, Setup};

#[test]
fn a_device_reaches_a_buffer_until_it_is_unmapped() {
    for setup in Setup::both() {
        let (device, dma) = setup.nic();
        // The domain has its tables from here on.
        drop(dma.map(setup.page(), FromDevice).unwrap());
        let baseline = setup.memory.allocated();
        let rx = dma.map(setup.page(), FromDevice).unwrap();
        assert!(!rx.is_bounced());
        assert!(setup.write(rx.iova(), b"a packet"), "{setup:?}");
        let at = rx.iova();
        let buffer = rx.unmap().unwrap();
        let mut packet = [0; 8];
        buffer.read_at(0, &mut packet);
        assert_eq!(&packet, b"a packet");
        assert!(!setup.write(at, b"too late"), "{setup:?}");
        drop(buffer);
        assert_eq!(setup.memory.allocated(), baseline);
        device.release().unwrap();
        setup.check();
    }
}

#[test]
fn dropping_the_handle_unmaps() {
    for setup in Setup::both() {
        let (_device, dma) = setup.nic();
        let rx = dma.map(setup.page(), FromDevice).unwrap();
        let at = rx.iova();
        drop(rx);
        assert!(!setup.write(at, b"too late"), "{setup:?}");
        setup.check();
    }
}

#[test]
fn a_transmit_buffer_is_read_and_not_written() {
    for setup in Setup::both() {
        let (_device, dma) = setup.nic();
        let buffer = setup.page();
        buffer.write_at(0, b"a packet");
        let mut tx = dma.map(buffer, ToDevice).unwrap();
        assert_eq!(setup.read(tx.iova()), Some(*b"a packet"));
        tx.sync_for_cpu().write(2, b"target").unwrap();
        assert_eq!(setup.read(tx.iova()), Some(*b"a target"));
        assert!(!setup.write(tx.iova(), b"?"), "{setup:?}");
    }
}

#[test]
fn a_buffer_is_used_again_without_being_unmapped() {
    for setup in Setup::both() {
        let (_device, dma) = setup.nic();
        let mut ring = dma.map(setup.page(), Bidirectional).unwrap();
        for round in 0..10_u8 {
            let mut view = ring.sync_for_cpu();
            view.write(0, &[round; 16]).unwrap();
            view.sync_for_device();
            assert_eq!(setup.read(ring.iova()), Some([round; 16]));
            assert!(setup.write(ring.iova(), &[!round; 16]));
            let mut seen = [0; 16];
            ring.sync_for_cpu().read(0, &mut seen).unwrap();
            assert_eq!(seen, [!round; 16]);
        }
    }
}

#[test]
fn a_length_that_a_device_made_up_is_refused() {
    let setup = Setup::smmu(DefaultDomain::Paging);
    let (_device, dma) = setup.nic();
    let mut rx = dma.map(setup.page(), Bidirectional).unwrap();
    let mut view = rx.sync_for_cpu();
    for offset in [1, PAGE, usize::MAX] {
        let error = view.read(offset, &mut [0; PAGE]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
        let error = view.write(offset, &[0; PAGE]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
    }
    view.read(0, &mut [0; PAGE]).unwrap();
}

#[test]
fn a_list_is_one_range_of_addresses() {
    for setup in Setup::both() {
        let (_device, dma) = setup.nic();
        // Others lie between them.
        let pages: Vec<_> = (0..6).map(|_| setup.page()).collect();
        let (list, rest): (Vec<_>, Vec<_>) = pages
            .into_iter()
            .enumerate()
            .partition(|(at, _)| at % 2 == 0);
        let list: Vec<_> = list.into_iter().map(|(_, page)| page).rev().collect();
        let bytes: Vec<u8> = (0..3 * PAGE)
            .map(|at| u8::try_from(at % 251).unwrap())
            .collect();
        let mut rx = dma.map(list, FromDevice).unwrap();
        assert!(!rx.is_bounced());
        assert!(setup.write(rx.iova(), &bytes), "{setup:?}");
        let mut across = [0; 32];
        rx.sync_for_cpu().read(2 * PAGE - 16, &mut across).unwrap();
        assert_eq!(across, bytes[2 * PAGE - 16..][..32]);
        let list = rx.unmap().unwrap();
        for (page, expected) in list.iter().zip(bytes.chunks(PAGE)) {
            let mut seen = [0; PAGE];
            page.read_at(0, &mut seen);
            assert_eq!(seen, expected);
        }
        drop(rest);
        setup.check();
    }
}

#[test]
fn coherent_memory_is_shared_by_words() {
    for setup in Setup::both() {
        let (_device, dma) = setup.nic();
        let ring = dma.allocate_coherent(100).unwrap();
        assert_eq!(ring.len(), PAGE);
        assert_eq!(setup.read(ring.iova()), Some([0; PAGE]));
        ring.store(1, 0x1122_3344_5566_7788);
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&0x1122_3344_5566_7788_u64.to_le_bytes());
        assert_eq!(setup.read(ring.iova()), Some(bytes));
        assert!(setup.write(ring.iova(), &7_u64.to_le_bytes()));
        assert_eq!(ring.load(0), 7);
        let at = ring.iova();
        ring.free().unwrap();
        assert_eq!(setup.read::<8>(at), None, "{setup:?}");
    }
}

#[test]
fn without_translation_an_address_is_the_physical_one() {
    for setup in Setup::both_on_identity() {
        let (_device, dma) = setup.nic();
        let buffer = setup.page();
        let at = buffer.addr();
        let rx = dma.map(buffer, FromDevice).unwrap();
        assert_eq!((rx.iova().0, rx.is_bounced()), (at.0, false));
        assert!(setup.write(rx.iova(), b"a packet"), "{setup:?}");
        rx.unmap().unwrap();
        // A list that is not one range is bounced to one.
        let (first, between) = (setup.page(), setup.page());
        let rx = dma.map(vec![setup.page(), first], FromDevice).unwrap();
        assert!(rx.is_bounced());
        assert!(setup.write(rx.iova(), &[5; 2 * PAGE]));
        for page in rx.unmap().unwrap() {
            let mut seen = [0; PAGE];
            page.read_at(0, &mut seen);
            assert_eq!(seen, [5; PAGE]);
        }
        drop(between);
        setup.check();
    }
}

#[test]
fn threads_that_map_at_the_same_time_find_their_own_bytes() {
    for setup in Setup::both() {
        setup.slow_down();
        let (_device, dma) = setup.nic();
        let (memory, hardware) = (&setup.memory, &setup.hardware);
        std::thread::scope(|scope| {
            for thread in 1..=3_u8 {
                let dma = dma.clone();
                scope.spawn(move || {
                    for round in 0..200_usize {
                        let size = [64, PAGE, 3 * PAGE][round % 3];
                        let buffer = DmaBlock::new(memory, size, PAGE, "a buffer").unwrap();
                        let rx = dma.map(buffer, FromDevice).unwrap();
                        hardware.write(rx.iova().0, &vec![thread; size]);
                        let mut bytes = vec![0; size];
                        rx.unmap().unwrap().read_at(0, &mut bytes);
                        assert_eq!(bytes, vec![thread; size]);
                    }
                });
            }
        });
        setup.check();
    }
}
