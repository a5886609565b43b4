//! A software model of a VT-d remapping unit, as lazy and as adverse as the architecture lets
//! silicon be.
//!
//! It reads registers, tables and descriptors bit by bit from what is published about the
//! architecture (section numbers are those of Intel's specification, revision 3.2), and shares no
//! definition with any driver. It has legacy mode and scalable mode with first-level, second-level
//! and pass-through translation, and
//!
//! - caches context entries, PASID entries and PASID directory entries, whole or word by word;
//!   those that are not present too in caching mode, under domain id 0, and then that there is no
//!   second-level translation;
//! - caches translations under the source that asked, whatever its entries say by now, and under
//!   their domain id, for whoever has the same; and pointers to tables;
//! - completes invalidations no earlier than the next wait descriptor. There it invalidates
//!   translations first, refills them through entries it may still have cached, and drops those
//!   last: only a wait descriptor with a fence, or one that was waited for, orders what follows. Or
//!   it does what else it likes ([`Order`]);
//! - invalidates exactly what a descriptor names: a device's context entry in legacy mode only with
//!   its domain id, second-level translations not by PASID, first-level ones not by page of a
//!   domain but by domain;
//! - acknowledges a command only after its status was read once, or often;
//! - sets the accessed and dirty flags of first-level entries, and refuses to where it reads tables
//!   without snooping;
//! - keeps devices out of protected memory regions, also what is translated.
//!
//! Where [`ECAP.C`](VtdConfig::with_coherent) says that walks do not see the CPU's caches, the
//! [memory](MockMemory::set_coherent) is made such that they do not: the model then reads what was
//! cleaned. It reads the invalidation queue in the same way, which real hardware snoops.
//!
//! ```
//! use iommu_core::{PhysAddr, RegisterBank};
//! use mock_hw::vtd::{VtdConfig, VtdModel};
//! use mock_hw::{DmaDevice, MockMemory, Outcome};
//!
//! let memory = MockMemory::new(PhysAddr(0x4000_0000), 0x1_0000);
//! memory.reserve(PhysAddr(0x4000_0000), 0x1000);
//! let vtd = VtdModel::new(memory, VtdConfig::legacy().with_flush_on_root(true));
//! let nic = DmaDevice::new(&vtd, 0x10);
//! // Until translation is enabled, everything passes.
//! assert_eq!(nic.write(0x4000_0ff8, b"hello"), Outcome::Translated(PhysAddr(0x4000_0ff8)));
//! // RTADDR: a root table that names nothing. GCMD: SRTP, then TE, as GSTS acknowledges them.
//! let bank = vtd.bank();
//! bank.write64(0x20, 0x4000_0000);
//! for command in [1 << 30, 1 << 31] {
//!     bank.write32(0x18, command);
//!     while bank.read32(0x1c) & command == 0 {}
//! }
//! assert_eq!(nic.write(0x4000_0ff8, b"hello"), Outcome::Faulted);
//! assert!(vtd.violations().is_empty());
//! ```
//!
//! What silicon would answer with unpredictable behaviour is noted in
//! [`violations`](VtdModel::violations), and never panics. So is what silicon leaves alone today:
//! reserved bits, two commands at once, one domain id for two sets of tables, a present entry that
//! changes. Not modelled: interrupt remapping, nested translation, page requests, translation
//! requests and translated requests of devices, execute and supervisor requests, accessed and dirty
//! flags of the second level, root entries in caches, advanced fault logging, delay by write
//! buffers, performance counters, enhanced and virtual commands.

mod bits;
mod cache;
mod claims;
mod control;
mod descriptors;
mod entries;
mod faults;
mod global;
mod guards;
mod iotlb;
mod order;
mod protected;
mod queue;
mod reason;
mod registers;
mod settings;
#[cfg(test)]
mod tests;
mod translate;
mod walk;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommu_core::{PhysAddr, RegisterBank};

