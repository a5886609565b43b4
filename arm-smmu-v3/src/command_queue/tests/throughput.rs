//! What several callers get done in a while of simulated time.
//!
//! Each caller has a time of its own, which its accesses to registers and looks at the clock take.
//! Whoever's is the earliest goes on, so that everything happens in order and always the same.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use iommu_core::Iova;

use super::*;

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
    /// The time of each caller that is not done.
    callers: Vec<Option<u64>>,
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
        self.first.get_or_insert(now);
        self.last = self.last.max(now);
        while self.prod != prod {
            let addr = self.slots.0 + u64::from(self.prod % CAPACITY) * 16;
            if self.memory.read_word(PhysAddr(addr)).unwrap() == SYNC.0[0] {
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
        assert_eq!(offset, offset::CMDQ_CONS);
        self.step(READ, Times::reached)
    }
    fn write32(&self, offset: usize, value: u32) {
        assert_eq!(offset, offset::CMDQ_PROD);
        self.step(WRITE, |times, now| times.told(now, value));
    }
    fn read64(&self, _: usize) -> u64 {
        panic!("nobody reads 64 bits")
    }
    fn write64(&self, _: usize, _: u64) {
        panic!("nobody writes 64 bits")
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

/// What all operations take, where so many callers share them.
fn operate(callers: usize) -> Took {
    let memory = MockMemory::new(PhysAddr(0x8000_0000), 0x10_0000);
    let queue = CommandQueue::<_, SpinLock>::new(&memory, LOG2, 44).unwrap();
    queue.open();
    let simulation = Simulation(Arc::new((
        Mutex::new(Times {
            callers: std::vec![Some(0); callers],
            memory: memory.clone(),
            slots: queue.entries.addr(),
            prod: 0,
            cons: 0,
            done_at: VecDeque::new(),
            last: 0,
            first: None,
            syncs: 0,
        }),
        Condvar::new(),
    )));
    let platform = BasicPlatform {
        bank: simulation.clone(),
        memory,
        clock: simulation.clone(),
    };
    let hardware = Hardware::new(platform, Duration::from_millis(10));
    thread::scope(|scope| {
        for caller in 0..callers {
            let (queue, hardware, simulation) = (&queue, &hardware, &simulation);
            scope.spawn(move || {
                CALLER.set(caller);
                for page in 0..OPERATIONS / callers as u64 {
                    // What the caller does besides.
                    simulation.step(100, |_, _| ());
                    queue
                        .run(hardware, [Command::tlbi_va(1, Iova(page << 12))])
                        .unwrap();
                }
                let (times, changed) = &*simulation.0;
                times.lock().unwrap().callers[caller] = None;
                changed.notify_all();
            });
        }
    });
    let times = simulation.0.0.lock().unwrap();
    Took {
        time: times.last - times.first.unwrap(),
        syncs: times.syncs,
    }
}

#[test]
fn the_more_callers_the_more_is_done() {
    let [one, two, four, eight] = [1, 2, 4, 8].map(operate);
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
