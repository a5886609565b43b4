//! Callers that meet in a queue of four, on hardware that does not see caches.

use core::mem;
use core::ops::RangeInclusive;
use std::boxed::Box;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use std::vec::Vec;

use iommu_core::{BasicPlatform, Clock, Culprit, ErrorKind, PhysAddr, RegisterBank, SpinLock};
use mock_hw::MockMemory;

use super::*;

/// What happens after somebody has looked in vain.
type Turn = Box<dyn FnOnce() + Send>;

mod producers;
mod throughput;

/// Hardware that does nothing but take commands from its queue, when it is told to.
#[derive(Clone)]
struct Smmu(Arc<Mutex<Registers>>);

struct Registers {
    memory: MockMemory,
    slots: PhysAddr,
    /// How many there are.
    capacity: u32,
    prod: u32,
    cons: u32,
    reason: u32,
    gerror: u32,
    gerrorn: u32,
    taken: Vec<Command>,
    turns: VecDeque<Turn>,
    /// What happens just before the next access to a register.
    before: Option<(usize, Turn)>,
    /// A device does not answer the next `CMD_ATC_INV`, which fails the `CMD_SYNC` behind it.
    silent_device: bool,
    /// Takes commands as soon as it is told of them, or never.
    eager: bool,
    dead: bool,
    time: Duration,
}

impl Registers {
    fn error_is_active(&self) -> bool {
        self.gerror != self.gerrorn
    }

    fn slot(&self, index: u32) -> Command {
        let at = self.slots.0 + u64::from(index % self.capacity) * 16;
        Command([at, at + 8].map(|at| self.memory.read_word(PhysAddr(at)).unwrap()))
    }

    /// Takes commands until there are none, or one is illegal.
    fn take(&mut self) {
        while !self.dead && self.prod != self.cons && !self.error_is_active() {
            let command = self.slot(self.cons);
            let fails = self.silent_device
                && command == SYNC
                && self.taken.last().is_some_and(|last| last.is_atc_inv());
            if command == ILLEGAL {
                (self.reason, self.gerror) = (1, self.gerror ^ 1);
            } else if fails {
                (self.reason, self.gerror) = (3, self.gerror ^ 1);
                self.silent_device = false;
            } else {
                self.taken.push(command);
                self.cons = (self.cons + 1) % (2 * self.capacity);
            }
        }
    }
}

impl Smmu {
    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.0.lock().unwrap()
    }

    /// The registers, after what was to happen before the one at `offset` is accessed.
    fn access(&self, offset: usize) -> MutexGuard<'_, Registers> {
        let mut registers = self.registers();
        if let Some((_, turn)) = registers.before.take_if(|(at, _)| *at == offset) {
            drop(registers);
            turn();
            registers = self.registers();
        }
        registers
    }
}

impl RegisterBank for Smmu {
    fn len(&self) -> usize {
        0x2_0000
    }
    fn read32(&self, offset: usize) -> u32 {
        let registers = self.access(offset);
        match offset {
            offset::CMDQ_CONS => registers.cons | registers.reason << 24,
            offset::GERROR => registers.gerror,
            offset::GERRORN => registers.gerrorn,
            _ => panic!("{offset:#x}"),
        }
    }
    fn write32(&self, offset: usize, value: u32) {
        let mut registers = self.access(offset);
        match offset {
            offset::CMDQ_PROD => {
                registers.prod = value;
                if registers.eager {
                    registers.take();
                }
            }
            offset::GERRORN => registers.gerrorn = value,
            _ => panic!("{offset:#x}"),
        }
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
        self.registers().time
    }
    /// One more turn; where none is planned, the hardware takes what it finds.
    fn relax(&self) {
        let mut registers = self.registers();
        registers.time += Duration::from_millis(1);
        let Some(turn) = registers.turns.pop_front() else {
            return registers.take();
        };
        drop(registers);
        turn();
    }
}

struct Lab {
    queue: CommandQueue<MockMemory, SpinLock>,
    hardware: Hardware<BasicPlatform<Smmu, MockMemory, Smmu>>,
    smmu: Smmu,
}

impl Lab {
    /// A queue of four commands.
    fn new() -> Arc<Self> {
        Self::with(2, Duration::from_millis(10))
    }