pub use self::entries::{PasidConfig, SourceConfig};
pub use self::global::Handshake;
pub use self::order::Order;
pub use self::queue::DescriptorHook;
pub use self::settings::VtdConfig;
pub use crate::device::{Access, Outcome};

use self::cache::ConfigCache;
use self::claims::Claims;
use self::faults::Faults;
use self::global::{Global, TE};
use self::iotlb::Iotlb;
use self::order::Pending;
use self::protected::Protected;
use self::queue::Queue;
use self::translate::{Request, Stop, is_interrupt};
use crate::chance::Chance;
use crate::device::Translate;
use crate::memory::MockMemory;

struct State {
    config: VtdConfig,
    memory: MockMemory,
    global: Global,
    protected: Protected,
    faults: Faults,
    queue: Queue,
    /// `IRTA_REG`, which nothing comes of.
    interrupt_table: u64,
    cache: ConfigCache,
    iotlb: Iotlb,
    claims: Claims,
    /// Invalidations that nothing has waited for.
    pending: Vec<Pending>,
    chance: Chance,
    hook: Option<DescriptorHook>,
    /// Pages that were asked for lately: source, PASID, address.
    recent: VecDeque<(u16, Option<u32>, u64)>,
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

    fn transact(&mut self, mut r: Request) -> Outcome {
        if r.pasid.is_none() && is_interrupt(r.iova) {
            // A write is a message, not one to memory; nothing is there to be read.
            return Outcome::Aborted;
        }
        if !self.global.is_on(TE) {
            let nowhere = r.iova & self.config.beyond_host() != 0 || r.pasid.is_some();
            return match nowhere || self.is_protected(r.iova) {
                true => Outcome::Aborted,
                false => Outcome::Translated(PhysAddr(r.iova)),
            };
        }
        match self.translate(&mut r) {
            Ok(addr) => Outcome::Translated(PhysAddr(addr)),
            Err(Stop::Silent) => Outcome::Aborted,
            Err(Stop::Fault(reason)) if r.silent && reason.is_qualified() => Outcome::Aborted,
            Err(Stop::Fault(reason)) => {
                self.record(&r, reason);
                Outcome::Faulted
            }
        }
    }

    fn source_config(&self, source: u16) -> SourceConfig {
        let at = match self.locate_context(source) {
            Ok(at) => at,
            Err(reason) => return SourceConfig::refused(reason),
        };
        if self.global.mode() == 0 {
            let words = self.read_entry::<2>(at, 2);
            let words = words.map_err(|_| reason::CONTEXT_ACCESS);
            return SourceConfig::new(words.and_then(|words| self.config.decode_context(&words)));
        }
        let words = self.read_entry::<4>(at, 4);
        let words = words.map_err(|_| reason::SM_CONTEXT_ACCESS);
        match words.and_then(|words| self.config.decode_scalable_context(&words)) {
            Ok(directory) => SourceConfig::Scalable {
                directory: PhysAddr(directory.base),
                pasid_bits: directory.pasid_bits,
                pasids: directory.pasids,
                rid_pasid: directory.rid_pasid,
                rid: self.pasid_config(directory.base, directory.rid_pasid),
            },
            Err(reason) => SourceConfig::refused(reason),
        }
    }

    fn pasid_config(&self, directory: u64, pasid: u32) -> PasidConfig {
        let entry = directory.wrapping_add(u64::from(pasid >> 6) * 8);
        let table = self.read_entry::<1>(entry, 1);
        let table = table.map_err(|_| reason::DIRECTORY_ACCESS);
        let mapping = table
            .and_then(|[entry]| self.config.decode_directory(entry))
            .and_then(|table| {
                let at = table.wrapping_add(u64::from(pasid & 0x3f) * 64);
                self.read_entry(at, 8).map_err(|_| reason::PASID_ACCESS)
            })
            .and_then(|words| self.config.decode_pasid(&words));
        PasidConfig::new(mapping)
    }
}

/// A model of a VT-d remapping unit; a clone is a handle to the same one.
#[derive(Clone)]
pub struct VtdModel {
    memory: MockMemory,
    state: Arc<Mutex<State>>,
}

