//! The VT-d driver on this workspace's model of a VT-d unit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use intel_vtd_stub::{Config, IntelVtd, Mode, ShutdownPolicy};
use iommu_core::{
    BasicPlatform, DefaultDomain, Device, DeviceControl, DeviceInfo, DmaBlock, DomainRef,
    FirmwareRegion, Iommu, IommuConfig, Iova, PagingConfig, Pasid, PhysAddr, Prot, ReservedKind,
    ReservedRegion, Rest, Result, Stage, StreamId,
};
use mock_hw::vtd::{Order, VtdBank, VtdConfig, VtdModel};
use mock_hw::{DmaDevice, MockClock, MockMemory};

const BASE: u64 = 0x10_0000;
const SIZE: usize = 16 << 20;
const RW: Prot = Prot::READ.union(Prot::WRITE);
/// Where no memory is, so that a device that passes reaches nothing there.
const IOVA: Iova = Iova(0x4000_0000);

type Vtd = IntelVtd<BasicPlatform<VtdBank, MockMemory, MockClock>>;

struct Machine {
    model: VtdModel,
    memory: MockMemory,
    vtd: Vtd,
    iommu: Iommu,
}

/// A device with PASIDs.
struct Control;

impl DeviceControl for Control {
    fn max_pasid(&self) -> u32 {
        0xf_ffff
    }
    fn set_pasid(&self, _: bool) -> Result {
        Ok(())
    }
}

impl Machine {
    fn new(hardware: VtdConfig, config: Config) -> Self {
        let memory = MockMemory::new(PhysAddr(BASE), SIZE);
        let model = VtdModel::new(memory.clone(), hardware);
        let platform = BasicPlatform {
            bank: model.bank(),
            memory: memory.clone(),
            clock: MockClock::new(),
        };
        let vtd = IntelVtd::probe(platform, config).expect("a unit that works");
        let parked = IommuConfig {
            default_domain: DefaultDomain::Parked,
            ..IommuConfig::default()
        };
        let iommu = Iommu::with_config(vtd.clone(), parked).expect("it has a blocked domain");
        Self {
            model,
            memory,
            vtd,
            iommu,
        }
    }

    fn add(&self, source: u32) -> (Device, DmaDevice) {
        let info = DeviceInfo::new("nic").streams([source]);
        let device = self.iommu.add_device(info, Arc::new(Control));
        let device = device.expect("nobody else has the source id");
        (device, DmaDevice::new(&self.model, source))
    }

    fn paging(&self, stage: Stage) -> DomainRef {
        let config = PagingConfig {
            stage,
            ..PagingConfig::default()
        };
        self.iommu
            .paging_domain(&config)
            .expect("a stage that is there")
    }

    fn block(&self, size: usize) -> DmaBlock<MockMemory> {
        DmaBlock::new(&self.memory, size, size, "a buffer").expect("memory is large")
    }

    /// Nothing is left, and nobody did what hardware does not forgive.
    fn end(self) {
        let Self {
            model,
            memory,
            vtd,
            iommu,
        } = self;
        vtd.shutdown(ShutdownPolicy::PassThrough)
            .expect("a unit that works");
        drop((iommu, vtd));
        assert_eq!(model.violations(), [""; 0]);
        assert_eq!(memory.violations(), [""; 0]);
        assert_eq!(memory.allocated(), 0);
    }
}

/// Whether a device reaches the block that is mapped at `iova`.
fn reaches(dma: &DmaDevice, iova: Iova, block: &DmaBlock<MockMemory>) -> bool {
    // Another one each time.
    static MARK: AtomicU32 = AtomicU32::new(1);
    let mark = MARK.fetch_add(1, Ordering::Relaxed);
    let _ = dma.write(iova.0, &mark.to_le_bytes());
    let mut found = [0; 4];
    block.read_at(0, &mut found);
    found == mark.to_le_bytes()
}

/// A unit, the way it is driven, and a stage that it then has.
struct Setup {
    hardware: VtdConfig,
    config: Config,
    stage: Stage,
}

