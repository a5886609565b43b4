//! Devices with ATS behind an SMMU that has it, in one group, and domains for them.

use std::sync::Arc;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    BasicPlatform, DefaultDomain, Device, DeviceControl, DeviceInfo, DmaBlock, DomainRef, Iommu,
    IommuConfig, Iova, MappedBlock, PagingConfig, Prot, Stage, StreamId,
};
use mock_hw::smmuv3::{AtsDevice, ModelBank, ModelConfig, Order};
use mock_hw::{DmaDevice, MockClock, MockMemory, Outcome};
use tests::machine::Machine;
use tests::model::ModelMachine;

/// How many streams a device has: the first device's are 0, 1 and so on, the second's 0x100, 0x101.
pub(crate) const STREAMS: u32 = 4;
const IDR0_ATS: u32 = 1 << 10;
/// Where every domain maps its page.
pub(crate) const AT: u64 = 0x1_0000;

pub(crate) type Smmu = ArmSmmuV3<BasicPlatform<ModelBank, MockMemory, MockClock>>;

pub(crate) struct Rig {
    pub(crate) machine: ModelMachine,
    pub(crate) smmu: Smmu,
    pub(crate) iommu: Iommu,
    pub(crate) hardware: Vec<AtsDevice>,
    pub(crate) devices: Vec<Device>,
}

/// A domain with one page full of `mark`.
pub(crate) struct Space {
    pub(crate) domain: DomainRef,
    pub(crate) block: Option<MappedBlock<MockMemory>>,
    pub(crate) mark: u8,
}

pub(crate) fn first_stream(device: usize) -> u32 {
    u32::try_from(device).unwrap() * 0x100
}

impl Rig {
    pub(crate) fn new(order: Order, seed: u64, devices: usize) -> Self {
        Self::with(order, seed, devices, |_, hardware| {
            Arc::new(hardware.clone())
        })
    }

    /// With `control` the driver talks to each device.
    pub(crate) fn with(
        order: Order,
        seed: u64,
        devices: usize,
        control: impl Fn(usize, &AtsDevice) -> Arc<dyn DeviceControl>,
    ) -> Self {
        let mut config = ModelConfig {
            order,
            seed,
            ..ModelConfig::default()
        };
        config.idr0 |= IDR0_ATS;
        let machine = ModelMachine::new(config, 0);
        let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).unwrap();
        let config = IommuConfig {
            default_domain: DefaultDomain::Parked,
            ..IommuConfig::default()
        };
        let iommu: Iommu = Iommu::with_config(smmu.clone(), config).unwrap();
        let mut rig = Self {
            machine,
            smmu,
            iommu,
            hardware: Vec::new(),
            devices: Vec::new(),
        };
        for device in 0..devices {
            let streams = (0..STREAMS).map(|stream| first_stream(device) + stream);
            let hardware = AtsDevice::new(rig.machine.model(), streams.clone());
            let info = DeviceInfo::new(&format!("gpu {device}"));
            let info = info.streams(streams.map(StreamId)).group("all");
            let added = rig.iommu.add_device(info, control(device, &hardware));
            rig.devices.push(added.unwrap());
            rig.hardware.push(hardware);
        }
        rig
    }

    pub(crate) fn space(&self, stage: Stage, mark: u8) -> Space {
        let config = PagingConfig {
            stage,
            ..PagingConfig::default()
        };
        let mut space = Space {
            domain: self.iommu.paging_domain(&config).unwrap(),
            block: None,
            mark,
        };
        self.map(&mut space);
        space
    }

    pub(crate) fn map(&self, space: &mut Space) {
        let block = DmaBlock::new(&self.machine.memory(), 4096, 4096, "a buffer").unwrap();
        block.store(0, u64::from_ne_bytes([space.mark; 8]));
        let prot = Prot::READ | Prot::WRITE;
        let mapped = space.domain.map_block(Iova(AT), block, prot);
        space.block = Some(mapped.unwrap());
    }

    pub(crate) fn unmap(space: &mut Space) -> iommu_core::Result {
        space.block.take().unwrap().unmap().map(drop)
    }

    pub(crate) fn blocked(&self) -> DomainRef {
        self.iommu.blocked_domain()
    }

    pub(crate) fn identity(&self) -> DomainRef {
        self.iommu.identity_domain().unwrap()
    }

    pub(crate) fn attach(&self, domain: &DomainRef) {
        self.devices[0].group().attach(domain).unwrap();
    }

    /// What a device sees of the page.
    pub(crate) fn read(&self, device: usize, stream: u32) -> Option<u8> {
        read(&self.hardware[device], first_stream(device) + stream)
    }

    pub(crate) fn sees(&self, device: usize, mark: Option<u8>) {
        for stream in 0..STREAMS {
            assert_eq!(self.read(device, stream), mark, "{device} {stream}");
        }
    }

    pub(crate) fn all_see(&self, mark: Option<u8>) {
        (0..self.devices.len()).for_each(|device| self.sees(device, mark));
    }

    pub(crate) fn are_on(&self, on: bool) {
        assert!(self.hardware.iter().all(|device| device.is_on() == on));
    }

    /// Lets a device answer nothing, or answer again.
    pub(crate) fn silence(&self, device: usize, silent: bool) {
        for stream in 0..STREAMS {
            let stream = first_stream(device) + stream;
            self.machine.model().kill_atc(stream, silent);
        }
    }

    /// Nobody has broken a rule, and there are no events but those of devices with ATS off.
    pub(crate) fn is_clean(&self) {
        assert_eq!(self.machine.model().violations(), [""; 0]);
        assert_eq!(self.machine.memory().violations(), [""; 0]);
        while let Some(event) = self.smmu.next_event().unwrap() {
            assert!(event.to_string().starts_with("F_TRANSLATION"), "{event}");
        }
    }
}

/// What a stream's device sees of the page.
pub(crate) fn read(hardware: &AtsDevice, stream: u32) -> Option<u8> {
    let mut byte = [0xee];
    match DmaDevice::new(hardware, stream).read(AT, &mut byte) {
        Outcome::Translated(_) => Some(byte[0]),
        _ => None,
    }
}
