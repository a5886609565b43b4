//! Taking a unit over.

use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use iommu_core::{BasicPlatform, Culprit, ErrorKind, IommuOps, RegisterBank, ReservedKind};
use mockall::Sequence;
use mockall::predicate::eq;

use super::fakes::{BASE, Event, Machine, Registers, Stuck, TestClock, TestMemory};
use super::{config, region, rmrr, start};
use crate::IntelVtd;

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

const TE: u32 = 0x8000_0000;
const SRTP: u32 = 0x4000_0000;
const WBF: u32 = 0x0800_0000;
const QIE: u32 = 0x0400_0000;
const IRE: u32 = 0x0200_0000;
const CONTEXTS: Event = Event::Write64(0x28, 0xa000_0000_0000_0000);
/// With both drains, which the default CAP has.
const TRANSLATIONS: Event = Event::Write64(0xf8, 0x9003_0000_0000_0000);
const ROOT: Event = Event::Write64(0x20, BASE);

fn gcmd(value: u32) -> Event {
    Event::Write32(0x18, value)
}

/// The writes to registers among `events`.
fn writes(events: Vec<Event>) -> Vec<Event> {
    let register = |event: &Event| matches!(event, Event::Write32(..) | Event::Write64(..));
    events.into_iter().filter(register).collect()
}

enum Access {
    R32(usize, u32),
    W32(usize, u32),
    R64(usize, u64),
    W64(usize, u64),
}

/// Every access, in order, to a unit that takes its time.
#[test]
fn every_access_in_order() {
    use Access::{R32, R64, W32, W64};
    let script = [
        R32(0x00, 0x40),
        R64(0x08, 0x00d2_008c_222f_0606),
        R64(0x10, 0xf43),
        R32(0x1c, IRE), // interrupt remapping is on and stays on
        W64(0x20, 0x10_0000),
        W32(0x18, SRTP | IRE),
        R32(0x1c, IRE),
        R32(0x1c, SRTP | IRE),
        R64(0x28, 0),
        R64(0xf8, 0),
        W64(0x28, 0xa000_0000_0000_0000),
        R64(0x28, 0xa000_0000_0000_0000),
        R64(0x28, 0x2800_0000_0000_0000),
        W64(0xf8, 0x9003_0000_0000_0000),
        R64(0xf8, 0x9003_0000_0000_0000),
        R64(0xf8, 0x1203_0000_0000_0000),
        W32(0x18, TE | IRE),
        R32(0x1c, SRTP | IRE),
        R32(0x1c, TE | SRTP | IRE),
    ];
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
        }
    }
    let platform = BasicPlatform {
        bank,
        memory: TestMemory::new(true, Arc::default()),
        clock: TestClock::default(),
    };
    IntelVtd::probe(platform, config(vec![])).unwrap();
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
    let rmrrs = vec![rmrr(&[0x0010, 0x0110]), relaxable, reserved];
    let _vtd = IntelVtd::probe(machine.platform(), config(rmrrs)).unwrap();
    let (root, context) = (BASE, |n: u64| BASE + n * 4096);
    let expected = [
        Event::Barrier,
        Event::Store(root, context(1) | 1),
        Event::Barrier,
        Event::Store(root + 0x10, context(2) | 1),
        Event::Store(context(1) + 0x108, 0x102),
        Event::Barrier,
        Event::Store(context(1) + 0x100, 0x9),
        Event::Store(context(2) + 0x108, 0x102),
        Event::Barrier,
        Event::Store(context(2) + 0x100, 0x9),
        Event::Barrier,
        Event::Store(root + 0x20, context(3) | 1),
        Event::Store(context(3) + 0x108, 0x102),
        Event::Barrier,
        Event::Store(context(3) + 0x100, 0x9),
        Event::Barrier,
        ROOT,
        gcmd(SRTP),
        Event::Barrier,
        CONTEXTS,
        TRANSLATIONS,
        gcmd(TE),
    ];
    assert_eq!(machine.events(), expected);
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
    assert_eq!(
        events[..10],
        [
            Event::Clean(BASE, 4096),
            Event::Clean(BASE + 0x1000, 4096),
            Event::Barrier,
            Event::Store(BASE, (BASE + 0x1000) | 1),
            Event::Clean(BASE, 8),
            Event::Store(BASE + 0x1108, 0x102),
            Event::Clean(BASE + 0x1108, 8),
            Event::Barrier,
            Event::Store(BASE + 0x1100, 0x9),
            Event::Clean(BASE + 0x1100, 8),
        ]
    );
}