/// Every kind of unit, on hardware that is as late and as early as it may be.
fn setups() -> Vec<Setup> {
    let scalable = || Config {
        mode: Mode::Scalable,
        ..Config::default()
    };
    let legacy = Config::default;
    let kinds = [
        (VtdConfig::legacy(), legacy(), Stage::Any),
        (
            VtdConfig::legacy().with_coherent(true),
            legacy(),
            Stage::Second,
        ),
        (VtdConfig::caching(), legacy(), Stage::Any),
        (
            VtdConfig::legacy().with_widths(&[3], 39),
            legacy(),
            Stage::Any,
        ),
        (
            VtdConfig::legacy().with_page_selective(None),
            legacy(),
            Stage::Any,
        ),
        (
            VtdConfig::legacy().with_write_buffer(true),
            legacy(),
            Stage::Any,
        ),
        (
            VtdConfig::legacy().with_domain_bits(4),
            legacy(),
            Stage::Any,
        ),
        (VtdConfig::scalable(), legacy(), Stage::Any),
        (VtdConfig::scalable(), scalable(), Stage::Any),
        (
            VtdConfig::scalable().with_caching_mode(true),
            scalable(),
            Stage::Second,
        ),
        (VtdConfig::first_level(), scalable(), Stage::First),
        (
            VtdConfig::scalable().with_levels(true, true),
            scalable(),
            Stage::First,
        ),
        (
            VtdConfig::scalable().with_levels(true, true),
            scalable(),
            Stage::Second,
        ),
    ];
    let mut setups = Vec::new();
    for (hardware, config, stage) in kinds {
        for (order, partial) in [
            (Order::Adverse, false),
            (Order::Adverse, true),
            (Order::InOrder, false),
            (Order::Random, true),
        ] {
            let hardware = VtdConfig {
                order,
                partial,
                ..hardware.clone()
            };
            let config = config.clone();
            setups.push(Setup {
                hardware,
                config,
                stage,
            });
        }
    }
    setups
}

/// Runs a story on every unit.
fn on_each(story: impl Fn(&Machine, &Setup)) {
    for setup in setups() {
        let machine = Machine::new(setup.hardware.clone(), setup.config.clone());
        println!("{:x?} {:?}", setup.hardware, setup.stage);
        story(&machine, &setup);
        machine.end();
    }
}

#[test]
fn a_device_reaches_what_is_mapped_for_as_long_as_it_is() {
    on_each(|machine, setup| {
        let (nic, dma) = machine.add(0x10);
        let block = machine.block(4096);
        assert!(!reaches(&dma, IOVA, &block));
        let domain = machine.paging(setup.stage);
        nic.attach(&domain).unwrap();
        assert!(!reaches(&dma, IOVA, &block));
        let mapped = domain.map_block(IOVA, block, RW).unwrap();
        assert!(reaches(&dma, IOVA, mapped.block()));
        let block = mapped.unmap().unwrap();
        assert!(!reaches(&dma, IOVA, &block));
        // Again, elsewhere, in larger pages.
        let large = machine.block(2 << 20);
        let mapped = domain.map_block(IOVA, large, RW).unwrap();
        assert!(reaches(&dma, IOVA, mapped.block()));
        let large = mapped.unmap().unwrap();
        assert!(!reaches(&dma, IOVA, &large));
        let mapped = domain.map_block(IOVA, block, RW).unwrap();
        assert!(reaches(&dma, IOVA, mapped.block()));
        assert_eq!(nic.release().unwrap(), Rest::Blocked);
        assert!(!reaches(&dma, IOVA, mapped.block()));
    });
}

#[test]
fn a_device_is_on_its_domain_alone() {
    on_each(|machine, setup| {
        let (nic, dma) = machine.add(0x10);
        let (other, other_dma) = machine.add(0x18);
        let (one, two) = (machine.paging(setup.stage), machine.paging(setup.stage));
        let first = one.map_block(IOVA, machine.block(4096), RW).unwrap();
        let second = two.map_block(IOVA, machine.block(4096), RW).unwrap();
        let identity = machine.iommu.identity_domain().unwrap();
        let own = Iova(second.block().addr().0);
        other.attach(&one).unwrap();
        for _ in 0..3 {
            nic.attach(&one).unwrap();
            assert!(reaches(&dma, IOVA, first.block()));
            nic.attach(&two).unwrap();
            assert!(reaches(&dma, IOVA, second.block()));
            assert!(!reaches(&dma, IOVA, first.block()));
            assert!(reaches(&other_dma, IOVA, first.block()));
            nic.attach(&identity).unwrap();
            assert!(!reaches(&dma, IOVA, second.block()));
            assert!(reaches(&dma, own, second.block()));
            nic.attach(&machine.iommu.blocked_domain()).unwrap();
            assert!(!reaches(&dma, own, second.block()));
        }
        nic.release().unwrap();
        // A domain's id and tables come to others once it is forgotten.
        drop((first, one));
        for _ in 0..20 {
            other.attach(&two).unwrap();
            let new = machine.paging(setup.stage);
            let mapped = new.map_block(IOVA, machine.block(4096), RW).unwrap();
            other.attach(&new).unwrap();
            assert!(reaches(&other_dma, IOVA, mapped.block()));
            assert!(!reaches(&other_dma, IOVA, second.block()));
        }
        other.release().unwrap();
    });
}

