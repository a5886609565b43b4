//! Taking a unit over, and handing it back.

use std::vec;
use std::vec::Vec;

use std::sync::Arc;

use iommu_core::ReservedKind;
use iommu_core::{BasicPlatform, Culprit, ErrorKind, RegisterBank};
use mockall::Sequence;
use mockall::predicate::eq;

use super::fakes::{BASE, Event, Machine, TestClock, TestMemory};
use super::registers::{Registers, Stuck};
use super::{config, region, rmrr, told};
use crate::{Config, IntelVtd, Mode};

const TE: u32 = 0x8000_0000;
const SRTP: u32 = 0x4000_0000;
const WBF: u32 = 0x0800_0000;
const QIE: u32 = 0x0400_0000;
const IRE: u32 = 0x0200_0000;
const ROOT: u64 = BASE + 0x2000;
const CONTEXTS: Event = told(0x11);
/// With both drains, which the default CAP has.
const TRANSLATIONS: Event = told(0xd2);

fn gcmd(value: u32) -> Event {
    Event::Write32(0x18, value)
}

/// What the hardware was told among `events`.
fn told_among(events: Vec<Event>) -> Vec<Event> {
    let told = |event: &Event| !matches!(event, Event::Store(..) | Event::Clean(..));
    let told = |event: &Event| told(event) && *event != Event::Barrier;
    events.into_iter().filter(told).collect()
}

/// The queue is taken over, everything is forgotten, and translation is on.
fn usual(switches: u32) -> Vec<Event> {
    vec![
        Event::Write64(0x88, 0),
        Event::Write64(0x90, BASE),
        gcmd(QIE | switches),
        Event::Write64(0x20, ROOT),
        gcmd(SRTP | QIE | switches),
        Event::Write64(0x88, 0x40),
        CONTEXTS,
        Event::Fence,
        TRANSLATIONS,
        Event::Done,
        gcmd(TE | QIE | switches),
    ]
}

fn probed(registers: Registers) -> (Machine, Vec<Event>) {
    let machine = Machine::new(registers);
    let _vtd = IntelVtd::probe(machine.platform(), config(vec![])).unwrap();
    let events = told_among(machine.events());
    (machine, events)
}

mockall::mock! {
    Bank {}
    impl RegisterBank for Bank {
        fn len(&self) -> usize;
        fn read32(&self, offset: usize) -> u32;
        fn write32(&self, offset: usize, value: u32);
        fn read64(&self, offset: usize) -> u64;
        fn write64(&self, offset: usize, value: u64);
    }
}

enum Access {
    R32(usize, u32),
    W32(usize, u32),
    R64(usize, u64),
    W64(usize, u64),
    /// The tail, upon which the hardware says that the wait in the fourth slot is done.
    Tail(u64),
}

/// Every access, in order, to a unit that takes its time.
#[test]
fn every_access_in_order() {
    use Access::{R32, R64, Tail, W32, W64};
    let script = [
        R32(0x00, 0x40),
        R64(0x08, 0x00d2_008c_222f_0606),
        R64(0x10, 0xf43),
        R32(0x1c, IRE), // interrupt remapping is on and stays on
        R32(0x34, 0),
        W64(0x88, 0),
        W64(0x90, BASE),
        W32(0x18, QIE | IRE),
        R32(0x1c, IRE),
        R32(0x1c, QIE | IRE),
        W64(0x20, ROOT),
        W32(0x18, SRTP | QIE | IRE),
        R32(0x1c, QIE | IRE),
        R32(0x1c, SRTP | QIE | IRE),
        Tail(0x40),
        W32(0x18, TE | QIE | IRE),
        R32(0x1c, SRTP | QIE | IRE),
        R32(0x1c, TE | SRTP | QIE | IRE),
    ];
    let memory = TestMemory::new(true, Arc::default());
    let mut bank = MockBank::new();
    let mut order = Sequence::new();
    bank.expect_len().return_const(0x230_usize);
    for access in script {
        match access {
            R32(at, value) => {
                let call = bank.expect_read32().with(eq(at)).times(1);
                call.in_sequence(&mut order).return_const(value);
            }
            R64(at, value) => {
                let call = bank.expect_read64().with(eq(at)).times(1);
                call.in_sequence(&mut order).return_const(value);
            }
            W32(at, value) => {
                let call = bank.expect_write32().with(eq(at), eq(value)).times(1);
                call.in_sequence(&mut order).return_const(());
            }
            W64(at, value) => {
                let call = bank.expect_write64().with(eq(at), eq(value)).times(1);
                call.in_sequence(&mut order).return_const(());
            }
            Tail(value) => {
                let call = bank.expect_write64().with(eq(0x88), eq(value)).times(1);
                let memory = memory.clone();
                let done = move |_, _| {
                    let status = memory.word(BASE + 0x38);
                    memory.write32(status, 4);
                };
                call.in_sequence(&mut order).returning(done);
            }
        }
    }
    let platform = BasicPlatform {
        bank,
        memory,
        clock: TestClock::default(),
    };
    IntelVtd::probe(platform, config(vec![])).unwrap();
}

