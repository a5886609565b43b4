//! Nobody reaches what it was not given: an attacker tries every address between any two steps of
//! every lifecycle, between any two stores of the driver, and between any two commands of the SMMU.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::Arc;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    Context, DefaultDomain, Device, DeviceInfo, DmaBlock, DomainRef, ErrorKind, FirmwareRegion,
    Iommu, IommuConfig, Iova, MappedBlock, NoControl, PagingConfig, PhysAddr, Prot, ReservedKind,
    ReservedRegion, Rest, Stage, StreamId,
};
use mock_hw::MockMemory;
use mock_hw::smmuv3::{ModelConfig, Order};
use tests::contracts::{Intruder, View, block, rw};
use tests::machine::Machine;
use tests::model::{ModelMachine, RAM_BASE};

/// A device of the group that lives through everything.
const A: u32 = 0x10;
/// Its sibling.
const B: u32 = 0x2_18;
/// What both present.
const ALIAS: u32 = 0x2_19;
/// A device in a group of its own, with a mapping of its own.
const OTHER: u32 = 0x20;
/// A device that firmware pinned.
const PINNED: u32 = 0x30;
/// A stream that was never added.
const FOREIGN: u32 = 0x3_99;

const REGION: u64 = RAM_BASE + 0x180_0000;

struct World {
    machine: ModelMachine,
    iommu: Iommu,
    intruder: Intruder,
    paging: PagingConfig,
}

impl World {
    fn new((stage, hardware): (Stage, ModelConfig), default_domain: DefaultDomain) -> Self {
        let machine = ModelMachine::new(hardware, 0);
        let memory = machine.memory();
        memory.reserve(PhysAddr(REGION), 0x2000);
        let region = ReservedRegion::new(REGION, 0x2000, ReservedKind::Direct).unwrap();
        let config = Config {
            rmrs: vec![FirmwareRegion {
                streams: vec![StreamId(PINNED)],
                region,
            }],
            ..Config::default()
        };
        let smmu = ArmSmmuV3::probe(machine.platform(), config).unwrap();
        let paging = PagingConfig {
            stage,
            ..PagingConfig::default()
        };
        let config = IommuConfig {
            default_domain,
            paging,
        };
        let iommu = Iommu::with_config(smmu, config).unwrap();
        let streams = [A, B, ALIAS, OTHER, PINNED, FOREIGN];
        let views = streams.map(|stream| match stream {
            PINNED => (stream, View::Everything),
            _ => (stream, View::nothing()),
        });
        let intruder = Intruder::new(machine.model(), views);
        for addr in [
            0,
            0x1000,
            RAM_BASE,
            REGION,
            REGION + 0x1000,
            REGION + 0x2000,
        ] {
            intruder.learn(addr);
        }
        for stream in streams {
            let entry = machine.model().stream_entry(stream);
            entry.into_iter().for_each(|entry| intruder.learn(entry.0));
        }
        memory.set_store_hook(Some(intruder.hook()));
        let hook = intruder.command_hook();
        machine.model().set_command_hook(Some(hook));
        Self {
            machine,
            iommu,
            intruder,
            paging,
        }
    }

    fn step<R>(&self, what: &str, becomes: &[(u32, View)], act: impl FnOnce() -> R) -> R {
        self.intruder.step(what, becomes, act)
    }

    fn add(&self, name: &str, streams: &[u32], group: Option<&str>) -> Device {
        let mut info = DeviceInfo::new(name).streams(streams.iter().copied());
        if let Some(group) = group {
            info = info.group(group);
        }
        self.iommu.add_device(info, Arc::new(NoControl)).unwrap()
    }

    fn domain(&self) -> DomainRef {
        self.iommu.paging_domain(&self.paging).unwrap()
    }

    /// A buffer that the attacker knows of.
    fn buffer(&self) -> DmaBlock<MockMemory> {
        let buffer = block(&self.machine.memory());
        self.intruder.learn(buffer.addr().0);
        buffer
    }

    /// A domain of its own for `OTHER`, with one mapping, which nothing may disturb.
    fn bystander(&self) -> (Device, MappedBlock<MockMemory>) {
        let other = self.add("other", &[OTHER], None);
        let domain = self.domain();
        let buffer = self.buffer();
        let view = View::nothing().with(0x7000, buffer.addr());
        let mapped = domain.map_block(Iova(0x7000), buffer, rw()).unwrap();
        self.step("another device is set up", &[(OTHER, view)], || {
            other.attach(&domain).unwrap();
        });
        (other, mapped)
    }