#[test]
fn faults_name_who_and_where() {
    on_each(|machine, setup| {
        while machine.vtd.next_fault().is_some() {}
        let (nic, dma) = machine.add(0x10);
        nic.attach(&machine.paging(setup.stage)).unwrap();
        let _ = dma.write(IOVA.0, &[1]);
        let fault = machine.vtd.next_fault().expect("a fault");
        assert_eq!((fault.source(), fault.iova()), (StreamId(0x10), Some(IOVA)));
        assert!(fault.reason_name().is_some(), "{fault}");
        nic.release().unwrap();
    });
}

fn rmrr(source: u32) -> FirmwareRegion {
    FirmwareRegion {
        streams: vec![StreamId(source)],
        // Misaligned, as firmware has it.
        region: ReservedRegion::new(BASE + SIZE as u64 - 0x2800, 0x1000, ReservedKind::Direct)
            .expect("not empty"),
    }
}

#[test]
fn firmware_goes_on_using_its_region() {
    for setup in setups() {
        println!("{:x?} {:?}", setup.hardware, setup.stage);
        let memory = MockMemory::new(PhysAddr(BASE), SIZE);
        let model = VtdModel::new(memory.clone(), setup.hardware.clone());
        let at = BASE + SIZE as u64 - 0x2000;
        memory.reserve(PhysAddr(BASE + SIZE as u64 - 0x3000), 0x3000);
        let platform = BasicPlatform {
            bank: model.bank(),
            memory: memory.clone(),
            clock: MockClock::new(),
        };
        let config = Config {
            rmrrs: vec![rmrr(0x10), rmrr(0x10), rmrr(0xff00)],
            ..setup.config
        };
        let dma = DmaDevice::new(&model, 0x10);
        let works = || {
            let mut read = [0; 2];
            dma.write(at, b"hi");
            dma.read(at, &mut read);
            dma.write(at, b"  ");
            read == *b"hi"
        };
        assert!(works());
        let vtd = IntelVtd::probe(platform, config).unwrap();
        assert!(works());
        let iommu: Iommu = Iommu::new(vtd.clone()).unwrap();
        let info = DeviceInfo::new("gpu").streams([0x10_u32]);
        let gpu = iommu.add_device(info, Arc::new(Control)).unwrap();
        assert!(works(), "mapped 1:1 in its default domain");
        assert_eq!(gpu.release().unwrap(), Rest::Identity);
        assert!(works());
        vtd.shutdown(ShutdownPolicy::PassThrough).unwrap();
        drop((iommu, vtd));
        assert_eq!(model.violations(), [""; 0]);
        assert_eq!(memory.violations(), [""; 0]);
        assert_eq!(memory.allocated(), 0);
    }
}

