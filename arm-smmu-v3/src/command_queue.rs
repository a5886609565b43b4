//! The command queue (3.5, chapter 4): what the driver asks of the hardware.
//!
//! Positions count commands since the queue was opened and never wrap, so that waiting for one
//! needs no care about indexes. The lock is held for a few register accesses at a time and never
//! while waiting: a waiter looks, lets go, and looks again.
//!
//! What a caller asks for goes into the queue with a `CMD_SYNC` of its own behind it, under one hold
//! of the lock. So what fails at these positions is that caller's and nobody else's. Whoever finds
//! room takes it: a caller never waits for another one, who may have been interrupted.

mod failures;
mod posting;
mod recovery;

use core::mem;
use core::sync::atomic::AtomicU64;

use iommu_core::{DmaBlock, DmaMemory, Error, ErrorKind, PhysAddr, Platform, RawLock, Result};
use lock_api::{Mutex, MutexGuard};

use crate::hardware::Hardware;
use crate::spec::commands::{Command, SIZE};
use crate::spec::registers::{QueueBase, offset};
use failures::{Failures, graver};

pub(crate) use posting::Unsettled;

const QUEUE: &str = "command queue";

/// A place for one command.
type Slot = [AtomicU64; SIZE / 8];

pub(crate) struct CommandQueue<M: DmaMemory, L: RawLock> {
    entries: DmaBlock<M>,
    /// The number of commands that the queue holds, a power of two.
    capacity: u64,
    /// Positions below this one hold commands that nobody has waited for; 0 for none.
    posted: AtomicU64,
    /// How often something came between the hardware and an invalidation since everything was
    /// last invalidated.
    doubts: AtomicU64,
    state: Mutex<L, State>,
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
    /// Positions before this one hold, or held, commands.
    produced: u64,
    /// Positions before this one are known to be done with.
    consumed: u64,
    failures: Failures,
}

impl State {
    const fn new(condition: Condition) -> Self {
        Self {
            condition,
            produced: 0,
            consumed: 0,
            failures: Failures::new(),
        }
    }
}

/// Commands in the queue, and a `CMD_SYNC` behind them: positions from `first` to below `end`.
struct Part {
    first: u64,
    end: u64,
    /// Index and wrap bit of `end`, as the registers have it.
    prod: u32,
}

impl Part {
    /// Looks whether the hardware is done with this part, which was submitted under this very hold
    /// of the lock.
    ///
    /// A command that failed would stop the index before it, and nobody else can have got the
    /// hardware over it meanwhile. So where the register says nothing but where the part ends, all
    /// went well.
    fn is_done<P: Platform>(&self, hardware: &Hardware<P>, state: &mut State) -> bool {
        let done = hardware.read32(offset::CMDQ_CONS) == self.prod;
        if done {
            state.consumed = self.end;
        }
        done
    }
}

