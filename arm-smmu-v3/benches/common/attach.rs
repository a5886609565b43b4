//! Whole attaches through the core.

use iommu_core::{Device, DomainRef, Result, StreamId};

use super::{Case, Lab};

/// What a device can be on in a [`Lab`].
#[derive(Clone, Copy)]
pub(crate) enum On {
    Blocked,
    Stage1,
    OtherStage1,
    Stage2,
}

/// A device of one stream goes from one domain to another.
pub(crate) struct Attach {
    device: Device,
    from: DomainRef,
    to: DomainRef,
}

impl Attach {
    pub(crate) fn between(from: On, to: On) -> impl Fn(&'static Lab, u32) -> Self {
        move |lab, n| Self {
            device: lab.device(StreamId(n)),
            from: lab.domains[from as usize].clone(),
            to: lab.domains[to as usize].clone(),
        }
    }
}

impl Case for Attach {
    fn call(&mut self) -> Result {
        self.device.attach(&self.to)
    }

    fn reset(&mut self) {
        self.device.attach(&self.from).expect("it works");
    }
}
