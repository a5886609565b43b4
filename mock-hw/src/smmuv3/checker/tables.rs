//! Context descriptors: where the entries of a stream lead, and what is cached of that (5.3, 5.4).
//!
//! Descriptors and their first levels are cached by stream and substream. Whatever was fetched through
//! one view of the stream table entry is of use to any other, whole; words are mixed only with words of
//! the same descriptor, since a cached structure is a copy of one structure (3.21.3, 4.3.8).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::super::bits::{address, bit, mask};
use super::super::settings::ModelConfig;
use super::behaviour::{Entry, Guest, Invalid, Source};
use super::fields::Reading;
use super::history::{History, Structure, TooMany};

/// Memory, in lines of 64 bytes; what nobody described is zero.
#[derive(Default)]
pub(super) struct Memory(BTreeMap<u64, [u64; 8]>);

impl Memory {
    pub(super) fn line(&self, at: u64) -> [u64; 8] {
        self.0.get(&(at & !63)).copied().unwrap_or_default()
    }

    fn word(&self, at: u64) -> u64 {
        self.line(at)[word_of(at)]
    }

    pub(super) fn put(&mut self, at: u64, value: u64) {
        self.0.entry(at & !63).or_default()[word_of(at)] = value;
    }

    /// The lines from `base` on that are not all zero.
    fn lines(&self, base: u64, bytes: u64) -> impl Iterator<Item = u64> + '_ {
        let range = base & !63..base.saturating_add(bytes);
        let used = self.0.range(range).filter(|(_, line)| **line != [0; 8]);
        used.map(|(at, _)| *at)
    }
}

fn word_of(at: u64) -> usize {
    usize::try_from(at & 63).unwrap_or(0) / 8
}

/// What an entry says of its context descriptors.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    base: u64,
    /// The number of substreams as a power of two.
    pub(super) bits: u32,
    /// The number of descriptors in a second-level table as a power of two, if there are two levels.
    leaf: Option<u32>,
}

impl Table {
    /// The table of an entry whose descriptors are in memory, not behind stage 2.
    fn of(entry: &Entry) -> Option<Self> {
        let stage1 = entry.stage1.as_ref()?;
        if entry.guest(0).is_some() {
            return None;
        }
        Some(Self {
            base: stage1.context.0,
            bits: stage1.context_bits,
            leaf: match stage1.format {
                1 => Some(6),
                2 => Some(10),
                _ => None,
            },
        })
    }
}

/// Where a context descriptor is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Memory(u64),
    Guest(Guest),
}

/// A first-level descriptor that was or can be fetched.
struct Level1 {
    index: u32,
    leaf: u32,
    at: u64,
    values: History,
    reached: bool,
}

/// What a context descriptor is, for each way in which it is read.
#[derive(Default)]
pub(super) struct Readings(Vec<(Reading, Result<Source, Invalid>)>);

impl Readings {
    /// What it is for an entry with which it was read.
    pub(super) fn of(&self, entry: &Entry) -> Result<Source, Invalid> {
        let reading = entry.reading();
        let mut known = self.0.iter();
        let known = known.find(|(of, _)| Some(*of) == reading);
        known.map_or(Err(Invalid::Unset), |(_, source)| *source)
    }
}

/// A context descriptor that was or can be fetched.
pub(super) struct Descriptor {
    pub(super) index: u32,
    pub(super) place: Place,
    pub(super) structure: Structure<Readings>,
    reached: bool,
}

/// All of one stream.
#[derive(Default)]
pub(super) struct Tables {
    /// What the views of the entry say.
    pub(super) tables: Vec<Table>,
    level1: Vec<Level1>,
    pub(super) descriptors: Vec<Descriptor>,
}

