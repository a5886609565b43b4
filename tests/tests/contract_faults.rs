//! Page faults are the domain's business (contract 3.7): they are on while a domain that handles
//! them is attached, and off otherwise.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::Arc;

use iommu_core::{
    DefaultDomain, Device, DeviceInfo, DomainRef, ErrorKind, Group, Iommu, NoControl, Pasid, Slot,
};
use tests::contracts::{Backend, config, handler};

fn pasid(value: u32) -> Pasid {
    Pasid::new(value).unwrap()
}

fn add(iommu: &Iommu, name: &str, stream: u32) -> Device {
    let info = DeviceInfo::new(name).streams([stream]).group("g");
    iommu.add_device(info, Arc::new(NoControl)).unwrap()
}

/// A domain that handles page faults.
fn faulting(backend: &Backend, group: &Group, name: &str) -> DomainRef {
    let paging = config(DefaultDomain::Parked).paging;
    let domain = group.paging_domain_with_faults(&paging, handler(drop));
    let domain = domain.unwrap();
    backend.name(&domain, name);
    domain
}

/// The switching of faults among all that happened, and how each release found the count.
fn switched(backend: &Backend) -> Vec<String> {
    backend.log.take_of(&["faults", "release"])
}

#[test]
fn the_first_attachment_turns_them_on_and_the_last_turns_them_off() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, "a", 1);
    let group = a.group().clone();
    let handles = faulting(&backend, &group, "H");
    let plain = backend.domain("P");
    a.attach(&plain).unwrap();
    group.attach_pasid(pasid(1), &plain).unwrap();
    assert_eq!(switched(&backend), [""; 0], "nobody handles faults");
    a.attach(&handles).unwrap();
    group.attach_pasid(pasid(2), &handles).unwrap();
    group.attach_pasid(pasid(1), &handles).unwrap();
    assert_eq!(switched(&backend), ["faults on a"], "once");
    a.attach(&iommu.identity_domain().unwrap()).unwrap();
    a.attach(&iommu.blocked_domain()).unwrap();
    group.attach_pasid(pasid(1), &plain).unwrap();
    assert_eq!(switched(&backend), [""; 0], "PASID 2 still handles them");
    group.detach_pasid(pasid(2)).unwrap();
    assert_eq!(switched(&backend), ["faults off a"]);
}

#[test]
fn a_park_ends_at_zero_where_there_was_more_before() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, "a", 1);
    let handles = faulting(&backend, a.group(), "H");
    a.attach(&handles).unwrap();
    a.group().attach_pasid(pasid(1), &handles).unwrap();
    assert_eq!(switched(&backend), ["faults on a"]);
    a.release().unwrap();
    assert_eq!(
        switched(&backend),
        ["faults off a", "release a on blocked with 0"]
    );
    assert_eq!(Arc::strong_count(&handles), 1);
}

#[test]
fn they_go_off_only_after_the_device_has_left_the_domain() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, "a", 1);
    let handles = faulting(&backend, a.group(), "H");
    a.attach(&handles).unwrap();
    a.attach(&iommu.identity_domain().unwrap()).unwrap();
    assert_eq!(
        backend.log.take_of(&["commit", "faults"]),
        [
            "faults on a",
            "commit rid a: blocked -> H",
            "commit rid a: H -> identity",
            "faults off a"
        ]
    );
}

#[test]
fn a_change_between_domains_that_handle_them_leaves_them_on() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, "a", 1);
    let (one, two) = (
        faulting(&backend, a.group(), "H"),
        faulting(&backend, a.group(), "I"),
    );
    a.attach(&one).unwrap();
    a.group().attach_pasid(pasid(1), &one).unwrap();
    switched(&backend);
    for domain in [&two, &one] {
        a.attach(domain).unwrap();
        a.attach(domain).unwrap();
        a.group().attach_pasid(pasid(1), domain).unwrap();
    }
    assert_eq!(
        switched(&backend),
        [""; 0],
        "requests between would be lost"
    );
    a.release().unwrap();
    assert_eq!(
        switched(&backend),
        ["faults off a", "release a on blocked with 0"]
    );
}

