//! Devices whose firmware demands direct mappings, and what they are parked on.

use iommu_core::{Attached, Culprit, Domain, ErrorKind, ReservedKind, ReservedRegion, Rest};

use crate::backend::{Backend, control, pinned, plain};

#[test]
fn release_of_a_pinned_device_takes_identity_instead_of_the_blocked_domain() {
    let backend = Backend::new();
    let iommu = backend.core(backend.obedient());
    let device = iommu.add_device(pinned("gpu", 1), control()).unwrap();
    let parked = [
        "prepare gpu for identity",
        "commit gpu: blocked -> identity",
    ];
    assert_eq!(
        backend.log.take(),
        parked,
        "the backend did not know that it is pinned"
    );
    assert_eq!(device.release().unwrap(), Rest::Identity);
    assert_eq!(
        backend.log.take(),
        [
            "prepare gpu for identity",
            "commit gpu: identity -> identity",
            "release gpu on identity"
        ]
    );
}

#[test]
fn a_release_domain_that_is_not_the_blocked_object_stands_for_pinned_devices_too() {
    // It blocks, but it is not *the* blocked domain: the test is by object, not by kind.
    for release in [Domain::blocked(), Domain::identity()] {
        let backend = Backend {
            release: Some(release),
            ..Backend::new()
        };
        let iommu = backend.core(backend.obedient());
        let device = iommu.add_device(pinned("gpu", 1), control()).unwrap();
        assert_eq!(backend.log.take()[1], "commit gpu: blocked -> release");
        device.release().unwrap();
        assert_eq!(backend.log.take()[1], "commit gpu: release -> release");
    }
}

#[test]
fn without_an_identity_domain_a_pinned_device_is_parked_on_the_blocked_one() {
    let backend = Backend {
        identity: None,
        ..Backend::new()
    };
    let iommu = backend.core(backend.obedient());
    let device = iommu.add_device(pinned("gpu", 1), control()).unwrap();
    assert_eq!(device.release().unwrap(), Rest::Blocked);
}

#[test]
fn blocking_a_pinned_device_is_refused_before_any_hardware_is_touched() {
    let identity = Domain::identity();
    let backend = Backend {
        identity: Some(identity.clone()),
        found: Attached::On(identity),
        ..Backend::new()
    };
    let mut ops = backend.mock();
    ops.expect_prepare().never();
    ops.expect_commit().never();
    let iommu = backend.core(ops);
    let device = iommu.add_device(pinned("gpu", 1), control()).unwrap();
    let refused = device.attach(&iommu.blocked_domain()).unwrap_err();
    assert_eq!(
        (refused.kind(), refused.errno()),
        (ErrorKind::InvalidArgument, 22)
    );
    let text = refused.to_string();
    assert!(
        text.contains("gpu") && text.contains("0x80000000..=0x800fffff"),
        "{text}"
    );
    // Another object that blocks is refused by its kind.
    assert!(device.attach(&Domain::blocked()).is_err());
    assert!(device.domain().is_none());
    std::mem::forget(device);
}

#[test]
fn one_pinned_device_keeps_its_whole_group_from_being_blocked() {
    let backend = Backend::new();
    let iommu = backend.core(backend.obedient());
    let a = iommu
        .add_device(plain("a", 1).group("g"), control())
        .unwrap();
    let b = iommu
        .add_device(pinned("b", 2).group("g"), control())
        .unwrap();
    backend.log.take();
    let refused = a.group().attach(&iommu.blocked_domain()).unwrap_err();
    assert!(matches!(refused.culprit(), Culprit::Pinned { device, .. } if &**device == "b"));
    assert_eq!(backend.log.take(), [""; 0]);
    b.release().unwrap();
    a.group().attach(&iommu.blocked_domain()).unwrap();
    a.release().unwrap();
}

#[test]
fn a_blocked_domain_of_another_kind_is_refused_for_what_it_is_used_as() {
    // A backend may block by an empty paging domain.
    let blocked = Domain::paging(mock_hw::MockPagingOps::new());
    let backend = Backend {
        blocked: blocked.clone(),
        release: Some(blocked.clone()),
        found: Attached::On(blocked.clone()),
        ..Backend::new()
    };
    let iommu = backend.core(backend.obedient());
    let device = iommu.add_device(pinned("gpu", 1), control()).unwrap();
    assert_eq!(
        device.attach(&blocked).unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    assert_eq!(device.release().unwrap(), Rest::Identity);
}

#[test]
fn relaxable_regions_pin_nothing() {
    let backend = Backend::new();
    let iommu = backend.core(backend.obedient());
    let region = ReservedRegion::new(0x1000, 1, ReservedKind::DirectRelaxable).unwrap();
    let device = iommu
        .add_device(plain("usb", 1).reserved(region), control())
        .unwrap();
    device.attach(&iommu.blocked_domain()).unwrap();
    assert_eq!(device.reserved_regions(), [region]);
    assert_eq!(device.release().unwrap(), Rest::Blocked);
}