#[test]
fn translation_is_on_last() {
    let (_, events) = probed(Registers {
        gsts: IRE, // interrupt remapping is on and stays on
        ..Registers::default()
    });
    assert_eq!(events, usual(IRE));
}

#[test]
fn in_scalable_mode_descriptors_are_wide_and_pasids_are_forgotten_too() {
    let machine = Machine::new(Registers {
        ecap: 0x0001_4800_8000_0f43,
        ..Registers::default()
    });
    let mode = Config {
        mode: Mode::Scalable,
        ..config(vec![])
    };
    let _vtd = IntelVtd::probe(machine.platform(), mode).unwrap();
    let expected = [
        Event::Write64(0x88, 0),
        Event::Write64(0x90, BASE | 1 << 11),
        gcmd(QIE),
        Event::Write64(0x20, ROOT | 1 << 10),
        gcmd(SRTP | QIE),
        Event::Write64(0x88, 0xc0),
        CONTEXTS,
        Event::Fence,
        told(0x37),
        Event::Fence,
        TRANSLATIONS,
        Event::Done,
        gcmd(TE | QIE),
    ];
    assert_eq!(told_among(machine.events()), expected);
}

#[test]
fn rmrr_entries_are_there_before_the_root_table_is_taken_over() {
    let machine = Machine::new(Registers::default());
    let relaxable = iommu_core::FirmwareRegion {
        region: region(ReservedKind::DirectRelaxable),
        ..rmrr(&[0x0210])
    };
    let reserved = iommu_core::FirmwareRegion {
        region: region(ReservedKind::Reserved),
        ..rmrr(&[0x0218])
    };
    // Listed twice, and with a stream that is none: firmware is often wrong.
    let first = rmrr(&[0x0010, 0x1_0000, 0x0110]);
    let rmrrs = vec![first.clone(), relaxable, reserved, first];
    let _vtd = IntelVtd::probe(machine.platform(), config(rmrrs)).unwrap();
    let context = |n: u64| ROOT + n * 4096;
    let stores: Vec<Event> = machine
        .events()
        .into_iter()
        .take_while(|event| !matches!(event, Event::Write64(..)))
        .filter(|event| *event != Event::Barrier)
        .collect();
    let expected = [
        Event::Store(ROOT, context(1) | 1),
        Event::Store(ROOT + 0x10, context(2) | 1),
        Event::Store(context(1) + 0x108, 0x102),
        Event::Store(context(1) + 0x100, 0x9),
        Event::Store(context(2) + 0x108, 0x102),
        Event::Store(context(2) + 0x100, 0x9),
        Event::Store(ROOT + 0x20, context(3) | 1),
        Event::Store(context(3) + 0x108, 0x102),
        Event::Store(context(3) + 0x100, 0x9),
    ];
    assert_eq!(stores, expected);
    for source in [0x0010, 0x0110, 0x0210] {
        assert!(machine.open(source));
    }
    assert!(!machine.open(0x0218) && !machine.open(0x0011) && !machine.open(0x0310));
}

#[test]
fn memory_that_walks_do_not_see_is_cleaned() {
    let machine = Machine::new(Registers {
        ecap: 0xf42,
        ..Registers::default()
    });
    let _vtd = IntelVtd::probe(machine.platform(), config(vec![rmrr(&[0x10])])).unwrap();
    let events = machine.events();
    for (at, event) in events.iter().enumerate() {
        if let Event::Store(addr, _) = event {
            assert_eq!(events[at + 1], Event::Clean(*addr, 8), "{at}");
        }
    }
    assert!(events.contains(&Event::Store(ROOT, (BASE + 0x3000) | 1)));
}

