//! The root table, the context tables, and the PASID tables of devices: who finds what, and who may
//! free it.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::entry::{Layout, Plan, Rules, Store, Target};
use iommu_core::{DmaBlock, DmaMemory, PhysAddr, RawLock, Result};
use lock_api::Mutex;

use crate::layout::ScalableContext;
use crate::spec::{self, DirectoryEntry, RootWord, SourceId, TABLE_SIZE};

type Table<M> = Arc<DmaBlock<M>>;

fn table<M: DmaMemory>(memory: &M, output_bits: u8, purpose: &'static str) -> Result<Table<M>> {
    let table = DmaBlock::new(memory, TABLE_SIZE, TABLE_SIZE, purpose)?;
    Ok(Arc::new(table.below(output_bits.into())?))
}

/// One entry of a table, of `N` words.
pub(crate) struct Site<M: DmaMemory, const N: usize> {
    table: Table<M>,
    index: usize,
}

impl<M: DmaMemory, const N: usize> Site<M, N> {
    /// What hardware finds.
    pub(crate) fn load(&self) -> [u64; N] {
        self.table.entry(self.index).load()
    }

    pub(crate) fn store(&self, store: Store) {
        if let Store::Word { word, value } = store {
            self.table.entry::<N>(self.index).store(word, value);
        } else {
            debug_assert!(false, "plans are made for stores of a word");
        }
    }

    /// Makes the entry its target, without a wait between the rounds: for one that is not present,
    /// or that nobody has to wait for.
    pub(crate) fn change<F: Layout<N>>(&self, target: &Target<F, N>) -> Result {
        let mut live = self.load();
        for round in Plan::new(&live, target, Rules::default())?.rounds() {
            round.apply(&mut live, target, |store| self.store(store));
            self.table.memory().write_barrier();
        }
        Ok(())
    }

    /// Makes the entry not present, whatever it is. Does not wait for the hardware.
    pub(crate) fn revoke(&self) {
        self.table.entry::<N>(self.index).store(0, 0);
    }
}

impl<M: DmaMemory, const N: usize> Clone for Site<M, N> {
    fn clone(&self) -> Self {
        Self {
            table: self.table.clone(),
            index: self.index,
        }
    }
}

/// Where the entry of a source id is.
pub(crate) enum Seat<M: DmaMemory, L: RawLock> {
    /// In a context table of legacy mode.
    Context(Site<M, { spec::CONTEXT_ENTRY_WORDS }>),
    /// In its own PASID tables.
    Pasids(Arc<Pasids<M, L>>),
}

/// The PASID tables of one source id. Traffic without PASID is translated by PASID 0, which is
/// always there.
pub(crate) struct Pasids<M: DmaMemory, L: RawLock> {
    directory: Table<M>,
    output_bits: u8,
    tables: Mutex<L, BTreeMap<u32, Table<M>>>,
}

impl<M: DmaMemory, L: RawLock> Pasids<M, L> {
    fn new(memory: &M, output_bits: u8) -> Result<Self> {
        let new = Self {
            directory: table(memory, output_bits, "a PASID directory")?,
            output_bits,
            tables: Mutex::new(BTreeMap::new()),
        };
        new.reach(0)?;
        Ok(new)
    }

    /// The entry of `pasid`, where its table is there.
    pub(crate) fn find(&self, pasid: u32) -> Option<Site<M, { spec::PASID_WORDS }>> {
        let (number, index) = position(pasid);
        let table = self.tables.lock().get(&number).cloned()?;
        Some(Site { table, index })
    }

    /// The entry of `pasid`, in a new table if need be: none of its entries is present.
    pub(crate) fn reach(&self, pasid: u32) -> Result<Site<M, { spec::PASID_WORDS }>> {
        if let Some(site) = self.find(pasid) {
            return Ok(site);
        }
        let (number, index) = position(pasid);
        let memory = self.directory.memory();
        let new = table(memory, self.output_bits, "a PASID table")?;
        // The table is empty before the directory points to it.
        memory.write_barrier();
        let entry = DirectoryEntry::pointing_to(new.addr());
        self.directory.store(number as usize, entry.into_bits());
        self.tables.lock().insert(number, new.clone());
        Ok(Site { table: new, index })
    }

    /// Makes every entry not present. Does not wait for the hardware.
    pub(crate) fn revoke_all(&self) {
        for table in self.tables.lock().values() {
            for index in 0..spec::TABLE_PASIDS as usize {
                if table.entry::<{ spec::PASID_WORDS }>(index).load()[0] != 0 {
                    table.entry::<{ spec::PASID_WORDS }>(index).store(0, 0);
                }
            }
        }
    }

    fn leak(&self) {
        self.directory.leak();
        for table in self.tables.lock().values() {
            table.leak();
        }
    }
}

/// Which table, and which entry of it.
const fn position(pasid: u32) -> (u32, usize) {
    let index = (pasid % spec::TABLE_PASIDS) as usize;
    (pasid / spec::TABLE_PASIDS, index)
}

