//! What fails leaves nothing behind, and what is not confirmed is never given back.

use iommu_core::dma::{Bidirectional, FromDevice, ToDevice};
use iommu_core::{DeviceInfo, DmaBlock, ErrorKind};
use mock_hw::MockMemory;

use super::setup::{PAGE, Setup};

#[test]
fn a_buffer_whose_invalidation_is_not_confirmed_is_never_given_back() {
    for setup in Setup::both() {
        let (device, dma) = setup.nic();
        let rx = dma.map(setup.page(), FromDevice).unwrap();
        let at = rx.iova();
        assert!(setup.write(at, b"cached"));
        let allocated = setup.memory.allocated();
        setup.freeze(true);
        let failed = rx.unmap().unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::IommuTimedOut, "{setup:?}");
        assert!(failed.buffer.is_none());
        assert_eq!(device.domain().unwrap().leaked_bytes(), PAGE);
        assert_eq!(setup.memory.allocated(), allocated);
        // Whether it still gets through is the hardware's choice; what it reaches is nobody's.
        setup.write(at, b"late");
        setup.freeze(false);
        let next: Vec<_> = (0..64)
            .map(|_| dma.map(setup.page(), FromDevice).unwrap())
            .collect();
        assert!(next.iter().all(|rx| rx.iova() != at), "{setup:?}");
        setup.check();
    }
}

#[test]
fn dropping_what_is_not_confirmed_gives_nothing_back() {
    for setup in Setup::both() {
        let (device, dma) = setup.nic();
        let rx = dma.map(setup.page(), FromDevice).unwrap();
        let allocated = setup.memory.allocated();
        setup.freeze(true);
        drop(rx);
        assert_eq!(device.domain().unwrap().leaked_bytes(), PAGE);
        assert_eq!(setup.memory.allocated(), allocated);
        setup.freeze(false);
    }
}

#[test]
fn a_bounced_buffer_comes_back_where_the_copy_is_lost() {
    for setup in Setup::both() {
        let (device, dma) = setup.nic();
        let rx = dma.map(setup.block(16, 8), FromDevice).unwrap();
        setup.freeze(true);
        let failed = rx.unmap().unwrap_err();
        assert!(failed.buffer.is_some(), "no device reached it");
        assert_eq!(device.domain().unwrap().leaked_bytes(), PAGE);
        let mut bytes = *b"mine";
        let error = dma.with_bounced(&mut bytes, FromDevice, |_| ());
        assert_eq!(error.unwrap_err().kind(), ErrorKind::IommuTimedOut);
        assert_eq!(&bytes, b"mine");
        setup.freeze(false);
        setup.check();
    }
}

#[test]
fn a_forgotten_handle_is_harmless() {
    for setup in Setup::both() {
        let (device, dma) = setup.nic();
        let rx = dma.map(setup.page(), FromDevice).unwrap();
        let at = rx.iova();
        std::mem::forget(rx);
        // Nobody else is given the memory or the addresses.
        let others: Vec<_> = (0..64)
            .map(|_| dma.map(setup.page(), ToDevice).unwrap())
            .collect();
        assert!(setup.write(at, &[0xff; PAGE]), "{setup:?}: still lent");
        for other in &others {
            assert_eq!(setup.read(other.iova()), Some([0; PAGE]));
        }
        drop(others);
        device.release().unwrap();
        assert!(!setup.write(at, b"too late"), "{setup:?}");
        setup.check();
    }
}

#[test]
fn a_forgotten_view_and_a_handle_that_outlives_its_device_are_harmless() {
    for setup in Setup::both() {
        let (device, dma) = setup.nic();
        let mut rx = dma.map(setup.page(), Bidirectional).unwrap();
        std::mem::forget(rx.sync_for_cpu());
        device.release().unwrap();
        rx.unmap().unwrap();
        let late = dma.map(setup.page(), FromDevice).unwrap_err();
        assert_eq!(late.error.kind(), ErrorKind::Busy);
        assert!(late.buffer.is_some());
        setup.check();
    }
}

#[test]
fn buffers_of_no_bytes_are_refused() {
    for setup in Setup::both().into_iter().chain(Setup::both_on_identity()) {
        let (_device, dma) = setup.nic();
        let none: Vec<DmaBlock<MockMemory>> = Vec::new();
        let failed = dma.map(none, FromDevice).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::InvalidArgument);
        assert!(failed.buffer.is_some());
        let error = dma.allocate_coherent(0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn what_a_failed_mapping_may_have_left_is_never_given_back() {
    for setup in Setup::both() {
        for bounced in [false, true] {
            let device = setup.add(DeviceInfo::new("nic").streams([0x10]));
            let dma = device.dma(setup.memory.clone()).unwrap();
            let domain = device.domain().unwrap();
            // Memory runs out with a part of it mapped, and that cannot be taken back.
            let mut buffer = setup.block((4 << 20) + if bounced { 8 } else { 0 }, PAGE);
            setup.freeze(true);
            let failed = (0..100).find_map(|allocations| {
                let lent = setup.block(8, 8);
                let attempt = std::mem::replace(&mut buffer, lent);
                setup.memory.fail_allocation(Some(allocations));
                let failed = dma.map(attempt, FromDevice).unwrap_err();
                setup.memory.fail_allocation(None);
                if failed.error.kind() == ErrorKind::IommuTimedOut {
                    return Some(failed);
                }
                assert_eq!(failed.error.kind(), ErrorKind::OutOfMemory);
                assert_eq!(domain.leaked_bytes(), 0);
                buffer = failed.buffer.expect("no device reaches it");
                None
            });
            setup.freeze(false);
            let failed = failed.expect("it runs out in the middle");
            // Where it was bounced, it is the copy that is lost.
            assert_eq!(failed.buffer.is_some(), bounced, "{setup:?}");
            assert!(domain.leaked_bytes() >= 4 << 20, "{setup:?}");
            drop(failed);
            device.release().unwrap();
            setup.check();
        }
    }
}
