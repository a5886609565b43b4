//! Streams that several devices present (contract 3.12), and IOMMUs that have the same ones.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::Arc;

use iommu_core::{
    Culprit, DefaultDomain, Device, DeviceInfo, Error, ErrorKind, InstanceId, Iommu, NoControl,
    PageRequest, Pasid, Prot, Rest, Slot, StreamId,
};
use tests::contracts::{Backend, config, handler};

fn add(iommu: &Iommu, info: DeviceInfo) -> Device {
    iommu.add_device(info, Arc::new(NoControl)).unwrap()
}

fn refused(iommu: &Iommu, info: DeviceInfo) -> Error {
    iommu.add_device(info, Arc::new(NoControl)).unwrap_err()
}

fn info(name: &str, streams: &[u32]) -> DeviceInfo {
    DeviceInfo::new(name).streams(streams.iter().copied())
}

fn streams(of: &[u32]) -> Vec<StreamId> {
    of.iter().copied().map(StreamId).collect()
}

fn names(device: &Device) -> Vec<String> {
    let mut names = Vec::new();
    device
        .group()
        .for_each(|name, _| names.push(name.to_owned()));
    names
}

#[test]
fn the_last_that_presents_a_stream_parks_it() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, info("a", &[1, 9]).group("g"));
    let b = add(&iommu, info("b", &[2, 9]).group("g"));
    let c = add(&iommu, info("c", &[9]).group("g"));
    a.group().attach(&backend.domain("R")).unwrap();
    assert_eq!(backend.moved_streams("a"), streams(&[1, 9]));
    assert_eq!(backend.moved_streams("b"), streams(&[2, 9]));
    a.release().unwrap();
    assert_eq!(
        backend.moved_streams("a"),
        streams(&[1]),
        "9 is still in use"
    );
    drop(c);
    assert_eq!(backend.moved_streams("c"), []);
    assert_eq!(
        (backend.entry(1), backend.entry(9)),
        ("blocked".into(), "R".into())
    );
    assert_eq!(b.release().unwrap(), Rest::Blocked);
    assert_eq!(backend.moved_streams("b"), streams(&[2, 9]));
}

#[test]
fn a_stream_stays_the_groups_until_the_last_has_left() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, info("a", &[1, 9]).group("g"));
    let b = add(&iommu, info("b", &[2, 9]).group("g"));
    a.release().unwrap();
    let busy = refused(&iommu, info("x", &[3, 9]).group("h"));
    assert_eq!(
        (busy.kind(), busy.culprit()),
        (ErrorKind::Busy, &Culprit::Stream(StreamId(9)))
    );
    // What the refused one asked for besides, and what the first one had, is free.
    drop(add(&iommu, info("y", &[3]).group("h")));
    drop(add(&iommu, info("z", &[1]).group("h")));
    b.release().unwrap();
    drop(add(&iommu, info("x", &[3, 9]).group("h")));
}

#[test]
fn an_alias_joins_the_group_of_what_it_aliases_without_being_told_its_name() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, info("a", &[1]));
    let named = add(&iommu, info("n", &[5]).group("g"));
    let domain = backend.domain("R");
    a.attach(&domain).unwrap();
    let b = add(&iommu, info("b", &[1, 2]));
    assert_eq!(names(&a), ["a", "b"]);
    assert!(b.attached().is(&domain));
    assert_eq!(
        a.attach(&domain).unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    let alias = add(&iommu, info("m", &[5]));
    assert_eq!(names(&alias), ["n", "m"]);
    // It bridges two groups: the two could not be kept apart.
    let bridge = refused(&iommu, info("bridge", &[2, 5]));
    assert_eq!(bridge.kind(), ErrorKind::Busy);
    let bridge = refused(&iommu, info("bridge", &[1]).group("g"));
    assert_eq!(bridge.kind(), ErrorKind::Busy);
    let bridge = refused(&iommu, info("bridge", &[1]).group("new"));
    assert_eq!(bridge.kind(), ErrorKind::Busy);
    drop((named, alias));
    // The refused ones left no trace.
    drop(add(&iommu, info("bridge", &[5]).group("new")));
}

