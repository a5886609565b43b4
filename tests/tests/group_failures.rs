//! What fails for one device of a group leaves the others as they were.

use std::sync::Arc;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    Attached, Device, DeviceInfo, DmaBlock, ErrorKind, Iommu, Iova, NoControl, Prot, StreamId,
};
use mock_hw::Outcome;
use mock_hw::smmuv3::{Access, ModelConfig, Order};
use tests::machine::Machine;
use tests::model::ModelMachine;

#[test]
fn a_release_that_is_not_confirmed_ends_nobody_elses_translations() {
    // Caches nothing that it need not: what is in memory counts at once.
    let config = ModelConfig {
        order: Order::InOrder,
        ..ModelConfig::default()
    };
    let machine = ModelMachine::new(config, 0);
    let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).unwrap();
    let iommu: Iommu = Iommu::new(smmu.clone()).unwrap();
    let add = |stream: u32| -> Device {
        let info = DeviceInfo::new("one of two").streams([stream]).group("two");
        iommu.add_device(info, Arc::new(NoControl)).unwrap()
    };
    let (stays, leaves) = (add(1), add(2));
    let block = DmaBlock::new(&machine.memory(), 4096, 4096, "a buffer").unwrap();
    let domain = stays.domain().unwrap();
    let _mapped = domain.map_block(Iova(0x1000), block, Prot::READ).unwrap();
    let entry = |stream: u32| smmu.stream_entry(StreamId(stream)).unwrap();
    let before = entry(1);

    machine.model().freeze_commands(true);
    let error = leaves.release().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IommuTimedOut);
    machine.model().freeze_commands(false);

    assert_eq!(entry(2).to_string(), "abort");
    assert_eq!(entry(1), before);
    assert!(matches!(stays.attached(), Attached::On(_)));
    let outcome = machine.model().transact(1, None, 0x1000, Access::Read);
    assert!(matches!(outcome, Outcome::Translated(_)), "{outcome:?}");
}
