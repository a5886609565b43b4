//! A whole backend, for the toy IOMMU of `mock_hw::toy`, and the conformance suite at work on it.

use std::ops::Range;
use std::result::Result as Outcome;
use std::sync::Arc;
use std::time::Duration;

use iommu_core::{
    AddrRange, Attached, Clock, DeviceControl, DeviceInfo, DmaBlock, DmaMemory, Domain, DomainRef,
    Error, ErrorKind, FirmwareRegion, Geometry, IommuOps, Iova, MapError, Member, PagingConfig,
    PagingOps, Pasid, PhysAddr, Platform, Probed, Prot, RegisterBank, Result, Slot, StreamId,
};
use lock_api::Mutex;
use mock_hw::conformance::{self, FaultRecord};
use mock_hw::toy::{self, FORGET_CONTEXT, FORGET_PAGE, FORGET_TABLE, PAGES, PASIDS, STREAMS};

// What a context says in bits 1:0.
const REFUSE: u64 = 0;
const PASS: u64 = 1;
const TRANSLATE: u64 = 2;

/// The driver. A cheap handle: one is given to the core, another kept for faults.
struct Toy<P: Platform>(Arc<Inner<P>>);

struct Inner<P: Platform> {
    platform: P,
    contexts: DmaBlock<P::Memory>,
    /// How many commands were queued: what `STATUS` says when all are done.
    issued: Mutex<P::IrqLock, u32>,
    /// What the contexts say that firmware left translating.
    inherited: Vec<u64>,
    pins: Vec<FirmwareRegion>,
    blocked: DomainRef,
    identity: DomainRef,
}

impl<P: Platform> Toy<P> {
    /// Brings the hardware up: every stream is refused, but those that firmware pinned, which pass,
    /// and those that it left translating, which go on until they are used.
    fn probe(platform: P, pins: Vec<FirmwareRegion>) -> Result<Self> {
        let count = (STREAMS * PASIDS) as usize;
        let contexts = DmaBlock::new(platform.memory(), count * 8, 4096, "contexts")?;
        let pinned = pins.iter().flat_map(|pin| &pin.streams);
        for stream in pinned.filter(|stream| stream.0 < STREAMS) {
            contexts.store(context(stream, 0), PASS);
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
            Some(table) if !Arc::ptr_eq(&table.toy, &self.0) => None,
            Some(table) => Some(table.words.addr().0 | TRANSLATE),
            None if is(&self.0.identity) => Some(PASS),
            None => is(&self.0.blocked).then_some(REFUSE),
        }
    }
}

