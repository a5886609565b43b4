//! Transactions that wait for software (3.12.2, 4.7.1, 4.7.2).

use std::collections::{BTreeMap, VecDeque};

use super::State;
use super::events::{Fault, Recorded, Transaction};
use super::translate::Stop;
use crate::device::Outcome;

/// More stalls than this at a time abort instead.
const MOST: usize = 256;

#[derive(Default)]
pub(super) struct Stalls {
    waiting: BTreeMap<u16, Transaction>,
    /// Records that the event queue had no room for. They are never dropped while their transaction
    /// waits (7.2.1).
    unrecorded: VecDeque<(u16, [u64; 4])>,
    /// What became of transactions that wait no more, until somebody asks.
    pub(super) done: BTreeMap<u16, Outcome>,
    next: u16,
}

impl Stalls {
    fn add(&mut self, t: &Transaction) -> Option<u16> {
        if self.waiting.len() >= MOST {
            return None;
        }
        while self.waiting.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let tag = self.next;
        self.next = tag.wrapping_add(1);
        self.done.remove(&tag);
        self.waiting.insert(tag, *t);
        Some(tag)
    }

    pub(super) fn terminate(&mut self, stream: u32) {
        let done = &mut self.done;
        self.waiting.retain(|tag, t| {
            let stays = t.stream != stream;
            if !stays {
                done.insert(*tag, Outcome::Aborted);
            }
            stays
        });
        let waiting = &self.waiting;
        self.unrecorded.retain(|(tag, _)| waiting.contains_key(tag));
    }

    pub(super) fn terminate_all(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.unrecorded.clear();
        self.done
            .extend(waiting.into_keys().map(|tag| (tag, Outcome::Aborted)));
    }
}

impl State {
    /// Makes a transaction wait and records that.
    pub(super) fn stall(&mut self, t: &Transaction, fault: &Fault) -> Outcome {
        let Some(tag) = self.stalls.add(t) else {
            return Outcome::Aborted;
        };
        let mut event = fault.record(t);
        event[1] |= 1 << 31 | u64::from(tag);
        self.stalls.unrecorded.push_back((tag, event));
        self.record_stalls();
        Outcome::Stalled(tag)
    }

    /// Records what could not be recorded before, as far as that is possible, in order.
    pub(super) fn record_stalls(&mut self) {
        while let Some((_, event)) = self.stalls.unrecorded.front() {
            if self.try_record(*event) != Recorded::Done {
                return;
            }
            self.stalls.unrecorded.pop_front();
        }
    }

    /// Executes CMD_RESUME; one that names no stalled transaction does nothing.
    pub(super) fn resume(&mut self, stream: u32, tag: u16, retry: bool) {
        if self
            .stalls
            .waiting
            .get(&tag)
            .is_none_or(|t| t.stream != stream)
        {
            return;
        }
        let Some(t) = self.stalls.waiting.remove(&tag) else {
            return;
        };
        self.stalls.unrecorded.retain(|(of, _)| *of != tag);
        let outcome = if retry {
            self.transact(t)
        } else {
            Outcome::Aborted
        };
        self.stalls.done.insert(tag, outcome);
    }

    /// What becomes of a transaction, with its record.
    pub(super) fn refuse(&mut self, t: &Transaction, stop: Stop) -> Outcome {
        match stop {
            Stop::Silent => Outcome::Aborted,
            Stop::Record(fault) => {
                self.record(fault.record(t));
                Outcome::Faulted
            }
            Stop::Stall(fault) => self.stall(t, &fault),
        }
    }
}
