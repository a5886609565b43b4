//! A case's structures, as words of memory.

use std::collections::BTreeMap;

use super::case::{Case, Config, Entry, Flaw, Half, Stage1, Stage2};
use super::command::LeafPlace;
use super::encode::{
    cd, high_granule, low_granule, mask, pte, put, set, set_address, shift, size_bits, start_level,
    ste,
};
use super::layout;

/// The words that a case starts with, and where to find what it changes.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) words: BTreeMap<u64, u64>,
    next_table: u64,
    /// By stream and configuration.
    pub(super) configs: Vec<[Compiled; 2]>,
    /// Where the streams' entries are.
    pub(super) entries: [u64; 2],
    pub(super) strtab_base: u64,
    pub(super) strtab_base_cfg: u32,
}

/// A configuration in memory.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) ste: [u64; 8],
    pub(super) context: u64,
    pub(super) leaves: Vec<Place>,
}

/// Where a leaf is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) at: u64,
    pub(super) stage2: bool,
    pub(super) leaf: LeafPlace,
}

/// A table that stage 1 reads.
#[derive(Clone, Copy)]
struct Table {
    at: u64,
    size: u64,
    root: bool,
}

/// One tree of tables under construction.
struct Tree {
    granule: u32,
    input_bits: u32,
    start_level: u32,
    root: u64,
    /// What is added to a table's physical address where it is pointed to.
    offset: u64,
    /// Attributes of table descriptors.
    attributes: u64,
    tables: Vec<Table>,
}

impl Image {
    pub(super) fn new(case: &Case) -> Self {
        let mut image = Self {
            words: BTreeMap::new(),
            next_table: layout::TABLES,
            configs: Vec::new(),
            entries: [0; 2],
            strtab_base: layout::STREAM_TABLE,
            strtab_base_cfg: 0,
        };
        for (s, stream) in case.streams.iter().enumerate() {
            let number = s as u64 * 2;
            let [a, b] = &stream.configs;
            let pair = [image.compile(number, a), image.compile(number + 1, b)];
            image.configs.push(pair);
        }
        image.stream_table(case);
        for (s, stream) in case.streams.iter().enumerate() {
            let words = image.entry(s, stream.start);
            image.store(image.entries[s], &words);
        }
        image
    }

    fn store(&mut self, at: u64, words: &[u64]) {
        for (at, word) in (at..).step_by(8).zip(words) {
            self.words.insert(at, *word);
        }
    }

    fn stream_table(&mut self, case: &Case) {
        let table = case.table;
        self.strtab_base_cfg = table.log2_size;
        if case.environment.two_level {
            self.strtab_base_cfg |= 1 << 16 | table.split << 6;
            // Both streams have the same level 1 descriptor.
            let index = u64::from(layout::STREAMS[0] >> table.split);
            let descriptor = match (table.span, table.missing) {
                (0, _) => 0,
                (span, true) => layout::HOLE | u64::from(span),
                (span, false) => layout::STREAM_TABLE_2 | u64::from(span),
            };
            self.store(layout::STREAM_TABLE + index * 8, &[descriptor]);
            self.entries = layout::STREAMS
                .map(|sid| layout::STREAM_TABLE_2 + (u64::from(sid) & mask(table.split)) * 64);
        } else {
            if table.missing {
                self.strtab_base = layout::HOLE;
            }
            self.entries = layout::STREAMS.map(|sid| layout::STREAM_TABLE + u64::from(sid) * 64);
        }
    }

    /// The words of a stream table entry.
    pub(super) fn entry(&self, stream: usize, entry: Entry) -> [u64; 8] {
        let mut words = [0; 8];
        match entry {
            Entry::Config(which) => return self.configs[stream][which].ste,
            // All else says that it is a bypass.
            Entry::Invalid => set(&mut words, ste::CONFIG, 0b100_u64),
            Entry::Abort(low) => {
                set(&mut words, ste::V, 1_u64);
                set(&mut words, ste::CONFIG, low & 0b11);
            }
            Entry::Bypass => {
                set(&mut words, ste::V, 1_u64);
                set(&mut words, ste::CONFIG, 0b100_u64);
            }
        }
        words
    }

