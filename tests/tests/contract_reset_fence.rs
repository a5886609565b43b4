//! The reset fence (contract 3.11): a device that is being reset is parked and stays so until the
//! last fence ends; then it is on what its group wants then.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::Arc;

use iommu_core::{
    DefaultDomain, Device, DeviceInfo, ErrorKind, Iommu, Iova, Pasid, PhysAddr, ReservedKind,
    ReservedRegion, Rest, Result, Slot,
};
use mock_hw::MockMemory;
use tests::contracts::{Backend, Control, block, rw};

fn pasid(value: u32) -> Pasid {
    Pasid::new(value).unwrap()
}

fn info(name: &str, stream: u32) -> DeviceInfo {
    DeviceInfo::new(name).streams([stream]).group("g")
}

fn add(backend: &Backend, iommu: &Iommu, name: &'static str, stream: u32) -> Device {
    iommu
        .add_device(info(name, stream), Control::new(name, &backend.log))
        .unwrap()
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn trace(backend: &Backend) -> Vec<String> {
    backend.log.take_of(&["commit", "ats", "release"])
}

#[test]
fn pasids_are_blocked_then_the_rid_is_parked_then_ats_goes_off() {
    let backend = Backend::with_pasids(&["a", "b"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let (a, b) = (add(&backend, &iommu, "a", 1), add(&backend, &iommu, "b", 2));
    let (domain, process) = (backend.domain("R"), backend.domain("P"));
    a.group().attach(&domain).unwrap();
    a.group().attach_pasid(pasid(1), &process).unwrap();
    trace(&backend);
    let fence = a.reset_fence().unwrap();
    assert_eq!(
        trace(&backend),
        [
            "commit pasid 1 a: P -> blocked",
            "commit rid a: R -> blocked",
            "ats off a"
        ]
    );
    assert!(a.attached().is(&iommu.blocked_domain()));
    assert!(b.attached().is(&domain), "its sibling works on");
    fence.end().unwrap();
    assert_eq!(
        trace(&backend),
        [
            "commit rid a: blocked -> R",
            "commit pasid 1 a: nothing -> P"
        ],
        "of this device alone"
    );
    assert!(a.attached().is(&domain));
}

#[test]
fn a_pinned_device_is_reset_on_identity() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Paging);
    let region = ReservedRegion::new(0x8000_0000, 0x1000, ReservedKind::Direct).unwrap();
    let gpu = iommu
        .add_device(
            info("gpu", 1).reserved(region),
            Control::new("gpu", &backend.log),
        )
        .unwrap();
    trace(&backend);
    let fence = gpu.reset_fence().unwrap();
    assert_eq!(
        trace(&backend),
        ["commit rid gpu: paging -> identity", "ats off gpu"]
    );
    fence.end().unwrap();
    assert_eq!(trace(&backend), ["commit rid gpu: identity -> paging"]);
}

#[test]
fn fences_nest_and_the_last_one_brings_the_device_back() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Paging);
    let a = add(&backend, &iommu, "a", 1);
    let fences = [
        a.reset_fence().unwrap(),
        a.reset_fence().unwrap(),
        a.reset_fence().unwrap(),
    ];
    assert_eq!(
        trace(&backend)[1..],
        ["commit rid a: paging -> blocked", "ats off a"],
        "once"
    );
    let [first, second, third] = fences;
    second.end().unwrap();
    drop(first);
    assert_eq!(trace(&backend), [""; 0]);
    drop(third);
    assert_eq!(trace(&backend), ["commit rid a: blocked -> paging"]);
}

