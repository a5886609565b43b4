//! The VT-d driver, on this workspace's model and on QEMU's.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use intel_vtd_stub::{Config, IntelVtd, Mode, ShutdownPolicy};
use iommu_core::{
    AddrRange, BasicPlatform, Clock, DeviceControl, DeviceInfo, FirmwareRegion, IommuOps, Iova,
    Pasid, PhysAddr, RegisterBank, ReservedKind, ReservedRegion, Result, Stage, StreamId,
};
use mock_hw::conformance::{self, Capabilities, FaultRecord, Setup, Testbed, WaitFailure};
use mock_hw::vtd::{VtdBank, VtdConfig, VtdModel};
use mock_hw::{DmaDevice, MockClock, MockMemory};

use super::deaf::DeafBank;
use crate::machine::Machine as _;
use crate::qemu::{Q35, Q35Config, QtestBank};

/// How the driver is told to use a unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VtdSetup {
    /// What it is, in words.
    pub name: &'static str,
    /// The kind of tables.
    pub mode: Mode,
    /// The stages that paging domains can have.
    pub stages: Vec<Stage>,
    /// The largest PASID of the devices.
    pub pasids: u32,
    /// Whether the unit has pass-through.
    pub identity: bool,
}

impl VtdSetup {
    /// Legacy mode.
    #[must_use]
    pub fn legacy(name: &'static str) -> Self {
        Self {
            name,
            mode: Mode::Legacy,
            stages: vec![Stage::Second],
            pasids: 0,
            identity: true,
        }
    }

    /// Scalable mode with these stages.
    #[must_use]
    pub fn scalable(name: &'static str, stages: &[Stage], pasids: u32) -> Self {
        Self {
            name,
            mode: Mode::Scalable,
            stages: stages.to_vec(),
            pasids,
            identity: true,
        }
    }
}

/// Hardware with a unit, and devices behind it that do DMA.
trait Hardware: Send + Sync + 'static {
    type Bank: RegisterBank + Clone;
    type Clock: Clock;
    fn platform(&self) -> BasicPlatform<Self::Bank, MockMemory, Self::Clock>;
    fn stream(&self, device: usize) -> StreamId;
    fn write(&self, device: usize, pasid: Option<Pasid>, iova: Iova, bytes: [u8; 4]);
    fn read(&self, device: usize, pasid: Option<Pasid>, iova: Iova) -> [u8; 4];
    fn violations(&self) -> Vec<String>;
}

/// The driver on one kind of hardware, in one configuration.
#[derive(Clone)]
pub struct OnVtd {
    setup: VtdSetup,
    make: Arc<dyn Fn(VtdSetup, Setup) -> Arc<dyn conformance::Machine>>,
}

/// The driver on this workspace's model of such a unit.
#[must_use]
pub fn on_vtd_model(setup: VtdSetup, config: VtdConfig) -> OnVtd {
    let make = move |own, setup| -> Arc<dyn conformance::Machine> {
        let memory = MockMemory::new(PhysAddr(0x10_0000), 32 << 20);
        memory.set_coherent(config.ecap & 1 != 0);
        let model = VtdModel::new(memory.clone(), config.clone());
        Arc::new(VtdMachine::new(Model { model, memory }, own, setup))
    };
    let make = Arc::new(make);
    OnVtd { setup, make }
}

/// The driver on QEMU's unit.
///
/// # Panics
///
/// Not itself; its machines do where QEMU does not start, as those of every testbed may.
#[must_use]
pub fn on_q35(setup: VtdSetup, config: Q35Config) -> OnVtd {
    let make = move |own, setup: Setup| -> Arc<dyn conformance::Machine> {
        let config = Q35Config {
            edus: setup.devices.len(),
            ..config.clone()
        };
        let machine = Q35::start(&config).expect("QEMU starts");
        Arc::new(VtdMachine::new(machine, own, setup))
    };
    let make = Arc::new(make);
    OnVtd { setup, make }
}

