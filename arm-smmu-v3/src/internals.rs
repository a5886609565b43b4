//! Parts of the driver for this crate's own benches. Not part of the API: no promise is made about
//! any of it.

use core::time::Duration;

use iommu_core::entry::{Store, Target};
use iommu_core::{Platform, Result, StreamId};

use crate::command_queue::CommandQueue;
use crate::hardware::Hardware;
use crate::smmu::ArmSmmuV3;
use crate::spec::commands::Command;
use crate::spec::ste::{Ste, WORDS};
use crate::stream_table::StreamEntry;
use crate::sync::AtomicU64;

/// Runs `commands` through the command queue, a `CMD_SYNC` behind them, and waits for that. A call,
/// as where pages are unmapped: what calls it is compiled the same whatever is in it.
///
/// # Errors
///
/// As the queue's.
#[inline(never)]
pub fn run<P: Platform>(
    smmu: &ArmSmmuV3<P>,
    commands: impl IntoIterator<Item = Command>,
) -> Result {
    run_inlined(smmu, commands)
}

/// The same as part of the caller, as where an entry is written.
///
/// # Errors
///
/// As the queue's.
#[inline(always)]
pub fn run_inlined<P: Platform>(
    smmu: &ArmSmmuV3<P>,
    commands: impl IntoIterator<Item = Command>,
) -> Result {
    smmu.inner.commands.run(&smmu.inner.hardware, commands)
}

/// A command queue by itself, on hardware that has nothing else.
#[expect(missing_debug_implementations, reason = "nobody prints it")]
pub struct Queue<P: Platform> {
    commands: CommandQueue<P::Memory, P::IrqLock>,
    hardware: Hardware<P>,
}

impl<P: Platform> Queue<P> {
    /// A queue of 2^`log2` commands, open; waits end after `timeout`.
    ///
    /// # Errors
    ///
    /// [`iommu_core::ErrorKind::OutOfMemory`].
    pub fn new(platform: P, log2: u8, timeout: Duration) -> Result<Self> {
        let commands = CommandQueue::new(platform.memory(), log2, 48)?;
        commands.open();
        Ok(Self {
            commands,
            hardware: Hardware::new(platform, timeout),
        })
    }

    /// The memory that the hardware finds the commands in.
    pub fn words(&self) -> &[AtomicU64] {
        self.commands.words()
    }

    /// As [`run`].
    ///
    /// # Errors
    ///
    /// As [`run`].
    #[inline]
    pub fn run(&self, commands: impl IntoIterator<Item = Command>) -> Result {
        self.commands.run(&self.hardware, commands)
    }

    /// What the interrupt of global errors does for the queue.
    pub fn check(&self) {
        self.commands.check(&self.hardware);
    }

    /// Submits `commands` and does not wait for them.
    pub fn post(&self, commands: impl IntoIterator<Item = Command>) {
        self.commands.post(&self.hardware, commands.into_iter());
    }
}

/// The entry of one stream.
#[expect(missing_debug_implementations, reason = "nobody prints it")]
pub struct Entry<P: Platform>(StreamEntry<P::Memory>);

/// Finds a stream's entry.
///
/// # Errors
///
/// As `iommu_core::IommuOps::probe`.
pub fn entry<P: Platform>(smmu: &ArmSmmuV3<P>, stream: StreamId) -> Result<Entry<P>> {
    smmu.inner.reach(stream).map(Entry)
}

/// Makes an entry one that aborts and has nothing else in it.
pub fn clear_entry<P: Platform>(entry: &Entry<P>) {
    let abort = crate::entries::abort().to_words();
    for (word, value) in abort.into_iter().enumerate() {
        entry.0.store(Store::Word { word, value });
    }
}

/// Makes an entry what an attach of one stream makes it.
///
/// # Errors
///
/// As `iommu_core::IommuOps::commit`.
#[inline(never)]
pub fn write_entry<P: Platform>(
    smmu: &ArmSmmuV3<P>,
    entry: &Entry<P>,
    target: &Target<Ste, WORDS>,
) -> Result {
    smmu.inner.write_entry(&entry.0, target)
}