/// All tables of one unit that lead from a source id to its entry. What exists stays: no other
/// device's attach then waits for one device's tables to go, and a device that comes back finds
/// itself as it was left.
pub(crate) struct Tables<M: DmaMemory, L: RawLock> {
    root: Table<M>,
    /// By the word of the root table that points to each.
    contexts: Vec<Option<Table<M>>>,
    /// In scalable mode, by source id.
    pasids: BTreeMap<SourceId, Arc<Pasids<M, L>>>,
    layout: TableLayout,
}

/// What decides how tables look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableLayout {
    pub(crate) scalable: bool,
    /// Whether requests with PASID are translated.
    pub(crate) pasids: bool,
    pub(crate) output_bits: u8,
}

impl<M: DmaMemory, L: RawLock> Tables<M, L> {
    /// A root table without a present entry: everything is refused.
    pub(crate) fn new(memory: &M, layout: TableLayout) -> Result<Self> {
        Ok(Self {
            root: table(memory, layout.output_bits, "a root table")?,
            contexts: (0..2 * 256).map(|_| None).collect(),
            pasids: BTreeMap::new(),
            layout,
        })
    }

    /// Where hardware finds the root table.
    pub(crate) fn root(&self) -> PhysAddr {
        self.root.addr()
    }

    /// Where the entries of `sources` are, with the tables that lead there. Returns whether some of
    /// them are new to the hardware; none of their entries is present. Where there is no memory,
    /// nothing has changed.
    pub(crate) fn seats(&mut self, sources: &[SourceId]) -> Result<(Vec<Seat<M, L>>, bool)> {
        let mut contexts = BTreeMap::new();
        let mut pasids = BTreeMap::new();
        for source in sources {
            let word = self.root_word(*source);
            if self.contexts[word].is_none() && !contexts.contains_key(&word) {
                contexts.insert(word, self.table("a context table")?);
            }
            let known = self.pasids.contains_key(source) || pasids.contains_key(source);
            if self.layout.scalable && !known {
                let new = Pasids::new(self.root.memory(), self.layout.output_bits)?;
                pasids.insert(*source, Arc::new(new));
            }
        }
        let fresh = !contexts.is_empty() || !pasids.is_empty();
        // Tables are empty before anything points to them.
        self.root.memory().write_barrier();
        for (word, context) in contexts {
            let entry = RootWord::pointing_to(context.addr());
            self.root.store(word, entry.into_bits());
            self.contexts[word] = Some(context);
        }
        for (source, pasids) in pasids {
            self.introduce(source, &pasids)?;
            self.pasids.insert(source, pasids);
        }
        let seats = sources.iter().filter_map(|source| self.seat(*source));
        Ok((seats.collect(), fresh))
    }

    /// Lets the context entry of `source` point to its PASID tables.
    fn introduce(&self, source: SourceId, pasids: &Pasids<M, L>) -> Result {
        let words = spec::scalable_context(pasids.directory.addr(), self.layout.pasids);
        let target: Target<ScalableContext, { spec::CONTEXT_WORDS }> = Target::new(words)?;
        match &self.contexts[self.root_word(source)] {
            Some(table) => Site {
                table: table.clone(),
                index: self.index(source),
            }
            .change(&target),
            None => Ok(()),
        }
    }

    /// Where the entry of `source` is; `None` where nobody asked for it.
    pub(crate) fn seat(&self, source: SourceId) -> Option<Seat<M, L>> {
        if self.layout.scalable {
            return Some(Seat::Pasids(self.pasids.get(&source)?.clone()));
        }
        let table = self.contexts[self.root_word(source)].clone()?;
        let index = self.index(source);
        Some(Seat::Context(Site { table, index }))
    }

    /// The word of the root table that leads to `source`.
    fn root_word(&self, source: SourceId) -> usize {
        let upper = self.layout.scalable && source.devfn() >= 128;
        2 * usize::from(source.bus()) + usize::from(upper)
    }

    /// The entry of `source` in its context table.
    fn index(&self, source: SourceId) -> usize {
        let devfn = usize::from(source.devfn());
        if self.layout.scalable {
            devfn % 128
        } else {
            devfn
        }
    }

    fn table(&self, purpose: &'static str) -> Result<Table<M>> {
        table(self.root.memory(), self.layout.output_bits, purpose)
    }

    /// Refuses everything: no root entry is present. Does not wait for the hardware.
    pub(crate) fn revoke_all(&self) {
        for (word, context) in self.contexts.iter().enumerate() {
            if context.is_some() {
                self.root.store(word, 0);
            }
        }
        self.root.memory().write_barrier();
    }

    /// Nothing is ever freed: hardware may be reading it.
    pub(crate) fn leak(&self) {
        let contexts = self.contexts.iter().flatten();
        contexts.chain([&self.root]).for_each(|table| table.leak());
        self.pasids.values().for_each(|pasids| pasids.leak());
    }
}
