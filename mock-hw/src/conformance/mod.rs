//! A conformance suite for backends: every promise that [`IommuOps`] and
//! [`PagingOps`](iommu_core::PagingOps) make, tried on hardware.
//!
//! The suite drives a backend through the core's public API, lets devices do DMA, and compares what
//! they reach with what the core says they are on. It knows no backend and no hardware: this crate
//! depends on `iommu-core` alone, so every backend can dev-depend on it, in this workspace or in
//! another repository, without a circle.
//!
//! A backend's author implements [`Testbed`], which makes machines, and [`Machine`], which is one:
//! the backend on a model, on an emulator, or on real hardware with a device that does DMA when it
//! is told to. Then
//!
//! ```
//! # fn keeps_its_promises(testbed: &dyn mock_hw::conformance::Testbed) {
//! mock_hw::conformance::run(testbed).assert();
//! # }
//! ```
//!
//! is the test, and the [`Report`] says which rule was broken and how.
//! `iommu_core::writing_a_backend` walks through it for a [toy](crate::toy).
//!
//! # What is checked
//!
//! Each rule runs on fresh machines of its own. When one is given up, the same is asked each time, and
//! reported as rules of their own at the end: is all memory given back, did memory and hardware see
//! no misuse? A rule that needs a [capability](Capabilities) that
//! the testbed does not have is reported as skipped; in its place the suite checks that the backend
//! refuses what it cannot do, before it touches the hardware.
//!
//! Rules are named by the subject, in the order of the framework's contracts: `3.1 park` and so on.

mod eyes;
mod lab;
mod report;
mod rules;
mod spy;

use std::sync::Arc;

use iommu_core::{
    AddrRange, DeviceControl, DeviceInfo, IommuOps, Iova, NoControl, Pasid, Result, Stage, StreamId,
};

use crate::memory::MockMemory;

pub use report::{Outcome, Report};

/// Tries every rule on `testbed`. A rule that fails, or panics, does not stop the others.
#[must_use = "the report says what failed"]
pub fn run(testbed: &dyn Testbed) -> Report {
    rules::run(testbed, |_| true)
}

/// As [`run`], but only the rules whose name contains `part`.
#[must_use = "the report says what failed"]
pub fn run_matching(testbed: &dyn Testbed, part: &str) -> Report {
    rules::run(testbed, |name| name.contains(part))
}

/// Makes machines with the backend's hardware in them.
pub trait Testbed {
    /// What it is, for the report: the backend, the hardware, the configuration.
    fn name(&self) -> String;

    /// What the backend on this hardware can do.
    fn capabilities(&self) -> Capabilities;

    /// A machine that nobody has used, with the devices of `setup`. The more adverse its caches are,
    /// the more the suite finds: it should use a stale entry wherever real hardware may.
    ///
    /// # Panics
    ///
    /// Where there is no such machine. The rule that asked is then reported as failed.
    fn machine(&self, setup: &Setup) -> Arc<dyn Machine>;
}

/// What a backend on its hardware can do beyond what every one must. The default is nothing: one
/// stage, no identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// There is an identity domain.
    pub identity: bool,
    /// The largest PASID that devices can use, 0 for none.
    pub pasids: u32,
    /// The stages of translation that paging domains can be asked to use; [`Stage::Any`] alone where
    /// there is nothing to choose. The first is used by all rules. One that is not here has to be
    /// refused.
    pub stages: Vec<Stage>,
    /// A device that firmware or a crashed kernel left translating keeps that until it is first used
    /// ([`Attached::Deferred`](iommu_core::Attached::Deferred)).
    pub deferred: bool,
    /// Page faults of devices can be turned on ([`IommuOps::set_faults`]).
    pub page_faults: bool,
    /// Devices can do DMA while the driver is between two stores, or waits: the testbed may be
    /// called from the memory's [store hook](MockMemory::set_store_hook).
    pub dma_between_stores: bool,
    /// The hardware's answers can be kept from the driver
    /// ([`Machine::break_wait`]).
    pub breakable: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            identity: false,
            pasids: 0,
            stages: vec![Stage::Any],
            deferred: false,
            page_faults: false,
            dma_between_stores: false,
            breakable: false,
        }
    }
}

