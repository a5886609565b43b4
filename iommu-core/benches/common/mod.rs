//! What several benches measure: those named `instructions` count, the others time.

mod dma;
mod iova;
mod lab;
#[path = "../../../arm-smmu-v3/benches/common/platform.rs"]
mod platform;
mod pool;
mod queue;
mod ranges;
mod timed;

use iommu_core::Result;

pub(crate) use dma::{Flush, Keep, Lend, Relend, Retire, block, list};
pub(crate) use iova::{Churn, Floor, Hot, LIVE, Large, Unused};
pub(crate) use lab::{Lab, Shape, run_on_cpu};
pub(crate) use queue::{Queue, SYNCS, Turns};
pub(crate) use ranges::{Map, Nothing, Ranges, Ring, Stores, Translate, Unmap};

pub(crate) const K4: u64 = 1 << 12;
pub(crate) const M2: u64 = 1 << 21;

/// One thing to measure.
pub(crate) trait Case: 'static {
    /// What is measured.
    fn call(&mut self) -> Result;

    /// How many calls there can be between one [`reset`](Self::reset) and the next.
    fn calls(&self) -> u64 {
        u64::MAX
    }

    /// Brings everything back to where [`call`](Self::call) starts from.
    fn reset(&mut self) {}
}

/// In cache lines of its own: what one thread writes is nothing that another one waits for.
#[derive(Default)]
#[repr(align(128))]
struct Apart<C>(C);

/// A case that has been called before: whatever happens once only has happened.
pub(crate) fn warm<C: Case>(case: C) -> &'static mut C {
    let Apart(case) = Box::leak(Box::new(Apart(case)));
    case.call().expect("it works");
    case.reset();
    case
}
