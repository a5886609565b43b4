//! Regions that firmware pinned: who holds them in a domain, and for how long.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::Arc;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    Device, DeviceInfo, DomainRef, ErrorKind, Iommu, Iova, NoControl, PagingConfig, PhysAddr, Prot,
    ReservedKind, ReservedRegion,
};
use mock_hw::smmuv3::ModelConfig;
use tests::machine::Machine;
use tests::model::ModelMachine;

const BASE: u64 = 0x4100_0000;

fn started() -> (ModelMachine, Iommu) {
    let machine = ModelMachine::new(ModelConfig::default(), 1);
    let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).unwrap();
    (machine, Iommu::new(smmu).unwrap())
}

fn add(iommu: &Iommu, stream: u32, regions: &[(u64, u64, ReservedKind)]) -> Device {
    let mut info = DeviceInfo::new("a device").streams([stream]);
    for &(start, len, kind) in regions {
        info = info.reserved(ReservedRegion::new(BASE + start, len, kind).unwrap());
    }
    iommu.add_device(info, Arc::new(NoControl)).unwrap()
}

fn mapped(domain: &DomainRef) -> Vec<u64> {
    let pages = (0..8).map(|page| page * 0x1000);
    let is_mapped = |page: &u64| {
        let there = domain.translate(Iova(BASE + page));
        assert!(
            there.is_none_or(|phys| phys == PhysAddr(BASE + page)),
            "1:1 or nothing"
        );
        there.is_some()
    };
    pages.filter(is_mapped).collect()
}

#[test]
fn what_two_devices_share_stays_until_both_have_left() {
    let (_machine, iommu) = started();
    let domain = iommu.paging_domain(&PagingConfig::default()).unwrap();
    let a = add(&iommu, 1, &[(0, 0x3000, ReservedKind::Direct)]);
    let b = add(&iommu, 2, &[(0x2000, 0x3000, ReservedKind::Direct)]);
    let same_as_a = add(&iommu, 3, &[(0, 0x3000, ReservedKind::Direct)]);
    a.attach(&domain).unwrap();
    assert_eq!(mapped(&domain), [0, 0x1000, 0x2000]);
    b.attach(&domain).unwrap();
    same_as_a.attach(&domain).unwrap();
    assert_eq!(mapped(&domain), [0, 0x1000, 0x2000, 0x3000, 0x4000]);
    a.release().unwrap();
    assert_eq!(mapped(&domain), [0, 0x1000, 0x2000, 0x3000, 0x4000]);
    same_as_a.release().unwrap();
    assert_eq!(mapped(&domain), [0x2000, 0x3000, 0x4000]);
    // Attaching once more to where it is changes nothing.
    b.attach(&domain).unwrap();
    assert_eq!(mapped(&domain), [0x2000, 0x3000, 0x4000]);
    b.release().unwrap();
    assert_eq!(mapped(&domain), [0; 0]);
}

#[test]
fn a_region_in_the_gap_of_another_fills_just_that() {
    let (_machine, iommu) = started();
    let domain = iommu.paging_domain(&PagingConfig::default()).unwrap();
    let direct = ReservedKind::Direct;
    let islands = add(
        &iommu,
        1,
        &[(0x1000, 0x800, direct), (0x4800, 0x800, direct)],
    );
    let sea = add(&iommu, 2, &[(0, 0x7000, direct)]);
    islands.attach(&domain).unwrap();
    assert_eq!(
        mapped(&domain),
        [0x1000, 0x4000],
        "whole pages, start down and end up"
    );
    sea.attach(&domain).unwrap();
    assert_eq!(
        mapped(&domain),
        [0, 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000]
    );
    sea.release().unwrap();
    assert_eq!(mapped(&domain), [0x1000, 0x4000]);
    islands.release().unwrap();
    assert_eq!(mapped(&domain), [0; 0]);
}

#[test]
fn what_is_pinned_can_be_neither_unmapped_nor_taken() {
    let (machine, iommu) = started();
    let device = add(&iommu, 1, &[(0x1000, 0x2000, ReservedKind::Direct)]);
    let domain = device.domain().unwrap();
    let unmap = domain.unmap(Iova(BASE + 0x1000), 0x1000).unwrap_err();
    assert_eq!(unmap.kind(), ErrorKind::NotPermitted);
    let lazily = domain.unmap_lazily(Iova(BASE + 0x1000), 0x1000);
    assert_eq!(lazily.unwrap_err().kind(), ErrorKind::NotPermitted);
    assert_eq!(mapped(&domain), [0x1000, 0x2000]);
    for (start, len) in [(0x1000, 0x1000), (0, 0x2000), (0x2000, 0x2000)] {
        let block = iommu_core::DmaBlock::new(&machine.memory(), len, 4096, "a buffer").unwrap();
        let map = domain
            .map_block(Iova(BASE + start), block, Prot::READ)
            .unwrap_err();
        assert_eq!(map.error.kind(), ErrorKind::AlreadyExists);
    }
    let other = iommu.paging_domain(&PagingConfig::default()).unwrap();
    device.attach(&other).unwrap();
    assert_eq!(mapped(&domain), [0; 0], "it went with the device");
    let block = iommu_core::DmaBlock::new(&machine.memory(), 4096, 4096, "a buffer").unwrap();
    domain
        .map_block(Iova(BASE + 0x1000), block, Prot::READ)
        .unwrap()
        .unmap()
        .unwrap();
}

#[test]
fn relaxable_regions_are_mapped_at_home_only() {
    let (_machine, iommu) = started();
    let relaxable = ReservedKind::DirectRelaxable;
    let device = add(
        &iommu,
        1,
        &[
            (0, 0x1000, relaxable),
            (0x3000, 0x1000, ReservedKind::Direct),
        ],
    );
    let home = device.domain().unwrap();
    assert_eq!(mapped(&home), [0, 0x3000]);
    let other = iommu.paging_domain(&PagingConfig::default()).unwrap();
    device.attach(&other).unwrap();
    assert_eq!((mapped(&home), mapped(&other)), (vec![], vec![0x3000]));
    device.detach().unwrap();
    assert_eq!((mapped(&home), mapped(&other)), (vec![0, 0x3000], vec![]));
    device.release().unwrap();
    assert_eq!(mapped(&home), [0; 0]);
}

#[test]
fn a_domain_that_may_still_be_in_use_keeps_what_firmware_pinned() {
    let (machine, iommu) = started();
    let device = add(&iommu, 1, &[(0, 0x2000, ReservedKind::Direct)]);
    let paging = || iommu.paging_domain(&PagingConfig::default()).unwrap();
    let (first, second) = (paging(), paging());
    machine.model().freeze_commands(true);
    // Thrice in doubt: about home, about the first and about the second domain.
    for domain in [&first, &first, &second] {
        device.attach(domain).unwrap_err();
    }
    for domain in [&device.domain().unwrap(), &first, &second] {
        assert_eq!(mapped(domain), [0, 0x1000]);
    }
    machine.model().freeze_commands(false);
    device.detach().unwrap();
    assert_eq!(
        mapped(&second),
        [0; 0],
        "the hardware is known to have left it"
    );
    assert_eq!(mapped(&first), [0, 0x1000], "never freed, never changed");
}
