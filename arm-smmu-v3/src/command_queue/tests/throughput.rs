//! What several callers get done in a while of simulated time: invalidations alone, and mappings of
//! one domain.
//!
//! Each caller has a time of its own, which its accesses to registers and looks at the clock take.
//! Whoever's is the earliest goes on, so that everything happens in order and always the same.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use iommu_core::{IommuOps, Iova, PagingConfig, Prot};
use mock_hw::smmuv3::{ModelBank, ModelConfig, SmmuModel};

use super::*;
use crate::{ArmSmmuV3, Config};

/// In nanoseconds: what a `CMD_SYNC` takes the hardware, which does one after the other.
const SYNC_TAKES: u64 = 1000;
/// A write of a register, a read, and anything else that takes time.
const WRITE: u64 = 50;
const READ: u64 = 150;
const ELSE: u64 = 10;

std::thread_local! {
    static CALLER: Cell<usize> = const { Cell::new(0) };
}

#[derive(Clone)]
struct Simulation(Arc<(Mutex<Times>, Condvar)>);

struct Times {
    /// The time of each caller that is not done. As long as there are none, nothing takes time.
    callers: Vec<Option<u64>>,
    /// A whole SMMU, where there is one.
    smmu: Option<ModelBank>,
    memory: MockMemory,
    slots: PhysAddr,
    prod: u32,
    cons: u32,
    /// When the hardware is done with each of the commands that it has been told of.
    done_at: VecDeque<u64>,
    last: u64,
    /// When the hardware was told of the first.
    first: Option<u64>,
    syncs: u64,
}

impl Times {
    /// Whether nobody else's time is earlier.
    fn is_first(&self, caller: usize) -> bool {
        let times = self.callers.iter().zip(0..);
        let running = times.filter_map(|(time, caller)| time.map(|time| (time, caller)));
        running.min().is_none_or(|(_, first)| first == caller)
    }

    fn told(&mut self, now: u64, prod: u32) {
        if let Some(smmu) = &self.smmu {
            smmu.write32(offset::CMDQ_PROD, prod);
        }
        self.first.get_or_insert(now);
        self.last = self.last.max(now);
        while self.prod != prod {
            let addr = self.slots.0 + u64::from(self.prod % CAPACITY) * 16;
            let is_sync = self.memory.read_word(PhysAddr(addr)).unwrap() == SYNC.0[0];
            if is_sync && !self.callers.is_empty() {
                self.last += SYNC_TAKES;
                self.syncs += 1;
            }
            self.done_at.push_back(self.last);
            self.prod = (self.prod + 1) % (2 * CAPACITY);
        }
    }

    fn reached(&mut self, now: u64) -> u32 {
        while self.done_at.pop_front_if(|done| *done <= now).is_some() {
            self.cons = (self.cons + 1) % (2 * CAPACITY);
        }
        self.cons
    }
}

const LOG2: u8 = 6;
const CAPACITY: u32 = 1 << LOG2;

impl Simulation {
    /// Does something that takes this caller so long.
    fn step<T>(&self, takes: u64, then: impl FnOnce(&mut Times, u64) -> T) -> T {
        let (times, changed) = &*self.0;
        let caller = CALLER.get();
        let mut times = times.lock().unwrap();
        if times.callers.is_empty() {
            let now = times.last;
            return then(&mut times, now);
        }
        let now = times.callers[caller].unwrap() + takes;
        times.callers[caller] = Some(now);
        changed.notify_all();
        let mut times = changed
            .wait_while(times, |times| !times.is_first(caller))
            .unwrap();
        then(&mut times, now)
    }
}

impl RegisterBank for Simulation {
    fn len(&self) -> usize {
        0x2_0000
    }
    fn read32(&self, offset: usize) -> u32 {
        match offset {
            offset::CMDQ_CONS => self.step(READ, Times::reached),
            _ => self.smmu().read32(offset),
        }
    }
    fn write32(&self, offset: usize, value: u32) {
        if offset == offset::CMDQ_PROD {
            self.step(WRITE, |times, now| times.told(now, value));
        } else {
            self.smmu().write32(offset, value);
        }
    }
    fn read64(&self, offset: usize) -> u64 {
        self.smmu().read64(offset)
    }
    fn write64(&self, offset: usize, value: u64) {
        if offset == offset::CMDQ_BASE {
            self.0.0.lock().unwrap().slots = PhysAddr(value & 0x00ff_ffff_ffff_ffe0);
        }
        self.smmu().write64(offset, value);
    }
}

impl Clock for Simulation {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.step(ELSE, |_, now| now))
    }
    fn relax(&self) {
        self.step(ELSE, |_, _| ());
    }
}

