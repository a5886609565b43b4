//! Somebody between the core and the backend who looks, and refuses where a rule wants it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommu_core::{
    Attached, DeviceControl, DeviceInfo, DomainKind, DomainRef, Error, ErrorKind, IommuOps, Member,
    PageRequest, PageResponse, PagingConfig, Probed, Result, Slot,
};

use crate::memory::MockMemory;

/// Which call to the backend is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Phase {
    /// None that is about a device.
    #[default]
    None,
    Probe,
    Prepare,
    Cancel,
    Commit,
    Quarantine,
    Release,
}

/// A call that ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    /// The kind of domain that the backend says the device is on, where it says so for certain.
    Probe(Found),
    Prepare,
    Cancel,
    /// How many members were to be moved.
    Commit(usize),
    Quarantine,
    /// With how many stores.
    Release(usize),
    /// Page faults were turned on or off, with this result.
    Faults(bool, bool),
}

/// What a backend says of a device that it got to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    On(DomainKind),
    Deferred,
    Unknown,
}

/// A moment to look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Moment {
    pub(crate) phase: Phase,
    /// The call is over; otherwise a word was stored.
    pub(crate) is_end: bool,
}

type Observer = Arc<dyn Fn(Moment) -> Option<String> + Send + Sync>;

#[derive(Default)]
struct State {
    phase: Phase,
    calls: Vec<Call>,
    observer: Option<Observer>,
    found: Option<String>,
    refuse: Option<usize>,
    panic: Option<String>,
}

/// What the spy saw. Shared by the spy, the memory's store hook and the rule.
#[derive(Default)]
pub(crate) struct Notes {
    stores: AtomicUsize,
    state: Mutex<State>,
}

