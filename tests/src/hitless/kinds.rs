//! The kinds of entries that both machines implement, and what devices see of each.
//!
//! They are those that the driver stores, and all others that QEMU knows how to obey: another table
//! under the same stream, stage 1 under a VMID, both stages, an entry that is not valid, and
//! descriptors that are not valid or refuse everything. What is left to the model is in
//! [`substreams`](super::substreams).

use std::sync::Arc;

use arm_smmu_v3::spec::cd::{self, Cd};
use arm_smmu_v3::spec::ste::{Config, Ste, Word0, Word1, Word2, Word3};
use iommu_core::pgtable::{Format, PageTable, Stage1, Stage2};
use iommu_core::{DmaBlock, Iova, PhysAddr};
use mock_hw::MockMemory;

use super::bare::Block;
use super::{COMMON, UNTRANSLATED, page};
use crate::cases::lab::{PAGE, RW};

/// The bits of addresses that tables translate: 512 GiB, beyond all memory, by three levels that
/// start with one table.
const INPUT_BITS: u8 = 39;
/// And of those that they translate to, as `SMMU_IDR5.OAS` says (6.3.6): 44.
const OUTPUT_BITS: u32 = 44;
const OUTPUT_SIZE: u8 = 4;

/// What one read shows: the word, 0 where it is refused, and the event, if there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sight {
    /// The word.
    pub word: u32,
    /// The event's number (7.3).
    pub event: Option<u8>,
}

impl Sight {
    /// Refused, and nobody is told.
    pub const REFUSED: Self = Self {
        word: 0,
        event: None,
    };

    /// A word.
    #[must_use]
    pub const fn word(word: u32) -> Self {
        Self { word, event: None }
    }

    /// Refused with an event.
    #[must_use]
    pub const fn event(number: u8) -> Self {
        Self {
            word: 0,
            event: Some(number),
        }
    }
}

/// `C_BAD_STE` (7.3.5).
const BAD_STE: Sight = Sight::event(0x04);
/// `C_BAD_CD` (7.3.11).
const BAD_CD: Sight = Sight::event(0x0a);

/// What a device sees of an entry: of the common page, and of the other.
pub type Sights = [Sight; 2];

/// It passes untranslated.
pub const PASSES: Sights = [Sight::word(COMMON), Sight::word(UNTRANSLATED)];

/// It is translated by tables with this word.
#[must_use]
pub const fn through(word: u32) -> Sights {
    [Sight::word(COMMON), Sight::word(word)]
}

/// A kind of entry.
#[derive(Clone, Debug)]
pub struct Kind {
    /// What it is called.
    pub name: &'static str,
    /// The entry.
    pub words: [u64; 8],
    /// What each device sees.
    pub sights: Vec<Sights>,
}

impl Kind {
    /// An entry that all devices see the same of.
    fn new(name: &'static str, words: [u64; 8], sights: Sights) -> Self {
        Self {
            name,
            words,
            sights: vec![sights],
        }
    }
}

/// Tables for entries to lead to, and pages for tables to lead to.
///
/// Two IOVAs tell tables apart, both the physical address of a page: the first leads to that page
/// through all tables, the second through each to a page of its own.
#[derive(Debug)]
pub struct World {
    memory: MockMemory,
    /// The two IOVAs.
    pub iovas: [u64; 2],
    pages: Vec<Block>,
    stage1: Vec<PageTable<MockMemory, Stage1>>,
    stage2: Vec<PageTable<MockMemory, Stage2>>,
}

impl World {
    /// The two pages, and no tables yet.
    #[must_use]
    pub fn new(memory: &MockMemory) -> Self {
        let mut world = Self {
            memory: memory.clone(),
            iovas: [0; 2],
            pages: Vec::new(),
            stage1: Vec::new(),
            stage2: Vec::new(),
        };
        world.iovas = [COMMON, UNTRANSLATED].map(|word| world.page(word).0);
        world
    }

    /// Where all of it is.
    #[must_use]
    pub fn memory(&self) -> &MockMemory {
        &self.memory
    }

    fn page(&mut self, word: u32) -> PhysAddr {
        self.pages.push(Arc::new(page(&self.memory, word)));
        self.pages[self.pages.len() - 1].addr()
    }

    /// A descriptor of stage 1 tables that lead to a page with this word.
    pub fn context(&mut self, asid: u16, word: u32) -> Cd {
        let own = self.page(word);
        let [common, other] = self.iovas;
        let table = empty::<Stage1>(&self.memory);
        for (iova, phys) in [(common, PhysAddr(common)), (other, own)] {
            table.enter(0).map(Iova(iova), phys, PAGE, RW).unwrap();
        }
        let word0 = cd::Word0::new()
            .with_t0sz(64 - INPUT_BITS)
            .with_ir0(1)
            .with_or0(1)
            .with_sh0(3)
            .with_epd1(true)
            .with_valid(true)
            .with_ips(OUTPUT_SIZE)
            .with_aa64(true)
            .with_r(true)
            .with_a(true)
            .with_aset(true)
            .with_asid(asid);
        let word1 = cd::Word1::new().with_ttb0(table.root().0 >> 4);
        self.stage1.push(table);
        Cd {
            word0,
            word1,
            mair: Stage1::MAIR,
            ..Cd::default()
        }
    }

