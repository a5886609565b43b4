//! Devices under the core, in legacy mode.

use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use iommu_core::{
    Attached, Culprit, DeviceInfo, DmaBlock, ErrorKind, IommuOps, Iova, NoControl, PagingConfig,
    Prot, ReservedKind, Rest, Stage,
};

use super::fakes::{BASE, Event, Machine};
use super::registers::{Registers, Stuck};
use super::{add, core, rmrr, start, told};

const CONTEXT: u64 = BASE + 0x3000;

fn store(at: u64, value: u64) -> Event {
    Event::Store(at, value)
}

/// The context entry of a source id on bus 0 with this domain id is forgotten.
fn context(source: u64, did: u64) -> Event {
    told(0x31 | did << 16 | source << 32)
}

/// Translations of a domain are, with both drains.
fn domain(did: u64) -> Event {
    told(0xe2 | did << 16)
}

#[test]
fn stores_and_invalidations_come_in_order() {
    let machine = Machine::new(Registers::default());
    let vtd = start(&machine, vec![]);
    let iommu = core(&vtd);
    let nic = add(&iommu, "nic", &[0x0010]);
    // The empty table is there before anything points to it.
    let table = [Event::Barrier, store(BASE + 0x2000, CONTEXT | 1)];
    assert_eq!(machine.events()[..2], table);
    assert!(nic.attached().is(&iommu.blocked_domain()));
    let paging = iommu.paging_domain(&PagingConfig::default()).unwrap();
    machine.events();

    // From not present there is nothing to forget, and nothing to wait for.
    machine.memory.limit(0);
    let entry = CONTEXT + 0x100;
    let (identity, blocked) = (iommu.identity_domain().unwrap(), iommu.blocked_domain());
    nic.attach(&identity).unwrap();
    assert_eq!(
        machine.events(),
        [
            store(entry + 8, 0x102),
            Event::Barrier,
            store(entry, 0x9),
            Event::Barrier
        ]
    );
    assert!(machine.open(0x0010));

    // From present to present: P first, and only then the rest.
    let table = BASE + 0x4000;
    nic.attach(&paging).unwrap();
    assert_eq!(
        machine.story(),
        [
            store(entry, 0),
            context(0x10, 1),
            Event::Fence,
            domain(1),
            Event::Done,
            store(entry + 8, 0x202),
            store(entry, table | 1),
        ]
    );

    nic.attach(&blocked).unwrap();
    let parked = [
        store(entry, 0),
        context(0x10, 2),
        Event::Fence,
        domain(2),
        Event::Done,
    ];
    assert_eq!(machine.story(), parked);
    nic.attach(&paging).unwrap();
    assert_eq!(machine.story(), [store(entry, table | 1)]);
    assert_eq!(nic.release().unwrap(), Rest::Blocked);
    assert_eq!(machine.story(), parked);
}

#[test]
fn what_is_not_present_is_forgotten_too_where_it_may_be_cached() {
    for cap in [0x00d2_008c_222f_0686, 0x00d2_008c_222f_0616] {
        let machine = Machine::new(Registers {
            cap,
            ..Registers::default()
        });
        let iommu = core(&start(&machine, vec![]));
        let nic = add(&iommu, "nic", &[0x0010]);
        let told_of_tables = [
            store(BASE + 0x2000, CONTEXT | 1),
            told(0x11),
            Event::Fence,
            told(0xd2),
            Event::Done,
        ];
        assert_eq!(machine.story(), told_of_tables);
        nic.attach(&iommu.identity_domain().unwrap()).unwrap();
        let entry = CONTEXT + 0x100;
        // A part of it must not be cached from before it is filled.
        let filled: &[Event] = match cap & 0x80 {
            0 => &[],
            _ => &[context(0x10, 0), Event::Done],
        };
        let present = [
            store(entry, 0x9),
            context(0x10, 0),
            Event::Fence,
            domain(1),
            Event::Done,
        ];
        let expected = [&[store(entry + 8, 0x102)], filled, &present].concat();
        assert_eq!(machine.story(), expected);
        let paging = iommu.paging_domain(&PagingConfig::default()).unwrap();
        machine.events();
        let page = DmaBlock::new(&machine.memory, 4096, 4096, "a page").unwrap();
        let mapped = paging.map_block(Iova(0x5000), page, Prot::READ).unwrap();
        let pages = [Event::Descriptor(0xf2 | 2 << 16, 0x5000), Event::Done];
        let mut story = machine.story();
        story.retain(|event| !matches!(event, Event::Store(..)));
        assert_eq!(story, pages);
        mapped.unmap().unwrap();
        nic.release().unwrap();
    }
}

