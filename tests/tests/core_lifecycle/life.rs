//! Adding, attaching, deferring and releasing devices.

use std::sync::Arc;

use iommu_core::{
    Attached, Culprit, DefaultDomain, DeviceInfo, Domain, Error, ErrorKind, Iommu, IommuConfig,
    Member, Rest,
};
use mock_hw::MockIommuOps;
use mockall::Sequence;

use crate::backend::{Backend, control, pinned, plain};

#[test]
fn release_parks_on_the_release_domain_before_the_backend_forgets_the_device() {
    let backend = Backend::new();
    let iommu = backend.core(backend.obedient());
    let device = iommu.add_device(plain("nic", 1), control()).unwrap();
    device.attach(&iommu.identity_domain().unwrap()).unwrap();
    backend.log.take();
    assert_eq!(device.release().unwrap(), Rest::Blocked);
    assert_eq!(
        backend.log.take(),
        [
            "prepare nic for blocked",
            "commit nic: identity -> blocked",
            "release nic on blocked"
        ]
    );
}

#[test]
fn a_backend_without_release_domain_parks_on_its_blocked_domain() {
    let backend = Backend {
        release: None,
        ..Backend::new()
    };
    let iommu = backend.core(backend.obedient());
    let plain = iommu.add_device(plain("nic", 1), control()).unwrap();
    let pinned = iommu.add_device(pinned("gpu", 2), control()).unwrap();
    assert_eq!(plain.release().unwrap(), Rest::Blocked);
    assert_eq!(pinned.release().unwrap(), Rest::Identity);
}

#[test]
fn release_of_a_device_whose_attach_is_deferred_touches_no_hardware() {
    let backend = Backend {
        found: Attached::Deferred,
        ..Backend::new()
    };
    for device in [plain("nic", 1), pinned("gpu", 1)] {
        let iommu = backend.core(backend.obedient());
        let device = iommu.add_device(device, control()).unwrap();
        let name = device.name().to_owned();
        assert_eq!(device.release().unwrap(), Rest::Untouched);
        assert_eq!(
            backend.log.take(),
            [format!("release {name} on nothing known")]
        );
    }
}

/// A core that finds devices whose attach is deferred, with the identity domain for each.
fn deferred() -> (Backend, Iommu) {
    let backend = Backend {
        found: Attached::Deferred,
        ..Backend::new()
    };
    let config = IommuConfig {
        default_domain: DefaultDomain::Identity,
        ..IommuConfig::default()
    };
    let iommu: Iommu = Iommu::with_config(backend.obedient(), config).unwrap();
    (backend, iommu)
}

#[test]
fn a_deferred_device_is_attached_once_and_only_when_asked() {
    let (backend, iommu) = deferred();
    let device = iommu.add_device(plain("nic", 1), control()).unwrap();
    device.detach().unwrap();
    assert_eq!(
        backend.log.take(),
        [""; 0],
        "the default domain is not attached yet"
    );
    device.attach_now().unwrap();
    device.attach_now().unwrap();
    let once = ["prepare nic for identity", "commit nic: ? -> identity"];
    assert_eq!(backend.log.take(), once);
    assert_eq!(device.release().unwrap(), Rest::Blocked);
}

#[test]
fn attaching_another_domain_ends_the_deferral() {
    let (backend, iommu) = deferred();
    let device = iommu.add_device(plain("nic", 1), control()).unwrap();
    device.attach(&iommu.blocked_domain()).unwrap();
    assert_eq!(
        backend.log.take(),
        ["prepare nic for blocked", "commit nic: ? -> blocked"]
    );
    device.attach_now().unwrap();
    assert_eq!(backend.log.take(), [""; 0]);
    device.release().unwrap();
}

#[test]
fn release_runs_in_this_order_and_drops_the_domain_last() {
    let backend = Backend::new();
    let mut ops = backend.mock();
    let mut order = Sequence::new();
    let target = backend.blocked.clone();
    let mut default = mock_hw::MockPagingOps::new();
    default.expect_geometry().times(0);
    let default = Domain::paging(default);
    let weak = Arc::downgrade(&default);
    ops.expect_paging_domain().return_once(move |_| Ok(default));
    ops.expect_prepare()
        .once()
        .in_sequence(&mut order)
        .returning(|_, _| Ok(()));
    ops.expect_commit()
        .once()
        .in_sequence(&mut order)
        .returning(|members, _| {
            members.iter_mut().for_each(Member::landed);
            Ok(())
        });
    let alive = weak.clone();
    ops.expect_prepare()
        .once()
        .in_sequence(&mut order)
        .returning(move |member, _| {
            assert!(Arc::ptr_eq(member.pending().unwrap(), &target));
            assert_eq!(
                alive.strong_count(),
                4,
                "the group's two and the device's two"
            );
            Ok(())
        });
    ops.expect_commit()
        .once()
        .in_sequence(&mut order)
        .returning(|members, _| {
            assert_eq!(members.len(), 1);
            members[0].landed();
            Ok(())
        });
    let alive = weak.clone();
    ops.expect_release()
        .once()
        .in_sequence(&mut order)
        .returning(move |_| {
            assert_eq!(
                alive.strong_count(),
                3,
                "the device has left, the group still stands"
            );
        });
    let iommu: Iommu = Iommu::new(ops).unwrap();
    let device = iommu.add_device(plain("nic", 1), control()).unwrap();
    device.release().unwrap();
    assert_eq!(
        weak.strong_count(),
        0,
        "the group is empty: its domains are gone"
    );
}

