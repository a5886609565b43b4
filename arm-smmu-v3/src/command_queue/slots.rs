//! Where commands lie in the queue, and how they get there.

use iommu_core::{DmaMemory, PhysAddr, RawLock};

use super::{CommandQueue, Condition, Part, State};
use crate::spec::commands::{Command, SIZE};
use crate::sync::{AtomicU64, Ordering};

/// A place for one command.
pub(super) type Slot = [AtomicU64; SIZE / 8];

impl<M: DmaMemory, L: RawLock> CommandQueue<M, L> {
    /// The next slots for as many commands as `announced`, and the one for a `CMD_SYNC` behind
    /// them, where that is known, the queue has them in one row, and nothing else is in it.
    #[inline(always)]
    pub(super) fn idle_row(
        &self,
        state: &State,
        announced: (usize, Option<usize>),
    ) -> Option<(&[Slot], &Slot)> {
        let (count, most) = announced;
        let published = self.published.load(Ordering::Relaxed);
        let is_idle = state.condition == Condition::Running
            && self.consumed.load(Ordering::Acquire) == published;
        if most != Some(count) || !is_idle {
            return None;
        }
        let rest = self.slots().get(self.slot(published)..)?;
        let (sync, row) = rest.get(..=count)?.split_last()?;
        Some((row, sync))
    }

    /// Puts `first` and what follows of `commands` into the next slots until there are no more, or
    /// there is room for a `CMD_SYNC` only. Returns how many. There is room for one.
    #[inline]
    pub(super) fn fill(
        &self,
        consumed: u64,
        first: Option<Command>,
        commands: &mut impl Iterator<Item = Command>,
    ) -> u64 {
        let Some(first) = first else { return 0 };
        let published = self.published.load(Ordering::Relaxed);
        self.put(published, first);
        let mut count = 1;
        let room = self.room(consumed) - 1;
        let start = self.slot(published + 1);
        let (later, next) = self.slots().split_at_checked(start).unwrap_or_default();
        for row in [next, later] {
            let row = row.get(..room - count).unwrap_or(row);
            let before = count;
            row.iter().zip(&mut *commands).for_each(|(slot, command)| {
                self.store(slot, command);
                count += 1;
            });
            if count - before < row.len() {
                break;
            }
        }
        count as u64
    }

    /// The memory of all commands.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        self.entries.words()
    }

    fn slots(&self) -> &[Slot] {
        self.words().as_chunks().0
    }

    /// Whether `count` commands can be put in, and a `CMD_SYNC` behind them, where all before
    /// `consumed` is done with.
    pub(super) fn has_room(&self, state: &State, consumed: u64, count: usize) -> bool {
        state.condition == Condition::Running && count < self.room(consumed)
    }

    /// For how many commands there is room.
    fn room(&self, consumed: u64) -> usize {
        let published = self.published.load(Ordering::Relaxed);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most what the queue holds"
        )]
        let room = (consumed + self.capacity).saturating_sub(published) as usize;
        room
    }

    pub(super) fn slot(&self, position: u64) -> usize {
        (position & (self.mask >> 1)) as usize
    }

    /// A position's index and wrap bit, as the registers have them.
    pub(super) fn index(&self, position: u64) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "masked to at most 20 bits")]
        let index = (position & self.mask) as u32;
        index
    }

    pub(super) fn put(&self, position: u64, command: Command) {
        if let Some(slot) = self.slots().get(self.slot(position)) {
            self.store(slot, command);
        }
    }

    #[inline(always)]
    pub(super) fn store(&self, slot: &Slot, Command(words): Command) {
        for (word, value) in slot.iter().zip(words) {
            self.entries.memory().store_word(word, value.to_le());
        }
    }

    /// The command at `position`, as far as its kind.
    pub(super) fn kind(&self, position: u64) -> Command {
        let slot = self.slot(position);
        Command([self.entries.load(slot * SIZE / 8), 0])
    }

    /// Whether a device is to answer any of these.
    pub(super) fn asks_devices(&self, part: Part) -> bool {
        (part.first..part.end).any(|position| self.kind(position).is_atc_inv())
    }

    /// Lets the hardware see the commands of `part`, where it does not by itself.
    pub(super) fn clean(&self, part: Part) {
        let memory = self.entries.memory();
        if memory.is_coherent() || part.first == part.end {
            return;
        }
        let clean = |from: usize, to: usize| {
            let addr = PhysAddr(self.entries.addr().0 + (from * SIZE) as u64);
            memory.clean(addr, (to - from) * SIZE);
        };
        match (self.slot(part.first), self.slot(part.end)) {
            (from, to) if from < to => clean(from, to),
            (from, to) => {
                clean(from, self.slots().len());
                clean(0, to);
            }
        }
    }
}
