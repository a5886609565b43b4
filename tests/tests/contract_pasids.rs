//! PASIDs (contracts 3.4, 3.5): one domain for each, at all devices of the group or at none.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::Arc;

use iommu_core::{
    Attached, Culprit, DefaultDomain, Device, DeviceInfo, ErrorKind, Iommu, NoControl, Pasid,
    Result, Slot,
};
use tests::contracts::Backend;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn pasid(value: u32) -> Pasid {
    Pasid::new(value).unwrap()
}

fn info(name: &str, stream: u32) -> DeviceInfo {
    DeviceInfo::new(name).streams([stream]).group("g")
}

fn add(iommu: &Iommu, name: &str, stream: u32) -> Device {
    iommu
        .add_device(info(name, stream), Arc::new(NoControl))
        .unwrap()
}

fn group_of_four(backend: &Backend) -> (Iommu, Vec<Device>) {
    let iommu = backend.core(DefaultDomain::Parked);
    let devices = NAMES
        .iter()
        .zip(1..)
        .map(|(name, at)| add(&iommu, name, at));
    let devices = devices.collect();
    (iommu, devices)
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn commits(backend: &Backend) -> Vec<String> {
    backend.log.take_of(&["commit"])
}

#[test]
fn bad_pasids_are_refused_before_any_hardware_is_asked() {
    let backend = Backend::default().and_pasids([("a", 8), ("b", 4)]);
    let iommu = backend.core(DefaultDomain::Parked);
    let (a, b) = (add(&iommu, "a", 1), add(&iommu, "b", 2));
    let (group, domain) = (a.group(), backend.domain("P"));
    for bad in [0, 5, 8, 9, 0xf_ffff] {
        let refused = group.attach_pasid(pasid(bad), &domain).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{bad}");
        assert_eq!(*refused.culprit(), Culprit::Pasid(pasid(bad)));
    }
    assert_eq!(backend.log.take(), [""; 0]);
    group.attach_pasid(pasid(4), &domain).unwrap();
    b.release().unwrap();
    a.group().attach_pasid(pasid(8), &domain).unwrap();
}

#[test]
fn a_group_without_pasids_is_told_so() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, "a", 1);
    let refused = a.group().attach_pasid(pasid(1), &backend.domain("P"));
    assert_eq!(kind(refused), ErrorKind::Unsupported);
    assert_eq!(backend.log.take(), [""; 0]);
}

#[test]
fn devices_without_pasids_are_passed_over() {
    let backend = Backend::with_pasids(&["a", "c"]);
    let (_iommu, devices) = group_of_four(&backend);
    let group = devices[0].group();
    let domain = backend.domain("P");
    group.attach_pasid(pasid(1), &domain).unwrap();
    assert_eq!(
        commits(&backend),
        ["commit pasid 1 a: nothing -> P, c: nothing -> P"]
    );
    group.detach_pasid(pasid(1)).unwrap();
    assert_eq!(
        commits(&backend),
        ["commit pasid 1 a: P -> blocked, c: P -> blocked"]
    );
}

#[test]
fn the_same_domain_twice_exists_already_and_another_replaces_it() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, "a", 1);
    let (one, two) = (backend.domain("P"), backend.domain("Q"));
    a.group().attach_pasid(pasid(1), &one).unwrap();
    commits(&backend);
    let twice = a.group().attach_pasid(pasid(1), &one);
    assert_eq!(kind(twice), ErrorKind::AlreadyExists);
    assert_eq!(backend.log.take(), [""; 0]);
    a.group().attach_pasid(pasid(1), &two).unwrap();
    assert_eq!(commits(&backend), ["commit pasid 1 a: P -> Q"]);
    assert_eq!(Arc::strong_count(&one), 1);
    // Another PASID may be on the same domain.
    a.group().attach_pasid(pasid(2), &two).unwrap();
    assert!(Arc::ptr_eq(
        &a.group().pasid_domain(pasid(1)).unwrap(),
        &two
    ));
}

