//! Commands, events and what is printed, against literals from the sources that the parent names.

use std::format;
use std::string::ToString;

use iommu_core::{Iova, Pasid, PhysAddr, StreamId};

use crate::smmu::GlobalErrors;
use crate::spec::commands::Command;
use crate::spec::events::{Event, EventKind, FaultClass};
use crate::spec::registers::{CmdqCons, Gerror, Idr5};
use crate::spec::ste::{L1Std, Ste};

#[test]
fn commands_are_those_of_others() {
    // Linux CMDQ_OP_*, CMDQ_CFGI_*, CMDQ_TLBI_*, CMDQ_0_SSV, CMDQ_ATC_*, ATC_INV_SIZE_ALL; QEMU
    // SMMU_CMD_* and CMD_*.
    let (va, ipa) = (Iova(0x0000_1234_5678_9abc), Iova(0x0000_9876_5432_1fff));
    let pasid = Pasid::new(0xa_bcde);
    let cases: [(Command, [u64; 2], &str); 13] = [
        (
            Command::cfgi_ste(StreamId(0xfedc_1234), true),
            [0xfedc_1234_0000_0003, 0x1],
            "CMD_CFGI_STE",
        ),
        (
            Command::cfgi_ste(StreamId(0x42), false),
            [0x0000_0042_0000_0003, 0x0],
            "CMD_CFGI_STE",
        ),
        (Command::cfgi_all(), [0x4, 0x1f], "CMD_CFGI_STE_RANGE"),
        (
            Command::tlbi_asid(0xabcd),
            [0xabcd_0000_0000_0011, 0],
            "CMD_TLBI_NH_ASID",
        ),
        (
            Command::tlbi_va(0xabcd, va),
            [0xabcd_0000_0000_0012, 0x0000_1234_5678_9000],
            "CMD_TLBI_NH_VA",
        ),
        (Command::tlbi_el2_all(), [0x20, 0], "CMD_TLBI_EL2_ALL"),
        (
            Command::tlbi_vmid(0xbeef),
            [0x0000_beef_0000_0028, 0],
            "CMD_TLBI_S12_VMALL",
        ),
        (
            Command::tlbi_ipa(0xbeef, ipa),
            [0x0000_beef_0000_002a, 0x0000_9876_5432_1000],
            "CMD_TLBI_S2_IPA",
        ),
        (Command::tlbi_nsnh_all(), [0x30, 0], "CMD_TLBI_NSNH_ALL"),
        (
            Command::atc_inv(StreamId(0xfedc_1234), None, Iova(0), 52),
            [0xfedc_1234_0000_0040, 0x34],
            "CMD_ATC_INV",
        ),
        (
            Command::atc_inv(StreamId(0x42), None, va, 0),
            [0x0000_0042_0000_0040, 0x0000_1234_5678_9000],
            "CMD_ATC_INV",
        ),
        (
            Command::atc_inv(StreamId(0x42), pasid, Iova(0xffff_8000_0000_0000), 35),
            [0x0000_0042_abcd_e840, 0xffff_8000_0000_0023],
            "CMD_ATC_INV",
        ),
        (Command::sync(), [0x46, 0], "CMD_SYNC"),
    ];
    for (command, words, name) in cases {
        assert_eq!((command.0, command.name()), (words, name));
    }
}

