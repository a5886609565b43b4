//! Translation requests and translated transactions, by the tables of 3.9.1.2 and 3.9.1.3.

use super::*;

/// ATS, with split-stage and `REC_CFG_ATS`; 6 bits of SubstreamID.
fn config() -> ModelConfig {
    ModelConfig {
        idr0: 0x0dc4_141b,
        idr1: 0x0273_0190,
        ..Default::default()
    }
}

/// EATS 1 and 2, in the second word.
pub(super) const FULL: u64 = 1 << 28;
const SPLIT: u64 = 2 << 28;
const DENIED: Completion = Completion::Success {
    page: PhysAddr(0),
    read: false,
    write: false,
};

impl Rig {
    /// An SMMU with ATS that translates. `CR2` and `CR0` get these bits more.
    pub(super) fn with_ats(config: ModelConfig, cr2: u32, cr0: u32) -> Self {
        let rig = Self::new(config);
        rig.bank.write64(0x80, STREAMS);
        rig.bank.write32(0x88, 6);
        rig.queues();
        rig.bank.write32(0x2c, 2 | cr2);
        rig.cr0(0x8);
        rig.submit(&[CFGI_ALL, SYNC, TLBI_ALL, SYNC]);
        rig.cr0(0xd | cr0);
        rig
    }

    fn ask(&self, stream: u32, iova: u64, write: bool) -> Completion {
        self.model.translation_request(stream, None, iova, write)
    }

    fn translated(&self, stream: u32, addr: u64) -> Outcome {
        self.model
            .transact_translated(stream, PhysAddr(addr), Access::Write)
    }

    /// Forgets all that is cached.
    fn forget(&self) {
        self.submit(&[CFGI_ALL, SYNC, TLBI_ALL, SYNC]);
    }
}

fn rig() -> Rig {
    Rig::with_ats(config(), 0, ATSCHK)
}

pub(super) const ATSCHK: u32 = 0x10;
const REC_CFG_ATS: u32 = 8;

fn granted(page: u64, read: bool, write: bool) -> Completion {
    let page = PhysAddr(page);
    Completion::Success { page, read, write }
}

#[test]
fn a_request_is_granted_what_the_tables_allow_and_no_more_than_it_asked_for() {
    let rig = rig();
    rig.stage1();
    rig.ste(5, &[STE_S1, FULL, 2]);
    assert_eq!(rig.ask(5, 0x20_3abc, true), granted(DATA, true, true));
    assert_eq!(rig.ask(5, 0x20_3abc, false), granted(DATA, true, false));
    // A page of a block, at its own address.
    assert_eq!(
        rig.ask(5, 0x4000_5000, true),
        granted(0x4000_5000, true, true)
    );
    rig.poke(S1 + 0x2018, &[DATA | READ_ONLY]);
    rig.forget();
    assert_eq!(rig.ask(5, 0x20_3000, true), granted(DATA, true, false));
    // Not for unprivileged access, which a request without PASID asks for.
    rig.poke(S1 + 0x2018, &[DATA | PAGE & !0x40]);
    rig.forget();
    assert_eq!(rig.ask(5, 0x20_3000, true), DENIED);
    assert!(rig.events().is_empty());
    rig.is_clean();
}

#[test]
fn stage_2_grants_what_it_allows() {
    let rig = rig();
    rig.stage2();
    rig.ste(6, &[STE_S2, FULL, S2_39, S2]);
    assert_eq!(rig.ask(6, 0x20_3000, true), granted(DATA, true, true));
    // Only writes.
    rig.poke(S2 + 0x1_1018, &[DATA | S2_PAGE & !0x40]);
    rig.forget();
    assert_eq!(rig.ask(6, 0x20_3000, true), granted(DATA, false, true));
    assert_eq!(rig.ask(6, 0x20_3000, false), DENIED);
    assert!(rig.events().is_empty());
    rig.is_clean();
}

#[test]
fn translation_faults_are_successes_without_access_and_leave_no_event() {
    let rig = Rig::with_ats(config(), REC_CFG_ATS, ATSCHK);
    rig.stage1();
    rig.ste(5, &[STE_S1, FULL, 2]);
    // Not mapped; no access flag; an address out of range; beyond both ranges.
    rig.poke(
        S1 + 0x2020,
        &[DATA | PAGE & !0x400, 0x8000_4000_0000 | PAGE],
    );
    for iova in [0x20_6000, 0x20_4000, 0x20_5000, 1 << 52] {
        assert_eq!(rig.ask(5, iova, true), DENIED, "{iova:#x}");
    }
    // Stage 2 refuses the context descriptor.
    rig.ste(8, &[0x3_000f, FULL, S2_39, S2]);
    assert_eq!(rig.ask(8, 0x20_3000, true), DENIED);
    // CD.R and CD.S change nothing.
    rig.poke(CD, &[CD_39 & !(1 << 45)]);
    rig.forget();
    assert_eq!(rig.ask(5, 0x20_6000, true), DENIED);
    assert!(rig.events().is_empty());
    rig.is_clean();
}

