//! A small machine: memory, a clock, and registers that answer, or do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use std::vec::Vec;

use core::ptr::NonNull;

use iommu_core::{BasicPlatform, Clock, DmaMemory, PhysAddr, RegisterBank};
use std::sync::Mutex;

/// Something the hardware could notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// A word was stored at this physical address.
    Store(u64, u64),
    /// This many bytes were cleaned.
    Clean(u64, usize),
    Barrier,
    Write32(usize, u32),
    Write64(usize, u64),
}

pub(crate) type Log = Arc<Mutex<Vec<Event>>>;

/// Where the first page lies in physical memory.
pub(crate) const BASE: u64 = 0x10_0000;
const PAGES: usize = 16;

#[repr(align(4096))]
struct Page([AtomicU64; 512]);

struct Shared {
    pages: Vec<Page>,
    next: AtomicUsize,
    live: AtomicUsize,
    budget: AtomicUsize,
    coherent: bool,
    log: Log,
}

/// Pages from [`BASE`] on, each handed out once.
#[derive(Clone)]
pub(crate) struct TestMemory(Arc<Shared>);

impl core::fmt::Debug for TestMemory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("TestMemory")
    }
}

impl TestMemory {
    pub(crate) fn new(coherent: bool, log: Log) -> Self {
        let page = || Page([const { AtomicU64::new(0) }; 512]);
        Self(Arc::new(Shared {
            pages: (0..PAGES).map(|_| page()).collect(),
            next: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
            budget: AtomicUsize::new(PAGES),
            coherent,
            log,
        }))
    }

    /// Lets that many more allocations succeed.
    pub(crate) fn limit(&self, budget: usize) {
        self.0.budget.store(budget, Ordering::Relaxed);
    }

    /// The blocks not given back.
    pub(crate) fn live(&self) -> usize {
        self.0.live.load(Ordering::Relaxed)
    }

    pub(crate) fn word(&self, addr: u64) -> u64 {
        let at = usize::try_from(addr - BASE).unwrap();
        self.0.pages[at / 4096].0[at % 4096 / 8].load(Ordering::Relaxed)
    }

    fn record(&self, event: Event) {
        self.0.log.lock().unwrap().push(event);
    }
}

// SAFETY: a page is handed out once and lives as long as any handle; the pages are contiguous and
// aligned in both kinds of address.
unsafe impl DmaMemory for TestMemory {
    fn allocate(&self, size: usize, align: usize) -> Option<PhysAddr> {
        assert_eq!((size, align), (4096, 4096), "every table is a page");
        let budget = &self.0.budget;
        budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .ok()?;
        let page = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.live.fetch_add(1, Ordering::Relaxed);
        (page < PAGES).then(|| PhysAddr(BASE + page as u64 * 4096))
    }

    unsafe fn free(&self, _: PhysAddr, _: usize, _: usize) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }

    fn pointer(&self, addr: PhysAddr) -> NonNull<u8> {
        let page = usize::try_from(addr.0 - BASE).unwrap() / 4096;
        assert_eq!(addr.0 % 4096, 0, "only whole blocks are asked for");
        NonNull::from(&self.0.pages[page].0).cast()
    }

    fn is_coherent(&self) -> bool {
        self.0.coherent
    }

    fn clean(&self, addr: PhysAddr, len: usize) {
        self.record(Event::Clean(addr.0, len));
    }

    fn write_barrier(&self) {
        self.record(Event::Barrier);
    }

    fn read_barrier(&self) {}

    fn store_word(&self, word: &AtomicU64, value: u64) {
        let first = core::ptr::from_ref(&self.0.pages[0]).addr();
        let offset = core::ptr::from_ref(word).addr() - first;
        word.store(value, Ordering::Relaxed);
        self.record(Event::Store(BASE + offset as u64, value));
    }
}

