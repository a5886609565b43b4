//! Hardware that breaks, around any register bank.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommu_core::RegisterBank;

use crate::chance::Chance;

/// Something that goes wrong with a register bank. All counts are from 0, and begin with the bank or
/// with [`FaultInjector::restart`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The answer to this wait never comes: the register that is polled goes on reading as if nothing
    /// had been asked for. All other registers work, and the hardware does what it was told.
    StuckWait(usize),
    /// The hardware dies before it answers this wait: as [`StuckWait`](Self::StuckWait), for all
    /// registers that are polled from then on, and no later write reaches it.
    DeadFromWait(usize),
    /// From its `nth` read on, a register reads as it did then.
    FrozenRead {
        /// Where the register is, in bytes.
        offset: usize,
        /// Which read of it.
        nth: usize,
    },
    /// One read of a register gives this word.
    GarbageRead {
        /// Where the register is, in bytes.
        offset: usize,
        /// Which read of it.
        nth: usize,
        /// What is read; 32-bit reads give the lower half.
        value: u64,
    },
    /// One write, of all writes, is lost.
    DroppedWrite(usize),
    /// From this access on, of all reads and writes, nobody answers: reads give ones, writes are lost.
    Gone(usize),
    /// Each access goes wrong once in this many times, by chance: a read gives a word of chance, a
    /// write is lost.
    Noise {
        /// The average number of accesses per fault.
        one_in: usize,
        /// Decides which ones, and what is read.
        seed: u64,
    },
}

/// What happened to a register that is polled.
#[derive(Default)]
struct Polled {
    /// Something was written since it was read last.
    asked: bool,
    /// What it read before that, as far as somebody may want to know.
    before: u64,
    /// What it reads for ever.
    stuck: Option<u64>,
}

#[derive(Default)]
struct State {
    faults: Vec<Fault>,
    chance: Option<(Chance, usize)>,
    waits: usize,
    reads: BTreeMap<usize, usize>,
    writes: usize,
    accesses: usize,
    polled: BTreeMap<usize, Polled>,
    frozen: BTreeMap<usize, u64>,
    dead: bool,
}

/// A bank around another one that may go wrong. A clone is a handle to the same bank.
///
/// It counts *waits*, so that a test can try every one of them: a wait begins with a read of a register
/// that is polled, after anything was written since it was read last. Reads of the same register that
/// follow belong to it until something is written.
///
/// ```
/// use iommu_core::RegisterBank;
/// use mock_hw::bank::RegisterFile;
/// use mock_hw::fault::{Fault, FaultInjector};
///
/// // CR0 at 0x20 is acknowledged at 0x24, by nobody here.
/// let bank = FaultInjector::new(RegisterFile::new(0x40), [0x24]);
/// bank.write32(0x20, 1);
/// while bank.waits() < 2 {
///     bank.read32(0x24);
///     bank.write32(0x20, 0);
/// }
/// bank.inject(Fault::DroppedWrite(bank.writes()));
/// bank.write32(0x20, 7);
/// assert_eq!(bank.read32(0x20), 0);
/// ```
pub struct FaultInjector<B> {
    shared: Arc<Shared<B>>,
}

struct Shared<B> {
    bank: B,
    polled: Vec<usize>,
    /// Never held while the bank is accessed: that may lead to another access.
    state: Mutex<State>,
}

impl<B> Clone for FaultInjector<B> {
    fn clone(&self) -> Self {
        let shared = self.shared.clone();
        Self { shared }
    }
}

/// The registers of an SMMUv3 that software polls: CR0ACK, GBPA, IRQ_CTRLACK and CMDQ_CONS.
pub const SMMUV3_POLLED: [usize; 4] = [0x24, 0x44, 0x54, 0x9c];

/// How a register is accessed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Word,
    Double,
}

impl<B: RegisterBank> FaultInjector<B> {
    /// A bank that works, of which the registers at these offsets are polled. They are 32 bits wide.
    #[must_use]
    pub fn new(bank: B, polled: impl IntoIterator<Item = usize>) -> Self {
        let shared = Shared {
            bank,
            polled: polled.into_iter().collect(),
            state: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The bank underneath, which works.
    #[must_use]
    pub fn inner(&self) -> &B {
        &self.shared.bank
    }

    /// Lets one more thing go wrong.
    pub fn inject(&self, fault: Fault) {
        let mut state = self.state();
        if let Fault::Noise { one_in, seed } = fault {
            state.chance = Some((Chance::new(seed), one_in));
        }
        state.faults.push(fault);
    }

    /// Lets everything work again. What was lost is lost, and counts go on.
    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.chance = None;
        state.frozen.clear();
        state.dead = false;
        for polled in state.polled.values_mut() {
            polled.stuck = None;
        }
    }

    /// Counts from 0 again, for faults too. Faults that came stay.
    pub fn restart(&self) {
        let mut state = self.state();
        (state.waits, state.writes, state.accesses) = (0, 0, 0);
        state.reads.clear();
    }

    /// The number of waits.
    #[must_use]
    pub fn waits(&self) -> usize {
        self.state().waits
    }

    /// The number of reads of one register.
    #[must_use]
    pub fn reads(&self, offset: usize) -> usize {
        self.state().reads.get(&offset).copied().unwrap_or(0)
    }

    /// The number of writes.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.state().writes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = &self.shared.state;
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, offset: usize, width: Width) -> u64 {
        let polled = self.shared.polled.contains(&offset);
        let (nth, instead) = self.state().begin_read(offset, polled);
        if let Some(value) = instead {
            return value;
        }
        let value = match width {
            Width::Word => u64::from(self.shared.bank.read32(offset)),
            Width::Double => self.shared.bank.read64(offset),
        };
        self.state().end_read(offset, nth, value)
    }

