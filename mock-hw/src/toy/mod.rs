//! A toy IOMMU, for the [guide](iommu_core::writing_a_backend) to backends: small enough to drive
//! in an evening, as unforgiving as a real one.
//!
//! # The hardware
//!
//! It has one table of *contexts*, 64-bit words, one for each of [`PASIDS`] PASIDs of each of
//! [`STREAMS`] streams: the context of stream `s` with PASID `p` is word `s * PASIDS + p`, that of
//! traffic without PASID is word `s * PASIDS`. A context says in bits 1:0 what becomes of the traffic:
//!
//! | bits 1:0 | |
//! |---|---|
//! | 0 | it is refused, silently |
//! | 1 | it passes untranslated |
//! | 2 | it is translated by the table at bits 63:12 |
//!
//! A table has [`PAGES`] words, one for each 4 KiB page of an address space of 2 MiB: bit 0 allows
//! reading, bit 1 writing, bits 63:12 are the page's physical address. What a table does not allow is
//! refused and recorded.
//!
//! Contexts and translations are cached when they are used, also those that refuse, and stay so
//! until they are invalidated: contexts by their number, translations by the address of their table
//! and the page, whatever context they came from, and whatever that memory has become.
//!
//! # The registers
//!
//! | offset | | |
//! |---|---|---|
//! | 0x00 | `CONTROL` | 32 bits. Bit 0: enabled. Off, it refuses everything |
//! | 0x04 | `STATUS` | 32 bits. How many commands are done, modulo 2^32 |
//! | 0x08 | `CONTEXTS` | the address of the contexts, 4 KiB-aligned |
//! | 0x10 | `COMMAND` | writing queues a command. Bits 2:0 are [`FORGET_CONTEXT`], with the context in 31:16; [`FORGET_TABLE`], with the table in 63:12; or [`FORGET_PAGE`], with the table, and the page in 11:3 |
//! | 0x18 | `FAULT` | the oldest recorded fault: bit 63 says there is one, bits 15:0 its context, 55:16 its page. Writing drops it |
//! | 0x20 | `INSPECT` | writing chooses a context, reading gives its word as it is in memory |
//!
//! Commands are done in their order, as late as can be: when `STATUS` is read for the second time
//! after the last was queued.

mod stand;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommu_core::{PhysAddr, RegisterBank};

use crate::device::{Access, Outcome, Translate};
use crate::memory::MockMemory;

pub use stand::{Driver, NextFault, ToyPlatform, ToyTestbed};

/// The number of streams: StreamIDs are below.
pub const STREAMS: u32 = 16;
/// The number of contexts of a stream: PASIDs are below.
pub const PASIDS: u32 = 8;
/// The number of pages in a table.
pub const PAGES: u64 = 512;

/// Offset of `CONTROL`.
pub const CONTROL: usize = 0x00;
/// Offset of `STATUS`.
pub const STATUS: usize = 0x04;
/// Offset of `CONTEXTS`.
pub const CONTEXTS: usize = 0x08;
/// Offset of `COMMAND`.
pub const COMMAND: usize = 0x10;
/// Offset of `FAULT`.
pub const FAULT: usize = 0x18;

/// Offset of `INSPECT`.
pub const INSPECT: usize = 0x20;

/// The command to forget a context.
pub const FORGET_CONTEXT: u64 = 1;
/// The command to forget all translations by a table.
pub const FORGET_TABLE: u64 = 2;
/// The command to forget the translation of a page by a table.
pub const FORGET_PAGE: u64 = 3;

const PAGE_SIZE: u64 = 4096;
const ADDRESS: u64 = !(PAGE_SIZE - 1);
/// The number of faults that are kept until software takes them.
const MAX_FAULTS: usize = 32;
/// The number of commands that can be waiting; one more is a violation.
const MAX_COMMANDS: usize = 1024;

#[derive(Default)]
struct State {
    enabled: bool,
    contexts: u64,
    inspected: u64,
    commands: VecDeque<u64>,
    done: u32,
    /// `STATUS` was read since the last command was queued.
    looked: bool,
    faults: VecDeque<u64>,
    cached_contexts: BTreeMap<u32, u64>,
    cached_pages: BTreeMap<(u64, u64), u64>,
    violations: Vec<String>,
}

/// The toy IOMMU. A clone is a handle to the same one.
#[derive(Clone)]
pub struct ToyIommu {
    memory: MockMemory,
    state: Arc<Mutex<State>>,
}

