//! A small machine: memory, a clock, and registers that answer, or do not. What it makes of entries
//! is not its business: it records stores and descriptors.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use std::vec::Vec;

use core::ptr::NonNull;

use iommu_core::{BasicPlatform, Clock, DmaMemory, PhysAddr, RegisterBank};

use super::registers::Registers;

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
    /// The hardware took this descriptor: its first two words.
    Descriptor(u64, u64),
    /// The hardware did what came before, and goes on.
    Fence,
    /// The hardware did what came before, and said so.
    Done,
}

pub(crate) type Log = Arc<Mutex<Vec<Event>>>;

/// Where the first page lies in physical memory.
pub(crate) const BASE: u64 = 0x10_0000;
const PAGES: usize = 64;

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

    fn at(&self, addr: u64) -> &AtomicU64 {
        let at = usize::try_from(addr - BASE).unwrap();
        &self.0.pages[at / 4096].0[at % 4096 / 8]
    }

    pub(crate) fn word(&self, addr: u64) -> u64 {
        self.at(addr).load(Ordering::Relaxed)
    }

    /// What hardware does: it writes the first half of a word.
    pub(crate) fn write32(&self, addr: u64, value: u32) {
        let word = self.at(addr);
        let other = word.load(Ordering::Relaxed) & !0xffff_ffff;
        word.store(other | u64::from(value), Ordering::Relaxed);
    }

    fn record(&self, event: Event) {
        self.0.log.lock().unwrap().push(event);
    }
}

// SAFETY: a page is handed out once and lives as long as any handle; the pages are contiguous and
// aligned in both kinds of address.
unsafe impl DmaMemory for TestMemory {
    fn allocate(&self, size: usize, align: usize) -> Option<PhysAddr> {
        assert!(align <= 4096, "no block is aligned to more than a page");
        let budget = &self.0.budget;
        budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .ok()?;
        let pages = size.div_ceil(4096);
        let page = self.0.next.fetch_add(pages, Ordering::Relaxed);
        self.0.live.fetch_add(1, Ordering::Relaxed);
        (page + pages <= PAGES).then(|| PhysAddr(BASE + page as u64 * 4096))
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

/// Registers that tests look at and change behind the driver's back.
#[derive(Clone)]
pub(crate) struct TestBank {
    pub(crate) registers: Arc<Mutex<Registers>>,
    memory: TestMemory,
    log: Log,
}

impl RegisterBank for TestBank {
    fn len(&self) -> usize {
        self.registers.lock().unwrap().len
    }

    fn read32(&self, offset: usize) -> u32 {
        self.registers.lock().unwrap().read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.log.lock().unwrap().push(Event::Write32(offset, value));
        let mut registers = self.registers.lock().unwrap();
        registers.write32(offset, value);
        registers.work(&self.memory, &self.log);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.registers.lock().unwrap().read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.log.lock().unwrap().push(Event::Write64(offset, value));
        let mut registers = self.registers.lock().unwrap();
        registers.write64(offset, value);
        registers.work(&self.memory, &self.log);
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
        let memory = TestMemory::new(coherent, log.clone());
        Self {
            bank: TestBank {
                registers: Arc::new(Mutex::new(registers)),
                memory: memory.clone(),
                log: log.clone(),
            },
            memory,
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

    /// Changes the registers behind the driver's back.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Registers) -> T) -> T {
        change(&mut self.bank.registers.lock().unwrap())
    }

    /// What happened since this was last called.
    pub(crate) fn events(&self) -> Vec<Event> {
        core::mem::take(&mut *self.log.lock().unwrap())
    }

    /// What happened to tables, and what the hardware was told, since this was last called: without
    /// the queue's own memory and registers, and without barriers.
    pub(crate) fn story(&self) -> Vec<Event> {
        let queue = self.with(|registers| registers.iqa & !0xfff);
        let told = |event: &Event| match event {
            Event::Store(at, _) | Event::Clean(at, _) => !(queue..queue + 0x2000).contains(at),
            Event::Barrier | Event::Write64(0x88, _) => false,
            _ => true,
        };
        self.events().into_iter().filter(told).collect()
    }

    /// The words of a source id's context entry, as hardware walks to it; `None` where the root
    /// entry is not present.
    pub(crate) fn entry(&self, source: u16) -> Option<(u64, u64)> {
        let root = self.with(|registers| registers.rtaddr) & !0xfff;
        let bus = self.memory.word(root + u64::from(source >> 8) * 16);
        let at = (bus & !0xfff) + u64::from(source & 0xff) * 16;
        (bus & 1 != 0).then(|| (self.memory.word(at), self.memory.word(at + 8)))
    }

    /// The words of the entry of a PASID, as hardware walks to it in scalable mode; `None` where
    /// something on the way is not present.
    pub(crate) fn pasid_entry(&self, source: u16, pasid: u64) -> Option<[u64; 3]> {
        let root = self.with(|registers| registers.rtaddr) & !0xfff;
        let (bus, devfn) = (u64::from(source >> 8), u64::from(source & 0xff));
        let contexts = self.present(root + bus * 16 + devfn / 128 * 8)?;
        let directory = self.present(contexts + devfn % 128 * 32)?;
        let table = self.present(directory + pasid / 64 * 8)?;
        let at = table + pasid % 64 * 64;
        Some([0, 8, 16].map(|word| self.memory.word(at + word)))
    }

    fn present(&self, at: u64) -> Option<u64> {
        let word = self.memory.word(at);
        (word & 1 != 0).then_some(word & !0xfff)
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
