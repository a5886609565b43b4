//! When devices read, while a driver works.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use iommu_core::RegisterBank;

use super::watch::Watch;

const CMDQ_BASE: usize = 0x90;
const CMDQ_PROD: usize = 0x98;

/// When devices read.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Mode {
    /// When they are told to.
    #[default]
    Idle,
    /// After every store to an entry and every command, before the driver goes on.
    Stepping,
    /// All the time, on a thread of their own. The driver pauses after every store to an entry and
    /// every access to a register: until a read has ended, and then for another while, so that what
    /// it does next falls somewhere in the next read.
    Racing,
}

/// Decides when devices read.
#[derive(Debug)]
pub struct Pace {
    watch: Arc<Watch>,
    mode: Mutex<Mode>,
    /// How many accesses to registers are being made, or wait to be.
    accesses: AtomicUsize,
    /// How many pauses there were.
    pauses: AtomicUsize,
}

impl Pace {
    /// Nobody reads yet.
    #[must_use]
    pub fn new(watch: Arc<Watch>) -> Self {
        Self {
            watch,
            mode: Mutex::default(),
            accesses: AtomicUsize::new(0),
            pauses: AtomicUsize::new(0),
        }
    }

    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes when they read.
    pub fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// A store was made to an entry.
    pub fn stored(&self) {
        match self.mode() {
            Mode::Idle => {}
            Mode::Stepping => {
                self.watch.note_store();
                self.watch.look();
            }
            Mode::Racing => {
                self.watch.note_store();
                self.pause();
            }
        }
    }

    /// Lets devices read until nobody races any more.
    pub fn race(&self) {
        let (mut number, mut turn) = (0, 0);
        let end = Finish(self);
        while self.mode() == Mode::Racing {
            // No lock in the way is fair: the driver is let through.
            if self.accesses.load(Ordering::SeqCst) != 0 {
                turn += 1;
                relax(turn);
            } else {
                self.watch.read(number);
                number += 1;
            }
        }
        drop(end);
    }

    /// Waits until a read has ended, and then until somewhere in the next.
    fn pause(&self) {
        // A multiplicative hash: all shares of a read come up, in no order.
        let number = self.pauses.fetch_add(1, Ordering::SeqCst);
        let share = number.wrapping_mul(0x9e37_79b1) >> 7;
        let turns = self.wait_for_read(usize::MAX);
        self.wait_for_read(share % (2 * turns + 1));
    }

    /// Waits until a read has ended, nobody races any more, or for so many turns. Returns how many
    /// turns it waited.
    fn wait_for_read(&self, turns: usize) -> usize {
        let before = self.watch.reads();
        let is_over = || self.watch.reads() != before || self.mode() != Mode::Racing;
        (0..turns)
            .find(|turn| {
                relax(*turn);
                is_over()
            })
            .unwrap_or(turns)
    }
}

/// Waits for a moment. Mostly without giving the processor away: a read may take less time than
/// that does.
fn relax(turn: usize) {
    if turn % 64 == 63 {
        thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

/// Ends a race, also where somebody panics: nobody then waits for a read that never ends.
#[derive(Debug)]
pub struct Finish<'a>(pub &'a Pace);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.set(Mode::Idle);
    }
}

/// Registers of an SMMU whose driver is paced. Where it submits several commands while devices
/// step, the producer index moves over them one by one.
///
/// Clones are the same bank.
#[derive(Clone)]
pub struct PacedBank<B> {
    inner: B,
    pace: Arc<Pace>,
}

impl<B: RegisterBank> PacedBank<B> {
    /// In front of `inner`.
    #[must_use]
    pub fn new(inner: B, pace: Arc<Pace>) -> Self {
        Self { inner, pace }
    }

    /// The bank underneath.
    #[must_use]
    pub fn inner(&self) -> &B {
        &self.inner
    }

    fn access<T>(&self, access: impl FnOnce(&B) -> T) -> T {
        self.pace.accesses.fetch_add(1, Ordering::SeqCst);
        let result = access(&self.inner);
        self.pace.accesses.fetch_sub(1, Ordering::SeqCst);
        if self.pace.mode() == Mode::Racing {
            self.pace.pause();
        }
        result
    }

    fn submit(&self, prod: u32) {
        let log2 = self.inner.read64(CMDQ_BASE) & 0x1f;
        let wrap = (2 << log2) - 1;
        let mut at = self.inner.read32(CMDQ_PROD);
        while at != prod {
            at = (at + 1) & wrap;
            self.inner.write32(CMDQ_PROD, at);
            self.pace.watch.note_command();
            self.pace.watch.look();
        }
    }
}

impl<B: RegisterBank> RegisterBank for PacedBank<B> {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn read32(&self, offset: usize) -> u32 {
        self.access(|bank| bank.read32(offset))
    }

    fn write32(&self, offset: usize, value: u32) {
        let steps = self.pace.mode() == Mode::Stepping && !thread::panicking();
        if offset == CMDQ_PROD && steps {
            self.submit(value);
        } else {
            self.access(|bank| bank.write32(offset, value));
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        self.access(|bank| bank.read64(offset))
    }

    fn write64(&self, offset: usize, value: u64) {
        self.access(|bank| bank.write64(offset, value));
    }
}

impl<B: fmt::Debug> fmt::Debug for PacedBank<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PacedBank({:?})", self.inner)
    }
}