#[derive(Default)]
pub(crate) struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
    fn relax(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the hardware never does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stuck {
    Queue,
    QueueOff,
    TranslationOff,
    WriteBuffers,
    Root,
    Contexts,
    Translations,
    /// It answers, and says that it did nothing.
    Ignored,
    TranslationOn,
    Unprotect,
}

/// The registers of a unit.
#[derive(Clone)]
pub(crate) struct Registers {
    pub(crate) ver: u32,
    pub(crate) cap: u64,
    pub(crate) ecap: u64,
    pub(crate) gsts: u32,
    pub(crate) rtaddr: u64,
    pub(crate) ccmd: u64,
    pub(crate) iotlb: u64,
    pub(crate) fsts: u32,
    pub(crate) pmen: u32,
    pub(crate) iqt: u64,
    pub(crate) len: usize,
    pub(crate) stuck: Option<Stuck>,
}

impl Default for Registers {
    /// QEMU's unit without options, but with coherent table walks.
    fn default() -> Self {
        Self {
            ver: 0x10,
            cap: 0x00d2_008c_222f_0606,
            ecap: 0xf43,
            gsts: 0,
            rtaddr: 0,
            ccmd: 0,
            iotlb: 0,
            fsts: 0,
            pmen: 0,
            iqt: 0,
            len: 0x230,
            stuck: None,
        }
    }
}

impl Registers {
    fn does(&self, what: Stuck) -> bool {
        self.stuck != Some(what)
    }

    fn command(&mut self, gcmd: u32) {
        let on = gcmd & 1 << 31 != 0;
        let switch = if on {
            Stuck::TranslationOn
        } else {
            Stuck::TranslationOff
        };
        if self.does(switch) {
            self.gsts = self.gsts & !(1 << 31) | gcmd & 1 << 31;
        }
        if gcmd & 1 << 30 != 0 {
            self.gsts &= !(1 << 30);
            if self.does(Stuck::Root) {
                self.gsts |= 1 << 30;
            }
        }
        if gcmd & 1 << 27 != 0 && !self.does(Stuck::WriteBuffers) {
            self.gsts |= 1 << 27;
        }
        if gcmd & 1 << 26 == 0 && self.does(Stuck::QueueOff) {
            self.gsts &= !(1 << 26);
        }
        self.gsts = self.gsts & !(0b101 << 23) | gcmd & 0b101 << 23;
    }
}

/// Registers that tests look at and change behind the driver's back.
#[derive(Clone)]
pub(crate) struct TestBank {
    pub(crate) registers: Arc<Mutex<Registers>>,
    log: Log,
}

impl RegisterBank for TestBank {
    fn len(&self) -> usize {
        self.registers.lock().unwrap().len
    }

    fn read32(&self, offset: usize) -> u32 {
        let registers = self.registers.lock().unwrap();
        match offset {
            0x00 => registers.ver,
            0x1c => registers.gsts,
            0x34 => registers.fsts,
            0x64 => registers.pmen,
            _ => panic!("32 bits read at {offset:#x}"),
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        self.log.lock().unwrap().push(Event::Write32(offset, value));
        let registers = &mut *self.registers.lock().unwrap();
        match offset {
            0x18 => registers.command(value),
            0x64 if registers.does(Stuck::Unprotect) => registers.pmen = value & !1,
            0x64 => {}
            _ => panic!("32 bits written at {offset:#x}"),
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        let registers = self.registers.lock().unwrap();
        match offset {
            0x08 => registers.cap,
            0x10 => registers.ecap,
            0x20 => registers.rtaddr,
            0x28 => registers.ccmd,
            0x80 if registers.does(Stuck::Queue) => registers.iqt,
            0x80 => registers.iqt ^ 0x10,
            0x88 => registers.iqt,
            0xf8 => registers.iotlb,
            _ => panic!("64 bits read at {offset:#x}"),
        }
    }

    fn write64(&self, offset: usize, value: u64) {
        self.log.lock().unwrap().push(Event::Write64(offset, value));
        let registers = &mut *self.registers.lock().unwrap();
        match offset {
            0x20 => registers.rtaddr = value,
            0x28 if registers.does(Stuck::Contexts) => {
                registers.ccmd = value & !(1 << 63) | 1 << 59;
            }
            0x28 => registers.ccmd = value,
            0xf8 if !registers.does(Stuck::Ignored) => registers.iotlb = 0,
            0xf8 if registers.does(Stuck::Translations) => {
                registers.iotlb = value & !(1 << 63) | 1 << 57;
            }
            0xf8 => registers.iotlb = value,
            _ => panic!("64 bits written at {offset:#x}"),
        }
    }
}

pub(crate) type TestPlatform = BasicPlatform<TestBank, TestMemory, TestClock>;

/// A machine with one unit, as a test sees it.
pub(crate) struct Machine {
    pub(crate) bank: TestBank,
    pub(crate) memory: TestMemory,
    log: Log,
}

impl Machine {
    pub(crate) fn new(registers: Registers) -> Self {
        let log = Log::default();
        let coherent = registers.ecap & 1 != 0;
        Self {
            bank: TestBank {
                registers: Arc::new(Mutex::new(registers)),
                log: log.clone(),
            },
            memory: TestMemory::new(coherent, log.clone()),
            log,
        }
    }

    pub(crate) fn platform(&self) -> TestPlatform {
        BasicPlatform {
            bank: self.bank.clone(),
            memory: self.memory.clone(),
            clock: TestClock::default(),
        }
    }

    pub(crate) fn stick(&self, stuck: Option<Stuck>) {
        self.bank.registers.lock().unwrap().stuck = stuck;
    }

    /// What happened since this was last called.
    pub(crate) fn events(&self) -> Vec<Event> {
        core::mem::take(&mut *self.log.lock().unwrap())
    }

    /// The words of a source id's context entry, as hardware walks to it; `None` where the root
    /// entry is not present.
    pub(crate) fn entry(&self, source: u16) -> Option<(u64, u64)> {
        let root = self.bank.registers.lock().unwrap().rtaddr & !0xfff;
        let bus = self.memory.word(root + u64::from(source >> 8) * 16);
        let at = (bus & !0xfff) + u64::from(source & 0xff) * 16;
        (bus & 1 != 0).then(|| (self.memory.word(at), self.memory.word(at + 8)))
    }

    pub(crate) fn open(&self, source: u16) -> bool {
        match self.entry(source) {
            None => false,
            Some((low, _)) if low & 1 == 0 => false,
            Some(entry) => {
                assert_eq!(entry, (0x9, 0x102), "present, and not pass-through");
                true
            }
        }
    }
}
