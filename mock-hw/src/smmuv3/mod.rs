//! A software model of an SMMUv3, as lazy and as adverse as the architecture lets silicon be.
//!
//! It reads registers, tables and commands bit by bit from the specification (Arm IHI 0070), and
//! shares no definition with any driver. It is Non-secure only, with VMSAv8-64 tables of all three
//! granules, and
//!
//! - caches stream table entries, context descriptors and their first levels, valid or not, whole or
//!   word by word;
//! - caches translations and pointers to tables under their VMID and ASID until they are invalidated;
//! - completes invalidations no earlier than the next CMD_SYNC. There it invalidates the TLB first,
//!   refills it from what it translated lately, through configuration it may still have cached, and
//!   drops that configuration last: commands between two CMD_SYNC have no order. Or it does what
//!   else it likes ([`Order`]);
//! - acknowledges a register only after it was asked once, or often;
//! - treats range and level of an invalidation as its smallest permitted scope;
//! - answers translation requests of devices that have ATS ([`AtsDevice`]), lets through what they
//!   have translated, and tells their caches what to invalidate, in an order as adverse as that of
//!   all other commands.
//!
//! What silicon would answer with unpredictable behaviour is noted in
//! [`violations`](SmmuModel::violations), and never panics. So is what silicon leaves alone today:
//! reserved bits, addresses that are not aligned, one tag for two sets of tables. Not modelled:
//! big-endian, AArch32 and 128-bit tables, 52-bit addresses, hardware update of flags, permission
//! indirection and overlays, NS-EL2 with E2H, VMID wildcards, the PRI queue, device permission tables,
//! PASIDs of translated transactions, execute permission, `ATSCHK` in configuration caches, MSIs other
//! than that of CMD_SYNC.

mod atc;
mod ats;
mod bits;
mod checker;
mod claims;
mod commands;
mod config;
mod control;
mod decode;
mod endpoint;
mod events;
mod guards;
mod order;
mod queue;
mod registers;
mod reserved;
mod settings;
mod stall;
mod structures;
#[cfg(test)]
mod tests;
mod tlb;
mod translate;
mod walk;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommu_core::{PhysAddr, RegisterBank};

pub use self::ats::Completion;
pub use self::checker::{EntryChecker, Image};
pub use self::config::{Context, Stage1, Stage2, StreamConfig, Tables};
pub use self::endpoint::{AtsDevice, AtsEvent};
pub use self::order::Order;
pub use self::queue::CommandHook;
pub use self::registers::AckRegister;
pub use self::settings::ModelConfig;
pub use crate::device::{Access, Outcome};

use self::atc::Endpoint;
use self::claims::Claims;
use self::commands::Commands;
use self::events::Transaction;
use self::queue::Waits;
use self::registers::{CR0_SMMUEN, GBPA_ABORT, Registers};
use self::stall::Stalls;
use self::structures::ConfigCache;
use self::tlb::Tlb;
use crate::chance::Chance;
use crate::device::Translate;
use crate::memory::MockMemory;

struct State {
    config: ModelConfig,
    memory: MockMemory,
    regs: Registers,
    commands: Commands,
    cache: ConfigCache,
    tlb: Tlb,
    stalls: Stalls,
    claims: Claims,
    waits: Waits,
    chance: Chance,
    hook: Option<CommandHook>,
    /// Pages that were translated lately.
    recent: VecDeque<(u32, Option<u32>, u64)>,
    /// Streams that were used lately.
    streams: VecDeque<u32>,
    /// Devices with ATS, by StreamID.
    endpoints: BTreeMap<u32, Endpoint>,
    violations: Vec<String>,
}

impl State {
    fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// Notes something that hardware comes across again and again.
    fn violation_once(&mut self, what: String) {
        if !self.violations.contains(&what) {
            self.violation(what);
        }
    }

    fn transact(&mut self, mut t: Transaction) -> Outcome {
        if self.regs.cr0ack & CR0_SMMUEN == 0 {
            let passes = self.regs.gbpa_in_force & GBPA_ABORT == 0
                && t.iova >> self.config.output_bits() == 0;
            return if passes {
                Outcome::Translated(PhysAddr(t.iova))
            } else {
                Outcome::Aborted
            };
        }
        match self.translate(&mut t) {
            Ok(addr) => Outcome::Translated(PhysAddr(addr)),
            Err(stop) => self.refuse(&t, stop),
        }
    }
}

/// A model of an SMMUv3; a clone is a handle to the same one.
#[derive(Clone)]
pub struct SmmuModel {
    memory: MockMemory,
    state: Arc<Mutex<State>>,
}

