//! Machines with a toy IOMMU, for the conformance suite.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommu_core::{
    AddrRange, BasicPlatform, DeviceInfo, FirmwareRegion, IommuOps, Iova, Pasid, PhysAddr,
    RegisterBank, ReservedKind, ReservedRegion, Result, StreamId,
};

use super::{CONTEXTS, CONTROL, PASIDS, STATUS, ToyIommu};
use crate::clock::MockClock;
use crate::conformance::{
    Capabilities, DeviceSetup, FaultRecord, Machine, Setup, Testbed, WaitFailure,
};
use crate::device::DmaDevice;
use crate::fault::{Fault, FaultInjector};
use crate::memory::MockMemory;

/// What a driver of the toy runs on.
pub type ToyPlatform = BasicPlatform<FaultInjector<ToyIommu>, MockMemory, MockClock>;

/// A driver of the toy, at work: what the core gets, and what takes the oldest fault that was not
/// taken yet.
pub type Driver = (Box<dyn IommuOps>, Box<NextFault>);

/// Takes the oldest fault that a driver has to report.
pub type NextFault = dyn Fn() -> Option<FaultRecord> + Send + Sync;

type Start = dyn Fn(ToyPlatform, Vec<FirmwareRegion>) -> Result<Driver> + Send + Sync;

/// Makes machines with a toy IOMMU and a driver of it.
pub struct ToyTestbed {
    name: &'static str,
    capabilities: Capabilities,
    start: Arc<Start>,
}

impl ToyTestbed {
    /// With this driver: `start` gets the platform and the regions that firmware pinned devices to,
    /// and brings the driver up.
    #[must_use]
    pub fn new(
        name: &'static str,
        start: impl Fn(ToyPlatform, Vec<FirmwareRegion>) -> Result<Driver> + Send + Sync + 'static,
    ) -> Self {
        let capabilities = Capabilities {
            identity: true,
            pasids: PASIDS - 1,
            deferred: true,
            dma_between_stores: true,
            breakable: true,
            ..Capabilities::default()
        };
        Self {
            name,
            capabilities,
            start: Arc::new(start),
        }
    }

    /// With a driver that can do this: all that the hardware can, unless it says otherwise.
    #[must_use]
    pub fn claiming(mut self, change: impl FnOnce(&mut Capabilities)) -> Self {
        change(&mut self.capabilities);
        self
    }
}

impl std::fmt::Debug for ToyTestbed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ToyTestbed({})", self.name)
    }
}

impl Testbed for ToyTestbed {
    fn name(&self) -> String {
        self.name.into()
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    fn machine(&self, setup: &Setup) -> Arc<dyn Machine> {
        Arc::new(ToyMachine::new(setup.clone(), self.start.clone()))
    }
}

/// All of memory is where a table can map it 1:1.
const RAM: PhysAddr = PhysAddr(0x10_0000);
const RAM_SIZE: usize = 0x10_0000;
/// Firmware's, at the end of memory: two pages that it uses, its contexts, and a table.
const FIRMWARE: u64 = 0x1f_0000;
const REGION_SIZE: u64 = 0x2000;
const FIRMWARE_CONTEXTS: u64 = FIRMWARE + 0x2000;
const FIRMWARE_TABLE: u64 = FIRMWARE + 0x3000;
const FIRMWARE_SIZE: usize = 0x4000;
const PAGE: u64 = 0x1000;

struct ToyMachine {
    setup: Setup,
    start: Arc<Start>,
    memory: MockMemory,
    iommu: ToyIommu,
    bank: FaultInjector<ToyIommu>,
    /// Holds the driver too.
    faults: Mutex<Option<Box<NextFault>>>,
}

impl ToyMachine {
    fn new(setup: Setup, start: Arc<Start>) -> Self {
        let memory = MockMemory::new(RAM, RAM_SIZE);
        memory.reserve(PhysAddr(FIRMWARE), FIRMWARE_SIZE);
        let iommu = ToyIommu::new(memory.clone());
        let machine = Self {
            bank: FaultInjector::new(iommu.clone(), [STATUS]),
            setup,
            start,
            memory,
            iommu,
            faults: Mutex::default(),
        };
        machine.boot();
        machine
    }

