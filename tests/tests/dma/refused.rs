//! What cannot be lent or had: refused with a kind, and neither memory nor addresses are lost.

use iommu_core::dma::{Dma, FromDevice, ToDevice};
use iommu_core::{AddrRange, Device, DeviceInfo, DmaBlock, DomainRef, ErrorKind, Iova, PhysAddr};
use mock_hw::MockMemory;

use super::setup::{PAGE, Setup};

const K4: u64 = 1 << 12;

/// Where the only addresses are that are left to be handed out.
const WINDOW: u64 = 2 << 20;

/// Leaves so many pages to be handed out.
fn narrow(device: &Device, dma: &Dma<MockMemory>, pages: u64) {
    let geometry = device.domain().unwrap().geometry().unwrap();
    let (end, last) = (WINDOW + pages * K4, geometry.aperture.last());
    for (first, last) in [(0, WINDOW - 1), (end, last)] {
        let taken = AddrRange::inclusive(first, last).unwrap();
        dma.reserve(taken).unwrap();
    }
}

/// Memory where no IOMMU reaches it.
fn far_memory(domain: &DomainRef) -> MockMemory {
    let last = domain.geometry().unwrap().physical.last();
    MockMemory::new(PhysAddr(last + 1), 0x1_0000)
}

fn every_setup() -> impl Iterator<Item = Setup> {
    Setup::both().into_iter().chain([Setup::vtd_first_stage()])
}

/// A list whose pieces have addresses, and together none.
#[test]
fn addresses_that_run_out_leave_nothing_behind() {
    for setup in Setup::both() {
        let (device, dma) = setup.nic();
        let domain = device.domain().unwrap();
        narrow(&device, &dma, 4);
        for _ in 0..3 {
            let memory = setup.memory.allocated();
            let list: Vec<_> = (0..5).map(|_| setup.page()).collect();
            let failed = dma.map(list, FromDevice).unwrap_err();
            assert_eq!(failed.error.kind(), ErrorKind::NoSpace, "{setup:?}");
            assert_eq!(failed.buffer.unwrap().len(), 5);
            let bounced = dma.map(setup.block(5 * PAGE - 8, 8), ToDevice).unwrap_err();
            assert_eq!(bounced.error.kind(), ErrorKind::NoSpace, "{setup:?}");
            drop(bounced);
            assert_eq!(setup.memory.allocated(), memory);

            // One after the other until there are none, and then again.
            let mut pages: Vec<_> = (0..4)
                .map(|_| dma.map(setup.page(), FromDevice).unwrap())
                .collect();
            let failed = dma.map(setup.page(), FromDevice).unwrap_err();
            assert_eq!(failed.error.kind(), ErrorKind::NoSpace, "{setup:?}");
            let coherent = dma.allocate_coherent(8).unwrap_err();
            assert_eq!(coherent.kind(), ErrorKind::NoSpace, "{setup:?}");
            let free = pages.pop().unwrap();
            let at = free.iova();
            free.unmap().unwrap();
            let again = dma.map(setup.page(), FromDevice).unwrap();
            assert_eq!(again.iova(), at, "{setup:?}: the only one");
        }
        assert_eq!(domain.leaked_bytes(), 0);
        setup.check();
    }
}

#[test]
fn memory_that_the_iommu_cannot_address_is_not_lent() {
    for setup in every_setup() {
        let (device, dma) = setup.nic();
        let domain = device.domain().unwrap();
        narrow(&device, &dma, 2);
        let far = far_memory(&domain);
        let page = || DmaBlock::new(&far, PAGE, PAGE, "a buffer").unwrap();
        for _ in 0..5 {
            let failed = dma.map(page(), FromDevice).unwrap_err();
            assert_eq!(failed.error.kind(), ErrorKind::OutOfRange, "{setup:?}");
            drop(failed.buffer.expect("no device reaches it"));
            // The first piece is mapped when the second cannot be.
            let list = vec![setup.page(), page()];
            let first = list[0].addr();
            let failed = dma.map(list, ToDevice).unwrap_err();
            assert_eq!(failed.error.kind(), ErrorKind::OutOfRange, "{setup:?}");
            let list = failed.buffer.expect("no device reaches it any more");
            assert_eq!(list[0].addr(), first);
            drop(list);
            for at in [WINDOW, WINDOW + K4] {
                assert_eq!(domain.translate(Iova(at)), None, "{setup:?}");
                assert_eq!(setup.read::<8>(Iova(at)), None, "{setup:?}");
            }
            assert_eq!(far.allocated(), 0);
        }
        let rx = dma.map(vec![setup.page(), setup.page()], FromDevice);
        let rx = rx.unwrap();
        assert_eq!(rx.iova(), Iova(WINDOW), "{setup:?}");
        assert!(setup.write(rx.iova(), &[1; 2 * PAGE]), "{setup:?}");
        assert_eq!(domain.leaked_bytes(), 0);
        setup.check();
    }
}

