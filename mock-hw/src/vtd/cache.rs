//! The context cache and the PASID cache (6.2), and how entries are fetched.

use std::collections::{BTreeSet, HashMap};

use iommu_core::{Atomicity, DmaMemory, PhysAddr};

use super::State;
use super::bits::bit;
use crate::memory::BusError;

/// Where a cached entry came from.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Place {
    At(u64),
    /// There was no table that it could be in.
    NoTable,
    /// What is there now is of no interest.
    #[default]
    Forgotten,
}

/// An entry that was fetched: the words of it that are cached, with where they came from.
#[derive(Clone)]
pub(super) struct Cached<const N: usize> {
    pub(super) at: Place,
    pub(super) words: [Option<u64>; N],
    /// The domain ids that it is tagged with: more than one where its words are of several times.
    pub(super) dids: BTreeSet<u16>,
}

impl<const N: usize> Default for Cached<N> {
    fn default() -> Self {
        Self {
            at: Place::Forgotten,
            words: [None; N],
            dids: BTreeSet::new(),
        }
    }
}

impl<const N: usize> Cached<N> {
    /// All words, if all are cached.
    fn whole(&self) -> Option<[u64; N]> {
        let all = self.words.iter().all(Option::is_some);
        all.then(|| self.words.map(Option::unwrap_or_default))
    }
}

/// The context cache and the PASID cache.
#[derive(Default)]
pub(super) struct ConfigCache {
    /// Context entries by source id; two words in legacy mode, four in scalable mode.
    pub(super) contexts: HashMap<u16, Cached<4>>,
    /// PASID directory entries, by source id and index.
    pub(super) directories: HashMap<(u16, u32), Cached<1>>,
    /// PASID entries, by source id and PASID.
    pub(super) pasids: HashMap<(u16, u32), Cached<8>>,
}

/// What a context-cache invalidation drops (6.5.1.1, 6.5.2.1).
#[derive(Clone, Copy, Debug)]
pub(super) enum ContextScope {
    All,
    /// What is tagged with this domain id. Only legacy entries are.
    Domain(u16),
    /// The entries of a source and, as the mask says, of functions beside it; in legacy mode those
    /// with this domain id.
    Source {
        source: u16,
        functions: u16,
        did: u16,
    },
}

/// What a PASID-cache invalidation drops (6.5.2.2).
#[derive(Clone, Copy, Debug)]
pub(super) enum PasidScope {
    All,
    Domain(u16),
    Pasid { did: u16, pasid: u32 },
}

/// An entry as it is used, and whether it may be cached.
pub(super) struct Fetched<const N: usize> {
    pub(super) words: [u64; N],
    fresh: Option<[u64; N]>,
}

impl State {
    /// Reads the first `count` words of an entry; the others are 0.
    pub(super) fn read_entry<const N: usize>(
        &self,
        at: u64,
        count: usize,
    ) -> Result<[u64; N], BusError> {
        let mut words = [0; N];
        let mut next = at;
        for word in words.iter_mut().take(count) {
            *word = self.memory.read_word(PhysAddr(next))?;
            next = next.wrapping_add(8);
        }
        Ok(words)
    }

    /// What is cached of an entry, if that may do.
    pub(super) fn enough<const N: usize>(&mut self, known: &Cached<N>) -> Option<Fetched<N>> {
        let words = known.whole()?;
        let enough = !self.config.partial || self.chance.one_in(2);
        enough.then_some(Fetched { words, fresh: None })
    }

    /// An entry as it is used where not all of it is cached: made of what is cached and what memory
    /// has. Words that are fetched as one stay together.
    pub(super) fn mix<const N: usize>(
        &mut self,
        known: &mut Cached<N>,
        at: u64,
        fresh: [u64; N],
    ) -> Fetched<N> {
        if known.at != Place::At(at) {
            *known = Cached {
                at: Place::At(at),
                ..Cached::default()
            };
        }
        let mut words = fresh;
        let unit = self.fetch_unit().min(N);
        for (known, words) in known.words.chunks(unit).zip(words.chunks_mut(unit)) {
            let cached = known.iter().all(Option::is_some);
            if cached && (!self.config.partial || self.chance.one_in(2)) {
                for (word, known) in words.iter_mut().zip(known) {
                    *word = known.unwrap_or(*word);
                }
            }
        }
        Fetched {
            words,
            fresh: Some(fresh),
        }
    }