    /// What to say of the two devices of the group, which move together.
    fn both(view: &View) -> [(u32, View); 3] {
        [A, B, ALIAS].map(|stream| (stream, view.clone()))
    }

    /// Looks at what was found; `left` goes after the attacker has.
    fn finish<T>(self, left: T) {
        let memory = self.machine.memory();
        memory.set_store_hook(None);
        self.machine.model().set_command_hook(None);
        drop(left);
        assert_eq!(self.intruder.found(), [""; 0]);
        assert!(self.intruder.tries() > 10_000, "{}", self.intruder.tries());
        assert_eq!(memory.violations(), [""; 0]);
        assert_eq!(self.machine.model().violations(), [""; 0]);
    }
}

/// Both stages, on hardware that invalidates as late as it may, at any moment, and that caches
/// entries whole or word by word.
fn kinds() -> [(Stage, ModelConfig); 4] {
    let hardware = |order, partial| ModelConfig {
        order,
        partial,
        seed: 0x5eed,
        ..ModelConfig::default()
    };
    [
        (Stage::First, hardware(Order::Adverse, false)),
        (Stage::Second, hardware(Order::Adverse, true)),
        (Stage::First, hardware(Order::Random, true)),
        (Stage::Second, hardware(Order::Random, false)),
    ]
}

#[test]
fn through_the_life_of_a_group_each_stream_reaches_what_it_was_given_alone() {
    for kind in kinds() {
        let world = World::new(kind.clone(), DefaultDomain::Paging);
        let (other, kept) = world.bystander();
        let nothing = View::nothing();
        let a = world.step("add a", &[], || world.add("a", &[A, ALIAS], Some("g")));
        let b = world.step("add b", &[], || world.add("b", &[B, ALIAS], Some("g")));
        let group = a.group().clone();
        let home = group.domain().unwrap();

        // Mappings come and go.
        let (one, two) = (world.buffer(), world.buffer());
        let (first, second) = (one.addr(), two.addr());
        let view = nothing.clone().with(0x4000_0000, first);
        let rx = world.step("map", &World::both(&view), || {
            home.map_block(Iova(0x4000_0000), one, rw()).unwrap()
        });
        let at_home = view.clone().reading(0x5000, second);
        // Stage-1 tables can deny writing; so can stage-2 tables.
        let tx = world.step("map for reading", &World::both(&at_home), || {
            home.map_block(Iova(0x5000), two, Prot::READ).unwrap()
        });

        // Domains.
        let elsewhere = world.domain();
        let three = world.buffer();
        let view = nothing.clone().with(0x4000_0000, three.addr());
        let mapped = world.step("map in a domain that nobody is on", &[], || {
            elsewhere.map_block(Iova(0x4000_0000), three, rw()).unwrap()
        });
        let identity = world.iommu.identity_domain().unwrap();
        let blocked = world.iommu.blocked_domain();
        let everything = View::Everything;
        let moves = [
            (&elsewhere, &view),
            (&identity, &everything),
            (&elsewhere, &view),
            (&blocked, &nothing),
            (&identity, &everything),
            (&blocked, &nothing),
            (&elsewhere, &view),
            (&elsewhere, &view),
        ];
        for (to, view) in moves {
            let what = format!("attach {to:?}");
            world.step(&what, &World::both(view), || group.attach(to).unwrap());
        }
        let freed = world.step("unmap", &World::both(&nothing), || mapped.unmap().unwrap());
        world.step("give memory back", &[], || drop(freed));
        world.step("detach", &World::both(&at_home), || group.detach().unwrap());
        world.step("drop the domain", &[], || drop(elsewhere));

        // A reset of one: the stream that both present goes with it.
        let parked = [(A, nothing.clone()), (ALIAS, nothing.clone())];
        let fence = world.step("reset fence", &parked, || a.reset_fence().unwrap());
        let view = nothing.clone().with(0x4000_0000, first);
        let during = [(B, view.clone())];
        let two = world.step("unmap while a is reset", &during, || tx.unmap().unwrap());
        let back = [(A, view.clone()), (ALIAS, view.clone())];
        world.step("end of the reset", &back, || fence.end().unwrap());
        drop(two);

        // The sibling leaves; the stream that a presents too stays.
        world.step("release b", &[(B, nothing.clone())], || {
            assert_eq!(b.release().unwrap(), Rest::Blocked);
        });
        let b = world.step("add b again", &[(B, view.clone())], || {
            world.add("b", &[B, ALIAS], Some("g"))
        });
        world.step("release a", &[(A, nothing.clone())], || {
            a.release().unwrap();
        });
        let gone = [(B, nothing.clone()), (ALIAS, nothing.clone())];
        world.step("release b, the last", &gone, || b.release().unwrap());
        let one = world.step("unmap what nobody is on", &[], || rx.unmap().unwrap());
        drop((one, home, group));
        let a = world.step("add a in a new group", &[], || {
            world.add("a", &[A], Some("g"))
        });
        world.step("drop a", &[], || drop(a));
        world.step("drop the other", &[(OTHER, nothing)], || drop(other));
        world.finish(kept);
    }
}