impl Tables {
    /// Takes note of what the views of the entry say.
    pub(super) fn point<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) {
        self.tables.clear();
        for table in entries.filter_map(Table::of) {
            if !self.tables.contains(&table) {
                self.tables.push(table);
            }
        }
    }

    /// Fetches all first-level descriptors that are in use, were so, or are needed for `substreams`.
    pub(super) fn fetch_level1(&mut self, memory: &Memory, substreams: &[u32], now: u64) {
        let mut found = Vec::new();
        for table in &self.tables {
            let Some(leaf) = table.leaf else { continue };
            let bytes = 8 << table.bits.saturating_sub(leaf);
            let used = memory.lines(table.base, bytes);
            let used = used.flat_map(|line| (line..line + 64).step_by(8));
            let known = self.level1.iter().map(|of| of.at);
            let needed = substreams.iter().map(|id| u64::from(id >> leaf));
            let needed = needed.map(|index| table.base + index * 8);
            for at in used.chain(known).chain(needed) {
                if (table.base..table.base + bytes).contains(&at) {
                    let index = u32::try_from((at - table.base) / 8).unwrap_or(u32::MAX);
                    found.push((index, leaf, at));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        self.level1.iter_mut().for_each(|of| of.reached = false);
        for (index, leaf, at) in found {
            let same = |of: &Level1| (of.index, of.leaf, of.at) == (index, leaf, at);
            let place = self.level1.iter().position(same).unwrap_or_else(|| {
                self.level1.push(Level1 {
                    index,
                    leaf,
                    at,
                    values: History::default(),
                    reached: false,
                });
                self.level1.len() - 1
            });
            let level1 = &mut self.level1[place];
            level1.values.fetch([memory.word(at), 0], now);
            level1.reached = true;
        }
    }

    /// What first-level descriptors may be found to say about a substream of a table.
    fn leaves(&self, leaf: u32, substream: u32) -> impl Iterator<Item = u64> + '_ {
        let of = move |level1: &&Level1| level1.index == substream >> leaf;
        let values = self.level1.iter().filter(of);
        values.flat_map(|level1| level1.values.values().map(|[value, _]| value))
    }

    /// Whether a first-level descriptor may be found that leads nowhere.
    pub(super) fn may_be_absent(&self, entry: &Entry, substream: u32) -> bool {
        let leaf = Table::of(entry).and_then(|table| table.leaf);
        leaf.is_some_and(|leaf| self.leaves(leaf, substream).any(|value| value & 1 == 0))
    }

    /// The substreams with descriptors that are not all zero.
    pub(super) fn used(&self, memory: &Memory) -> Vec<u32> {
        let mut found = Vec::new();
        let mut add = |id: u64, table: &Table| {
            if id >> table.bits == 0 {
                found.extend(u32::try_from(id));
            }
        };
        for table in &self.tables {
            let Some(leaf) = table.leaf else {
                let lines = memory.lines(table.base, 64 << table.bits);
                lines.for_each(|at| add((at - table.base) / 64, table));
                continue;
            };
            for level1 in &self.level1 {
                let values = level1.values.values().map(|[value, _]| value);
                for base in values.filter(|value| bit(&[*value], 0)).map(leaf_table) {
                    let first = u64::from(level1.index) << leaf;
                    let lines = memory.lines(base, 64 << leaf);
                    lines.for_each(|at| add(first + (at - base) / 64, table));
                }
            }
        }
        found
    }

    /// Fetches the descriptors of these substreams.
    pub(super) fn fetch_descriptors<'a>(
        &mut self,
        memory: &Memory,
        entries: impl Iterator<Item = &'a Entry>,
        substreams: &[u32],
        unit: usize,
        now: u64,
    ) -> Result<(), TooMany> {
        self.descriptors
            .iter_mut()
            .for_each(|of| of.reached = false);
        let mut places = Vec::new();
        let tables = self.tables.iter();
        for (table, id) in tables.flat_map(|table| substreams.iter().map(move |id| (table, *id))) {
            if u64::from(id) >> table.bits != 0 {
                continue;
            }
            let Some(leaf) = table.leaf else {
                places.push((id, Place::Memory(table.base + u64::from(id) * 64)));
                continue;
            };
            let below = (u64::from(id) & mask(leaf)) * 64;
            let leaves = self.leaves(leaf, id).filter(|value| bit(&[*value], 0));
            places.extend(leaves.map(|value| (id, Place::Memory(leaf_table(value) + below))));
        }
        for entry in entries {
            let guests = substreams.iter().filter_map(|id| entry.guest(*id));
            places.extend(guests.map(|guest| (guest.index, Place::Guest(guest))));
        }
        let mut done = Ok(());
        for (index, place) in places {
            let words = match place {
                Place::Memory(at) => memory.line(at),
                Place::Guest(_) => [0; 8],
            };
            let mut known = self.descriptors.iter_mut();
            if let Some(of) = known.find(|of| (of.index, of.place) == (index, place)) {
                of.reached = true;
                done = done.and(of.structure.fetch(&words, now));
            } else {
                self.descriptors.push(Descriptor {
                    index,
                    place,
                    structure: Structure::new(unit, &words, now),
                    reached: true,
                });
            }
        }
        done
    }

    /// Reads all descriptors as these entries do.
    pub(super) fn read<'a>(&mut self, ids: &ModelConfig, entries: impl Iterator<Item = &'a Entry>) {
        let mut readings: Vec<(Reading, &Entry)> = Vec::new();
        for entry in entries {
            if let Some(reading) = entry.reading()
                && !readings.iter().any(|(of, _)| *of == reading)
            {
                readings.push((reading, entry));
            }
        }
        let in_memory = |of: &&mut Descriptor| matches!(of.place, Place::Memory(_));
        let views = self.descriptors.iter_mut().filter(in_memory);
        for view in views.flat_map(|of| &mut of.structure.views) {
            for (reading, entry) in &readings {
                if !view.meaning.0.iter().any(|(of, _)| of == reading) {
                    let source = entry.context(ids, &view.words);
                    view.meaning.0.push((*reading, source));
                }
            }
        }
    }

    /// Descriptors that the last fetch did not reach cannot be fetched any more.
    pub(super) fn lose_unreached(&mut self, now: u64) {
        let lost = self.descriptors.iter_mut().filter(|of| !of.reached);
        lost.for_each(|of| of.structure.lose(now));
    }

    /// The invalidation of the first level of one substream, or of all, is complete. What no entry
    /// leads to goes with it.
    pub(super) fn confirm_level1(&mut self, substream: Option<u32>, since: u64) {
        self.level1.retain_mut(|of| {
            let named = substream.is_none_or(|id| id >> of.leaf == of.index);
            !named || of.reached && of.values.confirm(since)
        });
    }

    /// The invalidation of the descriptor of one substream, or of all, is complete. With `walk`,
    /// that of all structures that led to it is so too.
    pub(super) fn confirm_descriptors(&mut self, substream: Option<u32>, walk: bool, since: u64) {
        self.descriptors.retain_mut(|of| {
            let named = substream.is_none_or(|id| id == of.index);
            !named || (of.reached || !walk) && of.structure.confirm(since)
        });
    }

    /// Whether any of these lines can be fetched.
    pub(super) fn may_read(&self, lines: &RangeInclusive<u64>) -> bool {
        let meets = |base: u64, bytes: u64| {
            let last = base.saturating_add(bytes - 1);
            *lines.start() <= last && base <= lines.end() | 63
        };
        self.tables.iter().any(|table| {
            let Some(leaf) = table.leaf else {
                return meets(table.base, 64 << table.bits);
            };
            let level1 = self.level1.iter().flat_map(|of| of.values.values());
            let mut leaves = level1.filter(|[value, _]| bit(&[*value], 0));
            meets(table.base, 8 << table.bits.saturating_sub(leaf))
                || leaves.any(|[value, _]| meets(leaf_table(value), 64 << leaf))
        })
    }

    /// Forgets all that was fetched from these lines: memory was not what it seemed.
    pub(super) fn forget(&mut self, lines: &RangeInclusive<u64>) {
        self.level1.retain(|of| !lines.contains(&(of.at & !63)));
        self.descriptors.retain(|of| match of.place {
            Place::Memory(at) => !lines.contains(&at),
            Place::Guest(_) => true,
        });
    }
}

fn leaf_table(level1: u64) -> u64 {
    address(&[level1], 55, 12)
}
