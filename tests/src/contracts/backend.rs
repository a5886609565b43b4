//! A mocked backend that records every call, and fails where a test tells it to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommu_core::{
    AddrRange, Attached, DefaultDomain, DeviceControl, DmaBlock, Domain, DomainRef, Error,
    ErrorKind, Fault, FaultHandler, Geometry, Iommu, IommuConfig, Member, Probed, Prot, Result,
    Slot, StreamId,
};
use mock_hw::{MockIommuOps, MockMemory, MockPagingOps};

/// Which members a failure hits.
pub type Trap = Box<dyn Fn(&Member, Slot) -> bool + Send>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What happened, in order, as text.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    /// Notes something.
    pub fn push(&self, entry: impl Into<String>) {
        locked(&self.0).push(entry.into());
    }

    /// What was noted since the last call.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut locked(&self.0))
    }

    /// As [`take`](Self::take), but only the entries that begin with one of `words`.
    pub fn take_of(&self, words: &[&str]) -> Vec<String> {
        let mut all = self.take();
        all.retain(|entry| words.iter().any(|word| entry.starts_with(word)));
        all
    }
}

/// What goes wrong, and what the backend saw last.
#[derive(Default)]
struct Plan {
    refuse: Option<Trap>,
    lose: Option<Trap>,
    refuse_faults: Option<Trap>,
    names: BTreeMap<usize, String>,
    streams: BTreeMap<String, Vec<StreamId>>,
    entries: BTreeMap<StreamId, String>,
}

impl Plan {
    fn name(&self, domain: &DomainRef) -> String {
        let known = self.names.get(&Arc::as_ptr(domain).addr());
        known.map_or_else(|| format!("{:?}", domain.kind()), Clone::clone)
    }

    fn on(&self, attached: Option<&Attached>) -> String {
        match attached {
            None => "nothing".into(),
            Some(Attached::Deferred) => "deferred".into(),
            Some(Attached::On(domain)) => self.name(domain),
            Some(Attached::Uncertain { .. }) => "uncertain".into(),
            Some(Attached::Quarantined { .. }) => "quarantined".into(),
        }
    }
}

fn hits(trap: Option<&Trap>, member: &Member, slot: Slot) -> bool {
    trap.is_some_and(|trap| trap(member, slot))
}

fn slot_name(slot: Slot) -> String {
    match slot {
        Slot::Rid => "rid".into(),
        Slot::Pasid(pasid) => format!("pasid {}", pasid.get()),
    }
}

fn slot_of(member: &Member, slot: Slot) -> Option<&Attached> {
    match slot {
        Slot::Rid => Some(member.attached()),
        Slot::Pasid(pasid) => member.attached_pasid(pasid),
    }
}

/// A backend to make cores of. Every call to it is in [`log`](Self::log):
///
/// - `prepare NAME SLOT to DOMAIN`, `cancel NAME SLOT`;
/// - `commit SLOT NAME: OLD -> NEW, …`;
/// - `faults on NAME`, `faults off NAME`, `answer STREAM tag TAG RESPONSE`;
/// - `quarantine NAME, …`, `release NAME on DOMAIN with FAULT_USERS`.
pub struct Backend {
    /// The domain that refuses everything.
    pub blocked: DomainRef,
    /// The domain that passes everything.
    pub identity: Option<DomainRef>,
    /// What probed devices are on; `None` for the blocked domain.
    found: Option<Attached>,
    /// How many PASIDs the devices whose names are here have.
    pasids: BTreeMap<&'static str, u32>,
    isolates_msis: bool,
    /// What the backend was asked to do.
    pub log: Log,
    plan: Arc<Mutex<Plan>>,
}

impl Default for Backend {
    fn default() -> Self {
        let (blocked, identity) = (Domain::blocked(), Domain::identity());
        let backend = Self {
            blocked,
            identity: Some(identity),
            found: None,
            pasids: BTreeMap::new(),
            isolates_msis: false,
            log: Log::default(),
            plan: Arc::default(),
        };
        backend.name(&backend.blocked, "blocked");
        if let Some(identity) = &backend.identity {
            backend.name(identity, "identity");
        }
        backend
    }
}

