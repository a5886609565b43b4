//! The machines: QEMU and this workspace's model.

use mock_hw::smmuv3::ModelConfig;

use super::lab::{Hardware, Stand};
use super::setups::{Setup, Stages};
use crate::model::ModelMachine;
use crate::qemu;

impl Stand for qemu::Machine {
    const HARDWARE: Hardware = Hardware::Qemu;

    fn start(setup: &Setup) -> Self {
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
        let config = match setup.stages {
            Stages::One => ModelConfig::stage1(),
            Stages::Two => ModelConfig::stage2(),
            Stages::Both => ModelConfig::default(),
        };
        Self::new(config, setup.masters)
    }

    fn violations(&self) -> Vec<String> {
        self.model().violations()
    }
}
