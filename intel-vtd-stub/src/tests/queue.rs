//! What goes wrong with the invalidation queue.

use std::vec;
use std::vec::Vec;

use iommu_core::{Attached, Culprit, ErrorKind, IommuOps, PagingConfig, Rest, StreamId};

use super::fakes::{Event, Machine};
use super::registers::{Registers, Upset};
use super::{add, core, start};

/// A machine with a device on identity, which parking takes two descriptors for.
fn parked_with(upsets: &[Option<Upset>]) -> (Machine, iommu_core::Result<Rest>) {
    let machine = Machine::new(Registers::default());
    let iommu = core(&start(&machine, vec![]));
    let nic = add(&iommu, "nic", &[0x10]);
    nic.attach(&iommu.identity_domain().unwrap()).unwrap();
    machine.with(|registers| {
        registers.upsets = upsets.into();
        registers.iqercd = 0x0000_0123_0000_0004;
    });
    machine.events();
    let result = nic.release();
    (machine, result)
}

#[test]
fn a_refused_descriptor_is_named_and_the_queue_goes_on() {
    for (upsets, command) in [
        (vec![Some(Upset::Refuse)], "cc_inv_dsc"),
        (vec![None, None, Some(Upset::Refuse)], "iotlb_inv_dsc"),
    ] {
        let (machine, result) = parked_with(&upsets);
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Hardware);
        assert!(
            matches!(error.culprit(), Culprit::Command { command: name, .. } if *name == command),
            "{error}"
        );
        // It was replaced, and what came after it was done.
        let done = machine
            .events()
            .iter()
            .filter(|e| **e == Event::Done)
            .count();
        assert_eq!(done, 2, "the replacement, and the wait");
        assert_eq!(
            machine.with(|registers| (registers.fsts, registers.iqh == registers.iqt)),
            (0, true)
        );
    }
}

#[test]
fn what_was_refused_is_nobody_elses_failure() {
    let machine = Machine::new(Registers::default());
    let vtd = start(&machine, vec![]);
    let iommu = core(&vtd);
    let nic = add(&iommu, "nic", &[0x10]);
    let (identity, blocked) = (iommu.identity_domain().unwrap(), iommu.blocked_domain());
    nic.attach(&identity).unwrap();
    machine.with(|registers| registers.upsets = vec![Some(Upset::Refuse)]);
    nic.attach(&blocked).unwrap_err();
    assert!(matches!(nic.attached(), Attached::Uncertain { .. }));
    drop(vtd.paging_domain(&PagingConfig::default()).unwrap());
    nic.attach(&identity).unwrap();
    nic.attach(&blocked).unwrap();
    assert!(nic.attached().is(&blocked));
    assert_eq!(nic.release().unwrap(), Rest::Blocked);
}

#[test]
fn a_queue_that_refuses_what_cannot_be_wrong_is_broken() {
    let (machine, result) = parked_with(&[Some(Upset::Refuse), Some(Upset::Refuse)]);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Hardware);
    // Nothing more is asked of it.
    let tail = machine.with(|registers| registers.iqt);
    assert_eq!(machine.with(|registers| registers.iqh), tail - 0x40);
}

#[test]
fn invalidations_are_repeated_where_a_device_kept_them_from_being_done() {
    let (machine, result) = parked_with(&[Some(Upset::Silence)]);
    assert_eq!(result.unwrap(), Rest::Blocked);
    let events = machine.events();
    let asked = events
        .iter()
        .filter(|event| matches!(event, Event::Descriptor(..)));
    assert_eq!(asked.count(), 4);
    assert!(events.contains(&Event::Write32(0x34, 0x40)));
}

#[test]
fn a_device_that_never_answers_is_named() {
    let silent = vec![Some(Upset::Silence); 100];
    let (_, result) = parked_with(&silent);
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceTimedOut);
    assert_eq!(*error.culprit(), Culprit::Stream(StreamId(0x123)));
}

#[test]
fn a_wrong_answer_changes_nothing() {
    let (machine, result) = parked_with(&[Some(Upset::Nonsense)]);
    assert_eq!(result.unwrap(), Rest::Blocked);
    assert_eq!(
        machine.with(|registers| registers.fsts),
        0x20,
        "nobody had to look"
    );
    // Whoever looks, because something else is wrong, acknowledges it.
    let (machine, result) = parked_with(&[Some(Upset::Nonsense), Some(Upset::Refuse)]);
    result.unwrap_err();
    assert_eq!(machine.with(|registers| registers.fsts), 0);
}

#[test]
fn the_queue_wraps_and_takes_more_than_it_holds() {
    let machine = Machine::new(Registers::default());
    let iommu = core(&start(&machine, vec![]));
    let streams: Vec<u32> = (0..256).map(|devfn| 0x300 + devfn).collect();
    let bus = add(&iommu, "bus", &streams);
    let identity = iommu.identity_domain().unwrap();
    for _ in 0..5 {
        bus.attach(&identity).unwrap();
        machine.events();
        bus.attach(&iommu.blocked_domain()).unwrap();
        let events = machine.events();
        let count = |of: fn(&Event) -> bool| events.iter().filter(|event| of(event)).count();
        // 256 context entries and one domain, in a queue of 256 slots of which one stays free.
        assert_eq!(count(|event| matches!(event, Event::Descriptor(..))), 257);
        assert_eq!(count(|event| *event == Event::Done), 2);
    }
    assert_eq!(bus.release().unwrap(), Rest::Blocked);
}
