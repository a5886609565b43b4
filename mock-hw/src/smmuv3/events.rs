//! The event queue and its records (7.2 to 7.4).

use super::State;
use super::bits::mask;
use super::registers::{CR0_EVENTQEN, GERROR_EVENTQ_ABT};
use crate::device::Access;
use iommu_core::PhysAddr;

/// A transaction, with all that its records tell about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transaction {
    pub(super) stream: u32,
    pub(super) substream: Option<u32>,
    pub(super) iova: u64,
    pub(super) access: Access,
    /// As the stream's entry says, once that is known.
    pub(super) privileged: bool,
}

impl Transaction {
    /// One of a device that says nothing of privilege.
    pub(super) fn new(stream: u32, substream: Option<u32>, iova: u64, access: Access) -> Self {
        Self {
            stream,
            substream,
            iova,
            access,
            privileged: false,
        }
    }
}

/// Which rule of translation a walk broke; the values are event numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Abort = 0x0b,
    Translation = 0x10,
    AddressSize = 0x11,
    AccessFlag = 0x12,
    Permission = 0x13,
}

/// What was being translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    ContextDescriptor = 0,
    Table = 1,
    Input = 2,
}

/// Why a transaction is refused with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    BadStreamId,
    SteFetch(u64),
    BadSte,
    BadAtsRequest,
    StreamDisabled,
    TranslatedForbidden,
    BadSubstreamId(u32),
    CdFetch(u64),
    BadCd,
    /// `address` is what could not be fetched for [`Kind::Abort`], the intermediate address for other
    /// kinds at stage 2, and nothing at stage 1.
    Walk {
        kind: Kind,
        class: Class,
        stage2: bool,
        address: u64,
    },
}

impl Fault {
    /// Whether the stream's or the context's A, R and S bits decide what becomes of it (5.5).
    pub(super) fn is_configurable(&self) -> bool {
        matches!(self, Self::Walk { kind, .. } if *kind != Kind::Abort)
    }

    /// The event record, as four little-endian words.
    pub(super) fn record(&self, of: &Transaction) -> [u64; 4] {
        let stream = u64::from(of.stream) << 32;
        let substream = of.substream.map_or(0, |s| u64::from(s) << 12 | 1 << 11);
        match *self {
            Self::BadStreamId => [stream | substream | 0x02, 0, 0, 0],
            Self::SteFetch(at) => [stream | substream | 0x03, 0, 0, at & mask(56) & !mask(3)],
            Self::BadSte => [stream | substream | 0x04, 0, 0, 0],
            // What was asked for, and for which address, is left out.
            Self::BadAtsRequest => [stream | substream | 0x05, 0, 0, 0],
            Self::StreamDisabled => [stream | 0x06, 0, 0, 0],
            Self::TranslatedForbidden => {
                let read = u64::from(of.access == Access::Read);
                [stream | substream | 0x07, read << 35, of.iova, 0]
            }
            Self::BadSubstreamId(id) => [stream | u64::from(id) << 12 | 0x08, 0, 0, 0],
            Self::CdFetch(at) => [stream | substream | 0x09, 0, 0, at & mask(56) & !mask(3)],
            Self::BadCd => [stream | substream | 0x0a, 0, 0, 0],
            Self::Walk {
                kind,
                class,
                stage2,
                address,
            } => {
                let read = of.access == Access::Read;
                let table_read = stage2 && kind == Kind::Permission && class == Class::Table;
                let details = u64::from(of.privileged) << 33
                    | u64::from(read) << 35
                    | u64::from(stage2) << 39
                    | (class as u64) << 40
                    | u64::from(table_read) << 44;
                let low = if kind == Kind::Abort { 3 } else { 12 };
                [
                    stream | substream | kind as u64,
                    details,
                    of.iova,
                    address & mask(56) & !mask(low),
                ]
            }
        }
    }
}

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Recorded {
    /// It is in the queue, or lost with a write that failed.
    Done,
    /// The queue is full.
    Full,
    /// The queue takes none.
    Closed,
}

impl State {
    /// Adds a record to the event queue, or drops it; where it is dropped since there is no room,
    /// that is an overflow (7.4).
    pub(super) fn record(&mut self, event: [u64; 4]) {
        let acknowledged = (self.regs.eventq_prod ^ self.regs.eventq_cons) & 1 << 31 == 0;
        if self.try_record(event) == Recorded::Full && acknowledged {
            self.regs.eventq_prod ^= 1 << 31;
        }
    }

    /// Adds a record to the event queue, if that is writable (7.2.1).
    pub(super) fn try_record(&mut self, event: [u64; 4]) -> Recorded {
        if self.regs.cr0ack & CR0_EVENTQEN == 0 || self.regs.is_active(GERROR_EVENTQ_ABT) {
            return Recorded::Closed;
        }
        let (base, bits) = self.event_queue();
        let (prod, cons) = (self.regs.eventq_prod, self.regs.eventq_cons);
        let index = u64::from(prod) & mask(bits + 1);
        if index ^ u64::from(cons) & mask(bits + 1) == 1 << bits {
            return Recorded::Full;
        }
        let slot = base.wrapping_add((index & mask(bits)) * 32);
        for (at, word) in (slot..).step_by(8).zip(event) {
            if self.memory.write_word(PhysAddr(at), word).is_err() {
                self.regs.activate(GERROR_EVENTQ_ABT);
                return Recorded::Done;
            }
        }
        let next = u32::try_from((index + 1) & mask(bits + 1)).unwrap_or(0);
        self.regs.eventq_prod = prod & 1 << 31 | next;
        Recorded::Done
    }
}