#[test]
fn without_pass_through_there_is_no_identity() {
    for registers in [
        Registers {
            ecap: 0xf03,
            ..Registers::default()
        },
        Registers {
            cap: 0x00d2_008c_222f_0006, // no address width
            ..Registers::default()
        },
    ] {
        let machine = Machine::new(registers);
        let vtd = start(&machine, vec![rmrr(&[0x10])]);
        assert!(vtd.identity_domain().is_none());
        assert!(vtd.blocked_domain().is_some());
        assert!(!machine.open(0x10));
    }
}

#[test]
fn pass_through_names_the_greatest_width_there_is() {
    for (sagaw, high) in [(0x02, 0x101), (0x06, 0x102), (0x0e, 0x103), (0x1f, 0x103)] {
        let machine = Machine::new(Registers {
            cap: 0x00d2_008c_222f_0006 | sagaw << 8,
            ..Registers::default()
        });
        let _vtd = start(&machine, vec![rmrr(&[0x10])]);
        assert_eq!(machine.entry(0x10), Some((0x9, high)));
    }
}

#[test]
fn write_buffers_are_flushed_and_protected_regions_end() {
    let machine = Machine::new(Registers {
        cap: 0x0012_008c_222f_0676, // RWBF, PLMR, PHMR; no draining
        pmen: 0x8000_0001,
        ..Registers::default()
    });
    let _vtd = IntelVtd::probe(machine.platform(), config(vec![])).unwrap();
    let expected = [
        gcmd(WBF),
        ROOT,
        gcmd(SRTP),
        CONTEXTS,
        Event::Write64(0xf8, 0x9000_0000_0000_0000),
        gcmd(TE),
        Event::Write32(0x64, 1),
    ];
    assert_eq!(writes(machine.events()), expected);
}

#[test]
fn a_unit_left_on_changes_tables_without_being_switched_off() {
    let machine = Machine::new(Registers {
        gsts: TE | SRTP | QIE | IRE,
        iqt: 0x40,
        ..Registers::default()
    });
    let _vtd = IntelVtd::probe(machine.platform(), config(vec![])).unwrap();
    let expected = [
        gcmd(TE | IRE),
        ROOT,
        gcmd(TE | SRTP | IRE),
        CONTEXTS,
        TRANSLATIONS,
    ];
    assert_eq!(writes(machine.events()), expected);
}

#[test]
fn a_unit_left_in_another_mode_is_switched_off_first() {
    let machine = Machine::new(Registers {
        gsts: TE | SRTP,
        rtaddr: 0x9_9400,
        ..Registers::default()
    });
    let _vtd = IntelVtd::probe(machine.platform(), config(vec![])).unwrap();
    let expected = [gcmd(0), ROOT, gcmd(SRTP), CONTEXTS, TRANSLATIONS, gcmd(TE)];
    assert_eq!(writes(machine.events()), expected);
}