impl Backend {
    /// A backend whose devices of these names have 16 PASIDs each.
    #[must_use]
    pub fn with_pasids(names: &[&'static str]) -> Self {
        let some = names.iter().map(|name| (*name, 16));
        Self::default().and_pasids(some)
    }

    /// A backend whose devices are found deferred.
    #[must_use]
    pub fn deferred() -> Self {
        Self {
            found: Some(Attached::Deferred),
            ..Self::default()
        }
    }

    /// The same backend, these devices having that many PASIDs.
    #[must_use]
    pub fn and_pasids(mut self, some: impl IntoIterator<Item = (&'static str, u32)>) -> Self {
        self.pasids.extend(some);
        self
    }

    /// The same backend, on hardware that keeps interrupt messages apart or does not.
    #[must_use]
    pub fn and_msis_isolated(mut self, isolates_msis: bool) -> Self {
        self.isolates_msis = isolates_msis;
        self
    }

    /// Gives `domain` a name in the log.
    pub fn name(&self, domain: &DomainRef, name: &str) {
        let at = Arc::as_ptr(domain).addr();
        locked(&self.plan).names.insert(at, name.into());
    }

    /// A paging domain with a name in the log. It maps whatever it is asked to.
    #[must_use]
    pub fn domain(&self, name: &str) -> DomainRef {
        let domain = paging();
        self.name(&domain, name);
        domain
    }

    /// Lets preparations of these members fail with `NoSpace`.
    pub fn refuse(&self, trap: impl Fn(&Member, Slot) -> bool + Send + 'static) {
        locked(&self.plan).refuse = Some(Box::new(trap));
    }

    /// Lets commits of these members end unconfirmed, with `IommuTimedOut`.
    pub fn lose(&self, trap: impl Fn(&Member, Slot) -> bool + Send + 'static) {
        locked(&self.plan).lose = Some(Box::new(trap));
    }

    /// Lets turning page faults on fail for these members, with `Unsupported`.
    pub fn refuse_faults(&self, trap: impl Fn(&Member, Slot) -> bool + Send + 'static) {
        locked(&self.plan).refuse_faults = Some(Box::new(trap));
    }

    /// From here on everything succeeds again.
    pub fn obey(&self) {
        let mut plan = locked(&self.plan);
        (plan.refuse, plan.lose, plan.refuse_faults) = (None, None, None);
    }

    /// The streams that the last commit with the device of this name moved for it.
    #[must_use]
    pub fn moved_streams(&self, name: &str) -> Vec<StreamId> {
        let plan = locked(&self.plan);
        plan.streams.get(name).cloned().unwrap_or_default()
    }

    /// What the entry of a stream was last written to be, whoever presented it; nothing where it
    /// is as the device was found.
    #[must_use]
    pub fn entry(&self, stream: u32) -> String {
        let plan = locked(&self.plan);
        let entry = plan.entries.get(&StreamId(stream));
        entry.cloned().unwrap_or_default()
    }

    /// A core on this backend.
    ///
    /// # Panics
    ///
    /// Where the core refuses it.
    #[must_use]
    pub fn core(&self, default: DefaultDomain) -> Iommu {
        let core = Iommu::with_config(self.ops(), config(default));
        core.expect("a backend like this is accepted")
    }

    /// The backend itself.
    #[must_use]
    pub fn ops(&self) -> MockIommuOps {
        let mut ops = MockIommuOps::new();
        self.expect_domains(&mut ops);
        self.expect_attaches(&mut ops);
        self.expect_the_rest(&mut ops);
        ops
    }

    fn expect_domains(&self, ops: &mut MockIommuOps) {
        ops.expect_blocked_domain()
            .return_const(Some(self.blocked.clone()));
        ops.expect_release_domain()
            .return_const(Some(self.blocked.clone()));
        ops.expect_identity_domain()
            .return_const(self.identity.clone());
        let plan = self.plan.clone();
        ops.expect_paging_domain().returning(move |_| {
            let domain = paging();
            let at = Arc::as_ptr(&domain).addr();
            // Addresses are used again; a name given to an earlier domain is not.
            locked(&plan).names.insert(at, "paging".into());
            Ok(domain)
        });
        let (found, pasids) = (self.found.clone(), self.pasids.clone());
        let blocked = self.blocked.clone();
        ops.expect_probe().returning(move |info, _| {
            Ok(Probed {
                state: Box::new(()),
                reserved: Vec::new(),
                attached: found.clone().unwrap_or(Attached::On(blocked.clone())),
                max_pasids: pasids.get(info.name()).copied().unwrap_or(0),
            })
        });
    }

    fn expect_attaches(&self, ops: &mut MockIommuOps) {
        let (log, plan) = (self.log.clone(), self.plan.clone());
        ops.expect_prepare().returning(move |member, slot| {
            let plan = locked(&plan);
            let to = member.pending().map(|new| plan.name(new));
            log.push(format!(
                "prepare {} {} to {}",
                member.name(),
                slot_name(slot),
                to.unwrap_or_default()
            ));
            if hits(plan.refuse.as_ref(), member, slot) {
                return Err(Error::new(ErrorKind::NoSpace, "as the test wants it"));
            }
            Ok(())
        });
        let log = self.log.clone();
        ops.expect_cancel().returning(move |member, slot| {
            log.push(format!("cancel {} {}", member.name(), slot_name(slot)));
        });
        let (log, plan) = (self.log.clone(), self.plan.clone());
        ops.expect_commit().returning(move |members, slot| {
            let mut plan = locked(&plan);
            let mut moves = Vec::new();
            let mut result = Ok(());
            for member in members {
                let Some(new) = member.pending() else {
                    continue;
                };
                let (old, new) = (plan.on(slot_of(member, slot)), plan.name(new));
                moves.push(format!("{}: {old} -> {new}", member.name()));
                let streams = member.streams().to_vec();
                if slot == Slot::Rid {
                    let entries = streams.iter().map(|stream| (*stream, new.clone()));
                    plan.entries.extend(entries);
                }
                plan.streams.insert(member.name().into(), streams);
                if hits(plan.lose.as_ref(), member, slot) {
                    result = Err(Error::new(ErrorKind::IommuTimedOut, "as the test wants it"));
                } else {
                    member.landed();
                }
            }
            log.push(format!("commit {} {}", slot_name(slot), moves.join(", ")));
            result
        });
    }

    fn expect_the_rest(&self, ops: &mut MockIommuOps) {
        let (log, plan) = (self.log.clone(), self.plan.clone());
        ops.expect_set_faults().returning(move |member, on| {
            let word = if on { "on" } else { "off" };
            log.push(format!("faults {word} {}", member.name()));
            let refused = hits(locked(&plan).refuse_faults.as_ref(), member, member.slot());
            if on && refused {
                return Err(Error::new(ErrorKind::Unsupported, "as the test wants it"));
            }
            Ok(())
        });
        let log = self.log.clone();
        ops.expect_answer().returning(move |last, response| {
            log.push(format!(
                "answer {:#x} tag {} {response:?}",
                last.stream.0, last.tag
            ));
        });
        ops.expect_isolates_msis().return_const(self.isolates_msis);
        let log = self.log.clone();
        ops.expect_quarantine().returning(move |members| {
            let names: Vec<_> = members.iter().map(|member| member.name()).collect();
            log.push(format!("quarantine {}", names.join(", ")));
        });
        let (log, plan) = (self.log.clone(), self.plan.clone());
        ops.expect_release().returning(move |member| {
            log.push(format!(
                "release {} on {} with {}",
                member.name(),
                locked(&plan).on(Some(member.attached())),
                member.fault_users()
            ));
        });
    }
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend")
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}

/// A core's configuration with this default domain.
#[must_use]
pub fn config(default_domain: DefaultDomain) -> IommuConfig {
    IommuConfig {
        default_domain,
        ..IommuConfig::default()
    }
}

/// A paging domain that maps whatever it is asked to.
fn paging() -> DomainRef {
    let mut ops = MockPagingOps::new();
    let all = AddrRange::inclusive(0, (1 << 48) - 1).expect("not empty");
    ops.expect_geometry().return_const(Geometry {
        aperture: all,
        physical: all,
        page_sizes: 1 << 12,
    });
    ops.expect_map().returning(|_, _, _, _| Ok(()));
    ops.expect_unmap().returning(|_, _| Ok(()));
    ops.expect_translate().return_const(None);
    Domain::paging(ops)
}

/// A device's switches, that note how they are set.
#[derive(Debug)]
pub struct Control {
    name: &'static str,
    log: Log,
    reachable: bool,
}

impl Control {
    /// The switches of the device `name`, noted in `log` as `ats on NAME` and `ats off NAME`.
    #[must_use]
    pub fn new(name: &'static str, log: &Log) -> Arc<Self> {
        Arc::new(Self {
            name,
            log: log.clone(),
            reachable: true,
        })
    }

    /// Those of a device that does not answer.
    #[must_use]
    pub fn gone(name: &'static str, log: &Log) -> Arc<Self> {
        Arc::new(Self {
            name,
            log: log.clone(),
            reachable: false,
        })
    }
}

impl DeviceControl for Control {
    fn is_reachable(&self) -> bool {
        self.reachable
    }

    fn set_ats(&self, on: bool) -> Result {
        let word = if on { "on" } else { "off" };
        self.log.push(format!("ats {word} {}", self.name));
        Ok(())
    }
}

struct Handler<F>(F);

impl<F: Fn(Fault) + Send + Sync + 'static> FaultHandler for Handler<F> {
    fn handle(&self, fault: Fault) {
        (self.0)(fault);
    }
}

/// A fault handler that is a closure.
#[must_use]
pub fn handler(handle: impl Fn(Fault) + Send + Sync + 'static) -> Arc<dyn FaultHandler> {
    Arc::new(Handler(handle))
}

/// A page of memory to map.
///
/// # Panics
///
/// Where memory is exhausted.
#[must_use]
pub fn block(memory: &MockMemory) -> DmaBlock<MockMemory> {
    DmaBlock::new(memory, 4096, 4096, "a buffer").expect("there is memory enough")
}

/// Read and write.
#[must_use]
pub fn rw() -> Prot {
    Prot::READ | Prot::WRITE
}
