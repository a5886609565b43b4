//! The SMMUv3 driver, on this workspace's model and on QEMU's.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    AddrRange, BasicPlatform, DeviceInfo, FirmwareRegion, IommuOps, Iova, Pasid, PhysAddr,
    ReservedKind, ReservedRegion, Result, Stage, StreamId,
};
use mock_hw::MockMemory;
use mock_hw::conformance::{self, Capabilities, FaultRecord, Setup, Testbed, WaitFailure};
use mock_hw::fault::{Fault, FaultInjector, SMMUV3_POLLED};
use mock_hw::smmuv3::ModelConfig;

use crate::cases::bank::CorruptingBank;
use crate::cases::setups::{self, Stages};
use crate::machine::{Machine, Master};
use crate::model::ModelMachine;
use crate::qemu;

pub use crate::cases::lab::Stand;

/// The driver on one kind of hardware, in one configuration.
pub struct OnSmmuV3<M> {
    name: &'static str,
    setup: setups::Setup,
    start: Box<dyn Fn(&setups::Setup) -> M>,
}

/// The driver on this workspace's model.
#[must_use]
pub fn on_model(setup: setups::Setup) -> OnSmmuV3<ModelMachine> {
    OnSmmuV3::new("the model", setup, Stand::start)
}

/// The driver on this workspace's model of such an SMMU, whose memory is as `prepare` leaves it.
#[must_use]
pub fn on_model_of(
    name: &'static str,
    setup: setups::Setup,
    config: ModelConfig,
    prepare: fn(&MockMemory),
) -> OnSmmuV3<ModelMachine> {
    OnSmmuV3::new(name, setup, move |setup| {
        let machine = ModelMachine::new(config.clone(), setup.masters);
        prepare(&machine.memory());
        machine
    })
}

/// The driver on QEMU's SMMU.
#[must_use]
pub fn on_qemu(setup: setups::Setup) -> OnSmmuV3<qemu::Machine> {
    OnSmmuV3::new("QEMU", setup, Stand::start)
}

impl<M> OnSmmuV3<M> {
    fn new(
        name: &'static str,
        setup: setups::Setup,
        start: impl Fn(&setups::Setup) -> M + 'static,
    ) -> Self {
        let start = Box::new(start);
        Self { name, setup, start }
    }
}

impl<M> fmt::Debug for OnSmmuV3<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnSmmuV3({}, {:?})", self.name, self.setup)
    }
}

impl<M: Stand + Send + Sync + 'static> Testbed for OnSmmuV3<M> {
    fn name(&self) -> String {
        let setups::Setup { stages, table, .. } = self.setup;
        let stage = self.capabilities().stages[0];
        let name = self.name;
        format!("SMMUv3 on {name}: stage {stage:?} of {stages:?}, stream table {table:?}")
    }

    fn capabilities(&self) -> Capabilities {
        let stages = match (self.setup.stages, self.setup.stage) {
            (Stages::One, _) => vec![Stage::First],
            (Stages::Two, _) => vec![Stage::Second],
            (Stages::Both, Stage::Second) => vec![Stage::Second, Stage::First],
            (Stages::Both, _) => vec![Stage::First, Stage::Second],
        };
        Capabilities {
            identity: true,
            stages,
            dma_between_stores: true,
            breakable: true,
            ..Capabilities::default()
        }
    }

    fn machine(&self, setup: &Setup) -> Arc<dyn conformance::Machine> {
        let own = setups::Setup {
            masters: setup.devices.len(),
            ..self.setup
        };
        Arc::new(SmmuMachine::new((self.start)(&own), own, setup.clone()))
    }
}

type Bank<M> = FaultInjector<CorruptingBank<<M as Machine>::Bank>>;
type Smmu<M> = ArmSmmuV3<BasicPlatform<Bank<M>, MockMemory, <M as Machine>::Clock>>;

struct SmmuMachine<M: Machine> {
    machine: M,
    own: setups::Setup,
    setup: Setup,
    memory: MockMemory,
    bank: Bank<M>,
    smmu: Mutex<Option<Smmu<M>>>,
}

/// What firmware goes on using, at the end of memory.
const REGION_SIZE: u64 = 0x2000;