#[test]
fn a_failed_release_loses_the_streams_that_nobody_else_presents() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, info("a", &[1, 9]).group("g"));
    let b = add(&iommu, info("b", &[2, 9]).group("g"));
    backend.lose(|member, _| member.name() == "a");
    assert!(a.release().is_err());
    backend.obey();
    let busy = refused(&iommu, info("x", &[1]).group("g"));
    assert_eq!(busy.kind(), ErrorKind::Busy);
    let domain = backend.domain("R");
    b.attach(&domain).unwrap();
    assert_eq!(backend.moved_streams("b"), streams(&[2, 9]));
    b.release().unwrap();
    // The other's release left the shared stream alone: it was never in doubt.
    drop(add(&iommu, info("x", &[2, 9])));
    assert_eq!(refused(&iommu, info("x", &[1])).kind(), ErrorKind::Busy);
}

#[test]
fn a_newcomer_that_fails_takes_nothing_from_those_who_share_its_stream() {
    let backend = Backend::with_pasids(&["a", "b"]);
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, info("a", &[1, 9]).group("g"));
    a.attach(&backend.domain("R")).unwrap();
    let process = backend.domain("P");
    let pasid = Pasid::new(1).unwrap();
    a.group().attach_pasid(pasid, &process).unwrap();
    backend.refuse(|member, slot| member.name() == "b" && slot != Slot::Rid);
    refused(&iommu, info("b", &[2, 9]).group("g"));
    assert_eq!(
        backend.moved_streams("b"),
        streams(&[2]),
        "9 is a's, who is on R"
    );
}

#[test]
fn a_fence_is_not_undone_by_a_sibling_that_shares_a_stream() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Paging);
    let a = add(&iommu, info("a", &[1, 9]).group("g"));
    let b = add(&iommu, info("b", &[2, 9]).group("g"));
    b.group().attach(&backend.domain("R")).unwrap();
    let fence = a.reset_fence().unwrap();
    b.group().detach().unwrap();
    let moved = backend.moved_streams("b");
    assert!(
        !moved.contains(&StreamId(9)),
        "a is being reset and presents 9, which was moved with {moved:?}"
    );
    fence.end().unwrap();
}

#[test]
fn a_fence_is_not_undone_by_a_newcomer_that_shares_a_stream() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Paging);
    let a = add(&iommu, info("a", &[1, 9]).group("g"));
    let fence = a.reset_fence().unwrap();
    let joined = iommu.add_device(info("b", &[2, 9]).group("g"), Arc::new(NoControl));
    let moved = backend.moved_streams("b");
    assert!(
        joined.is_err() || !moved.contains(&StreamId(9)),
        "a is being reset and presents 9, which was moved with {moved:?}"
    );
    fence.end().unwrap();
}

#[test]
fn a_fenced_device_that_is_released_leaves_the_stream_to_those_who_stay() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, info("a", &[1, 9]).group("g"));
    let b = add(&iommu, info("b", &[2, 9]).group("g"));
    let domain = backend.domain("R");
    b.group().attach(&domain).unwrap();
    let fence = a.reset_fence().unwrap();
    a.release().unwrap();
    drop(fence);
    assert!(b.attached().is(&domain));
    assert_eq!(backend.entry(9), "R", "b presents it and is on R");
}

#[test]
fn a_deferred_alias_does_not_keep_a_stream_from_being_parked() {
    let backend = Backend::deferred();
    let iommu = backend.core(DefaultDomain::Paging);
    let a = add(&iommu, info("a", &[1, 9]).group("g"));
    let b = add(&iommu, info("b", &[2, 9]).group("g"));
    a.attach_now().unwrap();
    assert_eq!(backend.entry(9), "paging");
    a.release().unwrap();
    b.release().unwrap();
    // The default domain is gone; whatever its entry says is what the hardware walks.
    assert_eq!(backend.entry(9), "blocked");
}

