//! The tour checks what it tells; here it is taken, and on both machines it is the same.

use mock_hw::smmuv3::ModelConfig;
use tests::model::ModelMachine;
use tests::tour::{self, Smmu};

fn on_the_model() -> String {
    let mut story = String::new();
    tour::run::<Smmu<_>>(&ModelMachine::new(ModelConfig::default(), 3), &mut story)
        .expect("the tour");
    story
}

#[test]
fn the_tour_ends_well_on_the_model() {
    assert!(on_the_model().ends_with("all memory is back, none was misused\n"));
}

#[cfg(feature = "qemu")]
#[test]
fn the_tour_is_the_same_on_qemu() {
    use tests::qemu::{Machine, MachineConfig};

    let machine = Machine::start(&MachineConfig {
        edus: 3,
        ..MachineConfig::default()
    });
    let mut story = String::new();
    tour::run::<Smmu<_>>(&machine.expect("QEMU"), &mut story).expect("the tour");
    assert_eq!(story, on_the_model());
}
