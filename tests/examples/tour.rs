//! `cargo run --example tour` walks through the life of two devices behind an SMMUv3, on a model of
//! the hardware; with `-- --vtd`, behind a VT-d; with `--qemu`, on QEMU's, with PCI devices that do
//! DMA.

use std::process::ExitCode;

use mock_hw::smmuv3::ModelConfig;
use mock_hw::vtd::VtdConfig;
use tests::model::{ModelMachine, VtdModelMachine};
use tests::qemu::{Machine, MachineConfig, Q35, Q35Config};
use tests::tour::{self, Failure, Smmu, Vtd};

const USAGE: &str = "usage: tour [--vtd] [--qemu]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mut vtd, mut qemu) = (false, false);
    for argument in &arguments {
        match argument.as_str() {
            "--vtd" => vtd = true,
            "--qemu" => qemu = true,
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    let mut story = String::new();
    let result = match (vtd, qemu) {
        (false, false) => {
            tour::run::<Smmu<_>>(&ModelMachine::new(ModelConfig::default(), 3), &mut story)
        }
        (false, true) => on_virt(&mut story),
        (true, false) => {
            tour::run::<Vtd<_>>(&VtdModelMachine::new(VtdConfig::legacy(), 3), &mut story)
        }
        (true, true) => on_q35(&mut story),
    };
    print!("{story}");
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("the tour ended early: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn on_virt(story: &mut String) -> Result<(), Failure> {
    let config = MachineConfig {
        edus: 3,
        ..MachineConfig::default()
    };
    tour::run::<Smmu<_>>(&Machine::start(&config)?, story)
}

fn on_q35(story: &mut String) -> Result<(), Failure> {
    let config = Q35Config {
        edus: 3,
        ..Q35Config::default()
    };
    tour::run::<Vtd<_>>(&Q35::start(&config)?, story)
}
