//! Every group of page requests is answered exactly once, whatever becomes of its device and its
//! domain meanwhile (contract 3.7).

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::{Arc, Mutex, mpsc};

use iommu_core::{
    DefaultDomain, Device, DeviceInfo, DomainRef, Fault, InstanceId, Iommu, Iova, NoControl,
    PageRequest, PageResponse, Pasid, Prot, StreamId,
};
use tests::contracts::{Backend, config, handler};

/// A device on a domain that handles page faults, and the faults that came.
struct Scene {
    backend: Backend,
    iommu: Iommu,
    device: Device,
    came: Arc<Mutex<Vec<Fault>>>,
}

fn pasid(value: u32) -> Pasid {
    Pasid::new(value).unwrap()
}

impl Scene {
    /// The handler keeps faults for the test to answer.
    fn new() -> Self {
        let came: Arc<Mutex<Vec<Fault>>> = Arc::default();
        let kept = came.clone();
        Self::with(came, move |fault| kept.lock().unwrap().push(fault))
    }

    fn with(came: Arc<Mutex<Vec<Fault>>>, handle: impl Fn(Fault) + Send + Sync + 'static) -> Self {
        let backend = Backend::with_pasids(&["nic"]);
        let iommu = backend.core(DefaultDomain::Parked);
        let info = DeviceInfo::new("nic").streams([1_u32, 2]);
        let device = iommu.add_device(info, Arc::new(NoControl)).unwrap();
        let scene = Self {
            backend,
            iommu,
            device,
            came,
        };
        scene.device.attach(&scene.faulting(handle)).unwrap();
        scene.backend.log.take();
        scene
    }

    fn faulting(&self, handle: impl Fn(Fault) + Send + Sync + 'static) -> DomainRef {
        let paging = config(DefaultDomain::Parked).paging;
        let group = self.device.group();
        group
            .paging_domain_with_faults(&paging, handler(handle))
            .unwrap()
    }

    fn report(&self, request: PageRequest) {
        self.iommu.report_page_request(InstanceId::FIRST, request);
    }

    fn answers(&self) -> Vec<String> {
        self.backend.log.take_of(&["answer"])
    }

    fn fault(&self) -> Fault {
        let mut came = self.came.lock().unwrap();
        assert_eq!(came.len(), 1, "one fault came");
        came.remove(0)
    }

    fn none_came(&self) -> bool {
        self.came.lock().unwrap().is_empty()
    }
}

fn request(iova: u64, tag: u16, last: bool) -> PageRequest {
    PageRequest {
        stream: StreamId(1),
        pasid: None,
        iova: Iova(iova),
        prot: Prot::READ,
        tag,
        last,
    }
}

fn pages(fault: &Fault) -> Vec<u64> {
    fault.requests().iter().map(|one| one.iova.0).collect()
}

#[test]
fn a_group_is_kept_until_its_last_request_and_then_handled_as_a_whole() {
    let scene = Scene::new();
    scene.report(request(0x1000, 7, false));
    scene.report(request(0x3000, 7, false));
    assert!(scene.none_came());
    scene.report(request(0x2000, 7, true));
    let fault = scene.fault();
    assert_eq!(pages(&fault), [0x1000, 0x3000, 0x2000]);
    assert!(fault.is_waiting() && Arc::ptr_eq(fault.domain(), &scene.device.domain().unwrap()));
    assert_eq!(scene.answers(), [""; 0]);
    fault.answer(PageResponse::Success);
    assert_eq!(scene.answers(), ["answer 0x1 tag 7 Success"]);
    // The tag is free for another group.
    scene.report(request(0x5000, 7, true));
    assert_eq!(pages(&scene.fault()), [0x5000]);
    assert_eq!(scene.answers(), ["answer 0x1 tag 7 Failure"]);
}

#[test]
fn groups_are_told_apart_by_tag_stream_and_pasid() {
    let scene = Scene::new();
    let domain = scene.device.domain().unwrap();
    let group = scene.device.group();
    group.attach_pasid(pasid(4), &domain).unwrap();
    let with = |iova, stream, pasid: Option<u32>, tag, last| PageRequest {
        stream: StreamId(stream),
        pasid: pasid.and_then(Pasid::new),
        ..request(iova, tag, last)
    };
    scene.report(with(0x1000, 1, None, 7, false));
    scene.report(with(0x2000, 1, None, 8, false));
    scene.report(with(0x3000, 2, None, 7, false));
    scene.report(with(0x4000, 1, Some(4), 7, false));
    scene.report(with(0x5000, 1, Some(4), 7, true));
    assert_eq!(pages(&scene.fault()), [0x4000, 0x5000]);
    scene.report(with(0x6000, 2, None, 7, true));
    assert_eq!(pages(&scene.fault()), [0x3000, 0x6000]);
    scene.report(with(0x7000, 1, None, 8, true));
    assert_eq!(pages(&scene.fault()), [0x2000, 0x7000]);
    scene.report(with(0x8000, 1, None, 7, true));
    assert_eq!(pages(&scene.fault()), [0x1000, 0x8000]);
    assert_eq!(scene.answers().len(), 4, "each fault was dropped");
}