impl SmmuModel {
    /// A model just out of reset, that finds its tables and queues in `memory`.
    #[must_use]
    pub fn new(memory: MockMemory, config: ModelConfig) -> Self {
        let state = State {
            regs: Registers::new(&config),
            chance: Chance::new(config.seed),
            config,
            memory: memory.clone(),
            commands: Commands::default(),
            cache: ConfigCache::default(),
            tlb: Tlb::default(),
            stalls: Stalls::default(),
            claims: Claims::default(),
            waits: Waits::default(),
            hook: None,
            recent: VecDeque::new(),
            streams: VecDeque::new(),
            endpoints: BTreeMap::new(),
            violations: Vec::new(),
        };
        Self {
            memory,
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its registers.
    #[must_use]
    pub fn bank(&self) -> ModelBank {
        ModelBank {
            model: self.clone(),
        }
    }

    /// Sends one transaction of a device through it.
    pub fn transact(
        &self,
        stream: u32,
        substream: Option<u32>,
        iova: u64,
        access: Access,
    ) -> Outcome {
        let mut state = self.state();
        state.moment();
        state.transact(Transaction::new(stream, substream, iova, access))
    }

    /// Asks for the translation of a page of 4 KiB, as a device with ATS does. With `write`, to write
    /// there too.
    pub fn translation_request(
        &self,
        stream: u32,
        substream: Option<u32>,
        iova: u64,
        write: bool,
    ) -> Completion {
        let mut state = self.state();
        state.moment();
        let access = if write { Access::Write } else { Access::Read };
        let t = Transaction::new(stream, substream, iova, access);
        state.translation_request(&t, write, false)
    }

    /// Sends one transaction through it whose address the device has translated: a physical one, or
    /// an intermediate one with split-stage ATS. A device that lies about that gets as far as an
    /// honest one.
    pub fn transact_translated(&self, stream: u32, to: PhysAddr, access: Access) -> Outcome {
        let mut state = self.state();
        state.moment();
        state.transact_translated(&Transaction::new(stream, None, to.0, access))
    }

    /// What memory says about a stream at this moment, past all caches. A pointer there that leads to
    /// memory which nobody owns is noted by that memory.
    #[must_use]
    pub fn stream_config(&self, stream: u32) -> StreamConfig {
        self.state()
            .stream_config(stream)
            .unwrap_or(StreamConfig::Invalid)
    }

    /// Where a stream's entry is in memory at this moment, past all caches.
    #[must_use]
    pub fn stream_entry(&self, stream: u32) -> Option<PhysAddr> {
        self.state().stream_entry(stream).ok().map(PhysAddr)
    }

    /// Why [`stream_config`](Self::stream_config) is invalid, if it is.
    #[must_use]
    pub fn why_invalid(&self, stream: u32) -> Option<&'static str> {
        self.state().stream_config(stream).err()
    }

    /// What the configuration cache holds about a stream, if anything.
    #[must_use]
    pub fn cached_stream_config(&self, stream: u32) -> Option<StreamConfig> {
        self.state().cached_stream_config(stream)
    }

    /// What software did that real hardware answers with unpredictable behaviour, in the order in
    /// which it happened.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }
}

impl Translate for SmmuModel {
    fn transact(&self, stream: u32, substream: Option<u32>, iova: u64, access: Access) -> Outcome {
        Self::transact(self, stream, substream, iova, access)
    }

    fn memory(&self) -> &MockMemory {
        &self.memory
    }
}

impl fmt::Debug for SmmuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SmmuModel({:?})", self.memory)
    }
}

/// The registers of an [`SmmuModel`]: two pages of 64 KiB.
///
/// What writes cause is done when they return, as far as [`ModelConfig`] does not make it late. An
/// access out of bounds panics, as does one that is
/// not aligned.
#[derive(Clone, Debug)]
pub struct ModelBank {
    model: SmmuModel,
}

impl ModelBank {
    fn check(offset: usize, size: usize) {
        assert!(
            offset.is_multiple_of(size) && offset < 0x2_0000,
            "no register of {size} bytes at offset {offset:#x}"
        );
    }

    fn access<T>(&self, access: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.model.state();
        let value = access(&mut state);
        self.model.consume(state);
        value
    }
}

impl RegisterBank for ModelBank {
    fn len(&self) -> usize {
        0x2_0000
    }

    fn read32(&self, offset: usize) -> u32 {
        Self::check(offset, 4);
        self.access(|state| state.read32(offset))
    }

    fn write32(&self, offset: usize, value: u32) {
        Self::check(offset, 4);
        self.access(|state| state.write32(offset, value));
    }

    fn read64(&self, offset: usize) -> u64 {
        Self::check(offset, 8);
        self.access(|state| state.read64(offset))
    }

    fn write64(&self, offset: usize, value: u64) {
        Self::check(offset, 8);
        self.access(|state| state.write64(offset, value));
    }
}
