//! A software model of an SMMUv3, as lazy and as adverse as the architecture lets silicon be.
//!
//! It reads registers, tables and commands bit by bit from the specification (Arm IHI 0070), and
//! shares no definition with any driver. It is Non-secure only, with VMSAv8-64 tables of all three
//! granules, and
//!
//! - caches stream table entries, context descriptors and their first levels, valid or not;
//! - caches translations and pointers to tables under their VMID and ASID until they are invalidated;
//! - completes invalidations no earlier than the next CMD_SYNC. There it invalidates the TLB first,
//!   refills it from what it translated lately, through configuration it may still have cached, and
//!   drops that configuration last: commands between two CMD_SYNC have no order;
//! - acknowledges a register only after it was asked once;
//! - treats range and level of an invalidation as its smallest permitted scope.
//!
//! What silicon would answer with unpredictable behaviour is noted in
//! [`violations`](SmmuModel::violations), and never panics. Not modelled: big-endian and AArch32
//! tables, 52-bit addresses, hardware update of flags, a device's ATC, the PRI queue, MSIs other than
//! that of CMD_SYNC.

mod bits;
mod commands;
mod decode;
mod events;
mod registers;
mod settings;
mod stall;
mod structures;
#[cfg(test)]
mod tests;
mod tlb;
mod translate;
mod walk;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommu_core::{PhysAddr, RegisterBank};

pub use self::decode::{Context, Stage1, Stage2, StreamConfig, Tables};
pub use self::registers::AckRegister;
pub use self::settings::ModelConfig;
pub use crate::device::{Access, Outcome};

use self::commands::Commands;
use self::events::Transaction;
use self::registers::{CR0_SMMUEN, GBPA_ABORT, Registers};
use self::stall::Stalls;
use self::structures::ConfigCache;
use self::tlb::Tlb;
use crate::device::Translate;
use crate::memory::MockMemory;

/// How many pages translated lately are translated again at each CMD_SYNC.
const RECENT: usize = 64;

struct State {
    config: ModelConfig,
    memory: MockMemory,
    regs: Registers,
    commands: Commands,
    cache: ConfigCache,
    tlb: Tlb,
    stalls: Stalls,
    recent: VecDeque<(u32, Option<u32>, u64)>,
    violations: Vec<String>,
}

impl State {
    fn violation(&mut self, what: String) {
        self.violations.push(what);
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

    /// Notes a page that was translated, to do it again speculatively.
    fn remember(&mut self, t: &Transaction) {
        let page = (t.stream, t.substream, t.iova & !0xfff);
        if self.recent.contains(&page) {
            return;
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(page);
    }

    /// Translates again what was translated lately, as prefetching hardware may at any time. Nothing
    /// is recorded.
    fn speculate(&mut self) {
        if self.regs.cr0ack & CR0_SMMUEN == 0 {
            return;
        }
        for (stream, substream, iova) in self.recent.clone() {
            let access = Access::Read;
            let mut t = Transaction {
                stream,
                substream,
                iova,
                access,
                privileged: false,
            };
            let _ = self.translate(&mut t);
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
            config,
            memory: memory.clone(),
            commands: Commands::default(),
            cache: ConfigCache::default(),
            tlb: Tlb::default(),
            stalls: Stalls::default(),
            recent: VecDeque::new(),
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
        self.state().transact(Transaction {
            stream,
            substream,
            iova,
            access,
            privileged: false,
        })
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

    /// The commands consumed since [`clear_commands`](Self::clear_commands).
    #[must_use]
    pub fn commands(&self) -> Vec<[u64; 2]> {
        self.state().commands.log.clone()
    }

    /// Forgets the commands, the number of CMD_SYNC and the largest batch.
    pub fn clear_commands(&self) {
        let commands = &mut self.state().commands;
        commands.log.clear();
        (commands.syncs, commands.max_batch) = (0, 0);
    }

    /// The number of CMD_SYNC completed since [`clear_commands`](Self::clear_commands).
    #[must_use]
    pub fn syncs(&self) -> usize {
        self.state().commands.syncs
    }

    /// The largest number of commands consumed at one go since
    /// [`clear_commands`](Self::clear_commands).
    #[must_use]
    pub fn max_batch(&self) -> usize {
        self.state().commands.max_batch
    }

    /// Withholds an acknowledgement, and with it the effect of what is written; or no more.
    pub fn stick_ack(&self, register: AckRegister, stuck: bool) {
        let mut state = self.state();
        state.regs.stuck[register as usize] = stuck;
        if !stuck {
            state.acknowledge(register);
        }
    }

    /// Stops consuming commands, or consumes those that have piled up.
    pub fn freeze_commands(&self, frozen: bool) {
        let mut state = self.state();
        state.commands.frozen = frozen;
        state.run_commands();
    }

    /// Takes one command for illegal: the `n`-th from this call on, counting from 0.
    pub fn fail_command(&self, n: usize) {
        self.state().commands.fail_in = Some(n);
    }

    /// Consumes commands whose opcode `ignore` picks without invalidating anything. `ignore` must not
    /// use the model.
    pub fn ignore_command(&self, ignore: Box<dyn Fn(u8) -> bool + Send>) {
        self.state().commands.ignore = Some(ignore);
    }

    /// Lets a stream's device answer no ATC invalidation: the next CMD_SYNC after one fails with
    /// CERROR_ATC_INV_SYNC. Or lets it answer again.
    pub fn kill_atc(&self, stream: u32, dead: bool) {
        let dead_atcs = &mut self.state().commands.dead_atcs;
        if dead {
            dead_atcs.insert(stream);
        } else {
            dead_atcs.remove(&stream);
        }
    }

    /// Puts a record of any content into the event queue, if that is writable.
    pub fn post_raw_event(&self, event: [u64; 4]) {
        self.state().record(event);
    }

    /// Activates the global errors of these bits of `SMMU_GERROR`.
    pub fn set_gerror(&self, bits: u32) {
        let regs = &mut self.state().regs;
        for bit in (0..32).map(|at| 1 << at).filter(|bit| bits & bit != 0) {
            regs.activate(bit);
        }
    }

    /// What became of the stalled transaction of this tag; `None` while it waits. Told once.
    #[must_use]
    pub fn resumed(&self, tag: u16) -> Option<Outcome> {
        self.state().stalls.done.remove(&tag)
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
/// What writes cause is done when they return. An access out of bounds panics, as does one that is
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
}

impl RegisterBank for ModelBank {
    fn len(&self) -> usize {
        0x2_0000
    }

    fn read32(&self, offset: usize) -> u32 {
        Self::check(offset, 4);
        self.model.state().read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        Self::check(offset, 4);
        self.model.state().write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        Self::check(offset, 8);
        self.model.state().read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        Self::check(offset, 8);
        self.model.state().write64(offset, value);
    }
}
