//! Quarantine (contract 3.9): aborting entries, caches off, every domain involved kept alive.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::Arc;

use iommu_core::{
    Attached, DefaultDomain, Device, DeviceInfo, DomainRef, Iommu, Pasid, ReservedKind,
    ReservedRegion, Rest, Slot,
};
use tests::contracts::{Backend, Control};

fn pasid(value: u32) -> Pasid {
    Pasid::new(value).unwrap()
}

fn add(backend: &Backend, iommu: &Iommu, name: &'static str, stream: u32) -> Device {
    let info = DeviceInfo::new(name).streams([stream]).group("g");
    let control = Control::new(name, &backend.log);
    iommu.add_device(info, control).unwrap()
}

fn quarantined(device: &Device) -> (Option<DomainRef>, Option<DomainRef>) {
    match device.attached() {
        Attached::Quarantined { old, new } => (old, new),
        other => panic!("{other:?}"),
    }
}

fn is(on: &Option<DomainRef>, domain: &DomainRef) -> bool {
    on.as_ref().is_some_and(|on| Arc::ptr_eq(on, domain))
}

#[test]
fn all_devices_read_aborting_entries_and_those_that_answer_switch_their_caches_off() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&backend, &iommu, "a", 1);
    let info = DeviceInfo::new("b").streams([2_u32]).group("g");
    let gone = Control::gone("b", &backend.log);
    let b = iommu.add_device(info, gone).unwrap();
    let domain = backend.domain("R");
    a.group().attach(&domain).unwrap();
    backend.log.take();
    a.group().quarantine();
    assert_eq!(backend.log.take(), ["quarantine a, b", "ats off a"]);
    for device in [&a, &b] {
        let (old, new) = quarantined(device);
        assert!(is(&old, &domain) && new.is_none());
    }
    // A second time changes nothing that is known.
    a.group().quarantine();
    assert!(is(&quarantined(&a).0, &domain));
}

#[test]
fn the_domains_stay_alive_until_an_attach_lands() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&backend, &iommu, "a", 1);
    let (old, new) = (backend.domain("R"), backend.domain("S"));
    a.attach(&old).unwrap();
    backend.lose(|_, _| true);
    a.attach(&new).unwrap_err();
    a.group().quarantine();
    let (was, wanted) = quarantined(&a);
    assert!(is(&was, &old) && is(&wanted, &new));
    drop((was, wanted));
    a.attach(&backend.domain("T")).unwrap_err();
    assert!(Arc::strong_count(&old) > 1 && Arc::strong_count(&new) > 1);
    backend.obey();
    let last = backend.domain("U");
    a.attach(&last).unwrap();
    assert!(a.attached().is(&last));
    assert_eq!(Arc::strong_count(&old), 1, "it is known to have left R");
    assert_eq!(a.release().unwrap(), Rest::Blocked);
}

#[test]
fn a_quarantined_device_is_released_when_the_park_lands() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&backend, &iommu, "a", 1);
    let domain = backend.domain("R");
    a.attach(&domain).unwrap();
    a.group().quarantine();
    backend.log.take();
    assert_eq!(a.release().unwrap(), Rest::Blocked);
    assert_eq!(
        backend.log.take_of(&["commit", "release"]),
        [
            "commit rid a: quarantined -> blocked",
            "release a on blocked with 0"
        ]
    );
    assert_eq!(Arc::strong_count(&domain), 1);
}

#[test]
fn pasids_are_quarantined_too_and_can_be_brought_back() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&backend, &iommu, "a", 1);
    let (process, other) = (backend.domain("P"), backend.domain("Q"));
    a.group().attach_pasid(pasid(1), &process).unwrap();
    a.group().attach_pasid(pasid(2), &other).unwrap();
    a.group().quarantine();
    a.detach().unwrap();
    assert!(a.attached().is(&iommu.blocked_domain()));
    assert!(Arc::strong_count(&process) > 1);
    backend.log.take();
    a.group().attach_pasid(pasid(2), &process).unwrap();
    assert_eq!(Arc::strong_count(&other), 1);
    a.group()
        .attach_pasid(pasid(1), &process)
        .expect("its traffic is refused: this is no repetition");
    assert_eq!(
        backend.log.take_of(&["commit"]),
        [
            "commit pasid 2 a: quarantined -> P",
            "commit pasid 1 a: quarantined -> P"
        ]
    );
}

#[test]
fn a_quarantined_pasid_can_be_detached() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&backend, &iommu, "a", 1);
    let process = backend.domain("P");
    a.group().attach_pasid(pasid(1), &process).unwrap();
    a.group().quarantine();
    backend.log.take();
    a.group().detach_pasid(pasid(1)).unwrap();
    assert_eq!(
        backend.log.take_of(&["commit"]),
        ["commit pasid 1 a: quarantined -> blocked"]
    );
    assert_eq!(Arc::strong_count(&process), 1);
}

#[test]
fn pinned_devices_are_quarantined_like_others() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Paging);
    let region = ReservedRegion::new(0x8000_0000, 0x1000, ReservedKind::Direct).unwrap();
    let info = DeviceInfo::new("gpu").streams([1_u32]).reserved(region);
    let gpu = iommu.add_device(info, Control::new("gpu", &backend.log));
    let gpu = gpu.unwrap();
    backend.log.take();
    gpu.group().quarantine();
    assert_eq!(backend.log.take(), ["quarantine gpu", "ats off gpu"]);
    gpu.detach().unwrap();
    assert_eq!(gpu.release().unwrap(), Rest::Identity);
}

#[test]
fn a_deferred_device_in_quarantine_is_deferred_no_more() {
    let backend = Backend::deferred();
    let iommu = backend.core(DefaultDomain::Paging);
    let a = add(&backend, &iommu, "a", 1);
    a.group().quarantine();
    let (old, new) = quarantined(&a);
    assert!(old.is_none() && new.is_none());
    backend.log.take();
    a.detach().unwrap();
    assert_eq!(
        backend.log.take_of(&["commit"]),
        ["commit rid a: quarantined -> paging"]
    );
}

#[test]
fn a_release_that_fails_quarantines_and_keeps_the_domains_of_every_slot() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&backend, &iommu, "a", 1);
    let (domain, process) = (backend.domain("R"), backend.domain("P"));
    a.attach(&domain).unwrap();
    a.group().attach_pasid(pasid(1), &process).unwrap();
    backend.lose(|_, _| true);
    backend.log.take();
    a.release().unwrap_err();
    let log = backend.log.take_of(&["release", "quarantine", "ats"]);
    assert_eq!(log, ["quarantine a", "ats off a"]);
    assert!(Arc::strong_count(&domain) > 1 && Arc::strong_count(&process) > 1);
}

#[test]
fn a_failed_release_takes_nothing_that_its_siblings_are_on() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let (a, b) = (add(&backend, &iommu, "a", 1), add(&backend, &iommu, "b", 2));
    let domain = backend.domain("R");
    a.group().attach(&domain).unwrap();
    backend.lose(|member, slot| member.name() == "a" && slot == Slot::Rid);
    a.release().unwrap_err();
    let log = backend.log.take_of(&["quarantine"]);
    assert_eq!(log, ["quarantine a"]);
    assert!(b.attached().is(&domain));
}