#[test]
fn page_requests_of_a_shared_stream_go_to_one_handler_and_are_answered_once() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let a = add(&iommu, info("a", &[1, 9]).group("g"));
    let b = add(&iommu, info("b", &[2, 9]).group("g"));
    let paging = config(DefaultDomain::Parked).paging;
    let domain = a.group().paging_domain_with_faults(&paging, handler(drop));
    a.group().attach(&domain.unwrap()).unwrap();
    backend.log.take();
    let request = PageRequest {
        stream: StreamId(9),
        pasid: None,
        iova: 0x1000.into(),
        prot: Prot::READ,
        tag: 3,
        last: true,
    };
    iommu.report_page_request(InstanceId::FIRST, request);
    assert_eq!(
        backend.log.take_of(&["answer"]),
        ["answer 0x9 tag 3 Failure"]
    );
    a.release().unwrap();
    iommu.report_page_request(InstanceId::FIRST, request);
    assert_eq!(
        backend.log.take_of(&["answer"]),
        ["answer 0x9 tag 3 Failure"]
    );
    b.release().unwrap();
    iommu.report_page_request(InstanceId::FIRST, request);
    assert_eq!(
        backend.log.take_of(&["answer"]),
        ["answer 0x9 tag 3 Invalid"]
    );
}

#[test]
fn the_same_stream_behind_two_iommus_is_two_streams() {
    let (here, there) = (Backend::default(), Backend::default());
    let iommu = here.core(DefaultDomain::Parked);
    let second = iommu.add_instance(there.ops()).unwrap();
    let a = add(&iommu, info("a", &[1]));
    let b = add(&iommu, info("b", &[1]).behind(second));
    assert_eq!((names(&a), names(&b)), (vec!["a".into()], vec!["b".into()]));
    assert!(Arc::ptr_eq(&a.group().blocked_domain(), &here.blocked));
    assert!(Arc::ptr_eq(&b.group().blocked_domain(), &there.blocked));
    assert!(b.attached().is(&there.blocked));
    b.attach(&there.domain("R")).unwrap();
    assert_eq!(here.log.take(), [""; 0], "the other is not asked");
    assert_eq!(
        there.log.take_of(&["commit"]),
        ["commit rid b: blocked -> R"]
    );
    a.release().unwrap();
    assert_eq!(
        refused(&iommu, info("x", &[1]).behind(second).group("h")).kind(),
        ErrorKind::Busy
    );
    drop(add(&iommu, info("x", &[1]).group("h")));
    let request = PageRequest {
        stream: StreamId(1),
        pasid: None,
        iova: 0x1000.into(),
        prot: Prot::READ,
        tag: 3,
        last: true,
    };
    here.log.take();
    there.log.take();
    iommu.report_page_request(second, request);
    assert_eq!(here.log.take(), [""; 0]);
    assert_eq!(there.log.take(), ["answer 0x1 tag 3 Invalid"]);
}

#[test]
fn a_group_does_not_span_two_iommus() {
    let (here, there) = (Backend::default(), Backend::default());
    let iommu = here.core(DefaultDomain::Parked);
    let second = iommu.add_instance(there.ops()).unwrap();
    let a = add(&iommu, info("a", &[1]).group("g"));
    let spanning = refused(&iommu, info("b", &[2]).group("g").behind(second));
    assert_eq!(spanning.kind(), ErrorKind::InvalidArgument);
    assert_eq!(names(&a), ["a"]);
    assert_eq!(there.log.take(), [""; 0]);
    drop(add(&iommu, info("b", &[2]).behind(second)));
}

#[test]
fn an_iommu_that_is_not_there_is_refused() {
    let (here, elsewhere) = (Backend::default(), Backend::default());
    let iommu = here.core(DefaultDomain::Parked);
    let other = elsewhere.core(DefaultDomain::Parked);
    let unknown = other.add_instance(Backend::default().ops()).unwrap();
    let nowhere = refused(&iommu, info("a", &[1]).behind(unknown));
    assert_eq!(nowhere.kind(), ErrorKind::InvalidArgument);
    drop(add(&iommu, info("a", &[1])));
}

#[test]
fn an_iommu_without_a_blocked_domain_is_not_added_either() {
    let backend = Backend::default();
    let iommu = backend.core(DefaultDomain::Parked);
    let mut ops = mock_hw::MockIommuOps::new();
    ops.expect_blocked_domain().return_const(None);
    ops.expect_identity_domain().return_const(None);
    ops.expect_release_domain().return_const(None);
    let refused = iommu.add_instance(ops).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
}
