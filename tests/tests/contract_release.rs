//! Release (contracts 3.1, 3.2, 3.9): PASIDs go first, the park is checked, others are untouched.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use iommu_core::{Attached, DefaultDomain, DeviceInfo, ErrorKind, Iommu, Pasid, Rest, Slot};
use tests::contracts::{Backend, Control};

fn pasid(value: u32) -> Pasid {
    Pasid::new(value).unwrap()
}

fn add(backend: &Backend, iommu: &Iommu, name: &'static str, stream: u32) -> iommu_core::Device {
    let info = DeviceInfo::new(name).streams([stream]).group("g");
    let device = iommu.add_device(info, Control::new(name, &backend.log));
    device.unwrap()
}

#[test]
fn pasids_are_detached_before_the_device_is_parked_and_before_the_hook() {
    let backend = Backend::with_pasids(&["nic"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let nic = add(&backend, &iommu, "nic", 1);
    let (rid, one, two) = (
        backend.domain("R"),
        backend.domain("A"),
        backend.domain("B"),
    );
    nic.attach(&rid).unwrap();
    nic.group().attach_pasid(pasid(1), &one).unwrap();
    nic.group().attach_pasid(pasid(2), &two).unwrap();
    backend.log.take();
    assert_eq!(nic.release().unwrap(), Rest::Blocked);
    let log = backend
        .log
        .take_of(&["commit", "release", "ats", "quarantine"]);
    let (pasids, rest) = log.split_at(2);
    let mut pasids = pasids.to_vec();
    pasids.sort();
    assert_eq!(
        pasids,
        [
            "commit pasid 1 nic: A -> blocked",
            "commit pasid 2 nic: B -> blocked"
        ]
    );
    assert_eq!(
        rest,
        [
            "commit rid nic: R -> blocked",
            "release nic on blocked with 0"
        ]
    );
    for domain in [rid, one, two] {
        assert_eq!(
            std::sync::Arc::strong_count(&domain),
            1,
            "nothing of the device is left"
        );
    }
}

#[test]
fn a_pasid_that_cannot_be_taken_away_does_not_keep_the_rest_from_being_parked() {
    let backend = Backend::with_pasids(&["nic"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let nic = add(&backend, &iommu, "nic", 1);
    let (rid, one, two) = (
        backend.domain("R"),
        backend.domain("A"),
        backend.domain("B"),
    );
    nic.attach(&rid).unwrap();
    nic.group().attach_pasid(pasid(1), &one).unwrap();
    nic.group().attach_pasid(pasid(2), &two).unwrap();
    backend.log.take();
    backend.lose(|_, slot| slot == Slot::Pasid(Pasid::new(2).unwrap()));
    assert_eq!(nic.release().unwrap_err().kind(), ErrorKind::IommuTimedOut);
    let log = backend
        .log
        .take_of(&["commit", "release", "ats", "quarantine"]);
    assert!(log.contains(&"commit pasid 1 nic: A -> blocked".into()));
    assert!(log.contains(&"commit rid nic: R -> blocked".into()));
    assert_eq!(log[3..], ["quarantine nic", "ats off nic"]);
    assert_eq!(
        std::sync::Arc::strong_count(&one),
        1,
        "this one was confirmed"
    );
    assert!(
        std::sync::Arc::strong_count(&two) > 1,
        "it may still be walked"
    );
    backend.obey();
    let info = DeviceInfo::new("nic").streams([1_u32]);
    let again = iommu.add_device(info, Control::new("nic", &backend.log));
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Busy);
}

#[test]
fn a_park_that_cannot_be_prepared_surfaces_too() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let nic = add(&backend, &iommu, "nic", 1);
    let domain = backend.domain("R");
    nic.attach(&domain).unwrap();
    backend.log.take();
    backend.refuse(|_, _| true);
    assert_eq!(nic.release().unwrap_err().kind(), ErrorKind::NoSpace);
    let log = backend
        .log
        .take_of(&["commit", "release", "ats", "quarantine"]);
    assert_eq!(log, ["quarantine nic", "ats off nic"]);
    assert!(
        std::sync::Arc::strong_count(&domain) > 1,
        "it may still be walked"
    );
}

#[test]
fn a_device_that_does_not_answer_is_quarantined_without_being_asked() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let info = DeviceInfo::new("nic").streams([1_u32]);
    let nic = iommu.add_device(info, Control::gone("nic", &backend.log));
    backend.lose(|_, _| true);
    assert!(nic.unwrap().release().is_err());
    let log = backend.log.take_of(&["ats", "quarantine"]);
    assert_eq!(log, ["quarantine nic"]);
}

#[test]
fn dropping_a_device_parks_it_as_a_release_does() {
    let backend = Backend::with_pasids(&["nic"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let nic = add(&backend, &iommu, "nic", 1);
    let (rid, one) = (backend.domain("R"), backend.domain("A"));
    nic.attach(&rid).unwrap();
    nic.group().attach_pasid(pasid(1), &one).unwrap();
    backend.log.take();
    drop(nic);
    assert_eq!(
        backend.log.take_of(&["commit", "release"]),
        [
            "commit pasid 1 nic: A -> blocked",
            "commit rid nic: R -> blocked",
            "release nic on blocked with 0"
        ]
    );
}

#[test]
fn comings_and_goings_touch_nobody_else() {
    let backend = Backend::with_pasids(&["a", "b", "c"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let (a, b) = (add(&backend, &iommu, "a", 1), add(&backend, &iommu, "b", 2));
    let domain = backend.domain("R");
    let process = backend.domain("P");
    a.group().attach(&domain).unwrap();
    a.group().attach_pasid(pasid(3), &process).unwrap();
    backend.log.take();

    let c = add(&backend, &iommu, "c", 3);
    let joined = backend.log.take_of(&["commit"]);
    assert_eq!(
        joined,
        [
            "commit rid c: blocked -> R",
            "commit pasid 3 c: nothing -> P"
        ]
    );
    a.release().unwrap();
    let left = backend.log.take_of(&["commit"]);
    assert_eq!(
        left,
        [
            "commit pasid 3 a: P -> blocked",
            "commit rid a: R -> blocked"
        ]
    );
    assert!(b.attached().is(&domain) && c.attached().is(&domain));
    assert!(std::sync::Arc::ptr_eq(
        &b.group().pasid_domain(pasid(3)).unwrap(),
        &process
    ));
    b.release().unwrap();
    c.release().unwrap();
    assert_eq!(std::sync::Arc::strong_count(&domain), 1);
    assert_eq!(std::sync::Arc::strong_count(&process), 1);
}

#[test]
fn a_sibling_that_could_not_be_released_does_not_disturb_the_others() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let (a, b) = (add(&backend, &iommu, "a", 1), add(&backend, &iommu, "b", 2));
    let domain = backend.domain("R");
    a.group().attach(&domain).unwrap();
    backend.lose(|member, _| member.name() == "a");
    assert!(a.release().is_err());
    backend.obey();
    let mut names = Vec::new();
    b.group().for_each(|name, _| names.push(name.to_owned()));
    assert_eq!(names, ["b"]);
    let other = backend.domain("S");
    b.group().attach(&other).unwrap();
    assert!(matches!(b.attached(), Attached::On(on) if std::sync::Arc::ptr_eq(&on, &other)));
    assert_eq!(b.release().unwrap(), Rest::Blocked);
    assert!(
        std::sync::Arc::strong_count(&domain) > 1,
        "a may still be on it"
    );
}

#[test]
fn a_newcomer_that_was_lost_on_the_way_in_reads_aborting_entries_and_stays_out() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&backend, &iommu, "a", 1);
    let domain = backend.domain("R");
    a.group().attach(&domain).unwrap();
    backend.lose(|member, _| member.name() == "b");
    backend.log.take();
    let info = || DeviceInfo::new("b").streams([2_u32]).group("g");
    let lost = iommu.add_device(info(), Control::new("b", &backend.log));
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::IommuTimedOut);
    backend.obey();
    let log = backend.log.take_of(&["release", "ats", "quarantine"]);
    assert_eq!(log, ["quarantine b", "ats off b"], "it is nobody's device");
    let mut names = Vec::new();
    a.group().for_each(|name, _| names.push(name.to_owned()));
    assert_eq!(names, ["a"]);
    let again = iommu.add_device(info(), Control::new("b", &backend.log));
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Busy);
    a.group().detach().unwrap();
    assert!(
        std::sync::Arc::strong_count(&domain) > 1,
        "b may still be on it"
    );
}