    /// Puts descriptors into a table of their own. Their number is a power of two.
    pub fn contexts(&mut self, cds: &[Cd]) -> Block {
        let size = cds.len() * 64;
        let table = DmaBlock::new(&self.memory, size, size, "context descriptors").unwrap();
        let words = cds.iter().flat_map(|cd| cd.to_words());
        words
            .enumerate()
            .for_each(|(index, word)| table.store(index, word));
        self.pages.push(Arc::new(table));
        self.pages[self.pages.len() - 1].clone()
    }

    /// An entry with stage 1, through the descriptors in `table`.
    #[must_use]
    pub fn stage1(table: &Block) -> Ste {
        let mut entry = entry(Config::STAGE1);
        entry.word0 = entry.word0.with_s1_context_ptr(table.addr().0 >> 6);
        entry.word1 = Word1::new().with_s1_cir(1).with_s1_cor(1).with_s1_csh(3);
        entry
    }

    /// An entry with stage 2, whose tables lead to a page with this word, and 1:1 to the rest of
    /// memory.
    pub fn stage2(&mut self, vmid: u16, word: u32) -> Ste {
        let own = self.page(word);
        let other = self.iovas[1];
        let table = empty::<Stage2>(&self.memory);
        let (start, end) = (self.memory.base().0, self.memory.size() as u64);
        let end = start + end;
        for (from, to, phys) in [
            (start, other, PhysAddr(start)),
            (other, other + PAGE, own),
            (other + PAGE, end, PhysAddr(other + PAGE)),
        ] {
            table.enter(0).map(Iova(from), phys, to - from, RW).unwrap();
        }
        let mut entry = entry(Config::STAGE2);
        entry.word2 = Word2::new()
            .with_s2_vmid(vmid)
            .with_s2_t0sz(64 - INPUT_BITS)
            // The walk starts at level 1.
            .with_s2_sl0(1)
            .with_s2_ir0(1)
            .with_s2_or0(1)
            .with_s2_sh0(3)
            .with_s2_ps(OUTPUT_SIZE)
            .with_s2_aa64(true)
            .with_s2_r(true);
        entry.word3 = Word3::new().with_s2_ttb(table.root().0 >> 4);
        self.stage2.push(table);
        entry
    }

    /// The kinds of stream table entries that both machines implement, each seen by one device.
    pub fn entries(&mut self) -> Vec<Kind> {
        let cds = [1, 2, 3, 4, 5].map(|asid| self.context(asid, 0x5100 + u32::from(asid)));
        let tables = cds.map(|cd| self.contexts(&[cd]));
        let [one, other, inner, inner_other, inner_last] = tables.each_ref().map(Self::stage1);
        let mut tagged = one;
        tagged.word2.set_s2_vmid(9);
        let (two, last) = (self.stage2(5, 0x5205), self.stage2(6, 0x5206));
        let mut kinds = vec![
            Kind::new("invalid", [0; 8], [BAD_STE; 2]),
            Kind::new("abort", abort().to_words(), [Sight::REFUSED; 2]),
            Kind::new("bypass", bypass().to_words(), PASSES),
        ];
        for (name, entry, word) in [
            ("s1", one, 0x5101),
            ("s1'", other, 0x5102),
            ("s1 with a VMID", tagged, 0x5101),
            ("s2", two, 0x5205),
            ("s2'", last, 0x5206),
            ("nested", nested(inner, two), 0x5103),
            ("nested, other s1", nested(inner_other, two), 0x5104),
            ("nested'", nested(inner_last, last), 0x5105),
        ] {
            kinds.push(Kind::new(name, entry.to_words(), through(word)));
        }
        kinds
    }

    /// The kinds of context descriptors, as one device sees them through an entry with stage 1.
    pub fn descriptors(&mut self) -> Vec<Kind> {
        let [one, other] = [1, 2].map(|asid| {
            // What is mapped by one that walks nothing is not: but the model counts the attributes
            // among what an ASID stands for all the same.
            let cd = self.context(asid, 0x5100 + u32::from(asid));
            Cd { mair: 0, ..cd }
        });
        let word0 = cd::Word0::new()
            .with_epd0(true)
            .with_epd1(true)
            .with_valid(true)
            .with_aa64(true)
            .with_a(true)
            .with_aset(true)
            .with_asid(3);
        let silent = Cd {
            word0,
            ..Cd::default()
        };
        vec![
            Kind::new("invalid", [0; 8], [BAD_CD; 2]),
            Kind::new("a", one.to_words(), through(0x5101)),
            Kind::new("b", other.to_words(), through(0x5102)),
            Kind::new("silent", silent.to_words(), [Sight::REFUSED; 2]),
        ]
    }
}

fn empty<F: Format>(memory: &MockMemory) -> PageTable<MockMemory, F> {
    PageTable::new(memory, INPUT_BITS.into(), OUTPUT_BITS).unwrap()
}

fn entry(config: Config) -> Ste {
    Ste {
        word0: Word0::new().with_valid(true).with_config(config),
        ..Ste::default()
    }
}

/// An entry that refuses everything.
#[must_use]
pub fn abort() -> Ste {
    entry(Config::ABORT)
}

/// An entry that passes everything.
#[must_use]
pub fn bypass() -> Ste {
    entry(Config::BYPASS)
}

/// Both stages, from an entry with each.
fn nested(one: Ste, two: Ste) -> Ste {
    Ste {
        word0: one.word0.with_config(Config::NESTED),
        word1: one.word1,
        ..two
    }
}
