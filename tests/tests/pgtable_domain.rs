//! Paging domains on the models: what an unmap waits for and gives back, and mappings that change in
//! place, seen by a device.

use std::sync::Arc;

use arm_smmu_v3::{ArmSmmuV3, Config};
use intel_vtd_stub::{IntelVtd, Mode};
use iommu_core::{
    Device, DeviceInfo, DmaBlock, DomainRef, ErrorKind, Iommu, Iova, NoControl, PagingConfig,
    PhysAddr, Prot, Stage,
};
use mock_hw::smmuv3::ModelConfig;
use mock_hw::vtd::VtdConfig;
use mock_hw::{DmaDevice, MockMemory, Outcome};
use tests::machine::Machine;
use tests::model::{ModelMachine, VtdModelMachine};

const K4: u64 = 1 << 12;
const M2: u64 = 1 << 21;
const M512: u64 = 512 << 20;
const RW: Prot = Prot::READ.union(Prot::WRITE);
const STREAM: u32 = 0x10;

struct Setup {
    name: String,
    memory: MockMemory,
    domain: DomainRef,
    endpoint: DmaDevice,
    waits: Box<dyn Fn() -> usize>,
    violations: Box<dyn Fn() -> Vec<String>>,
    _device: Device,
    _iommu: Iommu,
}

impl Setup {
    fn smmu(config: ModelConfig, stage: Stage) -> Self {
        let machine = ModelMachine::new(config, 1);
        let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).expect("an SMMU");
        let iommu = Iommu::new(smmu).expect("a core");
        let model = machine.model().clone();
        let endpoint = DmaDevice::new(&model, STREAM);
        let counted = model.clone();
        Self {
            name: format!("SMMUv3, stage {stage:?}"),
            waits: Box::new(move || counted.waits()),
            violations: Box::new(move || model.violations()),
            ..Self::new(machine.memory(), endpoint, iommu, stage)
        }
    }

    fn vtd(config: VtdConfig, mode: Mode, stage: Stage) -> Self {
        let machine = VtdModelMachine::new(config, 1);
        let own = intel_vtd_stub::Config {
            mode,
            ..intel_vtd_stub::Config::default()
        };
        let vtd = IntelVtd::probe(machine.platform(), own).expect("a VT-d");
        let iommu = Iommu::new(vtd).expect("a core");
        let model = machine.model().clone();
        let endpoint = DmaDevice::new(&model, STREAM);
        let counted = model.clone();
        Self {
            name: format!("VT-d, stage {stage:?}"),
            waits: Box::new(move || counted.waits()),
            violations: Box::new(move || model.violations()),
            ..Self::new(machine.memory(), endpoint, iommu, stage)
        }
    }

    /// Both kinds of hardware, with each stage.
    fn all() -> [Self; 4] {
        [
            Self::smmu(ModelConfig::default(), Stage::First),
            Self::smmu(ModelConfig::default(), Stage::Second),
            Self::vtd(VtdConfig::first_level(), Mode::Scalable, Stage::First),
            Self::vtd(VtdConfig::legacy(), Mode::Legacy, Stage::Second),
        ]
    }

    /// An SMMUv3 that is told page by page, or of all at once, with each stage.
    fn without_ranges() -> [Self; 2] {
        let config = ModelConfig::default();
        let config = ModelConfig {
            idr3: config.idr3 & !(1 << 10),
            ..config
        };
        [Stage::First, Stage::Second].map(|stage| Self::smmu(config.clone(), stage))
    }

    fn new(memory: MockMemory, endpoint: DmaDevice, iommu: Iommu, stage: Stage) -> Self {
        let info = DeviceInfo::new("one").streams([STREAM]);
        let device = iommu.add_device(info, Arc::new(NoControl));
        let device = device.expect("a device");
        let config = PagingConfig {
            stage,
            ..PagingConfig::default()
        };
        let domain = iommu.paging_domain(&config).expect("a domain");
        device.attach(&domain).expect("an attach");
        Self {
            name: String::new(),
            memory,
            domain,
            endpoint,
            waits: Box::new(|| 0),
            violations: Box::new(Vec::new),
            _device: device,
            _iommu: iommu,
        }
    }

    fn map(&self, iova: u64, phys: u64, len: u64, prot: Prot) {
        // SAFETY: nobody relies on that memory.
        let mapped = unsafe { self.domain.map(Iova(iova), PhysAddr(phys), len, prot) };
        mapped.expect("a mapping");
    }

    /// A block aligned to its size, of bytes that say which page they are in.
    fn block(&self, size: usize) -> DmaBlock<MockMemory> {
        let block = DmaBlock::new(&self.memory, size, size, "a block").expect("memory");
        for page in 0..size / 4096 {
            block.write_at(page * 4096, &[u8::try_from(page % 251).expect("small")]);
        }
        block
    }

    fn reads(&self, iova: u64) -> Option<u8> {
        let mut byte = [0];
        matches!(self.endpoint.read(iova, &mut byte), Outcome::Translated(_)).then_some(byte[0])
    }

    fn writes(&self, iova: u64) -> bool {
        matches!(self.endpoint.write(iova, b"one"), Outcome::Translated(_))
    }

    fn check(&self) {
        assert_eq!((self.violations)(), [""; 0], "{}", self.name);
        assert_eq!(self.memory.violations(), [""; 0], "{}", self.name);
    }
}

