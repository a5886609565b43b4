//! The stream table (3.3.1): an entry for each stream, linear or in two levels.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use iommu_core::entry::Store;
use iommu_core::{
    Atomicity, Culprit, DmaBlock, DmaEntry, DmaMemory, Error, ErrorKind, RawLock, Result, StreamId,
};
use lock_api::Mutex;

use crate::spec::registers::{StrtabBase, StrtabBaseCfg};
use crate::spec::ste::{L1Std, Ste, WORDS};

/// Bits of a StreamID that index the second level: a PCI bus.
const SPLIT: u32 = 8;
const LOW: u32 = (1 << SPLIT) - 1;
/// The largest first level: 128 Ki descriptors, 1 MiB.
const MAX_L1_LOG2: u32 = 17;
/// The largest linear table: 64 Ki entries, 4 MiB.
const MAX_LINEAR_LOG2: u32 = 16;

const STE_SIZE: usize = size_of::<Ste>();

/// Every stream aborts until something else is stored. With two levels, all first-level descriptors
/// point to one shared table of aborting entries, so that a stream that nobody has asked for is as
/// silent as in a linear table, instead of flooding the event queue.
pub(crate) struct StreamTable<M: DmaMemory, L: RawLock> {
    root: Arc<DmaBlock<M>>,
    /// What an entry is that nobody has asked for: it aborts.
    unused: Ste,
    bits: u32,
    output_bits: u32,
    levels: Option<TwoLevels<M, L>>,
}

struct TwoLevels<M: DmaMemory, L: RawLock> {
    /// What streams without a table of their own find.
    aborting: Arc<DmaBlock<M>>,
    /// The second-level tables, by first-level index. Never taken out while the hardware is on.
    tables: Mutex<L, BTreeMap<u32, Second<M>>>,
}

struct Second<M: DmaMemory> {
    entries: Arc<DmaBlock<M>>,
    /// The hardware is known to have let go of what the descriptor was before.
    in_force: bool,
}

/// The entry of one stream, where it is for as long as the table exists.
pub(crate) struct StreamEntry<M: DmaMemory> {
    stream: StreamId,
    table: Arc<DmaBlock<M>>,
    index: usize,
}

impl<M: DmaMemory> StreamEntry<M> {
    /// Whose entry it is.
    #[inline]
    pub(crate) fn id(&self) -> StreamId {
        self.stream
    }

    /// Finds the words.
    #[inline]
    pub(crate) fn open(&self) -> OpenEntry<'_, M> {
        OpenEntry {
            words: self.table.entry(self.index),
            table: &self.table,
            index: self.index,
        }
    }

    /// The words as they stand in memory.
    pub(crate) fn read(&self) -> [u64; WORDS] {
        self.open().read()
    }

    /// No barrier.
    #[inline]
    pub(crate) fn store(&self, store: Store) {
        self.open().store(store);
    }
}

/// An entry of which the words were found.
pub(crate) struct OpenEntry<'a, M: DmaMemory> {
    words: DmaEntry<'a, M, WORDS>,
    table: &'a DmaBlock<M>,
    index: usize,
}

impl<M: DmaMemory> OpenEntry<'_, M> {
    #[inline(always)]
    pub(crate) fn read(&self) -> [u64; WORDS] {
        match self.table.memory().atomicity() {
            Atomicity::Word => self.words.load(),
            Atomicity::Pair => {
                let first = self.index * (WORDS / 2);
                let pairs: [_; WORDS / 2] =
                    core::array::from_fn(|pair| self.table.load_pair(first + pair));
                core::array::from_fn(|word| pairs[word / 2][word % 2])
            }
        }
    }

    #[inline(always)]
    pub(crate) fn store(&self, store: Store) {
        match store {
            Store::Word { word, value } => self.words.store(word, value),
            Store::Pair { pair, values } => {
                self.table
                    .store_pair(self.index * (WORDS / 2) + pair, values);
            }
        }
    }
}

fn table_of<M: DmaMemory>(
    entry: &Ste,
    memory: &M,
    log2: u32,
    output_bits: u32,
    purpose: &'static str,
) -> Result<Arc<DmaBlock<M>>> {
    let size = STE_SIZE << log2;
    let table = DmaBlock::new(memory, size, size, purpose)?.below(output_bits)?;
    for (word, value) in entry.to_words().into_iter().enumerate() {
        if value != 0 {
            (0..1 << log2).for_each(|index| table.store(index * WORDS + word, value));
        }
    }
    Ok(Arc::new(table))
}

