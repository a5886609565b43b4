//! Time for a command and its `CMD_SYNC`, by one thread and by two that share the queue, on hardware
//! that is done with a `CMD_SYNC` at once or after a while.
//!
//! Rows are the time of an operation in all: two threads that take 1 µs each have a row of 500 ns.
//! They say something of two threads only where each has a core to itself: on a shared one, whoever
//! waits keeps the other from going on. What several callers get done by themselves is in simulated
//! time, in the tests of the queue.
#![expect(
    clippy::cast_possible_truncation,
    reason = "positions and times of a bench are small"
)]

#[expect(
    dead_code,
    reason = "the registers of a whole SMMU are for other benches"
)]
#[path = "common/platform.rs"]
mod platform;

use std::hint::black_box;
use std::iter;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use arm_smmu_v3::internals::Queue;
use arm_smmu_v3::spec::commands::Command;
use arm_smmu_v3::spec::registers::{SIZE, offset};
use criterion::{Criterion, criterion_group, criterion_main};
use iommu_core::{BasicPlatform, Iova, RegisterBank};
use platform::{Heap, Still};

const LOG2: u8 = 8;
const CAPACITY: usize = 1 << LOG2;
/// The bits of an index and its wrap bit.
const MASK: u64 = 2 * CAPACITY as u64 - 1;

type Platform = BasicPlatform<Smmu, Heap, Still>;

/// Hardware that takes the same time for every `CMD_SYNC`, one after the other, and none for other
/// commands.
#[derive(Clone)]
struct Smmu(Arc<Shared>);

struct Shared {
    start: Instant,
    /// What a `CMD_SYNC` takes, in nanoseconds.
    takes: u64,
    /// The commands, once there is a queue.
    slots: OnceLock<&'static [[AtomicU64; 2]]>,
    /// Positions that count up for good.
    prod: AtomicU64,
    cons: AtomicU64,
    /// When the command in each slot is done.
    done_at: Vec<AtomicU64>,
}

impl Smmu {
    fn new(takes: Duration) -> Self {
        Self(Arc::new(Shared {
            start: Instant::now(),
            takes: nanos(takes),
            slots: OnceLock::new(),
            prod: AtomicU64::new(0),
            cons: AtomicU64::new(0),
            done_at: iter::repeat_with(AtomicU64::default)
                .take(CAPACITY)
                .collect(),
        }))
    }

    fn done_at(&self, position: u64) -> &AtomicU64 {
        &self.0.done_at[position as usize % CAPACITY]
    }

    /// Called by one thread at a time: the one that has the queue's lock.
    fn told(&self, index: u32) {
        let Shared { prod, slots, .. } = &*self.0;
        let slots = slots.get().expect("a queue");
        let first = prod.load(Ordering::Relaxed);
        let end = first + (u64::from(index).wrapping_sub(first) & MASK);
        let mut done = match first.checked_sub(1) {
            Some(last) => self.done_at(last).load(Ordering::Relaxed),
            None => 0,
        };
        done = done.max(nanos(self.0.start.elapsed()));
        for position in first..end {
            let word = slots[position as usize % CAPACITY][0].load(Ordering::Relaxed);
            if word == Command::sync().0[0] {
                done += self.0.takes;
            }
            self.done_at(position).store(done, Ordering::Relaxed);
        }
        prod.store(end, Ordering::Release);
    }

    fn reached(&self) -> u32 {
        let now = nanos(self.0.start.elapsed());
        let end = self.0.prod.load(Ordering::Acquire);
        let from = self.0.cons.load(Ordering::Acquire);
        let is_done = |position: &u64| self.done_at(*position).load(Ordering::Relaxed) <= now;
        let reached = from + (from..end).take_while(is_done).count() as u64;
        if reached > from {
            self.0.cons.fetch_max(reached, Ordering::AcqRel);
        }
        (reached & MASK) as u32
    }
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

impl RegisterBank for Smmu {
    fn len(&self) -> usize {
        SIZE
    }
    fn read32(&self, at: usize) -> u32 {
        match at {
            offset::CMDQ_CONS => self.reached(),
            _ => 0,
        }
    }
    fn write32(&self, at: usize, value: u32) {
        if at == offset::CMDQ_PROD {
            self.told(value);
        }
    }
    fn read64(&self, _: usize) -> u64 {
        0
    }
    fn write64(&self, _: usize, _: u64) {}
}

/// A queue that stays for good, and its hardware.
fn queue(takes: Duration) -> (&'static Queue<Platform>, Smmu) {
    let smmu = Smmu::new(takes);
    let platform = BasicPlatform {
        bank: smmu.clone(),
        memory: Heap,
        clock: Still,
    };
    let queue = Queue::new(platform, LOG2, Duration::from_secs(1)).expect("a queue");
    let queue = Box::leak(Box::new(queue));
    let (slots, []) = queue.words().as_chunks() else {
        panic!("a queue of whole commands");
    };
    smmu.0.slots.set(slots).expect("one queue");
    (queue, smmu)
}

/// How long `calls` operations take in all, where as many threads make them at the same time.
fn share(queue: &Queue<Platform>, threads: u16, calls: u64) -> Duration {
    let ready = Barrier::new(threads.into());
    thread::scope(|scope| {
        let run = |asid| {
            let ready = &ready;
            move || {
                ready.wait();
                let start = Instant::now();
                for page in 0..calls / u64::from(threads) {
                    let command = Command::tlbi_va(asid, Iova(page << 12));
                    queue.run(iter::once(command)).expect("it works");
                }
                start.elapsed()
            }
        };
        let threads: Vec<_> = (1..=threads).map(|asid| scope.spawn(run(asid))).collect();
        let times = threads
            .into_iter()
            .map(|thread| thread.join().expect("it ran"));
        times.max().unwrap_or_default()
    })
}

/// Two commands stored, the doorbell, and one look.
fn floor(smmu: &Smmu, prod: &mut u32) -> u32 {
    let slots = smmu.0.slots.get().expect("a queue");
    let commands = [Command::tlbi_va(1, Iova(0)), Command::sync()];
    for (slot, Command(words)) in slots.iter().zip(black_box(commands)) {
        for (word, value) in slot.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
    }
    *prod = (*prod + 2) & MASK as u32;
    smmu.write32(offset::CMDQ_PROD, *prod);
    smmu.read32(offset::CMDQ_CONS)
}

fn rows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue");
    group.bench_function("floor", |bencher| {
        let (_, smmu) = queue(Duration::ZERO);
        let mut prod = 0;
        bencher.iter(|| floor(&smmu, &mut prod));
    });
    for (name, takes) in [("at_once", 0), ("after_300ns", 300), ("after_1us", 1000)] {
        for threads in [1, 2] {
            let (queue, _) = queue(Duration::from_nanos(takes));
            group.bench_function(format!("{name}/threads_{threads}"), |bencher| {
                bencher.iter_custom(|calls| share(queue, threads, calls));
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = rows
}
criterion_main!(benches);
