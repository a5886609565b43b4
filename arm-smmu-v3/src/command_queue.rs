//! The command queue (3.5, chapter 4): what the driver asks of the hardware.
//!
//! Positions count commands since the queue was opened and never wrap, so that waiting for one
//! needs no care about indexes.
//!
//! # Many producers
//!
//! A caller takes the lock, builds its commands in the next slots, writes `SMMU_CMDQ_PROD`, and lets
//! go: one read-modify-write, and no register is read meanwhile. Whoever waits looks at
//! `SMMU_CMDQ_CONS` without the lock.
//!
//! A place could be reserved without a lock. But then a producer that is interrupted keeps everybody
//! behind it from being published, an interrupt handler on the same CPU too, which would wait for
//! itself; only the platform's [`IrqLock`](Platform::IrqLock) keeps interrupts off. So a producer
//! is never interrupted half way. Where its CPU is stopped all the same, by a hypervisor, nothing of
//! what it does is seen, nothing is overwritten, and others wait for no longer than their bound
//! ([`ErrorKind::IommuTimedOut`](iommu_core::ErrorKind::IommuTimedOut)). Who comes first is
//! `turn`'s business.
//!
//! # Sharing a `CMD_SYNC`
//!
//! A caller's commands have a `CMD_SYNC` behind them, unless two are on their way already: then they
//! go without one and are covered by whatever `CMD_SYNC` is submitted next. If nobody comes, one of
//! those who wait submits one when the first of the two has completed. So the hardware always has
//! the next one at hand, and any number of callers wait for one together. Commands that a device
//! answers keep a `CMD_SYNC` of their own, because that is what fails with the device (4.7.3). So
//! what fails at a caller's positions is that caller's and nobody else's.
//!
//! # Order
//!
//! Stores into slots, `published` and `synced` come before [`DmaMemory::write_barrier`], and that
//! before the doorbell. What is noted about a failure comes before the write barrier ahead of the
//! write of `SMMU_GERRORN`, which alone gets the hardware over it. A look reads `SMMU_CMDQ_CONS`,
//! passes [`DmaMemory::read_barrier`], and only then loads `published`, `synced` and `failed`. So it
//! sees at least what had been published when the hardware got there, and every failure that it got
//! over. The index that was read is unambiguous: the hardware is never more than a whole queue behind
//! what is published, and whoever publishes more has seen it move on.
//!
//! `consumed` is a bound that anybody may store, once the hardware is there, and that whoever fills
//! slots acquires: the hardware had read them before. It may go back to an old value, because the
//! hardware does not; that costs another look at most. Everything else that changes is under the
//! lock.
//!
//! `tests/loom.rs` goes through the orders of two callers.

mod failures;
mod posting;
mod recovery;
mod slots;
mod turn;
mod waiting;

use alloc::boxed::Box;

use iommu_core::{DmaBlock, DmaMemory, Platform, RawLock, Result};
use lock_api::{Mutex, MutexGuard};

use crate::hardware::Hardware;
use crate::spec::commands::{Command, SIZE};
use crate::spec::registers::{QueueBase, offset};
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use failures::{Failures, graver};
use turn::Line;

pub(crate) use posting::Unsettled;

const QUEUE: &str = "command queue";

// What every submission reads and writes comes first, in one cache line where the lock is small.
#[repr(C, align(64))]
pub(crate) struct CommandQueue<M: DmaMemory, L: RawLock> {
    line: Line,
    /// Positions before this one hold, or held, commands. Changes under the lock.
    published: AtomicU64,
    /// The end of the last `CMD_SYNC` behind everything of a caller's. Changes under the lock.
    synced: AtomicU64,
    /// Positions before this one are known to be done with. May go back to one that was known
    /// before.
    consumed: AtomicU64,
    state: Mutex<L, State>,
    entries: DmaBlock<M>,
    /// The number of commands that the queue holds, a power of two.
    capacity: u64,
    /// The bits of an index and its wrap bit.
    mask: u64,
    /// The end of the latest command that failed. Changes under the lock.
    failed: AtomicU64,
    /// Whether the queue is [`Condition::Running`]. Changes under the lock.
    running: AtomicBool,
    /// Positions below this one hold commands that nobody has waited for; 0 for none.
    posted: AtomicU64,
    /// How often something came between the hardware and an invalidation since everything was
    /// last invalidated.
    doubts: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// Off by [`CommandQueue::close`], with translation: there is nothing to invalidate.
    Closed,
    Running,
    /// Stopped in a way that nothing here can mend.
    Broken,
}