    /// How many words are fetched as one.
    fn fetch_unit(&self) -> usize {
        match self.config.fetches.unwrap_or(self.memory.atomicity()) {
            Atomicity::Word => 1,
            Atomicity::Pair => 2,
        }
    }

    /// Caches what was fetched of an entry. `tag` is its domain id, if it is one that is present
    /// and makes sense; without, it is cached in caching mode only, under domain id 0 (6.1).
    pub(super) fn keep<const N: usize>(
        &mut self,
        known: &mut Cached<N>,
        fetched: &Fetched<N>,
        tag: Option<u16>,
    ) {
        let Some(fresh) = fetched.fresh else { return };
        if tag.is_none() && !self.config.is_caching() {
            return;
        }
        // Parts of an entry are fetched while it is present.
        let partial = self.config.partial && bit(fresh[0], 0);
        let unit = self.fetch_unit().min(N);
        for (known, fresh) in known.words.chunks_mut(unit).zip(fresh.chunks(unit)) {
            let cached = known.iter().all(Option::is_some);
            let keeps = match (cached, partial) {
                (false, false) => true,
                (false, true) => self.chance.one_in(2),
                (true, true) => self.chance.one_in(8),
                (true, false) => false,
            };
            if keeps {
                for (known, word) in known.iter_mut().zip(fresh) {
                    *known = Some(*word);
                }
            }
        }
        known.dids.insert(tag.unwrap_or(0));
    }

    /// Nothing is known any more about the memory that cached entries came from: it may have been
    /// freed.
    pub(super) fn forget_places(&mut self) {
        let cache = &mut self.cache;
        for entry in cache.contexts.values_mut() {
            if let Place::At(_) = entry.at {
                entry.at = Place::Forgotten;
            }
        }
        cache
            .pasids
            .values_mut()
            .for_each(|entry| entry.at = Place::Forgotten);
    }

    pub(super) fn invalidate_contexts(&mut self, scope: ContextScope) {
        let legacy = self.global.mode() == 0;
        let mut dropped = Vec::new();
        self.cache.contexts.retain(|source, entry| {
            let goes = match scope {
                ContextScope::All => true,
                ContextScope::Domain(did) => legacy && entry.dids.contains(&did),
                ContextScope::Source {
                    source: of,
                    functions,
                    did,
                } => (source ^ of) & !functions == 0 && (!legacy || entry.dids.contains(&did)),
            };
            if goes {
                dropped.push((*source, entry.at, entry.words));
            }
            !goes
        });
        for (source, at, words) in dropped {
            if let Place::At(at) = at {
                self.check_context_kept(source, at, &words);
            }
        }
        if matches!(scope, ContextScope::All) {
            self.global.flushed = [true, self.global.flushed[1], self.global.flushed[2]];
        }
    }

    pub(super) fn invalidate_pasids(&mut self, scope: PasidScope) {
        let goes = |pasids: (u32, u32), dids: &BTreeSet<u16>| match scope {
            PasidScope::All => true,
            PasidScope::Domain(did) => dids.contains(&did),
            PasidScope::Pasid { did, pasid } => {
                dids.contains(&did) && (pasids.0..=pasids.1).contains(&pasid)
            }
        };
        let directories = &mut self.cache.directories;
        directories.retain(|(_, index), entry| {
            let first = index << 6;
            !goes((first, first | 0x3f), &entry.dids)
        });
        let mut dropped = Vec::new();
        self.cache.pasids.retain(|(source, pasid), entry| {
            let goes = goes((*pasid, *pasid), &entry.dids);
            if goes {
                dropped.push((*source, *pasid, entry.at, entry.words));
            }
            !goes
        });
        for (source, pasid, at, words) in dropped {
            if let Place::At(at) = at {
                self.check_pasid_kept(source, pasid, at, &words);
            }
        }
        if matches!(scope, PasidScope::All) {
            let [contexts, _, translations] = self.global.flushed;
            self.global.flushed = [contexts, contexts, translations];
        }
    }
}