impl fmt::Debug for OnVtd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnVtd({:?})", self.setup)
    }
}

impl Testbed for OnVtd {
    fn name(&self) -> String {
        format!("VT-d on {}", self.setup.name)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            identity: self.setup.identity,
            pasids: self.setup.pasids,
            stages: self.setup.stages.clone(),
            dma_between_stores: true,
            breakable: true,
            ..Capabilities::default()
        }
    }

    fn machine(&self, setup: &Setup) -> Arc<dyn conformance::Machine> {
        (self.make)(self.setup.clone(), setup.clone())
    }
}

struct Model {
    model: VtdModel,
    memory: MockMemory,
}

impl Model {
    fn endpoint(&self, device: usize, pasid: Option<Pasid>) -> DmaDevice {
        let stream = self.stream(device).0;
        DmaDevice::new(&self.model, stream).with_substream(pasid.map(Pasid::get))
    }
}

impl Hardware for Model {
    type Bank = VtdBank;
    type Clock = MockClock;

    fn platform(&self) -> BasicPlatform<VtdBank, MockMemory, MockClock> {
        BasicPlatform {
            bank: self.model.bank(),
            memory: self.memory.clone(),
            clock: MockClock::new(),
        }
    }

    /// Functions of two buses.
    fn stream(&self, device: usize) -> StreamId {
        let device = u32::try_from(device).expect("few devices");
        StreamId(0xf8 + 8 * device)
    }

    fn write(&self, device: usize, pasid: Option<Pasid>, iova: Iova, bytes: [u8; 4]) {
        // A device that was refused does not tell.
        let _ = self.endpoint(device, pasid).write(iova.0, &bytes);
    }

    fn read(&self, device: usize, pasid: Option<Pasid>, iova: Iova) -> [u8; 4] {
        let mut bytes = [0; 4];
        let _ = self.endpoint(device, pasid).read(iova.0, &mut bytes);
        bytes
    }

    fn violations(&self) -> Vec<String> {
        self.model.violations()
    }
}

impl Hardware for Q35 {
    type Bank = QtestBank;
    type Clock = crate::clock::SystemClock;

    fn platform(&self) -> BasicPlatform<QtestBank, MockMemory, crate::clock::SystemClock> {
        Self::platform(self)
    }

    fn stream(&self, device: usize) -> StreamId {
        self.masters()[device].stream()
    }

    fn write(&self, device: usize, pasid: Option<Pasid>, iova: Iova, bytes: [u8; 4]) {
        assert_eq!(pasid, None, "these devices have no PASIDs");
        self.masters()[device].write(iova, &bytes);
    }

    fn read(&self, device: usize, pasid: Option<Pasid>, iova: Iova) -> [u8; 4] {
        assert_eq!(pasid, None, "these devices have no PASIDs");
        let mut bytes = [0; 4];
        self.masters()[device].read(iova, &mut bytes);
        bytes
    }

    /// QEMU does not tell.
    fn violations(&self) -> Vec<String> {
        Vec::new()
    }
}

type Vtd<H> =
    IntelVtd<BasicPlatform<DeafBank<<H as Hardware>::Bank>, MockMemory, <H as Hardware>::Clock>>;

struct VtdMachine<H: Hardware> {
    hardware: H,
    own: VtdSetup,
    setup: Setup,
    memory: MockMemory,
    bank: DeafBank<H::Bank>,
    vtd: Mutex<Option<Vtd<H>>>,
}

/// What firmware goes on using, at the end of memory.
const REGION_SIZE: u64 = 0x2000;

/// What the driver has requests without PASID looked up by (`RID_PASID`); it is nobody's.
const RID_PASID: u32 = 0;

/// `IQT_REG`: writing it tells the unit of new descriptors.
const IQT: usize = 0x88;

