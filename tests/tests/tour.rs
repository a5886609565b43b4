//! The tour checks what it tells; here it is taken, and on a model and on QEMU it is the same.

use mock_hw::smmuv3::ModelConfig;
use mock_hw::vtd::VtdConfig;
use tests::model::{ModelMachine, VtdModelMachine};
use tests::tour::{self, Driver, Smmu, Vtd};

fn story<D: Driver>(machine: &D::Machine) -> String {
    let mut story = String::new();
    let result = tour::run::<D>(machine, &mut story);
    assert!(result.is_ok(), "{story}{result:?}");
    story
}

fn on_the_smmu_model() -> String {
    story::<Smmu<_>>(&ModelMachine::new(ModelConfig::default(), 3))
}

fn on_the_vtd_model() -> String {
    story::<Vtd<_>>(&VtdModelMachine::new(VtdConfig::legacy(), 3))
}

#[test]
fn the_tour_ends_well_on_the_models() {
    for story in [on_the_smmu_model(), on_the_vtd_model()] {
        assert!(story.ends_with("all memory is back, none was misused\n"));
    }
}

#[cfg(feature = "qemu")]
#[test]
fn the_tour_is_the_same_on_qemu() {
    use tests::qemu::{Machine, MachineConfig, Q35, Q35Config};

    let virt = Machine::start(&MachineConfig {
        edus: 3,
        ..MachineConfig::default()
    });
    assert_eq!(story::<Smmu<_>>(&virt.expect("QEMU")), on_the_smmu_model());
    let q35 = Q35::start(&Q35Config {
        edus: 3,
        ..Q35Config::default()
    });
    assert_eq!(story::<Vtd<_>>(&q35.expect("QEMU")), on_the_vtd_model());
}
