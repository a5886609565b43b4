//! The command queue.

use std::sync::atomic::Ordering;
use std::time::Duration;

use arm_smmu_v3::internals::{self, Queue};
use arm_smmu_v3::spec::commands::Command;
use arm_smmu_v3::spec::registers::offset;
use iommu_core::{Iova, RegisterBank, Result, StreamId};

use super::platform::{Platform, platform};
use super::{Case, Lab};

/// The least that any invalidation takes: storing two commands of two words each, the doorbell, and
/// one look.
pub(crate) struct Floor {
    lab: &'static Lab,
    commands: [Command; 2],
}

impl Floor {
    pub(crate) fn new(lab: &'static Lab, n: u32) -> Self {
        let commands = [Command::cfgi_ste(StreamId(n), true), Command::sync()];
        Self { lab, commands }
    }
}

impl Case for Floor {
    #[inline(always)]
    fn call(&mut self) -> Result {
        let [Command(first), Command(second)] = &self.commands;
        for (slot, word) in self.lab.slots.iter().zip(first.iter().chain(second)) {
            slot.store(*word, Ordering::Relaxed);
        }
        self.lab.registers.write32(offset::CMDQ_PROD, 2);
        let _ = self.lab.registers.read32(offset::CMDQ_CONS);
        Ok(())
    }
}

/// Commands, a `CMD_SYNC` behind them, and the wait for that.
pub(crate) struct Invalidate<I> {
    lab: &'static Lab,
    commands: I,
}

impl Invalidate<()> {
    /// `CMD_CFGI_STE`.
    pub(crate) fn ste(lab: &'static Lab, n: u32) -> Invalidate<[Command; 1]> {
        let commands = [Command::cfgi_ste(StreamId(n), true)];
        Invalidate { lab, commands }
    }

    /// `CMD_TLBI_NH_VA` for each of `N` pages, built in the queue.
    pub(crate) fn pages<const N: u64>(
        lab: &'static Lab,
        n: u32,
    ) -> Invalidate<impl IntoIterator<Item = Command> + Clone> {
        let asid = 1;
        let first = u64::from(n) << 20;
        let commands = (0..N).map(move |page| Command::tlbi_va(asid, Iova((first + page) << 12)));
        Invalidate { lab, commands }
    }
}

impl<I: IntoIterator<Item = Command> + Clone + 'static> Case for Invalidate<I> {
    #[inline(always)]
    fn call(&mut self) -> Result {
        internals::run_inlined(&self.lab.smmu, self.commands.clone())
    }
}

/// The same where the queue ends in the middle of them.
pub(crate) struct Wrapping<I> {
    queue: Queue<Platform>,
    /// How many commands were in the queue so far.
    produced: u64,
    commands: I,
}

impl Wrapping<()> {
    /// As [`Invalidate::pages`].
    pub(crate) fn pages<const N: u64>(
        lab: &'static Lab,
        n: u32,
    ) -> Wrapping<impl IntoIterator<Item = Command> + Clone> {
        let timeout = Duration::from_secs(1);
        Wrapping {
            queue: Queue::new(platform(), 7, timeout).expect("a queue"),
            produced: 0,
            commands: Invalidate::pages::<N>(lab, n).commands,
        }
    }
}

impl<I: IntoIterator<Item = Command> + Clone + 'static> Case for Wrapping<I> {
    #[inline(always)]
    fn call(&mut self) -> Result {
        self.produced += 65;
        self.queue.run(self.commands.clone())
    }

    fn reset(&mut self) {
        while self.produced % 128 != 96 {
            self.produced += 1;
            self.queue.run([]).expect("it works");
        }
    }
}
