//! What every rule works with: a machine, the backend and the core on it, and eyes.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use iommu_core::{
    Attached, DefaultDomain, Device, DmaBlock, DomainRef, Error, ErrorKind, Geometry, Iommu,
    IommuConfig, Iova, MappedBlock, PagingConfig, PhysAddr, Prot, Result,
};

use super::eyes::{Aim, Eyes, Reach};
use super::spy::{Moment, Notes, Spy};
use super::{Capabilities, Machine, Setup, Testbed};
use crate::memory::MockMemory;

/// Nothing, or the first thing that is otherwise than it should be, in a sentence.
pub(crate) type Verdict<T = ()> = std::result::Result<T, String>;

/// Ends a rule with a sentence where a condition does not hold.
macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err(format!($($words)+));
        }
    };
}
pub(crate) use ensure;

pub(crate) const RW: Prot = Prot::READ.union(Prot::WRITE);

/// The name of the first page of the firmware region.
pub(crate) const FIRMWARE: &str = "of firmware";

/// Says what failed, where something must not.
pub(crate) fn must<T, E: fmt::Display>(
    what: &str,
    result: std::result::Result<T, E>,
) -> Verdict<T> {
    result.map_err(|error| format!("{what} fails: {error}"))
}

/// Ends a rule where something does not fail as it must.
pub(crate) fn must_fail<T>(what: &str, result: Result<T>, kind: ErrorKind) -> Verdict {
    match result {
        Ok(_) => Err(format!("{what} succeeds instead of failing with {kind:?}")),
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(format!("{what} fails with {error} instead of {kind:?}")),
    }
}

/// What a call did beside its result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Touch {
    pub(crate) stores: usize,
    pub(crate) register_writes: usize,
    pub(crate) allocations: usize,
    pub(crate) waits: usize,
}

/// Makes machines for rules, and keeps the books of all of them.
pub(crate) struct Bench<'a> {
    pub(crate) testbed: &'a dyn Testbed,
    pub(crate) can: Capabilities,
    pub(crate) books: RefCell<Books>,
}

/// What did not balance when a machine was given up, that of the first machine for each.
#[derive(Default)]
pub(crate) struct Books {
    /// Bytes that were never given back.
    pub(crate) kept: Option<String>,
    /// Memory was used by somebody who must not.
    pub(crate) memory: Option<String>,
    /// The hardware was used as it must not be.
    pub(crate) hardware: Option<String>,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(testbed: &'a dyn Testbed) -> Self {
        Self {
            testbed,
            can: testbed.capabilities(),
            books: RefCell::default(),
        }
    }

    /// Tries `act` on a machine with this setup, then checks its books.
    pub(crate) fn with<T>(
        &self,
        setup: &Setup,
        act: impl FnOnce(&Lab) -> Verdict<T>,
    ) -> Verdict<T> {
        let lab = Lab::new(self.testbed.machine(setup), self.can.clone());
        let value = act(&lab);
        if let Some(how) = lab.notes.panicked() {
            return Err(how);
        }
        let value = value?;
        lab.close(setup.devices.len(), &mut self.books.borrow_mut());
        Ok(value)
    }
}

/// A machine in use.
pub(crate) struct Lab {
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) memory: MockMemory,
    pub(crate) eyes: Arc<Eyes>,
    pub(crate) notes: Arc<Notes>,
    pub(crate) can: Capabilities,
    before: usize,
    kept: Rc<RefCell<Vec<DmaBlock<MockMemory>>>>,
    leaks: Cell<bool>,
}

impl Lab {
    fn new(machine: Arc<dyn Machine>, can: Capabilities) -> Self {
        let memory = machine.memory();
        let (eyes, notes) = (Arc::new(Eyes::new(machine.clone())), Arc::default());
        Notes::hook(&notes, &memory);
        eyes.watch(FIRMWARE, PhysAddr(machine.firmware_region().start()));
        Self {
            before: memory.allocated(),
            machine,
            memory,
            eyes,
            notes,
            can,
            kept: Rc::default(),
            leaks: Cell::new(false),
        }
    }

    fn close(self, devices: usize, books: &mut Books) {
        self.machine.stop();
        // Whatever the hardware reads now is not memory that was given back.
        for device in 0..devices {
            let at = Iova(self.machine.firmware_region().start());
            self.eyes.look(Aim::new(device, at));
        }
        self.kept.borrow_mut().clear();
        let note = |book: &mut Option<String>, found: Vec<String>| {
            if !found.is_empty() {
                book.get_or_insert_with(|| found.join("; "));
            }
        };
        note(&mut books.memory, self.memory.violations());
        note(&mut books.hardware, self.machine.violations());
        let kept = self.memory.allocated() - self.before;
        if kept > 0 && !self.leaks.get() {
            note(&mut books.kept, vec![format!("{kept} bytes never are")]);
        }
    }

