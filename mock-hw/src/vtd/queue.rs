//! The invalidation queue: its indexes, its consumer, and how it stops (6.5.2, 10.4.21 to 10.4.23).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, MutexGuard, TryLockError};

use super::bits::{bit, field, page};
use super::descriptors::{Done, QueueError};
use super::faults::{ICE, IQE, ITE};
use super::global::QIE;
use super::order::Order;
use super::{State, VtdModel};

/// What is called after each descriptor that was consumed, with its words: two, and two that are 0,
/// where descriptors have 128 bits.
pub type DescriptorHook = Arc<dyn Fn(&VtdModel, [u64; 4]) + Send + Sync>;

/// The errors that stop the queue.
const HALTING: u32 = IQE | ICE | ITE;

/// Decides by its type whether a descriptor is executed without effect.
pub(super) type Ignore = Box<dyn Fn(u64) -> bool + Send>;

#[derive(Default)]
pub(super) struct Queue {
    /// `IQH`, `IQT` and `IQA`.
    pub(super) head: u64,
    pub(super) tail: u64,
    pub(super) address: u64,
    /// `IQERCD`.
    pub(super) error: u64,
    /// The descriptors that were published, by the value of `IQH` that they have, as they were
    /// then.
    published: HashMap<u64, [u64; 4]>,
    /// The invalidations that were done before their turn, likewise.
    pub(super) early: BTreeSet<u64>,
    /// Where an error stopped it last.
    stopped_at: Option<u64>,
    /// An error was acknowledged, and `IQT` was not written since.
    held: bool,
    /// How often it has to be looked at until it consumes descriptors.
    lag: usize,
    pub(super) frozen: bool,
    consuming: bool,
    /// The devices that were asked to invalidate since the last wait descriptor, and those that do
    /// not answer.
    pub(super) devices: Vec<u16>,
    pub(super) dead_devices: HashSet<u16>,
    pub(super) drops_status: bool,
    pub(super) fail_in: Option<usize>,
    pub(super) ignore: Option<Ignore>,
    pub(super) log: Vec<[u64; 4]>,
    pub(super) waits: usize,
}

impl Queue {
    pub(super) fn ignores(&self, kind: u64) -> bool {
        self.ignore.as_ref().is_some_and(|ignore| ignore(kind))
    }

    /// Whether descriptors have 256 bits.
    fn is_wide(&self) -> bool {
        bit(self.address, 11)
    }

    fn descriptor_size(&self) -> u64 {
        if self.is_wide() { 32 } else { 16 }
    }

    fn size(&self) -> u64 {
        0x1000 << field(self.address, 2, 0)
    }
}

/// What the consumer did.
enum Step {
    /// There is nothing that it may consume.
    Idle,
    Consumed([u64; 4]),
    Failed,
}

impl State {
    pub(super) fn next_index(&self, at: u64) -> u64 {
        let next = at + self.queue.descriptor_size();
        if next >= self.queue.size() { 0 } else { next }
    }

    /// The descriptor at a value of `IQH`.
    pub(super) fn descriptor(&self, at: u64) -> Result<[u64; 4], QueueError> {
        let count = if self.queue.is_wide() { 4 } else { 2 };
        let at = page(self.queue.address).wrapping_add(at);
        self.read_entry(at, count).map_err(|_| QueueError::Fetch)
    }

    pub(super) fn write_tail(&mut self, value: u64) {
        let tail = value & 0x7_fff0;
        let old = std::mem::replace(&mut self.queue.tail, tail);
        if !self.global.is_on(QIE) {
            return;
        }
        self.queue.held = false;
        if !tail.is_multiple_of(self.queue.descriptor_size()) {
            self.queue.tail = tail & !0x10;
            return self.fail(QueueError::Misaligned);
        }
        self.queue.lag = self.config.lag;
        let size = self.queue.size();
        if tail >= size {
            return;
        }
        let from_head = |index: u64| index.wrapping_sub(self.queue.head) % size;
        if from_head(tail) < from_head(old) && self.faults.errors & HALTING == 0 {
            self.violation(format!("IQT was moved to {tail:#x}, past IQH or back"));
        }
        let mut at = old;
        while at != tail && at < self.queue.size() {
            if let Ok(descriptor) = self.descriptor(at) {
                self.queue.published.insert(at, descriptor);
            }
            at = self.next_index(at);
        }
    }