/// QEMU `EVT_SET_*` and Linux `EVTQ_*` for the places; QEMU `SMMU_EVT_*` for the numbers; which
/// event has which field is text (7.3).
const EVENTS: [([u64; 4], &str); 18] = [
    (
        [0x0000_0100_0000_0001, 0x0000_0000_0000_0007, 0xdead_0000, 0],
        "F_UUT: stream 0x0100, write of 0xdead0000",
    ),
    (
        [0x0001_ffff_0000_0002, 0, 0, 0],
        "C_BAD_STREAMID: stream 0x1ffff",
    ),
    (
        [0x0000_0100_0000_0003, 0, 0, 0x8000_1240],
        "F_STE_FETCH: stream 0x0100, fetching 0x80001240",
    ),
    ([0x0000_0100_0000_0004, 0, 0, 0], "C_BAD_STE: stream 0x0100"),
    (
        [0x0000_0100_0000_0005, 0, 0, 0],
        "F_BAD_ATS_TREQ: stream 0x0100",
    ),
    (
        [0x0000_0100_0000_0006, 0, 0, 0],
        "F_STREAM_DISABLED: stream 0x0100",
    ),
    (
        [0x0000_0100_0000_0007, 0x0000_0008_0000_0000, 0x1234_5000, 0],
        "F_TRANSL_FORBIDDEN: stream 0x0100, read of 0x12345000",
    ),
    (
        [0x0000_0100_0000_0009, 0, 0, 0x8800_0040],
        "F_CD_FETCH: stream 0x0100, fetching 0x88000040",
    ),
    (
        [0x0000_0100_abcd_e80a, 0, 0, 0],
        "C_BAD_CD: stream 0x0100, substream 0xabcde",
    ),
    (
        [
            0x0000_0100_0000_0010,
            0x0000_0208_0000_0000,
            0xffff_0000_1234_5678,
            0,
        ],
        "F_TRANSLATION: stream 0x0100, read of 0xffff000012345678, stage 1",
    ),
    (
        [
            0x0000_1234_0000_5810,
            0x0000_0288_8000_00ab,
            0x4000_0123,
            0x42_1234_5000,
        ],
        "F_TRANSLATION: stream 0x1234, substream 0x5, read of 0x40000123, stage 2, \
      IPA 0x4212345000, stalled with tag 0xab",
    ),
    (
        [0x0000_0100_0000_0011, 0x0000_0200_0000_0000, 0x1000, 0],
        "F_ADDR_SIZE: stream 0x0100, write of 0x1000, stage 1",
    ),
    (
        [
            0x0000_0100_0000_0012,
            0x0000_0188_0000_0000,
            0x1000,
            0x9000_0000,
        ],
        "F_ACCESS: stream 0x0100, read of 0x1000, stage 2 walking stage 1, IPA 0x90000000",
    ),
    (
        [
            0x0000_0100_0000_0013,
            0x0000_0080_0000_0000,
            0x1000,
            0x9000_0000,
        ],
        "F_PERMISSION: stream 0x0100, write of 0x1000, stage 2 fetching a CD, IPA 0x90000000",
    ),
    (
        [0x0000_0100_0000_0021, 0, 0, 0],
        "F_CFG_CONFLICT: stream 0x0100",
    ),
    (
        [0x0000_0100_0000_0024, 0, 0, 0],
        "E_PAGE_REQUEST: stream 0x0100",
    ),
    (
        [0x0000_0100_0000_0025, 0, 0, 0xa000_0000],
        "F_VMS_FETCH: stream 0x0100, fetching 0xa0000000",
    ),
    (
        [0x0000_0100_0000_00e3, 1, 2, 3],
        "event 0xe3: stream 0x0100, record [100000000e3, 1, 2, 3]",
    ),
];

#[test]
fn events_are_printed_as_what_they_are() {
    for (record, text) in EVENTS {
        assert_eq!(Event(record).to_string(), text);
    }
}

#[test]
fn an_event_has_the_fields_of_others() {
    // SID 0x1234, SSV, SSID 5, type F_TRANSLATION; CLASS 2, S2, RnW, STALL, STAG 0xab.
    let event = Event(EVENTS[10].0);
    assert_eq!(event.kind(), EventKind::F_TRANSLATION);
    assert_eq!(event.stream(), StreamId(0x1234));
    assert_eq!(event.substream(), Some(5));
    assert_eq!(event.input(), Some(Iova(0x4000_0123)));
    assert_eq!(event.is_read(), Some(true));
    assert_eq!(event.stage(), Some(2));
    assert_eq!(event.class(), Some(FaultClass::Input));
    assert_eq!(event.ipa(), Some(PhysAddr(0x42_1234_5000)));
    assert_eq!(event.stalled(), Some(0xab));
    assert_eq!(event.fetch(), None);
    // The kinds whose texts may come to say more: by number (text: 7.3.9, 7.3.12, 7.3.17).
    for (raw, kind, name) in [
        (0x08, EventKind::C_BAD_SUBSTREAMID, "C_BAD_SUBSTREAMID"),
        (0x0b, EventKind::F_WALK_EABT, "F_WALK_EABT"),
        (0x20, EventKind::F_TLB_CONFLICT, "F_TLB_CONFLICT"),
    ] {
        let event = Event([
            0x0000_0100_0000_0000 | raw,
            0x0000_0008_0000_0000,
            0x2000,
            0,
        ]);
        assert_eq!((event.kind(), event.kind().name()), (kind, Some(name)));
        assert!(event.to_string().starts_with(name));
    }
    let walk = Event([0x0000_0100_0000_000b, 0, 0x2000, 0x8800_1ff8]);
    assert_eq!(walk.input(), Some(Iova(0x2000)));
    assert_eq!(walk.fetch(), Some(PhysAddr(0x8800_1ff8)));
}

