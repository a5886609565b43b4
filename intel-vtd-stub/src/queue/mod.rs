//! The invalidation queue (6.5.2): how the hardware is told to forget what it has cached.
//!
//! Positions count descriptors since the queue was made and never wrap. What a caller asks for goes
//! into the queue with a wait descriptor of its own behind it, under one hold of the lock; the
//! hardware writes a number to a word of that descriptor's own when all before it is done. The lock
//! is never held while waiting: a waiter looks, lets go, and looks again.
//!
//! A translation that is forgotten before the entry that led to it may come back by way of that. The
//! architecture keeps context entries, PASID entries and translations in this order within a queue
//! (6.5.2.12), and callers say so once more by a [fence](Queue::fence), which costs a descriptor and
//! no wait.

mod recovery;

use core::sync::atomic::{AtomicU64, Ordering};

use iommu_core::{Culprit, DmaBlock, DmaMemory, Error, ErrorKind, PhysAddr, Platform, RawLock};
use iommu_core::{RegisterBank, Result};
use lock_api::Mutex;

use crate::spec::{self, Descriptor, Iqa};
use crate::unit::Unit;

const QUEUE: &str = "invalidation queue";
const PAGE: usize = 4096;

/// How often descriptors are put into the queue anew because a device did not answer others.
const ATTEMPTS: usize = 3;

pub(crate) struct Queue<M: DmaMemory, L: RawLock> {
    slots: DmaBlock<M>,
    /// A word for each slot, which the hardware alone writes: the number of the wait descriptor in
    /// that slot that was done last. One more for waits that nobody waits for.
    done: DmaBlock<M>,
    /// How many descriptors there is room for, a power of two. One slot stays free.
    capacity: u64,
    /// Words in a slot.
    width: usize,
    state: Mutex<L, State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// Nothing is translated, so there is nothing to invalidate.
    Closed,
    Running,
    /// Stopped in a way that nothing here can mend.
    Broken,
}

struct State {
    condition: Condition,
    /// Positions before this one hold, or held, descriptors.
    produced: u64,
    /// Positions before this one are known to have been fetched.
    consumed: u64,
    /// Descriptors at positions before this one may have come to nothing, unless that they were done
    /// was seen already.
    aborted: u64,
    /// The device that did not answer, where the hardware says which.
    silent: Culprit,
    /// The latest refused descriptors.
    refused: Option<Refused>,
}

/// Positions from `first` to `last` of which the hardware refused some.
struct Refused {
    first: u64,
    last: u64,
    error: Error,
}

/// Descriptors in the queue, and a wait behind them: positions from `first` to below `end`.
#[derive(Clone, Copy)]
struct Part {
    first: u64,
    end: u64,
}

impl Part {
    /// What the hardware writes when all of it is done: another number for each wait in a slot.
    #[expect(clippy::cast_possible_truncation, reason = "32 bits are written")]
    const fn number(self) -> u32 {
        self.end as u32
    }

    /// Where the wait is.
    const fn wait(self) -> u64 {
        self.end - 1
    }
}

enum Outcome {
    Done,
    Aborted,
    Closed,
}

impl<M: DmaMemory, L: RawLock> Queue<M, L> {
    /// A queue of about 2^`log2` descriptors, of 256 bits each if they are `wide`.
    pub(crate) fn new(memory: &M, log2: u8, wide: bool, output_bits: u8) -> Result<Self> {
        let width = if wide { 4 } else { 2 };
        let pages_log2 = log2.clamp(8, 15) - 8;
        let size = PAGE << pages_log2;
        let slots = DmaBlock::new(memory, size, size, QUEUE)?.below(output_bits.into())?;
        let count = size / (width * 8);
        let status = DmaBlock::new(
            memory,
            (count + 1) * 8,
            8,
            "the invalidation queue's status",
        )?;
        Ok(Self {
            slots,
            done: status.below(output_bits.into())?,
            capacity: count as u64,
            width,
            state: Mutex::new(State {
                condition: Condition::Closed,
                produced: 0,
                consumed: 0,
                aborted: 0,
                silent: Culprit::None,
                refused: None,
            }),
        })
    }

