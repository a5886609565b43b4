//! The event queue (3.5, 7.2): what the hardware reports.

use core::sync::atomic::{AtomicU64, Ordering};

use iommu_core::{Culprit, DmaBlock, DmaMemory, Error, ErrorKind, Platform, RawLock, Result};
use lock_api::Mutex;

use crate::hardware::Hardware;
use crate::spec::events::{Event, SIZE};
use crate::spec::registers::{QueueBase, offset};

/// Bit 31 of the producer index toggles when events were lost, and of the consumer index to say
/// that this was noticed (7.4).
const OVERFLOW: u32 = 1 << 31;

pub(crate) struct EventQueue<M: DmaMemory, L: RawLock> {
    entries: DmaBlock<M>,
    log2: u32,
    /// `SMMU_EVENTQ_CONS` as last written; `None` while the queue is not enabled.
    consumer: Mutex<L, Option<u32>>,
    overflows: AtomicU64,
}

impl<M: DmaMemory, L: RawLock> EventQueue<M, L> {
    /// A queue of 2^`log2` events (0 to 19), not enabled.
    pub(crate) fn new(memory: &M, log2: u8, output_bits: u32) -> Result<Self> {
        let size = SIZE << log2;
        let entries = DmaBlock::new(memory, size, size, "event queue")?.below(output_bits)?;
        let (consumer, overflows) = (Mutex::new(None), AtomicU64::new(0));
        Ok(Self {
            entries,
            log2: log2.into(),
            consumer,
            overflows,
        })
    }

    pub(crate) fn base(&self) -> QueueBase {
        #[expect(clippy::cast_possible_truncation, reason = "at most 19")]
        let log2 = self.log2 as u8;
        QueueBase::new()
            .with_log2size(log2)
            .with_addr((self.entries.addr().0 >> 5) & ((1 << 51) - 1))
            .with_allocate(true)
    }

    /// Lets events be read: the hardware writes them from index 0 on.
    pub(crate) fn open(&self) {
        *self.consumer.lock() = Some(0);
    }

    pub(crate) fn close(&self) {
        *self.consumer.lock() = None;
    }

    /// The memory stays allocated for good.
    pub(crate) fn leak(&self) {
        self.entries.leak();
    }

    /// How often the hardware has said that it had to drop events.
    pub(crate) fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }

    /// Drops all events that are in the queue.
    pub(crate) fn discard<P>(&self, hardware: &Hardware<P>)
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let mut consumer = self.consumer.lock();
        if consumer.is_some() {
            let prod = hardware.read32(offset::EVENTQ_PROD);
            hardware.write32(offset::EVENTQ_CONS, prod);
            *consumer = Some(prod);
            self.overflows.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes the oldest event out of the queue. Does not wait.
    pub(crate) fn next<P>(&self, hardware: &Hardware<P>) -> Result<Option<Event>>
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let mut consumer = self.consumer.lock();
        let Some(cons) = *consumer else {
            return Ok(None);
        };
        let prod = hardware.read32(offset::EVENTQ_PROD);
        let overflowed = (prod ^ cons) & OVERFLOW != 0;
        if overflowed {
            self.overflows.fetch_add(1, Ordering::Relaxed);
            log::warn!("the event queue overflowed: events are lost");
        }
        let mut acknowledge = |index: u32| {
            let cons = index | prod & OVERFLOW;
            hardware.write32(offset::EVENTQ_CONS, cons);
            *consumer = Some(cons);
        };
        let mask = (2 << self.log2) - 1;
        let (at, end) = (cons & mask, prod & !OVERFLOW);
        let waiting = end.wrapping_sub(at) & mask;
        if end > mask || waiting > 1 << self.log2 {
            // There is no telling which entries are real: start again at the producer.
            acknowledge(end & mask);
            return Err(Error::new(
                ErrorKind::Hardware,
                "the queue's producer is where it cannot be",
            )
            .of(Culprit::Register {
                name: "SMMU_EVENTQ_PROD",
                value: prod.into(),
            }));
        }
        if waiting == 0 {
            if overflowed {
                acknowledge(at);
            }
            return Ok(None);
        }
        self.entries.memory().read_barrier();
        let start = (at & (mask >> 1)) as usize * SIZE;
        self.entries.refresh(start, SIZE);
        let event = Event(core::array::from_fn(|i| self.entries.load(start / 8 + i)));
        // The slot is the hardware's again as soon as the index moves on.
        self.entries.memory().read_barrier();
        acknowledge(at.wrapping_add(1) & mask);
        Ok(Some(event))
    }
}
