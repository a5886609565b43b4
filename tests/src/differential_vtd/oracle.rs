//! What the architecture lets an access do.
//!
//! A model without anything in its caches tells what memory means. Where changes are not sure to be
//! seen, it is asked once for each subset of them.

use iommu_core::{PhysAddr, RegisterBank};
use mock_hw::vtd::{VtdConfig, VtdModel};
use mock_hw::{Access as Direction, MockMemory, Outcome};

use super::descriptor::{Descriptor, Need};
use super::encode::{PPF, SRTP, TE, reg};
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
    /// It is refused with this fault record.
    Fault([u64; 2]),
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
    config: VtdConfig,
    root: u64,
    /// Entries in which a walk sets flags.
    flags: Vec<u64>,
    pending: Vec<Pending>,
}

/// More changes than this are never pending at once.
pub(super) const MOST_PENDING: usize = 4;

impl Oracle {
    /// Over the memory of the model's machine.
    pub(super) fn new(memory: MockMemory, config: &VtdConfig) -> Self {
        let config = VtdConfig {
            ack_reads: 0,
            ..config.clone()
        };
        Self {
            memory,
            config,
            root: 0,
            flags: Vec::new(),
            pending: Vec::new(),
        }
    }

    /// Forgets all changes. `root` is what goes into `RTADDR`, `flags` where first-level entries are.
    pub(super) fn start(&mut self, root: u64, flags: Vec<u64>) {
        self.root = root;
        self.flags = flags;
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

    /// Notes a descriptor that was waited for; how many changes are now sure to be seen.
    pub(super) fn waited_for(&mut self, descriptor: Descriptor) -> usize {
        let before = self.pending.len();
        self.pending
            .retain_mut(|pending| match descriptor.serve(pending.need) {
                Some(rest) => {
                    pending.need = rest;
                    true
                }
                None => false,
            });
        before - self.pending.len()
    }

    /// All that an access may do; the first is what it does where every change is seen.
    pub(super) fn allowed(&self, access: &Access) -> Vec<Expected> {
        let mut allowed = vec![self.now(access)];
        let count = self.pending.len();
        for hidden in 1..1_usize << count {
            for pending in self.pending.iter().rev() {
                self.store(pending.stores.iter().rev().map(|(at, old, _)| (*at, *old)));
            }
            for (number, pending) in self.pending.iter().enumerate() {
                if hidden >> number & 1 == 0 {
                    self.store(pending.stores.iter().map(|(at, _, new)| (*at, *new)));
                }
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

    /// What an access does by what memory says at this moment. Leaves no flags behind.
    fn now(&self, access: &Access) -> Expected {
        let flags: Vec<_> = self.flags.iter().map(|at| (*at, self.word(*at))).collect();
        let expected = self.ask(access);
        self.store(flags.into_iter().filter(|(at, old)| self.word(*at) != *old));
        expected
    }

    fn ask(&self, access: &Access) -> Expected {
        let model = VtdModel::new(self.memory.clone(), self.config.clone());
        let bank = model.bank();
        bank.write64(reg::RTADDR, self.root);
        bank.write32(reg::GCMD, SRTP);
        bank.write32(reg::GCMD, TE);
        let direction = match access.write {
            true => Direction::Write,
            false => Direction::Read,
        };
        let source = u32::from(layout::SOURCES[access.source]);
        match model.transact(source, None, access.iova, direction) {
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
            _ if bank.read32(reg::FSTS) & PPF == 0 => Expected::Nothing,
            _ => Expected::Fault([reg::FAULT, reg::FAULT + 8].map(|offset| bank.read64(offset))),
        }
    }
}
