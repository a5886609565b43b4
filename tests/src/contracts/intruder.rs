//! An attacker who knows every address, and an oracle that knows what each stream may reach.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommu_core::PhysAddr;
use mock_hw::smmuv3::{CommandHook, SmmuModel};
use mock_hw::{Access, Outcome, StoreHook};

const PAGE: u64 = 0x1000;

/// What a stream may reach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum View {
    /// Every address, untranslated.
    Everything,
    /// These pages, by IOVA: where each goes, and whether it may be written. Without any, nothing.
    Pages(BTreeMap<u64, (u64, bool)>),
}

impl View {
    /// Nothing at all.
    #[must_use]
    pub fn nothing() -> Self {
        Self::Pages(BTreeMap::new())
    }

    /// One page more, for reading and writing.
    #[must_use]
    pub fn with(self, iova: u64, phys: PhysAddr) -> Self {
        self.and(iova, phys, true)
    }

    /// One page more, for reading alone.
    #[must_use]
    pub fn reading(self, iova: u64, phys: PhysAddr) -> Self {
        self.and(iova, phys, false)
    }

    fn and(mut self, iova: u64, phys: PhysAddr, write: bool) -> Self {
        if let Self::Pages(pages) = &mut self {
            pages.insert(iova, (phys.0, write));
        }
        self
    }

    /// Where an access goes, where it may go anywhere.
    fn at(&self, iova: u64, access: Access) -> Option<u64> {
        match self {
            Self::Everything => Some(iova),
            Self::Pages(pages) => {
                let (phys, write) = pages.get(&(iova & !(PAGE - 1)))?;
                let may = *write || access == Access::Read;
                may.then_some(phys + iova % PAGE)
            }
        }
    }
}

struct Stream {
    /// What it may reach, before the step that is under way and after it.
    old: View,
    new: View,
    /// Whether the step is about it; a stream that it is not about is not even interrupted.
    moves: bool,
}

#[derive(Default)]
struct State {
    streams: BTreeMap<u32, Stream>,
    /// Pages worth a try, as IOVAs.
    pages: BTreeSet<u64>,
    step: String,
    tries: u64,
    /// Between steps everything is read and written; during one, by turns.
    turn: bool,
    found: Vec<String>,
}

/// Sends DMA of several streams to every address that is of interest: the pages of all buffers and
/// tables, and everybody's IOVAs. What a stream reaches is compared with what it may.
#[derive(Clone)]
pub struct Intruder {
    model: SmmuModel,
    state: Arc<Mutex<State>>,
}

impl Intruder {
    /// An attacker behind the SMMU who can present these streams, each with what it may reach so
    /// far.
    #[must_use]
    pub fn new(model: &SmmuModel, streams: impl IntoIterator<Item = (u32, View)>) -> Self {
        let streams = streams.into_iter().map(|(stream, old)| {
            let new = old.clone();
            (
                stream,
                Stream {
                    old,
                    new,
                    moves: false,
                },
            )
        });
        let streams = streams.collect();
        Self {
            model: model.clone(),
            state: Arc::new(Mutex::new(State {
                streams,
                ..State::default()
            })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the attacker of an address.
    pub fn learn(&self, addr: u64) {
        self.state().pages.insert(addr & !(PAGE - 1));
    }

    /// What to call after each store of software: the attacker learns of the address, and tries.
    #[must_use]
    pub fn hook(&self) -> StoreHook {
        let intruder = self.clone();
        Arc::new(move |addr, _| {
            intruder.learn(addr.0);
            intruder.try_all(false);
        })
    }

    /// What to call after each command that the SMMU has consumed: the attacker tries.
    #[must_use]
    pub fn command_hook(&self) -> CommandHook {
        let intruder = self.clone();
        Arc::new(move |_, _| {
            // The hardware may get on with its commands while it translates for the attacker.
            let busy = intruder.state.try_lock().is_err();
            if !busy {
                intruder.try_all(false);
            }
        })
    }

    /// Does a step, after which each stream in `becomes` may reach what stands there and all others
    /// what they could before, without interruption. Meanwhile a stream in `becomes` may reach what
    /// it could before, what it can after, or nothing.
    pub fn step<R>(&self, what: &str, becomes: &[(u32, View)], act: impl FnOnce() -> R) -> R {
        self.begin(what, becomes);
        let result = act();
        self.end(true);
        result
    }

    /// As [`step`](Self::step), for one that may fail: where it does, every stream reaches what it
    /// could before.
    ///
    /// # Errors
    ///
    /// Those of `act`.
    pub fn attempt<T, E>(
        &self,
        what: &str,
        becomes: &[(u32, View)],
        act: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.begin(what, becomes);
        let result = act();
        self.end(result.is_ok());
        result
    }

    fn begin(&self, what: &str, becomes: &[(u32, View)]) {
        // Before the step, exactly what was.
        self.try_all(true);
        let state = &mut *self.state();
        state.step = what.into();
        for (stream, view) in becomes {
            if let Some(stream) = state.streams.get_mut(stream) {
                stream.new = view.clone();
                stream.moves = true;
            }
            if let View::Pages(pages) = view {
                state.pages.extend(pages.keys());
                state.pages.extend(pages.values().map(|(phys, _)| phys));
            }
        }
    }

    fn end(&self, done: bool) {
        for stream in self.state().streams.values_mut() {
            if done {
                stream.old = stream.new.clone();
            } else {
                stream.new = stream.old.clone();
            }
            stream.moves = false;
        }
        self.try_all(true);
    }

    fn try_all(&self, settled: bool) {
        let state = &mut *self.state();
        state.turn = !state.turn;
        let accesses: &[Access] = match (settled, state.turn) {
            (true, _) => &[Access::Read, Access::Write],
            (false, true) => &[Access::Read],
            (false, false) => &[Access::Write],
        };
        for (stream, may) in &state.streams {
            for page in &state.pages {
                for &access in accesses {
                    state.tries += 1;
                    let iova = page + 0x8;
                    let outcome = self.model.transact(*stream, None, iova, access);
                    let reached = match outcome {
                        Outcome::Translated(addr) => Some(addr.0),
                        _ => None,
                    };
                    let (old, new) = (may.old.at(iova, access), may.new.at(iova, access));
                    let right = if settled || !may.moves {
                        reached == new
                    } else {
                        reached.is_none() || reached == old || reached == new
                    };
                    if !right && state.found.len() < 10 {
                        state.found.push(format!(
                            "{} {}: {access:?} of {iova:#x} by stream {stream:#x} reached \
                             {reached:x?}; before {old:x?}, after {new:x?}",
                            if settled { "after" } else { "during" },
                            state.step,
                        ));
                    }
                }
            }
        }
    }

    /// How often an access was tried.
    #[must_use]
    pub fn tries(&self) -> u64 {
        self.state().tries
    }

    /// What was reached that must not be, or not reached that must be.
    #[must_use]
    pub fn found(&self) -> Vec<String> {
        self.state().found.clone()
    }
}

impl std::fmt::Debug for Intruder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intruder")
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}