#[test]
fn an_unmap_of_any_size_waits_once_and_gives_all_tables_back() {
    for setup in Setup::all().into_iter().chain(Setup::without_ranges()) {
        let name = &setup.name;
        // Each where no table was.
        let places = (1 << 39..).step_by(1 << 30);
        for (at, len) in places.zip([K4, 3 * K4, M2, M2 + K4, M512]) {
            // The page behind keeps what is not this range's alone.
            setup.map(at + len, 0x4000_0000, K4, RW);
            let baseline = setup.memory.allocated();
            for _ in 0..2 {
                // A target that is less aligned than larger pages are.
                setup.map(at, 0x4000_1000, len, RW);
                let tables = setup.memory.allocated() - baseline;
                assert_eq!(tables as u64, len / M2 * K4, "{name}: {len:#x}");
                let waits = (setup.waits)();
                setup.domain.unmap(Iova(at), len).expect("an unmap");
                assert_eq!((setup.waits)() - waits, 1, "{name}: {len:#x}");
                assert_eq!(setup.memory.allocated(), baseline, "{name}: {len:#x}");
            }
            let kept = setup.domain.translate(Iova(at + len));
            assert_eq!(kept, Some(PhysAddr(0x4000_0000)), "{name}");
        }
        setup.check();
    }
}

#[test]
fn what_was_unmapped_in_one_go_is_out_of_reach_at_every_page() {
    for setup in Setup::all().into_iter().chain(Setup::without_ranges()) {
        let block = setup.block(1 << 20);
        let at = 0x1_0000_0000 - K4;
        setup.map(at, block.addr().0, 1 << 20, RW);
        let pages = (0..256).map(|page| at + page * K4);
        for (page, iova) in (0..).zip(pages.clone()) {
            assert_eq!(setup.reads(iova), Some(u8::try_from(page % 251).unwrap()));
        }
        setup.domain.unmap(Iova(at), 1 << 20).expect("an unmap");
        assert!(pages.clone().all(|iova| setup.reads(iova).is_none()));
        setup.check();
    }
}

#[test]
fn permissions_change_in_place() {
    let setup = Setup::smmu(ModelConfig::default(), Stage::Second);
    let block = setup.block(8192);
    setup.map(M2, block.addr().0, 8192, RW);
    assert!(setup.writes(M2 + 8));
    // SAFETY: nobody relies on that memory.
    unsafe { setup.domain.protect(Iova(M2), K4, Prot::READ) }.expect("a change");
    assert!(!setup.writes(M2 + 8));
    assert_eq!(setup.reads(M2), Some(0));
    assert!(setup.writes(M2 + K4), "the other page");
    // SAFETY: as above.
    let refused = unsafe { setup.domain.protect(Iova(M2), 3 * K4, RW) }.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    assert!(!setup.writes(M2 + 8), "nothing changed");
    setup.check();
}

#[test]
fn a_block_is_split_and_merged_under_a_device() {
    let setup = Setup::smmu(ModelConfig::default(), Stage::First);
    let block = setup.block(1 << 21);
    setup.map(4 * M2, block.addr().0, M2, RW);
    let all = || {
        (0..512_u64)
            .all(|page| setup.reads(4 * M2 + page * K4) == Some(u8::try_from(page % 251).unwrap()))
    };
    assert!(all());
    let whole = setup.memory.allocated();
    setup.domain.split(Iova(4 * M2 + 5)).expect("a split");
    assert!(all());
    assert_eq!(setup.memory.allocated(), whole + 4096);
    // SAFETY: nobody else uses the domain.
    unsafe { setup.domain.merge(Iova(4 * M2), M2) }.expect("a merge");
    assert!(all());
    assert_eq!(setup.memory.allocated(), whole, "the table is back");

    setup.domain.split(Iova(4 * M2)).expect("a split");
    // SAFETY: nobody relies on that memory.
    let read_only = unsafe { setup.domain.protect(Iova(5 * M2 - K4), K4, Prot::READ) };
    read_only.expect("a change of a part");
    // SAFETY: nobody else uses the domain.
    let refused = unsafe { setup.domain.merge(Iova(4 * M2), M2) }.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(all() && setup.writes(4 * M2) && !setup.writes(5 * M2 - K4));
    setup
        .domain
        .unmap(Iova(4 * M2 + K4), K4)
        .expect("a part of it");
    assert!(setup.reads(4 * M2 + K4).is_none() && setup.reads(4 * M2).is_some());
    // SAFETY: as above.
    let refused = unsafe { setup.domain.merge(Iova(4 * M2), M2) }.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    setup.check();
}

#[test]
fn hardware_that_does_not_cope_keeps_its_blocks() {
    let config = ModelConfig::default();
    let config = ModelConfig {
        idr3: config.idr3 & !(0b11 << 11) | 1 << 11,
        ..config
    };
    let setup = Setup::smmu(config, Stage::First);
    setup.map(0, 0x4000_0000, M2, RW);
    let refused = setup.domain.split(Iova(0)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    // SAFETY: nobody else uses the domain.
    let refused = unsafe { setup.domain.merge(Iova(0), M2) }.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    setup.check();
}
