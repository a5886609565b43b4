//! How often an attach waits for the hardware, as the model counts it: the same for any number of
//! streams and of devices.

use std::sync::Arc;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    Atomicity, DefaultDomain, Device, DeviceInfo, DomainRef, Iommu, IommuConfig, NoControl,
    PagingConfig, Stage, StreamId, has_pairs,
};
use mock_hw::smmuv3::ModelConfig;
use tests::machine::Machine;
use tests::model::ModelMachine;

struct Setup {
    machine: ModelMachine,
    iommu: Iommu,
    members: Vec<Device>,
}

impl Setup {
    fn new(atomicity: Atomicity, devices: u32, streams: u32) -> Self {
        let machine = ModelMachine::new(ModelConfig::default(), 1);
        machine.memory().set_pairs(atomicity == Atomicity::Pair);
        let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).expect("an SMMU");
        let config = IommuConfig {
            default_domain: DefaultDomain::Parked,
            ..IommuConfig::default()
        };
        let iommu: Iommu = Iommu::with_config(smmu, config).expect("a core");
        let members = (0..devices).map(|device| {
            let streams = (0..streams).map(|stream| StreamId(device * 0x100 + stream));
            let info = DeviceInfo::new("one").streams(streams).group("all");
            let device = iommu.add_device(info, Arc::new(NoControl));
            device.expect("a device")
        });
        let members = members.collect();
        Self {
            machine,
            iommu,
            members,
        }
    }

    fn paging(&self, stage: Stage) -> DomainRef {
        let config = PagingConfig {
            stage,
            ..PagingConfig::default()
        };
        self.iommu.paging_domain(&config).expect("a domain")
    }

    /// How often moving all devices to each of `domains`, one after the other, waits.
    fn waits<const N: usize>(&self, domains: [&DomainRef; N]) -> [usize; N] {
        domains.map(|domain| {
            self.machine.model().clear_waits();
            let group = self.members[0].group();
            group.attach(domain).expect("an attach");
            self.machine.model().waits()
        })
    }
}

#[test]
fn an_attach_waits_as_often_for_many_streams_and_devices_as_for_one() {
    let atomicities: &[Atomicity] = match has_pairs() {
        true => &[Atomicity::Word, Atomicity::Pair],
        false => &[Atomicity::Word],
    };
    for &atomicity in atomicities {
        for (devices, streams) in [(1, 1), (1, 4), (1, 16), (4, 1), (4, 16)] {
            let what = format!("{atomicity:?}, {devices} x {streams}");
            let by_pairs = atomicity == Atomicity::Pair;
            let by = |words, pairs| if by_pairs { pairs } else { words };
            let setup = Setup::new(atomicity, devices, streams);
            let (one, other) = (setup.paging(Stage::First), setup.paging(Stage::First));
            let (two, last) = (setup.paging(Stage::Second), setup.paging(Stage::Second));
            let blocked = &setup.iommu.blocked_domain();
            let identity = &setup.iommu.identity_domain().expect("identity");

            // An entry that nobody used yet is filled for stage 1 and for bypass.
            let first = setup.waits([&one, &other, &other, blocked, identity, &one, identity]);
            assert_eq!(first, [1, 1, 0, 1, 1, 1, 1], "{what}");
            // Stage 2 has words of its own to fill; two stage 2 differ in two words of 128 bits.
            let second = setup.waits([blocked, &two, &last, blocked, &last, blocked]);
            assert_eq!(second, [1, 2, by(3, 1), 1, 1, 1], "{what}");
            // Between the stages: one for the tag.
            let between = setup.waits([&one, &two, &one]);
            assert_eq!(between, [by(2, 2), 2, 2], "{what}");
        }
    }
}

/// As above where somebody else uses the stage-2 domain: the tag must not change by itself.
#[test]
fn a_stage_2_that_others_use_is_entered_and_left_through_abort() {
    let setup = Setup::new(Atomicity::Word, 1, 2);
    let (one, two) = (setup.paging(Stage::First), setup.paging(Stage::Second));
    let info = DeviceInfo::new("another").streams([StreamId(0x4000)]);
    let another = setup.iommu.add_device(info, Arc::new(NoControl));
    let another = another.expect("a device");
    another.attach(&two).expect("an attach");
    assert_eq!(setup.waits([&one, &two, &one]), [1, 3, 3]);
    another.release().expect("released");
    assert_eq!(setup.waits([&two, &one]), [2, 2]);
}
