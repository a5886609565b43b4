//! One of the two machines, driven by registers and raw words of memory.

use std::collections::BTreeMap;

use iommu_core::{DmaMemory, Iova, PhysAddr, RegisterBank};
use mock_hw::MockMemory;

use super::command::Command;
use super::encode::{CMDQEN, EVENTQEN, RECINVSID, SMMUEN, mask, reg};
use super::image::Image;
use super::layout;
use crate::machine::{Machine, Master};

/// What one access did, as far as a bystander sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    /// What a read returned: zeros where it was refused.
    pub(super) read: Vec<u8>,
    /// Words of the data that changed: where, and to what.
    pub(super) changed: Vec<(u64, u64)>,
    pub(super) events: Vec<[u64; 4]>,
}

/// An access that a device makes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Access {
    pub(super) stream: usize,
    pub(super) write: bool,
    pub(super) size: usize,
    pub(super) iova: u64,
    /// What is written, its lowest byte first.
    pub(super) value: u32,
}

/// A machine under test.
pub(super) struct Side<'a, B> {
    pub(super) name: &'static str,
    bank: B,
    memory: MockMemory,
    masters: Vec<&'a dyn Master>,
    prod: u32,
    cons: u32,
    /// Words of the structures that may not be zero.
    used: Vec<u64>,
    /// Words of the data that are not as at the start of a case.
    written: BTreeMap<u64, u64>,
}

impl<'a, B: RegisterBank> Side<'a, B> {
    /// Sets up the queues of a machine that is as after reset.
    pub(super) fn new<M: Machine<Bank = B>>(name: &'static str, machine: &'a M) -> Self {
        let memory = machine.memory();
        let base = memory.allocate(layout::ARENA, layout::ARENA);
        assert_eq!(
            base,
            Some(PhysAddr(layout::BASE)),
            "{name}: the arena's place"
        );
        let bank = machine.platform().bank;
        let side = Self {
            name,
            bank,
            memory,
            masters: machine.masters(),
            prod: 0,
            cons: 0,
            used: Vec::new(),
            written: BTreeMap::new(),
        };
        for at in (layout::DATA..layout::DATA + layout::DATA_SIZE).step_by(8) {
            side.write(at, layout::pattern(at));
        }
        let bank = &side.bank;
        bank.write32(reg::CR1, 0x0d75);
        bank.write32(reg::CR2, RECINVSID);
        let commands = layout::COMMANDS | u64::from(layout::COMMAND_BITS);
        bank.write64(reg::CMDQ_BASE, commands);
        bank.write32(reg::CMDQ_PROD, 0);
        bank.write32(reg::CMDQ_CONS, 0);
        let events = layout::EVENTS | u64::from(layout::EVENT_BITS);
        bank.write64(reg::EVENTQ_BASE, events);
        bank.write32(reg::EVENTQ_PROD, 0);
        bank.write32(reg::EVENTQ_CONS, 0);
        side
    }

    pub(super) fn write(&self, at: u64, word: u64) {
        let done = self.memory.write_word(PhysAddr(at), word);
        assert!(done.is_ok(), "{}: a store to {at:#x}", self.name);
    }