impl<M: Stand + Send + Sync + 'static> SmmuMachine<M> {
    fn new(machine: M, own: setups::Setup, setup: Setup) -> Self {
        let memory = machine.memory();
        let bank = CorruptingBank::new(machine.platform().bank, memory.clone());
        bank.claim(&own);
        let this = Self {
            machine,
            own,
            setup,
            memory,
            bank: FaultInjector::new(bank, SMMUV3_POLLED),
            smmu: Mutex::default(),
        };
        let region = this.region();
        let size = usize::try_from(REGION_SIZE).expect("two pages");
        this.memory.reserve(PhysAddr(region.start()), size);
        this
    }

    fn region(&self) -> AddrRange {
        let end = self.memory.base().0 + self.memory.size() as u64;
        AddrRange::new(end - REGION_SIZE, REGION_SIZE).expect("memory is larger")
    }

    fn smmu(&self) -> MutexGuard<'_, Option<Smmu<M>>> {
        self.smmu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn master(&self, device: usize) -> &dyn Master {
        self.machine.masters()[device]
    }

    fn streams(&self, device: usize) -> Vec<StreamId> {
        let alias = self.setup.devices[device].alias_of;
        let all = [Some(device), alias].into_iter().flatten();
        all.map(|device| self.master(device).stream()).collect()
    }
}

impl<M: Stand + Send + Sync + 'static> conformance::Machine for SmmuMachine<M> {
    fn start(&self) -> Result<Box<dyn IommuOps>> {
        let region = ReservedRegion::new(self.region().start(), REGION_SIZE, ReservedKind::Direct)?;
        let devices = 0..self.setup.devices.len();
        let rmrs = devices
            .filter(|device| self.setup.devices[*device].pinned)
            .map(|device| FirmwareRegion {
                streams: self.streams(device),
                region,
            });
        let config = Config {
            rmrs: rmrs.collect(),
            stream_table: self.own.table,
            // Dead hardware is waited for in real time where it is QEMU's.
            timeout: Duration::from_millis(40),
            ..Config::default()
        };
        let platform = BasicPlatform {
            bank: self.bank.clone(),
            memory: self.memory.clone(),
            clock: self.machine.platform().clock,
        };
        let smmu = ArmSmmuV3::probe(platform, config)?;
        *self.smmu() = Some(smmu.clone());
        Ok(Box::new(smmu))
    }

    fn stop(&self) {
        // Not under the lock: shutting down takes a while.
        let smmu = self.smmu().take();
        drop(smmu);
    }

    fn memory(&self) -> MockMemory {
        self.memory.clone()
    }

    fn firmware_region(&self) -> AddrRange {
        self.region()
    }

    fn device(&self, device: usize) -> DeviceInfo {
        DeviceInfo::new(&format!("device {device}")).streams(self.streams(device))
    }

    fn dma_write(&self, device: usize, pasid: Option<Pasid>, iova: Iova, bytes: [u8; 4]) {
        assert_eq!(pasid, None, "these devices have no PASIDs");
        self.master(device).write(iova, &bytes);
    }

    fn dma_read(&self, device: usize, pasid: Option<Pasid>, iova: Iova) -> [u8; 4] {
        assert_eq!(pasid, None, "these devices have no PASIDs");
        let mut bytes = [0; 4];
        self.master(device).read(iova, &mut bytes);
        bytes
    }

    fn next_fault(&self) -> Option<FaultRecord> {
        let smmu = self.smmu();
        let event = smmu.as_ref()?.next_event().expect("a queue that works")?;
        Some(FaultRecord {
            stream: event.stream(),
            pasid: event.substream().and_then(Pasid::new),
            iova: event.input().unwrap_or_default(),
        })
    }

    fn register_writes(&self) -> usize {
        self.bank.writes()
    }

    fn waits(&self) -> usize {
        self.bank.waits()
    }

    fn break_wait(&self, nth: usize, failure: WaitFailure) {
        let nth = self.bank.waits() + nth;
        self.bank.inject(match failure {
            WaitFailure::NoAnswer => Fault::StuckWait(nth),
            WaitFailure::Dead => Fault::DeadFromWait(nth),
        });
    }

    fn heal(&self) {
        self.bank.heal();
    }

    fn violations(&self) -> Vec<String> {
        self.machine.violations()
    }
}