/// The devices of a machine, numbered from 0.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Setup {
    /// What is special about each of them.
    pub devices: Vec<DeviceSetup>,
}

impl Setup {
    /// This many devices with nothing special about them.
    #[must_use]
    pub fn plain(devices: usize) -> Self {
        let devices = vec![DeviceSetup::default(); devices];
        Self { devices }
    }
}

/// What is special about a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceSetup {
    /// Firmware's tables say that [`Machine::firmware_region`] is to stay mapped 1:1 for it.
    pub pinned: bool,
    /// Beside its own streams it presents those of the device with this number, which comes before
    /// it.
    pub alias_of: Option<usize>,
    /// Firmware left it translating, [`Machine::firmware_region`] mapped 1:1. Asked for only where
    /// [`Capabilities::deferred`] says so.
    pub deferred: bool,
}

/// A machine: memory, one IOMMU, and devices that do DMA when told to.
///
/// Where a method has no way to fail, the suite expects none; a machine that breaks panics, and that
/// is reported under the rule at hand.
pub trait Machine: Send + Sync {
    /// Brings the backend up on the hardware. Called once.
    ///
    /// # Errors
    ///
    /// Those of the backend.
    fn start(&self) -> Result<Box<dyn IommuOps>>;

    /// Lets go of what the machine itself still holds of the backend. Afterwards every byte of
    /// memory is given back.
    fn stop(&self);

    /// The memory that the backend, the hardware and the devices share; with the firmware region
    /// [reserved](MockMemory::reserve). The suite takes its pages from here, sets the hook for
    /// stores, and lets allocations fail. The backend's tables are stored through it.
    fn memory(&self) -> MockMemory;

    /// What firmware goes on using: whole pages of memory that no allocation returns, and that a
    /// paging domain can map 1:1.
    fn firmware_region(&self) -> AddrRange;

    /// What is known of a device: its streams. Of the region that it is pinned to the backend learns
    /// from firmware's tables, when it is brought up.
    fn device(&self, device: usize) -> DeviceInfo;

    /// How the core talks to the device.
    fn control(&self, device: usize) -> Arc<dyn DeviceControl> {
        let _ = device;
        Arc::new(NoControl)
    }

    /// Lets a device write four bytes at `iova`, a multiple of four. Nothing happens where that is
    /// refused; the device does not tell.
    fn dma_write(&self, device: usize, pasid: Option<Pasid>, iova: Iova, bytes: [u8; 4]);

    /// Lets a device read four bytes at `iova`, a multiple of four: zeros where that is refused.
    fn dma_read(&self, device: usize, pasid: Option<Pasid>, iova: Iova) -> [u8; 4];

    /// The oldest fault that the backend can report and has not, as the backend decodes it.
    fn next_fault(&self) -> Option<FaultRecord>;

    /// How many register writes of the driver there were.
    fn register_writes(&self) -> usize;

    /// How many times the driver has waited for an answer of the hardware.
    fn waits(&self) -> usize;

    /// Lets a wait fail: the `nth` from now on, counted from 0. Called where
    /// [`Capabilities::breakable`] says so.
    fn break_wait(&self, nth: usize, failure: WaitFailure);

    /// Lets the hardware answer again. What it was not told meanwhile is lost.
    fn heal(&self);

    /// What the driver did to the hardware that it must not do, as far as the hardware noticed.
    fn violations(&self) -> Vec<String>;
}

/// How a wait fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFailure {
    /// The answer does not come; the hardware may or may not do what it was told.
    NoAnswer,
    /// The hardware died: no answer comes any more, and nothing that it is told from then on reaches
    /// it. It goes on with what it has.
    Dead,
}

/// A refused transaction, as the backend reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultRecord {
    /// The stream that presented it.
    pub stream: StreamId,
    /// Its PASID, where it had one.
    pub pasid: Option<Pasid>,
    /// Its address, at least as exact as to the page.
    pub iova: Iova,
}
