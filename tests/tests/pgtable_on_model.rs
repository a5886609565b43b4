//! Random sequences on paging domains, seen by devices behind this workspace's models: their walkers,
//! and their caches that drop nothing before they have to, are what says where an address leads.

use std::sync::Arc;

use arm_smmu_v3::ArmSmmuV3;
use intel_vtd_stub::{IntelVtd, Mode};
use iommu_core::{DeviceInfo, Iommu, NoControl, Stage};
use mock_hw::DmaDevice;
use mock_hw::smmuv3::ModelConfig;
use mock_hw::vtd::VtdConfig;
use tests::machine::Machine;
use tests::model::{ModelMachine, VtdModelMachine};
use tests::sequences::{ModelProber, Rig};

const SEED: u64 = 0x9a9e;
const SEQUENCES: u64 = 64;
const STREAM: u32 = 0x10;

/// Runs sequences on paging domains of `stage`. `resizable` is whether their leaves can be split and
/// merged.
fn run(iommu: Iommu, dma: DmaDevice, machine: &impl Machine, stage: Stage, resizable: bool) {
    let info = DeviceInfo::new("one").streams([STREAM]);
    let device = iommu.add_device(info, Arc::new(NoControl));
    let device = device.expect("a device");
    let prober = ModelProber::new(dma);
    let rig = Rig::new(iommu, device, stage, resizable, prober, &machine.memory());
    let counts = rig.expect("memory").run(SEED, 0..SEQUENCES);
    let counts = counts.unwrap_or_else(|what| panic!("{what}"));
    let all = ["map", "unmap", "protect", "page written"];
    let resized = ["split", "merge"];
    let expected = all.iter().chain(resized.iter().filter(|_| resizable));
    for what in expected {
        assert!(counts.of(what) >= 10, "{what}:{counts}");
    }
}

/// `SMMU_IDR3`: range invalidation, and the level of break-before-make.
const RIL: u32 = 1 << 10;
const BBML: u32 = 0b11 << 11;
const BBML_2: u32 = 2 << 11;

#[test]
fn the_smmu_leads_a_device_where_the_domain_says() {
    for idr3 in [RIL | BBML_2, BBML_2, RIL, 0] {
        for stage in [Stage::First, Stage::Second] {
            let config = ModelConfig::default();
            let config = ModelConfig {
                idr3: config.idr3 & !(RIL | BBML) | idr3,
                ..config
            };
            let machine = ModelMachine::new(config, 0);
            let config = arm_smmu_v3::Config::default();
            let smmu = ArmSmmuV3::probe(machine.platform(), config).expect("an SMMU");
            let iommu = Iommu::new(smmu).expect("a core");
            let device = DmaDevice::new(machine.model(), STREAM);
            run(iommu, device, &machine, stage, idr3 & BBML == BBML_2);
            assert_eq!(machine.model().violations(), [""; 0]);
        }
    }
}

#[test]
fn the_vtd_leads_a_device_where_the_domain_says() {
    let setups = [
        (VtdConfig::legacy(), Mode::Legacy, Stage::Second),
        (VtdConfig::caching(), Mode::Legacy, Stage::Second),
        (VtdConfig::scalable(), Mode::Scalable, Stage::Second),
        (VtdConfig::first_level(), Mode::Scalable, Stage::First),
    ];
    for (config, mode, stage) in setups {
        let machine = VtdModelMachine::new(config, 0);
        let config = intel_vtd_stub::Config {
            mode,
            ..intel_vtd_stub::Config::default()
        };
        let vtd = IntelVtd::probe(machine.platform(), config).expect("a unit");
        let iommu = Iommu::new(vtd).expect("a core");
        let device = DmaDevice::new(machine.model(), STREAM);
        run(iommu, device, &machine, stage, true);
        assert_eq!(machine.model().violations(), [""; 0]);
    }
}