#[test]
fn what_an_owner_is_given_ends_with_the_claim() {
    for kind in kinds() {
        for default in [DefaultDomain::Paging, DefaultDomain::Parked] {
            let world = World::new(kind.clone(), default);
            let (other, kept) = world.bystander();
            let nothing = View::nothing();
            let a = world.add("a", &[A, ALIAS], Some("g"));
            let b = world.add("b", &[B], Some("g"));
            let group = a.group().clone();
            let mut at_home = nothing.clone();
            let buffer = world.buffer();
            let phys = buffer.addr();
            let mapped = group.domain().map(|home| {
                at_home = nothing.clone().with(0x8000, phys);
                world.step("map at home", &World::both(&at_home), || {
                    home.map_block(Iova(0x8000), buffer, rw()).unwrap()
                })
            });
            let claim = world.step("claim", &World::both(&nothing), || group.claim().unwrap());
            let guest = world.domain();
            let ram = world.buffer();
            let of_guest = nothing.clone().with(0x8000, ram.addr());
            world.step("give it to a guest", &World::both(&nothing), || {
                claim.attach(&guest).unwrap();
            });
            let ram = world.step("map for the guest", &World::both(&of_guest), || {
                guest.map_block(Iova(0x8000), ram, rw()).unwrap()
            });
            for refused in [
                group.attach(&world.iommu.identity_domain().unwrap()),
                group.detach(),
            ] {
                assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotPermitted);
            }
            world.step("refused", &[], || ());
            let parked = [(A, nothing.clone()), (ALIAS, nothing.clone())];
            let fence = world.step("reset fence", &parked, || a.reset_fence().unwrap());
            // Only what is not being reset goes home at once.
            world.step("end of the claim", &[(B, at_home.clone())], || {
                claim.release().unwrap();
            });
            let back = [(A, at_home.clone()), (ALIAS, at_home.clone())];
            world.step("end of the reset", &back, || fence.end().unwrap());
            let ram = world.step("the guest's memory", &[], || ram.unmap().unwrap());
            world.step("the guest ends", &[], || drop((ram, guest)));
            let claim = world.step("claim", &World::both(&nothing), || group.claim().unwrap());
            world.step("drop the claim", &World::both(&at_home), || drop(claim));
            world.step("release", &World::both(&nothing), || {
                a.release().unwrap();
                b.release().unwrap();
            });
            world.finish((mapped, other, kept));
        }
    }
}

