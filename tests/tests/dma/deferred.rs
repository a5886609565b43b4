//! A device whose attach is deferred: the first mapping performs it, and one that cannot be does not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use iommu_core::dma::{Dma, Failed, FromDevice, ToDevice};
use iommu_core::{
    AddrRange, Attached, Context, DefaultDomain, Device, DeviceInfo, DmaBlock, ErrorKind, Iova,
    NoControl, PhysAddr, Result,
};
use mock_hw::MockMemory;
use tests::contracts::{Backend, block};

use super::setup::PAGE;

const ATTACHED: [&str; 2] = [
    "prepare nic rid to paging",
    "commit rid nic: deferred -> paging",
];

struct Scene {
    backend: Backend,
    memory: MockMemory,
    device: Device,
    dma: Dma<MockMemory>,
}

impl Scene {
    fn new() -> Self {
        let backend = Backend::deferred();
        let iommu = backend.core(DefaultDomain::Paging);
        let info = DeviceInfo::new("nic").streams([1_u32]);
        let device = iommu.add_device(info, Arc::new(NoControl)).unwrap();
        let memory = MockMemory::new(PhysAddr(0x4000_0000), 0x10_0000);
        let dma = device.dma(memory.clone()).unwrap();
        assert_eq!(backend.log.take(), [""; 0]);
        Self {
            backend,
            memory,
            device,
            dma,
        }
    }

    fn in_atomic_context(&self) -> Dma<MockMemory> {
        self.dma.clone().in_context(Context::Atomic)
    }

    /// Nothing was done about it yet.
    fn check_deferred(&self) {
        assert_eq!(self.backend.log.take(), [""; 0]);
        assert!(matches!(self.device.attached(), Attached::Deferred));
    }

    /// It was attached, once.
    fn check_attached(&self) {
        assert_eq!(self.backend.log.take(), ATTACHED);
        let home = self.device.domain().unwrap();
        assert!(self.device.attached().is(&home));
    }

    /// One page is left to be handed out.
    fn narrow(&self) -> Iova {
        let geometry = self.device.domain().unwrap().geometry().unwrap();
        let (only, last) = (0x10_0000, geometry.aperture.last());
        for (first, last) in [(0, only - 1), (only + PAGE as u64, last)] {
            let taken = AddrRange::inclusive(first, last).unwrap();
            self.dma.reserve(taken).unwrap();
        }
        Iova(only)
    }
}

fn refused(failed: Failed<DmaBlock<MockMemory>>) -> ErrorKind {
    assert!(failed.buffer.is_some(), "no device reaches it");
    failed.error.kind()
}

fn map_doorbell(dma: &Dma<MockMemory>, doorbell: u64) -> Result<Iova> {
    // SAFETY: no device knows of it.
    unsafe { dma.map_doorbell(PhysAddr(doorbell)) }
}

#[test]
fn the_first_mapping_performs_it() {
    let scene = Scene::new();
    let atomic = scene.in_atomic_context();
    let failed = atomic.map(block(&scene.memory), FromDevice).unwrap_err();
    assert_eq!(refused(failed), ErrorKind::WouldBlock);
    scene.check_deferred();
    let first = scene.dma.map(block(&scene.memory), FromDevice).unwrap();
    scene.check_attached();
    let second = atomic.map(block(&scene.memory), FromDevice).unwrap();
    assert_eq!(scene.backend.log.take(), [""; 0], "once");
    drop((first, second));
}