impl VtdModel {
    /// A model just out of reset, that finds its tables and its queue in `memory`.
    #[must_use]
    pub fn new(memory: MockMemory, config: VtdConfig) -> Self {
        if !config.is_coherent() {
            memory.set_coherent(false);
        }
        let faults = Faults::new(config.fault_records().1);
        let state = State {
            chance: Chance::new(config.seed),
            config,
            memory: memory.clone(),
            global: Global::default(),
            protected: Protected::default(),
            faults,
            queue: Queue::default(),
            interrupt_table: 0,
            cache: ConfigCache::default(),
            iotlb: Iotlb::default(),
            claims: Claims::default(),
            pending: Vec::new(),
            hook: None,
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
    pub fn bank(&self) -> VtdBank {
        let len = self.state().config.bank_len();
        VtdBank {
            model: self.clone(),
            len,
        }
    }

    /// Sends one request of a device through it. A source id has 16 bits: others reach nothing.
    pub fn transact(&self, source: u32, pasid: Option<u32>, iova: u64, access: Access) -> Outcome {
        let Ok(source) = u16::try_from(source) else {
            return Outcome::Aborted;
        };
        let mut state = self.state();
        state.moment();
        state.transact(Request {
            source,
            pasid,
            iova,
            access,
            silent: false,
        })
    }

    /// What memory says about a source at this moment, past all caches, through the root table that
    /// was set last. A pointer there that leads to memory which nobody owns is noted by that
    /// memory.
    #[must_use]
    pub fn source_config(&self, source: u32) -> SourceConfig {
        u16::try_from(source).map_or(SourceConfig::NotPresent, |source| {
            self.state().source_config(source)
        })
    }

    /// The same about the requests of a source that carry a PASID.
    #[must_use]
    pub fn pasid_config(&self, source: u32, pasid: u32) -> PasidConfig {
        match self.source_config(source) {
            SourceConfig::Scalable {
                directory,
                pasid_bits,
                ..
            } if pasid >> pasid_bits == 0 => self.state().pasid_config(directory.0, pasid),
            _ => PasidConfig::NotPresent,
        }
    }

    /// What software did that real hardware answers with unpredictable behaviour, in the order in
    /// which it happened.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }
}

impl Translate for VtdModel {
    fn transact(&self, stream: u32, substream: Option<u32>, iova: u64, access: Access) -> Outcome {
        Self::transact(self, stream, substream, iova, access)
    }

    fn memory(&self) -> &MockMemory {
        &self.memory
    }
}

impl fmt::Debug for VtdModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VtdModel({:?})", self.memory)
    }
}

/// The registers of a [`VtdModel`]: one page of 4 KiB, or more where fault records lie beyond it.
///
/// What writes cause is done when they return, as far as [`VtdConfig`] does not make it late. An
/// access out of bounds panics, as does one that is not aligned.
#[derive(Clone, Debug)]
pub struct VtdBank {
    model: VtdModel,
    len: usize,
}

impl VtdBank {
    fn access<T>(&self, offset: usize, size: usize, access: impl FnOnce(&mut State) -> T) -> T {
        assert!(
            offset.is_multiple_of(size) && offset < self.len,
            "no register of {size} bytes at offset {offset:#x}"
        );
        let mut state = self.model.state();
        let value = access(&mut state);
        self.model.consume(state);
        value
    }
}

impl RegisterBank for VtdBank {
    fn len(&self) -> usize {
        self.len
    }

    fn read32(&self, offset: usize) -> u32 {
        self.access(offset, 4, |state| state.read32(offset))
    }

    fn write32(&self, offset: usize, value: u32) {
        self.access(offset, 4, |state| state.write32(offset, value));
    }

    fn read64(&self, offset: usize) -> u64 {
        self.access(offset, 8, |state| state.read64(offset))
    }

    fn write64(&self, offset: usize, value: u64) {
        self.access(offset, 8, |state| state.write64(offset, value));
    }
}