const OPERATIONS: u64 = 400;

#[derive(Clone, Copy, Debug)]
struct Took {
    /// In nanoseconds.
    time: u64,
    syncs: u64,
}

impl Simulation {
    fn new(memory: &MockMemory, smmu: Option<ModelBank>, slots: PhysAddr) -> Self {
        let times = Times {
            callers: Vec::new(),
            smmu,
            memory: memory.clone(),
            slots,
            prod: 0,
            cons: 0,
            done_at: VecDeque::new(),
            last: 0,
            first: None,
            syncs: 0,
        };
        Self(Arc::new((Mutex::new(times), Condvar::new())))
    }

    fn smmu(&self) -> ModelBank {
        let times = self.0.0.lock().unwrap();
        times.smmu.clone().expect("there is a queue alone")
    }

    /// What all operations take, where so many callers share them: each calls `operate` again and
    /// again, with numbers of its own.
    fn operate(&self, callers: usize, operate: impl Fn(u64) + Sync) -> Took {
        {
            let mut times = self.0.0.lock().unwrap();
            times.callers = std::vec![Some(0); callers];
            (times.last, times.first) = (0, None);
        }
        thread::scope(|scope| {
            for caller in 0..callers {
                let operate = &operate;
                scope.spawn(move || {
                    CALLER.set(caller);
                    let each = OPERATIONS / callers as u64;
                    for number in 0..each {
                        // What the caller does besides.
                        self.step(100, |_, _| ());
                        operate(caller as u64 * each + number);
                    }
                    let (times, changed) = &*self.0;
                    times.lock().unwrap().callers[caller] = None;
                    changed.notify_all();
                });
            }
        });
        let mut times = self.0.0.lock().unwrap();
        times.callers.clear();
        Took {
            time: times.last - times.first.unwrap(),
            syncs: times.syncs,
        }
    }
}

/// What invalidations take.
fn invalidate(callers: usize) -> Took {
    let memory = MockMemory::new(PhysAddr(0x8000_0000), 0x10_0000);
    let queue = CommandQueue::<_, SpinLock>::new(&memory, LOG2, 44).unwrap();
    queue.open();
    let simulation = Simulation::new(&memory, None, queue.entries.addr());
    let platform = BasicPlatform {
        bank: simulation.clone(),
        memory,
        clock: simulation.clone(),
    };
    let hardware = Hardware::new(platform, Duration::from_millis(10));
    simulation.operate(callers, |page| {
        let command = Command::tlbi_va(1, Iova(page << 12));
        queue.run(&hardware, [command]).unwrap();
    })
}

/// What mapping pages of one domain and unmapping them takes, through a whole driver.
fn map_and_unmap(callers: usize) -> Took {
    let memory = MockMemory::new(PhysAddr(0x8000_0000), 0x100_0000);
    let model = SmmuModel::new(memory.clone(), ModelConfig::default());
    let simulation = Simulation::new(&memory, Some(model.bank()), PhysAddr(0));
    let pages = memory.clone();
    let platform = BasicPlatform {
        bank: simulation.clone(),
        memory,
        clock: simulation.clone(),
    };
    let config = Config {
        command_queue_log2: LOG2,
        ..Config::default()
    };
    let smmu = ArmSmmuV3::probe(platform, config).unwrap();
    let domain = smmu.paging_domain(&PagingConfig::default()).unwrap();
    simulation.operate(callers, |page| {
        let iova = Iova(page << 12);
        let page = DmaBlock::new(&pages, 4096, 4096, "a page").unwrap();
        domain
            .map_block(iova, page, Prot::READ)
            .unwrap()
            .unmap()
            .unwrap();
    })
}

#[test]
fn the_more_callers_the_more_is_done() {
    let [one, two, four, eight] = [1, 2, 4, 8].map(invalidate);
    assert_eq!((one.syncs, two.syncs), (OPERATIONS, OPERATIONS));
    // What two do besides waiting costs the hardware no time.
    assert_eq!(two.time, OPERATIONS * SYNC_TAKES);
    assert!(one.time * 4 >= two.time * 5, "{one:?}, {two:?}");
    // More than two share.
    for (few, many) in [(two, four), (four, eight)] {
        assert_eq!(many.time, many.syncs * SYNC_TAKES);
        assert!(few.time * 4 >= many.time * 5, "{few:?}, {many:?}");
    }
}

#[test]
fn two_who_map_and_unmap_in_one_domain_get_more_done_than_one() {
    let [one, two, four] = [1, 2, 4].map(map_and_unmap);
    assert!(one.time * 4 >= two.time * 5, "{one:?}, {two:?}");
    assert!(two.time * 5 >= four.time * 6, "{two:?}, {four:?}");
}
