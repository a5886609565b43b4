//! A register bank that meddles with commands on their way to the hardware.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arm_smmu_v3::spec::granule::Granule;
use iommu_core::{BasicPlatform, PhysAddr, RegisterBank};
use mock_hw::MockMemory;

use super::setups::Setup;

const IDR0: usize = 0x00;
/// `SMMU_IDR0.ASID16` and `VMID16` (6.3.1).
const WIDE_IDS: u32 = 1 << 12 | 1 << 18;
const IDR1: usize = 0x04;
/// `SMMU_IDR1.SIDSIZE` (6.3.2).
const SIDSIZE: u32 = 0x3f;
const IDR3: usize = 0x0c;
/// `SMMU_IDR3.RIL` (6.3.4).
const RANGE_INVALIDATION: u32 = 1 << 10;
const IDR5: usize = 0x14;
/// `SMMU_IDR5.GRAN4K`, `GRAN16K` and `GRAN64K` (6.3.6).
const GRANULES: [(Granule, u32); 3] = [
    (Granule::K4, 1 << 4),
    (Granule::K16, 1 << 5),
    (Granule::K64, 1 << 6),
];
const CMDQ_BASE: usize = 0x90;
const CMDQ_PROD: usize = 0x98;
/// The address of the queue in `SMMU_CMDQ_BASE` (6.3.26).
const QUEUE_ADDRESS: u64 = 0x00ff_ffff_ffff_ffe0;

/// `CMD_SYNC` (4.7.3) without a signal: a command that does nothing but wait.
pub const SYNC: [u64; 2] = [0x46, 0];
/// No command has this opcode (4.1.3).
pub const ILLEGAL: [u64; 2] = [0xff, 0];

/// Opcodes (4.1.3), each with the section that describes the command.
pub mod opcode {
    /// `CMD_CFGI_STE` (4.3.1).
    pub const CFGI_STE: u8 = 0x03;
    /// `CMD_CFGI_STE_RANGE` and `CMD_CFGI_ALL` (4.3.2, 4.3.3).
    pub const CFGI_ALL: u8 = 0x04;
    /// `CMD_TLBI_NH_ASID` (4.4.2.2).
    pub const TLBI_NH_ASID: u8 = 0x11;
    /// `CMD_TLBI_NH_VA` (4.4.2.4).
    pub const TLBI_NH_VA: u8 = 0x12;
    /// `CMD_TLBI_S12_VMALL` (4.4.3.2).
    pub const TLBI_S12_VMALL: u8 = 0x28;
    /// `CMD_TLBI_S2_IPA` (4.4.3.1).
    pub const TLBI_S2_IPA: u8 = 0x2a;
    /// `CMD_TLBI_NSNH_ALL` (4.4.4.1).
    pub const TLBI_NSNH_ALL: u8 = 0x30;
}

/// What becomes of a command.
pub type Rewrite = dyn FnMut([u64; 2]) -> [u64; 2] + Send;

/// The registers of a machine, with somebody between the driver and the hardware who reads each
/// command in the queue before the hardware does, and may put another one in its slot.
///
/// As long as nobody was told to, nothing is changed. Clones are the same bank.
#[derive(Clone)]
pub struct CorruptingBank<B> {
    inner: B,
    memory: MockMemory,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    rewrite: Option<Box<Rewrite>>,
    stream_bits: Option<u32>,
    narrow_ids: bool,
    no_ranges: bool,
    granule: Option<Granule>,
    /// The slot of the last command that was changed.
    changed: Option<u64>,
    deaf: bool,
}

impl<B: RegisterBank> CorruptingBank<B> {
    /// In front of `inner`, the queue in `memory`.
    #[must_use]
    pub fn new(inner: B, memory: MockMemory) -> Self {
        Self {
            inner,
            memory,
            state: Arc::default(),
        }
    }

    /// A platform with such a bank, its hardware appearing to have no more than `setup` says.
    #[must_use]
    pub fn on<C>(
        platform: BasicPlatform<B, MockMemory, C>,
        setup: &Setup,
    ) -> BasicPlatform<Self, MockMemory, C> {
        let BasicPlatform {
            bank,
            memory,
            clock,
        } = platform;
        let bank = Self::new(bank, memory.clone());
        bank.claim(setup);
        BasicPlatform {
            bank,
            memory,
            clock,
        }
    }