#[test]
fn entries_are_printed_as_what_they_are() {
    let cases: [([u64; 4], &str); 8] = [
        ([0, 0, 0, 0], "invalid"),
        ([0x1, 0, 0, 0], "abort"),
        ([0x7, 0, 0, 0], "abort"),
        ([0x9, 0x1000_0000_0000, 0, 0], "bypass"),
        (
            [0x8765_4321_0fcb, 0xd4, 0, 0],
            "stage 1, CD at 0x876543210fc0",
        ),
        (
            [0x2800_0000_8000_005b, 0x1000_00d6, 0, 0],
            "stage 1, CD at 0x80000040, 2^5 CDs, DSS 2, ATS 1",
        ),
        (
            [0xd, 0, 0x040c_3594_0000_00ab, 0x9_0000_0000],
            "stage 2, VMID 171, table at 0x900000000, 44 input bits",
        ),
        (
            [0x8000_004f, 0x2000_0000, 0x040d_3558_0000_0007, 0x9000_0000],
            "stage 1, CD at 0x80000040; stage 2, VMID 7, table at 0x90000000, 40 input bits, ATS 2",
        ),
    ];
    for ([word0, word1, word2, word3], text) in cases {
        let entry = Ste::from_words([word0, word1, word2, word3, 0, 0, 0, 0]);
        assert_eq!(entry.to_string(), text);
    }
}

#[test]
fn global_errors_are_printed_as_what_they_are() {
    // Linux GERROR_*.
    let cases = [
        (0x000, "none known (0x0)"),
        (0x001, "command refused"),
        (
            0x0fc,
            "event queue write aborted, PRI queue write aborted, command queue MSI aborted, \
                 event queue MSI aborted, PRI queue MSI aborted, global error MSI aborted",
        ),
        (0x101, "command refused, service failure mode"),
    ];
    for (raw, text) in cases {
        assert_eq!(GlobalErrors(Gerror::from_bits(raw)).to_string(), text);
    }
}

#[test]
fn no_bits_make_decoding_panic() {
    let mut seed = 0x1234_5678_9abc_def1_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..20_000_u64 {
        // Every event number and every low byte of an entry comes up many times.
        let first = next() & !0xff | round & 0xff;
        let event = Event([first, next(), next(), next()]);
        assert!(!format!("{event} {event:?}").is_empty());
        let entry = Ste::from_words([first, next(), next(), next(), next(), 0, 0, 0]);
        assert!(!format!("{entry} {entry:?}").is_empty());
        let descriptor = L1Std::from_bits(next());
        assert!(!format!("{descriptor:?}").is_empty());
        let errors = Gerror::from_bits((next() >> 32) as u32);
        assert!(!format!("{} {errors:?}", GlobalErrors(errors)).is_empty());
        let (raw, cons) = (
            (next() >> 32) as u32,
            CmdqCons::from_bits((next() >> 32) as u32),
        );
        let _ = (Idr5::from_bits(raw).output_bits(), cons.rd(), cons.err());
        let _ = Command([next(), next()]).name();
    }
    for ones in [0, u64::MAX] {
        assert!(!Event([ones; 4]).to_string().is_empty());
        assert!(!Ste::from_words([ones; 8]).to_string().is_empty());
    }
}