    /// Firmware sets up translation for the devices that it uses.
    fn boot(&self) {
        if !self.setup.devices.iter().any(|device| device.deferred) {
            return;
        }
        let put = |at: u64, value| {
            let put = self.memory.write_word(PhysAddr(at), value);
            put.expect("firmware's memory is there");
        };
        for page in (FIRMWARE..FIRMWARE + REGION_SIZE).step_by(0x1000) {
            put(FIRMWARE_TABLE + page / PAGE * 8, page | 3);
        }
        for (number, device) in self.setup.devices.iter().enumerate() {
            if device.deferred {
                let context = u64::from(stream(number) * PASIDS);
                put(FIRMWARE_CONTEXTS + context * 8, FIRMWARE_TABLE | 2);
            }
        }
        self.iommu.write64(CONTEXTS, FIRMWARE_CONTEXTS);
        self.iommu.write32(CONTROL, 1);
    }

    fn faults(&self) -> MutexGuard<'_, Option<Box<NextFault>>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self, device: usize) -> Vec<u32> {
        let alias = self
            .setup
            .devices
            .get(device)
            .and_then(|device| device.alias_of);
        let mut streams = vec![stream(device)];
        streams.extend(alias.map(stream));
        streams
    }

    fn endpoint(&self, device: usize, pasid: Option<Pasid>) -> DmaDevice {
        let pasid = pasid.map(Pasid::get);
        DmaDevice::new(&self.iommu, stream(device)).with_substream(pasid)
    }
}

/// A device's own stream.
fn stream(device: usize) -> u32 {
    u32::try_from(device).unwrap_or(u32::MAX).saturating_add(3)
}

impl Machine for ToyMachine {
    fn start(&self) -> Result<Box<dyn IommuOps>> {
        let region = ReservedRegion::new(FIRMWARE, REGION_SIZE, ReservedKind::Direct)?;
        let devices = self.setup.devices.iter().enumerate();
        let pinned = devices.filter(|(_, device): &(_, &DeviceSetup)| device.pinned);
        let streams: Vec<_> = pinned
            .flat_map(|(number, _)| self.streams(number))
            .map(StreamId)
            .collect();
        let pins = if streams.is_empty() {
            Vec::new()
        } else {
            vec![FirmwareRegion { streams, region }]
        };
        let platform = BasicPlatform {
            bank: self.bank.clone(),
            memory: self.memory.clone(),
            clock: MockClock::new(),
        };
        let (ops, next_fault) = (self.start)(platform, pins)?;
        *self.faults() = Some(next_fault);
        Ok(ops)
    }

    fn stop(&self) {
        // Not under the lock: the driver's end may come with it.
        let faults = self.faults().take();
        drop(faults);
    }

    fn memory(&self) -> MockMemory {
        self.memory.clone()
    }

    fn firmware_region(&self) -> AddrRange {
        AddrRange::new(FIRMWARE, REGION_SIZE).expect("it is not empty")
    }

    fn device(&self, device: usize) -> DeviceInfo {
        DeviceInfo::new(&format!("device {device}")).streams(self.streams(device))
    }

    fn dma_write(&self, device: usize, pasid: Option<Pasid>, iova: Iova, bytes: [u8; 4]) {
        // A device that was refused does not tell.
        let _ = self.endpoint(device, pasid).write(iova.0, &bytes);
    }

    fn dma_read(&self, device: usize, pasid: Option<Pasid>, iova: Iova) -> [u8; 4] {
        let mut bytes = [0; 4];
        let _ = self.endpoint(device, pasid).read(iova.0, &mut bytes);
        bytes
    }

    fn next_fault(&self) -> Option<FaultRecord> {
        self.faults().as_ref()?()
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
        self.iommu.violations()
    }
}