impl ToyIommu {
    /// One just out of reset, that finds its tables in `memory`.
    #[must_use]
    pub fn new(memory: MockMemory) -> Self {
        Self {
            memory,
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What software did that it must not do.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// A word of a table, where there is memory.
    fn word(&self, state: &mut State, table: u64, index: u64) -> u64 {
        let at = PhysAddr(table.wrapping_add(index * 8));
        self.memory.read_word(at).unwrap_or_else(|error| {
            state.violations.push(format!("a table is read: {error}"));
            0
        })
    }

    fn context(&self, state: &mut State, context: u32) -> u64 {
        if let Some(cached) = state.cached_contexts.get(&context) {
            return *cached;
        }
        let table = state.contexts;
        let word = self.word(state, table, context.into());
        if word & 3 == 3 {
            let what = format!("context {context} is {word:#x}, which means nothing");
            state.violations.push(what);
        }
        state.cached_contexts.insert(context, word);
        word
    }

    fn page(&self, state: &mut State, table: u64, page: u64) -> u64 {
        if let Some(cached) = state.cached_pages.get(&(table, page)) {
            return *cached;
        }
        let word = self.word(state, table, page);
        state.cached_pages.insert((table, page), word);
        word
    }

    fn translate(&self, state: &mut State, context: u32, iova: u64, access: Access) -> Outcome {
        if !state.enabled {
            return Outcome::Aborted;
        }
        let word = self.context(state, context);
        match word & 3 {
            1 => return Outcome::Translated(PhysAddr(iova)),
            2 => {}
            _ => return Outcome::Aborted,
        }
        let page = iova / PAGE_SIZE;
        let right = match access {
            Access::Read => 1,
            Access::Write => 2,
        };
        let mapped = if page < PAGES {
            self.page(state, word & ADDRESS, page)
        } else {
            0
        };
        if mapped & right == 0 {
            if state.faults.len() < MAX_FAULTS {
                let page = (page & ((1 << 40) - 1)) << 16;
                state.faults.push_back(1 << 63 | page | u64::from(context));
            }
            return Outcome::Faulted;
        }
        Outcome::Translated(PhysAddr((mapped & ADDRESS) + iova % PAGE_SIZE))
    }
}

impl Translate for ToyIommu {
    fn transact(&self, stream: u32, substream: Option<u32>, iova: u64, access: Access) -> Outcome {
        // PASID 0 would be traffic without one.
        let pasid = match substream {
            None => 0,
            Some(pasid) if (1..PASIDS).contains(&pasid) => pasid,
            Some(_) => return Outcome::Aborted,
        };
        if stream >= STREAMS {
            return Outcome::Aborted;
        }
        self.translate(&mut self.state(), stream * PASIDS + pasid, iova, access)
    }

    fn memory(&self) -> &MockMemory {
        &self.memory
    }
}

impl State {
    fn status(&mut self) -> u32 {
        if std::mem::replace(&mut self.looked, true) {
            while let Some(command) = self.commands.pop_front() {
                self.obey(command);
                self.done = self.done.wrapping_add(1);
            }
        }
        self.done
    }

    fn obey(&mut self, command: u64) {
        let [_, _, low, high, ..] = command.to_le_bytes();
        let context = u32::from(u16::from_le_bytes([low, high]));
        let (table, page) = (command & ADDRESS, command >> 3 & (PAGES - 1));
        match command & 7 {
            FORGET_CONTEXT => drop(self.cached_contexts.remove(&context)),
            FORGET_TABLE => self.cached_pages.retain(|(of, _), _| *of != table),
            FORGET_PAGE => drop(self.cached_pages.remove(&(table, page))),
            _ => self.violations.push(format!("{command:#x} is no command")),
        }
    }

    fn command(&mut self, command: u64) {
        self.looked = false;
        if self.commands.len() == MAX_COMMANDS {
            self.violations.push("too many commands".into());
            return;
        }
        self.commands.push_back(command);
    }
}

/// The registers are those of the module's table; others read as zero.
impl RegisterBank for ToyIommu {
    fn len(&self) -> usize {
        0x28
    }

    fn read32(&self, offset: usize) -> u32 {
        let mut state = self.state();
        match offset {
            CONTROL => state.enabled.into(),
            STATUS => state.status(),
            _ => 0,
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        if offset == CONTROL {
            self.state().enabled = value & 1 != 0;
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        let state = &mut *self.state();
        match offset {
            CONTEXTS => state.contexts,
            INSPECT => {
                let (table, context) = (state.contexts, state.inspected);
                self.word(state, table, context)
            }
            FAULT => state.faults.front().copied().unwrap_or(0),
            _ => 0,
        }
    }

    fn write64(&self, offset: usize, value: u64) {
        let mut state = self.state();
        match offset {
            CONTEXTS => state.contexts = value & ADDRESS,
            COMMAND => state.command(value),
            FAULT => drop(state.faults.pop_front()),
            INSPECT => state.inspected = value % u64::from(STREAMS * PASIDS),
            _ => {}
        }
    }
}

impl fmt::Debug for ToyIommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ToyIommu")
    }
}
