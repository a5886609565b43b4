//! A device that does DMA after every store and every command, and what it saw.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommu_core::PhysAddr;
use mock_hw::smmuv3::SmmuModel;
use mock_hw::{DmaDevice, MockMemory, Outcome};

use super::Failure;

/// `CMD_SYNC` (4.7.3).
const SYNC: u64 = 0x46;
/// The bytes of a stream table entry.
const ENTRY: u64 = 64;

/// What became of one read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Seen {
    /// It brought this.
    Data([u8; 4]),
    /// It was refused, and nobody was told.
    Nothing,
    /// It was refused and reported, or it stalled.
    Fault,
}

/// What happened while somebody watched.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Record {
    /// For each round the words that were stored, a bit for each.
    pub(super) rounds: Vec<u8>,
    /// How many stores there were.
    pub(super) stores: usize,
    /// What the device saw, in any order.
    pub(super) seen: BTreeSet<Seen>,
    /// Whether a store begins another round.
    over: bool,
}

impl Record {
    /// A store of `count` words from number `first` on.
    fn store(&mut self, first: u64, count: usize, seen: Seen) {
        if std::mem::take(&mut self.over) {
            self.rounds.push(0);
        }
        if let Some(round) = self.rounds.last_mut() {
            *round |= ((1 << count) - 1) << first;
        }
        self.stores += 1;
        self.seen.insert(seen);
    }
}

/// Watches the entries of a device while it lives.
pub(super) struct Watch {
    model: SmmuModel,
    memory: MockMemory,
    record: Arc<Mutex<Record>>,
}

fn locked(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Of these streams, that read at `iova`: the stream whose entry was stored to after each
    /// store, all of them after each command.
    pub(super) fn new(
        model: &SmmuModel,
        memory: &MockMemory,
        streams: &[u32],
        iova: u64,
    ) -> Result<Self, Failure> {
        let device = |stream: &u32| {
            let entry = model
                .stream_entry(*stream)
                .ok_or("a stream without entry")?;
            Ok((entry.0, DmaDevice::new(model, *stream)))
        };
        let devices: Result<Arc<[_]>, Failure> = streams.iter().map(device).collect();
        let devices = devices?;
        let record = Arc::new(Mutex::new(Record {
            over: true,
            ..Record::default()
        }));
        let (all, log) = (devices.clone(), record.clone());
        memory.set_store_hook(Some(Arc::new(move |at: PhysAddr, words: &[u64]| {
            for (entry, device) in all.iter() {
                if (*entry..*entry + ENTRY).contains(&at.0) {
                    let seen = read(device, iova);
                    locked(&log).store((at.0 - entry) / 8, words.len(), seen);
                }
            }
        })));
        let log = record.clone();
        model.set_command_hook(Some(Arc::new(move |_: &SmmuModel, command: [u64; 2]| {
            for (_, device) in devices.iter() {
                let seen = read(device, iova);
                locked(&log).seen.insert(seen);
            }
            locked(&log).over |= command[0] & 0xff == SYNC;
        })));
        Ok(Self {
            model: model.clone(),
            memory: memory.clone(),
            record,
        })
    }

    /// Looks away, and tells what there was.
    pub(super) fn end(self) -> Record {
        self.look_away();
        locked(&self.record).clone()
    }

    fn look_away(&self) {
        self.memory.set_store_hook(None);
        self.model.set_command_hook(None);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.look_away();
    }
}

/// Reads four bytes.
pub(super) fn read(device: &DmaDevice, iova: u64) -> Seen {
    let mut bytes = [0; 4];
    match device.read(iova, &mut bytes) {
        Outcome::Translated(_) => Seen::Data(bytes),
        Outcome::Aborted => Seen::Nothing,
        Outcome::Faulted | Outcome::Stalled(_) => Seen::Fault,
    }
}