#[test]
fn pasids_are_kept_apart() {
    on_each(|machine, setup| {
        let (nic, dma) = machine.add(0x90);
        if machine.vtd.features().max_pasid == 0 {
            nic.release().unwrap();
            return;
        }
        let (one, two) = (machine.paging(setup.stage), machine.paging(setup.stage));
        let first = one.map_block(IOVA, machine.block(4096), RW).unwrap();
        let second = two.map_block(IOVA, machine.block(4096), RW).unwrap();
        let pasid = |value| Pasid::new(value).unwrap();
        let with = |value| dma.with_substream(Some(value));
        let group = nic.group();
        group.attach_pasid(pasid(5), &one).unwrap();
        group.attach_pasid(pasid(700), &two).unwrap();
        assert!(reaches(&with(5), IOVA, first.block()));
        assert!(reaches(&with(700), IOVA, second.block()));
        assert!(!reaches(&dma, IOVA, first.block()));
        nic.attach(&two).unwrap();
        assert!(reaches(&dma, IOVA, second.block()));
        // One domain under two PASIDs: its mappings end under both.
        let third = two.map_block(Iova(0), machine.block(4096), RW).unwrap();
        assert!(reaches(&dma, Iova(0), third.block()));
        assert!(reaches(&with(700), Iova(0), third.block()));
        let third = third.unmap().unwrap();
        assert!(!reaches(&dma, Iova(0), &third) && !reaches(&with(700), Iova(0), &third));

        group.detach_pasid(pasid(5)).unwrap();
        assert!(!reaches(&with(5), IOVA, first.block()));
        group.attach_pasid(pasid(700), &one).unwrap();
        assert!(reaches(&with(700), IOVA, first.block()));
        assert!(reaches(&dma, IOVA, second.block()));
        assert_eq!(nic.release().unwrap(), Rest::Blocked);
        assert!(!reaches(&with(700), IOVA, first.block()));
        assert!(!reaches(&dma, IOVA, second.block()));
    });
}

#[test]
fn keeping_everything_out_at_shutdown_does() {
    for setup in setups() {
        let machine = Machine::new(setup.hardware.clone(), setup.config.clone());
        let (nic, dma) = machine.add(0x10);
        let domain = machine.paging(setup.stage);
        let mapped = domain.map_block(IOVA, machine.block(4096), RW).unwrap();
        nic.attach(&domain).unwrap();
        assert!(reaches(&dma, IOVA, mapped.block()));
        machine.vtd.shutdown(ShutdownPolicy::KeepBlocked).unwrap();
        assert!(!reaches(&dma, IOVA, mapped.block()));
        assert_eq!(machine.model.violations(), [""; 0]);
        // Nobody can say any more where the device is, so nothing of it is given back.
        nic.release().unwrap_err();
    }
}

/// Two units under one core, and memory that both reach: they share nothing else, source ids, domain
/// ids and RMRRs of each other's devices included.
#[test]
fn units_share_nothing() {
    let machine = Machine::new(
        VtdConfig::caching(),
        Config {
            rmrrs: vec![rmrr(0x20)],
            ..Config::default()
        },
    );
    let model = VtdModel::new(machine.memory.clone(), VtdConfig::scalable());
    let platform = BasicPlatform {
        bank: model.bank(),
        memory: machine.memory.clone(),
        clock: MockClock::new(),
    };
    let scalable = Config {
        mode: Mode::Scalable,
        rmrrs: vec![rmrr(0x20)],
        ..Config::default()
    };
    let second = IntelVtd::probe(platform, scalable).unwrap();
    let unit = machine.iommu.add_instance(second.clone()).unwrap();

    let (nic, dma) = machine.add(0x10);
    let info = DeviceInfo::new("other nic").streams([0x10_u32]);
    let other = machine
        .iommu
        .add_device(info.behind(unit), Arc::new(Control));
    let (other, other_dma) = (other.unwrap(), DmaDevice::new(&model, 0x10));
    let (domain, other_domain) = (
        machine.paging(Stage::Any),
        other
            .group()
            .paging_domain(&PagingConfig::default())
            .unwrap(),
    );
    let mapped = domain.map_block(IOVA, machine.block(4096), RW).unwrap();
    let other_mapped = other_domain
        .map_block(IOVA, machine.block(4096), RW)
        .unwrap();
    nic.attach(&other_domain).unwrap_err();
    nic.attach(&domain).unwrap();
    assert!(!reaches(&other_dma, IOVA, mapped.block()));
    other.attach(&other_domain).unwrap();
    assert!(reaches(&dma, IOVA, mapped.block()));
    assert!(reaches(&other_dma, IOVA, other_mapped.block()));
    nic.release().unwrap();
    drop((mapped, domain));
    assert!(reaches(&other_dma, IOVA, other_mapped.block()));
    other.release().unwrap();
    drop((other_mapped, other_domain));
    second.shutdown(ShutdownPolicy::PassThrough).unwrap();
    assert_eq!(model.violations(), [""; 0]);
    drop((second, model));
    machine.end();
}