#[test]
fn what_is_not_allowed_to_ask_is_told_so() {
    // Stream 5, and the event.
    let treq = [[0x0000_0005_0000_0005, 0, 0, 0]];
    let entries = [
        (&[STE_S1, 0, 2][..], ATSCHK, &treq[..]),
        (&[BYPASS, FULL], ATSCHK, &treq),
        (&[ABORT, FULL], ATSCHK, &[]),
        // Split-stage needs the check of translated transactions.
        (&[0x3_000f, SPLIT, S2_39, S2], 0, &treq),
        // EATS 3 is reserved without a device permission table, with or without the check.
        (&[STE_S1, 3 << 28, 2], ATSCHK, &treq),
        (&[STE_S1, 3 << 28, 2], 0, &treq),
    ];
    for (ste, cr0, events) in entries {
        let rig = Rig::with_ats(config(), 0, cr0);
        rig.stage1();
        rig.ste(5, ste);
        let completion = rig.ask(5, 0x20_3000, false);
        assert_eq!(completion, Completion::UnsupportedRequest, "{ste:x?}");
        assert_eq!(rig.events(), events, "{ste:x?}");
        rig.is_clean();
    }
    // With a PASID, the event tells it.
    let rig = rig();
    rig.ste(5, &[BYPASS]);
    rig.model.translation_request(5, Some(3), 0, false);
    assert_eq!(rig.events(), [[0x0000_0005_0000_3805, 0, 0, 0]]);
    // Translation is off.
    rig.cr0(0xc);
    assert_eq!(rig.ask(5, 0, false), Completion::UnsupportedRequest);
    assert_eq!(rig.events(), treq);
    // There is no ATS: nothing comes of it.
    let rig = Rig::up();
    rig.ste(5, &[STE_S1, FULL, 2]);
    assert_eq!(rig.ask(5, 0, false), Completion::UnsupportedRequest);
    assert!(rig.events().is_empty());
}

/// Entries of stream 5 that are wrong: the entry, a context descriptor, the event without its stream.
const WRONG: [(&[u64], &[u64], u64); 4] = [
    (&[0], &[], 0x04),
    (&[STE_S1, FULL, 2], &[0], 0x0a),
    // No context descriptor for requests without PASID; fetched from nowhere.
    (&[STE_S1 | 1 << 59, FULL, 2], &[], 0x06),
    (&[0xb, FULL, 2], &[], 0x09),
];

#[test]
fn errors_of_configuration_are_completer_aborts_and_recorded_where_asked_for() {
    for recorded in [false, true] {
        let cr2 = if recorded { REC_CFG_ATS } else { 0 };
        for (ste, cd, event) in WRONG {
            let rig = Rig::with_ats(config(), cr2, ATSCHK);
            rig.stage1();
            rig.ste(5, ste);
            rig.poke(CD, cd);
            assert_eq!(rig.ask(5, 0x20_3000, true), Completion::CompleterAbort);
            let events: Vec<u64> = rig.events().iter().map(|[first, ..]| *first).collect();
            let expected = [0x0000_0005_0000_0000 | event];
            assert_eq!(events, if recorded { &expected[..] } else { &[] });
        }
        let rig = Rig::with_ats(config(), cr2, ATSCHK);
        // Beyond the table.
        assert_eq!(rig.ask(64, 0, true), Completion::CompleterAbort);
        // A table that is not in memory.
        rig.stage1();
        rig.ste(5, &[STE_S1, FULL, 2]);
        rig.poke(S1, &[0x3]);
        assert_eq!(rig.ask(5, 0x20_3000, true), Completion::CompleterAbort);
        assert_eq!(rig.events().len(), if recorded { 2 } else { 0 });
    }
}

#[test]
fn translated_transactions_pass_where_the_entry_allows_them() {
    let rig = rig();
    rig.stage1();
    rig.ste(5, &[STE_S1, FULL, 2]);
    // Any physical address: the device is believed.
    assert_eq!(rig.translated(5, 0x4070_0123), to(0x4070_0123));
    assert_eq!(rig.translated(5, 1 << 44), Outcome::Aborted);
    assert!(rig.events().is_empty());
    // F_TRANSL_FORBIDDEN, of a write.
    for ste in [&[STE_S1, 0, 2][..], &[BYPASS, FULL]] {
        rig.ste(5, ste);
        rig.forget();
        assert_eq!(rig.translated(5, DATA), Outcome::Faulted);
        assert_eq!(rig.events(), [[0x0000_0005_0000_0007, 0, DATA, 0]]);
    }
    rig.model.transact_translated(5, PhysAddr(8), Access::Read);
    assert_eq!(rig.events(), [[0x0000_0005_0000_0007, 1 << 35, 8, 0]]);
    // Silently.
    for ste in [ABORT, 0] {
        rig.ste(5, &[ste]);
        rig.forget();
        assert_eq!(rig.translated(5, DATA), Outcome::Aborted);
    }
    assert_eq!(rig.translated(64, DATA), Outcome::Aborted);
    assert!(rig.events().is_empty());
    rig.cr0(0x1c);
    assert_eq!(rig.translated(5, DATA), Outcome::Faulted);
    assert_eq!(rig.events(), [[0x0000_0005_0000_0007, 0, DATA, 0]]);
    rig.is_clean();
}

