//! Callers of the command queue and the hardware, in every order that loom finds:
//! `RUSTFLAGS="--cfg loom" cargo test --release -p arm-smmu-v3 --test loom`.
//!
//! Registers and commands in memory are relaxed atomics, so nothing but the driver's barriers and
//! its lock keeps them in order. The hardware is run by whoever waits, one command at a time.
#![cfg(loom)]

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arm_smmu_v3::internals::Queue;
use arm_smmu_v3::spec::commands::Command;
use arm_smmu_v3::spec::registers::offset;
use iommu_core::{Clock, DmaMemory, ErrorKind, Iova, PhysAddr, Platform, RegisterBank, SpinLock};
use lock_api::{GuardSend, RawMutex};
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use loom::thread;

use Ordering::Relaxed;

/// Where the queue is.
const QUEUE: PhysAddr = PhysAddr(0x1_0000);

const ILLEGAL: Command = Command([0xff, 0xff]);
const SYNC: Command = Command::sync();

fn command(n: u16) -> Command {
    Command::tlbi_va(n, Iova(u64::from(n) << 12))
}

/// What hardware and driver share.
#[derive(Clone)]
struct Smmu(Arc<Shared>);

struct Shared {
    prod: AtomicU32,
    cons: AtomicU32,
    gerror: AtomicU32,
    gerrorn: AtomicU32,
    capacity: u32,
    /// The queue's memory.
    slots: Vec<[AtomicU64; 2]>,
    taker: Mutex<Taker>,
    taken: Mutex<Vec<Command>>,
}

/// The hardware's own.
#[derive(Default)]
struct Taker {
    at: u32,
    reason: u32,
    failed: bool,
}

/// A register's value. There is one copy of it only, so nobody sees an old one, and writes are
/// swaps; that orders nothing else.
fn current(register: &AtomicU32) -> u32 {
    register.fetch_or(0, Relaxed)
}

impl Smmu {
    fn new(log2: u8) -> Self {
        let word = || AtomicU32::new(0);
        Self(Arc::new(Shared {
            prod: word(),
            cons: word(),
            gerror: word(),
            gerrorn: word(),
            capacity: 1 << log2,
            slots: (0..1 << log2).map(|_| [0, 0].map(AtomicU64::new)).collect(),
            taker: Mutex::default(),
            taken: Mutex::default(),
        }))
    }

    /// Takes one command, if there is one, and returns whether there was. Whoever waits lets the
    /// hardware do that; nobody waits for its turn at it.
    fn take(&self) -> bool {
        let Ok(mut taker) = self.0.taker.try_lock() else {
            return false;
        };
        let Taker { at, reason, failed } = &mut *taker;
        if *failed && current(&self.0.gerror) != current(&self.0.gerrorn) {
            return false;
        }
        // The register says why no longer than it has to.
        (*failed, *reason) = (false, 0);
        if current(&self.0.prod) == *at {
            return false;
        }
        fence(Ordering::Acquire);
        let slots = &self.0.slots;
        let slot = &slots[(*at % self.0.capacity) as usize];
        let command = Command([slot[0].load(Relaxed), slot[1].load(Relaxed)]);
        if command == ILLEGAL {
            (*reason, *failed) = (1 << 24, true);
            self.0.cons.swap(*at | *reason, Relaxed);
            fence(Ordering::Release);
            self.0.gerror.swap(!current(&self.0.gerrorn) & 1, Relaxed);
        } else {
            self.0
                .taken
                .lock()
                .expect("one thread at a time")
                .push(command);
            *at = (*at + 1) % (2 * self.0.capacity);
            fence(Ordering::Release);
            self.0.cons.swap(*at | *reason, Relaxed);
        }
        true
    }

    fn taken(&self) -> Vec<Command> {
        self.0.taken.lock().expect("one thread at a time").clone()
    }

    /// Whether the hardware has taken this command, and a `CMD_SYNC` after it.
    fn is_done(&self, command: Command) -> bool {
        let taken = self.taken();
        let after = taken.iter().skip_while(|other| **other != command);
        after.skip(1).any(|other| *other == SYNC)
    }
}

impl RegisterBank for Smmu {
    fn len(&self) -> usize {
        0x2_0000
    }
    fn read32(&self, offset: usize) -> u32 {
        match offset {
            offset::CMDQ_CONS => current(&self.0.cons),
            offset::GERROR => current(&self.0.gerror),
            offset::GERRORN => current(&self.0.gerrorn),
            _ => panic!("{offset:#x}"),
        }
    }
    fn write32(&self, offset: usize, value: u32) {
        let register = match offset {
            offset::CMDQ_PROD => &self.0.prod,
            offset::GERRORN => &self.0.gerrorn,
            _ => panic!("{offset:#x}"),
        };
        register.swap(value, Relaxed);
    }
    fn read64(&self, _: usize) -> u64 {
        panic!("nobody reads 64 bits")
    }
    fn write64(&self, _: usize, _: u64) {
        panic!("nobody writes 64 bits")
    }
}

impl Clock for Smmu {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn relax(&self) {
        if !self.take() {
            thread::yield_now();
        }
    }
}

impl fmt::Debug for Smmu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Smmu")
    }
}

