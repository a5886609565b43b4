//! Ownership (contract 3.8): drivers share the default domain, or one owner holds the group.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::Arc;

use iommu_core::{
    Culprit, DefaultDomain, Device, DeviceInfo, Domain, ErrorKind, Iommu, NoControl, Pasid,
    ReservedKind, ReservedRegion, Rest, Slot,
};
use tests::contracts::Backend;

fn info(name: &str, stream: u32) -> DeviceInfo {
    DeviceInfo::new(name).streams([stream]).group("g")
}

fn pinned(name: &str, stream: u32) -> DeviceInfo {
    let region = ReservedRegion::new(0x8000_0000, 0x1000, ReservedKind::Direct).unwrap();
    info(name, stream).reserved(region)
}

fn add(iommu: &Iommu, name: &str, stream: u32) -> Device {
    iommu
        .add_device(info(name, stream), Arc::new(NoControl))
        .unwrap()
}

fn pasid(value: u32) -> Pasid {
    Pasid::new(value).unwrap()
}

fn kind<T: std::fmt::Debug>(result: iommu_core::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn drivers_share_the_default_domain_and_then_nobody_claims_it() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Paging);
    let device = add(&iommu, "a", 1);
    let group = device.group();
    let other = backend.domain("X");
    let one = group.share().unwrap();
    assert_eq!(kind(group.claim()), ErrorKind::NotPermitted);
    group.attach(&other).unwrap();
    assert_eq!(
        kind(group.share()),
        ErrorKind::Busy,
        "not on the default domain"
    );
    group.detach().unwrap();
    let two = group.share().unwrap();
    backend.log.take();
    assert_eq!(kind(group.attach(&other)), ErrorKind::Busy);
    assert_eq!(kind(group.claim()), ErrorKind::NotPermitted);
    assert_eq!(backend.log.take(), [""; 0]);
    drop(one);
    assert_eq!(kind(group.claim()), ErrorKind::NotPermitted);
    group.attach(&other).unwrap();
    group.detach().unwrap();
    drop(two);
    let claim = group.claim().unwrap();
    assert_eq!(kind(group.share()), ErrorKind::NotPermitted);
    claim.release().unwrap();
    drop(group.share().unwrap());
}

#[test]
fn there_is_nothing_to_share_without_a_default_domain() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let device = add(&iommu, "a", 1);
    assert_eq!(kind(device.group().share()), ErrorKind::WouldBlock);
}

#[test]
fn a_group_is_claimed_once_from_its_default_domain_and_without_pasids() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Paging);
    let device = add(&iommu, "a", 1);
    let group = device.group();
    let other = backend.domain("X");
    group.attach_pasid(pasid(1), &other).unwrap();
    backend.log.take();
    assert_eq!(kind(group.claim()), ErrorKind::Busy, "it has a PASID");
    assert_eq!(kind(group.share()), ErrorKind::Busy);
    group.detach_pasid(pasid(1)).unwrap();
    group.attach(&other).unwrap();
    backend.log.take();
    assert_eq!(kind(group.claim()), ErrorKind::Busy, "not on its default");
    assert_eq!(backend.log.take(), [""; 0]);
    group.detach().unwrap();
    let claim = group.claim().unwrap();
    assert_eq!(kind(group.claim()), ErrorKind::NotPermitted);
    drop(claim);
    drop(group.claim().unwrap());
}

#[test]
fn a_pasid_that_may_still_be_in_use_keeps_the_group_from_being_claimed_or_shared() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Paging);
    let device = add(&iommu, "a", 1);
    let group = device.group();
    let process = backend.domain("P");
    group.attach_pasid(pasid(1), &process).unwrap();
    backend.lose(|_, slot| slot != Slot::Rid);
    group.detach_pasid(pasid(1)).unwrap_err();
    backend.obey();
    assert!(
        Arc::strong_count(&process) > 1,
        "the device may still be reaching it"
    );
    assert_eq!(kind(group.share()), ErrorKind::Busy);
    assert_eq!(kind(group.claim()), ErrorKind::Busy);
    group.detach_pasid(pasid(1)).expect("another attempt");
    assert_eq!(Arc::strong_count(&process), 1);
    drop(group.claim().unwrap());
}

