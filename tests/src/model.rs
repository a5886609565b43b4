//! Machines made of this workspace's models: an IOMMU, memory, a clock and DMA devices.

use iommu_core::{BasicPlatform, Iova, PhysAddr, StreamId};
use mock_hw::smmuv3::{ModelBank, ModelConfig, SmmuModel};
use mock_hw::vtd::{VtdBank, VtdConfig, VtdModel};
use mock_hw::{DmaDevice, MockClock, MockMemory, Translate};

use crate::machine::{Machine, Master};

/// Where memory begins.
pub const RAM_BASE: u64 = 0x4020_0000;
/// The number of bytes of it.
pub const RAM_SIZE: usize = 32 << 20;

/// Where memory begins on a machine with a VT-d.
pub const PC_RAM_BASE: u64 = 0x20_0000;

/// The streams of masters.
fn streams(masters: usize) -> impl Iterator<Item = StreamId> {
    (0x10..).step_by(8).take(masters).map(StreamId)
}

/// A machine with an SMMUv3 made of models, as after reset.
#[derive(Debug)]
pub struct ModelMachine {
    model: SmmuModel,
    memory: MockMemory,
    clock: MockClock,
    masters: Vec<ModelMaster>,
}

impl ModelMachine {
    /// A machine with such an SMMU and this many masters. Their StreamIDs are 0x10, 0x18, 0x20 and
    /// so on.
    #[must_use]
    pub fn new(config: ModelConfig, masters: usize) -> Self {
        let memory = MockMemory::new(PhysAddr(RAM_BASE), RAM_SIZE);
        let model = SmmuModel::new(memory.clone(), config);
        let masters = streams(masters)
            .map(|stream| ModelMaster::new(&model, stream))
            .collect();
        Self {
            model,
            memory,
            clock: MockClock::new(),
            masters,
        }
    }

    /// The SMMU.
    #[must_use]
    pub fn model(&self) -> &SmmuModel {
        &self.model
    }
}

impl Machine for ModelMachine {
    type Bank = ModelBank;
    type Clock = MockClock;

    fn platform(&self) -> BasicPlatform<ModelBank, MockMemory, MockClock> {
        BasicPlatform {
            bank: self.model.bank(),
            memory: self.memory.clone(),
            clock: self.clock.clone(),
        }
    }

    fn memory(&self) -> MockMemory {
        self.memory.clone()
    }

    fn masters(&self) -> Vec<&dyn Master> {
        self.masters.iter().map(|master| master as _).collect()
    }
}

/// A machine with a VT-d made of models, as after reset.
#[derive(Debug)]
pub struct VtdModelMachine {
    model: VtdModel,
    memory: MockMemory,
    clock: MockClock,
    masters: Vec<ModelMaster>,
}

impl VtdModelMachine {
    /// A machine with such a VT-d and this many masters. Their source ids are 0x10, 0x18, 0x20 and
    /// so on.
    #[must_use]
    pub fn new(config: VtdConfig, masters: usize) -> Self {
        let memory = MockMemory::new(PhysAddr(PC_RAM_BASE), RAM_SIZE);
        memory.set_coherent(config.ecap & 1 != 0);
        let model = VtdModel::new(memory.clone(), config);
        let masters = streams(masters)
            .map(|stream| ModelMaster::new(&model, stream))
            .collect();
        Self {
            model,
            memory,
            clock: MockClock::new(),
            masters,
        }
    }

    /// The VT-d.
    #[must_use]
    pub fn model(&self) -> &VtdModel {
        &self.model
    }
}

impl Machine for VtdModelMachine {
    type Bank = VtdBank;
    type Clock = MockClock;

    fn platform(&self) -> BasicPlatform<VtdBank, MockMemory, MockClock> {
        BasicPlatform {
            bank: self.model.bank(),
            memory: self.memory.clone(),
            clock: self.clock.clone(),
        }
    }

    fn memory(&self) -> MockMemory {
        self.memory.clone()
    }

    fn masters(&self) -> Vec<&dyn Master> {
        self.masters.iter().map(|master| master as _).collect()
    }
}

/// A master of a [`ModelMachine`] or a [`VtdModelMachine`].
#[derive(Debug)]
struct ModelMaster {
    device: DmaDevice,
    stream: StreamId,
}

impl ModelMaster {
    fn new(model: &(impl Translate + Clone + 'static), stream: StreamId) -> Self {
        Self {
            device: DmaDevice::new(model, stream.0),
            stream,
        }
    }
}

impl Master for ModelMaster {
    fn stream(&self) -> StreamId {
        self.stream
    }

    fn write(&self, iova: Iova, bytes: &[u8]) {
        // A device that was refused does not tell.
        let _ = self.device.write(iova.0, bytes);
    }

    fn read(&self, iova: Iova, to: &mut [u8]) {
        let _ = self.device.read(iova.0, to);
    }
}