    fn read(&self, at: u64) -> u64 {
        let word = self.memory.read_word(PhysAddr(at));
        word.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    fn enable(&self, bits: u32) {
        self.bank.write32(reg::CR0, bits);
        let done = (0..8).any(|_| self.bank.read32(reg::CR0ACK) == bits);
        assert!(done, "{}: CR0 = {bits:#x} is not acknowledged", self.name);
    }

    /// Starts a case: memory as `image` says, nothing cached, no event.
    pub(super) fn start(&mut self, image: &Image) {
        self.enable(0);
        for at in self.used.drain(..).collect::<Vec<_>>() {
            self.write(at, 0);
        }
        for (at, _) in std::mem::take(&mut self.written) {
            self.write(at, layout::pattern(at));
        }
        for (&at, &word) in &image.words {
            self.write(at, word);
        }
        self.used.extend(image.words.keys());
        // Entries are changed whole.
        for entry in image.entries {
            self.used.extend((entry..).step_by(8).take(8));
        }
        self.bank.write64(reg::STRTAB_BASE, image.strtab_base);
        self.bank
            .write32(reg::STRTAB_BASE_CFG, image.strtab_base_cfg);
        self.enable(CMDQEN | EVENTQEN);
        self.commands(&[Command::CFGI_ALL, Command::Sync]);
        self.commands(&[Command::TlbiNsnhAll, Command::Sync]);
        self.events();
        self.enable(CMDQEN | EVENTQEN | SMMUEN);
    }

    /// Sends commands and finds them consumed.
    pub(super) fn commands(&mut self, commands: &[Command]) {
        for command in commands {
            self.push(command.encode());
        }
        self.bank.write32(reg::CMDQ_PROD, self.prod);
        let cons = self.bank.read32(reg::CMDQ_CONS) & 0x1ff;
        assert_eq!(cons, self.prod, "{}: {commands:x?} stopped", self.name);
    }

    fn slot(index: u32) -> u64 {
        layout::COMMANDS + (u64::from(index) & mask(layout::COMMAND_BITS)) * 16
    }

    fn push(&mut self, command: [u64; 2]) {
        let at = Self::slot(self.prod);
        self.write(at, command[0]);
        self.write(at + 8, command[1]);
        self.prod = (self.prod + 1) & 0x1ff;
    }

    /// Sends a command that there is not, and a good one. Tells what the SMMU made of them, then
    /// recovers as 7.1 says; `Err` where that fails.
    pub(super) fn illegal_command(&mut self, command: [u64; 2]) -> Result<String, String> {
        let at = self.prod;
        self.push(command);
        self.push(Command::Sync.encode());
        self.bank.write32(reg::CMDQ_PROD, self.prod);
        let cons = self.bank.read32(reg::CMDQ_CONS);
        let active = self.bank.read32(reg::GERROR) ^ self.bank.read32(reg::GERRORN);
        let stopped = cons & 0x1ff == at;
        let story = format!(
            "stopped there: {stopped}, error {}, GERROR {active:#x}",
            cons >> 24 & 0x7f
        );
        if !stopped || active != 1 {
            return Err(story);
        }
        let slot = Self::slot(at);
        let [low, high] = Command::Sync.encode();
        self.write(slot, low);
        self.write(slot + 8, high);
        let gerrorn = self.bank.read32(reg::GERRORN);
        self.bank.write32(reg::GERRORN, gerrorn ^ 1);
        // Whether the queue goes on by itself or with the next PROD is the same to software.
        self.bank.write32(reg::CMDQ_PROD, self.prod);
        if self.bank.read32(reg::CMDQ_CONS) & 0x1ff == self.prod {
            Ok(story)
        } else {
            Err(format!("{story}; did not recover"))
        }
    }

    /// Lets a device make an access.
    pub(super) fn access(&mut self, access: &Access) -> Seen {
        let master = self.masters[access.stream];
        let mut read = vec![0; if access.write { 0 } else { access.size }];
        let mut changed = Vec::new();
        if access.write {
            let bytes = access.value.to_le_bytes();
            master.write(Iova(access.iova), &bytes[..access.size]);
            // A translation keeps the lowest 12 bits, so only these words can be hit.
            let first = layout::DATA + (access.iova & 0xff8);
            for at in (first..layout::DATA + layout::DATA_SIZE).step_by(0x1000) {
                let word = self.read(at);
                if word != self.data(at) {
                    changed.push((at, word));
                    self.written.insert(at, word);
                }
            }
        } else {
            master.read(Iova(access.iova), &mut read);
        }
        let events = self.events();
        Seen {
            read,
            changed,
            events,
        }
    }

    /// What a word of the data is supposed to be.
    pub(super) fn data(&self, at: u64) -> u64 {
        self.written
            .get(&at)
            .copied()
            .unwrap_or_else(|| layout::pattern(at))
    }

    /// Takes all events out of the queue.
    fn events(&mut self) -> Vec<[u64; 4]> {
        let prod = self.bank.read32(reg::EVENTQ_PROD);
        assert_eq!(prod >> 31, 0, "{}: events were lost", self.name);
        let mut events = Vec::new();
        while self.cons != prod & 0xff {
            let at = layout::EVENTS + (u64::from(self.cons) & mask(layout::EVENT_BITS)) * 32;
            events.push([0, 8, 16, 24].map(|word| self.read(at + word)));
            self.cons = (self.cons + 1) & 0xff;
        }
        if !events.is_empty() {
            self.bank.write32(reg::EVENTQ_CONS, self.cons);
        }
        events
    }

    /// Global errors that wait, if any.
    pub(super) fn global_errors(&self) -> u32 {
        self.bank.read32(reg::GERROR) ^ self.bank.read32(reg::GERRORN)
    }

    /// Words of the data that are not what the accesses left there.
    pub(super) fn damage(&self) -> Vec<u64> {
        (layout::DATA..layout::DATA + layout::DATA_SIZE)
            .step_by(8)
            .filter(|at| self.read(*at) != self.data(*at))
            .collect()
    }
}