#[test]
fn a_claim_blocks_all_devices_and_they_move_for_the_owner_alone() {
    let backend = Backend::with_pasids(&["a", "b"]);
    let iommu = backend.core(DefaultDomain::Paging);
    let devices = [add(&iommu, "a", 1), add(&iommu, "b", 2)];
    let group = devices[0].group();
    let home = group.domain().unwrap();
    backend.log.take();
    let claim = group.claim().unwrap();
    assert_eq!(
        backend.log.take_of(&["commit"]),
        ["commit rid a: paging -> blocked, b: paging -> blocked"]
    );
    let guest = backend.domain("guest");
    claim.attach(&guest).unwrap();
    claim.attach_pasid(pasid(5), &guest).unwrap();
    backend.log.take();
    let not_permitted = [
        kind(group.attach(&home)),
        kind(group.attach(&iommu.blocked_domain())),
        kind(group.detach()),
        kind(group.attach_pasid(pasid(6), &home)),
        kind(group.attach_pasid(pasid(5), &home)),
        kind(group.share()),
        kind(group.claim()),
    ];
    assert_eq!(not_permitted, [ErrorKind::NotPermitted; 7]);
    assert_eq!(backend.log.take(), [""; 0]);
    assert!(devices.iter().all(|device| device.attached().is(&guest)));
    claim.detach().unwrap();
    assert!(
        devices
            .iter()
            .all(|d| d.attached().is(&iommu.blocked_domain()))
    );
    claim.detach_pasid(pasid(5)).unwrap();
    drop(claim);
    assert!(devices.iter().all(|device| device.attached().is(&home)));
}

#[test]
fn nobody_else_ends_a_pasid_of_the_owner() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Paging);
    let device = add(&iommu, "a", 1);
    let group = device.group();
    let claim = group.claim().unwrap();
    let guest = backend.domain("guest");
    claim.attach_pasid(pasid(5), &guest).unwrap();
    backend.log.take();
    assert_eq!(kind(group.detach_pasid(pasid(5))), ErrorKind::NotPermitted);
    assert_eq!(backend.log.take(), [""; 0]);
    assert!(Arc::ptr_eq(&group.pasid_domain(pasid(5)).unwrap(), &guest));
    claim.release().unwrap();
}

#[test]
fn the_end_of_a_claim_detaches_its_pasids_and_goes_home() {
    for dropped in [false, true] {
        let backend = Backend::with_pasids(&["a"]);
        let iommu = backend.core(DefaultDomain::Paging);
        let device = add(&iommu, "a", 1);
        let group = device.group();
        let home = group.domain().unwrap();
        let claim = group.claim().unwrap();
        let guest = backend.domain("guest");
        claim.attach(&guest).unwrap();
        claim.attach_pasid(pasid(5), &guest).unwrap();
        backend.log.take();
        match dropped {
            true => drop(claim),
            false => claim.release().unwrap(),
        }
        assert_eq!(
            backend.log.take_of(&["commit"]),
            [
                "commit pasid 5 a: guest -> blocked",
                "commit rid a: guest -> paging"
            ]
        );
        assert!(device.attached().is(&home));
        assert_eq!(Arc::strong_count(&guest), 1);
        assert!(group.pasid_domain(pasid(5)).is_none());
        drop(group.share().unwrap());
    }
}

#[test]
fn the_end_of_a_claim_parks_where_there_is_no_default_domain() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let device = add(&iommu, "a", 1);
    let claim = device.group().claim().unwrap();
    let guest = backend.domain("guest");
    claim.attach(&guest).unwrap();
    backend.log.take();
    claim.release().unwrap();
    assert_eq!(
        backend.log.take_of(&["commit"]),
        ["commit rid a: guest -> blocked"]
    );
    assert!(device.domain().is_none());
    drop(device.group().claim().unwrap());
}

#[test]
fn a_claim_that_has_ended_leaves_no_device_with_what_the_owner_gave_it() {
    for dropped in [false, true] {
        let backend = Backend::default();
        let iommu = backend.core(DefaultDomain::Paging);
        let devices = [add(&iommu, "a", 1), add(&iommu, "b", 2)];
        let claim = devices[0].group().claim().unwrap();
        let guest = backend.domain("guest");
        claim.attach(&guest).unwrap();
        // One of them cannot go home: memory is exhausted, say. It can always be blocked.
        let blocked = backend.blocked.clone();
        backend.refuse(move |member, _| {
            let to = member.pending().unwrap();
            member.name() == "b" && !Arc::ptr_eq(to, &blocked)
        });
        match dropped {
            true => drop(claim),
            false => assert_eq!(kind(claim.release()), ErrorKind::NoSpace),
        }
        for device in &devices {
            let on = device.attached();
            assert!(!on.is(&guest), "{} is still the owner's", device.name());
        }
        assert_eq!(Arc::strong_count(&guest), 1);
        assert!(devices[1].attached().is(&iommu.blocked_domain()));
        backend.obey();
    }
}

