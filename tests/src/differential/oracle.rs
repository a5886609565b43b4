//! What the architecture lets an access do.
//!
//! An SMMU model without anything in its caches tells what memory means. Where changes are not sure
//! to be seen, it is asked once for each subset of them.

use iommu_core::{PhysAddr, RegisterBank};
use mock_hw::MockMemory;
use mock_hw::smmuv3::{Access as Direction, ModelConfig, Outcome, SmmuModel};

use super::command::{Command, Need};
use super::encode::{EVENTQEN, RECINVSID, SMMUEN, reg};
use super::layout;
use super::side::Access;

/// What becomes of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expected {
    /// It reaches this address.
    Reaches(u64),
    /// It reaches something that no device must touch here.
    Elsewhere,
    /// It reaches nothing, and nobody is told.
    Nothing,
    /// It is refused with this event.
    Event([u64; 4]),
}

/// A change of memory that caches may hide.
#[derive(Debug)]
struct Pending {
    /// Address, old and new word.
    stores: Vec<(u64, u64, u64)>,
    need: Need,
}

/// Knows memory, and what of it caches may hide.
pub(super) struct Oracle {
    memory: MockMemory,
    config: ModelConfig,
    stream_table: (u64, u32),
    pending: Vec<Pending>,
}

/// More changes than this are never pending at once.
pub(super) const MOST_PENDING: usize = 4;

impl Oracle {
    /// Over the memory of the model's machine.
    pub(super) fn new(memory: MockMemory, config: &ModelConfig) -> Self {
        let config = ModelConfig {
            slow_acks: false,
            ..config.clone()
        };
        Self {
            memory,
            config,
            stream_table: (0, 0),
            pending: Vec::new(),
        }
    }

    /// Forgets all changes. The stream table is told by its base and its format.
    pub(super) fn start(&mut self, stream_table: (u64, u32)) {
        self.stream_table = stream_table;
        self.pending.clear();
    }

    pub(super) fn word(&self, at: u64) -> u64 {
        self.memory.read_word(PhysAddr(at)).unwrap_or(0)
    }

    /// How many changes may not be seen.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What the oldest change needs that may not be seen.
    pub(super) fn oldest_need(&self) -> Option<Need> {
        self.pending.first().map(|pending| pending.need)
    }

    /// Whether a word is part of a change that may not be seen.
    pub(super) fn is_pending(&self, at: u64) -> bool {
        let mut stores = self.pending.iter().flat_map(|pending| &pending.stores);
        stores.any(|(place, ..)| *place == at)
    }

    /// Notes a change that was made.
    pub(super) fn changed(&mut self, stores: Vec<(u64, u64, u64)>, need: Need) {
        self.pending.push(Pending { stores, need });
    }

    /// Notes commands that were waited for; how many changes are now sure to be seen.
    pub(super) fn waited_for(&mut self, commands: &[Command]) -> usize {
        let before = self.pending.len();
        self.pending.retain_mut(|pending| {
            for command in commands {
                match command.serve(pending.need) {
                    // Commands without CMD_SYNC between them have no order: what one leaves to
                    // do is for a later group.
                    Some(rest) if rest != pending.need => {
                        pending.need = rest;
                        break;
                    }
                    Some(_) => {}
                    None => return false,
                }
            }
            true
        });
        before - self.pending.len()
    }

    /// All that an access may do; the first is what it does where every change is seen.
    pub(super) fn allowed(&self, access: &Access) -> Vec<Expected> {
        let mut allowed = vec![self.now(access)];
        let count = self.pending.len();
        for hidden in 1..1_usize << count {
            let is_hidden = |i: usize| hidden >> i & 1 == 1;
            for pending in self.pending.iter().rev() {
                self.store(pending.stores.iter().rev().map(|(at, old, _)| (*at, *old)));
            }
            for (_, pending) in self
                .pending
                .iter()
                .enumerate()
                .filter(|(i, _)| !is_hidden(*i))
            {
                self.store(pending.stores.iter().map(|(at, _, new)| (*at, *new)));
            }
            let expected = self.now(access);
            if !allowed.contains(&expected) {
                allowed.push(expected);
            }
            for pending in &self.pending {
                self.store(pending.stores.iter().map(|(at, _, new)| (*at, *new)));
            }
        }
        allowed
    }

    fn store(&self, words: impl Iterator<Item = (u64, u64)>) {
        for (at, word) in words {
            let done = self.memory.write_word(PhysAddr(at), word);
            assert!(done.is_ok(), "a store to {at:#x}");
        }
    }

    /// What an access does by what memory says at this moment.
    fn now(&self, access: &Access) -> Expected {
        let model = SmmuModel::new(self.memory.clone(), self.config.clone());
        let bank = model.bank();
        bank.write32(reg::CR2, RECINVSID);
        bank.write64(reg::STRTAB_BASE, self.stream_table.0);
        bank.write32(reg::STRTAB_BASE_CFG, self.stream_table.1);
        bank.write64(reg::EVENTQ_BASE, layout::COLD_EVENTS);
        bank.write32(reg::CR0, SMMUEN | EVENTQEN);
        let direction = if access.write {
            Direction::Write
        } else {
            Direction::Read
        };
        let sid = layout::STREAMS[access.stream];
        match model.transact(sid, None, access.iova, direction) {
            Outcome::Translated(PhysAddr(to)) => {
                let data = layout::DATA..layout::DATA + layout::DATA_SIZE;
                if data.contains(&to) {
                    Expected::Reaches(to)
                } else if layout::KEEP_OUT.iter().any(|range| range.contains(&to)) {
                    Expected::Elsewhere
                } else {
                    Expected::Nothing
                }
            }
            _ if bank.read32(reg::EVENTQ_PROD) == 0 => Expected::Nothing,
            _ => Expected::Event([0, 8, 16, 24].map(|word| self.word(layout::COLD_EVENTS + word))),
        }
    }
}