    pub(crate) fn address(&self) -> Iqa {
        #[expect(clippy::cast_possible_truncation, reason = "at most 7")]
        let log2 = (self.slots.size() / PAGE).ilog2() as u8;
        Iqa::new()
            .with_qs(log2)
            .with_dw(self.width == 4)
            .with_iqa(self.slots.addr().0 >> 12)
    }

    /// The hardware takes descriptors from the first slot on.
    pub(crate) fn open(&self) {
        self.state.lock().condition = Condition::Running;
    }

    /// From here on nothing is translated, and that is confirmed: descriptors succeed without
    /// reaching the hardware.
    pub(crate) fn close(&self) {
        self.state.lock().condition = Condition::Closed;
    }

    /// The memory stays allocated for good.
    pub(crate) fn leak(&self) {
        self.slots.leak();
        self.done.leak();
    }

    /// Submits `descriptors`, a wait behind them, and waits until that is done: the hardware then
    /// uses nothing that they invalidated. In parts, each with a wait, where they do not fit.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::IommuTimedOut`]: no end within the bound; names the descriptor it hangs at;
    /// - [`ErrorKind::DeviceTimedOut`]: a device did not answer an invalidation, whoever asked for
    ///   it, so often that these were never done;
    /// - [`ErrorKind::Hardware`]: the hardware refused one of them, cannot read the queue, or
    ///   reports a position that cannot be.
    pub(crate) fn run<P, I>(&self, unit: &Unit<P>, descriptors: I) -> Result
    where
        P: Platform<Memory = M, IrqLock = L>,
        I: IntoIterator<Item = Descriptor, IntoIter: Clone>,
    {
        let mut rest = descriptors.into_iter();
        let mut attempts = 0;
        loop {
            let mut next = rest.clone();
            let Some((part, complete)) = self.submit(unit, &mut next)? else {
                return Ok(());
            };
            match self.wait(unit, part)? {
                Outcome::Closed => return Ok(()),
                Outcome::Done if complete => return Ok(()),
                Outcome::Done => rest = next,
                Outcome::Aborted => {
                    attempts += 1;
                    if attempts == ATTEMPTS {
                        return Err(self.silence());
                    }
                }
            }
        }
    }

