//! A case's structures, as words of memory.

use std::collections::BTreeMap;

use super::case::{Case, Config, Entry, Flaw, PathFlaw, Root, Tree};
use super::descriptor::{LeafPlace, Tag};
use super::encode::{FAULTS_OFF, LARGE, PRESENT, first, mask, second, shift, width};
use super::layout;

/// The words that a case starts with, and where to find what it changes.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) words: BTreeMap<u64, u64>,
    next_table: u64,
    scalable: bool,
    /// By source and configuration.
    pub(super) configs: Vec<[Compiled; 2]>,
    /// Where the sources' entries are: context entries, or PASID entries.
    pub(super) entries: [u64; 2],
    /// Where entries of first-level tables are: hardware sets flags there.
    pub(super) flags: Vec<u64>,
    pub(super) root: u64,
}

/// A configuration in memory.
#[derive(Debug)]
pub(super) struct Compiled {
    /// Its entry; as many words as such an entry has.
    pub(super) entry: Vec<u64>,
    pub(super) tag: Tag,
    pub(super) leaves: Vec<Place>,
}

/// Where a leaf is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) at: u64,
    pub(super) level: u32,
    pub(super) leaf: LeafPlace,
}

/// One tree of tables under construction.
struct Building<'a> {
    tree: &'a Tree,
    root: u64,
    /// What a pointer to a table is made of beside its address.
    pointer: u64,
    tables: Vec<u64>,
}

impl Image {
    pub(super) fn new(case: &Case) -> Self {
        let mut image = Self {
            words: BTreeMap::new(),
            next_table: layout::TABLES,
            scalable: case.scalable,
            configs: Vec::new(),
            entries: [0; 2],
            flags: Vec::new(),
            root: match case.root {
                Root::Hole => layout::HOLE,
                _ => layout::ROOT,
            },
        };
        for source in &case.sources {
            let pasid = source.path.rid_pasid;
            let [a, b] = &source.configs;
            let pair = [image.compile(a, pasid), image.compile(b, pasid)];
            image.configs.push(pair);
        }
        let root = match case.root {
            Root::Good | Root::Hole => layout::CONTEXTS | PRESENT,
            Root::NotPresent => layout::CONTEXTS,
            Root::Reserved(bit) => layout::CONTEXTS | PRESENT | 1 << bit,
            Root::ContextHole => layout::HOLE | PRESENT,
        };
        image.store(layout::ROOT, &[root]);
        for source in 0..2 {
            if case.scalable {
                image.path(case, source);
            } else {
                image.entries[source] = image.context(source);
            }
            let words = image.entry(source, case.sources[source].start);
            image.store(image.entries[source], &words);
        }
        image
    }

    /// Where the context entry of a source is.
    pub(super) fn context(&self, source: usize) -> u64 {
        let size = if self.scalable { 32 } else { 16 };
        layout::CONTEXTS + u64::from(layout::SOURCES[source]) * size
    }

    /// What leads to the PASID entry of a source.
    fn path(&mut self, case: &Case, source: usize) {
        let path = case.sources[source].path;
        let number = source as u64;
        let directory = layout::DIRECTORIES + number * 0x1000;
        let table = layout::PASID_TABLES + number * 0x1000;
        let pasid = u64::from(path.rid_pasid);
        let off = path.faults_off.map(|off| if off { FAULTS_OFF } else { 0 });

        let present = match path.flaw {
            PathFlaw::ContextNotPresent => 0,
            _ => PRESENT,
        };
        let mut context = [directory | off[0] | present, pasid, 0, 0];
        match path.flaw {
            PathFlaw::ContextReserved(bit) => context[(bit / 64) as usize] |= 1 << (bit % 64),
            PathFlaw::DirectoryHole => context[0] ^= directory ^ layout::HOLE,
            _ => {}
        }
        self.store(self.context(source), &context);
        let entry = match path.flaw {
            PathFlaw::DirectoryNotPresent => table,
            PathFlaw::TableHole => layout::HOLE | PRESENT,
            _ => table | PRESENT,
        };
        self.store(directory + (pasid >> 6) * 8, &[entry | off[1]]);
        self.entries[source] = table + (pasid & 0x3f) * 64;
    }

    fn store(&mut self, at: u64, words: &[u64]) {
        for (at, word) in (at..).step_by(8).zip(words) {
            self.words.insert(at, *word);
        }
    }

    /// The words of a source's entry.
    pub(super) fn entry(&self, source: usize, entry: Entry) -> Vec<u64> {
        match entry {
            Entry::Config(which) => self.configs[source][which].entry.clone(),
            Entry::Absent(which) => {
                let mut words = self.configs[source][which].entry.clone();
                if self.scalable {
                    // Mask: QEMU uses what else is in a PASID entry that is not present.
                    let faults_off = words[0] & FAULTS_OFF;
                    words.fill(0);
                    words[0] = faults_off;
                }
                words[0] &= !PRESENT;
                words
            }
        }
    }

    fn compile(&mut self, config: &Config, pasid: u16) -> Compiled {
        let mut leaves = Vec::new();
        let mut root = 0;
        if let Some(tree) = &config.tree {
            root = self.tree(tree, &mut leaves);
        }
        if config.flaw == Flaw::RootHole {
            root = layout::HOLE;
        }
        let entry = if self.scalable {
            pasid_entry(config, root)
        } else {
            context_entry(config, root)
        };
        let first_level = config.tree.as_ref().is_some_and(|tree| tree.first_level);
        let tag = Tag {
            did: config.did,
            first_level: first_level.then_some(pasid),
        };
        Compiled { entry, tag, leaves }
    }

