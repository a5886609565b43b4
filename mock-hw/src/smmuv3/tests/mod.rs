//! Every number here was put together by hand from the specification, not by code under test.

mod ats;
mod caches;
mod claims;
mod commands;
mod contexts;
mod endpoint;
mod guards;
mod legality;
mod order;
mod registers;
mod reserved;
mod stage1;
mod stage2;
mod stepping;
mod streams;

use super::*;
use crate::DmaDevice;

const COMMANDS: u64 = 0x4000_0000;
const EVENTS: u64 = 0x4000_1000;
const STREAMS: u64 = 0x4001_0000;
const CD: u64 = 0x4003_0000;
/// Stage 1 tables, from level 1 on.
const S1: u64 = 0x4010_0000;
/// Stage 2 tables, at their start level.
const S2: u64 = 0x4020_0000;
const DATA: u64 = 0x4040_0000;

const ABORT: u64 = 0x1;
const BYPASS: u64 = 0x9;
/// V, Config 0b101, S1ContextPtr.
const STE_S1: u64 = 0x4003_000b;
/// V, Config 0b110.
const STE_S2: u64 = 0xd;
/// S2R, S2PTW, S2AA64, S2PS 4 (44 bits), S2TG 0 (4 KiB), shareable write-back, S2SL0 1 (level 1),
/// S2T0SZ 25 (39 bits), S2VMID 3.
const S2_39: u64 = 0x044c_3559_0000_0003;
/// ASID 7, A, R, AA64, IPS 4 (44 bits), V, EPD1, shareable write-back, TG0 0 (4 KiB), T0SZ 25 (39
/// bits).
const CD_39: u64 = 0x0007_6204_c000_3519;

/// nG, AF, shareable, AP[1], page.
const PAGE: u64 = 0xf43;
const BLOCK: u64 = 0xf41;
/// AP[2] too.
const READ_ONLY: u64 = 0xfc3;
/// AF, shareable, S2AP read and write, normal write-back, page.
const S2_PAGE: u64 = 0x7ff;
const S2_BLOCK: u64 = 0x7fd;

const CFGI_ALL: [u64; 2] = [0x04, 0x1f];
const TLBI_ALL: [u64; 2] = [0x30, 0];
const SYNC: [u64; 2] = [0x46, 0];

struct Rig {
    memory: MockMemory,
    model: SmmuModel,
    bank: ModelBank,
}

impl Rig {
    /// A model out of reset, with memory that is all owned.
    fn new(config: ModelConfig) -> Self {
        let memory = MockMemory::new(PhysAddr(0x4000_0000), 0x80_0000);
        memory.reserve(PhysAddr(0x4000_0000), 0x80_0000);
        let model = SmmuModel::new(memory.clone(), config);
        Self {
            bank: model.bank(),
            memory,
            model,
        }
    }

    /// A model that translates, with a linear table of 64 streams.
    fn up() -> Self {
        Self::up_with(ModelConfig::default())
    }

    fn up_with(config: ModelConfig) -> Self {
        let rig = Self::new(config);
        rig.bank.write64(0x80, STREAMS);
        rig.bank.write32(0x88, 6);
        rig.queues();
        rig.enable();
        rig
    }

    /// 256 commands and 4 events.
    fn queues(&self) {
        self.bank.write64(0x90, COMMANDS | 8);
        self.bank.write32(0x98, 0);
        self.bank.write32(0x9c, 0);
        self.bank.write64(0xa0, EVENTS | 2);
        self.bank.write32(0x1_00a8, 0);
        self.bank.write32(0x1_00ac, 0);
        self.bank.write32(0x2c, 2);
    }

    fn enable(&self) {
        self.cr0(0x8);
        self.submit(&[CFGI_ALL, SYNC, TLBI_ALL, SYNC]);
        self.cr0(0xd);
    }

    fn cr0(&self, value: u32) {
        self.bank.write32(0x20, value);
        while self.bank.read32(0x24) != value {}
    }

    fn poke(&self, addr: u64, words: &[u64]) {
        for (at, word) in (addr..).step_by(8).zip(words) {
            self.memory.write_word(PhysAddr(at), *word).unwrap();
        }
    }

    fn peek(&self, addr: u64) -> u64 {
        self.memory.read_word(PhysAddr(addr)).unwrap()
    }

    fn ste(&self, stream: u64, words: &[u64]) {
        self.poke(STREAMS + stream * 64, words);
    }

    /// Writes the commands and PROD, and looks no further.
    fn submit(&self, commands: &[[u64; 2]]) {
        let mut prod = u64::from(self.bank.read32(0x98));
        for command in commands {
            self.poke(COMMANDS + (prod & 0xff) * 16, command);
            prod = (prod + 1) & 0x1ff;
        }
        self.bank.write32(0x98, u32::try_from(prod).unwrap());
    }

    /// The records that were not taken out yet.
    fn events(&self) -> Vec<[u64; 4]> {
        let (prod, mut cons) = (self.bank.read32(0x1_00a8), self.bank.read32(0x1_00ac));
        let mut events = Vec::new();
        while (prod ^ cons) & 7 != 0 {
            let at = EVENTS + u64::from(cons & 3) * 32;
            events.push([0, 8, 16, 24].map(|word| self.peek(at + word)));
            cons = cons & 1 << 31 | (cons + 1) & 7;
        }
        self.bank.write32(0x1_00ac, cons);
        events
    }

    fn read(&self, stream: u32, iova: u64) -> Outcome {
        self.model.transact(stream, None, iova, Access::Read)
    }

    fn write(&self, stream: u32, iova: u64) -> Outcome {
        self.model.transact(stream, None, iova, Access::Write)
    }

    /// Stream 5 at stage 1, one page at IOVA 0x20_3000, a 2 MiB block at 0x40_0000, a 1 GiB block at
    /// 0x4000_0000.
    fn stage1(&self) {
        self.ste(5, &[STE_S1, 0, 2]);
        self.poke(CD, &[CD_39, S1, 0, 0xff]);
        self.poke(S1, &[S1 + 0x1003, 0x4000_0000 | BLOCK]);
        self.poke(S1 + 0x1008, &[S1 + 0x2003, DATA & !0x1f_ffff | BLOCK]);
        self.poke(S1 + 0x2018, &[DATA | PAGE]);
    }

    /// Stream 6 at stage 2, one page at IOVA 0x20_3000.
    fn stage2(&self) {
        self.ste(6, &[STE_S2, 0, S2_39, S2]);
        self.poke(S2, &[S2 + 0x1_0003]);
        self.poke(S2 + 0x1_0008, &[S2 + 0x1_1003]);
        self.poke(S2 + 0x1_1018, &[DATA | S2_PAGE]);
    }

    /// Only this was noted, as it begins.
    fn noted(&self, what: &str) {
        let violations = self.model.violations();
        let [only] = violations.as_slice() else {
            panic!("{violations:?}, not just {what}")
        };
        assert!(only.starts_with(what), "{only}");
        assert_eq!(self.memory.violations(), [""; 0]);
    }

    fn is_clean(&self) {
        assert_eq!(self.model.violations(), [""; 0]);
        assert_eq!(self.memory.violations(), [""; 0]);
    }
}

fn to(addr: u64) -> Outcome {
    Outcome::Translated(PhysAddr(addr))
}