    /// Says that the hardware did not confirm something: what it may be using is not given back.
    pub(crate) fn may_leak(&self) {
        self.leaks.set(true);
    }

    /// Brings the backend up, and the core on it.
    pub(crate) fn core_with(&self, default_domain: DefaultDomain) -> Verdict<Iommu> {
        let ops = must("bringing the backend up", self.machine.start())?;
        let notes = self.notes.clone();
        let config = IommuConfig {
            default_domain,
            paging: self.paging(),
        };
        let core = Iommu::with_config(Spy { ops, notes }, config);
        must("making a core of the backend", core)
    }

    /// As [`core_with`](Self::core_with): devices rest until a rule attaches something.
    pub(crate) fn core(&self) -> Verdict<Iommu> {
        self.core_with(DefaultDomain::Parked)
    }

    fn paging(&self) -> PagingConfig {
        PagingConfig {
            stage: self.can.stages.first().copied().unwrap_or_default(),
            ..PagingConfig::default()
        }
    }

    pub(crate) fn try_add(&self, core: &Iommu, device: usize) -> Result<Device> {
        let info = self.machine.device(device);
        core.add_device(info, self.machine.control(device))
    }

    /// Adds a device, a group of its own.
    pub(crate) fn add(&self, core: &Iommu, device: usize) -> Verdict<Device> {
        must(
            &format!("adding device {device}"),
            self.try_add(core, device),
        )
    }

    /// Adds the first `count` devices as one group.
    pub(crate) fn add_group(&self, core: &Iommu, count: usize) -> Verdict<Vec<Device>> {
        let mut devices = Vec::new();
        for device in 0..count {
            let info = self.machine.device(device).group("one group");
            let added = core.add_device(info, self.machine.control(device));
            devices.push(must(&format!("adding device {device}"), added)?);
        }
        Ok(devices)
    }

    /// A new, empty paging domain.
    pub(crate) fn domain(&self, core: &Iommu) -> Verdict<DomainRef> {
        must("making a paging domain", core.paging_domain(&self.paging()))
    }

    /// An IOVA that no memory has: page `n` from a quarter of the domain's aperture on.
    pub(crate) fn iova(&self, domain: &DomainRef, n: u64) -> Verdict<Iova> {
        let Geometry { aperture, .. } = geometry(domain)?;
        let page = geometry(domain)?.page_size();
        let quarter = aperture.start() + aperture.len_minus_one() / 4 + 1;
        Ok(Iova((quarter & !(page - 1)) + n * page))
    }

    /// A page of the size that `domain` maps by.
    pub(crate) fn block(
        &self,
        domain: &DomainRef,
        name: &'static str,
    ) -> Verdict<DmaBlock<MockMemory>> {
        let page = geometry(domain)?.page_size();
        let page = usize::try_from(page).map_err(|_| format!("pages of {page:#x} bytes"))?;
        let block = must(
            "allocating",
            DmaBlock::new(&self.memory, page, page, "a page"),
        )?;
        self.eyes.watch(name, block.addr());
        Ok(block)
    }

    /// A page that is mapped nowhere; where it is.
    pub(crate) fn page(&self, domain: &DomainRef, name: &'static str) -> Verdict<PhysAddr> {
        let block = self.block(domain, name)?;
        let addr = block.addr();
        self.kept.borrow_mut().push(block);
        Ok(addr)
    }

    /// Keeps a page that is watched until the end.
    pub(crate) fn keep(&self, block: DmaBlock<MockMemory>) {
        self.kept.borrow_mut().push(block);
    }

    /// Maps a page of its own, for reading and writing.
    pub(crate) fn map(
        &self,
        domain: &DomainRef,
        iova: Iova,
        name: &'static str,
    ) -> Verdict<Mapped> {
        self.map_as(domain, iova, name, RW)
    }

    pub(crate) fn map_as(
        &self,
        domain: &DomainRef,
        iova: Iova,
        name: &'static str,
        prot: Prot,
    ) -> Verdict<Mapped> {
        let block = self.block(domain, name)?;
        let mapped = self.try_map(domain, iova, block, prot);
        must(&format!("mapping page {name} at {iova}"), mapped)
    }

    /// Maps a block. One that is not mapped stays where it is until the end.
    pub(crate) fn try_map(
        &self,
        domain: &DomainRef,
        iova: Iova,
        block: DmaBlock<MockMemory>,
        prot: Prot,
    ) -> Result<Mapped> {
        let kept = self.kept.clone();
        match domain.map_block(iova, block, prot) {
            Ok(mapped) => Ok(Mapped {
                mapped: Some(mapped),
                kept,
            }),
            Err(failed) => {
                kept.borrow_mut().extend(failed.block);
                Err(failed.error)
            }
        }
    }