#[test]
fn with_a_device_permission_table_that_nobody_walks_nothing_translated_passes() {
    let with_table = ModelConfig {
        idr3: 0x9414,
        ..config()
    };
    let rig = Rig::with_ats(with_table, 0, ATSCHK);
    rig.stage1();
    rig.ste(5, &[STE_S1, 3 << 28, 2]);
    assert_eq!(rig.ask(5, 0x20_3000, false), granted(DATA, true, false));
    assert_eq!(rig.translated(5, DATA), Outcome::Faulted);
    assert_eq!(rig.events(), [[0x0000_0005_0000_0007, 0, DATA, 0]]);
}

#[test]
fn without_the_check_translated_transactions_pass_by_everything() {
    let rig = Rig::with_ats(config(), REC_CFG_ATS, 0);
    for ste in [ABORT, 0] {
        rig.ste(5, &[ste]);
        assert_eq!(rig.translated(5, DATA), to(DATA));
    }
    assert_eq!(rig.translated(64, DATA), to(DATA));
    assert_eq!(rig.translated(5, 1 << 44), Outcome::Aborted);
    assert!(rig.events().is_empty());
    rig.is_clean();
}

#[test]
fn errors_of_configuration_that_translated_transactions_meet_are_recorded_where_asked_for() {
    let config = config();
    let rig = Rig::with_ats(config, REC_CFG_ATS, ATSCHK);
    rig.ste(5, &[0]);
    assert_eq!(rig.translated(5, DATA), Outcome::Faulted);
    assert_eq!(rig.translated(64, DATA), Outcome::Faulted);
    let events = rig.events();
    assert_eq!(
        [events[0][0], events[1][0]],
        [0x0000_0005_0000_0004, 0x0000_0040_0000_0002]
    );
    rig.is_clean();
}

#[test]
fn split_stage_leaves_stage_2_to_the_smmu() {
    let rig = rig();
    rig.stage1();
    rig.stage2();
    // Stage 1 with addresses that stage 2 translates by 2 MiB blocks, one to one but for the data.
    rig.ste(8, &[0x3_000f, SPLIT, S2_39, S2]);
    for (block, at) in [(0, 0x4000_0000), (1, 0x4020_0000), (2, DATA)] {
        rig.poke(S2 + 0x1_0000 + block * 8, &[at | S2_BLOCK]);
    }
    rig.poke(CD, &[CD_39, S1 - 0x4000_0000]);
    rig.poke(S1, &[S1 - 0x4000_0000 + 0x1003]);
    rig.poke(S1 + 0x1008, &[S1 - 0x4000_0000 + 0x2003]);
    rig.poke(S1 + 0x2018, &[0x40_0000 | PAGE]);
    assert_eq!(rig.ask(8, 0x20_3000, true), granted(0x40_0000, true, true));
    assert_eq!(rig.translated(8, 0x40_0abc), to(DATA + 0xabc));
    // As any transaction's, a fault of stage 2 is recorded; so is an address beyond what it takes.
    assert_eq!(rig.translated(8, 0x60_0000), Outcome::Faulted);
    assert_eq!(rig.translated(8, 1 << 45), Outcome::Faulted);
    assert_eq!(
        rig.events(),
        [
            [
                0x0000_0008_0000_0010,
                0x0280_0000_0000,
                0x60_0000,
                0x60_0000
            ],
            [0x0000_0008_0000_0011, 0x0200_0000_0000, 1 << 45, 0],
        ]
    );
    // Full ATS gives the physical address.
    rig.ste(8, &[0x3_000f, FULL, S2_39, S2]);
    rig.forget();
    assert_eq!(rig.ask(8, 0x20_3000, true), granted(DATA, true, true));
    rig.is_clean();
}

#[test]
fn a_request_with_pasid_uses_its_context_and_one_without_may_skip_stage_1() {
    let rig = rig();
    rig.stage1();
    // Two context descriptors; without PASID, stage 1 is skipped (S1DSS 1).
    rig.ste(5, &[STE_S1 | 1 << 59, FULL | 1, 2]);
    rig.poke(CD + 64, &[CD_39, S1, 0, 0xff]);
    let with = |pasid| {
        rig.model
            .translation_request(5, Some(pasid), 0x20_3000, true)
    };
    assert_eq!(with(1), granted(DATA, true, true));
    assert_eq!(with(2), Completion::CompleterAbort);
    assert_eq!(rig.ask(5, 0x20_3000, true), granted(0x20_3000, true, true));
    rig.is_clean();
}
