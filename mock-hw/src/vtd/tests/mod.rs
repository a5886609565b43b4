//! Every number here was put together by hand from the architecture, not by code under test.

mod adverse;
mod anything;
mod caching_mode;
mod faults;
mod first_level;
mod iotlb;
mod legacy;
mod queue;
mod registers;
mod scalable;

use iommu_core::DmaMemory;

use super::*;

const ROOT: u64 = 0x4000_0000;
/// The context table of bus 0.
const CONTEXTS: u64 = 0x4000_1000;
const QUEUE: u64 = 0x4000_2000;
const STATUS: u64 = 0x4000_4000;
/// Second-level tables of 3 levels: the first, and one below the other.
const S2: u64 = 0x4001_0000;
/// Other ones.
const T2: u64 = 0x4002_0000;
const DATA: u64 = 0x4040_0000;

/// Read and write.
const RW: u64 = 3;
/// A page above the last level.
const LARGE: u64 = 1 << 7;

const GCMD: usize = 0x18;
const GSTS: usize = 0x1c;
const FSTS: usize = 0x34;
const IQH: usize = 0x80;
const IQT: usize = 0x88;

const TE: u32 = 1 << 31;
const SRTP: u32 = 1 << 30;
const QIE: u32 = 1 << 26;

/// Invalidation descriptors.
const CONTEXT_ALL: [u64; 2] = [0x11, 0];
const IOTLB_ALL: [u64; 2] = [0x12, 0];
/// Status data 1, to `STATUS`.
const WAIT: [u64; 2] = [0x1_0000_0025, STATUS];
/// The same, and a fence.
const FENCE: [u64; 2] = [0x1_0000_0065, STATUS];

const fn context_device(source: u64, did: u64) -> [u64; 2] {
    [0x31 | did << 16 | source << 32, 0]
}

const fn iotlb_domain(did: u64) -> [u64; 2] {
    [0x22 | did << 16, 0]
}

const fn iotlb_page(did: u64, addr: u64, order: u64) -> [u64; 2] {
    [0x32 | did << 16, addr | order]
}

struct Rig {
    memory: MockMemory,
    model: VtdModel,
    bank: VtdBank,
    /// The bytes of a descriptor.
    width: usize,
}

impl Rig {
    /// A model out of reset, with memory that is all owned.
    fn new(config: VtdConfig) -> Self {
        let memory = MockMemory::new(PhysAddr(0x4000_0000), 0x80_0000);
        memory.reserve(PhysAddr(0x4000_0000), 0x80_0000);
        let scalable = config.ecap >> 43 & 1 == 1;
        let model = VtdModel::new(memory.clone(), config);
        Self {
            bank: model.bank(),
            memory,
            model,
            width: if scalable { 32 } else { 16 },
        }
    }

    /// A model that translates, in legacy mode, with nothing present but bus 0.
    fn up() -> Self {
        Self::up_with(VtdConfig::default())
    }

    fn up_with(config: VtdConfig) -> Self {
        let rig = Self::new(config);
        rig.poke(ROOT, &[CONTEXTS | 1, 0]);
        rig.queue();
        rig.root(ROOT);
        rig.submit(&[CONTEXT_ALL, FENCE, IOTLB_ALL, WAIT]);
        rig.command(QIE | TE);
        rig
    }

    /// Enables the queue.
    fn queue(&self) {
        let width = if self.width == 32 { 1 << 11 } else { 0 };
        self.bank.write64(0x90, QUEUE | width);
        self.command(QIE);
    }

    fn root(&self, rtaddr: u64) {
        self.bank.write64(0x20, rtaddr);
        let on = self.bank.read32(GSTS) & 0x9680_0000;
        self.command(on | SRTP);
    }

    /// Writes GCMD, and waits for it.
    fn command(&self, value: u32) {
        self.bank.write32(GCMD, value);
        while self.bank.read32(GSTS) & (TE | QIE) != value & (TE | QIE) {}
        while value & SRTP != 0 && self.bank.read32(GSTS) & SRTP == 0 {}
    }

    fn poke(&self, addr: u64, words: &[u64]) {
        for (at, word) in (addr..).step_by(8).zip(words) {
            self.memory.write_word(PhysAddr(at), *word).unwrap();
        }
    }

    fn peek(&self, addr: u64) -> u64 {
        self.memory.read_word(PhysAddr(addr)).unwrap()
    }

    /// Puts descriptors into the queue, and looks no further.
    fn submit(&self, descriptors: &[[u64; 2]]) {
        let mut tail = self.bank.read64(IQT);
        for descriptor in descriptors {
            self.poke(QUEUE + tail, descriptor);
            if self.width == 32 {
                self.poke(QUEUE + tail + 16, &[0, 0]);
            }
            tail = (tail + self.width as u64) & 0xfff;
        }
        self.bank.write64(IQT, tail);
    }

    /// Invalidates one after the other.
    fn flush(&self, descriptors: &[[u64; 2]]) {
        for descriptor in descriptors {
            self.submit(&[*descriptor, WAIT]);
        }
    }

    fn context(&self, function: u64, words: [u64; 2]) {
        self.poke(CONTEXTS + function * 16, &words);
    }

    /// A source on bus 0 with these tables of 3 levels under domain id 5: 4 KiB at 0x20_3000, 2 MiB
    /// at 0x40_0000, 1 GiB at 0x4000_0000.
    fn tables(&self) {
        self.poke(S2, &[S2 + 0x1000 + RW, 0x4000_0000 | LARGE | RW]);
        self.poke(S2 + 0x1008, &[S2 + 0x2000 + RW, DATA | LARGE | RW]);
        self.poke(S2 + 0x2018, &[DATA | RW]);
    }

    /// Source 8 with these tables.
    fn second_level(&self) {
        self.tables();
        self.context(8, [S2 | 1, 0x501]);
    }

    fn read(&self, source: u32, iova: u64) -> Outcome {
        self.model.transact(source, None, iova, Access::Read)
    }

    fn write(&self, source: u32, iova: u64) -> Outcome {
        self.model.transact(source, None, iova, Access::Write)
    }

    /// The reason, the source and the address of the first fault that is pending, which is then
    /// cleared along with the overflow.
    fn fault(&self) -> Option<(u64, u64, u64)> {
        let status = self.bank.read32(FSTS);
        let at = 0x220 + 16 * (status as usize >> 8 & 0xff);
        let (low, high) = (self.bank.read64(at), self.bank.read64(at + 8));
        self.bank.write32(at + 12, 1 << 31);
        self.bank.write32(FSTS, 1);
        let pending = status & 2 != 0 && high >> 63 == 1;
        pending.then_some((high >> 32 & 0xff, high & 0xffff, low))
    }

    /// A read is refused for this reason.
    fn refuses(&self, source: u32, iova: u64, reason: u64) {
        assert_eq!(self.read(source, iova), Outcome::Faulted);
        let fault = self.fault().expect("a fault");
        assert_eq!(
            fault,
            (reason, u64::from(source), iova & !0xfff),
            "reason {:#x}",
            fault.0
        );
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