impl<M: DmaMemory, L: RawLock> StreamTable<M, L> {
    /// A table for StreamIDs of `bits`, cut down to what one table can reasonably cover, in memory
    /// below `output_bits`. Every entry is `unused`, which aborts.
    pub(crate) fn new(
        memory: &M,
        unused: Ste,
        bits: u32,
        two_level: bool,
        output_bits: u32,
    ) -> Result<Self> {
        if !two_level || bits <= SPLIT {
            let bits = bits.min(MAX_LINEAR_LOG2);
            let root = table_of(&unused, memory, bits, output_bits, "the stream table")?;
            return Ok(Self {
                root,
                unused,
                bits,
                output_bits,
                levels: None,
            });
        }
        let bits = bits.min(SPLIT + MAX_L1_LOG2);
        let aborting = table_of(
            &unused,
            memory,
            SPLIT,
            output_bits,
            "the shared stream table",
        )?;
        let size = size_of::<L1Std>() << (bits - SPLIT);
        let root = DmaBlock::new(memory, size, size.max(64), "the stream table's first level")?
            .below(output_bits)?;
        for index in 0..1 << (bits - SPLIT) {
            root.store(index, descriptor(&aborting).into());
        }
        let levels = TwoLevels {
            aborting,
            tables: Mutex::new(BTreeMap::new()),
        };
        Ok(Self {
            root: Arc::new(root),
            unused,
            bits,
            output_bits,
            levels: Some(levels),
        })
    }

    /// What an entry is that nobody has asked for.
    pub(crate) fn unused(&self) -> &Ste {
        &self.unused
    }

    pub(crate) fn base(&self) -> StrtabBase {
        let addr = (self.root.addr().0 >> 6) & ((1 << 50) - 1);
        StrtabBase::new().with_addr(addr).with_ra(true)
    }

    #[expect(clippy::cast_possible_truncation, reason = "at most 25 bits")]
    pub(crate) fn base_cfg(&self) -> StrtabBaseCfg {
        let cfg = StrtabBaseCfg::new().with_log2size(self.bits as u8);
        if self.levels.is_some() {
            cfg.with_fmt(1).with_split(SPLIT as u8)
        } else {
            cfg
        }
    }

    /// Makes sure that `stream` has an entry of its own. Returns it, and whether the hardware must be
    /// told (`CMD_CFGI_STE` with `Leaf` = 0, 5.1.1) before it counts; what became of that goes to
    /// [`in_force`](Self::in_force).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfRange`], [`ErrorKind::OutOfMemory`].
    pub(crate) fn reach(&self, stream: StreamId) -> Result<(StreamEntry<M>, bool)> {
        self.check(stream)?;
        let Some(levels) = &self.levels else {
            return Ok((entry(&self.root, stream, u32::MAX), false));
        };
        let index = stream.0 >> SPLIT;
        let mut tables = levels.tables.lock();
        if let Some(table) = tables.get(&index) {
            return Ok((entry(&table.entries, stream, LOW), !table.in_force));
        }
        let memory = self.root.memory();
        let entries = table_of(
            &self.unused,
            memory,
            SPLIT,
            self.output_bits,
            "a second-level stream table",
        )?;
        let word = descriptor(&entries).into();
        let own = entry(&entries, stream, LOW);
        tables.insert(
            index,
            Second {
                entries,
                in_force: false,
            },
        );
        memory.write_barrier();
        self.root.store(index as usize, word);
        memory.write_barrier();
        Ok((own, true))
    }

    /// The hardware has confirmed that it uses the stream's own entry.
    pub(crate) fn in_force(&self, stream: StreamId) {
        if let Some(levels) = &self.levels
            && let Some(table) = levels.tables.lock().get_mut(&(stream.0 >> SPLIT))
        {
            table.in_force = true;
        }
    }

    fn check(&self, stream: StreamId) -> Result {
        if u64::from(stream.0) >> self.bits == 0 {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::OutOfRange,
            "the stream table does not go that far",
        )
        .of(Culprit::Stream(stream)))
    }

    /// The entry as it stands in memory; `None` for a stream beyond the table.
    pub(crate) fn read(&self, stream: StreamId) -> Option<Ste> {
        self.check(stream).ok()?;
        let own = match &self.levels {
            None => Some(entry(&self.root, stream, u32::MAX)),
            Some(levels) => levels
                .tables
                .lock()
                .get(&(stream.0 >> SPLIT))
                .map(|table| entry(&table.entries, stream, LOW)),
        };
        Some(own.map_or(self.unused, |own| Ste::from_words(own.read())))
    }

    /// The memory stays allocated for good.
    pub(crate) fn leak(&self) {
        self.root.leak();
        if let Some(levels) = &self.levels {
            levels.aborting.leak();
            levels
                .tables
                .lock()
                .values()
                .for_each(|table| table.entries.leak());
        }
    }
}

/// The entry in a table that is indexed by these bits of the StreamID.
fn entry<M: DmaMemory>(table: &Arc<DmaBlock<M>>, stream: StreamId, bits: u32) -> StreamEntry<M> {
    StreamEntry {
        stream,
        table: table.clone(),
        index: (stream.0 & bits) as usize,
    }
}

fn descriptor<M: DmaMemory>(table: &DmaBlock<M>) -> L1Std {
    const SPAN: u8 = 9;
    const {
        assert!(
            1 << (SPAN - 1) == 1 << SPLIT,
            "a span of n covers 2^(n-1) entries"
        )
    };
    L1Std::new()
        .with_span(SPAN)
        .with_l2_ptr((table.addr().0 >> 6) & ((1 << 50) - 1))
}

#[cfg(test)]
#[path = "stream_table_tests.rs"]
mod tests;