    fn allocate(&mut self, size: u64) -> Option<u64> {
        let at = self.next_table.next_multiple_of(size.max(0x1000));
        let end = at + size.max(0x1000);
        (end <= layout::TABLES_END).then(|| {
            self.next_table = end;
            at
        })
    }

    fn compile(&mut self, number: u64, config: &Config) -> Compiled {
        let context = layout::CONTEXTS + number * layout::CONTEXT_STRIDE;
        let mut leaves = Vec::new();
        let mut words = [0; 8];
        set(&mut words, ste::V, 1_u64);
        let which =
            0b100 | u64::from(config.stage1.is_some()) | u64::from(config.stage2.is_some()) << 1;
        set(&mut words, ste::CONFIG, which);
        set(&mut words, ste::S2_VMID, config.vmid);
        let offset = match (&config.stage1, &config.stage2) {
            (Some(_), Some(stage2)) => stage2.structures.wrapping_sub(layout::BASE),
            _ => 0,
        };
        let mut tables = Vec::new();
        if let Some(stage1) = &config.stage1 {
            let mut descriptor = self.context(config, stage1, offset, &mut tables, &mut leaves);
            descriptor[3] = config.noise;
            self.store(context, &descriptor);
            let pointer = if config.flaw == Flaw::CdHole {
                layout::HOLE
            } else {
                context.wrapping_add(offset)
            };
            set_address(&mut words, ste::S1_CONTEXT_PTR, pointer);
            // IGNORED without substreams.
            set(&mut words, ste::S1_DSS, config.noise >> 20 & 3);
            set(&mut words, ste::S1_CIR, config.noise & 3);
            set(&mut words, ste::S1_COR, config.noise >> 2 & 3);
            set(&mut words, ste::S1_CSH, config.noise >> 4 & 3);
            if config.flaw == Flaw::SteStallDisabled {
                set(&mut words, ste::S1_STALLD, 1_u64);
            }
        }
        if let Some(stage2) = &config.stage2 {
            let context_table = Table {
                at: context,
                size: 64,
                root: false,
            };
            match config.flaw {
                Flaw::CdUnmapped => {}
                Flaw::TableUnmapped => {
                    // Mask: QEMU translates both roots whatever the address is, even one that no
                    // walk is for, so roots are always there (3.4: ranges are checked first).
                    let unmapped = tables.iter().rposition(|table| !table.root);
                    unmapped.map(|at| tables.remove(at));
                    tables.push(context_table);
                }
                _ => tables.push(context_table),
            }
            self.stage2(config, stage2, offset, &tables, &mut words, &mut leaves);
        }
        Compiled {
            ste: words,
            context,
            leaves,
        }
    }

