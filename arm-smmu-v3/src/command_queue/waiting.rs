//! Waiting for what was submitted, and for room.
//!
//! A look without the lock tells whether the hardware is past a `CMD_SYNC`. Whoever finds anything
//! else takes the lock to find out what.

use core::cell::Cell;

use iommu_core::{DmaMemory, Error, ErrorKind, Platform, RawLock, Result};
use lock_api::MutexGuard;

use super::turn::{Turn, taken};
use super::{CommandQueue, Condition, CoveredBy, Part, State};
use crate::hardware::Hardware;
use crate::spec::registers::offset;
use crate::sync::Ordering;

/// How often `SMMU_CMDQ_CONS` may read the same before what callers write is looked at again, which
/// keeps them from writing it. Not for ever: the index comes round.
const UNCHANGED: u32 = if cfg!(loom) { 1 } else { 64 };

/// How far the hardware was at one look: no further back than that.
#[derive(Clone, Copy)]
struct View {
    /// The end of what it has been told of.
    published: u64,
    /// How much of that it had not taken.
    backlog: u64,
}

impl View {
    /// Whether nothing before `position` is left. What was not published at that look is.
    fn is_past(self, position: u64) -> bool {
        let behind = self.published.checked_sub(position);
        behind.is_some_and(|behind| self.backlog <= behind)
    }
}

/// What a look without the lock says to somebody who waits.
enum Glance {
    NothingNew,
    AllDone,
    LookCloser,
}

/// How a wait ended.
enum Waited<'a, L: RawLock> {
    AtAGlance,
    /// The lock is still held; everything before the position is done with.
    Locked(MutexGuard<'a, L, State>, u64),
    /// The queue is closed.
    Closed,
}

impl<M: DmaMemory, L: RawLock> CommandQueue<M, L> {
    /// How far the hardware is by what `SMMU_CMDQ_CONS` was just read as; `None` where that says
    /// anything else too.
    fn view(&self, cons: u32) -> Option<View> {
        let cons = u64::from(cons);
        self.entries.memory().read_barrier();
        let published = self.published.load(Ordering::Relaxed);
        let backlog = published.wrapping_sub(cons) & self.mask;
        (cons <= self.mask).then_some(View { published, backlog })
    }

    /// Whether a command of `part` may be among those that failed.
    #[inline(always)]
    pub(super) fn may_have_failed(&self, part: Part) -> bool {
        self.failed.load(Ordering::Relaxed) > part.first
    }

