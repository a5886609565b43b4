//! One SMMU's registers, and waiting for it.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use iommu_core::{Clock, Culprit, Error, ErrorKind, Platform, RegisterBank, Result};

use crate::spec::registers::{Cr0, Gbpa, IrqCtrl, offset};

/// A platform, and the bound of every wait for it.
pub(crate) struct Hardware<P> {
    pub(crate) platform: P,
    pub(crate) timeout: Duration,
    /// A change of `SMMU_CR0` was not acknowledged. It may still happen, whatever is written and
    /// acknowledged later (6.3.9).
    doubtful: AtomicBool,
}

impl<P: Platform> Hardware<P> {
    pub(crate) fn new(platform: P, timeout: Duration) -> Self {
        Self {
            platform,
            timeout,
            doubtful: AtomicBool::new(false),
        }
    }

    pub(crate) fn read32(&self, offset: usize) -> u32 {
        self.platform.bank().read32(offset)
    }

    pub(crate) fn write32(&self, offset: usize, value: u32) {
        self.platform.bank().write32(offset, value);
    }

    pub(crate) fn write64(&self, offset: usize, value: u64) {
        self.platform.bank().write64(offset, value);
    }

    /// Looks until `look` returns something or the bound has passed.
    pub(crate) fn poll<T>(&self, look: impl FnMut() -> Option<T>) -> Option<T> {
        self.platform.clock().poll(self.timeout, look)
    }

    /// Waits until the register at `offset` satisfies `done`.
    fn wait(&self, offset: usize, name: &'static str, done: impl Fn(u32) -> bool) -> Result {
        let mut last = 0;
        let seen = self.poll(|| {
            last = self.read32(offset);
            done(last).then_some(())
        });
        seen.ok_or_else(|| {
            Error::new(
                ErrorKind::IommuTimedOut,
                "the SMMU does not acknowledge a change",
            )
            .of(Culprit::Register {
                name,
                value: last.into(),
            })
        })
    }

    /// Writes `SMMU_CR0` and waits until the change is in effect (6.3.9).
    pub(crate) fn set_cr0(&self, value: Cr0) -> Result {
        self.write32(offset::CR0, value.into());
        let result = self.wait(offset::CR0ACK, "SMMU_CR0ACK", |ack| ack == u32::from(value));
        if result.is_err() {
            self.doubtful.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Whether what `SMMU_CR0ACK` says can be believed.
    pub(crate) fn check_switches(&self) -> Result {
        match self.doubtful.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(doubtful(self.read32(offset::CR0ACK))),
        }
    }

    /// Writes `SMMU_IRQ_CTRL` and waits until the change is in effect (6.3.15).
    pub(crate) fn set_irq_ctrl(&self, value: IrqCtrl) -> Result {
        self.write32(offset::IRQ_CTRL, value.into());
        self.wait(offset::IRQ_CTRLACK, "SMMU_IRQ_CTRLACK", |ack| {
            ack == u32::from(value)
        })
    }

    pub(crate) fn gbpa(&self) -> Gbpa {
        self.read32(offset::GBPA).into()
    }

    /// Makes transactions abort, or pass, while translation is off (6.3.14.1). The attributes of
    /// those that pass stay as they are.
    pub(crate) fn set_gbpa_abort(&self, abort: bool) -> Result {
        let idle = |value| !Gbpa::from(value).update();
        self.wait(offset::GBPA, "SMMU_GBPA", idle)?;
        let value = self.gbpa().with_abort(abort).with_update(true);
        self.write32(offset::GBPA, u32::from(value) & !Gbpa::RESERVED);
        self.wait(offset::GBPA, "SMMU_GBPA", idle)
    }
}

/// An earlier change of `SMMU_CR0` was not acknowledged.
pub(crate) fn doubtful(ack: u32) -> Error {
    Error::new(
        ErrorKind::IommuTimedOut,
        "the SMMU left a change unacknowledged",
    )
    .of(Culprit::Register {
        name: "SMMU_CR0ACK",
        value: ack.into(),
    })
}