#[test]
fn a_group_moves_with_one_wait_for_each_round() {
    let machine = Machine::new(Registers::default());
    let iommu = core(&start(&machine, vec![]));
    let member = |name, streams: [u32; 2]| {
        let info = DeviceInfo::new(name).streams(streams).group("bridge");
        iommu.add_device(info, Arc::new(NoControl)).unwrap()
    };
    let (a, b) = (member("a", [0x10, 0x11]), member("b", [0x12, 0x210]));
    let (identity, blocked) = (iommu.identity_domain().unwrap(), iommu.blocked_domain());
    a.group().attach(&identity).unwrap();
    for source in [0x10, 0x11, 0x12, 0x210] {
        assert!(machine.open(source));
    }
    machine.events();
    // Every source id that was written is named, and the domain once.
    a.group().attach(&blocked).unwrap();
    let stores = |event: &Event| !matches!(event, Event::Store(..));
    let told: Vec<Event> = machine.story().into_iter().filter(stores).collect();
    assert_eq!(
        told,
        [
            context(0x10, 1),
            context(0x11, 1),
            context(0x12, 1),
            context(0x210, 1),
            Event::Fence,
            domain(1),
            Event::Done
        ]
    );
    a.group().attach(&identity).unwrap();
    assert!(b.attached().is(&identity));
    assert_eq!(a.release().unwrap(), Rest::Blocked);
    assert!(!machine.open(0x10) && !machine.open(0x11));
    assert!(machine.open(0x12) && machine.open(0x210));
    assert_eq!(b.release().unwrap(), Rest::Blocked);
    assert!(!machine.open(0x12) && !machine.open(0x210));
}

