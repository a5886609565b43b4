//! What units can do, and those that are refused.

use std::vec;

use iommu_core::{Culprit, ErrorKind, IommuOps, PagingConfig};

use super::fakes::Machine;
use super::registers::Registers;
use super::{config, rmrr, start};
use crate::{Config, IntelVtd, Mode};

#[test]
fn the_mode_is_legacy_unless_only_the_other_one_can_translate() {
    let both = 0x0001_c800_8000_0f43;
    let cases = [
        (0x06, 0xf43, Mode::Auto, Some(false)),
        (0x06, both, Mode::Auto, Some(false)),
        (0x06, both, Mode::Legacy, Some(false)),
        (0x06, both, Mode::Scalable, Some(true)),
        (0x00, both, Mode::Auto, Some(true)),
        (0x00, 0xf43, Mode::Auto, Some(false)),
        (0x06, 0xf43, Mode::Scalable, None),
    ];
    for (sagaw, ecap, mode, scalable) in cases {
        let machine = Machine::new(Registers {
            cap: 0x00d2_008c_222f_0006 | sagaw << 8,
            ecap,
            ..Registers::default()
        });
        let config = Config {
            mode,
            ..config(vec![])
        };
        let result = IntelVtd::probe(machine.platform(), config);
        let found = result.as_ref().ok().map(|vtd| vtd.features().scalable);
        assert_eq!(found, scalable, "{ecap:#x} {mode:?}");
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
    }
}

#[test]
fn what_cannot_work_is_refused_untouched() {
    let with = |ver: u32, cap: u64, ecap: u64, len: usize| Registers {
        ver,
        cap,
        ecap,
        len,
        ..Registers::default()
    };
    let cap = 0x00d2_008c_222f_0606;
    let (unsupported, hardware) = (ErrorKind::Unsupported, ErrorKind::Hardware);
    let invalid = ErrorKind::InvalidArgument;
    let refused = [
        (with(0x00, cap, 0xf43, 0x230), unsupported, Some("VER_REG")),
        (with(!0, !0, !0, 0x230), hardware, Some("CAP_REG")),
        (with(0x10, cap | 7, 0xf43, 0x230), hardware, Some("CAP_REG")),
        (with(0x10, cap, 0xf41, 0x230), unsupported, Some("ECAP_REG")),
        // The fault records: on top of the queue's registers, beyond the end, too many.
        (
            with(0x10, 0x00d2_008c_052f_0606, 0xf43, 0x230),
            hardware,
            Some("CAP_REG"),
        ),
        (with(0x10, cap, 0xf43, 0x22f), invalid, Some("CAP_REG")),
        (
            with(0x10, cap | 1 << 40, 0xf43, 0x230),
            invalid,
            Some("CAP_REG"),
        ),
        (with(0x10, cap, 0xf43, 0x80), invalid, None),
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
    // Walks that do not see what memory says they do.
    for (ecap, mode) in [(0xf42, Mode::Legacy), (0x4800_8000_0f43, Mode::Scalable)] {
        let machine = Machine::new(Registers::default());
        machine.with(|registers| registers.ecap = ecap);
        let config = Config {
            mode,
            ..config(vec![])
        };
        let error = IntelVtd::probe(machine.platform(), config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert_eq!((machine.events(), machine.memory.live()), (vec![], 0));
    }
}

#[test]
fn capabilities_that_are_not_known_count_for_nothing() {
    // Every bit but those that would move registers or are refused.
    let cap = !(0x3ff << 24 | 0xff << 40 | 1) | 0x22 << 24;
    let machine = Machine::new(Registers {
        ver: 0xf0,
        cap,
        ecap: !0,
        ..Registers::default()
    });
    let vtd = start(&machine, vec![]);
    let features = vtd.features();
    let second = features.second_stage.unwrap();
    assert_eq!((second.input_bits, features.output_bits), (48, 48));
    assert_eq!(features.max_domain_id, 0xffff);
    vtd.paging_domain(&PagingConfig::default()).unwrap();
    // Nothing that it could translate with: still it refuses, and passes.
    let machine = Machine::new(Registers {
        cap: 0x0000_0000_222f_1800, // a SAGAW that nobody has
        ..Registers::default()
    });
    let vtd = start(&machine, vec![]);
    assert_eq!(vtd.features().second_stage, None);
    let error = vtd.paging_domain(&PagingConfig::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
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