    /// A context descriptor and its tables.
    fn context(
        &mut self,
        config: &Config,
        stage1: &Stage1,
        offset: u64,
        tables: &mut Vec<Table>,
        leaves: &mut Vec<Place>,
    ) -> [u64; 8] {
        let flaw = config.flaw;
        let mut words = [0; 8];
        set(&mut words, cd::V, u64::from(flaw != Flaw::CdInvalid));
        set(&mut words, cd::AA64, u64::from(flaw != Flaw::CdFormat));
        set(&mut words, cd::A, u64::from(flaw != Flaw::CdNoAbort));
        set(&mut words, cd::S, u64::from(flaw == Flaw::CdStall));
        set(
            &mut words,
            cd::HA,
            u64::from(flaw == Flaw::CdAccessFlagUpdate),
        );
        set(&mut words, cd::ENDI, u64::from(flaw == Flaw::CdEndian));
        set(&mut words, cd::R, u64::from(stage1.record));
        set(&mut words, cd::ASET, 1_u64);
        set(&mut words, cd::ASID, stage1.asid);
        set(&mut words, cd::IPS, stage1.ips);
        set(&mut words, cd::AFFD, u64::from(stage1.ignore_access_flag));
        set(&mut words, cd::MAIR, config.noise);
        set(&mut words, cd::IR0, config.noise >> 6 & 3);
        set(&mut words, cd::OR0, config.noise >> 8 & 3);
        set(&mut words, cd::SH0, config.noise >> 10 & 3);
        let fields = [
            (cd::EPD0, cd::T0SZ, cd::TG0, cd::TBI0, cd::HAD0, cd::TTB0),
            (cd::EPD1, cd::T1SZ, cd::TG1, cd::TBI1, cd::HAD1, cd::TTB1),
        ];
        for (high, (half, (epd, tsz, tg, tbi, had, ttb))) in
            stage1.halves.iter().zip(fields).enumerate()
        {
            set(&mut words, tbi, u64::from(stage1.ignore_top_byte));
            let no_limits = stage1.ignore_table_limits[high];
            set(&mut words, had, u64::from(no_limits));
            let Some(half) = half else {
                set(&mut words, epd, 1_u64);
                continue;
            };
            set(&mut words, tsz, u64::from(64 - half.input_bits));
            let granule = [low_granule, high_granule][high](half.granule);
            set(&mut words, tg, granule);
            // XNTable and PXNTable, and APTable where it is ignored.
            let attributes = (config.noise >> 22 & mask(if no_limits { 4 } else { 2 })) << 59;
            let root = self.half(half, offset, attributes, tables, leaves);
            set_address(&mut words, ttb, root.wrapping_add(offset));
            match flaw {
                Flaw::CdSize(size) if high == 0 => set(&mut words, tsz, size),
                Flaw::CdGranule if high == 0 => set(&mut words, tg, 3_u64),
                Flaw::CdRoot if high == 0 => {
                    let beyond = 1 << size_bits(stage1.ips).min(44);
                    set_address(&mut words, ttb, root.wrapping_add(offset) | beyond);
                }
                _ => {}
            }
        }
        words
    }

    /// One half of stage 1; its root.
    fn half(
        &mut self,
        half: &Half,
        offset: u64,
        attributes: u64,
        tables: &mut Vec<Table>,
        leaves: &mut Vec<Place>,
    ) -> u64 {
        let start_level = start_level(half.granule, half.input_bits);
        let mut tree = self.tree(half.granule, half.input_bits, start_level, offset);
        tree.attributes = attributes;
        for leaf in &half.leaves {
            let input = leaf.input;
            if let Some(at) = self.insert(&mut tree, input, leaf.level, leaf.word) {
                leaves.push(tree.place(at, input, leaf.level, false));
            }
        }
        tables.append(&mut tree.tables);
        tree.root
    }

    fn stage2(
        &mut self,
        config: &Config,
        stage2: &Stage2,
        offset: u64,
        structures: &[Table],
        words: &mut [u64; 8],
        leaves: &mut Vec<Place>,
    ) {
        let (granule, bits) = (stage2.granule, stage2.input_bits);
        let mut tree = self.tree(granule, bits, stage2.start_level, 0);
        for leaf in &stage2.leaves {
            if let Some(at) = self.insert(&mut tree, leaf.input, leaf.level, leaf.word) {
                leaves.push(tree.place(at, leaf.input, leaf.level, true));
            }
        }
        for &Table { at, size, .. } in structures {
            let first = at & !mask(granule);
            for page in (first..at + size).step_by(1 << granule) {
                let word = page
                    | pte::VALID
                    | pte::TABLE_OR_PAGE
                    | pte::S2AP_READ
                    | pte::AF
                    | config.noise & pte::S2AP_WRITE;
                // Twice the same page is once.
                let _ = self.insert(&mut tree, page.wrapping_add(offset), 3, word);
            }
        }
        let level_field = match granule {
            12 => 2 - stage2.start_level,
            _ => 3 - stage2.start_level,
        };
        set(words, ste::S2_T0SZ, u64::from(64 - bits));
        set(words, ste::S2_SL0, level_field);
        set(words, ste::S2_IR0, config.noise >> 12 & 3);
        set(words, ste::S2_OR0, config.noise >> 14 & 3);
        set(words, ste::S2_SH0, config.noise >> 16 & 3);
        set(words, ste::S2_TG, low_granule(granule));
        set(words, ste::S2_PS, stage2.ps);
        set(words, ste::S2_AA64, 1_u64);
        set(words, ste::S2_AFFD, u64::from(stage2.ignore_access_flag));
        set(words, ste::S2_R, u64::from(stage2.record));
        set_address(words, ste::S2_TTB, tree.root);
        match config.flaw {
            Flaw::SteStall => set(words, ste::S2_S, 1_u64),
            Flaw::SteGranule => set(words, ste::S2_TG, 3_u64),
            Flaw::SteSize(size) => set(words, ste::S2_T0SZ, size),
            Flaw::SteLevel => set(words, ste::S2_SL0, 3_u64),
            Flaw::SteEndian => set(words, ste::S2_ENDI, 1_u64),
            Flaw::SteRoot => {
                let beyond = 1 << size_bits(stage2.ps).min(44);
                set_address(words, ste::S2_TTB, tree.root | beyond);
            }
            _ => {}
        }
    }

