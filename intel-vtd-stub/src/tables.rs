//! The root table and the context tables, and who may free them.

use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::{DmaBlock, DmaMemory, PhysAddr, Result};

use crate::spec::{ContextEntry, ContextHigh, ContextLow, RootLow, SourceId, TABLE_SIZE};

type Table<M> = Arc<DmaBlock<M>>;

/// All tables of one unit. A context table that exists stays: no other device's attach then waits
/// for one bus's table to go.
pub(crate) struct Tables<M: DmaMemory> {
    root: Table<M>,
    /// One for each bus with a device.
    contexts: Vec<Option<Table<M>>>,
    /// Whether hardware may be reading the tables: then they are never freed.
    pub(crate) walked: bool,
}

impl<M: DmaMemory> Tables<M> {
    /// A root table without a present entry: everything is refused.
    pub(crate) fn new(memory: &M) -> Result<Self> {
        Ok(Self {
            root: table(memory, "a root table")?,
            contexts: (0..256).map(|_| None).collect(),
            walked: false,
        })
    }

    /// Where hardware finds the root table.
    pub(crate) fn root(&self) -> PhysAddr {
        self.root.addr()
    }

    /// The entries of `sources`, with a context table for each bus among them: all or, where there
    /// is no memory, none.
    pub(crate) fn entries(&mut self, sources: &[SourceId]) -> Result<Vec<Entry<M>>> {
        let mut fresh: Vec<(u8, Table<M>)> = Vec::new();
        let mut entries = Vec::with_capacity(sources.len());
        for source in sources {
            let bus = source.bus();
            let known = self.contexts[usize::from(bus)].as_ref();
            let known = known.or(fresh.iter().find(|(of, _)| *of == bus).map(|(_, new)| new));
            let context = match known {
                Some(context) => context.clone(),
                None => {
                    let context = table(self.root.memory(), "a context table")?;
                    fresh.push((bus, context.clone()));
                    context
                }
            };
            entries.push(Entry {
                context,
                index: usize::from(source.devfn()),
            });
        }
        for (bus, context) in fresh {
            // The table is empty before the root entry points to it.
            self.root.memory().write_barrier();
            let entry = RootLow::pointing_to(context.addr());
            self.root.store(2 * usize::from(bus), entry.into_bits());
            self.contexts[usize::from(bus)] = Some(context);
        }
        Ok(entries)
    }
}

impl<M: DmaMemory> Drop for Tables<M> {
    fn drop(&mut self) {
        if !self.walked {
            return;
        }
        log::warn!(
            "the root table at {} and its context tables are never freed: the hardware may be \
             reading them",
            self.root.addr()
        );
        for kept in self.contexts.iter().flatten().chain([&self.root]) {
            core::mem::forget(kept.clone());
        }
    }
}

fn table<M: DmaMemory>(memory: &M, purpose: &'static str) -> Result<Table<M>> {
    let table = DmaBlock::new(memory, TABLE_SIZE, TABLE_SIZE, purpose)?;
    if !memory.is_coherent() {
        memory.clean(table.addr(), TABLE_SIZE);
    }
    Ok(Arc::new(table))
}

/// One context entry in memory. It is either not present or the one that passes through.
pub(crate) struct Entry<M: DmaMemory> {
    context: Table<M>,
    index: usize,
}

impl<M: DmaMemory> Entry<M> {
    /// What hardware finds.
    pub(crate) fn load(&self) -> ContextEntry {
        ContextEntry {
            low: ContextLow::from_bits(self.context.load(2 * self.index)),
            high: ContextHigh::from_bits(self.context.load(2 * self.index + 1)),
        }
    }

    /// Stores `new`, present: the word with the present bit last, once the other can be seen. An
    /// entry that is there already is left alone.
    pub(crate) fn fill(&self, new: ContextEntry) {
        if self.load() == new {
            return;
        }
        self.context.store(2 * self.index + 1, new.high.into_bits());
        self.context.memory().write_barrier();
        self.context.store(2 * self.index, new.low.into_bits());
    }

    /// Makes the entry not present. The other word stays, for hardware that is halfway through
    /// reading the entry.
    pub(crate) fn revoke(&self) {
        self.context.store(2 * self.index, 0);
    }

    /// Clears what [`revoke`](Self::revoke) left, once no hardware can be looking.
    pub(crate) fn clear_rest(&self) {
        self.context.store(2 * self.index + 1, 0);
    }
}