    fn with(log2: u8, timeout: Duration) -> Arc<Self> {
        let memory = MockMemory::new(PhysAddr(0x8000_0000), 0x10_0000);
        memory.set_coherent(false);
        let queue = CommandQueue::new(&memory, log2, 44).unwrap();
        queue.open();
        let smmu = Smmu(Arc::new(Mutex::new(Registers {
            memory: memory.clone(),
            slots: queue.entries.addr(),
            capacity: 1 << log2,
            prod: 0,
            cons: 0,
            reason: 0,
            gerror: 0,
            gerrorn: 0,
            taken: Vec::new(),
            turns: VecDeque::new(),
            before: None,
            silent_device: false,
            eager: false,
            dead: false,
            time: Duration::ZERO,
        })));
        let (bank, clock) = (smmu.clone(), smmu.clone());
        let platform = BasicPlatform {
            bank,
            memory,
            clock,
        };
        let hardware = Hardware::new(platform, timeout);
        Arc::new(Self {
            queue,
            hardware,
            smmu,
        })
    }

    fn run(&self, commands: impl IntoIterator<Item = Command>) -> Result {
        self.queue.run(&self.hardware, commands)
    }

    fn taken(&self) -> Vec<Command> {
        mem::take(&mut self.smmu.registers().taken)
    }
}

const ILLEGAL: Command = Command([0xff, 0]);
const SYNC: Command = Command::sync();

fn commands(of: u16, count: u64) -> impl Iterator<Item = Command> + Clone {
    (0..count).map(move |n| Command::tlbi_va(of, iommu_core::Iova(n << 12)))
}

/// Runs `count` commands, and says so beforehand or not.
fn run(lab: &Lab, of: u16, count: u64, known: bool) -> Result {
    if known {
        lab.run(commands(of, count))
    } else {
        lab.run(commands(of, count).filter(|_| true))
    }
}

/// What an empty queue passes on of that.
fn in_parts(of: u16, count: u64) -> Vec<Command> {
    let commands: Vec<_> = commands(of, count).collect();
    let mut parts = Vec::new();
    for part in commands.chunks(3) {
        parts.extend(part.iter().copied().chain([SYNC]));
    }
    if parts.is_empty() {
        parts.push(SYNC);
    }
    parts
}

#[test]
fn the_hardware_finds_all_commands_in_order_each_part_with_a_sync() {
    for (count, eager, known) in cases(0..=9) {
        let lab = Lab::new();
        lab.smmu.registers().eager = eager;
        // From every place in the queue.
        for _ in 0..9 {
            run(&lab, 1, count, known).unwrap();
            assert_eq!(lab.taken(), in_parts(1, count), "known: {known}");
            // And whatever was before.
            run(&lab, 2, 1, true).unwrap();
            assert_eq!(lab.taken(), in_parts(2, 1));
        }
        let waited = lab.smmu.now() > Duration::ZERO;
        assert_eq!(
            waited, !eager,
            "what is done at the first look needs no wait"
        );
    }
}

#[test]
fn what_the_hardware_has_not_taken_is_never_overwritten() {
    for (count, meanwhile, known) in cases(0..=7) {
        for (before, given_up) in (0..4).flat_map(|before| (0..4).map(move |n| (before, n))) {
            let lab = Lab::new();
            run(&lab, 1, before, true).unwrap();
            lab.smmu.registers().dead = true;
            run(&lab, 2, given_up, true).unwrap_err();
            lab.smmu.registers().dead = false;
            if meanwhile {
                // Nobody has seen it do so.
                lab.smmu.registers().take();
            }
            run(&lab, 3, count, known).unwrap();
            let mut expected = in_parts(1, before);
            expected.extend(in_parts(2, given_up));
            expected.extend(in_parts(3, count));
            let mut taken = lab.taken();
            if !meanwhile || !known {
                // There may have been more parts.
                taken.retain(|command| *command != SYNC);
                expected.retain(|command| *command != SYNC);
            }
            assert_eq!(taken, expected, "{before} before, {given_up} given up");
        }
    }
}

/// Each count, with both values of two switches.
fn cases(counts: RangeInclusive<u64>) -> impl Iterator<Item = (u64, bool, bool)> {
    let switches = [(false, false), (false, true), (true, false), (true, true)];
    counts.flat_map(move |count| switches.map(|(one, other)| (count, one, other)))
}