#[test]
fn a_platform_whose_memory_the_iommu_cannot_address_loses_none_of_it() {
    for setup in every_setup() {
        let device = setup.add(DeviceInfo::new("nic").streams([0x10]));
        let far = far_memory(&device.domain().unwrap());
        let dma = device.dma(far.clone()).unwrap();
        narrow(&device, &dma, 1);
        for _ in 0..3 {
            let error = dma.allocate_coherent(8).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfRange, "{setup:?}");
            let mut bytes = *b"mine";
            let error = dma.with_bounced(&mut bytes, FromDevice, |_| ());
            assert_eq!(error.unwrap_err().kind(), ErrorKind::OutOfRange);
            let small = setup.block(64, 8);
            let failed = dma.map(small, FromDevice).unwrap_err();
            assert_eq!(failed.error.kind(), ErrorKind::OutOfRange, "{setup:?}");
            assert!(failed.buffer.is_some());
            assert_eq!(far.allocated(), 0, "{setup:?}");
        }
        let rx = dma.map(setup.page(), FromDevice).unwrap();
        assert!(setup.write(rx.iova(), b"a packet"), "{setup:?}");
    }
}

#[test]
fn sizes_that_no_memory_has_are_refused() {
    for setup in Setup::both().into_iter().chain(Setup::both_on_identity()) {
        let (_device, dma) = setup.nic();
        let allocated = setup.memory.allocated();
        let refused = |size| {
            let pages = dma.allocate_pages(size).unwrap_err().kind();
            let coherent = dma.allocate_coherent(size).unwrap_err().kind();
            assert_eq!(pages, coherent, "{setup:?}: {size:#x}");
            pages
        };
        assert_eq!(refused(0), ErrorKind::InvalidArgument);
        for size in [
            usize::MAX,
            usize::MAX - PAGE + 1,
            usize::MAX - PAGE + 2,
            setup.memory.size(),
        ] {
            assert_eq!(
                refused(size),
                ErrorKind::OutOfMemory,
                "{setup:?}: {size:#x}"
            );
            let block = DmaBlock::new(&setup.memory, size, 8, "a buffer");
            assert_eq!(block.unwrap_err().kind(), ErrorKind::OutOfMemory);
        }
        assert_eq!(setup.memory.allocated(), allocated);
        setup.check();
    }
}

#[test]
fn addresses_that_are_handed_out_cannot_be_reserved() {
    for setup in Setup::both() {
        let (device, dma) = setup.nic();
        narrow(&device, &dma, 4);
        let lent = [(); 2].map(|()| dma.map(setup.page(), FromDevice).unwrap());
        let range = |start, pages| AddrRange::new(start, pages * K4).unwrap();
        let one = |at: Iova| range(at.0, 1);
        let taken = [
            one(lent[0].iova()),
            one(lent[1].iova()),
            AddrRange::new(lent[0].iova().0 + 8, 1).unwrap(),
            range(WINDOW, 4),
            range(WINDOW - K4, 6),
            AddrRange::EVERYTHING,
        ];
        for taken in taken {
            let refused = dma.reserve(taken).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::AlreadyExists, "{setup:?}");
        }
        // What is lent stays so, and what is free stays free.
        assert!(lent.iter().all(|rx| setup.write(rx.iova(), b"a packet")));
        let free = [(); 2].map(|()| dma.map(setup.page(), FromDevice).unwrap());
        let failed = dma.map(setup.page(), FromDevice).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::NoSpace, "{setup:?}");
        let was = lent.map(|rx| {
            let at = rx.iova();
            rx.unmap().unwrap();
            at
        });
        dma.reserve(one(was[0])).unwrap();
        let last = dma.map(setup.page(), FromDevice).unwrap();
        assert_eq!(last.iova(), was[1], "{setup:?}");
        let failed = dma.map(setup.page(), FromDevice).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::NoSpace, "{setup:?}");
        drop((free, last));
        setup.check();
    }
}
