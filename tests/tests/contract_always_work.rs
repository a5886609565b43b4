//! Identity and blocked always work (contract 3.5): attaching them, parking, and quarantine
//! allocate nothing, neither from the heap nor for the hardware.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    Attached, DeviceControl, DeviceInfo, Domain, DomainRef, Iommu, IommuOps, Member, NoControl,
    PagingConfig, Pasid, Probed, ReservedKind, ReservedRegion, Rest, Result, Slot,
};
use mock_hw::MockPagingOps;
use mock_hw::smmuv3::ModelConfig;
use tests::machine::Machine;
use tests::model::ModelMachine;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// Counts what each thread asks the heap for.
struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // At the end of a thread there is nothing to count with.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is the one that this asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the one that this asks for.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// Fails where `act` asks the heap for anything.
fn without_heap<R>(what: &str, act: impl FnOnce() -> R) -> R {
    let before = ALLOCATIONS.get();
    let result = act();
    let asked = ALLOCATIONS.get() - before;
    assert_eq!(asked, 0, "{what} allocates");
    result
}

/// A backend that does as it is told, without a mock's bookkeeping.
struct Plain {
    blocked: DomainRef,
    identity: DomainRef,
}

impl IommuOps for Plain {
    fn blocked_domain(&self) -> Option<DomainRef> {
        Some(self.blocked.clone())
    }
    fn identity_domain(&self) -> Option<DomainRef> {
        Some(self.identity.clone())
    }
    fn paging_domain(&self, _config: &PagingConfig) -> Result<DomainRef> {
        Ok(Domain::paging(MockPagingOps::new()))
    }
    fn probe(&self, _device: &DeviceInfo, _control: Arc<dyn DeviceControl>) -> Result<Probed> {
        Ok(Probed {
            state: Box::new(()),
            reserved: Vec::new(),
            attached: Attached::On(self.blocked.clone()),
            max_pasids: 8,
        })
    }
    fn prepare(&self, _member: &mut Member, _slot: Slot) -> Result {
        Ok(())
    }
    fn cancel(&self, _member: &mut Member, _slot: Slot) {}
    fn commit(&self, members: &mut [Member], _slot: Slot) -> Result {
        members.iter_mut().for_each(Member::landed);
        Ok(())
    }
    fn quarantine(&self, _members: &mut [Member]) {}
    fn release(&self, _member: &mut Member) {}
}

#[test]
fn the_core_takes_nothing_from_the_heap() {
    let iommu: Iommu = Iommu::new(Plain {
        blocked: Domain::blocked(),
        identity: Domain::identity(),
    })
    .unwrap();
    let add = |name: &str, stream: u32| {
        let info = DeviceInfo::new(name).streams([stream]).group("g");
        iommu.add_device(info, Arc::new(NoControl)).unwrap()
    };
    let (a, b) = (add("a", 1), add("b", 2));
    let group = a.group();
    let paging = group.paging_domain(&PagingConfig::default()).unwrap();
    let pasid = Pasid::new(1).unwrap();
    group.attach_pasid(pasid, &paging).unwrap();
    let (blocked, identity) = (iommu.blocked_domain(), iommu.identity_domain().unwrap());
    for domain in [&blocked, &identity, &blocked] {
        without_heap("an attach", || group.attach(domain)).unwrap();
        group.attach(&paging).unwrap();
    }
    without_heap("a detach of a PASID", || group.detach_pasid(pasid)).unwrap();
    let fence = without_heap("a reset fence", || a.reset_fence()).unwrap();
    fence.end().unwrap();
    without_heap("quarantine", || group.quarantine());
    group.detach().unwrap();
    group.attach_pasid(pasid, &paging).unwrap();
    assert_eq!(
        without_heap("a release", || a.release()).unwrap(),
        Rest::Blocked
    );
    without_heap("a dropped device", || drop(b));
}

#[test]
fn an_smmu_needs_no_memory_for_them_either() {
    let machine = ModelMachine::new(ModelConfig::default(), 1);
    let memory = machine.memory();
    let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).unwrap();
    let iommu: Iommu = Iommu::new(smmu).unwrap();
    let region = ReservedRegion::new(0x4100_0000, 0x3000, ReservedKind::Direct).unwrap();
    let nic = DeviceInfo::new("nic").streams([0x110_u32]);
    let gpu = DeviceInfo::new("gpu").streams([0x220_u32]).reserved(region);
    let nic = iommu.add_device(nic, Arc::new(NoControl)).unwrap();
    let gpu = iommu.add_device(gpu, Arc::new(NoControl)).unwrap();
    let before = memory.allocations();
    let identity = iommu.identity_domain().unwrap();
    nic.attach(&iommu.blocked_domain()).unwrap();
    nic.attach(&identity).unwrap();
    gpu.attach(&identity).unwrap();
    for device in [&nic, &gpu] {
        // Back to the default domain, whose tables are there.
        device.detach().unwrap();
    }
    let before_parks = memory.allocations();
    let fences = [nic.reset_fence().unwrap(), gpu.reset_fence().unwrap()];
    assert_eq!(memory.allocations(), before_parks);
    drop(fences);
    let before_releases = memory.allocations();
    assert_eq!(nic.release().unwrap(), Rest::Blocked);
    assert_eq!(gpu.release().unwrap(), Rest::Identity);
    assert_eq!(memory.allocations(), before_releases);
    let for_regions = before_parks - before;
    assert!(
        for_regions <= 3,
        "tables for the pinned region at most: {for_regions}"
    );
}