impl<H: Hardware> VtdMachine<H> {
    fn new(hardware: H, own: VtdSetup, setup: Setup) -> Self {
        let platform = hardware.platform();
        let this = Self {
            hardware,
            own,
            setup,
            memory: platform.memory,
            bank: DeafBank::new(platform.bank, IQT),
            vtd: Mutex::default(),
        };
        let size = usize::try_from(REGION_SIZE).expect("two pages");
        this.memory.reserve(PhysAddr(this.region().start()), size);
        this
    }

    fn region(&self) -> AddrRange {
        let end = self.memory.base().0 + self.memory.size() as u64;
        AddrRange::new(end - REGION_SIZE, REGION_SIZE).expect("memory is larger")
    }

    fn vtd(&self) -> MutexGuard<'_, Option<Vtd<H>>> {
        self.vtd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self, device: usize) -> Vec<StreamId> {
        let alias = self.setup.devices[device].alias_of;
        let all = [Some(device), alias].into_iter().flatten();
        all.map(|device| self.hardware.stream(device)).collect()
    }
}

/// A device with PASIDs up to this one.
struct Control(u32);

impl DeviceControl for Control {
    fn max_pasid(&self) -> u32 {
        self.0
    }

    fn set_pasid(&self, _: bool) -> Result {
        Ok(())
    }
}

impl<H: Hardware> conformance::Machine for VtdMachine<H> {
    fn start(&self) -> Result<Box<dyn IommuOps>> {
        let region = ReservedRegion::new(self.region().start(), REGION_SIZE, ReservedKind::Direct)?;
        let devices = 0..self.setup.devices.len();
        let rmrrs = devices
            .filter(|device| self.setup.devices[*device].pinned)
            .map(|device| FirmwareRegion {
                streams: self.streams(device),
                region,
            });
        let config = Config {
            rmrrs: rmrrs.collect(),
            mode: self.own.mode,
            // Dead hardware is waited for in real time where it is QEMU's.
            timeout: Duration::from_millis(40),
            ..Config::default()
        };
        let platform = BasicPlatform {
            bank: self.bank.clone(),
            memory: self.memory.clone(),
            clock: self.hardware.platform().clock,
        };
        let vtd = IntelVtd::probe(platform, config)?;
        *self.vtd() = Some(vtd.clone());
        Ok(Box::new(vtd))
    }

    fn stop(&self) {
        // Not under the lock: shutting down takes a while.
        let vtd = self.vtd().take();
        if let Some(vtd) = vtd {
            // Only a unit that is off lets go of its tables; one that is dead never does.
            let _ = vtd.shutdown(ShutdownPolicy::PassThrough);
        }
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

    fn control(&self, _: usize) -> Arc<dyn DeviceControl> {
        Arc::new(Control(self.own.pasids))
    }

    fn dma_write(&self, device: usize, pasid: Option<Pasid>, iova: Iova, bytes: [u8; 4]) {
        self.hardware.write(device, pasid, iova, bytes);
    }

    fn dma_read(&self, device: usize, pasid: Option<Pasid>, iova: Iova) -> [u8; 4] {
        self.hardware.read(device, pasid, iova)
    }

    fn next_fault(&self) -> Option<FaultRecord> {
        let fault = self.vtd().as_ref()?.next_fault()?;
        Some(FaultRecord {
            stream: fault.source(),
            // QEMU tells the PASID that traffic without one is looked up by.
            pasid: fault.pasid().filter(|pasid| pasid.get() != RID_PASID),
            iova: fault.iova().unwrap_or_default(),
        })
    }

    fn register_writes(&self) -> usize {
        self.bank.writes()
    }

    fn waits(&self) -> usize {
        self.bank.calls()
    }

    fn break_wait(&self, nth: usize, failure: WaitFailure) {
        self.bank.miss_call(self.bank.calls() + nth, failure);
    }

    fn heal(&self) {
        self.bank.heal();
    }

    fn violations(&self) -> Vec<String> {
        self.hardware.violations()
    }
}
