//! How often an attach waits for the hardware, as the model counts it: the same for any number of
//! streams and of devices.

use std::sync::Arc;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    Atomicity, DefaultDomain, Device, DeviceControl, DeviceInfo, DomainRef, Iommu, IommuConfig,
    NoControl, PagingConfig, Stage, StreamId, has_pairs,
};
use mock_hw::smmuv3::{AtsDevice, ModelConfig};
use tests::machine::Machine;
use tests::model::ModelMachine;

const IDR0_ATS: u32 = 1 << 10;

struct Setup {
    machine: ModelMachine,
    iommu: Iommu,
    members: Vec<Device>,
}

impl Setup {
    fn new(atomicity: Atomicity, devices: u32, streams: u32) -> Self {
        Self::with(ModelConfig::default(), atomicity, devices, streams)
    }

    /// Every device has ATS, and so has the SMMU.
    fn with_ats(atomicity: Atomicity, devices: u32, streams: u32) -> Self {
        let mut config = ModelConfig::default();
        config.idr0 |= IDR0_ATS;
        Self::with(config, atomicity, devices, streams)
    }

    fn with(config: ModelConfig, atomicity: Atomicity, devices: u32, streams: u32) -> Self {
        let ats = config.idr0 & IDR0_ATS != 0;
        let machine = ModelMachine::new(config, 1);
        machine.memory().set_pairs(atomicity == Atomicity::Pair);
        let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).expect("an SMMU");
        let config = IommuConfig {
            default_domain: DefaultDomain::Parked,
            ..IommuConfig::default()
        };
        let iommu: Iommu = Iommu::with_config(smmu, config).expect("a core");
        let members = (0..devices).map(|device| {
            let streams = (0..streams).map(|stream| device * 0x100 + stream);
            let control: Arc<dyn DeviceControl> = match ats {
                true => Arc::new(AtsDevice::new(machine.model(), streams.clone())),
                false => Arc::new(NoControl),
            };
            let info = DeviceInfo::new("one").streams(streams.map(StreamId));
            let device = iommu.add_device(info.group("all"), control);
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

/// Widths of a store, and numbers of devices and of streams of each.
fn all_sizes() -> impl Iterator<Item = (Atomicity, u32, u32)> {
    let atomicities: &[Atomicity] = match has_pairs() {
        true => &[Atomicity::Word, Atomicity::Pair],
        false => &[Atomicity::Word],
    };
    let sizes = [(1, 1), (1, 4), (1, 16), (4, 1), (4, 16)];
    let each = move |(devices, streams)| {
        let with = move |atomicity: &Atomicity| (*atomicity, devices, streams);
        atomicities.iter().map(with)
    };
    sizes.into_iter().flat_map(each)
}

#[test]
fn an_attach_waits_as_often_for_many_streams_and_devices_as_for_one() {
    for (atomicity, devices, streams) in all_sizes() {
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
        assert_eq!(second, [1, 2, by(3, 1), 1, 2, 1], "{what}");
        // What it left in an entry that is blocked is cleared without a wait: one for the next attach,
        // and one each for the tag between the stages.
        let between = setup.waits([&one, &two, &one]);
        assert_eq!(between, [1, 2, 2], "{what}");
    }
}

/// What leaves ATS waits for the devices first. What has it before and after, or gets it, waits for
/// them together with the SMMU.
#[test]
fn ats_costs_one_wait_where_it_ends_and_none_elsewhere() {
    for (atomicity, devices, streams) in all_sizes() {
        let what = format!("{atomicity:?}, {devices} x {streams}");
        let by_pairs = atomicity == Atomicity::Pair;
        let by = |words, pairs| if by_pairs { pairs } else { words };
        let setup = Setup::with_ats(atomicity, devices, streams);
        let (one, other) = (setup.paging(Stage::First), setup.paging(Stage::First));
        let (two, last) = (setup.paging(Stage::Second), setup.paging(Stage::Second));
        let blocked = &setup.iommu.blocked_domain();
        let identity = &setup.iommu.identity_domain().expect("identity");

        // An entry that nobody used yet is filled as for a device without ATS.
        let first = setup.waits([&one, &other, &other, blocked, &one, identity, &one]);
        assert_eq!(first, [by(2, 1), 1, 0, 2, 1, 2, 1], "{what}");
        let second = setup.waits([blocked, &two, identity, &two, blocked]);
        assert_eq!(second, [2, 2, 2, 1, 2], "{what}");
        // At 64 bits from one stage 2 to the other by way of abort: ATS is off meanwhile.
        assert_eq!(setup.waits([&two, &last]), [2, by(4, 1)], "{what}");
        let between = setup.waits([&one, &two, &one]);
        assert_eq!(between, [2, 2, 2], "{what}");
        assert_eq!(setup.machine.model().violations(), [""; 0], "{what}");
    }
}

/// That the SMMU has ATS makes no difference to a device that has not.
#[test]
fn a_device_without_ats_waits_as_if_there_were_none() {
    for (atomicity, _, streams) in all_sizes() {
        let setup = Setup::with_ats(atomicity, 0, 0);
        let info = DeviceInfo::new("plain").streams((0..streams).map(StreamId));
        let plain = setup.iommu.add_device(info, Arc::new(NoControl));
        let setup = Setup {
            members: vec![plain.expect("a device")],
            ..setup
        };
        let (one, other) = (setup.paging(Stage::First), setup.paging(Stage::First));
        let blocked = &setup.iommu.blocked_domain();
        let waits = setup.waits([&one, &other, &other, blocked, &one]);
        assert_eq!(waits, [1, 1, 0, 1, 1], "{atomicity:?}, {streams}");
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
