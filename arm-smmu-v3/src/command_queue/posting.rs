//! Commands that nobody waits for, and what may have come to nothing.
//!
//! Entries that refuse everything are tidied up behind the back of whoever blocked them: what is
//! posted then is over long before the entries are used again, and who uses them looks whether it
//! is.

use core::mem;
use core::sync::atomic::Ordering;

use iommu_core::{DmaMemory, Platform, RawLock, Result};

use super::CommandQueue;
use crate::hardware::Hardware;
use crate::spec::commands::Command;

/// What may stand between the hardware and what is in memory.
#[derive(Clone, Copy)]
pub(crate) struct Unsettled {
    posted: u64,
    doubts: u64,
}

impl<M: DmaMemory, L: RawLock> CommandQueue<M, L> {
    /// Submits as many of `commands` as there is room for, a `CMD_SYNC` behind them, and does not
    /// wait. Commands that there is no room for are not asked for. From here on there is something
    /// [unsettled](Self::unsettled).
    pub(crate) fn post<P>(
        &self,
        hardware: &Hardware<P>,
        mut commands: impl Iterator<Item = Command>,
    ) where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let mut state = self.state.lock();
        if !self.has_room(&state, 1) {
            return;
        }
        let count = self.fill(&state, &mut commands);
        if count == 0 {
            return;
        }
        let part = self.part(&state, count + 1);
        self.put(part.end - 1, Command::sync());
        self.posted.store(part.end, Ordering::Release);
        self.submit(hardware, &mut state, &part);
    }

    /// Something was not invalidated that should have been, or nobody knows.
    pub(crate) fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::AcqRel);
    }

    /// A command failed: nobody may be waiting for it.
    pub(super) fn doubt_posted(&self, position: u64) {
        if position < self.posted.load(Ordering::Acquire) {
            self.doubt();
        }
    }

    /// What was posted, and what is in doubt, if there is any.
    #[inline]
    pub(crate) fn unsettled(&self) -> Option<Unsettled> {
        let posted = self.posted.load(Ordering::Acquire);
        let doubts = self.doubts.load(Ordering::Acquire);
        (posted | doubts != 0).then_some(Unsettled { posted, doubts })
    }

    /// Waits until all that was posted is done, and returns whether that settles it: whether nothing
    /// is in doubt.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub(crate) fn catch_up<P>(&self, hardware: &Hardware<P>, unsettled: Unsettled) -> Result<bool>
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let mut looked = false;
        self.wait(hardware, |state| {
            mem::replace(&mut looked, true) && state.consumed >= unsettled.posted
        })?;
        let sure = self.doubts.load(Ordering::Acquire) == 0;
        if sure {
            self.settled(unsettled);
        }
        Ok(sure)
    }

    /// Everything was invalidated after `unsettled` was found. Where more came up meanwhile, it is
    /// for the next to settle.
    pub(crate) fn settled(&self, Unsettled { posted, doubts }: Unsettled) {
        let (settled, relaxed) = (Ordering::AcqRel, Ordering::Relaxed);
        let _ = self.posted.compare_exchange(posted, 0, settled, relaxed);
        let _ = self.doubts.compare_exchange(doubts, 0, settled, relaxed);
    }
}
