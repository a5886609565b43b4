//! Paging domains of the SMMUv3 driver on the model: what an unmap waits for and gives back, and
//! mappings that change in place, seen by a device.

use std::sync::Arc;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    Device, DeviceInfo, DmaBlock, DomainRef, ErrorKind, Iommu, Iova, NoControl, PagingConfig,
    PhysAddr, Prot, Stage,
};
use mock_hw::smmuv3::ModelConfig;
use mock_hw::{DmaDevice, Outcome};
use tests::machine::Machine;
use tests::model::ModelMachine;

const K4: u64 = 1 << 12;
const M2: u64 = 1 << 21;
const M512: u64 = 512 << 20;
const RW: Prot = Prot::READ.union(Prot::WRITE);
const STREAM: u32 = 0x10;

struct Setup {
    machine: ModelMachine,
    domain: DomainRef,
    endpoint: DmaDevice,
    _device: Device,
    _iommu: Iommu,
}

impl Setup {
    fn new(config: ModelConfig, stage: Stage) -> Self {
        let machine = ModelMachine::new(config, 1);
        let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).expect("an SMMU");
        let iommu: Iommu = Iommu::new(smmu).expect("a core");
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
            endpoint: DmaDevice::new(machine.model(), STREAM),
            machine,
            domain,
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
    fn block(&self, size: usize) -> DmaBlock<mock_hw::MockMemory> {
        let block = DmaBlock::new(&self.machine.memory(), size, size, "a block").expect("memory");
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
        assert_eq!(self.machine.model().violations(), [""; 0]);
        assert_eq!(self.machine.memory().violations(), [""; 0]);
    }
}

fn without_ranges() -> ModelConfig {
    let config = ModelConfig::default();
    ModelConfig {
        idr3: config.idr3 & !(1 << 10),
        ..config
    }
}

#[test]
fn an_unmap_of_any_size_waits_once_and_gives_all_tables_back() {
    for config in [ModelConfig::default(), without_ranges()] {
        for stage in [Stage::First, Stage::Second] {
            let setup = Setup::new(config.clone(), stage);
            // What the pages begin and end in stays.
            setup.map(0, 0x4000_0000, K4, RW);
            let baseline = setup.machine.memory().allocated();
            for len in [K4, 3 * K4, M2, M2 + K4, M512] {
                // A target that is less aligned than larger pages are.
                setup.map(1 << 39, 0x4000_1000, len, RW);
                setup.machine.model().clear_waits();
                setup.domain.unmap(Iova(1 << 39), len).expect("an unmap");
                assert_eq!(setup.machine.model().waits(), 1, "{len:#x}");
                let left = setup.machine.memory().allocated() - baseline;
                assert!(left <= 4 * 4096, "{left:#x} bytes of tables after {len:#x}");
            }
            setup.check();
        }
    }
}

#[test]
fn what_was_unmapped_in_one_go_is_out_of_reach_at_every_page() {
    for config in [ModelConfig::default(), without_ranges()] {
        let setup = Setup::new(config, Stage::First);
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
    let setup = Setup::new(ModelConfig::default(), Stage::Second);
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
    let setup = Setup::new(ModelConfig::default(), Stage::First);
    let block = setup.block(1 << 21);
    setup.map(4 * M2, block.addr().0, M2, RW);
    let all = || {
        (0..512_u64)
            .all(|page| setup.reads(4 * M2 + page * K4) == Some(u8::try_from(page % 251).unwrap()))
    };
    assert!(all());
    let whole = setup.machine.memory().allocated();
    setup.domain.split(Iova(4 * M2 + 5)).expect("a split");
    assert!(all());
    assert_eq!(setup.machine.memory().allocated(), whole + 4096);
    // SAFETY: nobody else uses the domain.
    unsafe { setup.domain.merge(Iova(4 * M2), M2) }.expect("a merge");
    assert!(all());
    assert_eq!(
        setup.machine.memory().allocated(),
        whole,
        "the table is back"
    );

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
    let setup = Setup::new(config, Stage::First);
    setup.map(0, 0x4000_0000, M2, RW);
    let refused = setup.domain.split(Iova(0)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    // SAFETY: nobody else uses the domain.
    let refused = unsafe { setup.domain.merge(Iova(0), M2) }.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    setup.check();
}