#[test]
fn write_buffers_are_flushed_and_protected_regions_end() {
    let (_, events) = probed(Registers {
        cap: 0x0012_008c_222f_0676, // RWBF, PLMR, PHMR; no draining
        pmen: 0x8000_0001,
        ..Registers::default()
    });
    let mut expected = vec![gcmd(WBF)];
    expected.extend(usual(0));
    expected[9] = told(0x12);
    expected.push(Event::Write32(0x64, 1));
    assert_eq!(events, expected);
}

#[test]
fn a_unit_left_on_changes_tables_without_being_switched_off() {
    let (_, events) = probed(Registers {
        gsts: TE | SRTP | QIE | IRE,
        iqt: 0x40,
        iqh: 0x40,
        fsts: 0x71,
        ..Registers::default()
    });
    // Errors of the old queue are forgotten, lost faults are not.
    let mut expected = vec![gcmd(TE | IRE), Event::Write32(0x34, 0x70)];
    let usual = usual(TE | IRE);
    expected.extend(&usual[..usual.len() - 1]);
    assert_eq!(events, expected);
}

#[test]
fn a_unit_left_in_another_mode_is_switched_off_first() {
    let (_, events) = probed(Registers {
        gsts: TE | SRTP,
        rtaddr: 0x9_9400,
        ..Registers::default()
    });
    let mut expected = vec![gcmd(0)];
    expected.extend(usual(0));
    assert_eq!(events, expected);
}

#[test]
fn no_memory_leaves_no_trace() {
    for budget in 0..5 {
        let machine = Machine::new(Registers::default());
        machine.memory.limit(budget);
        let rmrrs = vec![rmrr(&[0x10, 0x110])];
        let error = IntelVtd::probe(machine.platform(), config(rmrrs)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert_eq!(told_among(machine.events()), []);
        assert_eq!(machine.memory.live(), 0);
    }
}

/// The bring-up meets a unit that needs every wait there is.
#[test]
fn hardware_that_never_answers_is_named_and_keeps_what_it_may_use() {
    let off = Registers {
        cap: 0x00d2_008c_222f_0676,
        pmen: 0x8000_0001,
        ..Registers::default()
    };
    let other_mode = Registers {
        gsts: TE | QIE,
        rtaddr: 0x400,
        ..off.clone()
    };
    let legacy = Registers {
        gsts: TE,
        ..off.clone()
    };
    // The queue is two blocks, the tables are two.
    let waits = [
        (&other_mode, Stuck::OldQueue, Some("IQH_REG"), 0),
        (&other_mode, Stuck::QueueOff, Some("GSTS_REG"), 0),
        (&other_mode, Stuck::TranslationOff, Some("GSTS_REG"), 0),
        (&off, Stuck::WriteBuffers, Some("GSTS_REG"), 0),
        (&off, Stuck::QueueOn, Some("GSTS_REG"), 2),
        (&off, Stuck::Root, Some("GSTS_REG"), 2),
        (&off, Stuck::Waits, None, 2),
        (&off, Stuck::Fetch, None, 2),
        (&off, Stuck::Head, Some("IQH_REG"), 2),
        (&off, Stuck::TranslationOn, Some("GSTS_REG"), 4),
        (&off, Stuck::Unprotect, Some("PMEN_REG"), 4),
        (&legacy, Stuck::WriteBuffers, Some("GSTS_REG"), 0),
        (&legacy, Stuck::Root, Some("GSTS_REG"), 4),
        (&legacy, Stuck::Waits, None, 4),
    ];
    for (registers, stuck, register, leaked) in waits {
        let machine = Machine::new(Registers {
            stuck: Some(stuck),
            ..registers.clone()
        });
        let result = IntelVtd::probe(machine.platform(), config(vec![rmrr(&[0x10])]));
        let error = result.unwrap_err();
        let kind = match stuck {
            Stuck::Head => ErrorKind::Hardware,
            _ => ErrorKind::IommuTimedOut,
        };
        assert_eq!(error.kind(), kind, "{stuck:?}: {error}");
        match (error.culprit(), register) {
            (Culprit::Register { name, .. }, Some(register)) => assert_eq!(*name, register),
            (Culprit::Command { queue, .. }, None) => assert_eq!(*queue, "invalidation queue"),
            (culprit, _) => panic!("{stuck:?}: {culprit}"),
        }
        assert_eq!(machine.memory.live(), leaked, "{stuck:?}");
    }
}
