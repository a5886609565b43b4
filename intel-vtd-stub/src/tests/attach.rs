//! Devices under the core.

use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use iommu_core::{Attached, Culprit, DefaultDomain, Device, DeviceInfo, ErrorKind, Iommu};
use iommu_core::{IommuConfig, IommuOps, NoControl, PagingConfig, ReservedKind, Rest};

use super::fakes::{BASE, Event, Machine, Registers, Stuck};
use super::{Vtd, rmrr, start};

const INVALIDATION: [Event; 3] = [
    Event::Barrier,
    Event::Write64(0x28, 0xa000_0000_0000_0000),
    Event::Write64(0xf8, 0x9003_0000_0000_0000),
];

fn core(vtd: &Vtd) -> Iommu {
    let config = IommuConfig {
        default_domain: DefaultDomain::Parked,
        ..IommuConfig::default()
    };
    Iommu::with_config(vtd.clone(), config).unwrap()
}

fn add(iommu: &Iommu, name: &str, streams: &[u32]) -> Device {
    let info = DeviceInfo::new(name).streams(streams.iter().copied());
    iommu.add_device(info, Arc::new(NoControl)).unwrap()
}

/// `events`, then an invalidation, then `rest`.
fn around(events: &[Event], rest: &[Event]) -> Vec<Event> {
    [events, &INVALIDATION, rest].concat()
}

#[test]
fn stores_and_invalidations_come_in_order() {
    let machine = Machine::new(Registers::default());
    let vtd = start(&machine, vec![]);
    let iommu = core(&vtd);
    let nic = add(&iommu, "nic", &[0x0110]);
    let (root, entry) = (BASE, BASE + 0x1000 + 0x10 * 16);
    assert_eq!(
        machine.events(),
        [Event::Barrier, Event::Store(root + 0x10, BASE + 0x1001)]
    );
    assert!(nic.attached().is(&iommu.blocked_domain()));

    machine.memory.limit(0);
    nic.attach(&iommu.identity_domain().unwrap()).unwrap();
    assert_eq!(
        machine.events(),
        around(
            &[
                Event::Store(entry + 8, 0x102),
                Event::Barrier,
                Event::Store(entry, 0x9)
            ],
            &[]
        )
    );
    assert!(machine.open(0x0110));

    nic.attach(&iommu.blocked_domain()).unwrap();
    assert_eq!(
        machine.events(),
        around(&[Event::Store(entry, 0)], &[Event::Store(entry + 8, 0)])
    );
    assert_eq!(machine.entry(0x0110), Some((0, 0)));

    nic.attach(&iommu.identity_domain().unwrap()).unwrap();
    machine.events();
    assert_eq!(nic.release().unwrap(), Rest::Blocked);
    assert_eq!(
        machine.events(),
        around(&[Event::Store(entry, 0)], &[Event::Store(entry + 8, 0)])
    );
}