fn fail<T>(kind: ErrorKind, reason: &'static str) -> Result<T> {
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
    /// Queues commands and waits until they are done. Nobody else gets in between: simple, and good
    /// enough where nobody maps from an interrupt.
    fn run(&self, commands: impl IntoIterator<Item = u64>) -> Result {
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
        Some(self.0.identity.clone())
    }

    fn paging_domain(&self, config: &PagingConfig) -> Result<DomainRef> {
        if *config != PagingConfig::default() {
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
        let word = |stream: &StreamId| toy.contexts.load(context(stream, 0));
        let firmware = |stream| toy.inherited.contains(&word(stream));
        let attached = if streams.iter().any(firmware) {
            Attached::Deferred
        } else if streams.iter().all(|stream| word(stream) == REFUSE) {
            Attached::On(toy.blocked.clone())
        } else if streams.iter().all(|stream| word(stream) == PASS) {
            Attached::On(toy.identity.clone())
        } else {
            let (old, new) = (None, toy.blocked.clone());
            Attached::Uncertain { old, new }
        };
        let concerns = |pin: &&FirmwareRegion| pin.streams.iter().any(|of| streams.contains(of));
        let reserved = toy.pins.iter().filter(concerns).map(|pin| pin.region);
        Ok(Probed {
            state: Box::new(()),
            reserved: reserved.collect(),
            attached,
            max_pasids: PASIDS - 1,
        })
    }

    fn prepare(&self, member: &mut Member, _: Slot) -> Result {
        match member.pending().map(|new| self.word(new)) {
            Some(None) => fail(ErrorKind::InvalidArgument, "a domain of another IOMMU"),
            _ => Ok(()),
        }
    }

    fn cancel(&self, _: &mut Member, _: Slot) {}

    fn commit(&self, members: &mut [Member], slot: Slot) -> Result {
        let moving = || members.iter().filter(|member| member.pending().is_some());
        for member in moving() {
            let word = member.pending().and_then(|new| self.word(new));
            let store = |context| self.0.contexts.store(context, word.unwrap_or(REFUSE));
            contexts(member, slot).for_each(store);
        }
        // What is cached of the old domains stays: each sees to its own, to the end.
        let stale = moving().flat_map(|member| contexts(member, slot));
        let stale = stale.map(|context| FORGET_CONTEXT | (context as u64) << 16);
        self.0.run(stale)?;
        members.iter_mut().for_each(Member::landed);
        Ok(())
    }

    fn quarantine(&self, members: &mut [Member]) {
        for stream in members.iter().flat_map(|member| member.streams()) {
            let all = (0..PASIDS).map(|pasid| context(stream, pasid));
            all.for_each(|context| self.0.contexts.store(context, REFUSE));
        }
    }

    fn release(&self, _: &mut Member) {}
}

/// A paging domain: one table.
struct Table<P: Platform> {
    toy: Arc<Inner<P>>,
    words: DmaBlock<P::Memory>,
}

/// The numbers of the pages in a range.
fn pages(iova: Iova, len: u64) -> Range<usize> {
    (iova.0 / 4096) as usize..((iova.0 + len) / 4096) as usize
}

impl<P: Platform> Table<P> {
    /// Makes the hardware forget what it knows of a range, also that nothing was there.
    fn forget(&self, iova: Iova, len: u64) -> Result {
        let forget = |page| FORGET_PAGE | (page as u64) << 3 | self.words.addr().0;
        self.toy.run(pages(iova, len).map(forget))
    }
}

impl<P: Platform> PagingOps for Table<P> {
    fn geometry(&self) -> Geometry {
        Geometry {
            aperture: AddrRange::new(0, PAGES * 4096).expect("it is not empty"),
            physical: AddrRange::EVERYTHING,
            page_sizes: 4096,
        }
    }

    fn map(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> Outcome<(), MapError> {
        if pages(iova, len).any(|page| self.words.load(page) != 0) {
            let error = Error::new(ErrorKind::AlreadyExists, "a page is mapped");
            return Err(MapError { mapped: 0, error });
        }
        let [read, write] = [Prot::READ, Prot::WRITE].map(|right| u64::from(prot.contains(right)));
        for (page, phys) in pages(iova, len).zip((phys.0..).step_by(4096)) {
            self.words.store(page, phys | write << 1 | read);
        }
        let forgotten = self.forget(iova, len);
        forgotten.map_err(|error| MapError { mapped: len, error })
    }

    fn unmap(&self, iova: Iova, len: u64) -> Result {
        if pages(iova, len).any(|page| self.words.load(page) == 0) {
            return fail(ErrorKind::NotFound, "a page is not mapped");
        }
        pages(iova, len).for_each(|page| self.words.store(page, 0));
        self.forget(iova, len)
    }

    fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        let word = self.words.load(pages(iova, 0).start);
        (word != 0).then_some(PhysAddr((word & !4095) + iova.0 % 4096))
    }
}

impl<P: Platform> Drop for Table<P> {
    fn drop(&mut self) {
        // No device is on it. What is cached goes before the memory is somebody else's table.
        if self.toy.run([FORGET_TABLE | self.words.addr().0]).is_err() {
            self.words.leak();
        }
    }
}

impl<P: Platform> Toy<P> {
    /// The oldest fault that was not taken, as the suite wants to see it.
    fn next_fault(&self) -> Option<FaultRecord> {
        let fault = self.0.platform.bank().read64(toy::FAULT);
        self.0.platform.bank().write64(toy::FAULT, 0);
        let context = u32::try_from(fault & 0xffff).ok()?;
        (fault >> 63 != 0).then_some(FaultRecord {
            stream: StreamId(context / PASIDS),
            pasid: Pasid::new(context % PASIDS).filter(|pasid| pasid.get() != 0),
            iova: Iova((fault >> 16 & 0xff_ffff_ffff) * 4096),
        })
    }
}

fn main() {
    let testbed = toy::ToyTestbed::new("the toy backend", |platform, pins| {
        let toy = Toy::probe(platform, pins)?;
        let handle = Toy(toy.0.clone());
        Ok((Box::new(toy), Box::new(move || handle.next_fault())))
    });
    let report = conformance::run(&testbed);
    println!("{report}");
    assert_eq!(report.failed().count(), 0);
}