#[test]
fn what_nobody_handles_is_invalid_once() {
    let scene = Scene::new();
    let unhandled = |scene: &Scene, request: PageRequest| {
        scene.report(PageRequest {
            last: false,
            ..request
        });
        assert_eq!(scene.answers(), [""; 0], "the group is not complete");
        scene.report(request);
        let answer = format!("answer {:#x} tag 7 Invalid", request.stream.0);
        assert_eq!(scene.answers(), [answer]);
        assert!(scene.none_came());
    };
    let last = request(0x1000, 7, true);
    let pasid = Some(pasid(9));
    // A PASID that nothing is attached to; a stream that nobody presents; a domain without handler.
    unhandled(&scene, PageRequest { pasid, ..last });
    let stream = StreamId(0x77);
    unhandled(&scene, PageRequest { stream, ..last });
    scene.device.attach(&scene.backend.domain("P")).unwrap();
    unhandled(&scene, last);
    scene.device.detach().unwrap();
    unhandled(&scene, last);
}

#[test]
fn a_fault_that_is_dropped_is_a_failure_once() {
    let scene = Scene::with(Arc::default(), drop);
    scene.report(request(0x1000, 7, true));
    assert_eq!(scene.answers(), ["answer 0x1 tag 7 Failure"]);
    scene.device.detach().unwrap();
    assert_eq!(scene.answers(), [""; 0]);
}

#[test]
fn a_device_that_leaves_its_domain_is_answered_by_that_and_never_again() {
    type Leave = fn(Scene) -> Option<Scene>;
    let ways: [(&str, Leave); 7] = [
        ("another domain", |scene| {
            scene.device.attach(&scene.backend.domain("P")).unwrap();
            Some(scene)
        }),
        ("another domain that handles faults", |scene| {
            scene.device.attach(&scene.faulting(drop)).unwrap();
            Some(scene)
        }),
        ("blocked", |scene| {
            scene.device.attach(&scene.iommu.blocked_domain()).unwrap();
            Some(scene)
        }),
        ("detach", |scene| {
            scene.device.detach().unwrap();
            Some(scene)
        }),
        ("reset", |scene| {
            drop(scene.device.reset_fence().unwrap());
            Some(scene)
        }),
        ("claim", |scene| {
            scene.device.detach().unwrap();
            drop(scene.device.group().claim().unwrap());
            Some(scene)
        }),
        ("release", |scene| {
            let Scene { device, .. } = scene;
            device.release().unwrap();
            None
        }),
    ];
    for (way, leave) in ways {
        let scene = Scene::new();
        let log = scene.backend.log.clone();
        scene.report(request(0x1000, 7, true));
        let fault = scene.fault();
        assert!(fault.is_waiting());
        let scene = leave(scene);
        assert!(!fault.is_waiting(), "{way}");
        assert_eq!(
            log.take_of(&["answer"]),
            ["answer 0x1 tag 7 Invalid"],
            "{way}"
        );
        fault.answer(PageResponse::Success);
        assert_eq!(log.take_of(&["answer"]), [""; 0], "{way}");
        drop(scene);
        assert_eq!(log.take_of(&["answer"]), [""; 0], "{way}");
    }
}

#[test]
fn only_what_was_asked_under_the_domain_that_is_left_is_answered() {
    let scene = Scene::new();
    let domain = scene.device.domain().unwrap();
    let group = scene.device.group();
    group.attach_pasid(pasid(4), &domain).unwrap();
    scene.report(request(0x1000, 7, true));
    let of_the_rid = scene.fault();
    scene.report(PageRequest {
        pasid: Some(pasid(4)),
        ..request(0x1000, 8, true)
    });
    let of_the_pasid = scene.fault();
    scene.device.detach().unwrap();
    assert_eq!(scene.answers(), ["answer 0x1 tag 7 Invalid"]);
    assert!(!of_the_rid.is_waiting() && of_the_pasid.is_waiting());
    group.detach_pasid(pasid(4)).unwrap();
    assert_eq!(scene.answers(), ["answer 0x1 tag 8 Invalid"]);
}