    fn tree(&mut self, granule: u32, input_bits: u32, start_level: u32, offset: u64) -> Tree {
        let size = 8 << (input_bits - shift(granule, start_level));
        let root = self.allocate(size).unwrap_or(layout::TABLES);
        Tree {
            granule,
            input_bits,
            start_level,
            root,
            offset,
            attributes: 0,
            tables: vec![Table {
                at: root,
                size,
                root: true,
            }],
        }
    }

    /// Puts a descriptor where the walk of `input` looks for it; its address. None where another
    /// leaf or table is in the way, or memory is used up.
    fn insert(&mut self, tree: &mut Tree, input: u64, level: u32, word: u64) -> Option<u64> {
        let (mut table, mut at_level) = (tree.root, tree.start_level);
        if level < at_level {
            return None;
        }
        while at_level < level {
            let at = table + tree.index(input, at_level) * 8;
            table = match self.words.get(&at) {
                Some(next) => tree.tables.iter().map(|table| table.at).find(|table| {
                    let pointer = table.wrapping_add(tree.offset);
                    *next == pointer | tree.attributes | pte::VALID | pte::TABLE_OR_PAGE
                })?,
                None => {
                    let next = self.allocate(1 << tree.granule)?;
                    let pointer = next.wrapping_add(tree.offset);
                    let word = pointer | tree.attributes | pte::VALID | pte::TABLE_OR_PAGE;
                    self.words.insert(at, word);
                    tree.tables.push(Table {
                        at: next,
                        size: 1 << tree.granule,
                        root: false,
                    });
                    next
                }
            };
            at_level += 1;
        }
        let at = table + tree.index(input, level) * 8;
        if self.words.contains_key(&at) {
            return None;
        }
        self.words.insert(at, word);
        Some(at)
    }
}

impl Tree {
    fn index(&self, input: u64, level: u32) -> u64 {
        let bits = if level == self.start_level {
            self.input_bits - shift(self.granule, level)
        } else {
            self.granule - 3
        };
        (input & mask(self.input_bits)) >> shift(self.granule, level) & mask(bits)
    }

    fn place(&self, at: u64, input: u64, level: u32, stage2: bool) -> Place {
        Place {
            at,
            stage2,
            leaf: LeafPlace {
                input,
                size_bits: shift(self.granule, level),
                granule: self.granule,
                level,
            },
        }
    }
}

/// The level 1 descriptor's `Span` that covers a whole level 2 table.
pub(super) fn full_span(split: u32) -> u32 {
    split + 1
}

/// A raw command of this opcode, all else zero.
pub(super) fn raw_command(opcode: u64) -> [u64; 2] {
    let mut words = [0; 2];
    put(&mut words, 7, 0, opcode);
    words
}
