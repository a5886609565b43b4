//! The driver moves devices through its domains.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::thread;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    Atomicity, BasicPlatform, DefaultDomain, Device, DeviceInfo, DmaBlock, DomainRef, Iommu,
    IommuConfig, Iova, MappedBlock, NoControl, PagingConfig, PhysAddr, RegisterBank, Stage,
};
use mock_hw::MockMemory;

use super::pace::{Finish, Mode, Pace, PacedBank};
use super::watch::{Findings, Watch, Words};
use super::{COMMON, Devices, UNTRANSLATED, page, route};
use crate::cases::bank::{CorruptingBank, opcode};
use crate::cases::lab::{PAGE, RW};
use crate::machine::Machine;

const CMDQ_BASE: usize = 0x90;
/// The address of the queue in `SMMU_CMDQ_BASE` (6.3.26).
const QUEUE_ADDRESS: u64 = 0x00ff_ffff_ffff_ffe0;

/// No more events than this are taken after a move.
const EVENTS: usize = 4;

/// The places, by their numbers.
const IDENTITY: usize = 1;
const STAGE1: usize = 2;
const STAGE2: usize = 4;
const OTHER_STAGE2: usize = 5;

type Bank<M> = PacedBank<CorruptingBank<<M as Machine>::Bank>>;
type Smmu<M> = ArmSmmuV3<BasicPlatform<Bank<M>, MockMemory, <M as Machine>::Clock>>;

/// A domain, and what devices on it read.
#[derive(Debug)]
struct Place {
    name: &'static str,
    domain: DomainRef,
    words: Cell<Words>,
    /// The page of its own, in a paging domain.
    own: RefCell<Option<MappedBlock<MockMemory>>>,
}

/// A driver, two devices in a group, and the places they can be at.
///
/// Two pages tell where they are. The first, whose IOVA is its physical address, is mapped 1:1 in
/// each paging domain; the second, whose IOVA is another page's physical address, leads to a page
/// of its own in each domain, and to itself in the identity domain.
struct Rig<M: Devices> {
    // Dropped in this order: what devices may still reach goes last.
    members: Vec<Device>,
    places: Vec<Place>,
    smmu: Smmu<M>,
    common: [DmaBlock<MockMemory>; 2],
    /// Pages that devices must not see any more. They are kept, so that they say so if they are.
    past: RefCell<Vec<DmaBlock<MockMemory>>>,
    watch: Arc<Watch>,
    pace: Arc<Pace>,
    bank: Bank<M>,
    memory: MockMemory,
}

impl<M: Devices> Rig<M> {
    fn new(machine: &M, atomicity: Atomicity) -> Self {
        let memory = machine.memory();
        memory.set_pairs(atomicity == Atomicity::Pair);
        let common = [page(&memory, COMMON), page(&memory, UNTRANSLATED)];
        let iovas = common.each_ref().map(|page| page.addr().0);
        let watch = Arc::new(Watch::new(machine.readers(), iovas));
        let platform = machine.platform();
        let bank = CorruptingBank::new(platform.bank, memory.clone());
        let pace = Arc::new(Pace::new(watch.clone()));
        let bank = PacedBank::new(bank, pace.clone());
        let platform = BasicPlatform {
            bank: bank.clone(),
            memory: memory.clone(),
            clock: platform.clock,
        };
        let smmu = ArmSmmuV3::probe(platform, Config::default()).unwrap();
        let parked = IommuConfig {
            default_domain: DefaultDomain::Parked,
            ..IommuConfig::default()
        };
        let iommu: Iommu = Iommu::with_config(smmu.clone(), parked).unwrap();
        let masters = machine.masters();
        let members = masters.iter().map(|master| {
            let stream = master.stream();
            let info = DeviceInfo::new(&stream.to_string());
            let info = info.streams([stream]).group("both");
            iommu.add_device(info, Arc::new(NoControl)).unwrap()
        });
        let members = members.collect();
        let mut rig = Self {
            members,
            places: Vec::new(),
            smmu,
            common,
            past: RefCell::default(),
            watch,
            pace,
            bank,
            memory,
        };
        rig.place("blocked", iommu.blocked_domain(), [0, 0]);
        let identity = iommu.identity_domain().unwrap();
        rig.place("identity", identity, [COMMON, UNTRANSLATED]);
        for (name, stage, own) in [
            ("stage 1", Stage::First, 0x51),
            ("stage 1'", Stage::First, 0x51_51),
            ("stage 2", Stage::Second, 0x52),
            ("stage 2'", Stage::Second, 0x52_52),
        ] {
            let config = PagingConfig {
                stage,
                ..PagingConfig::default()
            };
            let domain = iommu.paging_domain(&config).unwrap();
            // SAFETY: the rig keeps the page until its devices are gone.
            unsafe { domain.map(Iova(iovas[0]), PhysAddr(iovas[0]), PAGE, RW) }.unwrap();
            rig.place(name, domain, [COMMON, own]);
            rig.places.last().iter().for_each(|place| rig.renew(place));
        }
        rig.watch.depart("blocked", [0, 0]);
        rig.watch.look();
        rig
    }

    fn place(&mut self, name: &'static str, domain: DomainRef, words: Words) {
        self.places.push(Place {
            name,
            domain,
            words: Cell::new(words),
            own: RefCell::default(),
        });
    }

