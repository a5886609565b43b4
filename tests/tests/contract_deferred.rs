//! Deferred attach (contract 3.6): what firmware left goes on until the device is first used.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use iommu_core::{
    Attached, Context, DefaultDomain, Device, DeviceInfo, ErrorKind, Iommu, Iova, MapBlockError,
    NoControl, Pasid, PhysAddr, Rest,
};
use mock_hw::MockMemory;
use tests::contracts::{Backend, block, rw};

fn memory() -> MockMemory {
    MockMemory::new(PhysAddr(0x4000_0000), 0x10_0000)
}

fn add(iommu: &Iommu) -> Device {
    let info = DeviceInfo::new("nic").streams([1_u32]);
    iommu.add_device(info, Arc::new(NoControl)).unwrap()
}

fn is_deferred(device: &Device) -> bool {
    matches!(device.attached(), Attached::Deferred)
}

const ATTACHED: [&str; 2] = [
    "prepare nic rid to paging",
    "commit rid nic: deferred -> paging",
];

#[test]
fn the_default_domain_touches_nothing_until_something_is_mapped() {
    let backend = Backend::deferred();
    let iommu = backend.core(DefaultDomain::Paging);
    let device = add(&iommu);
    let home = device.domain().unwrap();
    device.detach().unwrap();
    device.group().attach(&home).unwrap();
    assert_eq!(backend.log.take(), [""; 0]);
    assert!(is_deferred(&device));
    let memory = memory();
    let first = device.map_block(Context::MayBlock, Iova(0x1000), block(&memory), rw());
    assert_eq!(backend.log.take(), ATTACHED);
    assert!(device.attached().is(&home));
    let second = device.map_block(Context::Atomic, Iova(0x2000), block(&memory), rw());
    assert_eq!(backend.log.take(), [""; 0], "once");
    drop((first.unwrap(), second.unwrap()));
    assert_eq!(device.release().unwrap(), Rest::Blocked);
}

#[test]
fn another_domain_ends_the_deferral_and_is_the_only_one_attached() {
    for blocked in [false, true] {
        let backend = Backend::deferred();
        let iommu = backend.core(DefaultDomain::Paging);
        let device = add(&iommu);
        let other = match blocked {
            true => iommu.blocked_domain(),
            false => backend.domain("X"),
        };
        device.attach(&other).unwrap();
        let name = if blocked { "blocked" } else { "X" };
        assert_eq!(
            backend.log.take_of(&["commit"]),
            [format!("commit rid nic: deferred -> {name}")]
        );
        device.attach_now().unwrap();
        assert_eq!(backend.log.take(), [""; 0]);
        // From here on the default domain is attached like any other.
        device.detach().unwrap();
        let commits = backend.log.take_of(&["commit"]);
        assert_eq!(commits, [format!("commit rid nic: {name} -> paging")]);
    }
}

#[test]
fn a_claim_ends_the_deferral() {
    let backend = Backend::deferred();
    let iommu = backend.core(DefaultDomain::Paging);
    let device = add(&iommu);
    let claim = device.group().claim().unwrap();
    assert_eq!(
        backend.log.take_of(&["commit"]),
        ["commit rid nic: deferred -> blocked"]
    );
    drop(claim);
    let home = device.domain().unwrap();
    assert!(device.attached().is(&home));
}

#[test]
fn mappings_that_race_attach_once() {
    for _ in 0..30 {
        let backend = Backend::deferred();
        let iommu = backend.core(DefaultDomain::Paging);
        let device = add(&iommu);
        backend.refuse(|_, _| {
            thread::sleep(Duration::from_micros(200));
            false
        });
        let (memory, start) = (memory(), Barrier::new(2));
        let map = |iova: u64| {
            start.wait();
            let block = block(&memory);
            let mapped = device.map_block(Context::MayBlock, Iova(iova), block, rw());
            let mapped = mapped.unwrap();
            assert!(!is_deferred(&device), "attached before it was mapped");
            drop(mapped);
        };
        thread::scope(|scope| {
            scope.spawn(|| map(0x1000));
            scope.spawn(|| map(0x2000));
        });
        assert_eq!(backend.log.take(), ATTACHED);
    }
}

#[test]
fn a_failure_reaches_the_caller_with_the_block_and_the_next_mapping_tries_again() {
    let backend = Backend::deferred();
    let iommu = backend.core(DefaultDomain::Paging);
    let device = add(&iommu);
    let memory = memory();
    backend.refuse(|_, _| true);
    for _ in 0..2 {
        let failed = device.map_block(Context::MayBlock, Iova(0x1000), block(&memory), rw());
        let MapBlockError { error, block: back } = failed.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(back.is_some(), "the block comes back");
        assert!(is_deferred(&device));
    }
    drop(device.attach_now().unwrap_err());
    backend.obey();
    backend.log.take();
    let mapped = device.map_block(Context::MayBlock, Iova(0x1000), block(&memory), rw());
    drop(mapped.unwrap());
    assert_eq!(backend.log.take(), ATTACHED);
    assert_eq!(memory.allocated(), 0);
}

#[test]
fn an_attach_that_is_not_confirmed_reaches_the_caller_too() {
    let backend = Backend::deferred();
    let iommu = backend.core(DefaultDomain::Paging);
    let device = add(&iommu);
    let memory = memory();
    backend.lose(|_, _| true);
    let failed = device.map_block(Context::MayBlock, Iova(0x1000), block(&memory), rw());
    let MapBlockError { error, block: back } = failed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IommuTimedOut);
    assert!(back.is_some());
    assert!(matches!(
        device.attached(),
        Attached::Uncertain { old: None, .. }
    ));
    backend.obey();
    device.detach().unwrap();
    let home = device.domain().unwrap();
    assert!(device.attached().is(&home));
}

