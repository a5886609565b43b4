//! The toy backend of `iommu-core/examples/toy_backend.rs`, with switches.

use std::sync::Arc;
use std::time::Duration;

use iommu_core::{
    Attached, Clock, DeviceControl, DeviceInfo, DmaBlock, DmaMemory, Domain, DomainRef, Error,
    ErrorKind, FirmwareRegion, IommuOps, Iova, Member, PagingConfig, Pasid, Platform, Probed,
    RegisterBank, Result, Slot, StreamId,
};
use lock_api::Mutex;
use mock_hw::conformance::FaultRecord;
use mock_hw::toy::{self, FORGET_CONTEXT, PASIDS, STREAMS};

use super::Break;
use super::table::Table;

// What a context says in bits 1:0.
const REFUSE: u64 = 0;
const PASS: u64 = 1;
const TRANSLATE: u64 = 2;

/// The driver. A cheap handle: one is given to the core, another kept for faults.
pub(super) struct Toy<P: Platform>(pub(super) Arc<Inner<P>>);

pub(super) struct Inner<P: Platform> {
    pub(super) broken: Option<Break>,
    /// What every context says when there is one table alone.
    one: Mutex<P::IrqLock, Option<u64>>,
    pub(super) platform: P,
    contexts: DmaBlock<P::Memory>,
    /// How many commands were queued: what `STATUS` says when all are done.
    pub(super) issued: Mutex<P::IrqLock, u32>,
    /// What the contexts say that firmware left translating.
    inherited: Vec<u64>,
    pins: Vec<FirmwareRegion>,
    blocked: DomainRef,
    identity: DomainRef,
}

impl<P: Platform> Toy<P> {
    /// Brings the hardware up: every stream is refused, but those that firmware pinned, which pass,
    /// and those that it left translating, which go on until they are used.
    pub(super) fn probe(
        platform: P,
        pins: Vec<FirmwareRegion>,
        broken: Option<Break>,
    ) -> Result<Self> {
        let count = (STREAMS * PASIDS) as usize;
        let contexts = DmaBlock::new(platform.memory(), count * 8, 4096, "contexts")?;
        let pinned = pins.iter().flat_map(|pin| &pin.streams);
        for stream in pinned.filter(|stream| stream.0 < STREAMS) {
            contexts.store(context(stream, 0), PASS);
        }
        if broken == Some(Break::OpenAtStart) {
            (0..count).for_each(|context| contexts.store(context, PASS));
        }
        let mut inherited = Vec::new();
        let bank = platform.bank();
        for context in (0..count).filter(|_| bank.read32(toy::CONTROL) & 1 != 0) {
            bank.write64(toy::INSPECT, context as u64);
            let word = bank.read64(toy::INSPECT);
            if word & 3 == TRANSLATE {
                contexts.store(context, word);
                inherited.push(word);
            }
        }
        platform.memory().write_barrier();
        bank.write64(toy::CONTEXTS, contexts.addr().0);
        bank.write32(toy::CONTROL, 1);
        let inner = Inner {
            broken,
            one: Mutex::new(None),
            issued: Mutex::new(bank.read32(toy::STATUS)),
            platform,
            contexts,
            inherited,
            pins,
            blocked: Domain::blocked(),
            identity: Domain::identity(),
        };
        inner.run((0..count as u64).map(|context| FORGET_CONTEXT | context << 16))?;
        Ok(Self(Arc::new(inner)))
    }

    /// The context of a device on `domain`; none where that is another IOMMU's.
    fn word(&self, domain: &DomainRef) -> Option<u64> {
        let is = |fixed| Arc::ptr_eq(domain, fixed);
        match domain.backend::<Table<P>>() {
            Some(_) if self.0.is(Break::PagingPasses) => Some(PASS),
            Some(table) if self.0.is(Break::OneTable) => {
                let own = table.words.addr().0 | TRANSLATE;
                Some(*self.0.one.lock().get_or_insert(own))
            }
            Some(table) => {
                let ours = Arc::ptr_eq(&table.toy, &self.0) || self.0.is(Break::ForeignTaken);
                ours.then_some(table.words.addr().0 | TRANSLATE)
            }
            None if is(&self.0.identity) && self.0.is(Break::IdentityBlocks) => Some(REFUSE),
            None if is(&self.0.identity) => Some(PASS),
            None if self.0.is(Break::ForeignTaken) => Some(REFUSE),
            None => is(&self.0.blocked).then_some(REFUSE),
        }
    }
}

pub(super) fn fail<T>(kind: ErrorKind, reason: &'static str) -> Result<T> {
    Err(Error::new(kind, reason))
}

/// The number of a context.
fn context(stream: &StreamId, pasid: u32) -> usize {
    (stream.0 * PASIDS + pasid) as usize
}