impl Notes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the stores to `memory`, and looks after each.
    pub(crate) fn hook(self: &Arc<Self>, memory: &MockMemory) {
        let notes = self.clone();
        memory.set_store_hook(Some(Arc::new(move |_, _| {
            notes.stores.fetch_add(1, Ordering::Relaxed);
            notes.observe(false);
        })));
    }

    pub(crate) fn stores(&self) -> usize {
        self.stores.load(Ordering::Relaxed)
    }

    /// The calls since this was asked last.
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state().calls)
    }

    /// Lets the `nth` preparation from now on fail with `NoSpace`; the backend is not asked.
    pub(crate) fn refuse_preparation(&self, nth: Option<usize>) {
        self.state().refuse = nth;
    }

    /// From here on `observer` looks after each store and each call; what it first finds is kept.
    pub(crate) fn watch(&self, observer: Observer) {
        self.state().observer = Some(observer);
    }

    /// Ends [`watch`](Self::watch); what was found.
    pub(crate) fn found(&self) -> Option<String> {
        let state = &mut *self.state();
        state.observer = None;
        state.found.take()
    }

    fn observe(&self, is_end: bool) {
        let (observer, phase) = {
            let state = self.state();
            (state.observer.clone(), state.phase)
        };
        if let Some(observer) = observer
            && let Some(found) = observer(Moment { phase, is_end })
        {
            self.state().found.get_or_insert(found);
        }
    }

    /// How the backend panicked, if it did.
    pub(crate) fn panicked(&self) -> Option<String> {
        self.state().panic.take()
    }

    /// Calls the backend. A panic goes no further: it would meet others in destructors, and end the
    /// process.
    fn guard<T>(&self, what: &str, call: impl FnOnce() -> Result<T>) -> Result<T> {
        // What a panic leaves half done is a finding, and nobody relies on it.
        catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
            let how = format!("{what} panics: {}", words(&*panic));
            self.state().panic.get_or_insert(how);
            Err(Error::new(ErrorKind::Internal, "the backend panics"))
        })
    }

    fn begin(&self, phase: Phase) {
        self.state().phase = phase;
    }

    fn end(&self, call: Call) {
        self.observe(true);
        let state = &mut *self.state();
        state.phase = Phase::None;
        state.calls.push(call);
    }

    fn refuses(&self) -> bool {
        let refuse = &mut self.state().refuse;
        match refuse {
            Some(0) => {
                *refuse = None;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }
}

/// What somebody said who panicked.
pub(crate) fn words(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    let fixed = panic.downcast_ref::<&str>().copied();
    owned.or(fixed).unwrap_or("without a word")
}

/// The backend as the core sees it.
pub(crate) struct Spy {
    pub(crate) ops: Box<dyn IommuOps>,
    pub(crate) notes: Arc<Notes>,
}

impl IommuOps for Spy {
    fn blocked_domain(&self) -> Option<DomainRef> {
        self.ops.blocked_domain()
    }

    fn identity_domain(&self) -> Option<DomainRef> {
        self.ops.identity_domain()
    }

    fn release_domain(&self) -> Option<DomainRef> {
        self.ops.release_domain()
    }

    fn paging_domain(&self, config: &PagingConfig) -> Result<DomainRef> {
        let made = || self.ops.paging_domain(config);
        self.notes.guard("making a paging domain", made)
    }

    fn probe(&self, device: &DeviceInfo, control: Arc<dyn DeviceControl>) -> Result<Probed> {
        self.notes.begin(Phase::Probe);
        let probed = || self.ops.probe(device, control);
        let probed = self.notes.guard("a probe", probed);
        let found = match probed.as_ref().map(|probed| &probed.attached) {
            Ok(Attached::On(domain)) => Found::On(domain.kind()),
            Ok(Attached::Deferred) => Found::Deferred,
            _ => Found::Unknown,
        };
        self.notes.end(Call::Probe(found));
        probed
    }

    fn prepare(&self, member: &mut Member, slot: Slot) -> Result {
        if self.notes.refuses() {
            return Err(Error::new(ErrorKind::NoSpace, "the suite refuses"));
        }
        self.notes.begin(Phase::Prepare);
        let result = || self.ops.prepare(member, slot);
        let result = self.notes.guard("a preparation", result);
        self.notes.end(Call::Prepare);
        result
    }

    fn cancel(&self, member: &mut Member, slot: Slot) {
        self.notes.begin(Phase::Cancel);
        let cancel = || {
            self.ops.cancel(member, slot);
            Ok(())
        };
        // Noted is all it can be.
        let _ = self.notes.guard("a cancellation", cancel);
        self.notes.end(Call::Cancel);
    }

    fn commit(&self, members: &mut [Member], slot: Slot) -> Result {
        let moving = members.iter().filter(|member| member.pending().is_some());
        let moving = moving.count();
        self.notes.begin(Phase::Commit);
        let result = || self.ops.commit(members, slot);
        let result = self.notes.guard("a commit", result);
        self.notes.end(Call::Commit(moving));
        result
    }

    fn quarantine(&self, members: &mut [Member]) {
        self.notes.begin(Phase::Quarantine);
        let quarantine = || {
            self.ops.quarantine(members);
            Ok(())
        };
        let _ = self.notes.guard("a quarantine", quarantine);
        self.notes.end(Call::Quarantine);
    }

    fn set_faults(&self, member: &mut Member, on: bool) -> Result {
        let result = || self.ops.set_faults(member, on);
        let result = self.notes.guard("a switch of page faults", result);
        let call = Call::Faults(on, result.is_ok());
        self.notes.state().calls.push(call);
        result
    }

    fn answer(&self, last: &PageRequest, response: PageResponse) {
        self.ops.answer(last, response);
    }

    fn isolates_msis(&self) -> bool {
        self.ops.isolates_msis()
    }

    fn release(&self, member: &mut Member) {
        let before = self.notes.stores();
        self.notes.begin(Phase::Release);
        let release = || {
            self.ops.release(member);
            Ok(())
        };
        let _ = self.notes.guard("a release", release);
        self.notes.end(Call::Release(self.notes.stores() - before));
    }
}