#[test]
fn a_mapping_that_may_not_block_is_told_so_and_works_after_attach_now() {
    let backend = Backend::deferred();
    let iommu = backend.core(DefaultDomain::Paging);
    let device = add(&iommu);
    let memory = memory();
    let failed = device.map_block(Context::Atomic, Iova(0x1000), block(&memory), rw());
    let MapBlockError { error, block: back } = failed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(back.is_some() && is_deferred(&device));
    assert_eq!(backend.log.take(), [""; 0]);
    device.attach_now().unwrap();
    assert_eq!(backend.log.take(), ATTACHED);
    let mapped = device.map_block(Context::Atomic, Iova(0x1000), block(&memory), rw());
    drop(mapped.unwrap());
}

#[test]
fn a_mapping_that_may_not_block_does_not_wait_for_an_attach_of_somebody_else() {
    let backend = Backend::deferred();
    let iommu = backend.core(DefaultDomain::Paging);
    let device = Arc::new(add(&iommu));
    device.attach_now().unwrap();
    let memory = memory();
    // While the hardware is being told of another domain.
    let (mapper, buffers) = (device.clone(), memory.clone());
    let (told, outcome) = mpsc::channel();
    backend.lose(move |_, _| {
        let (mapper, block, told) = (mapper.clone(), block(&buffers), told.clone());
        let mapped = thread::spawn(move || {
            let mapped = mapper.map_block(Context::Atomic, Iova(0x1000), block, rw());
            told.send(mapped.unwrap_err().error.kind()).unwrap();
        });
        let start = Instant::now();
        while !mapped.is_finished() && start.elapsed() < Duration::from_secs(10) {
            thread::yield_now();
        }
        assert!(mapped.is_finished(), "it waits for the lock");
        false
    });
    device.attach(&iommu.blocked_domain()).unwrap();
    assert_eq!(outcome.recv().unwrap(), ErrorKind::WouldBlock);
    backend.obey();
    assert_eq!(memory.allocated(), 0, "the buffer came back");
}

#[test]
fn a_reset_performs_the_attach_and_mappings_go_on() {
    let backend = Backend::deferred();
    let iommu = backend.core(DefaultDomain::Paging);
    let device = add(&iommu);
    let fence = device.reset_fence().unwrap();
    assert!(device.attached().is(&iommu.blocked_domain()));
    backend.log.take();
    device.attach_now().expect("nothing to do");
    assert_eq!(backend.log.take(), [""; 0]);
    fence.end().unwrap();
    assert!(device.attached().is(&device.domain().unwrap()));
}

#[test]
fn a_pasid_of_a_deferred_device_is_not_left_behind_when_it_is_released() {
    let backend = Backend::deferred().and_pasids([("nic", 16)]);
    let iommu = backend.core(DefaultDomain::Paging);
    let device = add(&iommu);
    let process = backend.domain("P");
    let pasid = Pasid::new(1).unwrap();
    // Whether this is refused, or attaches the device first, is the core's to choose.
    let attached = device.group().attach_pasid(pasid, &process);
    let commits = backend.log.take_of(&["commit pasid"]);
    let reached = attached.is_ok() && !commits.is_empty();
    device.release().unwrap();
    let commits = backend.log.take_of(&["commit pasid"]);
    if reached {
        assert_eq!(
            commits,
            ["commit pasid 1 nic: P -> blocked"],
            "the hardware goes on walking P, which nobody keeps"
        );
    }
}

#[test]
fn a_pasid_of_a_deferred_device_does_not_outlast_the_start_of_its_reset() {
    let backend = Backend::deferred().and_pasids([("nic", 16)]);
    let iommu = backend.core(DefaultDomain::Paging);
    let device = add(&iommu);
    let process = backend.domain("P");
    let pasid = Pasid::new(1).unwrap();
    let attached = device.group().attach_pasid(pasid, &process);
    let commits = backend.log.take_of(&["commit pasid"]);
    let reached = attached.is_ok() && !commits.is_empty();
    let fence = device.reset_fence().unwrap();
    let commits = backend.log.take_of(&["commit pasid"]);
    if reached {
        assert_eq!(commits, ["commit pasid 1 nic: P -> blocked"]);
    }
    drop(fence);
}

#[test]
fn a_deferred_newcomer_joins_what_its_group_was_explicitly_put_on() {
    let backend = Backend::deferred();
    let iommu = backend.core(DefaultDomain::Paging);
    let join = |name: &str, stream: u32| {
        let info = DeviceInfo::new(name).streams([stream]).group("g");
        iommu.add_device(info, Arc::new(NoControl)).unwrap()
    };
    let a = join("a", 1);
    let b = join("b", 2);
    assert!(is_deferred(&a) && is_deferred(&b), "home defers");
    let other = backend.domain("X");
    a.group().attach(&other).unwrap();
    assert!(a.attached().is(&other) && b.attached().is(&other));
    let c = join("c", 3);
    assert!(c.attached().is(&other), "X is not the default domain");
    backend.log.take();
    assert_eq!(c.release().unwrap(), Rest::Blocked);
    assert_eq!(
        backend.log.take_of(&["commit"]),
        ["commit rid c: X -> blocked"]
    );
}
