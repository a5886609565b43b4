//! A device behind a model of an IOMMU.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arm_smmu_v3::ArmSmmuV3;
use intel_vtd_stub::{IntelVtd, Mode};
use iommu_core::dma::Dma;
use iommu_core::{
    DefaultDomain, Device, DeviceInfo, DmaBlock, Iommu, IommuConfig, Iova, NoControl,
};
use mock_hw::smmuv3::ModelConfig;
use mock_hw::vtd::VtdConfig;
use mock_hw::{DmaDevice, MockClock, MockMemory, Outcome};
use tests::machine::Machine;
use tests::model::{ModelMachine, VtdModelMachine};

pub(crate) const PAGE: usize = 4096;

pub(crate) struct Setup {
    name: &'static str,
    pub(crate) memory: MockMemory,
    pub(crate) iommu: Iommu,
    pub(crate) hardware: DmaDevice,
    freeze: Box<dyn Fn(bool)>,
    waits: Box<dyn Fn() -> usize>,
    clock: MockClock,
}

fn config(default_domain: DefaultDomain) -> IommuConfig {
    IommuConfig {
        default_domain,
        ..IommuConfig::default()
    }
}

impl Setup {
    pub(crate) fn smmu(default_domain: DefaultDomain) -> Self {
        Self::smmu_with(config(default_domain))
    }

    pub(crate) fn smmu_with(config: IommuConfig) -> Self {
        let machine = ModelMachine::new(ModelConfig::default(), 0);
        let smmu = ArmSmmuV3::probe(machine.platform(), arm_smmu_v3::Config::default()).unwrap();
        let model = machine.model().clone();
        let counted = model.clone();
        Self {
            name: "SMMUv3",
            memory: machine.memory(),
            iommu: Iommu::with_config(smmu, config).unwrap(),
            hardware: DmaDevice::new(&model, 0x10),
            freeze: Box::new(move |frozen| model.freeze_commands(frozen)),
            waits: Box::new(move || counted.waits()),
            clock: machine.platform().clock,
        }
    }

    pub(crate) fn vtd(default_domain: DefaultDomain) -> Self {
        Self::vtd_as("VT-d", VtdConfig::legacy(), Mode::Legacy, default_domain)
    }

    /// With first-stage tables.
    pub(crate) fn vtd_first_stage() -> Self {
        let config = VtdConfig::first_level();
        let name = "VT-d, first stage";
        Self::vtd_as(name, config, Mode::Scalable, DefaultDomain::Paging)
    }

    fn vtd_as(
        name: &'static str,
        unit: VtdConfig,
        mode: Mode,
        default_domain: DefaultDomain,
    ) -> Self {
        let machine = VtdModelMachine::new(unit, 0);
        let own = intel_vtd_stub::Config {
            mode,
            ..intel_vtd_stub::Config::default()
        };
        let vtd = IntelVtd::probe(machine.platform(), own).unwrap();
        let model = machine.model().clone();
        let counted = model.clone();
        Self {
            name,
            memory: machine.memory(),
            iommu: Iommu::with_config(vtd, config(default_domain)).unwrap(),
            hardware: DmaDevice::new(&model, 0x10),
            freeze: Box::new(move |frozen| model.freeze_queue(frozen)),
            waits: Box::new(move || counted.waits()),
            clock: machine.platform().clock,
        }
    }

    /// Both, with a paging domain for each group.
    pub(crate) fn both() -> [Self; 2] {
        [Self::smmu, Self::vtd].map(|make| make(DefaultDomain::Paging))
    }

    /// Both, with the identity domain for each group.
    pub(crate) fn both_on_identity() -> [Self; 2] {
        [Self::smmu, Self::vtd].map(|make| make(DefaultDomain::Identity))
    }

    pub(crate) fn add(&self, info: DeviceInfo) -> Device {
        self.iommu.add_device(info, Arc::new(NoControl)).unwrap()
    }

    pub(crate) fn nic(&self) -> (Device, Dma<MockMemory>) {
        let device = self.add(DeviceInfo::new("nic").streams([0x10]));
        let dma = device.dma(self.memory.clone()).unwrap();
        (device, dma)
    }

    pub(crate) fn block(&self, size: usize, align: usize) -> DmaBlock<MockMemory> {
        DmaBlock::new(&self.memory, size, align, "a buffer").unwrap()
    }

    pub(crate) fn page(&self) -> DmaBlock<MockMemory> {
        self.block(PAGE, PAGE)
    }

    /// The device writes; whether it got through.
    pub(crate) fn write(&self, iova: Iova, bytes: &[u8]) -> bool {
        matches!(self.hardware.write(iova.0, bytes), Outcome::Translated(_))
    }

    /// The device reads; `None` where it did not get through.
    pub(crate) fn read<const N: usize>(&self, iova: Iova) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let outcome = self.hardware.read(iova.0, &mut bytes);
        matches!(outcome, Outcome::Translated(_)).then_some(bytes)
    }

    /// The IOMMU stops answering, or answers again.
    pub(crate) fn freeze(&self, frozen: bool) {
        (self.freeze)(frozen);
    }

    /// Lets so little time pass with each look at the clock that a thread which is not running for a
    /// while is no reason to give up: for tests with several.
    pub(crate) fn slow_down(&self) {
        self.clock.set_step(Duration::from_nanos(100));
    }

    /// How often the hardware was waited for.
    pub(crate) fn waits(&self) -> usize {
        (self.waits)()
    }

    /// Whatever was lent is back, and nobody touched what is not theirs.
    pub(crate) fn check(&self) {
        assert_eq!(self.memory.violations(), [""; 0], "{self:?}");
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