#[test]
fn whoever_cannot_be_prepared_leaves_the_pasid_of_all_where_it_was() {
    for replaced in [false, true] {
        for (k, fails) in NAMES.into_iter().enumerate() {
            let backend = Backend::with_pasids(&NAMES);
            let (_iommu, devices) = group_of_four(&backend);
            let group = devices[0].group();
            let (old, new) = (backend.domain("P"), backend.domain("Q"));
            if replaced {
                group.attach_pasid(pasid(1), &old).unwrap();
            }
            backend.refuse(move |member, _| member.name() == fails);
            backend.log.take();
            assert_eq!(kind(group.attach_pasid(pasid(1), &new)), ErrorKind::NoSpace);
            let log = backend.log.take();
            let cancelled: Vec<_> = log
                .iter()
                .filter_map(|entry| entry.strip_prefix("cancel "))
                .collect();
            let expected: Vec<_> = NAMES[..k]
                .iter()
                .map(|name| format!("{name} pasid 1"))
                .collect();
            assert_eq!(cancelled, expected);
            assert!(!log.iter().any(|entry| entry.starts_with("commit")));
            let on = group.pasid_domain(pasid(1));
            assert_eq!(on.is_some(), replaced, "published after success only");
            assert!(on.is_none_or(|on| Arc::ptr_eq(&on, &old)));
            assert_eq!(Arc::strong_count(&new), 1);
            // What they are on shows in the next move.
            backend.obey();
            group.attach_pasid(pasid(1), &new).unwrap();
            let was = if replaced { "P" } else { "nothing" };
            let moves = NAMES.map(|name| format!("{name}: {was} -> Q")).join(", ");
            assert_eq!(commits(&backend), [format!("commit pasid 1 {moves}")]);
        }
    }
}

#[test]
fn detaching_what_is_not_attached_finds_nothing() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, "a", 1);
    assert_eq!(kind(a.group().detach_pasid(pasid(1))), ErrorKind::NotFound);
    a.group()
        .attach_pasid(pasid(1), &backend.domain("P"))
        .unwrap();
    a.group().detach_pasid(pasid(1)).unwrap();
    assert_eq!(kind(a.group().detach_pasid(pasid(1))), ErrorKind::NotFound);
    assert!(a.group().pasid_domain(pasid(1)).is_none());
}

#[test]
fn an_attach_of_the_rid_leaves_pasids_alone() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, "a", 1);
    let process = backend.domain("P");
    a.group().attach_pasid(pasid(1), &process).unwrap();
    commits(&backend);
    a.attach(&iommu.identity_domain().unwrap()).unwrap();
    a.attach(&iommu.blocked_domain()).unwrap();
    a.detach().unwrap();
    let moved = commits(&backend);
    assert!(moved.iter().all(|entry| entry.starts_with("commit rid")));
    assert!(Arc::ptr_eq(
        &a.group().pasid_domain(pasid(1)).unwrap(),
        &process
    ));
}