/// The numbers of the contexts that a move of `member` is about.
fn contexts(member: &Member, slot: Slot) -> impl Iterator<Item = usize> {
    let pasid = match slot {
        Slot::Rid => 0,
        Slot::Pasid(pasid) => pasid.get(),
    };
    let streams = member.streams().iter();
    streams.map(move |stream| context(stream, pasid))
}

impl<P: Platform> Inner<P> {
    pub(super) fn is(&self, broken: Break) -> bool {
        self.broken == Some(broken)
    }

    /// Queues commands and waits until they are done. Nobody else gets in between: simple, and good
    /// enough where nobody maps from an interrupt.
    pub(super) fn run(&self, commands: impl IntoIterator<Item = u64>) -> Result {
        let bank = self.platform.bank();
        self.platform.memory().write_barrier();
        let mut issued = self.issued.lock();
        for command in commands {
            bank.write64(toy::COMMAND, command);
            *issued = issued.wrapping_add(1);
        }
        let done = || (bank.read32(toy::STATUS) == *issued).then_some(());
        let done = self.platform.clock().poll(Duration::from_secs(1), done);
        done.ok_or(Error::new(ErrorKind::IommuTimedOut, "no answer"))
    }
}

impl<P: Platform> Drop for Inner<P> {
    fn drop(&mut self) {
        if self.is(Break::NeverOff) {
            return;
        }
        if self.is(Break::ContextsLeak) {
            self.contexts.leak();
        }
        if self.is(Break::UnknownCommand) {
            let _ = self.run([u64::MAX]);
        }
        self.platform.bank().write32(toy::CONTROL, 0);
        if self.platform.bank().read32(toy::CONTROL) != 0 {
            self.contexts.leak();
        }
    }
}

impl<P: Platform> IommuOps for Toy<P> {
    fn blocked_domain(&self) -> Option<DomainRef> {
        Some(self.0.blocked.clone())
    }

    fn identity_domain(&self) -> Option<DomainRef> {
        (!self.0.is(Break::IdentityMissing)).then(|| self.0.identity.clone())
    }

    fn paging_domain(&self, config: &PagingConfig) -> Result<DomainRef> {
        if *config != PagingConfig::default() && !self.0.is(Break::AnyStage) {
            return fail(ErrorKind::Unsupported, "a table is a table");
        }
        let words = DmaBlock::new(self.0.platform.memory(), 4096, 4096, "a table")?;
        let toy = self.0.clone();
        Ok(Domain::paging(Table { toy, words }))
    }

    fn probe(&self, device: &DeviceInfo, _: Arc<dyn DeviceControl>) -> Result<Probed> {
        let (streams, toy) = (device.stream_ids(), &*self.0);
        if streams.iter().any(|stream| stream.0 >= STREAMS) {
            return fail(ErrorKind::OutOfRange, "there is no such stream");
        }
        if toy.is(Break::ProbeKeeps) {
            let kept = DmaBlock::new(toy.platform.memory(), 8, 8, "half of a probe")?;
            kept.leak();
            DmaBlock::new(toy.platform.memory(), 8, 8, "the other half")?;
        }
        if toy.is(Break::ProbeOpens) {
            let all = streams.iter().map(|stream| context(stream, 0));
            all.clone()
                .for_each(|context| toy.contexts.store(context, PASS));
            toy.run(all.map(|context| FORGET_CONTEXT | (context as u64) << 16))?;
        }
        let word = |stream: &StreamId| toy.contexts.load(context(stream, 0));
        let firmware = |stream| toy.inherited.contains(&word(stream));
        let attached = if toy.is(Break::ProbeLies) {
            Attached::On(toy.blocked.clone())
        } else if streams.iter().any(firmware) {
            if toy.is(Break::DeferredTouches) {
                toy.platform.bank().write64(toy::FAULT, 0);
            }
            match toy.is(Break::DeferredDenied) {
                true => Attached::On(toy.blocked.clone()),
                false => Attached::Deferred,
            }
        } else if streams.iter().all(|stream| word(stream) == REFUSE) {
            Attached::On(toy.blocked.clone())
        } else if streams.iter().all(|stream| word(stream) == PASS) {
            Attached::On(toy.identity.clone())
        } else {
            let (old, new) = (None, toy.blocked.clone());
            Attached::Uncertain { old, new }
        };
        let forgotten = toy.is(Break::PinsForgotten);
        let concerns =
            |pin: &&FirmwareRegion| !forgotten && pin.streams.iter().any(|of| streams.contains(of));
        let reserved = toy.pins.iter().filter(concerns).map(|pin| pin.region);
        Ok(Probed {
            state: Box::new(()),
            reserved: reserved.collect(),
            attached,
            max_pasids: PASIDS - 1 - u32::from(toy.is(Break::PasidTooMany)),
        })
    }