#[test]
fn a_pinned_device_is_never_cut() {
    let machine = Machine::new(Registers::default());
    let vtd = start(&machine, vec![rmrr(&[0x10])]);
    let iommu = core(&vtd);
    let gpu = add(&iommu, "gpu", &[0x10]);
    assert!(gpu.attached().is(&iommu.identity_domain().unwrap()));
    let kinds: Vec<_> = gpu
        .reserved_regions()
        .iter()
        .map(|region| (region.range().start(), region.range().last(), region.kind()))
        .collect();
    assert_eq!(
        kinds,
        [
            (0x8000_0000, 0x8000_0fff, ReservedKind::Direct),
            (0xfee0_0000, 0xfeef_ffff, ReservedKind::Msi),
        ]
    );
    machine.events();
    let error = gpu.attach(&iommu.blocked_domain()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(matches!(error.culprit(), Culprit::Pinned { .. }));
    assert_eq!(machine.events(), []);

    // Nothing is stored: the entry is what it is to be.
    assert_eq!(gpu.release().unwrap(), Rest::Identity);
    assert_eq!(machine.story(), []);
    assert!(machine.open(0x10));
    // It is found like that again.
    let gpu = add(&iommu, "gpu", &[0x10]);
    assert!(gpu.attached().is(&iommu.identity_domain().unwrap()));
    assert_eq!(gpu.release().unwrap(), Rest::Identity);
}

#[test]
fn a_device_of_which_one_function_is_open_is_parked_as_a_whole() {
    let machine = Machine::new(Registers::default());
    let iommu = core(&start(&machine, vec![rmrr(&[0x10])]));
    let gpu = add(&iommu, "gpu", &[0x10, 0x11]);
    assert!(gpu.attached().is(&iommu.identity_domain().unwrap()));
    assert!(machine.open(0x10) && machine.open(0x11));
    assert_eq!(gpu.release().unwrap(), Rest::Identity);
}

#[test]
fn nothing_lands_on_hardware_that_does_not_answer() {
    for stuck in [Stuck::Waits, Stuck::Fetch, Stuck::Head] {
        let machine = Machine::new(Registers::default());
        let iommu = core(&start(&machine, vec![]));
        let nic = add(&iommu, "nic", &[0x10]);
        nic.attach(&iommu.identity_domain().unwrap()).unwrap();

        machine.with(|registers| registers.stuck = Some(stuck));
        let error = nic.attach(&iommu.blocked_domain()).unwrap_err();
        let timed_out = error.kind() == ErrorKind::IommuTimedOut;
        assert_eq!(timed_out, stuck != Stuck::Head, "{error}");
        let step = error.step().map(|step| (step.round, step.of));
        assert_eq!(step, Some((1, 1)));
        assert!(matches!(nic.attached(), Attached::Uncertain { .. }));
        // Not present, and the other word stays for hardware that may be looking.
        assert_eq!(machine.entry(0x10), Some((0, 0x102)));
        // Nor does its release, which keeps everything and says so.
        assert!(nic.release().is_err());
    }
}

#[test]
fn an_entry_that_appears_unconfirmed_is_taken_away_again() {
    // With write buffers, what appears is told of and waited for.
    let mut registers = Registers::default();
    registers.cap |= 1 << 4;
    let machine = Machine::new(registers);
    let iommu = core(&start(&machine, vec![]));
    let nic = add(&iommu, "nic", &[0x10]);
    machine.with(|registers| registers.stuck = Some(Stuck::Waits));
    nic.attach(&iommu.identity_domain().unwrap()).unwrap_err();
    assert!(matches!(nic.attached(), Attached::Uncertain { .. }));
    assert_eq!(machine.entry(0x10), Some((0, 0x102)));
    assert!(nic.release().is_err());
}

#[test]
fn hardware_that_recovers_is_certain_again() {
    let machine = Machine::new(Registers::default());
    let iommu = core(&start(&machine, vec![]));
    let nic = add(&iommu, "nic", &[0x10]);
    let identity = iommu.identity_domain().unwrap();
    nic.attach(&identity).unwrap();
    machine.with(|registers| registers.stuck = Some(Stuck::Waits));
    nic.attach(&iommu.blocked_domain()).unwrap_err();
    // What was cached is not known: all of it has to go before anything else is believed.
    nic.attach(&identity).unwrap_err();
    assert!(!machine.open(0x10));

    machine.with(|registers| registers.stuck = None);
    machine.events();
    nic.attach(&identity).unwrap();
    let everything = [told(0x11), Event::Fence, told(0xd2), Event::Done];
    assert_eq!(machine.story()[..4], everything);
    assert!(machine.open(0x10) && nic.attached().is(&identity));
    assert_eq!(nic.release().unwrap(), Rest::Blocked);
}

#[test]
fn what_does_not_exist_touches_nothing() {
    let machine = Machine::new(Registers::default());
    let vtd = start(&machine, vec![]);
    let first = PagingConfig {
        stage: Stage::First,
        ..PagingConfig::default()
    };
    let error = vtd.paging_domain(&first).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let wide = PagingConfig {
        input_bits: Some(49),
        ..PagingConfig::default()
    };
    let error = vtd.paging_domain(&wide).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);

    let iommu = core(&vtd);
    let info = DeviceInfo::new("far").streams([0x10_u32, 0x1_0000]);
    let error = iommu.add_device(info, Arc::new(NoControl)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);

    let nic = add(&iommu, "nic", &[0x10]);
    machine.events();
    let other = Machine::new(Registers::default());
    let foreign = start(&other, vec![]);
    for domain in [
        foreign.blocked_domain().unwrap(),
        foreign.identity_domain().unwrap(),
        foreign.paging_domain(&PagingConfig::default()).unwrap(),
    ] {
        let error = nic.attach(&domain).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    assert_eq!(machine.events(), []);
    assert!(nic.attached().is(&iommu.blocked_domain()));
    assert_eq!(nic.release().unwrap(), Rest::Blocked);
}

#[test]
fn a_device_without_memory_for_its_tables_is_not_added() {
    for budget in 0..2 {
        let machine = Machine::new(Registers::default());
        let iommu = core(&start(&machine, vec![]));
        let tables = machine.memory.live();
        machine.memory.limit(budget);
        let info = || DeviceInfo::new("nic").streams([0x10_u32, 0x110]);
        let error = iommu.add_device(info(), Arc::new(NoControl)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert_eq!((machine.events(), machine.memory.live()), (vec![], tables));
        machine.memory.limit(2);
        let nic = iommu.add_device(info(), Arc::new(NoControl)).unwrap();
        assert_eq!(nic.release().unwrap(), Rest::Blocked);
    }
}

#[test]
fn unmapping_forgets_the_smallest_block_that_covers_it() {
    const EACH: Event = Event::Done;
    let machine = Machine::new(Registers {
        cap: 0x00c9_008c_222f_0606, // MAMV 9
        ..Registers::default()
    });
    let iommu = core(&start(&machine, vec![]));
    let domain_ = iommu.paging_domain(&PagingConfig::default()).unwrap();
    let block = |size| DmaBlock::new(&machine.memory, size, 4096, "pages").unwrap();
    // Bytes from here, this many; as the descriptor has it.
    let cases = [
        (0x1000, 0x1000, Event::Descriptor(0xf2 | 2 << 16, 0x1000)),
        (0x2000, 0x2000, Event::Descriptor(0xf2 | 2 << 16, 0x2001)),
        (0x3000, 0x2000, Event::Descriptor(0xf2 | 2 << 16, 0x3)),
        (0x1f_f000, 0x2000, told(0xe2 | 2 << 16)),
    ];
    for (iova, size, descriptor) in cases {
        let mapped = domain_
            .map_block(Iova(iova), block(size), Prot::READ)
            .unwrap();
        machine.events();
        mapped.unmap().unwrap();
        let told: Vec<Event> = machine
            .story()
            .into_iter()
            .filter(|event| !matches!(event, Event::Store(..)))
            .collect();
        assert_eq!(told, [descriptor, EACH], "{iova:#x}");
    }
}

#[test]
fn a_domain_id_is_used_again_once_it_is_forgotten() {
    // 16 ids: 0 and 1 are nobody's.
    let machine = Machine::new(Registers {
        cap: 0x00d2_008c_222f_0600,
        ..Registers::default()
    });
    let vtd = start(&machine, vec![]);
    let new = || vtd.paging_domain(&PagingConfig::default());
    let mut domains: Vec<_> = (0..14).map(|_| new().unwrap()).collect();
    assert_eq!(new().unwrap_err().kind(), ErrorKind::NoSpace);
    machine.events();
    domains.remove(3);
    let gone = [told(0x21 | 5 << 16), Event::Fence, domain(5), Event::Done];
    assert_eq!(machine.story(), gone);
    domains.push(new().unwrap());

    // Where that is not known, neither the id nor the tables come back.
    machine.with(|registers| registers.stuck = Some(Stuck::Waits));
    let live = machine.memory.live();
    domains.remove(0);
    assert_eq!(machine.memory.live(), live);
    machine.with(|registers| registers.stuck = None);
    assert_eq!(new().unwrap_err().kind(), ErrorKind::NoSpace);
}
