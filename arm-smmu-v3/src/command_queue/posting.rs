//! Commands that nobody waits for, and what may have come to nothing.
//!
//! Entries that refuse everything are tidied up behind the back of whoever blocked them: what is
//! posted then is over long before the entries are used again, and who uses them looks whether it
//! is.

use iommu_core::{DmaMemory, Platform, RawLock, Result};

use super::CommandQueue;
use crate::hardware::Hardware;
use crate::spec::commands::Command;
use crate::sync::Ordering;

/// What may stand between the hardware and what is in memory.
#[derive(Clone, Copy)]
pub(crate) struct Unsettled {
    posted: u64,
    doubts: u64,
}

impl<M: DmaMemory, L: RawLock> CommandQueue<M, L> {
    /// Submits as many of `commands` as there is room for, a `CMD_SYNC` behind them, and does not
    /// wait. Commands that there is no room for are not asked for, nor any while another caller does
    /// not let go of the queue. From here on there is something [unsettled](Self::unsettled).
    pub(crate) fn post<P>(
        &self,
        hardware: &Hardware<P>,
        mut commands: impl Iterator<Item = Command>,
    ) where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let Ok(mut state) = self.enter(hardware) else {
            return;
        };
        let consumed = self.consumed.load(Ordering::Acquire);
        if !self.has_room(&state, consumed, 1) {
            return;
        }
        let first = commands.next();
        if first.is_none() {
            return;
        }
        let count = self.fill(consumed, first, &mut commands);
        let end = self.next(count + 1).end;
        self.posted.store(end, Ordering::Release);
        self.submit_with_sync(hardware, &mut state, count);
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
        self.wait_past(hardware, unsettled.posted)?;
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