struct State {
    condition: Condition,
    /// The end of a `CMD_SYNC` before the one of `synced`: the last such, unless that is known to
    /// have completed.
    earlier: u64,
    failures: Box<Failures>,
}

/// What one caller has submitted at a time: positions from `first` to below `end`.
#[derive(Clone, Copy)]
struct Part {
    first: u64,
    end: u64,
}

/// What tells that a part has completed: a `CMD_SYNC` behind it that the hardware is past.
#[derive(Clone, Copy)]
enum CoveredBy {
    /// The one that ends here.
    Sync(u64),
    /// One that is to come, at the latest when the hardware is past the one that ends here.
    OneAfter(u64),
}

impl<M: DmaMemory, L: RawLock> CommandQueue<M, L> {
    /// A queue of 2^`log2` commands (1 to 19), not enabled.
    pub(crate) fn new(memory: &M, log2: u8, output_bits: u32) -> Result<Self> {
        let size = SIZE << log2;
        let entries = DmaBlock::new(memory, size, size.max(32), QUEUE)?.below(output_bits)?;
        let [published, synced, consumed, failed, posted, doubts] = [0; 6].map(AtomicU64::new);
        Ok(Self {
            line: Line::new(),
            published,
            synced,
            consumed,
            state: Mutex::new(State {
                condition: Condition::Closed,
                earlier: 0,
                failures: Box::new(Failures::new()),
            }),
            entries,
            capacity: 1 << log2,
            mask: (2 << log2) - 1,
            failed,
            running: AtomicBool::new(false),
            posted,
            doubts,
        })
    }

    pub(crate) fn base(&self) -> QueueBase {
        #[expect(clippy::cast_possible_truncation, reason = "at most 19")]
        let log2 = self.capacity.trailing_zeros() as u8;
        QueueBase::new()
            .with_log2size(log2)
            .with_addr((self.entries.addr().0 >> 5) & ((1 << 51) - 1))
            .with_allocate(true)
    }

    /// Lets commands be submitted: the hardware takes them from index 0 on. Called once.
    pub(crate) fn open(&self) {
        self.set_condition(&mut self.state.lock(), Condition::Running);
    }

    /// From here on there is nothing to invalidate: translation is off, and that is confirmed.
    /// Commands succeed without reaching the hardware.
    pub(crate) fn close(&self) {
        self.set_condition(&mut self.state.lock(), Condition::Closed);
    }

    fn set_condition(&self, state: &mut State, condition: Condition) {
        state.condition = condition;
        let running = condition == Condition::Running;
        self.running.store(running, Ordering::Relaxed);
    }

    /// The memory stays allocated for good.
    pub(crate) fn leak(&self) {
        self.entries.leak();
    }