    /// Gives a paging domain another page of its own. No device reads meanwhile.
    fn renew(&self, place: &Place) {
        let [_, other] = self.common.each_ref().map(|page| Iova(page.addr().0));
        let [common, own] = place.words.get();
        let new = page(&self.memory, own + 0x1_0000);
        let old = place.own.take().map(|mapped| mapped.unmap().unwrap());
        let mapped = place.domain.map_block(other, new, RW).unwrap();
        place.own.replace(Some(mapped));
        place.words.set([common, own + 0x1_0000]);
        self.past.borrow_mut().extend(old);
    }

    /// Renews all paging domains: of what was translated until now under any tag, nothing is true
    /// any more. The devices are at `at`.
    fn renew_all(&self, at: usize) {
        self.pace.set(Mode::Idle);
        let paging = |place: &&Place| place.own.borrow().is_some();
        let places = self.places.iter().filter(paging);
        places.for_each(|place| self.renew(place));
        self.watch.stay(self.places[at].words.get());
        self.pace.set(Mode::Stepping);
    }

    /// Lets devices read as `mode` says.
    fn set(&self, mode: Mode) {
        let base = self.bank.inner().inner().read64(CMDQ_BASE);
        let queue = base & QUEUE_ADDRESS..(base & QUEUE_ADDRESS) + (16 << (base & 0x1f));
        let pace = self.pace.clone();
        // What the driver stores while it moves devices is entries and commands.
        let hook = move |addr: PhysAddr, _: &[u64]| {
            if !queue.contains(&addr.0) {
                pace.stored();
            }
        };
        self.memory.set_store_hook(Some(Arc::new(hook)));
        self.pace.set(mode);
    }

    /// Moves the devices, and checks that nothing was recorded.
    fn go(&self, to: usize) {
        let place = &self.places[to];
        self.watch.depart(place.name, place.words.get());
        self.members[0].group().attach(&place.domain).unwrap();
        self.watch.arrive();
        // Where something is wrong, new ones may come as fast as they are taken.
        let events = std::iter::from_fn(|| self.smmu.next_event().unwrap());
        for event in events.take(EVENTS) {
            self.watch.fault(format!("to {}: {event}", place.name));
        }
    }

    /// What was found, the devices being released.
    fn finish(self) -> Findings {
        self.memory.set_store_hook(None);
        self.pace.set(Mode::Idle);
        self.bank.inner().behave();
        let findings = self.watch.findings();
        for member in self.members {
            member.release().unwrap();
        }
        findings
    }
}

/// Whether the driver changes entries of one place into those of another without a break. Between
/// two stage-2 domains it takes 128 bits at once: tag and table are in two words.
fn is_hitless(from: usize, to: usize, atomicity: Atomicity) -> bool {
    let both_stage2 = from >= STAGE2 && to >= STAGE2;
    atomicity == Atomicity::Pair || !both_stage2
}

/// What devices read while the driver moves them through all hitless moves at this atomicity, after
/// every store and every command. `machine` is as after reset, with both stages.
#[must_use]
pub fn stepping<M: Devices>(machine: &M, atomicity: Atomicity) -> Findings {
    let rig = Rig::new(machine, atomicity);
    rig.set(Mode::Stepping);
    let hitless = |from, to| is_hitless(from, to, atomicity);
    let mut at = 0;
    for to in route::through(rig.places.len(), hitless) {
        rig.renew_all(at);
        rig.go(to);
        rig.watch.look();
        at = to;
    }
    rig.finish()
}

/// What devices read all the time while the driver moves them through all moves that are hitless at
/// 64 bits, this many times. `machine` is as for [`stepping`].
#[must_use]
pub fn racing<M: Devices>(machine: &M, times: usize) -> Findings {
    let rig = Rig::new(machine, Atomicity::Word);
    let hitless = |from, to| is_hitless(from, to, Atomicity::Word);
    let route = route::through(rig.places.len(), hitless);
    rig.set(Mode::Racing);
    thread::scope(|scope| {
        let pace = rig.pace.clone();
        scope.spawn(move || pace.race());
        let finish = Finish(&rig.pace);
        for _ in 0..times {
            route.iter().for_each(|to| rig.go(*to));
        }
        drop(finish);
    });
    rig.watch.look();
    rig.finish()
}

/// What devices read during a move that is not hitless: between two stage-2 domains, at 64 bits.
#[must_use]
pub fn breaking<M: Devices>(machine: &M) -> Findings {
    let rig = Rig::new(machine, Atomicity::Word);
    rig.set(Mode::Stepping);
    for to in [STAGE2, OTHER_STAGE2] {
        rig.go(to);
        rig.watch.look();
    }
    rig.finish()
}

/// What devices read where the invalidations of entries do not reach the hardware.
#[must_use]
pub fn without_invalidation<M: Devices>(machine: &M) -> Findings {
    let rig = Rig::new(machine, Atomicity::Word);
    rig.set(Mode::Stepping);
    rig.go(IDENTITY);
    rig.bank.inner().leave_out(&[opcode::CFGI_STE]);
    rig.go(STAGE1);
    rig.watch.look();
    rig.finish()
}