impl<M: DmaMemory, L: RawLock> CommandQueue<M, L> {
    /// A queue of 2^`log2` commands (1 to 19), not enabled.
    pub(crate) fn new(memory: &M, log2: u8, output_bits: u32) -> Result<Self> {
        let size = SIZE << log2;
        let entries = DmaBlock::new(memory, size, size.max(32), QUEUE)?.below(output_bits)?;
        Ok(Self {
            entries,
            capacity: 1 << log2,
            posted: AtomicU64::new(0),
            doubts: AtomicU64::new(0),
            state: Mutex::new(State::new(Condition::Closed)),
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

    /// Lets commands be submitted: the hardware takes them from index 0 on.
    pub(crate) fn open(&self) {
        *self.state.lock() = State::new(Condition::Running);
    }

    /// From here on there is nothing to invalidate: translation is off, and that is confirmed.
    /// Commands succeed without reaching the hardware.
    pub(crate) fn close(&self) {
        self.state.lock().condition = Condition::Closed;
    }

    /// The memory stays allocated for good.
    pub(crate) fn leak(&self) {
        self.entries.leak();
    }

    /// Submits `commands`, a `CMD_SYNC` behind them, and waits until that has completed: every
    /// command then has, and the hardware acts on nothing that they invalidated.
    ///
    /// Where there is no room for all of them, they are submitted in parts as room comes up, each
    /// with a `CMD_SYNC` and waited for before the next. An iterator that says how many there are
    /// is believed.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::IommuTimedOut`]: no end within the bound; names the command it hangs at;
    /// - [`ErrorKind::DeviceTimedOut`]: a device's cache did not answer; any other `CMD_ATC_INV`
    ///   among `commands` may have come to nothing with that (4.7.3), all the rest was done;
    /// - [`ErrorKind::Hardware`]: the hardware refused one of the commands, could not read the
    ///   queue, or reports a position that cannot be.
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
        let mut state = self.state.lock();
        let Some((row, sync)) = self.row(&state, commands.size_hint()) else {
            return self.run_in_parts(hardware, commands, state);
        };
        let part = self.part(&state, row.len() as u64 + 1);
        let mut count = 0;
        row.iter().zip(commands).for_each(|(slot, command)| {
            self.store(slot, command);
            count += 1;
        });
        debug_assert_eq!(count, row.len(), "as many as were announced");
        self.store(sync, Command::sync());
        self.submit(hardware, &mut state, &part);
        if part.is_done(hardware, &mut state) {
            return Ok(());
        }
        drop(state);
        self.finish(hardware, part)
    }

    /// The next slots for as many commands as `announced`, and the one for a `CMD_SYNC` behind
    /// them, where that is known, and the queue has them in one row.
    fn row(&self, state: &State, announced: (usize, Option<usize>)) -> Option<(&[Slot], &Slot)> {
        let (count, most) = announced;
        if most != Some(count) || !self.has_room(state, count) {
            return None;
        }
        let rest = self.slots().get(self.slot(state.produced)..)?;
        let (sync, row) = rest.get(..=count)?.split_last()?;
        Some((row, sync))
    }

    /// The next `count` positions.
    fn part(&self, state: &State, count: u64) -> Part {
        let first = state.produced;
        let end = first + count;
        #[expect(clippy::cast_possible_truncation, reason = "masked to at most 20 bits")]
        let prod = (end & (2 * self.capacity - 1)) as u32;
        Part { first, end, prod }
    }

    /// Tells the hardware of the commands of `part`, which are in their slots.
    fn submit<P>(&self, hardware: &Hardware<P>, state: &mut State, part: &Part)
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        self.clean(part.first, part.end);
        self.entries.memory().write_barrier();
        state.produced = part.end;
        hardware.write32(offset::CMDQ_PROD, part.prod);
    }

    /// Waits for what was submitted.
    #[cold]
    #[inline(never)]
    fn finish<P>(&self, hardware: &Hardware<P>, part: Part) -> Result
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        self.outcome(hardware, part)?.unwrap_or(Ok(()))
    }

