//! What several benches measure: `instructions` counts, the others time.

mod iova;

use iommu_core::Result;

pub(crate) use iova::{Churn, Floor, Hot, LIVE, Large};

/// One thing to measure.
pub(crate) trait Case: 'static {
    /// What is measured.
    fn call(&mut self) -> Result;
}

/// A case that has been called before: whatever happens once only has happened.
pub(crate) fn warm<C: Case>(case: C) -> &'static mut C {
    let case = Box::leak(Box::new(case));
    case.call().expect("it works");
    case
}