#[test]
fn a_device_that_is_told_to_leave_is_answered_first_and_once() {
    let scene = Scene::new();
    scene.report(request(0x1000, 7, true));
    let fault = scene.fault();
    scene.backend.lose(|_, _| true);
    scene.device.detach().unwrap_err();
    assert!(!fault.is_waiting());
    scene.backend.obey();
    scene.device.detach().unwrap();
    assert_eq!(scene.answers(), ["answer 0x1 tag 7 Invalid"]);
}

#[test]
fn an_answer_may_come_from_another_thread_while_the_device_leaves() {
    for _ in 0..50 {
        let (send, receive) = mpsc::channel::<Fault>();
        let send = Mutex::new(send);
        let scene = Scene::with(Arc::default(), move |fault| {
            send.lock().unwrap().send(fault).unwrap();
        });
        let answering = std::thread::spawn(move || {
            receive.recv().unwrap().answer(PageResponse::Success);
        });
        scene.report(request(0x1000, 7, true));
        scene.device.detach().unwrap();
        answering.join().unwrap();
        assert_eq!(scene.answers().len(), 1);
    }
}

#[test]
fn a_handler_may_change_the_device_s_domain() {
    let here: Arc<Mutex<Option<Device>>> = Arc::default();
    let device = here.clone();
    let scene = Scene::with(Arc::default(), move |fault| {
        device.lock().unwrap().as_ref().unwrap().detach().unwrap();
        fault.answer(PageResponse::Success);
    });
    let Scene {
        backend,
        iommu,
        device,
        ..
    } = scene;
    *here.lock().unwrap() = Some(device);
    iommu.report_page_request(InstanceId::FIRST, request(0x1000, 7, true));
    assert_eq!(
        backend.log.take_of(&["answer"]),
        ["answer 0x1 tag 7 Invalid"]
    );
}

#[test]
fn what_was_asked_under_one_domain_is_not_served_under_another() {
    let scene = Scene::new();
    scene.report(request(0x1000, 7, false));
    let kept = scene.came.clone();
    let other = scene.faulting(move |fault| kept.lock().unwrap().push(fault));
    scene.device.attach(&other).unwrap();
    scene.report(request(0x2000, 7, true));
    for fault in scene.came.lock().unwrap().drain(..) {
        let asked = pages(&fault);
        assert!(!asked.contains(&0x1000), "asked under the old domain");
        fault.answer(PageResponse::Success);
    }
    assert_eq!(scene.answers().len(), 1, "the group is answered once");
}

#[test]
fn a_tag_that_is_used_again_brings_nothing_from_before() {
    let scene = Scene::new();
    let handles = scene.device.domain().unwrap();
    scene.report(request(0x1000, 7, false));
    scene.device.detach().unwrap();
    scene.report(request(0x2000, 7, true));
    assert_eq!(scene.answers(), ["answer 0x1 tag 7 Invalid"]);
    scene.device.attach(&handles).unwrap();
    scene.report(request(0x3000, 7, true));
    assert_eq!(pages(&scene.fault()), [0x3000]);
}

#[test]
fn a_group_that_is_too_large_is_a_failure_once_and_others_go_on() {
    const TOO_MANY: u64 = 600;
    let scene = Scene::new();
    for page in 0..TOO_MANY {
        scene.report(request(page << 12, 7, false));
    }
    scene.report(request(TOO_MANY << 12, 7, true));
    assert!(scene.none_came(), "a part of a group is not served");
    assert_eq!(scene.answers(), ["answer 0x1 tag 7 Failure"]);
    scene.report(request(0x1000, 7, false));
    scene.report(request(0x2000, 7, true));
    assert_eq!(pages(&scene.fault()), [0x1000, 0x2000]);
}

#[test]
fn a_group_for_which_there_is_no_room_is_a_failure_too() {
    let scene = Scene::new();
    for page in 0..512_u64 {
        scene.report(request(page << 12, 7, false));
    }
    scene.report(request(0x1000, 8, false));
    scene.report(request(0x2000, 8, true));
    assert!(scene.none_came(), "a part of a group is not served");
    assert_eq!(scene.answers(), ["answer 0x1 tag 8 Failure"]);
    // The group that took all the room is whole.
    scene.report(request(0x3000, 7, true));
    assert_eq!(scene.fault().requests().len(), 513);
}