#[test]
fn attaches_of_the_group_are_busy_and_mappings_are_not() {
    let backend = Backend::with_pasids(&["a", "b"]);
    let iommu = backend.core(DefaultDomain::Paging);
    let (a, b) = (add(&backend, &iommu, "a", 1), add(&backend, &iommu, "b", 2));
    let (group, other) = (a.group().clone(), backend.domain("X"));
    let memory = MockMemory::new(PhysAddr(0x4000_0000), 0x1_0000);
    let fence = b.reset_fence().unwrap();
    trace(&backend);
    let busy = [
        kind(group.attach(&other)),
        kind(group.attach(&iommu.blocked_domain())),
        kind(group.attach_pasid(pasid(1), &other)),
        kind(group.claim()),
    ];
    assert_eq!(busy, [ErrorKind::Busy; 4]);
    assert_eq!(trace(&backend), [""; 0]);
    let domain = group.domain().unwrap();
    let mapped = domain.map_block(Iova(0x1000), block(&memory), rw());
    mapped.unwrap().unmap().unwrap();
    fence.end().unwrap();
    group.attach(&other).unwrap();
    assert!(a.attached().is(&other) && b.attached().is(&other));
}

#[test]
fn an_owner_is_told_busy_too() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Paging);
    let a = add(&backend, &iommu, "a", 1);
    let claim = a.group().claim().unwrap();
    let guest = backend.domain("guest");
    let fence = a.reset_fence().unwrap();
    assert_eq!(kind(claim.attach(&guest)), ErrorKind::Busy);
    assert_eq!(kind(claim.attach_pasid(pasid(1), &guest)), ErrorKind::Busy);
    fence.end().unwrap();
    claim.attach(&guest).unwrap();
}

#[test]
fn the_device_lands_on_what_its_group_is_on_by_then() {
    let backend = Backend::with_pasids(&["a", "b"]);
    let iommu = backend.core(DefaultDomain::Paging);
    let (a, b) = (add(&backend, &iommu, "a", 1), add(&backend, &iommu, "b", 2));
    let group = a.group().clone();
    let home = group.domain().unwrap();
    let (other, process) = (backend.domain("X"), backend.domain("P"));
    // By a detach.
    group.attach(&other).unwrap();
    group.attach_pasid(pasid(1), &process).unwrap();
    let fence = a.reset_fence().unwrap();
    trace(&backend);
    group.detach().unwrap();
    group.detach_pasid(pasid(1)).unwrap();
    assert_eq!(
        trace(&backend),
        [
            "commit rid b: X -> paging",
            "commit pasid 1 b: P -> blocked"
        ],
        "the fenced device is left alone"
    );
    fence.end().unwrap();
    assert_eq!(trace(&backend), ["commit rid a: blocked -> paging"]);
    assert_eq!(Arc::strong_count(&other), 1);
    // By the end of a claim.
    let claim = group.claim().unwrap();
    claim.attach(&other).unwrap();
    claim.attach_pasid(pasid(2), &process).unwrap();
    let fence = a.reset_fence().unwrap();
    claim.release().unwrap();
    trace(&backend);
    fence.end().unwrap();
    assert_eq!(trace(&backend), ["commit rid a: blocked -> paging"]);
    assert!(a.attached().is(&home) && b.attached().is(&home));
    assert_eq!(
        (Arc::strong_count(&other), Arc::strong_count(&process)),
        (1, 1)
    );
}

#[test]
fn without_a_domain_the_device_stays_parked() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&backend, &iommu, "a", 1);
    a.attach(&backend.domain("X")).unwrap();
    let fence = a.reset_fence().unwrap();
    a.detach().unwrap();
    trace(&backend);
    fence.end().unwrap();
    assert_eq!(trace(&backend), [""; 0]);
    assert!(a.attached().is(&iommu.blocked_domain()));
}

#[test]
fn a_failed_reset_keeps_the_device_parked_until_one_ends_well() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Paging);
    let a = add(&backend, &iommu, "a", 1);
    for _ in 0..2 {
        let mut failed = a.reset_fence().unwrap();
        failed.reset_failed();
        trace(&backend);
        failed.end().unwrap();
        assert_eq!(trace(&backend), [""; 0]);
        assert!(a.attached().is(&iommu.blocked_domain()));
        assert_eq!(kind(a.attach(&backend.domain("X"))), ErrorKind::Busy);
    }
    let good = a.reset_fence().unwrap();
    assert_eq!(trace(&backend), [""; 0], "it is parked already");
    good.end().unwrap();
    assert_eq!(trace(&backend), ["commit rid a: blocked -> paging"]);
    a.attach(&backend.domain("X")).unwrap();
}