    fn allocate(&mut self) -> Option<u64> {
        let at = self.next_table;
        (at + 0x1000 <= layout::TABLES_END).then(|| {
            self.next_table = at + 0x1000;
            at
        })
    }

    /// Tables with their leaves; the first of them.
    fn tree(&mut self, tree: &Tree, leaves: &mut Vec<Place>) -> u64 {
        let root = self.allocate().unwrap_or(layout::TABLES);
        let flags = match (tree.first_level, tree.clear_flags) {
            (true, false) => first::ACCESSED,
            _ => 0,
        };
        let pointer = match tree.first_level {
            true => PRESENT | first::WRITE | first::USER | flags,
            false => second::READ | second::WRITE,
        };
        let mut building = Building {
            tree,
            root,
            pointer,
            tables: vec![root],
        };
        for leaf in &tree.leaves {
            if let Some(at) = self.insert(&mut building, leaf.input, leaf.level, leaf.word) {
                // A first-level address is canonical.
                let sign = match tree.first_level && leaf.input >> 47 == 1 {
                    true => !mask(48),
                    false => 0,
                };
                let place = LeafPlace {
                    input: leaf.input | sign,
                    size_bits: shift(leaf.level),
                };
                leaves.push(Place {
                    at,
                    level: leaf.level,
                    leaf: place,
                });
            }
        }
        root
    }

    /// Puts an entry where the walk of `input` looks for it; its address. None where another leaf or
    /// table is in the way, or memory is used up.
    fn insert(&mut self, tree: &mut Building<'_>, input: u64, leaf: u32, word: u64) -> Option<u64> {
        let slot = |table: u64, level: u32| table + (input >> shift(level) & mask(9)) * 8;
        let mut table = tree.root;
        for level in (leaf + 1..=tree.tree.levels).rev() {
            let at = slot(table, level);
            table = match self.words.get(&at) {
                Some(next) => *tree
                    .tables
                    .iter()
                    .find(|table| *next == **table | tree.pointer)?,
                None => {
                    let next = self.allocate()?;
                    self.put(tree.tree, at, next | tree.pointer);
                    tree.tables.push(next);
                    next
                }
            };
        }
        let at = slot(table, leaf);
        if self.words.contains_key(&at) {
            return None;
        }
        self.put(tree.tree, at, word);
        Some(at)
    }

    fn put(&mut self, tree: &Tree, at: u64, word: u64) {
        self.words.insert(at, word);
        if tree.first_level {
            self.flags.push(at);
        }
    }
}

/// A legacy context entry.
fn context_entry(config: &Config, root: u64) -> Vec<u64> {
    let levels = config.tree.as_ref().map_or(0, |tree| tree.levels);
    let mut kind = if levels == 0 { 2 } else { 0 };
    let mut aw = config.width(levels);
    let mut words = vec![root | PRESENT, u64::from(config.did) << 8];
    match config.flaw {
        Flaw::Kind(number) => kind = u64::from(number),
        Flaw::Width(number) => aw = u64::from(number),
        Flaw::Reserved(bit) => words[(bit / 64) as usize] |= 1 << (bit % 64),
        Flaw::None | Flaw::RootHole => {}
    }
    words[0] |= kind << 2 | if config.faults_off { FAULTS_OFF } else { 0 };
    words[1] |= aw;
    words
}

/// A PASID entry.
fn pasid_entry(config: &Config, root: u64) -> Vec<u64> {
    let levels = config.tree.as_ref().map_or(0, |tree| tree.levels);
    let first_level = config.tree.as_ref().is_some_and(|tree| tree.first_level);
    let mut kind = match (levels, first_level) {
        (0, _) => 4,
        (_, true) => 1,
        _ => 2,
    };
    let mut words = vec![PRESENT, u64::from(config.did), 0, 0, 0, 0, 0, 0];
    words[if first_level { 2 } else { 0 }] |= root;
    // Mask: QEMU has first-level addresses end where AW says.
    let mut aw = config.width(levels);
    match config.flaw {
        Flaw::Kind(number) => kind = u64::from(number),
        Flaw::Width(number) if first_level => words[2] |= u64::from(number & 3) << 2,
        Flaw::Width(number) => aw = u64::from(number),
        _ => {}
    }
    words[0] |= kind << 6 | aw << 2 | if config.faults_off { FAULTS_OFF } else { 0 };
    words
}

impl Config {
    /// `AW` of this many levels; without tables, of as many as there can be.
    fn width(&self, levels: u32) -> u64 {
        width(if levels == 0 {
            self.most_levels
        } else {
            levels
        })
    }
}

/// The word of a leaf that leads to `output` with all rights.
pub(super) fn leaf_word(tree: &Tree, level: u32, output: u64) -> u64 {
    let large = if level > 1 { LARGE } else { 0 };
    let rights = match tree.first_level {
        true => PRESENT | first::WRITE | first::USER,
        false => second::READ | second::WRITE,
    };
    let flags = match (tree.first_level, tree.clear_flags) {
        (true, false) => first::ACCESSED | first::DIRTY,
        _ => 0,
    };
    output | large | rights | flags
}
