//! Copies of the toy backend, each with one rule broken: what the conformance suite has to notice.

mod backend;
mod breaks;
mod table;

use std::sync::Arc;

use backend::Toy;
pub use breaks::Break;
use mock_hw::toy::ToyTestbed;

/// The toy backend with this rule broken, or none.
#[must_use]
pub fn toy(broken: Option<Break>) -> ToyTestbed {
    ToyTestbed::new("a copy of the toy backend", move |platform, pins| {
        let driver = Toy::probe(platform, pins, broken)?;
        let handle = Toy(Arc::clone(&driver.0));
        Ok((Box::new(driver), Box::new(move || handle.next_fault())))
    })
}