#[test]
fn a_group_moves_with_one_invalidation() {
    let machine = Machine::new(Registers::default());
    let iommu = core(&start(&machine, vec![]));
    let member = |name, streams: [u32; 2]| {
        let info = DeviceInfo::new(name).streams(streams).group("bridge");
        iommu.add_device(info, Arc::new(NoControl)).unwrap()
    };
    let (a, b) = (member("a", [0x10, 0x11]), member("b", [0x12, 0x210]));
    machine.events();
    a.group().attach(&iommu.identity_domain().unwrap()).unwrap();
    let registers = |event: &Event| matches!(event, Event::Write64(..) | Event::Write32(..));
    assert_eq!(machine.events().into_iter().filter(registers).count(), 2);
    for source in [0x10, 0x11, 0x12, 0x210] {
        assert!(machine.open(source));
    }
    assert!(b.attached().is(&iommu.identity_domain().unwrap()));
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
    let error = gpu.attach(&iommu.blocked_domain()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(matches!(error.culprit(), Culprit::Pinned { .. }));
    assert_eq!(machine.events(), []);

    // Nothing is stored: the entry is what it is to be.
    assert_eq!(gpu.release().unwrap(), Rest::Identity);
    assert_eq!(machine.events(), INVALIDATION);
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
    for stuck in [Stuck::Contexts, Stuck::Translations, Stuck::Ignored] {
        let machine = Machine::new(Registers::default());
        let vtd = start(&machine, vec![]);
        let iommu = core(&vtd);
        let nic = add(&iommu, "nic", &[0x10]);
        let identity = iommu.identity_domain().unwrap();
        nic.attach(&identity).unwrap();

        machine.stick(Some(stuck));
        let error = nic.attach(&iommu.blocked_domain()).unwrap_err();
        assert_eq!(
            error.kind() == ErrorKind::IommuTimedOut,
            stuck != Stuck::Ignored
        );
        assert!(matches!(error.culprit(), Culprit::Register { .. }));
        assert!(matches!(nic.attached(), Attached::Uncertain { .. }));
        // Not present, and the other word stays for hardware that may be looking.
        assert_eq!(machine.entry(0x10), Some((0, 0x102)));
        // Nor does its release, which keeps everything and says so.
        assert!(nic.release().is_err());
    }
}

#[test]
fn hardware_that_recovers_is_certain_again() {
    let machine = Machine::new(Registers::default());
    let iommu = core(&start(&machine, vec![]));
    let nic = add(&iommu, "nic", &[0x10]);
    nic.attach(&iommu.identity_domain().unwrap()).unwrap();
    machine.stick(Some(Stuck::Contexts));
    nic.attach(&iommu.blocked_domain()).unwrap_err();
    // While the request is still pending no other one is made.
    machine.events();
    nic.attach(&iommu.blocked_domain()).unwrap_err();
    assert!(!machine.events().contains(&INVALIDATION[1]));

    machine.stick(None);
    machine.bank.registers.lock().unwrap().ccmd = 0;
    nic.attach(&iommu.blocked_domain()).unwrap();
    assert!(nic.attached().is(&iommu.blocked_domain()));
    assert_eq!(machine.entry(0x10), Some((0, 0)));
    assert_eq!(nic.release().unwrap(), Rest::Blocked);
}

#[test]
fn what_does_not_exist_touches_nothing() {
    let machine = Machine::new(Registers::default());
    let vtd = start(&machine, vec![]);
    let error = vtd.paging_domain(&PagingConfig::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);

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
fn after_a_shutdown_nothing_is_attached() {
    let machine = Machine::new(Registers::default());
    let vtd = start(&machine, vec![]);
    let iommu = core(&vtd);
    let nic = add(&iommu, "nic", &[0x10]);
    vtd.shutdown().unwrap();
    machine.events();
    let error = nic.attach(&iommu.identity_domain().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotPermitted);
    let info = DeviceInfo::new("late").streams([0x11_u32]);
    let error = iommu.add_device(info, Arc::new(NoControl)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotPermitted);
    assert_eq!(machine.events(), []);
    assert!(nic.release().is_err());
}

#[test]
fn only_a_shutdown_gives_the_tables_back() {
    let machine = Machine::new(Registers::default());
    let vtd = start(&machine, vec![rmrr(&[0x10])]);
    drop(vtd.clone());
    drop(vtd);
    assert_eq!((machine.events(), machine.memory.live()), (vec![], 2));

    let machine = Machine::new(Registers::default());
    let vtd = start(&machine, vec![rmrr(&[0x10])]);
    machine.stick(Some(Stuck::TranslationOff));
    assert_eq!(vtd.shutdown().unwrap_err().kind(), ErrorKind::IommuTimedOut);
    machine.stick(None);
    vtd.shutdown().unwrap();
    vtd.shutdown().unwrap();
    assert_eq!(machine.events(), [Event::Write32(0x18, 0); 2]);
    drop(vtd);
    assert_eq!(machine.memory.live(), 0);
}