    /// Puts as many of `descriptors` into the queue as there is room for. Returns whether that was
    /// all; `None` where the queue is closed.
    fn submit<P>(
        &self,
        unit: &Unit<P>,
        descriptors: &mut impl Iterator<Item = Descriptor>,
    ) -> Result<Option<(Part, bool)>>
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let submitted = unit.poll(|| {
            let state = &mut *self.state.lock();
            match state.condition {
                Condition::Closed => return Some(Ok(None)),
                Condition::Broken => return Some(Err(broken())),
                Condition::Running => {}
            }
            if self.room(state) < 2
                && let Err(error) = self.refresh(unit, state)
            {
                return Some(Err(error));
            }
            (self.room(state) >= 2).then(|| Ok(Some(self.fill(unit, state, descriptors))))
        });
        submitted.unwrap_or_else(|| Err(self.stuck(unit)))
    }

    fn fill<P>(
        &self,
        unit: &Unit<P>,
        state: &mut State,
        descriptors: &mut impl Iterator<Item = Descriptor>,
    ) -> (Part, bool)
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let first = state.produced;
        let most = first + self.room(state) - 1;
        let mut end = first;
        let mut complete = false;
        while end < most {
            let Some(descriptor) = descriptors.next() else {
                complete = true;
                break;
            };
            self.put(end, descriptor);
            end += 1;
        }
        let part = Part {
            first,
            end: end + 1,
        };
        let slot = self.slot(part.wait());
        self.put(end, Descriptor::wait(self.status(slot), part.number()));
        state.produced = part.end;
        unit.publish();
        self.ring(unit, state);
        (part, complete)
    }

    /// Tells the hardware how far it may go.
    fn ring<P>(&self, unit: &Unit<P>, state: &State)
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let tail = self.slot(state.produced) * self.width * 8;
        unit.bank().write64(spec::IQT, tail as u64);
    }

    /// Waits until `part` is done with.
    fn wait<P>(&self, unit: &Unit<P>, part: Part) -> Result<Outcome>
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let seen = unit.poll(|| {
            let done = self.is_done(part);
            let state = &mut *self.state.lock();
            // A wait may still be done after a device did not answer; what came before it may not
            // be (6.5.2.11).
            if part.end <= state.aborted {
                return Some(Ok(Outcome::Aborted));
            }
            if done {
                state.consumed = state.consumed.max(part.end);
                return Some(state.result(part).map(|()| Outcome::Done));
            }
            match state.condition {
                Condition::Closed => return Some(Ok(Outcome::Closed)),
                Condition::Broken => return Some(Err(broken())),
                Condition::Running => {}
            }
            self.look_after(unit, state).err().map(Err)
        });
        seen.unwrap_or_else(|| Err(self.stuck(unit)))
    }

    fn is_done(&self, part: Part) -> bool {
        let slot = self.slot(part.wait());
        self.done.refresh(slot * 8, 8);
        let word: &AtomicU64 = &self.done.words()[slot];
        // The hardware writes the first four bytes of the eight.
        let bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        let done = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) == part.number();
        if done {
            self.done.memory().read_barrier();
        }
        done
    }

    /// Where the hardware says that the wait in a slot is done.
    fn status(&self, slot: usize) -> PhysAddr {
        PhysAddr(self.done.addr().0 + slot as u64 * 8)
    }

    /// Nothing behind it is begun before all that is in front of it is done.
    pub(crate) fn fence(&self) -> Descriptor {
        Descriptor::fence(self.nobodys_status(), 0)
    }

    fn nobodys_status(&self) -> PhysAddr {
        self.status(self.slot(self.capacity - 1) + 1)
    }

    /// How many slots are free, but for the one that has to be.
    fn room(&self, state: &State) -> u64 {
        self.capacity - 1 - (state.produced - state.consumed)
    }

    fn slot(&self, position: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "masked to 15 bits")]
        let slot = (position & (self.capacity - 1)) as usize;
        slot
    }

    fn put(&self, position: u64, descriptor: Descriptor) {
        let first = self.slot(position) * self.width;
        for (word, value) in descriptor.0.into_iter().take(self.width).enumerate() {
            self.slots.store(first + word, value);
        }
    }

    fn culprit(&self, position: u64) -> Culprit {
        let slot = self.slot(position);
        let descriptor = Descriptor([self.slots.load(slot * self.width), 0, 0, 0]);
        #[expect(clippy::cast_possible_truncation, reason = "at most 15 bits")]
        let index = slot as u32;
        Culprit::Command {
            queue: QUEUE,
            command: descriptor.name(),
            index,
        }
    }

    /// The hardware does not get on.
    fn stuck<P>(&self, unit: &Unit<P>) -> Error
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let state = &mut *self.state.lock();
        if let Err(error) = self.refresh(unit, state) {
            return error;
        }
        // What was fetched last may be what hangs.
        let at = if state.consumed < state.produced {
            state.consumed
        } else {
            state.produced.saturating_sub(1)
        };
        Error::new(
            ErrorKind::IommuTimedOut,
            "the hardware does not get past this descriptor",
        )
        .of(self.culprit(at))
    }

    fn silence(&self) -> Error {
        Error::new(
            ErrorKind::DeviceTimedOut,
            "a device's cache does not answer, and keeps other invalidations from being done",
        )
        .of(self.state.lock().silent.clone())
    }
}

impl State {
    /// What became of positions that are done with.
    fn result(&self, part: Part) -> Result {
        match &self.refused {
            Some(refused) if part.first <= refused.last && refused.first < part.end => {
                Err(refused.error.clone())
            }
            _ => Ok(()),
        }
    }
}

fn broken() -> Error {
    Error::new(
        ErrorKind::IommuTimedOut,
        "the invalidation queue has stopped for good",
    )
}
