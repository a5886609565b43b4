//! The machines: QEMU and this workspace's model.

use super::lab::{Hardware, Stand};
use super::setups::{Setup, Stages};
use crate::model::ModelMachine;
use crate::qemu;

impl Stand for qemu::Machine {
    const HARDWARE: Hardware = Hardware::Qemu;

    fn start(setup: &Setup) -> Self {
        assert!(!setup.narrow_ids, "QEMU's SMMU has 16-bit ids");
        let stage = match setup.stages {
            Stages::One => qemu::Stage::One,
            Stages::Two => qemu::Stage::Two,
            Stages::Both => qemu::Stage::Nested,
        };
        let config = qemu::MachineConfig {
            stage,
            edus: setup.masters,
            ..qemu::MachineConfig::default()
        };
        Self::start(&config).expect("QEMU starts")
    }

    /// QEMU does not tell.
    fn violations(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Stand for ModelMachine {
    const HARDWARE: Hardware = Hardware::Model;

    fn start(setup: &Setup) -> Self {
        let mut config = match setup.stages {
            Stages::One => mock_hw::smmuv3::ModelConfig::stage1(),
            Stages::Two => mock_hw::smmuv3::ModelConfig::stage2(),
            Stages::Both => mock_hw::smmuv3::ModelConfig::default(),
        };
        if setup.narrow_ids {
            // `SMMU_IDR0.ASID16` and `VMID16` (6.3.1).
            config.idr0 &= !(1 << 12 | 1 << 18);
        }
        Self::new(config, setup.masters)
    }

    fn violations(&self) -> Vec<String> {
        self.model().violations()
    }
}