    /// Submits `commands` as there is room, part after part, each with a `CMD_SYNC` behind it.
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
        let mut commands = commands.peekable();
        let (known, _) = commands.size_hint();
        let mut ready = self.has_room(&state, known.max(1)).then_some(state);
        let mut result = Ok(());
        loop {
            let room = match ready.take() {
                Some(state) => Some(state),
                None => self.wait_for_room(hardware)?,
            };
            let Some(mut state) = room else { return Ok(()) };
            let count = self.fill(&state, &mut commands);
            let part = self.part(&state, count + 1);
            self.put(part.end - 1, Command::sync());
            self.submit(hardware, &mut state, &part);
            if !part.is_done(hardware, &mut state) {
                drop(state);
                let Some(outcome) = self.outcome(hardware, part)? else {
                    return Ok(());
                };
                result = graver(result, outcome);
            }
            if commands.peek().is_none() {
                return result;
            }
        }
    }

    /// Puts commands into the next slots until there are no more, or there is room for a `CMD_SYNC`
    /// only. Returns how many.
    #[inline]
    fn fill(&self, state: &State, commands: &mut impl Iterator<Item = Command>) -> u64 {
        let room = self.room(state) - 1;
        let start = self.slot(state.produced);
        let (later, next) = self.slots().split_at_checked(start).unwrap_or_default();
        let mut count = 0;
        for row in [next, later] {
            let row = row.get(..room - count).unwrap_or(row);
            for slot in row {
                let Some(command) = commands.next() else {
                    return count as u64;
                };
                self.store(slot, command);
                count += 1;
            }
        }
        count as u64
    }

    /// Waits for room for a command and a `CMD_SYNC`.
    #[cold]
    #[inline(never)]
    fn wait_for_room<P>(&self, hardware: &Hardware<P>) -> Result<Option<MutexGuard<'_, L, State>>>
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        // There may be more than is known of: the hardware is looked at first.
        let mut looked = false;
        self.wait(hardware, |state| {
            mem::replace(&mut looked, true) && self.has_room(state, 1)
        })
    }

    /// Waits until `part` is done with, and returns what became of it; `None` where the queue was
    /// closed.
    fn outcome<P>(&self, hardware: &Hardware<P>, part: Part) -> Result<Option<Result>>
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let state = self.wait(hardware, |state| state.consumed >= part.end)?;
        Ok(state.map(|state| state.failures.within(part.first..part.end)))
    }

    /// Waits until `done`, and returns the state still locked; `None` where the queue is closed.
    fn wait<P>(
        &self,
        hardware: &Hardware<P>,
        mut done: impl FnMut(&State) -> bool,
    ) -> Result<Option<MutexGuard<'_, L, State>>>
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let seen = hardware.poll(|| {
            let mut state = self.state.lock();
            match state.condition {
                Condition::Closed => return Some(Ok(None)),
                Condition::Broken => return Some(Err(broken())),
                Condition::Running => {}
            }
            if !done(&state)
                && let Err(error) = self.refresh(hardware, &mut state)
            {
                return Some(Err(error));
            }
            done(&state).then_some(Ok(Some(state)))
        });
        seen.unwrap_or_else(|| {
            let at = self.state.lock().consumed;
            Err(Error::new(
                ErrorKind::IommuTimedOut,
                "the SMMU does not get past this command",
            )
            .of(self.culprit(at)))
        })
    }

    fn slots(&self) -> &[Slot] {
        self.entries.words().as_chunks().0
    }

    /// Whether `count` commands can be put in, and a `CMD_SYNC` behind them.
    fn has_room(&self, state: &State, count: usize) -> bool {
        state.condition == Condition::Running && count < self.room(state)
    }

    fn room(&self, state: &State) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most what the queue holds"
        )]
        let room = (self.capacity - (state.produced - state.consumed)) as usize;
        room
    }

    fn slot(&self, position: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "masked to at most 19 bits")]
        let slot = (position & (self.capacity - 1)) as usize;
        slot
    }

    fn put(&self, position: u64, command: Command) {
        if let Some(slot) = self.slots().get(self.slot(position)) {
            self.store(slot, command);
        }
    }

    fn store(&self, slot: &Slot, Command(words): Command) {
        for (word, value) in slot.iter().zip(words) {
            self.entries.memory().store_word(word, value.to_le());
        }
    }

    /// Lets the hardware see the commands at positions from `first` to below `end`, where it does
    /// not by itself.
    fn clean(&self, first: u64, end: u64) {
        let memory = self.entries.memory();
        if memory.is_coherent() {
            return;
        }
        let clean = |from: usize, to: usize| {
            let addr = PhysAddr(self.entries.addr().0 + (from * SIZE) as u64);
            memory.clean(addr, (to - from) * SIZE);
        };
        match (self.slot(first), self.slot(end)) {
            (from, to) if from < to => clean(from, to),
            (from, to) => {
                clean(from, self.slots().len());
                clean(0, to);
            }
        }
    }
}

fn broken() -> Error {
    Error::new(
        ErrorKind::IommuTimedOut,
        "the command queue has stopped for good",
    )
}

#[cfg(test)]
mod tests;