    /// Waits for `part`, which ends in a `CMD_SYNC`.
    #[cold]
    #[inline(never)]
    pub(super) fn finish<P>(&self, hardware: &Hardware<P>, part: Part) -> Result
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        self.outcome(hardware, part, CoveredBy::Sync(part.end))?
    }

    /// Waits until `part` is done with, and returns what became of it.
    pub(super) fn outcome<P>(
        &self,
        hardware: &Hardware<P>,
        part: Part,
        covered: CoveredBy,
    ) -> Result<Result>
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let covered = Cell::new(covered);
        let glance = |view: View| {
            if let CoveredBy::OneAfter(earlier) = covered.get() {
                let synced = self.synced.load(Ordering::Relaxed);
                if synced < part.end {
                    return match view.is_past(earlier) {
                        true => Glance::LookCloser,
                        false => Glance::NothingNew,
                    };
                }
                covered.set(CoveredBy::Sync(synced));
            }
            match covered.get() {
                CoveredBy::Sync(end) if view.is_past(end) => {
                    if self.may_have_failed(part) {
                        return Glance::LookCloser;
                    }
                    self.consumed.store(end, Ordering::Release);
                    Glance::AllDone
                }
                _ => Glance::NothingNew,
            }
        };
        let done = |state: &mut State, reached| {
            if let CoveredBy::OneAfter(earlier) = covered.get()
                && let Some(end) = self.sync_behind(hardware, state, reached, part.end, earlier)
            {
                covered.set(CoveredBy::Sync(end));
            }
            matches!(covered.get(), CoveredBy::Sync(end) if end <= reached)
        };
        Ok(match self.wait(hardware, glance, done)? {
            Waited::AtAGlance | Waited::Closed => Ok(()),
            Waited::Locked(state, _) => state.failures.within(part.first..part.end),
        })
    }

    /// The end of a `CMD_SYNC` behind `position`: one that another caller has submitted since, or
    /// one that is submitted here, for everybody who waits for one, once the hardware is past
    /// `earlier`.
    fn sync_behind<P>(
        &self,
        hardware: &Hardware<P>,
        state: &mut State,
        reached: u64,
        position: u64,
        earlier: u64,
    ) -> Option<u64>
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let synced = self.synced.load(Ordering::Relaxed);
        if synced >= position {
            return Some(synced);
        }
        if reached < earlier || !self.has_room(state, reached, 0) {
            return None;
        }
        Some(self.submit_with_sync(hardware, state, 0).end)
    }

    /// Waits for room for a command and a `CMD_SYNC`, and returns the lock and what everything
    /// before is done with; `None` where the queue is closed.
    #[cold]
    #[inline(never)]
    pub(super) fn wait_for_room<P>(
        &self,
        hardware: &Hardware<P>,
    ) -> Result<Option<(MutexGuard<'_, L, State>, u64)>>
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let glance = |view: View| match view.backlog + 2 <= self.capacity {
            true => Glance::LookCloser,
            false => Glance::NothingNew,
        };
        let done = |state: &mut State, reached| self.has_room(state, reached, 1);
        Ok(match self.wait(hardware, glance, done)? {
            Waited::Locked(state, reached) => Some((state, reached)),
            Waited::AtAGlance | Waited::Closed => None,
        })
    }

    /// Waits until everything below `position` is done with.
    pub(super) fn wait_past<P>(&self, hardware: &Hardware<P>, position: u64) -> Result
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let glance = |view: View| match view.is_past(position) {
            true => Glance::LookCloser,
            false => Glance::NothingNew,
        };
        self.wait(hardware, glance, |_, reached| position <= reached)?;
        Ok(())
    }

    /// Looks until a `glance` is enough, or until `done`, which is asked under the lock, with the
    /// position that the hardware has reached, whenever there is more to see.
    fn wait<P>(
        &self,
        hardware: &Hardware<P>,
        glance: impl Fn(View) -> Glance,
        mut done: impl FnMut(&mut State, u64) -> bool,
    ) -> Result<Waited<'_, L>>
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let mut turn = Turn::new(&self.line);
        // What the register said when there was nothing new, and for how many looks that is so.
        let (mut same, mut looks) = (0, 0);
        let polled = hardware.poll(|| {
            let cons = hardware.read32(offset::CMDQ_CONS);
            let running = self.running.load(Ordering::Relaxed);
            if looks > 0 && cons == same && running {
                looks -= 1;
                return None;
            }
            looks = 0;
            match self.view(cons).map(&glance) {
                Some(Glance::AllDone) => return Some(Ok(Waited::AtAGlance)),
                Some(Glance::NothingNew) if running => {
                    turn.give_up();
                    (same, looks) = (cons, UNCHANGED);
                    return None;
                }
                _ => {}
            }
            let mut state = turn.has_come().then(|| self.state.try_lock()).flatten()?;
            turn.give_up();
            match self.look(hardware, &mut state) {
                Ok(Some(reached)) => {
                    done(&mut state, reached).then_some(Ok(Waited::Locked(state, reached)))
                }
                Ok(None) => Some(Ok(Waited::Closed)),
                Err(error) => Some(Err(error)),
            }
        });
        if let Some(seen) = polled {
            return seen;
        }
        let mut state = self.state.try_lock().ok_or_else(taken)?;
        let Some(reached) = self.look(hardware, &mut state)? else {
            return Ok(Waited::Closed);
        };
        if done(&mut state, reached) {
            return Ok(Waited::Locked(state, reached));
        }
        let reason = "the SMMU does not get past this command";
        Err(Error::new(ErrorKind::IommuTimedOut, reason).of(self.culprit(reached)))
    }

    /// Looks how far the hardware is; `None` where the queue is closed.
    fn look<P>(&self, hardware: &Hardware<P>, state: &mut State) -> Result<Option<u64>>
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        match state.condition {
            Condition::Closed => Ok(None),
            Condition::Broken => Err(broken()),
            Condition::Running => self.refresh(hardware, state).map(Some),
        }
    }
}

fn broken() -> Error {
    Error::new(
        ErrorKind::IommuTimedOut,
        "the command queue has stopped for good",
    )
}