#[test]
fn a_device_that_cannot_have_them_leaves_its_whole_group_where_it_was() {
    for unable in ["a", "b", "c"] {
        let backend = Backend::default();
        let iommu = backend.core(DefaultDomain::Parked);
        let devices = [
            add(&iommu, "a", 1),
            add(&iommu, "b", 2),
            add(&iommu, "c", 3),
        ];
        let group = devices[0].group().clone();
        let old = backend.domain("old");
        group.attach(&old).unwrap();
        let handles = faulting(&backend, &group, "H");
        backend.refuse_faults(move |member, _| member.name() == unable);
        backend.log.take();
        let refused = group.attach(&handles).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        let log = backend.log.take();
        assert!(!log.iter().any(|entry| entry.starts_with("commit")));
        assert!(devices.iter().all(|device| device.attached().is(&old)));
        assert_eq!(Arc::strong_count(&handles), 1);
        let count = |what: &str| log.iter().filter(|entry| entry.starts_with(what)).count();
        // Turned on for those before it, asked of it, and turned off again for those before it.
        assert_eq!(count("faults on"), count("faults off") + 1);
        assert_eq!(count("prepare"), count("cancel"));
        for device in devices {
            device.release().unwrap();
        }
        let ends = switched(&backend);
        assert!(ends.iter().all(|end| end.ends_with("on blocked with 0")));
    }
}

#[test]
fn a_cancelled_attach_drops_what_it_had_counted() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let (a, b) = (add(&iommu, "a", 1), add(&iommu, "b", 2));
    let handles = faulting(&backend, a.group(), "H");
    backend.refuse(|member, _| member.name() == "b");
    a.group().attach(&handles).unwrap_err();
    let mut log = switched(&backend);
    log.sort();
    assert_eq!(
        log,
        ["faults off a", "faults off b", "faults on a", "faults on b"]
    );
    backend.obey();
    a.release().unwrap();
    b.release().unwrap();
    assert_eq!(
        switched(&backend),
        ["release a on blocked with 0", "release b on blocked with 0"]
    );
}

#[test]
fn identity_and_blocked_end_at_zero_and_keep_them_while_a_pasid_needs_them() {
    for blocked in [false, true] {
        let backend = Backend::with_pasids(&["a"]);
        let iommu = backend.core(DefaultDomain::Parked);
        let a = add(&iommu, "a", 1);
        let fixed = match blocked {
            true => iommu.blocked_domain(),
            false => iommu.identity_domain().unwrap(),
        };
        let handles = faulting(&backend, a.group(), "H");
        a.attach(&handles).unwrap();
        a.attach(&fixed).unwrap();
        assert_eq!(switched(&backend), ["faults on a", "faults off a"]);
        a.group().attach_pasid(pasid(1), &handles).unwrap();
        a.attach(&handles).unwrap();
        a.attach(&fixed).unwrap();
        assert_eq!(switched(&backend), ["faults on a"]);
        a.group().detach_pasid(pasid(1)).unwrap();
        assert_eq!(switched(&backend), ["faults off a"]);
    }
}

#[test]
fn a_device_in_doubt_keeps_them_until_it_has_left_for_certain() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, "a", 1);
    let handles = faulting(&backend, a.group(), "H");
    a.attach(&handles).unwrap();
    switched(&backend);
    backend.lose(|_, slot| slot == Slot::Rid);
    a.attach(&iommu.identity_domain().unwrap()).unwrap_err();
    assert_eq!(switched(&backend), [""; 0], "it may still be asking");
    backend.obey();
    a.attach(&iommu.identity_domain().unwrap()).unwrap();
    assert_eq!(switched(&backend), ["faults off a"]);
    // The other way round: it may be on a domain that handles faults.
    backend.lose(|_, slot| slot == Slot::Rid);
    a.attach(&handles).unwrap_err();
    assert_eq!(switched(&backend), ["faults on a"]);
    backend.obey();
    a.attach(&handles).unwrap();
    assert_eq!(switched(&backend), [""; 0]);
    a.release().unwrap();
    assert_eq!(
        switched(&backend),
        ["faults off a", "release a on blocked with 0"]
    );
}

#[test]
fn a_newcomer_gets_them_with_the_domain_of_its_group() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, "a", 1);
    let handles = faulting(&backend, a.group(), "H");
    a.group().attach(&handles).unwrap();
    switched(&backend);
    let b = add(&iommu, "b", 2);
    assert_eq!(switched(&backend), ["faults on b"]);
    b.release().unwrap();
    assert_eq!(
        switched(&backend),
        ["faults off b", "release b on blocked with 0"]
    );
    a.release().unwrap();
}