    /// Checks what a device reaches.
    pub(crate) fn expect(&self, when: &str, aim: Aim, reach: &Reach) -> Verdict {
        let seen = self.eyes.look(aim);
        ensure!(seen == *reach, "{when}, {aim} reaches {seen}, not {reach}");
        Ok(())
    }

    pub(crate) fn reaches(&self, when: &str, aim: Aim, page: &'static str) -> Verdict {
        self.expect(when, aim, &Reach::Page(page))
    }

    pub(crate) fn refused(&self, when: &str, aim: Aim) -> Verdict {
        self.expect(when, aim, &Reach::Nothing)
    }

    /// What was done so far.
    pub(crate) fn touch(&self) -> Touch {
        Touch {
            stores: self.notes.stores(),
            register_writes: self.machine.register_writes(),
            allocations: self.memory.allocations(),
            waits: self.machine.waits(),
        }
    }

    /// What `act` does beside its result.
    pub(crate) fn touched<T>(&self, act: impl FnOnce() -> T) -> (T, Touch) {
        let before = self.touch();
        let value = act();
        let now = self.touch();
        let touch = Touch {
            stores: now.stores - before.stores,
            register_writes: now.register_writes - before.register_writes,
            allocations: now.allocations - before.allocations,
            waits: now.waits - before.waits,
        };
        (value, touch)
    }

    /// Does what must not touch the hardware.
    pub(crate) fn untouched<T>(&self, what: &str, act: impl FnOnce() -> T) -> Verdict<T> {
        let (value, touch) = self.touched(act);
        ensure!(
            touch.stores == 0 && touch.register_writes == 0 && touch.waits == 0,
            "{what} touches the hardware: {} stores, {} register writes, {} waits",
            touch.stores,
            touch.register_writes,
            touch.waits
        );
        Ok(value)
    }

    /// Does something while DMA is done at every store and after every call to the backend; `look`
    /// says what is wrong at such a moment. Without DMA between stores, only after calls.
    pub(crate) fn during<T>(
        &self,
        look: impl Fn(&Eyes, Moment) -> Option<String> + Send + Sync + 'static,
        act: impl FnOnce() -> T,
    ) -> Verdict<T> {
        let eyes = self.eyes.clone();
        self.notes.watch(Arc::new(move |phase| look(&eyes, phase)));
        let value = act();
        match self.notes.found() {
            None => Ok(value),
            Some(found) => Err(found),
        }
    }

    /// Forgets the faults that were reported so far.
    pub(crate) fn drain_faults(&self) {
        while self.machine.next_fault().is_some() {}
    }
}

impl Drop for Lab {
    /// Breaks the circle of the hook, which has the machine, and the machine's memory.
    fn drop(&mut self) {
        self.memory.set_store_hook(None);
        self.notes.found();
    }
}

/// What a paging domain can map.
pub(crate) fn geometry(domain: &DomainRef) -> Verdict<Geometry> {
    let geometry = domain.geometry();
    geometry.ok_or_else(|| "a paging domain without a geometry".into())
}

/// Ends a rule where a device is not, by the core's account, on `domain`.
pub(crate) fn is_on(when: &str, device: &Device, domain: &DomainRef) -> Verdict {
    let attached = device.attached();
    ensure!(
        attached.is(domain),
        "{when}, the core says that {} is {attached:?}, not on {domain:?}",
        device.name()
    );
    Ok(())
}

/// Whether the core knows what the device is on.
pub(crate) fn is_certain(device: &Device) -> bool {
    matches!(device.attached(), Attached::On(_))
}

/// A page that is mapped; it is unmapped when dropped, and the page kept until the end.
pub(crate) struct Mapped {
    mapped: Option<MappedBlock<MockMemory>>,
    kept: Rc<RefCell<Vec<DmaBlock<MockMemory>>>>,
}

impl Mapped {
    /// Unmaps.
    pub(crate) fn unmap(mut self) -> Result {
        self.end()
    }

    fn end(&mut self) -> Result {
        let Some(mapped) = self.mapped.take() else {
            return Ok(());
        };
        let block = mapped.unmap()?;
        self.kept.borrow_mut().push(block);
        Ok(())
    }
}

impl Deref for Mapped {
    type Target = MappedBlock<MockMemory>;

    fn deref(&self) -> &Self::Target {
        self.mapped.as_ref().expect("mapped until it is unmapped")
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // A failure shows in the books.
        let _: std::result::Result<(), Error> = self.end();
    }
}