#[test]
fn a_fence_that_stood_when_a_reset_failed_does_not_bring_the_device_back() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Paging);
    let a = add(&backend, &iommu, "a", 1);
    let outer = a.reset_fence().unwrap();
    let mut inner = a.reset_fence().unwrap();
    inner.reset_failed();
    inner.end().unwrap();
    trace(&backend);
    outer.end().unwrap();
    assert_eq!(trace(&backend), [""; 0], "it was raised before the failure");
    assert!(a.attached().is(&iommu.blocked_domain()));
    a.reset_fence().unwrap().end().unwrap();
    assert_eq!(trace(&backend), ["commit rid a: blocked -> paging"]);
}

#[test]
fn a_device_may_be_released_while_it_is_fenced() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Paging);
    for failed in [false, true] {
        let a = add(&backend, &iommu, "a", 1);
        let process = backend.domain("P");
        a.group().attach_pasid(pasid(1), &process).unwrap();
        let mut fence = a.reset_fence().unwrap();
        if failed {
            fence.reset_failed();
        }
        trace(&backend);
        assert_eq!(a.release().unwrap(), Rest::Blocked);
        assert_eq!(trace(&backend), ["release a on blocked with 0"]);
        assert_eq!(Arc::strong_count(&process), 1);
        // Another device of that name is not what the fence is about.
        let again = add(&backend, &iommu, "a", 1);
        trace(&backend);
        drop(fence);
        assert_eq!(trace(&backend), [""; 0]);
        let home = again.domain().unwrap();
        assert!(again.attached().is(&home));
        again.release().unwrap();
    }
}

#[test]
fn a_fence_that_cannot_be_raised_says_so_and_there_is_none() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Paging);
    let a = add(&backend, &iommu, "a", 1);
    let home = a.domain().unwrap();
    backend.lose(|_, _| true);
    trace(&backend);
    assert_eq!(kind(a.reset_fence()), ErrorKind::IommuTimedOut);
    backend.obey();
    a.attach(&home).expect("it is not fenced");
    assert!(a.attached().is(&home));
}

#[test]
fn a_device_that_cannot_come_back_stays_parked_and_does_with_the_next_fence() {
    let backend = Backend::with_pasids(&["a"]);
    let iommu = backend.core(DefaultDomain::Paging);
    let a = add(&backend, &iommu, "a", 1);
    let process = backend.domain("P");
    a.group().attach_pasid(pasid(1), &process).unwrap();
    let fence = a.reset_fence().unwrap();
    backend.refuse(|_, slot| slot == Slot::Rid);
    trace(&backend);
    assert_eq!(kind(fence.end()), ErrorKind::NoSpace);
    assert!(a.attached().is(&iommu.blocked_domain()));
    assert_eq!(trace(&backend), [""; 0], "no PASIDs without the rest");
    backend.obey();
    a.reset_fence().unwrap().end().unwrap();
    let home = a.domain().unwrap();
    assert!(a.attached().is(&home));
    let log = trace(&backend);
    assert_eq!(log.last().unwrap(), "commit pasid 1 a: nothing -> P");
}

#[test]
fn a_reset_ends_the_deferral_of_an_attach() {
    let backend = Backend::deferred();
    let iommu = backend.core(DefaultDomain::Paging);
    let a = add(&backend, &iommu, "a", 1);
    let home = a.domain().unwrap();
    let fence = a.reset_fence().unwrap();
    assert!(a.attached().is(&iommu.blocked_domain()));
    assert_eq!(kind(a.attach(&backend.domain("X"))), ErrorKind::Busy);
    fence.end().unwrap();
    assert!(a.attached().is(&home));
    let fence = a.reset_fence().unwrap();
    assert_eq!(a.release().unwrap(), Rest::Blocked);
    drop(fence);
}