    fn prepare(&self, member: &mut Member, slot: Slot) -> Result {
        let same = |new: &DomainRef| member.attached().is(new);
        if self.0.is(Break::Panics) && member.pending().is_some_and(same) {
            panic!("there is nothing to do");
        }
        if self.0.is(Break::BlockedAllocates) {
            DmaBlock::new(self.0.platform.memory(), 8, 8, "a new context")?;
        }
        if self.0.is(Break::PrepareMoves) {
            self.store(member, slot);
        }
        match member.pending().map(|new| self.word(new)) {
            Some(None) => fail(ErrorKind::InvalidArgument, "a domain of another IOMMU"),
            _ => Ok(()),
        }
    }

    fn cancel(&self, _: &mut Member, _: Slot) {
        if self.0.is(Break::CancelLeaks) {
            let reserved = DmaBlock::new(self.0.platform.memory(), 8, 8, "what was reserved");
            reserved.expect("memory enough").leak();
        }
    }

    fn commit(&self, members: &mut [Member], slot: Slot) -> Result {
        let moving = || members.iter().filter(|member| member.pending().is_some());
        let most = match self.0.broken {
            Some(Break::FirstMemberOnly) => 1,
            Some(Break::NothingMoves) => 0,
            _ => usize::MAX,
        };
        for member in moving().take(most) {
            self.store(member, slot);
            if self.0.is(Break::WaitsForEach) {
                self.0.run([])?;
                self.0.platform.bank().write64(toy::FAULT, 0);
            }
        }
        let stale = moving().flat_map(|member| self.contexts(member, slot));
        let stale = stale.map(|context| FORGET_CONTEXT | (context as u64) << 16);
        if !self.0.is(Break::StaleContexts) {
            let done = self.0.run(stale);
            done.or_else(|error| self.0.is(Break::WaitIgnored).then_some(()).ok_or(error))?;
        }
        members.iter_mut().for_each(Member::landed);
        Ok(())
    }

    fn quarantine(&self, members: &mut [Member]) {
        if self.0.is(Break::QuarantineIdle) {
            return;
        }
        if self.0.is(Break::QuarantineWaits) {
            let _ = self.0.run([FORGET_CONTEXT]);
        }
        for stream in members.iter().flat_map(|member| member.streams()) {
            let all = (0..PASIDS).map(|pasid| context(stream, pasid));
            all.for_each(|context| self.0.contexts.store(context, REFUSE));
        }
    }

    fn release(&self, member: &mut Member) {
        if self.0.is(Break::ReleaseWrites) {
            let contexts = contexts(member, Slot::Rid);
            contexts.for_each(|context| self.0.contexts.store(context, REFUSE));
        }
    }

    fn set_faults(&self, _: &mut Member, on: bool) -> Result {
        if on && !self.0.is(Break::PageFaultsPretended) {
            return fail(ErrorKind::Unsupported, "no page faults");
        }
        Ok(())
    }
}

impl<P: Platform> Toy<P> {
    /// The numbers of the contexts that a move of `member` is about.
    fn contexts(&self, member: &Member, slot: Slot) -> Vec<usize> {
        let slot = match slot {
            Slot::Pasid(_) if self.0.is(Break::PasidIsRid) => Slot::Rid,
            slot => slot,
        };
        let mut all: Vec<_> = contexts(member, slot).collect();
        if self.0.is(Break::FirstStreamOnly) {
            all.truncate(1);
        }
        if self.0.is(Break::AllStreamsLeave) && member.streams().len() == 1 {
            // The toy's devices that share streams have two, one after the other.
            all.extend(all.first().map(|first| first - PASIDS as usize));
        }
        all
    }

    /// Stores the contexts of a member that is to be moved.
    fn store(&self, member: &Member, slot: Slot) {
        let word = member.pending().and_then(|new| self.word(new));
        let word = word.unwrap_or(REFUSE);
        let ignored = match slot {
            Slot::Rid => self.0.is(Break::ParkIgnored),
            Slot::Pasid(_) => self.0.is(Break::PasidBlockedIgnored),
        };
        if word == REFUSE && ignored {
            return;
        }
        for context in self.contexts(member, slot) {
            if self.0.is(Break::OpenBetween) {
                self.0.contexts.store(context, PASS);
            }
            self.0.contexts.store(context, word);
        }
    }
}

impl<P: Platform> Toy<P> {
    /// The oldest fault that was not taken, as the suite wants to see it.
    pub(super) fn next_fault(&self) -> Option<FaultRecord> {
        let fault = self.0.platform.bank().read64(toy::FAULT);
        self.0.platform.bank().write64(toy::FAULT, 0);
        let context = u32::try_from(fault & 0xffff).ok()?;
        (fault >> 63 != 0 && !self.0.is(Break::FaultsLost)).then_some(FaultRecord {
            stream: StreamId(context / PASIDS),
            pasid: Pasid::new(context % PASIDS)
                .filter(|pasid| pasid.get() != 0 && !self.0.is(Break::FaultWithoutPasid)),
            iova: Iova(
                (fault >> 16 & 0xff_ffff_ffff) * 4096
                    + 4096 * u64::from(self.0.is(Break::FaultElsewhere)),
            ),
        })
    }
}
