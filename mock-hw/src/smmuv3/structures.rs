//! Stream tables and context descriptor tables: fetching, and the configuration cache (3.21.3).

use std::collections::HashMap;

use iommu_core::{Atomicity, DmaMemory, PhysAddr};

use super::State;
use super::bits::{address, bit, field, mask, part};
use super::claims::{Signature, stage1_signature};
use super::config::{Context, Stage1, StreamConfig};
use super::decode::{self, Ste};
use super::events::{Class, Fault, Transaction};
use super::translate::Stop;
use crate::memory::BusError;

/// An entry of 64 bytes: the words of it that are cached.
type Words = [Option<u64>; 8];

/// The words of an entry of which all are cached.
fn whole(words: &Words) -> Option<[u64; 8]> {
    let all = words.iter().all(Option::is_some);
    all.then(|| words.map(Option::unwrap_or_default))
}

/// Entries that were fetched, valid or not.
#[derive(Default)]
pub(super) struct ConfigCache {
    /// Level 1 descriptors of the stream table, by index.
    pub(super) l1stds: HashMap<u32, u64>,
    /// Stream table entries, by StreamID.
    pub(super) stes: HashMap<u32, Words>,
    /// Level 1 descriptors of context descriptor tables, by StreamID and index.
    pub(super) l1cds: HashMap<(u32, u32), u64>,
    /// Context descriptors, by StreamID and SubstreamID, with where each came from: words of two
    /// descriptors never make one.
    pub(super) cds: HashMap<(u32, u32), (u64, Words)>,
}

/// What a configuration invalidation drops.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cfgi {
    /// Entries of StreamIDs from the first to the last, with what was fetched through them.
    Streams { first: u32, last: u32, level1: bool },
    /// One context descriptor.
    Context {
        stream: u32,
        substream: u32,
        level1: bool,
    },
    /// All context descriptors of a stream.
    Contexts { stream: u32 },
}

/// Where a stream's entry is.
enum Location {
    /// At this address.
    At(u64),
    /// In a second-level table that the first level has not, or not that far.
    Nowhere,
}

/// The shape of the stream table, as the registers tell it.
#[derive(Clone, Copy)]
pub(super) struct StreamTable {
    pub(super) base: u64,
    /// The number of StreamIDs as a power of two.
    stream_bits: u32,
    /// The number of StreamIDs per second-level table as a power of two, if there are two levels.
    pub(super) split: Option<u32>,
    /// The size of the first table in bytes as a power of two.
    pub(super) size_bits: u32,
}

impl State {
    pub(super) fn stream_table(&self) -> StreamTable {
        let cfg = self.regs.strtab_base_cfg;
        let log2 = part(cfg, 5, 0);
        let two_level = self.config.two_level_streams() && part(cfg, 17, 16) == 1;
        let split = two_level.then(|| match part(cfg, 10, 6) {
            bits @ (8 | 10) => bits,
            _ => 6,
        });
        // Aligned by what is written, whatever of it can be used.
        let size_bits = match split {
            Some(split) => (log2.saturating_sub(split) + 3).max(6),
            None => log2 + 6,
        };
        let base = address(&[self.regs.strtab_base], 55, 6) & !mask(size_bits);
        StreamTable {
            base,
            stream_bits: log2.min(self.config.stream_bits()),
            split,
            size_bits,
        }
    }

    /// Finds a stream's entry. With `cached`, first-level descriptors come from the cache and go
    /// there.
    fn locate(&mut self, stream: u32, cached: bool) -> Result<Location, Fault> {
        let table = self.stream_table();
        if u64::from(stream) >> table.stream_bits != 0 {
            return Ok(Location::Nowhere);
        }
        let Some(split) = table.split else {
            return Ok(Location::At(
                table.base.wrapping_add(u64::from(stream) * 64),
            ));
        };
        let index = stream >> split;
        let at = table.base.wrapping_add(u64::from(index) * 8);
        let known = if cached {
            self.cache.l1stds.get(&index).copied()
        } else {
            None
        };
        let level1 = match known {
            Some(level1) => level1,
            None => self
                .memory
                .read_word(PhysAddr(at))
                .map_err(|_| Fault::SteFetch(at))?,
        };
        if cached && known.is_none() {
            self.cache.l1stds.insert(index, level1);
        }
        let (span, below) = (field(&[level1], 4, 0), u64::from(stream) & mask(split));
        if span == 0 || span > 11 || span > split + 1 || below >> (span - 1) != 0 {
            return Ok(Location::Nowhere);
        }
        let base = address(&[level1], 55, 6) & !mask(5 + span);
        if cached {
            self.check_l1std(index, level1);
        }
        Ok(Location::At(base.wrapping_add(below * 64)))
    }