#[test]
fn a_group_keeps_its_domain_until_its_last_device_is_released() {
    let backend = Backend::new();
    let iommu = backend.core(backend.obedient());
    let a = iommu
        .add_device(plain("a", 1).group("g"), control())
        .unwrap();
    let b = iommu
        .add_device(plain("b", 2).group("g"), control())
        .unwrap();
    let identity = iommu.identity_domain().unwrap();
    a.group().attach(&identity).unwrap();
    assert_eq!(
        a.attach(&identity).unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    a.release().unwrap();
    assert!(b.attached().is(&identity));
    backend.log.take();
    let c = iommu
        .add_device(plain("c", 1).group("g"), control())
        .unwrap();
    assert_eq!(
        backend.log.take(),
        ["prepare c for identity", "commit c: blocked -> identity"]
    );
    drop((b, c));
}

#[test]
fn a_failed_park_is_reported_and_nothing_the_hardware_may_use_is_reused() {
    let backend = Backend::new();
    let mut ops = backend.mock();
    ops.expect_prepare().returning(|_, _| Ok(()));
    ops.expect_commit().once().returning(|members, _| {
        members.iter_mut().for_each(Member::landed);
        Ok(())
    });
    ops.expect_commit()
        .returning(|_, _| Err(Error::new(ErrorKind::IommuTimedOut, "dead")));
    ops.expect_release().never();
    ops.expect_quarantine().once().returning(|_| ());
    let domain = Domain::paging(mock_hw::MockPagingOps::new());
    let iommu = backend.core(ops);
    let device = iommu.add_device(plain("nic", 1), control()).unwrap();
    device.attach(&domain).unwrap();
    assert_eq!(
        device.release().unwrap_err().kind(),
        ErrorKind::IommuTimedOut
    );
    assert!(
        Arc::strong_count(&domain) > 1,
        "the hardware may still be walking it"
    );
    let again = iommu.add_device(plain("nic", 1), control()).unwrap_err();
    assert_eq!(
        (again.kind(), again.culprit()),
        (ErrorKind::Busy, &Culprit::Stream(1.into()))
    );
}

#[test]
fn a_backend_that_forgets_to_report_a_move_leaves_the_device_uncertain() {
    let backend = Backend::new();
    let mut ops = backend.mock();
    ops.expect_prepare().returning(|_, _| Ok(()));
    ops.expect_commit().returning(|_, _| Ok(()));
    ops.expect_quarantine().returning(|_| ());
    let iommu = backend.core(ops);
    let device = iommu.add_device(plain("nic", 1), control()).unwrap();
    let identity = iommu.identity_domain().unwrap();
    assert_eq!(
        device.attach(&identity).unwrap_err().kind(),
        ErrorKind::Internal
    );
    let Attached::Uncertain {
        old: Some(old),
        new,
    } = device.attached()
    else {
        panic!("{:?}", device.attached());
    };
    assert!(Arc::ptr_eq(&old, &backend.blocked) && Arc::ptr_eq(&new, &identity));
    assert!(device.release().is_err());
}

#[test]
fn dropping_a_device_releases_it() {
    let backend = Backend::new();
    let iommu = backend.core(backend.obedient());
    drop(iommu.add_device(plain("nic", 1), control()).unwrap());
    assert_eq!(backend.log.take().last().unwrap(), "release nic on blocked");
    iommu
        .add_device(plain("nic", 1), control())
        .unwrap()
        .release()
        .unwrap();
}

#[test]
fn a_backend_without_a_blocked_domain_is_refused() {
    let mut ops = MockIommuOps::new();
    ops.expect_blocked_domain().return_const(None);
    ops.expect_identity_domain()
        .return_const(Some(Domain::identity()));
    ops.expect_release_domain().return_const(None);
    let refused = Iommu::<iommu_core::SpinLock>::new(ops).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn bad_devices_are_refused_and_leave_nothing_behind() {
    let backend = Backend::new();
    let iommu = backend.core(backend.obedient());
    let none = iommu
        .add_device(DeviceInfo::new("none"), control())
        .unwrap_err();
    assert_eq!(none.kind(), ErrorKind::InvalidArgument);
    let a = iommu
        .add_device(DeviceInfo::new("a").streams([1, 2, 2]), control())
        .unwrap();
    let elsewhere = DeviceInfo::new("b").streams([3, 2]).group("elsewhere");
    let alias = iommu.add_device(elsewhere, control()).unwrap_err();
    assert_eq!(
        (alias.kind(), alias.culprit()),
        (ErrorKind::Busy, &Culprit::Stream(2.into()))
    );
    // Stream 3 was not kept by the refused device.
    let c = iommu.add_device(plain("c", 3), control()).unwrap();
    drop((a, c));
}