#[test]
fn a_group_with_a_pinned_device_is_not_claimed_and_nothing_is_touched() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Paging);
    let a = add(&iommu, "a", 1);
    let gpu = pinned("gpu", 2);
    let gpu = iommu.add_device(gpu, Arc::new(NoControl)).unwrap();
    let group = a.group();
    let home = group.domain().unwrap();
    backend.log.take();
    let refused = group.claim().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(matches!(refused.culprit(), Culprit::Pinned { device, .. } if &**device == "gpu"));
    assert_eq!(backend.log.take(), [""; 0]);
    assert!(a.attached().is(&home) && gpu.attached().is(&home));
    // The owner is who it was: nobody.
    drop(group.share().unwrap());
    group.attach(&backend.domain("X")).unwrap();
    group.detach().unwrap();
    assert_eq!(gpu.release().unwrap(), Rest::Identity);
    drop(group.claim().unwrap());
}

#[test]
fn a_pinned_device_does_not_join_a_claimed_group() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Paging);
    let a = add(&iommu, "a", 1);
    let claim = a.group().claim().unwrap();
    let guest = backend.domain("guest");
    for on in [iommu.blocked_domain(), guest.clone()] {
        claim.attach(&on).unwrap();
        backend.log.take();
        let refused = iommu
            .add_device(pinned("gpu", 2), Arc::new(NoControl))
            .unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
        let touched = ["prepare", "commit", "quarantine", "faults"];
        assert_eq!(backend.log.take_of(&touched), [""; 0]);
    }
    // Its stream is free; in a group of its own it may live.
    let alone = DeviceInfo::new("gpu").streams([2_u32]);
    let alone = iommu.add_device(alone, Arc::new(NoControl)).unwrap();
    alone.release().unwrap();
    // A device that is not pinned joins, and is where the owner's are.
    let b = add(&iommu, "b", 3);
    assert!(b.attached().is(&guest));
}

#[test]
fn a_claim_that_the_hardware_does_not_confirm_is_none() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Paging);
    let devices = [add(&iommu, "a", 1), add(&iommu, "b", 2)];
    let group = devices[0].group();
    let home = group.domain().unwrap();
    backend.lose(|member, _| member.name() == "b");
    assert_eq!(kind(group.claim()), ErrorKind::IommuTimedOut);
    backend.obey();
    group.detach().expect("nobody owns it");
    assert!(devices.iter().all(|device| device.attached().is(&home)));
    drop(group.claim().unwrap());
}

#[test]
fn a_newcomer_to_a_claimed_group_is_the_owners_and_gets_its_pasids() {
    let backend = Backend::with_pasids(&["a", "b"]);
    let iommu = backend.core(DefaultDomain::Paging);
    let a = add(&iommu, "a", 1);
    let claim = a.group().claim().unwrap();
    let guest = backend.domain("guest");
    claim.attach(&guest).unwrap();
    claim.attach_pasid(pasid(3), &guest).unwrap();
    backend.log.take();
    let b = add(&iommu, "b", 2);
    assert_eq!(
        backend.log.take_of(&["commit"]),
        [
            "commit rid b: blocked -> guest",
            "commit pasid 3 b: nothing -> guest"
        ],
        "it was never on the default domain"
    );
    drop((b, claim));
}

#[test]
fn a_claim_tells_whether_messages_are_kept_apart() {
    for isolates_msis in [false, true] {
        let backend = Backend::default().and_msis_isolated(isolates_msis);
        let iommu = backend.core(DefaultDomain::Parked);
        let device = add(&iommu, "a", 1);
        let claim = device.group().claim().unwrap();
        assert_eq!(claim.isolates_msis(), isolates_msis);
    }
}

#[test]
fn blocked_domains_of_others_do_not_pass_for_the_group_s_own() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Identity);
    let device = iommu.add_device(pinned("gpu", 1), Arc::new(NoControl));
    let device = device.unwrap();
    let other = Domain::blocked();
    assert_eq!(kind(device.attach(&other)), ErrorKind::InvalidArgument);
    assert_eq!(kind(device.group().claim()), ErrorKind::InvalidArgument);
}