    /// The words of a stream's entry.
    fn fetch_ste(&mut self, stream: u32) -> Result<[u64; 8], Stop> {
        let Location::At(at) = self.locate(stream, true)? else {
            let recorded = self.regs.cr2 & 1 << 1 != 0;
            return Err(if recorded {
                Fault::BadStreamId.into()
            } else {
                Stop::Silent
            });
        };
        let mut known = self.cache.stes.get(&stream).copied().unwrap_or_default();
        if let Some(words) = self.enough(&known) {
            return Ok(words);
        }
        let fresh = self.fetch_words(at).map_err(|_| Fault::SteFetch(at))?;
        if let Ok(entry) = decode::stream_table_entry(&self.config, &fresh) {
            self.check_entry(stream, &fresh, &entry);
        }
        let words = self.mix(&mut known, fresh);
        self.cache.stes.insert(stream, known);
        Ok(words)
    }

    /// What is cached of an entry, if that may do.
    fn enough(&mut self, known: &Words) -> Option<[u64; 8]> {
        let words = whole(known)?;
        (!self.config.partial || self.chance.one_in(2)).then_some(words)
    }

    /// An entry that was fetched, as it is used: made of what was fetched and what is cached. What
    /// was fetched may be cached. Words that are fetched as one stay together.
    fn mix(&mut self, known: &mut Words, fresh: [u64; 8]) -> [u64; 8] {
        let mut words = fresh;
        let partial = self.config.partial;
        let fetches = self.config.fetches;
        let unit = match fetches.unwrap_or(self.memory.atomicity()) {
            Atomicity::Word => 1,
            Atomicity::Pair => 2,
        };
        for (known, words) in known.chunks_mut(unit).zip(words.chunks_mut(unit)) {
            let fresh = [words[0], words[unit - 1]];
            let cached = known.iter().all(Option::is_some);
            if cached && (!partial || self.chance.one_in(2)) {
                for (word, known) in words.iter_mut().zip(&*known) {
                    *word = known.unwrap_or(*word);
                }
            }
            let keeps = match cached {
                false => !partial || self.chance.one_in(2),
                true => partial && self.chance.one_in(8),
            };
            if keeps {
                known
                    .iter_mut()
                    .zip(fresh)
                    .for_each(|(known, word)| *known = Some(word));
            }
        }
        words
    }

    fn fetch_words(&self, at: u64) -> Result<[u64; 8], BusError> {
        let mut words = [0; 8];
        for (addr, word) in (at..).step_by(8).zip(&mut words) {
            *word = self.memory.read_word(PhysAddr(addr))?;
        }
        Ok(words)
    }

    pub(super) fn ste(&mut self, stream: u32) -> Result<Ste, Stop> {
        let words = self.fetch_ste(stream)?;
        decode::stream_table_entry(&self.config, &words).map_err(|_| Fault::BadSte.into())
    }

    /// The context descriptor number `index` of a stream, and what its translations depend on.
    pub(super) fn cd(
        &mut self,
        t: &Transaction,
        ste: &Ste,
        stage1: &Stage1,
        index: u32,
    ) -> Result<(Context, Signature), Fault> {
        let key = (t.stream, index);
        let (from, mut known) = self.cache.cds.get(&key).copied().unwrap_or_default();
        let words = match self.enough(&known) {
            Some(words) => words,
            None => {
                let at = self.locate_cd(t, ste, stage1, index)?;
                let at = self.structure_address(t, ste, at)?;
                let fresh = self.fetch_words(at).map_err(|_| Fault::CdFetch(at))?;
                if let Ok(context) = decode::context(&self.config, stage1, &fresh) {
                    self.check_context(key, &fresh, stage1, &context);
                }
                if from != at {
                    known = Words::default();
                }
                let words = self.mix(&mut known, fresh);
                self.cache.cds.insert(key, (at, known));
                words
            }
        };
        let context = decode::context(&self.config, stage1, &words).map_err(|_| Fault::BadCd)?;
        Ok((context, stage1_signature(stage1, &words)))
    }

    fn locate_cd(
        &mut self,
        t: &Transaction,
        ste: &Ste,
        stage1: &Stage1,
        index: u32,
    ) -> Result<u64, Fault> {
        let base = stage1.context.0;
        let leaf_bits = match stage1.format {
            1 => 6,
            2 => 10,
            _ => return Ok(base.wrapping_add(u64::from(index) * 64)),
        };
        let key = (t.stream, index >> leaf_bits);
        let level1 = match self.cache.l1cds.get(&key) {
            Some(level1) => *level1,
            None => {
                let at = base.wrapping_add(u64::from(key.1) * 8);
                let at = self.structure_address(t, ste, at)?;
                let level1 = self
                    .memory
                    .read_word(PhysAddr(at))
                    .map_err(|_| Fault::CdFetch(at))?;
                self.cache.l1cds.insert(key, level1);
                level1
            }
        };
        let limit = match ste.stage2 {
            Some(_) => self.config.intermediate_bits(),
            None => self.config.output_bits(),
        };
        let table = address(&[level1], 55, 12);
        if !bit(&[level1], 0) || table >> limit != 0 {
            return Err(Fault::BadSubstreamId(index));
        }
        self.check_l1cd(t.stream, key.1, level1, stage1);
        Ok(table.wrapping_add((u64::from(index) & mask(leaf_bits)) * 64))
    }

