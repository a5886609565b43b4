//! `cargo run --example tour` walks through the life of two devices behind an SMMUv3, on a model of
//! the hardware; with `-- --qemu`, on QEMU's SMMUv3 with PCI devices that do DMA.

use std::process::ExitCode;

use mock_hw::smmuv3::ModelConfig;
use tests::model::ModelMachine;
use tests::qemu::{Machine, MachineConfig};
use tests::tour::{self, Failure, Smmu};

const USAGE: &str = "usage: tour [--qemu]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let qemu = match &arguments[..] {
        [] => false,
        [one] if one == "--qemu" => true,
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut story = String::new();
    let result = if qemu {
        on_qemu(&mut story)
    } else {
        on_the_model(&mut story)
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

fn on_the_model(story: &mut String) -> Result<(), Failure> {
    tour::run::<Smmu<_>>(&ModelMachine::new(ModelConfig::default(), 3), story)
}

fn on_qemu(story: &mut String) -> Result<(), Failure> {
    tour::run::<Smmu<_>>(
        &Machine::start(&MachineConfig {
            edus: 3,
            ..MachineConfig::default()
        })?,
        story,
    )
}