#[test]
fn a_pinned_device_reaches_its_region_always_and_more_only_at_rest() {
    for kind in kinds() {
        let world = World::new(kind.clone(), DefaultDomain::Paging);
        let (other, kept) = world.bystander();
        let pinned = View::nothing()
            .with(REGION, PhysAddr(REGION))
            .with(REGION + 0x1000, PhysAddr(REGION + 0x1000));
        let rests = [(PINNED, View::Everything)];
        for _ in 0..2 {
            let gpu = world.step("add", &[(PINNED, pinned.clone())], || {
                world.add("gpu", &[PINNED], None)
            });
            let buffer = world.buffer();
            let view = pinned.clone().with(0x9000, buffer.addr());
            let mapped = world.step("map", &[(PINNED, view.clone())], || {
                let mapped = gpu.map_block(Context::MayBlock, Iova(0x9000), buffer, rw());
                mapped.unwrap()
            });
            let refused = gpu.attach(&world.iommu.blocked_domain()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
            let refused = gpu.group().claim().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
            let home = gpu.domain().unwrap();
            let refused = home.unmap(Iova(REGION), 0x1000).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NotPermitted);
            world.step("refused", &[], || ());
            let elsewhere = world.domain();
            let moved = [(PINNED, pinned.clone())];
            world.step("another domain", &moved, || gpu.attach(&elsewhere).unwrap());
            let fence = world.step("reset fence", &rests, || gpu.reset_fence().unwrap());
            world.step("end of the reset", &moved, || fence.end().unwrap());
            let home = [(PINNED, view.clone())];
            world.step("detach", &home, || gpu.detach().unwrap());
            let buffer = world.step("unmap", &moved, || mapped.unmap().unwrap());
            drop(buffer);
            world.step("release", &rests, || {
                assert_eq!(gpu.release().unwrap(), Rest::Identity);
            });
        }
        world.finish((other, kept));
    }
}

#[test]
fn a_domain_of_another_smmu_moves_nobody() {
    for kind in kinds().into_iter().take(2) {
        let world = World::new(kind.clone(), DefaultDomain::Paging);
        let (other, kept) = world.bystander();
        let foreign = ModelMachine::new(ModelConfig::default(), 0);
        let foreign_smmu = ArmSmmuV3::probe(foreign.platform(), Config::default()).unwrap();
        let second = world.iommu.add_instance(foreign_smmu).unwrap();
        let info = DeviceInfo::new("far").streams([A]).behind(second);
        let far = world.iommu.add_device(info, Arc::new(NoControl)).unwrap();
        let a = world.add("a", &[A], Some("g"));
        let b = world.add("b", &[B, ALIAS], Some("g"));
        let buffer = world.buffer();
        let view = View::nothing().with(0x8000, buffer.addr());
        let home = a.domain().unwrap();
        let mapped = world.step("map", &World::both(&view), || {
            home.map_block(Iova(0x8000), buffer, rw()).unwrap()
        });
        let theirs = [
            far.group().paging_domain(&world.paging).unwrap(),
            far.group().identity_domain().unwrap(),
            far.group().blocked_domain(),
        ];
        for domain in theirs {
            world.step("a domain of another SMMU", &[], || {
                let refused = a.group().attach(&domain).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
            });
        }
        world.finish((mapped, far, other, kept, a, b));
    }
}

#[test]
fn a_newcomer_for_which_memory_runs_out_moves_nobody() {
    for kind in kinds().into_iter().take(2) {
        for n in 0.. {
            let world = World::new(kind.clone(), DefaultDomain::Paging);
            let memory = world.machine.memory();
            let (other, kept) = world.bystander();
            let a = world.add("a", &[A], Some("g"));
            let b = world.add("b", &[B, ALIAS], Some("g"));
            let buffer = world.buffer();
            let view = View::nothing().with(0x8000, buffer.addr());
            let home = a.domain().unwrap();
            let mapped = world.step("map", &World::both(&view), || {
                home.map_block(Iova(0x8000), buffer, rw()).unwrap()
            });
            let leaves = [
                (PINNED, View::Everything),
                (A, view.clone()),
                (B, view.clone()),
                (ALIAS, view.clone()),
            ];
            // The domain of the group takes up the region, for all of them.
            let pinned = view
                .with(REGION, PhysAddr(REGION))
                .with(REGION + 0x1000, PhysAddr(REGION + 0x1000));
            let joined = [A, B, ALIAS, PINNED].map(|stream| (stream, pinned.clone()));
            memory.fail_allocation(Some(n));
            let gpu = world.intruder.attempt("a newcomer", &joined, || {
                let info = DeviceInfo::new("gpu").streams([PINNED]).group("g");
                world.iommu.add_device(info, Arc::new(NoControl))
            });
            memory.fail_allocation(None);
            let done = match gpu {
                Ok(gpu) => {
                    world.step("it leaves", &leaves, || gpu.release().unwrap());
                    assert!(n > 0, "it never needed memory");
                    true
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
                    false
                }
            };
            world.finish((mapped, other, kept, a, b));
            if done {
                break;
            }
        }
    }
}