    /// Where a structure of stage 1 is, that stage 2 translates if there is one.
    fn structure_address(&mut self, t: &Transaction, ste: &Ste, at: u64) -> Result<u64, Fault> {
        match &ste.stage2 {
            Some(stage2) => {
                let stage2 = (stage2, ste.signature);
                self.intermediate(t, stage2, at, Class::ContextDescriptor)
            }
            None => Ok(at),
        }
    }

    /// Drops what an invalidation names.
    pub(super) fn invalidate_config(&mut self, what: Cfgi) {
        let cache = &mut self.cache;
        match what {
            Cfgi::Streams {
                first,
                last,
                level1,
            } => {
                let range = first..=last;
                cache.stes.retain(|stream, _| !range.contains(stream));
                cache.cds.retain(|(stream, _), _| !range.contains(stream));
                cache.l1cds.retain(|(stream, _), _| !range.contains(stream));
                match self.stream_table().split {
                    _ if !level1 => {}
                    None => self.cache.l1stds.clear(),
                    Some(split) => {
                        let range = first >> split..=last >> split;
                        self.cache.l1stds.retain(|index, _| !range.contains(index));
                    }
                }
            }
            Cfgi::Context {
                stream,
                substream,
                level1,
            } => {
                cache.cds.remove(&(stream, substream));
                if level1 {
                    // Whatever the format: more than needed may go.
                    cache.l1cds.remove(&(stream, substream >> 6));
                    cache.l1cds.remove(&(stream, substream >> 10));
                }
            }
            Cfgi::Contexts { stream } => {
                cache.cds.retain(|(of, _), _| *of != stream);
                cache.l1cds.retain(|(of, _), _| *of != stream);
            }
        }
    }

    /// Looks at something past all caches, and leaves no trace of it in them.
    pub(super) fn past_caches<T>(&mut self, look: impl FnOnce(&mut Self) -> T) -> T {
        let cache = std::mem::take(&mut self.cache);
        let tlb = std::mem::take(&mut self.tlb);
        let claims = std::mem::take(&mut self.claims);
        let seen = look(self);
        (self.cache, self.tlb, self.claims) = (cache, tlb, claims);
        seen
    }

    /// Where memory has a stream's entry, past all caches.
    pub(super) fn stream_entry(&mut self, stream: u32) -> Result<u64, &'static str> {
        match self.locate(stream, false) {
            Ok(Location::At(at)) => Ok(at),
            Ok(Location::Nowhere) => Err("the stream table has no such entry"),
            Err(_) => Err("the stream table is not in memory"),
        }
    }

    /// What memory says about a stream, past all caches.
    pub(super) fn stream_config(&mut self, stream: u32) -> Result<StreamConfig, &'static str> {
        let at = self.stream_entry(stream)?;
        let words = self
            .fetch_words(at)
            .map_err(|_| "the entry is not in memory")?;
        let mut ste = decode::stream_table_entry(&self.config, &words)?;
        if let (Some(stage1), None) = (&mut ste.stage1, &ste.stage2) {
            let at = match stage1.format {
                0 => Some(stage1.context.0),
                _ => self
                    .memory
                    .read_word(stage1.context)
                    .ok()
                    .and_then(|level1| bit(&[level1], 0).then(|| address(&[level1], 55, 12))),
            };
            let words = at.and_then(|at| self.fetch_words(at).ok());
            stage1.descriptor =
                words.and_then(|words| decode::context(&self.config, stage1, &words).ok());
        }
        Ok(ste.stream_config())
    }

    /// What the configuration cache says about a stream.
    pub(super) fn cached_stream_config(&self, stream: u32) -> Option<StreamConfig> {
        let words = whole(self.cache.stes.get(&stream)?)?;
        let Ok(mut ste) = decode::stream_table_entry(&self.config, &words) else {
            return Some(StreamConfig::Invalid);
        };
        if let Some(stage1) = &mut ste.stage1 {
            let words = self.cache.cds.get(&(stream, 0));
            let words = words.and_then(|(_, words)| whole(words));
            stage1.descriptor =
                words.and_then(|words| decode::context(&self.config, stage1, &words).ok());
        }
        Some(ste.stream_config())
    }
}
