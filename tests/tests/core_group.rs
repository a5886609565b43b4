//! A group attach is a transaction: all devices move or none, whichever of them fails.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::{Arc, Mutex};

use iommu_core::{
    Attached, DefaultDomain, Device, DeviceInfo, Domain, DomainRef, Error, ErrorKind, Iommu,
    IommuConfig, Member, NoControl, Probed,
};
use mock_hw::MockIommuOps;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Default)]
struct Plan {
    fail_prepare_of: Option<&'static str>,
    /// Devices that a commit does not move.
    lose: Vec<&'static str>,
    prepared: Vec<String>,
    cancelled: Vec<String>,
    commits: usize,
}

fn core(plan: &Arc<Mutex<Plan>>) -> (Iommu, Vec<Device>) {
    let mut ops = MockIommuOps::new();
    let blocked = Domain::blocked();
    ops.expect_blocked_domain()
        .return_const(Some(blocked.clone()));
    ops.expect_identity_domain()
        .return_const(Some(Domain::identity()));
    ops.expect_release_domain()
        .return_const(Some(blocked.clone()));
    ops.expect_probe().returning(move |_, _| {
        let attached = Attached::On(blocked.clone());
        Ok(Probed {
            state: Box::new(()),
            reserved: Vec::new(),
            attached,
            max_pasids: 0,
        })
    });
    let now = plan.clone();
    ops.expect_prepare().returning(move |member, _| {
        let mut plan = now.lock().unwrap();
        if plan.fail_prepare_of == Some(member.name()) {
            return Err(Error::new(ErrorKind::NoSpace, "no more of it"));
        }
        plan.prepared.push(member.name().into());
        Ok(())
    });
    let now = plan.clone();
    ops.expect_cancel().returning(move |member, _| {
        now.lock().unwrap().cancelled.push(member.name().into());
    });
    let now = plan.clone();
    ops.expect_commit().returning(move |members, _| {
        let mut plan = now.lock().unwrap();
        plan.commits += 1;
        let kept = |member: &&mut Member| !plan.lose.contains(&member.name());
        members.iter_mut().filter(kept).for_each(Member::landed);
        match plan.lose.is_empty() {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::IommuTimedOut, "lost one")),
        }
    });
    ops.expect_release().returning(|_| ());
    let config = IommuConfig {
        default_domain: DefaultDomain::Parked,
        ..IommuConfig::default()
    };
    let iommu: Iommu = Iommu::with_config(ops, config).unwrap();
    let devices = NAMES.iter().zip(1_u32..).map(|(name, stream)| {
        let info = DeviceInfo::new(name).streams([stream]).group("g");
        iommu.add_device(info, Arc::new(NoControl)).unwrap()
    });
    let devices = devices.collect();
    (iommu, devices)
}

fn all_on(devices: &[Device], domain: &DomainRef) -> bool {
    devices.iter().all(|device| device.attached().is(domain))
}

#[test]
fn all_are_prepared_before_one_commit_moves_them() {
    let plan = Arc::default();
    let (_iommu, devices) = core(&plan);
    let domain = Domain::identity();
    devices[0].group().attach(&domain).unwrap();
    let plan = plan.lock().unwrap();
    assert_eq!(
        (plan.prepared.as_slice(), plan.commits),
        (&NAMES.map(String::from)[..], 1)
    );
    assert!(plan.cancelled.is_empty() && all_on(&devices, &domain));
    drop(plan);
}

#[test]
fn whoever_cannot_be_prepared_leaves_all_where_they_were() {
    for k in 0..NAMES.len() {
        let plan: Arc<Mutex<Plan>> = Arc::default();
        let (_iommu, devices) = core(&plan);
        let group = devices[0].group();
        let old = Domain::identity();
        group.attach(&old).unwrap();
        *plan.lock().unwrap() = Plan {
            fail_prepare_of: Some(NAMES[k]),
            ..Plan::default()
        };
        let error = group.attach(&Domain::identity()).unwrap_err();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::NoSpace, 28));
        let mut now = plan.lock().unwrap();
        assert_eq!(now.prepared, NAMES[..k]);
        assert_eq!(
            now.cancelled,
            NAMES[..k],
            "those that were prepared, and no others"
        );
        assert_eq!(now.commits, 0);
        assert!(all_on(&devices, &old));
        assert!(Arc::ptr_eq(&group.domain().unwrap(), &old));
        *now = Plan::default();
    }
}

#[test]
fn one_that_is_lost_does_not_stop_the_others() {
    for lost in NAMES {
        let plan: Arc<Mutex<Plan>> = Arc::default();
        let (_iommu, devices) = core(&plan);
        let group = devices[0].group();
        let (old, new) = (Domain::identity(), Domain::identity());
        group.attach(&old).unwrap();
        plan.lock().unwrap().lose = vec![lost];
        assert_eq!(
            group.attach(&new).unwrap_err().kind(),
            ErrorKind::IommuTimedOut
        );
        for device in &devices {
            match device.attached() {
                Attached::Uncertain {
                    old: Some(was),
                    new: wanted,
                } if device.name() == lost => {
                    assert!(Arc::ptr_eq(&was, &old) && Arc::ptr_eq(&wanted, &new));
                }
                on => assert!(on.is(&new), "{}: {on:?}", device.name()),
            }
        }
        // It can be brought back: an attach that lands ends the doubt.
        plan.lock().unwrap().lose.clear();
        group.attach(&new).unwrap();
        assert!(all_on(&devices, &new));
    }
}

#[test]
fn a_lost_device_keeps_both_domains_alive() {
    let plan: Arc<Mutex<Plan>> = Arc::default();
    let (_iommu, devices) = core(&plan);
    let group = devices[0].group();
    let (old, new) = (Domain::identity(), Domain::identity());
    group.attach(&old).unwrap();
    plan.lock().unwrap().lose = vec!["c"];
    group.attach(&new).unwrap_err();
    let blocked = Domain::blocked();
    plan.lock().unwrap().lose.clear();
    assert_eq!(Arc::strong_count(&old), 2, "ours and the lost device's");
    group.attach(&blocked).unwrap();
    assert_eq!((Arc::strong_count(&old), Arc::strong_count(&new)), (1, 1));
}

#[test]
fn a_newcomer_that_cannot_join_is_not_in_the_group() {
    let plan: Arc<Mutex<Plan>> = Arc::default();
    let (iommu, devices) = core(&plan);
    let group = devices[0].group();
    let domain = Domain::identity();
    group.attach(&domain).unwrap();
    plan.lock().unwrap().fail_prepare_of = Some("e");
    let info = || DeviceInfo::new("e").streams([9_u32]).group("g");
    let error = iommu.add_device(info(), Arc::new(NoControl)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let mut names = Vec::new();
    group.for_each(|name, _| names.push(name.to_owned()));
    assert_eq!(names, NAMES);
    plan.lock().unwrap().fail_prepare_of = None;
    let e = iommu.add_device(info(), Arc::new(NoControl)).unwrap();
    assert!(e.attached().is(&domain));
}
