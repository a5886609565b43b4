//! A register bank whose hardware does not hear when it is called.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommu_core::RegisterBank;
use mock_hw::conformance::WaitFailure;

#[derive(Default)]
struct State {
    writes: usize,
    calls: usize,
    missed: Option<(usize, WaitFailure)>,
    dead: bool,
}

/// A bank around that of hardware which answers in memory: it is called by a write to one register,
/// the tail of its queue, once for each wait. A call that does not arrive is never answered.
#[derive(Clone)]
pub(super) struct DeafBank<B> {
    bank: B,
    tail: usize,
    state: Arc<Mutex<State>>,
}

impl<B> DeafBank<B> {
    pub(super) fn new(bank: B, tail: usize) -> Self {
        let state = Arc::default();
        Self { bank, tail, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of writes, to any register.
    pub(super) fn writes(&self) -> usize {
        self.state().writes
    }

    /// How often the hardware was called.
    pub(super) fn calls(&self) -> usize {
        self.state().calls
    }

    /// Lets a call not arrive. Later ones do, unless the hardware is dead from then on.
    pub(super) fn miss_call(&self, nth: usize, failure: WaitFailure) {
        self.state().missed = Some((nth, failure));
    }

    /// Lets the hardware hear again.
    pub(super) fn heal(&self) {
        let state = &mut *self.state();
        (state.missed, state.dead) = (None, false);
    }

    /// Whether a write arrives.
    fn arrives(&self, offset: usize) -> bool {
        let state = &mut *self.state();
        state.writes += 1;
        let mut missed = false;
        if offset == self.tail {
            if let Some((nth, failure)) = state.missed
                && nth == state.calls
            {
                missed = true;
                state.dead |= failure == WaitFailure::Dead;
            }
            state.calls += 1;
        }
        !(missed || state.dead)
    }
}

impl<B: RegisterBank> RegisterBank for DeafBank<B> {
    fn len(&self) -> usize {
        self.bank.len()
    }

    fn read32(&self, offset: usize) -> u32 {
        self.bank.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        if self.arrives(offset) {
            self.bank.write32(offset, value);
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        self.bank.read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        if self.arrives(offset) {
            self.bank.write64(offset, value);
        }
    }
}