#[test]
fn a_failure_between_the_parts_of_another_caller_is_not_that_callers() {
    let lab = Lab::new();
    let other = lab.clone();
    lab.smmu.registers().turns.push_back(Box::new(move || {
        other.smmu.registers().take();
        let error = other.run([ILLEGAL]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Hardware, "{error}");
    }));
    lab.run(commands(1, 4)).unwrap();
    let mut mine = commands(1, 4);
    let mut expected: Vec<_> = mine.by_ref().take(3).collect();
    // A command that was refused is replaced.
    expected.extend([SYNC, SYNC, SYNC]);
    expected.extend(mine.chain([SYNC]));
    assert_eq!(lab.taken(), expected);
}

#[test]
fn a_failure_in_any_part_is_told_and_the_rest_is_done() {
    for bad in 0..7 {
        let lab = Lab::new();
        let commands = (0..7).map(|n| {
            if n == bad {
                ILLEGAL
            } else {
                Command::tlbi_asid(n)
            }
        });
        let error = lab.run(commands).unwrap_err();
        let Culprit::Command { index, .. } = error.culprit() else {
            panic!("{error}");
        };
        // Three in a part, then its SYNC.
        assert_eq!(*index, u32::from(bad + bad / 3) & 3, "{error}");
        let done = (0..7).filter(|n| *n != bad).map(Command::tlbi_asid);
        let mut taken = lab.taken();
        taken.retain(|command| *command != SYNC);
        assert_eq!(taken, done.collect::<Vec<_>>());
    }
}

#[test]
fn a_full_queue_is_waited_for_within_the_bound() {
    let lab = Lab::new();
    lab.smmu.registers().dead = true;
    for _ in 0..2 {
        let before = lab.smmu.now();
        let error = lab.run(commands(1, 3)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::IommuTimedOut, "{error}");
        assert!(
            matches!(error.culprit(), Culprit::Command { index: 0, .. }),
            "{error}"
        );
        assert_eq!(lab.smmu.now() - before, Duration::from_millis(10));
    }
    lab.smmu.registers().dead = false;
    lab.run(commands(2, 1)).unwrap();
    let expected = commands(1, 3)
        .chain([SYNC])
        .chain(commands(2, 1))
        .chain([SYNC]);
    assert_eq!(lab.taken(), expected.collect::<Vec<_>>());
}

#[test]
fn what_is_posted_is_not_waited_for_but_by_who_asks_for_it() {
    let lab = Lab::new();
    let (start, queue) = (lab.smmu.now(), &lab.queue);
    assert!(queue.unsettled().is_none());
    // Three and a SYNC fill the queue; the others are not asked for.
    let mut asked = commands(1, 5);
    queue.post(&lab.hardware, asked.by_ref());
    assert_eq!(asked.count(), 2);
    queue.post(&lab.hardware, commands(2, 1));
    assert_eq!((lab.smmu.now(), lab.taken()), (start, Vec::new()));
    let unsettled = queue.unsettled().expect("commands that nobody saw");
    assert!(queue.catch_up(&lab.hardware, unsettled).unwrap());
    assert!(lab.smmu.now() > start && queue.unsettled().is_none());
    assert_eq!(lab.taken(), in_parts(1, 3));

    // Nothing is posted, and nothing is to be looked at.
    queue.post(&lab.hardware, commands(1, 0));
    assert!(queue.unsettled().is_none() && lab.smmu.registers().prod == 4);

    queue.post(&lab.hardware, commands(1, 1));
    lab.smmu.registers().dead = true;
    let unsettled = queue.unsettled().expect("commands that nobody saw");
    let error = queue.catch_up(&lab.hardware, unsettled).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IommuTimedOut);
    assert!(queue.unsettled().is_some());
}

#[test]
fn what_was_posted_and_refused_stays_in_doubt() {
    for seen_by_others in [false, true] {
        let lab = Lab::new();
        lab.queue.post(&lab.hardware, [ILLEGAL].into_iter());
        if seen_by_others {
            lab.run(commands(1, 1)).unwrap();
        }
        let unsettled = lab.queue.unsettled().expect("commands that nobody saw");
        assert!(!lab.queue.catch_up(&lab.hardware, unsettled).unwrap());
        let unsettled = lab.queue.unsettled().expect("a command that was refused");
        lab.queue.settled(unsettled);
        assert!(lab.queue.unsettled().is_none());
    }
}
