//! Where a device finds the doorbell of an interrupt controller.

use iommu_core::dma::{Dma, DmaPlatform, FromDevice};
use iommu_core::{
    AddrRange, DefaultDomain, Device, DeviceInfo, ErrorKind, Iova, PhysAddr, ReservedKind,
    ReservedRegion, Result,
};
use mock_hw::MockMemory;

use super::setup::{PAGE, Setup};

const WINDOW: u64 = 0x800_0000;

/// A page that rings nothing: the machine's memory, so that it shows what arrives.
fn doorbell(setup: &Setup) -> PhysAddr {
    let page = setup.page();
    let at = page.addr();
    page.leak();
    PhysAddr(at.0 + 0x40)
}

fn map(dma: &Dma<impl DmaPlatform>, doorbell: PhysAddr) -> Result<Iova> {
    // SAFETY: the page is nobody's, or is not there at all.
    unsafe { dma.map_doorbell(doorbell) }
}

fn with_window(setup: &Setup, pages: u64) -> (Device, Dma<MockMemory>) {
    let len = pages * PAGE as u64;
    let window = ReservedRegion::new(WINDOW, len, ReservedKind::SoftwareMsi).unwrap();
    let info = DeviceInfo::new("nic").streams([0x10]).reserved(window);
    let device = setup.add(info);
    let dma = device.dma(setup.memory.clone()).unwrap();
    (device, dma)
}

/// With so many addresses left, where windows are.
fn without_window(setup: &Setup, pages: u64) -> (Device, Dma<MockMemory>) {
    let (device, dma) = setup.nic();
    let last = device.domain().unwrap().geometry().unwrap().aperture.last();
    let end = WINDOW + pages * PAGE as u64;
    for (first, last) in [(0, WINDOW - 1), (end, last)] {
        let taken = AddrRange::inclusive(first, last).unwrap();
        dma.reserve(taken).unwrap();
    }
    (device, dma)
}

fn rings(setup: &Setup, iova: Iova, doorbell: PhysAddr, data: u32) -> bool {
    let sent = setup.write(iova, &data.to_le_bytes());
    let mut seen = [0; 4];
    setup.memory.dma_read(doorbell, &mut seen).unwrap();
    sent && u32::from_le_bytes(seen) == data
}

#[test]
fn a_doorbell_is_mapped_once_in_the_window_for_doorbells() {
    for setup in Setup::both() {
        let (_device, dma) = with_window(&setup, 2);
        let [a, b, c] = [0; 3].map(|_| doorbell(&setup));
        let at = map(&dma, a).unwrap();
        assert_eq!(at, Iova(WINDOW + 0x40));
        assert!(rings(&setup, at, a, 7), "{setup:?}");
        assert_eq!(map(&dma, a).unwrap(), at);
        assert_eq!(map(&dma, PhysAddr(a.0 + 8)).unwrap(), Iova(at.0 + 8));
        assert_eq!(map(&dma, b).unwrap(), Iova(at.0 + PAGE as u64));
        assert_eq!(map(&dma, c).unwrap_err().kind(), ErrorKind::NoSpace);
    }
}

#[test]
fn without_a_window_it_is_mapped_like_any_other_page() {
    let setup = Setup::smmu(DefaultDomain::Paging);
    let (_device, dma) = setup.nic();
    let doorbell = doorbell(&setup);
    let at = map(&dma.clone().below_bits(32), doorbell).unwrap();
    assert!(at.0 < 1 << 32);
    assert!(rings(&setup, at, doorbell, 7));
    let rx = dma.map(setup.page(), FromDevice).unwrap();
    assert_ne!(rx.iova().0 & !(PAGE as u64 - 1), at.0 & !(PAGE as u64 - 1));
    assert_eq!(map(&dma, doorbell).unwrap(), at);
}

#[test]
fn what_is_not_translated_keeps_its_address() {
    let setup = Setup::vtd(DefaultDomain::Paging);
    let (_device, dma) = setup.nic();
    let apic = PhysAddr(0xfee0_1000);
    assert_eq!(map(&dma, apic).unwrap(), Iova(apic.0));
    let error = map(&dma.below_bits(31), apic).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
    for setup in Setup::both_on_identity() {
        let (_device, dma) = setup.nic();
        let doorbell = doorbell(&setup);
        let at = map(&dma, doorbell).unwrap();
        assert_eq!(at.0, doorbell.0);
        assert!(rings(&setup, at, doorbell, 7), "{setup:?}");
    }
}

#[test]
fn a_device_is_given_a_doorbell_within_its_mask() {
    let setup = Setup::smmu(DefaultDomain::Paging);
    let (_device, dma) = setup.nic();
    let narrow = dma.clone().below_bits(32);
    let last_page = (1 << 32) - PAGE as u64;
    dma.reserve(AddrRange::new(0, last_page).unwrap()).unwrap();
    let doorbell = doorbell(&setup);
    let in_the_way = narrow.map(setup.page(), FromDevice).unwrap();
    assert!(map(&dma, doorbell).unwrap().0 >= 1 << 32);
    drop(in_the_way);
    let at = map(&narrow, doorbell).unwrap();
    assert_eq!(at, Iova(last_page + 0x40));
    assert!(rings(&setup, at, doorbell, 7));
    let setup = Setup::smmu(DefaultDomain::Paging);
    let (_device, dma) = with_window(&setup, 2);
    let below_the_window = dma.below_bits(WINDOW.ilog2());
    let refused = map(&below_the_window, PhysAddr(0x1000)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
}

#[test]
fn a_doorbell_that_no_message_fits_is_refused() {
    for setup in Setup::both().into_iter().chain(Setup::both_on_identity()) {
        let (_device, dma) = setup.nic();
        let page = doorbell(&setup).0 & !(PAGE as u64 - 1);
        for at in [page + 0xffe, page + 1, 0xfee0_1002, u64::MAX, u64::MAX - 2] {
            let refused = map(&dma, PhysAddr(at)).unwrap_err();
            let kind = refused.kind();
            assert_eq!(kind, ErrorKind::InvalidArgument, "{setup:?}: {at:#x}");
        }
    }
}

#[test]
fn a_doorbell_that_the_iommu_cannot_address_takes_nothing() {
    for make in [with_window, without_window] {
        for setup in Setup::both() {
            let (device, dma) = make(&setup, 2);
            let domain = device.domain().unwrap();
            let last = domain.geometry().unwrap().physical.last();
            let (last_page, last_word) = (!(PAGE as u64 - 1), u64::MAX - 3);
            for beyond in [last + 1, last_page, last_word] {
                let refused = map(&dma, PhysAddr(beyond)).unwrap_err();
                let kind = refused.kind();
                assert_eq!(kind, ErrorKind::OutOfRange, "{setup:?}: {beyond:#x}");
            }
            for page in 0..2 {
                let at = Iova(WINDOW + page * PAGE as u64);
                assert_eq!(domain.translate(at), None, "{setup:?}");
            }
            // Both places are there still.
            let own = doorbell(&setup);
            let at = map(&dma, own).unwrap();
            assert!(rings(&setup, at, own, 7), "{setup:?}");
            let at = map(&dma, PhysAddr(last - 3)).unwrap();
            assert_eq!(domain.translate(at), Some(PhysAddr(last - 3)), "{setup:?}");
        }
    }
}
