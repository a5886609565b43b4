//! How often an attach waits for the hardware, as the model counts it: the same for any number of
//! streams and of devices.

use std::sync::Arc;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    DefaultDomain, DeviceInfo, Iommu, IommuConfig, NoControl, PagingConfig, Stage, StreamId,
};
use mock_hw::smmuv3::ModelConfig;
use tests::machine::Machine;
use tests::model::ModelMachine;

/// The waits of: blocked to stage 1, stage 1 to another, to the same, to stage 2, to identity, to
/// blocked.
fn waits(devices: u32, streams: u32) -> Vec<usize> {
    let machine = ModelMachine::new(ModelConfig::default(), 1);
    let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).expect("an SMMU");
    let config = IommuConfig {
        default_domain: DefaultDomain::Parked,
        ..IommuConfig::default()
    };
    let iommu: Iommu = Iommu::with_config(smmu, config).expect("a core");
    let members: Vec<_> = (0..devices)
        .map(|device| {
            let streams = (0..streams).map(|stream| StreamId(device * 0x100 + stream));
            let info = DeviceInfo::new("one").streams(streams).group("all");
            iommu
                .add_device(info, Arc::new(NoControl))
                .expect("a device")
        })
        .collect();
    let paging = |stage| {
        let config = PagingConfig {
            stage,
            ..PagingConfig::default()
        };
        iommu.paging_domain(&config).expect("a domain")
    };
    let (first, second) = (paging(Stage::First), paging(Stage::First));
    let targets = [
        first,
        second.clone(),
        second,
        paging(Stage::Second),
        iommu.identity_domain().expect("identity"),
        iommu.blocked_domain(),
    ];
    let counts = targets.iter().map(|target| {
        machine.model().clear_waits();
        members[0].group().attach(target).expect("an attach");
        machine.model().waits()
    });
    counts.collect()
}

#[test]
fn an_attach_waits_as_often_for_many_streams_and_devices_as_for_one() {
    for (devices, streams) in [(1, 1), (1, 4), (1, 16), (4, 1), (4, 16)] {
        let expected = [2, 2, 0, 3, 3, 1];
        assert_eq!(waits(devices, streams), expected, "{devices} x {streams}");
    }
}
