//! Which addresses a device is given.

use std::sync::Arc;

use iommu_core::dma::{FromDevice, ToDevice};
use iommu_core::{
    AddrRange, DefaultDomain, DeviceInfo, ErrorKind, Iova, NoControl, Prot, ReservedKind,
    ReservedRegion,
};

use super::setup::{PAGE, Setup};

const ALL: u64 = 1 << 32;

fn region(start: u64, len: u64, kind: ReservedKind) -> ReservedRegion {
    ReservedRegion::new(start, len, kind).unwrap()
}

#[test]
fn address_zero_and_reserved_regions_are_never_handed_out() {
    let kinds = [
        ReservedKind::Reserved,
        ReservedKind::Msi,
        ReservedKind::SoftwareMsi,
        ReservedKind::Direct,
        ReservedKind::DirectRelaxable,
    ];
    for kind in kinds {
        for setup in Setup::both() {
            let taken = region(0x2000, 0x3001, kind);
            let info = DeviceInfo::new("nic").streams([0x10]).reserved(taken);
            let device = setup.add(info);
            let dma = device.dma(setup.memory.clone()).unwrap();
            let mapped: Vec<_> = (0..8)
                .map(|_| dma.map(setup.page(), FromDevice).unwrap())
                .collect();
            for rx in &mapped {
                let at = AddrRange::new(rx.iova().0, PAGE as u64).unwrap();
                assert!(!at.overlaps(taken.range()), "{setup:?}: {kind:?} at {at}");
                assert_ne!(at.start(), 0);
            }
        }
    }
}

#[test]
fn a_device_that_joins_keeps_its_regions_or_stays_out() {
    for setup in Setup::both() {
        let first = setup.add(DeviceInfo::new("a").streams([0x10]).group("g"));
        let dma = first.dma(setup.memory.clone()).unwrap();
        let rx = dma.map(setup.page(), FromDevice).unwrap();
        let info = |start| {
            DeviceInfo::new("b")
                .streams([0x18])
                .group("g")
                .reserved(region(start, 0x1000, ReservedKind::Reserved))
        };
        let refused = setup
            .iommu
            .add_device(info(rx.iova().0), Arc::new(NoControl))
            .unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        let next = rx.iova().0 + 0x1000;
        let _second = setup.add(info(next));
        let more: Vec<_> = (0..8)
            .map(|_| dma.map(setup.page(), FromDevice).unwrap())
            .collect();
        assert!(more.iter().all(|rx| rx.iova().0 != next), "{setup:?}");
    }
}

#[test]
fn devices_of_a_group_share_the_addresses() {
    for setup in Setup::both() {
        let devices = [0x10_u32, 0x18].map(|stream| {
            let info = DeviceInfo::new("nic").streams([stream]).group("g");
            setup.add(info)
        });
        let [a, b] = [0, 1].map(|at: usize| devices[at].dma(setup.memory.clone()).unwrap());
        let a = a.map(setup.page(), FromDevice).unwrap();
        let b = b.map(setup.page(), FromDevice).unwrap();
        assert_ne!(a.iova(), b.iova());
        assert!(setup.write(a.iova(), b"a") && setup.write(b.iova(), b"b"));
    }
}

#[test]
fn a_mask_bounds_the_addresses() {
    for setup in Setup::both() {
        let (_device, dma) = setup.nic();
        let narrow = dma.clone().below_bits(32);
        dma.reserve(AddrRange::new(0, ALL - 2 * PAGE as u64).unwrap())
            .unwrap();
        let a = narrow.map(setup.page(), ToDevice).unwrap();
        let b = narrow.map(setup.page(), ToDevice).unwrap();
        assert!(a.iova().0 < ALL && b.iova().0 < ALL);
        let failed = narrow.map(setup.page(), ToDevice).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::NoSpace);
        assert!(failed.buffer.is_some());
        let c = dma.map(setup.page(), ToDevice).unwrap();
        assert!(c.iova().0 >= ALL);
        drop(a);
        narrow.map(setup.page(), ToDevice).unwrap().unmap().unwrap();
    }
}

#[test]
fn without_translation_a_mask_bounds_the_memory() {
    for setup in Setup::both_on_identity() {
        let (_device, dma) = setup.nic();
        let failed = dma.below_bits(20).map(setup.page(), ToDevice).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::OutOfRange, "{setup:?}");
        assert!(failed.buffer.is_some());
    }
}

#[test]
fn what_was_mapped_by_hand_is_left_alone() {
    for setup in Setup::both() {
        let (device, dma) = setup.nic();
        let domain = device.domain().unwrap();
        let by_hand = [1, 2, 3, 4].map(|page| {
            let at = Iova(page << 12);
            domain.map_block(at, setup.page(), Prot::READ).unwrap()
        });
        let rx = dma.map(setup.page(), FromDevice).unwrap();
        assert!(by_hand.iter().all(|block| block.iova() != rx.iova()));
        assert!(setup.write(rx.iova(), b"a packet"), "{setup:?}");
    }
}

#[test]
fn a_group_without_a_default_domain_maps_nothing() {
    let setup = Setup::smmu(DefaultDomain::Parked);
    let device = setup.add(DeviceInfo::new("nic").streams([0x10]));
    let error = device.dma(setup.memory.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn a_claimed_group_is_its_owners_to_map_for() {
    let setup = Setup::smmu(DefaultDomain::Paging);
    let device = setup.add(DeviceInfo::new("nic").streams([0x10]));
    let claim = device.group().claim().unwrap();
    let error = device.dma(setup.memory.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotPermitted);
    drop(claim);
    device.dma(setup.memory.clone()).unwrap();
}

#[test]
fn nothing_is_mapped_while_the_group_is_on_another_domain() {
    for setup in Setup::both() {
        let (device, dma) = setup.nic();
        let home = device.domain().unwrap();
        let kept = dma.map(setup.page(), FromDevice).unwrap();
        let other = setup.iommu.identity_domain().unwrap();
        let is_refused = || {
            let failed = dma.map(setup.page(), FromDevice).unwrap_err();
            assert_eq!(failed.error.kind(), ErrorKind::Busy, "{setup:?}");
        };
        device.attach(&other).unwrap();
        is_refused();
        device.attach(&home).unwrap();
        assert!(setup.write(kept.iova(), b"mapped all the while"));
        dma.map(setup.page(), FromDevice).unwrap().unmap().unwrap();
        let claim = device.group().claim().unwrap();
        is_refused();
        drop(claim);
        dma.map(setup.page(), FromDevice).unwrap().unmap().unwrap();
        device.detach().unwrap();
        dma.map(setup.page(), FromDevice).unwrap().unmap().unwrap();
    }
}