#[test]
fn a_device_that_joins_gets_the_pasids_of_its_group() {
    let backend = Backend::with_pasids(&["a", "b"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, "a", 1);
    let (one, two) = (backend.domain("P"), backend.domain("Q"));
    a.group().attach_pasid(pasid(1), &one).unwrap();
    a.group().attach_pasid(pasid(2), &two).unwrap();
    commits(&backend);
    let b = add(&iommu, "b", 2);
    let joined = commits(&backend);
    for expected in [
        "commit pasid 1 b: nothing -> P",
        "commit pasid 2 b: nothing -> Q",
    ] {
        assert!(joined.contains(&expected.to_owned()), "{joined:?}");
    }
    // One that has none joins as well.
    let c = add(&iommu, "c", 3);
    assert_eq!(commits(&backend), [""; 0]);
    drop((b, c));
}

/// What a newcomer was moved to last, whether it was forgotten, and what is left of its group.
fn newcomer_fails(fail: impl Fn(&Backend)) -> (Vec<String>, ErrorKind) {
    let backend = Backend::with_pasids(&["a", "b"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, "a", 1);
    let rid = backend.domain("R");
    a.attach(&rid).unwrap();
    for value in 1..=3 {
        let process = backend.domain("P");
        a.group().attach_pasid(pasid(value), &process).unwrap();
    }
    fail(&backend);
    backend.log.take();
    let refused = iommu
        .add_device(info("b", 2), Arc::new(NoControl))
        .unwrap_err();
    let mut names = Vec::new();
    a.group().for_each(|name, _| names.push(name.to_owned()));
    assert_eq!(names, ["a"], "it is not in the group");
    assert!(a.attached().is(&rid));
    let log = backend.log.take_of(&["commit", "release", "quarantine"]);
    (log, refused.kind())
}

#[test]
fn a_newcomer_that_cannot_have_the_pasids_is_parked_and_not_in_the_group() {
    for k in 1..=3 {
        let (log, kind) = newcomer_fails(|backend| {
            backend.refuse(move |member, slot| {
                let to_blocked =
                    member.pending().unwrap().kind() == iommu_core::DomainKind::Blocked;
                slot == Slot::Pasid(pasid(k)) && !to_blocked
            });
        });
        assert_eq!(kind, ErrorKind::NoSpace);
        let end = log.len() - 2;
        assert_eq!(
            log[end..],
            ["commit rid b: R -> blocked", "release b on blocked with 0"]
        );
        let on = log.iter().filter(|entry| entry.ends_with("-> P")).count();
        let off = log.iter().filter(|entry| entry.ends_with("P -> blocked"));
        assert_eq!(on, off.count(), "{log:?}");
    }
}

#[test]
fn a_newcomer_whose_pasids_cannot_even_be_taken_back_does_not_keep_the_rest() {
    let (log, kind) = newcomer_fails(|backend| {
        backend.lose(|member, slot| member.name() == "b" && slot == Slot::Pasid(pasid(2)));
    });
    assert_eq!(kind, ErrorKind::IommuTimedOut);
    let parked = log.contains(&"commit rid b: R -> blocked".into());
    let quarantined = log.contains(&"quarantine b".into());
    assert!(parked || quarantined, "nobody's device is on R: {log:?}");
    assert!(
        !log.iter().any(|entry| entry.starts_with("release")),
        "the hardware may go on using what the backend keeps for it"
    );
}

#[test]
fn a_pasid_in_doubt_keeps_both_domains_alive() {
    let backend = Backend::with_pasids(&NAMES);
    let (_iommu, devices) = group_of_four(&backend);
    let group = devices[0].group();
    let (old, new) = (backend.domain("P"), backend.domain("Q"));
    group.attach_pasid(pasid(1), &old).unwrap();
    backend.lose(|member, _| member.name() == "c");
    assert_eq!(
        kind(group.attach_pasid(pasid(1), &new)),
        ErrorKind::IommuTimedOut
    );
    assert_eq!(Arc::strong_count(&old), 2, "ours and the lost device's");
    backend.obey();
    commits(&backend);
    let third = backend.domain("S");
    group.attach_pasid(pasid(1), &third).unwrap();
    assert_eq!(
        commits(&backend),
        ["commit pasid 1 a: Q -> S, b: Q -> S, c: uncertain -> S, d: Q -> S"]
    );
    assert_eq!((Arc::strong_count(&old), Arc::strong_count(&new)), (1, 1));
}

#[test]
fn a_first_attach_of_a_pasid_in_doubt_keeps_its_domain_alive() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, "a", 1);
    let process = backend.domain("P");
    backend.lose(|_, slot| slot != Slot::Rid);
    a.group().attach_pasid(pasid(1), &process).unwrap_err();
    backend.obey();
    assert!(Arc::strong_count(&process) > 1);
    commits(&backend);
    a.release().unwrap();
    assert_eq!(
        commits(&backend)[0],
        "commit pasid 1 a: uncertain -> blocked"
    );
    assert_eq!(Arc::strong_count(&process), 1);
}

#[test]
fn a_pasid_in_doubt_is_brought_back_by_attaching_it_again() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, "a", 1);
    let process = backend.domain("P");
    backend.lose(|_, _| true);
    a.group().attach_pasid(pasid(1), &process).unwrap_err();
    backend.obey();
    commits(&backend);
    a.group()
        .attach_pasid(pasid(1), &process)
        .expect("as an attach of the traffic without PASID");
    assert_eq!(commits(&backend), ["commit pasid 1 a: uncertain -> P"]);
}

#[test]
fn a_detach_that_was_not_confirmed_can_be_tried_again() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, "a", 1);
    let process = backend.domain("P");
    a.group().attach_pasid(pasid(1), &process).unwrap();
    backend.lose(|_, _| true);
    a.group().detach_pasid(pasid(1)).unwrap_err();
    backend.obey();
    assert!(Arc::strong_count(&process) > 1);
    a.group().detach_pasid(pasid(1)).expect("another attempt");
    assert_eq!(Arc::strong_count(&process), 1);
}

#[test]
fn a_member_knows_what_its_pasids_are_on() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, "a", 1);
    let process = backend.domain("P");
    let expected = process.clone();
    a.group().attach_pasid(pasid(1), &process).unwrap();
    backend.refuse(move |member, slot| {
        if slot == Slot::Rid {
            let on = member.attached_pasid(pasid(1));
            let on = on.and_then(Attached::domain);
            assert!(on.is_some_and(|on| Arc::ptr_eq(on, &expected)));
            assert_eq!(member.pasids().collect::<Vec<_>>(), [pasid(1)]);
        }
        false
    });
    a.attach(&backend.domain("R")).unwrap();
    backend.obey();
}