    pub(super) fn write_queue_address(&mut self, value: u64, lower: bool) {
        self.queue.address = value;
        if lower && bit(value, 11) && !self.config.has_scalable_mode() {
            self.fail(QueueError::Width);
        }
    }

    /// The queue was enabled or disabled.
    pub(super) fn queue_switched(&mut self, on: bool) {
        self.queue.published.clear();
        self.queue.early.clear();
        if !on {
            self.queue.head = 0;
            self.drain();
        }
    }

    /// Software writes `FSTS`: the queue goes on when its errors are acknowledged, or when `IQT` is
    /// written after that.
    pub(super) fn write_fsts(&mut self, value: u32) {
        let stopped = self.faults.errors & HALTING != 0;
        self.faults.clear(value);
        if stopped && self.faults.errors & HALTING == 0 {
            self.queue.error = 0;
            self.queue.held = match self.config.order {
                Order::Adverse => true,
                Order::InOrder => false,
                Order::Random => self.chance.one_in(2),
            };
        }
    }

    /// Software looks whether the queue has moved.
    pub(super) fn look_at_queue(&mut self) {
        self.queue.lag = self.queue.lag.saturating_sub(1);
    }

    fn fail(&mut self, error: QueueError) {
        self.queue.error = error as u64;
        self.queue.stopped_at = Some(self.queue.head);
        self.faults.raise_error(IQE);
    }

    fn step(&mut self) -> Step {
        let stopped = self.faults.errors & HALTING != 0;
        let queue = &self.queue;
        if stopped
            || !self.global.is_on(QIE)
            || queue.frozen
            || queue.held
            || queue.lag != 0
            || queue.head == queue.tail
        {
            return Step::Idle;
        }
        self.moment();
        match self.consume_one() {
            Ok(descriptor) => Step::Consumed(descriptor),
            Err(error) => {
                self.fail(error);
                Step::Failed
            }
        }
    }

    fn consume_one(&mut self) -> Result<[u64; 4], QueueError> {
        let mode = self.global.mode();
        let (tail, size) = (self.queue.tail, self.queue.descriptor_size());
        if tail >= self.queue.size() {
            return Err(QueueError::Tail);
        } else if !tail.is_multiple_of(size) {
            return Err(QueueError::Misaligned);
        } else if mode == 2 {
            return Err(QueueError::Mode);
        } else if mode == 1 && !self.queue.is_wide()
            || self.queue.is_wide() && !self.config.has_scalable_mode()
        {
            return Err(QueueError::Width);
        }
        let head = self.queue.head;
        let descriptor = self.descriptor(head)?;
        self.check_published(head, &descriptor);
        if let Some(left) = &mut self.queue.fail_in {
            if *left == 0 {
                self.queue.fail_in = None;
                return Err(QueueError::Type);
            }
            *left -= 1;
        }
        let done = self.execute(&descriptor)?;
        self.queue.published.remove(&head);
        self.queue.head = self.next_index(head);
        if done == Done::Yes {
            self.queue.log.push(descriptor);
        }
        Ok(descriptor)
    }

    /// Descriptors stay as they are from when IQT passes them until IQH does, but for the one that
    /// the queue stopped at.
    fn check_published(&mut self, at: u64, now: &[u64; 4]) {
        let then = self.queue.published.get(&at);
        let mended = self.queue.stopped_at.take() == Some(at);
        if then.is_some_and(|then| then != now) && !mended {
            self.violation(format!(
                "the descriptor at IQH {at:#x} was changed after IQT had passed it"
            ));
        }
    }
}

/// Lets others consume after the hook of this consumer panicked.
struct Consuming<'a>(&'a VtdModel);

impl Drop for Consuming<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        // Where the panic is the model's own, the lock is still held.
        match self.0.state.try_lock() {
            Ok(mut state) => state.queue.consuming = false,
            Err(TryLockError::Poisoned(state)) => state.into_inner().queue.consuming = false,
            Err(TryLockError::WouldBlock) => {}
        }
    }
}

impl VtdModel {
    /// Consumes descriptors as long as that is possible, and calls the hook after each, unlocked.
    /// There is one consumer at a time: what others make possible meanwhile, it does.
    pub(super) fn consume<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        if state.queue.consuming {
            return;
        }
        state.queue.consuming = true;
        let _consuming = Consuming(self);
        while !state.rests()
            && let Step::Consumed(descriptor) = state.step()
        {
            if let Some(hook) = state.hook.clone() {
                drop(state);
                hook(self, descriptor);
                state = self.state();
            }
        }
        state.queue.consuming = false;
    }
}