// SAFETY: there is one block, the slots, zeroed and never freed; loom's atomics take the place of
// words.
unsafe impl DmaMemory for Smmu {
    fn allocate(&self, size: usize, _: usize) -> Option<PhysAddr> {
        assert_eq!(size, self.0.slots.len() * 16);
        Some(QUEUE)
    }
    unsafe fn free(&self, _: PhysAddr, _: usize, _: usize) {}
    fn pointer(&self, addr: PhysAddr) -> NonNull<u8> {
        assert_eq!(addr, QUEUE);
        NonNull::from(&*self.0.slots).cast()
    }
    fn is_coherent(&self) -> bool {
        true
    }
    fn clean(&self, _: PhysAddr, _: usize) {}
    fn write_barrier(&self) {
        fence(Ordering::Release);
    }
    fn read_barrier(&self) {
        fence(Ordering::Acquire);
    }
}

/// A lock made of what loom sees.
struct Lock(OnceLock<AtomicBool>);

impl Lock {
    fn taken(&self) -> &AtomicBool {
        self.0.get_or_init(|| AtomicBool::new(false))
    }
}

// SAFETY: whoever turns the flag from false to true has the lock until it turns it back.
unsafe impl RawMutex for Lock {
    const INIT: Self = Self(OnceLock::new());
    type GuardMarker = GuardSend;
    fn lock(&self) {
        while !self.try_lock() {
            thread::yield_now();
        }
    }
    fn try_lock(&self) -> bool {
        let taken = self.taken();
        taken
            .compare_exchange(false, true, Ordering::Acquire, Relaxed)
            .is_ok()
    }
    unsafe fn unlock(&self) {
        self.taken().store(false, Ordering::Release);
    }
}

impl Platform for Smmu {
    type Bank = Self;
    type Memory = Self;
    type Clock = Self;
    type BlockingLock = SpinLock;
    type IrqLock = Lock;
    fn bank(&self) -> &Self {
        self
    }
    fn memory(&self) -> &Self {
        self
    }
    fn clock(&self) -> &Self {
        self
    }
}

/// Tries two callers of a queue of 2^`log2` commands, once `prepare` is done with it; then looks
/// whether all is as it should be with `check`.
fn explore(
    log2: u8,
    prepare: fn(&Queue<Smmu>),
    callers: [fn(&Queue<Smmu>, &Smmu); 2],
    check: fn(&Smmu),
) {
    let mut model = loom::model::Builder::new();
    // All orders in which a thread is stopped four times at most, but where it waits anyway.
    model.preemption_bound = model.preemption_bound.or(Some(4));
    model.max_branches = 20_000;
    model.check(move || {
        let smmu = Smmu::new(log2);
        let queue = Queue::new(smmu.clone(), log2, Duration::from_secs(1)).expect("a queue");
        prepare(&queue);
        let queue = Arc::new(queue);
        let [one, other] = callers;
        let (its_queue, its_smmu) = (queue.clone(), smmu.clone());
        let thread = thread::spawn(move || other(&its_queue, &its_smmu));
        one(&queue, &smmu);
        thread.join().expect("it ended");
        check(&smmu);
    });
}

fn run<const N: u16>(queue: &Queue<Smmu>, smmu: &Smmu) {
    queue.run([command(N)]).expect("it works");
    assert!(smmu.is_done(command(N)), "{:?}", smmu.taken());
}

#[test]
fn whoever_returns_has_had_its_command_done() {
    explore(3, |_| (), [run::<1>, run::<2>], |_| ());
}

#[test]
fn a_queue_too_small_for_both_is_waited_for() {
    let all = |smmu: &Smmu| assert_eq!(smmu.taken().len(), 4);
    explore(1, |_| (), [run::<1>, run::<2>], all);
}

#[test]
fn a_refused_command_is_told_to_its_owner_alone() {
    let refused = |queue: &Queue<Smmu>, smmu: &Smmu| {
        let result = queue.run([ILLEGAL]);
        let Err(error) = result else {
            panic!("nobody was told of {:?}", smmu.taken());
        };
        assert_eq!(error.kind(), ErrorKind::Hardware, "{error}");
    };
    explore(3, |_| (), [refused, run::<2>], |_| ());
}

#[test]
fn a_refused_command_is_told_whoever_got_the_hardware_over_it() {
    let refused = |queue: &Queue<Smmu>, smmu: &Smmu| {
        let result = queue.run([ILLEGAL]);
        assert!(result.is_err(), "{:?}", smmu.taken());
    };
    let interrupt = |queue: &Queue<Smmu>, smmu: &Smmu| {
        smmu.take();
        queue.check();
        smmu.take();
    };
    explore(3, |_| (), [refused, interrupt], |_| ());
}

#[test]
fn batches_of_unknown_length_wrap_and_share_the_room() {
    fn run_two<const N: u16>(queue: &Queue<Smmu>, smmu: &Smmu) {
        let commands = [command(N), command(N + 1)];
        let result = queue.run(commands.into_iter().filter(|_| true));
        assert!(result.is_ok() && smmu.is_done(commands[1]), "{result:?}");
        assert!(smmu.is_done(commands[0]), "{:?}", smmu.taken());
    }
    explore(2, |_| (), [run_two::<1>, run_two::<3>], |_| ());
}

#[test]
fn a_sync_serves_two_who_came_while_two_were_on_their_way() {
    static FEWEST: AtomicUsize = AtomicUsize::new(usize::MAX);
    let post_two = |queue: &Queue<Smmu>| {
        queue.post([command(8)]);
        queue.post([command(9)]);
    };
    explore(3, post_two, [run::<1>, run::<2>], |smmu| {
        let taken = smmu.taken();
        let syncs = taken.iter().filter(|command| **command == SYNC).count();
        assert!((3..=4).contains(&syncs), "{taken:?}");
        FEWEST.fetch_min(syncs, Relaxed);
    });
    assert_eq!(FEWEST.load(Relaxed), 3, "in some order");
}
