//! Hitless changes of live entries, on hardware: devices do DMA all the while, and get either what
//! the old entry or what the new one gives them.
//!
//! Two levels, each on this workspace's model and on QEMU's SMMUv3:
//!
//! - [`tour`]: the driver moves two devices of a group through its domains, along a way that takes
//!   every ordered pair of domains between which its moves are hitless;
//! - [`plans`]: entries made by hand, of every [kind](kinds) that the hardware implements, changed
//!   into each other by [`Plan`](iommu_core::entry::Plan) without a driver.
//!
//! [`checks`] says what has to be found.
//!
//! # When devices look
//!
//! After every single-copy-atomic store to an entry, and after every command, with the queue's
//! producer index advanced by one command at a time. Such a DMA is concurrent with nothing, so what
//! it shows is the same every time.
//!
//! And all the time ([`Mode::Racing`](pace::Mode::Racing)): a second thread lets the devices read,
//! one DMA after the other, while the driver moves them. After each store and each access to a
//! register the driver pauses until a DMA has ended, and a while longer, so that what it does next
//! falls somewhere into the next DMA. On the model, that fetches an entry word by word from the
//! memory that the driver stores to. QEMU is a process of its own that shares its RAM with the
//! driver's; its `edu` device cannot be held in the middle of a DMA, since a timer starts it, and
//! the thread that runs the timer does it in one go. So it is left to chance there on which side of
//! a store a fetch falls, or whether on both, and many are made. Accesses to registers and DMA are
//! never concurrent on QEMU: one thread does both.
//!
//! The threads race at 64 bits only. Neither machine promises to fetch 128 bits at once: the model
//! fetches words, and QEMU copies an entry as its C library likes.
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "these are tests: they panic where a rule is broken"
)]

pub mod bare;
pub mod checks;
pub mod kinds;
pub mod pace;
pub mod plans;
pub mod route;
pub mod substreams;
pub mod tour;
pub mod watch;

use std::sync::Arc;

use iommu_core::DmaBlock;
use mock_hw::{DmaDevice, MockMemory};

use crate::cases::lab::{PAGE, Stand};
use crate::machine::Machine;
use crate::model::ModelMachine;
use crate::qemu;

/// Lets a device read the word at an IOVA, a multiple of 4: 0 where that is refused.
pub type Reader = Arc<dyn Fn(u64) -> u32 + Send + Sync>;

/// A machine whose devices read whenever they are told to, by whomever: also within a store that
/// the driver makes.
pub trait Devices: Stand {
    /// The devices, in the order of [`masters`](Machine::masters).
    fn readers(&self) -> Vec<Reader>;
}

impl Devices for ModelMachine {
    fn readers(&self) -> Vec<Reader> {
        let masters = self.masters();
        let streams = masters.iter().map(|master| master.stream());
        streams
            .map(|stream| reader(DmaDevice::new(self.model(), stream.0)))
            .collect()
    }
}

impl Devices for qemu::Machine {
    fn readers(&self) -> Vec<Reader> {
        let edus = self.edus().iter().cloned();
        edus.map(|edu| Arc::new(move |iova| edu.read_u32(iova)) as Reader)
            .collect()
    }
}

/// As a [`Reader`].
#[must_use]
pub fn reader(device: DmaDevice) -> Reader {
    Arc::new(move |iova| {
        let mut bytes = [0; 4];
        device.read(iova, &mut bytes);
        u32::from_le_bytes(bytes)
    })
}

/// The word in the page that everything leads to that lets anything pass.
const COMMON: u32 = 0xc0_ffee;
/// The word in the page that each table has a page of its own in the place of.
const UNTRANSLATED: u32 = 0x1de;

/// A page with a word at its start.
fn page(memory: &MockMemory, word: u32) -> DmaBlock<MockMemory> {
    let size = usize::try_from(PAGE).unwrap();
    let page = DmaBlock::new(memory, size, size, "a page for devices").unwrap();
    page.write_at(0, &word.to_le_bytes());
    page
}
