//! Handing a unit back.

use std::sync::Arc;
use std::vec;

use iommu_core::{DeviceInfo, ErrorKind, NoControl};

use super::fakes::{BASE, Event, Machine};
use super::registers::{Registers, Stuck};
use super::{add, config, core, rmrr, start, start_with, told};
use crate::ShutdownPolicy;

const ROOT: u64 = BASE + 0x2000;
const QIE: u32 = 0x0400_0000;

fn gcmd(value: u32) -> Event {
    Event::Write32(0x18, value)
}

#[test]
fn passing_everything_gives_the_memory_back() {
    let machine = Machine::new(Registers::default());
    let vtd = start(&machine, vec![rmrr(&[0x10])]);
    drop(vtd.clone());
    drop(vtd);
    assert_eq!((machine.events(), machine.memory.live()), (vec![], 4));

    let machine = Machine::new(Registers::default());
    let vtd = start(&machine, vec![rmrr(&[0x10])]);
    machine.with(|registers| registers.stuck = Some(Stuck::TranslationOff));
    let error = vtd.shutdown(ShutdownPolicy::PassThrough).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IommuTimedOut);
    machine.with(|registers| registers.stuck = None);
    vtd.shutdown(ShutdownPolicy::PassThrough).unwrap();
    vtd.shutdown(ShutdownPolicy::PassThrough).unwrap();
    assert_eq!(machine.events(), [gcmd(QIE), gcmd(QIE), gcmd(0)]);
    let error = vtd.shutdown(ShutdownPolicy::KeepBlocked).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotPermitted);
    drop(vtd);
    assert_eq!(machine.memory.live(), 0);
}

#[test]
fn keeping_everything_out_keeps_the_tables() {
    let machine = Machine::new(Registers::default());
    let vtd = start(&machine, vec![rmrr(&[0x10])]);
    assert!(machine.open(0x10));
    vtd.shutdown(ShutdownPolicy::KeepBlocked).unwrap();
    assert_eq!(machine.entry(0x10), None);
    let expected = [
        Event::Store(ROOT, 0),
        told(0x11),
        Event::Fence,
        told(0xd2),
        Event::Done,
    ];
    assert_eq!(machine.story(), expected);
    drop(vtd);
    assert_eq!(machine.memory.live(), 4);
}

#[test]
fn after_a_shutdown_nothing_is_attached() {
    for policy in [ShutdownPolicy::PassThrough, ShutdownPolicy::KeepBlocked] {
        let machine = Machine::new(Registers::default());
        let vtd = start_with(&machine, config(vec![]));
        let iommu = core(&vtd);
        let nic = add(&iommu, "nic", &[0x10]);
        vtd.shutdown(policy).unwrap();
        machine.events();
        let error = nic.attach(&iommu.identity_domain().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotPermitted);
        let info = DeviceInfo::new("late").streams([0x11_u32]);
        let control = Arc::new(NoControl);
        let error = iommu.add_device(info, control).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotPermitted);
        assert_eq!(machine.events(), []);
        assert!(nic.release().is_err());
    }
}