    /// The bank underneath.
    #[must_use]
    pub fn inner(&self) -> &B {
        &self.inner
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts what `rewrite` returns in the place of each command from here on.
    pub fn rewrite(&self, rewrite: impl FnMut([u64; 2]) -> [u64; 2] + Send + 'static) {
        self.with(|state| state.rewrite = Some(Box::new(rewrite)));
    }

    /// Leaves commands alone again.
    pub fn behave(&self) {
        self.with(|state| state.rewrite = None);
    }

    /// Puts an illegal command in the place of the next one.
    pub fn corrupt_next(&self) {
        let mut done = false;
        self.rewrite(move |command| {
            if std::mem::replace(&mut done, true) {
                command
            } else {
                ILLEGAL
            }
        });
    }

    /// Leaves out the commands with these opcodes: the hardware finds a `CMD_SYNC` instead.
    pub fn leave_out(&self, opcodes: &'static [u8]) {
        self.rewrite(move |command| {
            let left_out = opcodes.contains(&command[0].to_le_bytes()[0]);
            if left_out { SYNC } else { command }
        });
    }

    /// The slot of the last command that was changed.
    #[must_use]
    pub fn changed_slot(&self) -> Option<u64> {
        self.with(|state| state.changed)
    }

    /// Keeps from the hardware that there are new commands, or no more.
    pub fn be_deaf(&self, deaf: bool) {
        self.with(|state| state.deaf = deaf);
    }

    /// Lets the hardware appear to have StreamIDs of this many bits.
    pub fn claim_stream_bits(&self, bits: u32) {
        self.with(|state| state.stream_bits = Some(bits));
    }

    /// Lets the hardware appear to have no more than `setup` says.
    pub fn claim(&self, setup: &Setup) {
        self.with(|state| {
            state.narrow_ids = setup.narrow_ids;
            state.no_ranges = !setup.range_invalidation;
            state.granule = setup.granule;
        });
    }

    /// Shows the commands between the producer's old and new place to the rewriter.
    fn submit(&self, prod: u32) {
        let Some(mut rewrite) = self.with(|state| state.rewrite.take()) else {
            return;
        };
        let base = self.inner.read64(CMDQ_BASE);
        let mask = (2 << (base & 0x1f)) - 1;
        let mut at = u64::from(self.inner.read32(CMDQ_PROD));
        while at != u64::from(prod) {
            let slot = (base & QUEUE_ADDRESS) + (at & (mask >> 1)) * 16;
            let words = [PhysAddr(slot), PhysAddr(slot + 8)];
            let command = words.map(|word| {
                self.memory
                    .read_word(word)
                    .expect("the queue is the driver's memory")
            });
            let rewritten = rewrite(command);
            if rewritten != command {
                self.with(|state| state.changed = Some(at & (mask >> 1)));
            }
            for (word, value) in words.into_iter().zip(rewritten) {
                self.memory
                    .write_word(word, value)
                    .expect("the queue is the driver's memory");
            }
            at = (at + 1) & mask;
        }
        self.with(|state| state.rewrite = Some(rewrite));
    }
}

impl<B: RegisterBank> RegisterBank for CorruptingBank<B> {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn read32(&self, offset: usize) -> u32 {
        let value = self.inner.read32(offset);
        self.with(|state| match (offset, state.stream_bits, state.granule) {
            (IDR0, ..) if state.narrow_ids => value & !WIDE_IDS,
            (IDR3, ..) if state.no_ranges => value & !RANGE_INVALIDATION,
            (IDR1, Some(bits), _) => value & !SIDSIZE | bits,
            (IDR5, _, Some(only)) => {
                let others = GRANULES.iter().filter(|(granule, _)| *granule != only);
                others.fold(value, |value, (_, bit)| value & !bit)
            }
            _ => value,
        })
    }

    fn write32(&self, offset: usize, value: u32) {
        if offset == CMDQ_PROD {
            if self.with(|state| state.deaf) {
                return;
            }
            self.submit(value);
        }
        self.inner.write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.inner.read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.inner.write64(offset, value);
    }
}

impl<B: fmt::Debug> fmt::Debug for CorruptingBank<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CorruptingBank({:?})", self.inner)
    }
}