#[test]
fn what_cannot_work_is_refused_untouched() {
    let default = Registers::default;
    let refused = [
        (
            Registers {
                ver: 0x60,
                ..default()
            },
            ErrorKind::Unsupported,
            Some("VER_REG"),
        ),
        (
            Registers {
                ver: 0x00,
                ..default()
            },
            ErrorKind::Unsupported,
            Some("VER_REG"),
        ),
        (
            Registers {
                ver: u32::MAX,
                cap: u64::MAX,
                ecap: u64::MAX,
                ..default()
            },
            ErrorKind::Unsupported,
            Some("VER_REG"),
        ),
        (
            Registers {
                cap: 0x00d2_008c_222f_0607,
                ..default()
            },
            ErrorKind::Hardware,
            Some("CAP_REG"),
        ),
        (
            Registers {
                ecap: 0x043,
                ..default()
            },
            ErrorKind::Hardware,
            Some("ECAP_REG"),
        ),
        (
            Registers {
                len: 0xf8,
                ..default()
            },
            ErrorKind::InvalidArgument,
            Some("ECAP_REG"),
        ),
        (
            Registers {
                len: 0x80,
                ..default()
            },
            ErrorKind::InvalidArgument,
            None,
        ),
    ];
    for (registers, kind, register) in refused {
        let machine = Machine::new(registers);
        let error = IntelVtd::probe(machine.platform(), config(vec![])).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let named = match error.culprit() {
            Culprit::Register { name, .. } => Some(*name),
            _ => None,
        };
        assert_eq!(named, register, "{error}");
        assert_eq!((machine.events(), machine.memory.live()), (vec![], 0));
    }

    let machine = Machine::new(Registers::default());
    machine.bank.registers.lock().unwrap().ecap = 0xf42;
    let error = IntelVtd::probe(machine.platform(), config(vec![])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");

    let machine = Machine::new(Registers::default());
    let rmrrs = vec![rmrr(&[0x10]), rmrr(&[0x1_0000])];
    let error = IntelVtd::probe(machine.platform(), config(rmrrs)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    assert_eq!(
        (writes(machine.events()), machine.memory.live()),
        (vec![], 0)
    );
}

#[test]
fn no_memory_leaves_no_trace() {
    for budget in 0..3 {
        let machine = Machine::new(Registers::default());
        machine.memory.limit(budget);
        let rmrrs = vec![rmrr(&[0x10, 0x110])];
        let error = IntelVtd::probe(machine.platform(), config(rmrrs)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert_eq!(
            (writes(machine.events()), machine.memory.live()),
            (vec![], 0)
        );
    }
}

/// The bring-up meets a unit that needs every wait there is.
#[test]
fn hardware_that_never_answers_is_named_and_keeps_what_it_may_use() {
    let rwbf_and_regions = 0x00d2_008c_222f_0676;
    let off = Registers {
        cap: rwbf_and_regions,
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
    let waits = [
        (&other_mode, Stuck::Queue, "IQH_REG", 0),
        (&other_mode, Stuck::QueueOff, "GSTS_REG", 0),
        (&other_mode, Stuck::TranslationOff, "GSTS_REG", 0),
        (&off, Stuck::WriteBuffers, "GSTS_REG", 0),
        (&off, Stuck::Root, "GSTS_REG", 0),
        (&off, Stuck::Contexts, "CCMD_REG", 0),
        (&off, Stuck::Translations, "IOTLB_REG", 0),
        (&off, Stuck::Ignored, "IOTLB_REG", 0),
        (&off, Stuck::TranslationOn, "GSTS_REG", 2),
        (&off, Stuck::Unprotect, "PMEN_REG", 2),
        (&legacy, Stuck::WriteBuffers, "GSTS_REG", 0),
        (&legacy, Stuck::Root, "GSTS_REG", 2),
        (&legacy, Stuck::Contexts, "CCMD_REG", 2),
        (&legacy, Stuck::Translations, "IOTLB_REG", 2),
    ];
    for (registers, stuck, register, leaked) in waits {
        let machine = Machine::new(Registers {
            stuck: Some(stuck),
            ..registers.clone()
        });
        let result = IntelVtd::probe(machine.platform(), config(vec![rmrr(&[0x10])]));
        let error = result.unwrap_err();
        let kind = if stuck == Stuck::Ignored {
            ErrorKind::Hardware
        } else {
            ErrorKind::IommuTimedOut
        };
        assert_eq!(error.kind(), kind, "{stuck:?}: {error}");
        assert!(
            matches!(error.culprit(), Culprit::Register { name, .. } if *name == register),
            "{stuck:?}: {error}"
        );
        assert_eq!(machine.memory.live(), leaked, "{stuck:?}");
    }
}

#[test]
fn an_invalidation_that_is_under_way_is_waited_for() {
    let machine = Machine::new(Registers {
        ccmd: 1 << 63,
        ..Registers::default()
    });
    let error = IntelVtd::probe(machine.platform(), config(vec![])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IommuTimedOut, "{error}");
    assert_eq!(writes(machine.events()), [ROOT, gcmd(SRTP)]);
}

#[test]
fn faults_are_seen_and_left() {
    let machine = Machine::new(Registers::default());
    let vtd = start(&machine, vec![]);
    assert!(!vtd.fault_pending());
    for fsts in [1, 2] {
        machine.bank.registers.lock().unwrap().fsts = fsts;
        assert!(vtd.fault_pending());
    }
    assert_eq!(machine.events(), []);
}
