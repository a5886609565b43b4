//! Sequences of stores and commands, right and wrong. Entries are put together from the bit numbers of
//! the specification.

mod contexts;
mod entries;
mod meaning;
mod tags;

use super::*;

/// The entry of stream 5; that of stream 6 is behind it.
const ENTRY: u64 = 0x4001_0140;
/// Context descriptors, or tables of them.
const CD: u64 = 0x4003_0000;
const OTHER_CD: u64 = 0x4004_0000;
/// Translation tables.
const ROOT: u64 = 0x4010_0000;
const OTHER_ROOT: u64 = 0x4020_0000;

const CFGI_STE: [u64; 2] = [0x0005_0000_0003, 1];
const CFGI_ALL: [u64; 2] = [0x04, 31];
const SYNC: [u64; 2] = [0x46, 0];
const TLBI_ALL: [u64; 2] = [0x30, 0];

type Words = [u64; 8];

/// Sets the bits `high` to `low` of an entry.
fn set(mut words: Words, fields: &[(u32, u32, u64)]) -> Words {
    for (high, low, value) in fields {
        let word = &mut words[(low / 64) as usize];
        *word &= !(mask(high - low + 1) << (low % 64));
        *word |= value << (low % 64);
    }
    words
}

/// V and Config.
fn entry(config: u64) -> Words {
    set([0; 8], &[(0, 0, 1), (3, 1, config)])
}

fn abort() -> Words {
    entry(0)
}

fn bypass() -> Words {
    entry(0b100)
}

/// Stage 1: S1ContextPtr; S1CIR, S1COR, S1CSH; S2VMID.
fn one(context: u64, vmid: u64) -> Words {
    let pointer = (55, 6, context >> 6);
    let fetch = [(67, 66, 1), (69, 68, 1), (71, 70, 3)];
    set(set(entry(0b101), &fetch), &[pointer, (143, 128, vmid)])
}

/// Stage 2: S2T0SZ, S2SL0, S2IR0, S2OR0, S2SH0, S2PS, S2AA64, S2R; S2VMID; S2TTB.
fn two(root: u64, vmid: u64) -> Words {
    let size = [(165, 160, 25), (167, 166, 1), (178, 176, 4)];
    let walk = [(169, 168, 1), (171, 170, 1), (173, 172, 3), (179, 179, 1)];
    let own = [(186, 186, 1), (143, 128, vmid), (243, 196, root >> 4)];
    set(set(set(entry(0b110), &size), &walk), &own)
}

/// Both.
fn nested(context: u64, root: u64, vmid: u64) -> Words {
    let mut words = two(root, vmid);
    words[1] = one(context, vmid)[1];
    words[0] = set(one(context, vmid), &[(3, 1, 0b111)])[0];
    words
}

/// T0SZ, IR0, OR0, SH0, EPD1, V, IPS, AA64, R, A, MAIR0; ASID; TTB0.
fn cd(root: u64, asid: u64) -> Words {
    let walk = [(5, 0, 25), (9, 8, 1), (11, 10, 1), (13, 12, 3), (30, 30, 1)];
    let control = [
        (31, 31, 1),
        (34, 32, 4),
        (41, 41, 1),
        (45, 45, 1),
        (46, 46, 1),
    ];
    let own = [(223, 192, 0xff), (63, 48, asid), (115, 68, root >> 4)];
    set(set(set([0; 8], &walk), &control), &own)
}

/// The default with ATS, stalls that software chooses, ten bits of SubstreamID, and two levels of
/// descriptors.
fn rich() -> ModelConfig {
    let default = ModelConfig::default();
    ModelConfig {
        idr0: default.idr0 & !(0b11 << 24) | 1 << 10 | 1 << 19,
        idr1: default.idr1 | 10 << 6,
        ..default
    }
}

struct Rig {
    checker: EntryChecker,
}

impl Rig {
    /// Stream 5 as it is before.
    fn new(before: &Image) -> Self {
        Self::with(ModelConfig::default(), Atomicity::Word, before)
    }

    /// The same with some hardware. Descriptors are where S1ContextPtr says, in one table.
    fn with(ids: ModelConfig, atomicity: Atomicity, before: &Image) -> Self {
        let mut checker = EntryChecker::new(ids, atomicity);
        checker.watch(5, PhysAddr(ENTRY), before.entry);
        let table = before.entry[0] & mask(56) & !63;
        for (substream, words) in &before.contexts {
            checker.set_memory(PhysAddr(table + u64::from(*substream) * 64), words);
        }
        checker.expect(5, std::slice::from_ref(before));
        let rig = Self { checker };
        rig.is_clean();
        rig
    }

    fn expect(&mut self, images: &[&Image]) {
        let images: Vec<_> = images.iter().copied().cloned().collect();
        self.checker.expect(5, &images);
    }

    fn describe(&mut self, at: u64, words: Words) {
        self.checker.set_memory(PhysAddr(at), &words);
    }

    fn store(&mut self, at: u64, words: &[u64]) {
        self.checker.store(PhysAddr(at), words);
    }

    /// Stores some words of stream 5's entry, one by one.
    fn put(&mut self, entry: Words, words: &[usize]) {
        for at in words {
            self.store(ENTRY + 8 * *at as u64, &[entry[*at]]);
        }
    }

    fn run(&mut self, commands: &[[u64; 2]]) {
        commands
            .iter()
            .for_each(|command| self.checker.command(*command));
    }

    /// What was stored so far of stream 5's entry is confirmed.
    fn sync(&mut self) {
        self.run(&[CFGI_STE, SYNC]);
    }

    fn is_clean(&self) {
        assert_eq!(self.checker.failures(), [""; 0]);
    }

    /// The first failure says this.
    fn failed(&self, what: &str) {
        let failures = self.checker.failures();
        let first = failures.first().map_or("nothing went wrong", |first| first);
        assert!(first.contains(what), "{failures:#?}, not {what}");
    }
}
