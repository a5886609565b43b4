//! The command queue's indexes, its consumer, and who waits for it (3.21.2, 4.1.2 to 4.1.4, 7.1).

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, TryLockError};

use iommu_core::PhysAddr;

use super::bits::{address, field, mask};
use super::commands::CommandError;
use super::registers::{CR0_CMDQEN, GERROR_CMDQ};
use super::{SmmuModel, State};

/// What is called after each command that was consumed, with its two words.
pub type CommandHook = Arc<dyn Fn(&SmmuModel, [u64; 2]) + Send + Sync>;

const SYNC: u32 = 0x46;

/// How often software waited; see [`SmmuModel::waits`].
#[derive(Default)]
pub(super) struct Waits {
    pub(super) count: usize,
    /// Software looks at CMDQ_CONS, again and again, and does nothing else meanwhile.
    looking: bool,
    /// One wait for a message was counted since PROD was written.
    told: bool,
    /// The indexes after each CMD_SYNC that CMDQ_CONS has not shown as consumed.
    unseen: VecDeque<u64>,
}

impl Waits {
    /// Software wrote a register: whatever it waited for, it waits no more.
    pub(super) fn interrupt(&mut self) {
        self.looking = false;
    }

    /// It is known which CMD_SYNCs are done.
    fn see(&mut self, prod: u64, cons: u64, wrap: u64) {
        let left = |index: u64| prod.wrapping_sub(index) & wrap;
        while let Some(index) = self.unseen.front()
            && left(*index) >= left(cons)
        {
            self.unseen.pop_front();
        }
    }

    /// A CMD_SYNC told by message that it is done.
    pub(super) fn message(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            self.count += 1;
        }
    }
}

/// What the consumer did.
enum Step {
    /// There is nothing that it may consume.
    Idle,
    /// It consumed this command.
    Consumed([u64; 2]),
    /// It raised an error.
    Failed,
}

impl State {
    /// CMDQ_PROD and CMDQ_CONS as they count, and the mask for such an index.
    fn indexes(&self) -> (u64, u64, u64) {
        let wrap = mask(self.command_queue().1 + 1);
        let index = |register: u32| u64::from(register) & wrap;
        (index(self.regs.cmdq_prod), index(self.regs.cmdq_cons), wrap)
    }

    /// The number of commands from CONS to PROD, and how many there may be.
    pub(super) fn commands_queued(&self) -> (u64, u64) {
        let (prod, cons, wrap) = self.indexes();
        (prod.wrapping_sub(cons) & wrap, 1 << self.command_queue().1)
    }

    pub(super) fn write_cmdq_prod(&mut self, value: u32) {
        let (published, _, wrap) = self.indexes();
        let before = self.commands_queued().0;
        self.regs.cmdq_prod = value & 0xf_ffff;
        let (after, room) = self.commands_queued();
        let error = self.regs.is_active(GERROR_CMDQ);
        self.waits.told = false;
        if self.regs.cr0ack & CR0_CMDQEN == 0 {
            return;
        }
        if after > room || after < before && !error {
            self.violation(format!(
                "CMDQ_PROD was moved to {value:#x}, past full or back"
            ));
            self.commands.confused = true;
            return;
        }
        if after < before {
            // Commands were taken back.
            self.waits.unseen.clear();
            self.note_syncs(published.wrapping_sub(before) & wrap);
        } else {
            self.note_syncs(published);
        }
        self.commands.lag = self.config.lag;
    }

    /// Notes the CMD_SYNCs from an index on that software can only look for in CMDQ_CONS.
    fn note_syncs(&mut self, from: u64) {
        let (prod, _, wrap) = self.indexes();
        let (base, bits) = self.command_queue();
        let mut at = from;
        while at != prod {
            let command = self.command(base.wrapping_add((at & mask(bits)) * 16));
            at = (at + 1) & wrap;
            if command.is_ok_and(|c| field(&c, 7, 0) == SYNC && self.message(&c).is_none()) {
                self.waits.unseen.push_back(at);
            }
        }
    }

    /// Where a CMD_SYNC writes its message, if it does (4.7.3).
    pub(super) fn message(&self, sync: &[u64; 2]) -> Option<u64> {
        let to = address(sync, 119, 66);
        let asked = field(sync, 13, 12) == 1 && self.config.idr0_bit(13);
        (asked && to != 0).then_some(to)
    }

    /// Software reads CMDQ_CONS.
    pub(super) fn read_cmdq_cons(&mut self) -> u32 {
        let (prod, cons, wrap) = self.indexes();
        let waits = &mut self.waits;
        if !waits.unseen.is_empty() && !std::mem::replace(&mut waits.looking, true) {
            waits.count += 1;
        }
        waits.see(prod, cons, wrap);
        let seen = self.regs.cmdq_cons;
        self.commands.lag = self.commands.lag.saturating_sub(1);
        seen
    }

    pub(super) fn clear_waits(&mut self) {
        let (prod, cons, wrap) = self.indexes();
        self.waits.count = 0;
        self.waits.see(prod, cons, wrap);
    }

    fn command(&self, at: u64) -> Result<[u64; 2], CommandError> {
        let word = |at| {
            let word = self.memory.read_word(PhysAddr(at));
            word.map_err(|_| CommandError::Abort)
        };
        Ok([word(at)?, word(at.wrapping_add(8))?])
    }

    /// Consumes the next command, if it may.
    fn step(&mut self) -> Step {
        let (prod, cons, wrap) = self.indexes();
        let stops = self.commands.frozen || self.commands.confused || self.commands.lag != 0;
        let runs = self.regs.cr0ack & CR0_CMDQEN != 0 && !self.regs.is_active(GERROR_CMDQ);
        if stops || !runs || prod == cons {
            return Step::Idle;
        }
        self.moment();
        let (base, bits) = self.command_queue();
        let at = base.wrapping_add((cons & mask(bits)) * 16);
        let done = self
            .command(at)
            .and_then(|command| self.take_command(&command).map(|()| command));
        match done {
            Ok(command) => {
                let next = u32::try_from((cons + 1) & wrap).unwrap_or(0);
                self.regs.cmdq_cons = self.regs.cmdq_cons & 0x7f00_0000 | next;
                Step::Consumed(command)
            }
            Err(error) => {
                let index = self.regs.cmdq_cons & 0xf_ffff;
                self.regs.cmdq_cons = index | (error as u32) << 24;
                self.regs.activate(GERROR_CMDQ);
                Step::Failed
            }
        }
    }
}

/// Lets others consume after the hook of this consumer panicked.
struct Consuming<'a>(&'a SmmuModel);

impl Drop for Consuming<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        // Where the panic is the model's own, the lock is still held.
        match self.0.state.try_lock() {
            Ok(mut state) => state.commands.consuming = false,
            Err(TryLockError::Poisoned(state)) => state.into_inner().commands.consuming = false,
            Err(TryLockError::WouldBlock) => {}
        }
    }
}

impl SmmuModel {
    /// Consumes commands as long as that is possible, and calls the hook after each, unlocked. There
    /// is one consumer at a time: what others make possible meanwhile, it does.
    pub(super) fn consume<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        if state.commands.consuming {
            return;
        }
        state.commands.consuming = true;
        let _consuming = Consuming(self);
        let mut batch = 0;
        while !state.rests()
            && let Step::Consumed(command) = state.step()
        {
            batch += 1;
            if let Some(hook) = state.hook.clone() {
                drop(state);
                hook(self, command);
                state = self.state();
            }
        }
        state.commands.max_batch = state.commands.max_batch.max(batch);
        state.commands.consuming = false;
    }
}
