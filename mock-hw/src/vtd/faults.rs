//! Fault records and the fault event (10.4.9 to 10.4.14).

use super::State;
use super::bits::{bit, page};
use super::reason::Reason;
use super::translate::Request;
use crate::device::Access;

/// Primary fault overflow.
pub(super) const PFO: u32 = 1 << 0;
/// Primary pending fault.
const PPF: u32 = 1 << 1;
/// Invalidation queue error.
pub(super) const IQE: u32 = 1 << 4;
/// Invalidation completion error.
pub(super) const ICE: u32 = 1 << 5;
/// Invalidation time-out error.
pub(super) const ITE: u32 = 1 << 6;
/// What software clears by writing ones.
const CLEARABLE: u32 = PFO | IQE | ICE | ITE;
/// `F` in the upper word of a record.
const FAULT: u64 = 1 << 63;
/// Interrupt mask, and interrupt pending, of an event.
pub(super) const MASKED: u32 = 1 << 31;
pub(super) const WAITING: u32 = 1 << 30;

/// An event that is told by a message: `xxCTL`, `xxDATA`, `xxADDR`, `xxUADDR`.
#[derive(Clone, Copy)]
pub(super) struct Event {
    pub(super) control: u32,
    pub(super) data: u32,
    pub(super) address: [u32; 2],
}

impl Default for Event {
    fn default() -> Self {
        Self {
            control: MASKED,
            data: 0,
            address: [0; 2],
        }
    }
}

impl Event {
    /// The message, if it may be sent; otherwise it waits.
    fn raise(&mut self) -> Option<(u64, u32)> {
        if self.control & MASKED != 0 {
            self.control |= WAITING;
            return None;
        }
        self.control &= !WAITING;
        let [low, high] = self.address.map(u64::from);
        Some((high << 32 | low, self.data))
    }
}

#[derive(Default)]
pub(super) struct Faults {
    /// The errors of FSTS that software clears.
    pub(super) errors: u32,
    /// The index of the first record that was pending when there was none before.
    first: usize,
    /// Where the next one goes.
    next: usize,
    records: Vec<[u64; 2]>,
    pub(super) fault_event: Event,
    pub(super) queue_event: Event,
    /// `ICS.IWC`: a wait descriptor asked for an interrupt.
    pub(super) wait_complete: bool,
    /// The messages that were sent, with their data.
    pub(super) messages: Vec<(u64, u32)>,
}

impl Faults {
    /// With this many records.
    pub(super) fn new(count: usize) -> Self {
        Self {
            records: vec![[0; 2]; count],
            ..Self::default()
        }
    }

    fn is_pending(&self) -> bool {
        self.records.iter().any(|record| record[1] & FAULT != 0)
    }

    pub(super) fn status(&self) -> u32 {
        let pending = if self.is_pending() { PPF } else { 0 };
        let first = u32::try_from(self.first & 0xff).unwrap_or(0);
        self.errors | pending | first << 8
    }

    fn raise_fault_event(&mut self) {
        let message = self.fault_event.raise();
        self.messages.extend(message);
    }

    /// One of the errors of the invalidation queue.
    pub(super) fn raise_error(&mut self, error: u32) {
        self.errors |= error;
        self.raise_fault_event();
    }

    /// A wait descriptor that asked for it is complete.
    pub(super) fn raise_wait_event(&mut self) {
        if !std::mem::replace(&mut self.wait_complete, true) {
            let message = self.queue_event.raise();
            self.messages.extend(message);
        }
    }

    /// Software writes `FSTS`.
    pub(super) fn clear(&mut self, value: u32) {
        self.errors &= !(value & CLEARABLE);
        self.settle();
    }

    /// Software writes the upper word of a record.
    pub(super) fn clear_record(&mut self, index: usize, value: u64) {
        if let Some(record) = self.records.get_mut(index)
            && value & FAULT != 0
        {
            record[1] &= !FAULT;
        }
        self.settle();
    }

    /// An interrupt that waits has no reason left where all was served.
    fn settle(&mut self) {
        if self.errors == 0 && !self.is_pending() {
            self.fault_event.control &= !WAITING;
        }
    }

    /// Software writes `FECTL`, or `IECTL`.
    pub(super) fn write_control(&mut self, queue: bool, value: u32) {
        let event = if queue {
            &mut self.queue_event
        } else {
            &mut self.fault_event
        };
        event.control = event.control & WAITING | value & MASKED;
        if event.control == WAITING {
            let message = event.raise();
            self.messages.extend(message);
        }
    }

    fn push(&mut self, record: [u64; 2], collapse: bool) {
        let same = |of: &[u64; 2]| bit(of[1], 63) && of[1] & 0xffff == record[1] & 0xffff;
        if self.errors & PFO != 0 || collapse && self.records.iter().any(same) {
            return;
        }
        let none = !self.is_pending();
        let len = self.records.len().max(1);
        let at = self.next % len;
        let Some(slot) = self.records.get_mut(at) else {
            return;
        };
        if slot[1] & FAULT != 0 {
            self.errors |= PFO;
            self.raise_fault_event();
            return;
        }
        *slot = record;
        self.next = (at + 1) % len;
        if none {
            self.first = at;
            self.raise_fault_event();
        }
    }
}

impl State {
    /// Records a fault of a request.
    pub(super) fn record(&mut self, r: &Request, Reason(reason): Reason) {
        let pasid = r.pasid.map_or(0, |pasid| u64::from(pasid) << 40 | 1 << 31);
        let read = match r.access {
            Access::Read => 1 << 62,
            Access::Write => 0,
        };
        let high = u64::from(r.source) | u64::from(reason) << 32 | pasid | read | FAULT;
        let collapse = self.config.collapse_faults;
        self.faults.push([page(r.iova), high], collapse);
    }

    pub(super) fn read_record(&self, offset: usize) -> u64 {
        let record = self.faults.records.get(offset / 16);
        record.map_or(0, |record| record[usize::from(offset & 8 != 0)])
    }
}
