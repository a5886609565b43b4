//! An SMMU without a driver: a command queue, entries, and nobody who decides anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arm_smmu_v3::spec::commands::{Command, SIZE};
use arm_smmu_v3::spec::registers::{Cr0, QueueBase, offset};
use iommu_core::entry::{Layout, Plan, Rules, Store, Target};
use iommu_core::{Atomicity, DmaBlock, DmaMemory, PhysAddr, RegisterBank, StreamId};
use mock_hw::MockMemory;
use mock_hw::smmuv3::{ModelConfig, SmmuModel};

use super::kinds::Words;
use super::{Counts, Failure};

/// log2 of the number of commands that the queue holds: more than a round of all streams takes.
const QUEUE_LOG2: u8 = 6;
/// How many entries there are.
const ENTRIES: u32 = 16;
const MEMORY: usize = 0x1_0000;

/// Which entries a change is about, and how the hardware is told.
pub(super) struct Scope {
    /// How many entries change.
    pub(super) entries: u32,
    /// How many streams lead to them.
    pub(super) streams: u32,
    /// What is invalidated for each stream.
    pub(super) invalidate: fn(StreamId) -> Command,
    /// A VMID that changes by itself, with all that is cached under it.
    pub(super) retag: Option<u16>,
}

/// Changes entries as plans say, and lets the model count.
pub(super) struct Bare {
    model: SmmuModel,
    memory: MockMemory,
    entries: DmaBlock<MockMemory>,
    queue: DmaBlock<MockMemory>,
    produced: u32,
    stores: Arc<AtomicUsize>,
}

impl Bare {
    /// A model with an empty queue.
    pub(super) fn new(atomicity: Atomicity) -> Result<Self, Failure> {
        let memory = MockMemory::new(PhysAddr(0x4000_0000), MEMORY);
        memory.set_pairs(atomicity == Atomicity::Pair);
        let model = SmmuModel::new(memory.clone(), ModelConfig::default());
        let size = ENTRIES as usize * size_of::<Words>();
        let entries = DmaBlock::new(&memory, size, size, "entries")?;
        let size = SIZE << QUEUE_LOG2;
        let queue = DmaBlock::new(&memory, size, size, "a command queue")?;
        let bank = model.bank();
        let base = QueueBase::new()
            .with_log2size(QUEUE_LOG2)
            .with_addr(queue.addr().0 >> 5);
        bank.write64(offset::CMDQ_BASE, base.into());
        let on = Cr0::new().with_cmdqen(true).into();
        bank.write32(offset::CR0, on);
        while bank.read32(offset::CR0ACK) != on {}

        let stores = Arc::new(AtomicUsize::new(0));
        let range = entries.addr().0..entries.addr().0 + entries.size() as u64;
        let count = stores.clone();
        memory.set_store_hook(Some(Arc::new(move |at: PhysAddr, _: &[u64]| {
            if range.contains(&at.0) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        })));
        Ok(Self {
            model,
            memory,
            entries,
            queue,
            produced: 0,
            stores,
        })
    }

    /// Makes entries that are `live` mean `target`: each round stores all, invalidates all, and
    /// waits once. Returns what was counted.
    pub(super) fn carry_out<F: Layout<8>>(
        &mut self,
        live: &Words,
        target: &Target<F, 8>,
        rules: Rules,
        scope: &Scope,
    ) -> Result<Counts, Failure> {
        for index in 0..scope.entries as usize * live.len() {
            let at = self.entries.addr().0 + index as u64 * 8;
            self.memory
                .write_word(PhysAddr(at), live[index % live.len()])?;
        }
        self.stores.store(0, Ordering::Relaxed);
        self.model.clear_commands();
        self.model.clear_waits();

        let plan = Plan::new(live, target, rules)?;
        let mut all = vec![*live; scope.entries as usize];
        for round in plan.rounds() {
            for (number, entry) in all.iter_mut().enumerate() {
                round.apply(entry, target, |store| self.store(number, store));
            }
            self.memory.write_barrier();
            let streams = (0..scope.streams).map(|stream| (scope.invalidate)(StreamId(stream)));
            let tag = scope.retag.into_iter();
            let tag = tag.flat_map(|vmid| [Command::sync(), Command::tlbi_vmid(vmid)]);
            self.run(streams.chain(tag).chain([Command::sync()]));
        }
        for number in 0..all.len() {
            let words = core::array::from_fn(|word| self.entries.load(number * live.len() + word));
            if !target.is(&words) {
                return Err(format!("{words:x?} is not {target:?}").into());
            }
        }
        match self.model.violations() {
            violations if violations.is_empty() => {}
            violations => return Err(violations.join("; ").into()),
        }
        Ok(Counts {
            rounds: plan.len(),
            stores: self.stores.load(Ordering::Relaxed),
            commands: self.model.commands().len(),
            waits: self.model.waits(),
        })
    }

    fn store(&self, entry: usize, store: Store) {
        match store {
            Store::Word { word, value } => self.entries.store(entry * 8 + word, value),
            Store::Pair { pair, values } => self.entries.store_pair(entry * 4 + pair, values),
        }
    }

    /// Hands commands to the model and waits for the last of them.
    fn run(&mut self, commands: impl Iterator<Item = Command>) {
        let wrap = (2 << QUEUE_LOG2) - 1;
        for Command(words) in commands {
            let slot = (self.produced & (wrap >> 1)) as usize;
            self.queue.store(slot * 2, words[0]);
            self.queue.store(slot * 2 + 1, words[1]);
            self.produced = (self.produced + 1) & wrap;
        }
        self.memory.write_barrier();
        let bank = self.model.bank();
        bank.write32(offset::CMDQ_PROD, self.produced);
        while bank.read32(offset::CMDQ_CONS) != self.produced {}
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.memory.set_store_hook(None);
    }
}