#[test]
fn what_could_not_be_mapped_anyway_leaves_it_deferred() {
    let scene = Scene::new();
    for dma in [&scene.dma, &scene.in_atomic_context()] {
        let none: Vec<DmaBlock<MockMemory>> = Vec::new();
        let failed = dma.map(none, FromDevice).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::InvalidArgument);
        assert!(failed.buffer.is_some());
        let error = dma.allocate_coherent(0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let error = dma.with_bounced(&mut [], ToDevice, |_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let error = map_doorbell(dma, 0x0802_0ffe).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        scene.check_deferred();
    }
}

#[test]
fn an_attach_that_fails_leaves_nothing_and_the_next_mapping_tries_again() {
    let scene = Scene::new();
    let only = scene.narrow();
    scene.backend.refuse(|_, _| true);
    for _ in 0..3 {
        let failed = scene.dma.map(block(&scene.memory), FromDevice).unwrap_err();
        assert_eq!(refused(failed), ErrorKind::NoSpace);
        let bounced = DmaBlock::new(&scene.memory, 64, 8, "a buffer").unwrap();
        let failed = scene.dma.map(bounced, FromDevice).unwrap_err();
        assert_eq!(refused(failed), ErrorKind::NoSpace);
        assert_eq!(
            scene.backend.log.take_of(&["commit"]),
            [""; 0],
            "not attached"
        );
        scene.check_deferred();
        assert_eq!(scene.memory.allocated(), 0);
    }
    scene.backend.obey();
    let rx = scene.dma.map(block(&scene.memory), FromDevice).unwrap();
    assert_eq!(rx.iova(), only);
    scene.check_attached();
}

#[test]
fn an_attach_that_is_not_confirmed_gives_the_buffer_back() {
    let scene = Scene::new();
    let only = scene.narrow();
    scene.backend.lose(|_, _| true);
    let failed = scene.dma.map(block(&scene.memory), FromDevice).unwrap_err();
    assert_eq!(refused(failed), ErrorKind::IommuTimedOut);
    assert_eq!(scene.memory.allocated(), 0);
    let home = scene.device.domain().unwrap();
    assert_eq!(home.leaked_bytes(), 0);
    let uncertain = matches!(scene.device.attached(), Attached::Uncertain { .. });
    assert!(uncertain);
    scene.backend.obey();
    scene.device.detach().unwrap();
    let rx = scene.dma.map(block(&scene.memory), FromDevice).unwrap();
    assert_eq!(rx.iova(), only);
    assert!(scene.device.attached().is(&home));
}

#[test]
fn first_mappings_that_race_attach_once_and_all_succeed() {
    const THREADS: usize = 4;
    for _ in 0..20 {
        let scene = Scene::new();
        scene.backend.refuse(|_, _| {
            // The others come meanwhile.
            std::thread::sleep(Duration::from_micros(200));
            false
        });
        let committed = Arc::new(AtomicBool::new(false));
        let is_committed = committed.clone();
        scene.backend.lose(move |_, _| {
            committed.store(true, Ordering::SeqCst);
            false
        });
        let start = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                let (dma, buffer) = (scene.dma.clone(), block(&scene.memory));
                let (is_committed, start) = (&is_committed, &start);
                scope.spawn(move || {
                    start.wait();
                    let rx = dma.map(buffer, FromDevice).unwrap();
                    let attached = is_committed.load(Ordering::SeqCst);
                    assert!(attached, "before it is mapped");
                    rx.unmap().unwrap();
                });
            }
        });
        scene.check_attached();
        assert_eq!(scene.memory.allocated(), 0);
    }
}

#[test]
fn a_doorbell_performs_it_too() {
    let scene = Scene::new();
    let atomic = scene.in_atomic_context();
    let error = map_doorbell(&atomic, 0x0802_0040).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    scene.check_deferred();
    scene.backend.refuse(|_, _| true);
    let error = map_doorbell(&scene.dma, 0x0802_0040).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    scene.backend.obey();
    scene.backend.log.take();
    scene.check_deferred();
    let at = map_doorbell(&scene.dma, 0x0802_0040).unwrap();
    scene.check_attached();
    assert_eq!(map_doorbell(&atomic, 0x0802_0040).unwrap(), at);
    assert_eq!(scene.backend.log.take(), [""; 0], "once");
}
