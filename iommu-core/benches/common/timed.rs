//! An SMMU that takes its time for every `CMD_SYNC`, one after the other, and none for other
//! commands.
#![expect(
    clippy::cast_possible_truncation,
    reason = "positions and times of a bench are small"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arm_smmu_v3::spec::commands::Command;
use arm_smmu_v3::spec::registers::{QueueBase, offset};
use iommu_core::{DmaMemory, PhysAddr, RegisterBank};

use super::platform::{Heap, Registers};

/// How many `CMD_SYNC`s it remembers: more than are ever on their way.
const SYNCS: usize = 7;
/// The bits of a position that are kept with the time of a `CMD_SYNC`.
const ENDS: u64 = (1 << 16) - 1;

#[derive(Clone)]
pub(crate) struct Timed {
    registers: Registers,
    start: Instant,
    /// What a `CMD_SYNC` takes.
    takes: Duration,
    progress: Arc<Progress>,
}

/// One cache line, which is all that a look at the register costs.
#[repr(align(64))]
struct Progress {
    /// The commands that it has been told of, counted for good; above, the `CMD_SYNC`s among them.
    told: AtomicU64,
    /// When each `CMD_SYNC` is done, in nanoseconds, and the end of its position below.
    syncs: [AtomicU64; SYNCS],
}

impl Timed {
    pub(crate) fn new(takes: Duration) -> Self {
        Self {
            registers: Registers::new(),
            start: Instant::now(),
            takes,
            progress: Arc::new(Progress {
                told: AtomicU64::new(0),
                syncs: Default::default(),
            }),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn queue(&self) -> QueueBase {
        self.registers.read64(offset::CMDQ_BASE).into()
    }

    /// The bits of an index and its wrap bit.
    fn mask(&self) -> u64 {
        (2 << self.queue().log2size()) - 1
    }

    fn is_sync(&self, position: u64) -> bool {
        let slot = position & (self.mask() >> 1);
        let command = Heap.pointer(PhysAddr((self.queue().addr() << 5) + slot * 16));
        // SAFETY: the driver says that its queue is here, which it allocated from the heap, and lets
        // go of after the registers; it accesses it by atomic words.
        let word = unsafe { command.cast::<AtomicU64>().as_ref() };
        word.load(Ordering::Relaxed) == Command::sync().0[0]
    }

    /// Called by one thread at a time: the one that has the queue's lock.
    fn tell(&self, index: u32) {
        let Progress { told, syncs } = &*self.progress;
        let before = told.load(Ordering::Relaxed);
        let (mut count, first) = (before >> 32, before & u64::from(u32::MAX));
        let end = first + (u64::from(index).wrapping_sub(first) & self.mask());
        let now = self.now();
        for position in first..end {
            if self.is_sync(position) {
                let last = &syncs[(count as usize + SYNCS - 1) % SYNCS];
                let idle_at = (last.load(Ordering::Relaxed) >> 16).max(now);
                let done = idle_at + self.takes.as_nanos() as u64;
                let ends = (position + 1) & ENDS;
                let slot = &syncs[count as usize % SYNCS];
                let oldest = slot.swap(done << 16 | ends, Ordering::Relaxed);
                assert!(oldest >> 16 <= now, "too many to remember");
                count += 1;
            }
        }
        told.store(count << 32 | end, Ordering::Release);
    }

    fn reached(&self) -> u32 {
        let Progress { told, syncs } = &*self.progress;
        let told = told.load(Ordering::Acquire);
        let now = self.now();
        let backlog = syncs.iter().filter_map(|sync| {
            let sync = sync.load(Ordering::Relaxed);
            let behind = told.wrapping_sub(sync) & ENDS;
            // Whoever is telling more writes about what `told` does not count yet.
            let counts = sync >> 16 > now && behind <= self.mask();
            counts.then_some(behind + 1)
        });
        let reached = told.wrapping_sub(backlog.max().unwrap_or(0));
        (reached & self.mask()) as u32
    }
}

impl RegisterBank for Timed {
    fn len(&self) -> usize {
        self.registers.len()
    }
    #[inline(always)]
    fn read32(&self, offset: usize) -> u32 {
        match offset {
            offset::CMDQ_CONS => self.reached(),
            _ => self.registers.read32(offset),
        }
    }
    #[inline(always)]
    fn write32(&self, offset: usize, value: u32) {
        match offset {
            offset::CMDQ_PROD => self.tell(value),
            _ => self.registers.write32(offset, value),
        }
    }
    fn read64(&self, offset: usize) -> u64 {
        self.registers.read64(offset)
    }
    fn write64(&self, offset: usize, value: u64) {
        self.registers.write64(offset, value);
    }
}