    fn write(&self, offset: usize, value: u64, width: Width) {
        let samples = self.state().wanted(&self.shared.polled, offset);
        for at in samples {
            let before = u64::from(self.shared.bank.read32(at));
            self.state().polled.entry(at).or_default().before = before;
        }
        if !self.state().begin_write(&self.shared.polled, offset, value) {
            return;
        }
        match width {
            Width::Word => self.shared.bank.write32(offset, low_half(value)),
            Width::Double => self.shared.bank.write64(offset, value),
        }
    }
}

impl State {
    /// Which read of the register it is, and what it gives if the bank is not asked.
    fn begin_read(&mut self, offset: usize, polled: bool) -> (usize, Option<u64>) {
        let nth = self.count_read(offset);
        if self.is_gone() {
            return (nth, Some(u64::MAX));
        }
        let stuck = self.stuck(offset, polled);
        (nth, stuck.or_else(|| self.frozen.get(&offset).copied()))
    }

    /// What a read gives where the bank gave `value`.
    fn end_read(&mut self, offset: usize, nth: usize, mut value: u64) -> u64 {
        if let Some((chance, one_in)) = &mut self.chance
            && chance.one_in(*one_in)
        {
            value = chance.word();
        }
        for fault in &self.faults {
            match *fault {
                Fault::GarbageRead {
                    offset: of,
                    nth: which,
                    value: garbage,
                } if (of, which) == (offset, nth) => value = garbage,
                _ => {}
            }
        }
        if self.faults.contains(&Fault::FrozenRead { offset, nth }) {
            self.frozen.insert(offset, value);
        }
        value
    }

    /// The registers of which it is to be known how they read before a write of `offset`.
    fn wanted(&self, polled: &[usize], offset: usize) -> Vec<usize> {
        let asked = |at: &usize| self.polled.get(at).is_some_and(|polled| polled.asked);
        let matters = |fault: &Fault| matches!(fault, Fault::StuckWait(_) | Fault::DeadFromWait(_));
        let wanted = |at: &&usize| **at != offset && !asked(at);
        if self.faults.iter().any(matters) {
            polled.iter().filter(wanted).copied().collect()
        } else {
            Vec::new()
        }
    }

    /// Whether a write reaches the bank.
    fn begin_write(&mut self, polled: &[usize], offset: usize, value: u64) -> bool {
        let nth = self.writes;
        self.writes += 1;
        for at in polled {
            let polled = self.polled.entry(*at).or_default();
            polled.asked = true;
            if *at == offset {
                // It acknowledges itself, as GBPA does.
                polled.before = value;
            }
        }
        let noisy = self.chance.as_mut();
        let lost = noisy.is_some_and(|(chance, one_in)| chance.one_in(*one_in));
        let dropped = self.faults.contains(&Fault::DroppedWrite(nth));
        !(self.is_gone() || self.dead || lost || dropped)
    }

    fn count_read(&mut self, offset: usize) -> usize {
        let count = self.reads.entry(offset).or_insert(0);
        *count += 1;
        *count - 1
    }

    /// Whether nobody answers the access at hand.
    fn is_gone(&mut self) -> bool {
        let access = self.accesses;
        self.accesses += 1;
        let mut faults = self.faults.iter();
        faults.any(|fault| matches!(fault, Fault::Gone(from) if *from <= access))
    }

    fn next_wait_fails(&self) -> bool {
        let next = self.waits;
        self.dead
            || self.faults.contains(&Fault::StuckWait(next))
            || self.faults.contains(&Fault::DeadFromWait(next))
    }

    /// Counts waits; what a register reads whose answer never comes.
    fn stuck(&mut self, offset: usize, is_polled: bool) -> Option<u64> {
        if !is_polled {
            return None;
        }
        let fails = self.next_wait_fails();
        let next = self.waits;
        let polled = self.polled.entry(offset).or_default();
        if std::mem::take(&mut polled.asked) {
            self.waits += 1;
            if fails {
                polled.stuck.get_or_insert(polled.before);
                let dies = Fault::DeadFromWait(next);
                self.dead = self.dead || self.faults.contains(&dies);
            }
        }
        polled.stuck
    }
}

fn low_half(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

impl<B: RegisterBank> RegisterBank for FaultInjector<B> {
    fn len(&self) -> usize {
        self.shared.bank.len()
    }

    fn read32(&self, offset: usize) -> u32 {
        low_half(self.read(offset, Width::Word))
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, u64::from(value), Width::Word);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.read(offset, Width::Double)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, value, Width::Double);
    }
}

impl<B: std::fmt::Debug> std::fmt::Debug for FaultInjector<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultInjector")
            .field("bank", &self.shared.bank)
            .field("polled", &self.shared.polled)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