    /// Submits `commands`, a `CMD_SYNC` behind them, and waits until that has completed: every
    /// command then has, and the hardware acts on nothing that they invalidated. Where others wait
    /// too, that may be one `CMD_SYNC` for several callers.
    ///
    /// Where there is no room for all of them, they are submitted in parts as room comes up, each
    /// with a `CMD_SYNC` and waited for before the next. An iterator that says how many there are
    /// is believed.
    ///
    /// # Errors
    ///
    /// Each wait has the bound for itself: for the queue, for room, for the end of a part.
    ///
    /// - [`ErrorKind::IommuTimedOut`]: no end within the bound; names the command it hangs at. Or
    ///   another caller does not let go of the queue; what was submitted by then may still happen;
    /// - [`ErrorKind::DeviceTimedOut`]: a device's cache did not answer; any other `CMD_ATC_INV`
    ///   among `commands` may have come to nothing with that (4.7.3), all the rest was done;
    /// - [`ErrorKind::Hardware`]: the hardware refused one of the commands, could not read the
    ///   queue, or reports a position that cannot be.
    ///
    /// [`ErrorKind::IommuTimedOut`]: iommu_core::ErrorKind::IommuTimedOut
    /// [`ErrorKind::DeviceTimedOut`]: iommu_core::ErrorKind::DeviceTimedOut
    /// [`ErrorKind::Hardware`]: iommu_core::ErrorKind::Hardware
    #[inline(always)]
    pub(crate) fn run<P>(
        &self,
        hardware: &Hardware<P>,
        commands: impl IntoIterator<Item = Command>,
    ) -> Result
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let commands = commands.into_iter();
        let state = self.enter(hardware)?;
        let Some((row, sync)) = self.idle_row(&state, commands.size_hint()) else {
            return self.run_in_parts(hardware, commands, state);
        };
        let mut count = 0;
        row.iter().zip(commands).for_each(|(slot, command)| {
            self.store(slot, command);
            count += 1;
        });
        debug_assert_eq!(count, row.len(), "as many as were announced");
        self.store(sync, Command::sync());
        let part = self.next(row.len() as u64 + 1);
        self.synced.store(part.end, Ordering::Relaxed);
        self.submit(hardware, part);
        drop(state);
        // A command that failed stops the index before it, unless somebody else was there already.
        let cons = hardware.read32(offset::CMDQ_CONS);
        self.entries.memory().read_barrier();
        if cons == self.index(part.end) && !self.may_have_failed(part) {
            self.consumed.store(part.end, Ordering::Release);
            return Ok(());
        }
        self.finish(hardware, part)
    }

    /// The next `count` positions. Under the lock.
    #[inline(always)]
    fn next(&self, count: u64) -> Part {
        let first = self.published.load(Ordering::Relaxed);
        Part {
            first,
            end: first + count,
        }
    }

    /// Tells the hardware of the commands of `part`, which are in their slots. Under the lock.
    #[inline(always)]
    fn submit<P>(&self, hardware: &Hardware<P>, part: Part)
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        self.clean(part);
        self.published.store(part.end, Ordering::Relaxed);
        self.entries.memory().write_barrier();
        hardware.write32(offset::CMDQ_PROD, self.index(part.end));
    }

    /// Puts a `CMD_SYNC` behind the next `count` commands, which are in their slots, and tells the
    /// hardware.
    fn submit_with_sync<P>(&self, hardware: &Hardware<P>, state: &mut State, count: u64) -> Part
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let part = self.next(count + 1);
        self.put(part.end - 1, Command::sync());
        state.earlier = self.synced.load(Ordering::Relaxed);
        self.synced.store(part.end, Ordering::Relaxed);
        self.submit(hardware, part);
        part
    }

    /// Tells the hardware of the next `count` commands, the last of a caller's, which are in their
    /// slots: with a `CMD_SYNC` behind them, or, where two are on their way, without. One for these
    /// alone would complete after both.
    fn submit_last<P>(
        &self,
        hardware: &Hardware<P>,
        state: &mut State,
        consumed: u64,
        count: u64,
    ) -> (Part, CoveredBy)
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let part = self.next(count);
        // A device that does not answer fails the `CMD_SYNC`: only who asked it is to be told.
        if consumed < state.earlier && !self.asks_devices(part) {
            self.submit(hardware, part);
            (part, CoveredBy::OneAfter(state.earlier))
        } else {
            let part = self.submit_with_sync(hardware, state, count);
            (part, CoveredBy::Sync(part.end))
        }
    }

    /// Submits `commands` as there is room, part after part.
    #[cold]
    #[inline(never)]
    fn run_in_parts<'a, P>(
        &'a self,
        hardware: &Hardware<P>,
        commands: impl Iterator<Item = Command>,
        state: MutexGuard<'a, L, State>,
    ) -> Result
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let mut commands = commands.fuse();
        let (known, _) = commands.size_hint();
        let consumed = self.consumed.load(Ordering::Acquire);
        let has_room = self.has_room(&state, consumed, known.max(1));
        let mut ready = has_room.then_some((state, consumed));
        let mut result = Ok(());
        let mut next = commands.next();
        loop {
            let room = match ready.take() {
                Some(room) => Some(room),
                None => self.wait_for_room(hardware)?,
            };
            let Some((mut state, consumed)) = room else {
                return Ok(());
            };
            let count = self.fill(consumed, next, &mut commands);
            next = commands.next();
            let (part, covered) = match next {
                Some(_) => {
                    let part = self.submit_with_sync(hardware, &mut state, count);
                    (part, CoveredBy::Sync(part.end))
                }
                None => self.submit_last(hardware, &mut state, consumed, count),
            };
            drop(state);
            result = graver(result, self.outcome(hardware, part, covered)?);
            if next.is_none() {
                return result;
            }
        }
    }
}

#[cfg(test)]
mod tests;
