//! Every condition under which a stream table entry is ILLEGAL (5.2.2), one bit away from one that is
//! legal.

use super::*;

/// A nested entry: V, Config 0b111, S1ContextPtr; S1DSS 0b10.
const NESTED: [u64; 8] = [0x4003_000f, 2, S2_39, S2, 0, 0, 0, 0];
/// V, Config 0b101.
pub(super) const ONE: [u64; 8] = [STE_S1, 2, 2, 0, 0, 0, 0, 0];

/// The default with other bits of IDR0, IDR1, IDR3 and IDR5: those to clear, those to set.
fn with(changes: &[(usize, u32, u32)]) -> ModelConfig {
    let mut config = ModelConfig::default();
    for (register, clear, set) in changes {
        let register = match register {
            0 => &mut config.idr0,
            1 => &mut config.idr1,
            3 => &mut config.idr3,
            _ => &mut config.idr5,
        };
        *register = *register & !clear | set;
    }
    config
}

/// The same words with other bits of one word: those to clear, those to set.
pub(super) fn but(mut words: [u64; 8], at: usize, clear: u64, set: u64) -> [u64; 8] {
    words[at] = words[at] & !clear | set;
    words
}

pub(super) type Case = (
    &'static [(usize, u32, u32)],
    [u64; 8],
    Result<(), &'static str>,
);

pub(super) fn check(
    cases: &[Case],
    judge: impl Fn(&ModelConfig, &[u64; 8]) -> Result<(), &'static str>,
) {
    for (changes, words, expected) in cases {
        assert_eq!(
            judge(&with(changes), words),
            *expected,
            "{words:x?} with {changes:x?}"
        );
    }
}

fn entries(cases: &[Case]) {
    check(cases, |config, words| {
        config.decode_stream(words).map(|_| ())
    });
}

#[test]
fn what_an_entry_enables_must_be_there() {
    const NO_1: &str = "Config enables stage 1, which is not there";
    const NO_2: &str = "Config enables stage 2, which is not there";
    entries(&[
        (&[], NESTED, Ok(())),
        (&[], ONE, Ok(())),
        (&[], but(NESTED, 0, 1, 0), Err("V is 0")),
        (&[(0, 2, 0)], NESTED, Err(NO_1)),
        (&[(0, 1, 0)], NESTED, Err(NO_2)),
        // Config 0b0xx: nothing else is looked at.
        (&[(0, 3, 0)], but([!0; 8], 0, 8, 0), Ok(())),
        // Config 0b100: no stage is looked at.
        (&[(0, 3, 0)], but([!0; 8], 0, 6, 0), Ok(())),
        (&[(0, 8, 0)], NESTED, Err("64-bit tables are not supported")),
        (&[(0, 8, 0)], ONE, Ok(())),
    ]);
}

#[test]
fn ats_must_fit_the_stages() {
    const SPLIT: &str = "EATS is split-stage where that cannot be";
    let stalls = but(NESTED, 2, 0, 1 << 57);
    // ATS; ATS with a choice of stalls.
    let ats: &[_] = &[(0, 0, 1 << 10)];
    let ats_and_stalls: &[_] = &[(0, 3 << 24, 1 << 10)];
    let dpt: &[_] = &[(0, 3 << 24, 1 << 10), (3, 0, 1 << 15)];
    let dpt_hyp: &[_] = &[(0, 0, 1 << 10 | 1 << 9), (3, 0, 1 << 15)];
    entries(&[
        (ats, but(NESTED, 1, 0, 2 << 28), Ok(())),
        (ats, but(ONE, 1, 0, 2 << 28), Err(SPLIT)),
        (ats_and_stalls, but(stalls, 1, 0, 2 << 28), Err(SPLIT)),
        (&[(0, 0, 3 << 10)], but(NESTED, 1, 0, 2 << 28), Err(SPLIT)),
        (
            ats_and_stalls,
            but(stalls, 1, 0, 1 << 28),
            Err("EATS is 1 with S2S"),
        ),
        // S2S counts where stage 2 is used only (SMMUv3.1).
        (ats, but(but(ONE, 1, 0, 1 << 28), 2, 0, 1 << 57), Ok(())),
        (ats_and_stalls, but(stalls, 1, 0, 3 << 28), Ok(())),
        (dpt, but(stalls, 1, 0, 3 << 28), Err("EATS is 3 with S2S")),
        (
            dpt_hyp,
            but(ONE, 1, 0, 0xb << 28),
            Err("EATS is 3 where the regime is not that of guests"),
        ),
        // IGNORED without ATS.
        (&[], but(ONE, 1, 0, 2 << 28), Ok(())),
    ]);
    let eats = |changes, bits: u64| match with(changes).decode_stream(&but(ONE, 1, 0, bits << 28)) {
        Ok(StreamConfig::Stage1 { eats, .. }) => eats,
        other => panic!("{other:?}"),
    };
    assert_eq!([eats(ats, 1), eats(ats, 3), eats(dpt, 3)], [1, 0, 3]);
}

#[test]
fn stage_1_of_an_entry() {
    // SSIDSIZE 8; the same with CD2L.
    let substreams: &[_] = &[(1, 0, 8 << 6)];
    let two_level: &[_] = &[(1, 0, 8 << 6), (0, 0, 1 << 19)];
    let far = |bits: u64| but(ONE, 0, 0, 1 << bits);
    const OUT: Result<(), &str> = Err("S1ContextPtr is out of range");
    const FORMAT: Result<(), &str> = Err("S1Fmt has two levels without CD2L");
    entries(&[
        (
            &[(0, 0, 1 << 9)],
            but(ONE, 1, 0, 1 << 30),
            Err("STRW is reserved"),
        ),
        (&[(0, 0, 1 << 9)], but(ONE, 1, 0, 2 << 30), Ok(())),
        (&[], but(ONE, 1, 0, 3 << 30), Ok(())),
        (&[(0, 0, 1 << 9)], but(NESTED, 1, 0, 1 << 30), Ok(())),
        (
            &[],
            but(ONE, 1, 0, 1 << 27),
            Err("S1STALLD where stalls are not a choice"),
        ),
        (&[(0, 3 << 24, 0)], but(ONE, 1, 0, 1 << 27), Ok(())),
        (substreams, but(ONE, 0, 0, 8 << 59), Ok(())),
        (
            substreams,
            but(ONE, 0, 0, 9 << 59),
            Err("S1CDMax is larger than SSIDSIZE"),
        ),
        (&[], but(ONE, 0, 0, 9 << 59), Ok(())),
        (substreams, but(ONE, 0, 0, 8 << 59 | 1 << 4), FORMAT),
        (substreams, but(ONE, 0, 0, 8 << 59 | 2 << 4), FORMAT),
        (substreams, but(ONE, 0, 0, 8 << 59 | 3 << 4), Ok(())),
        (substreams, but(ONE, 0, 0, 1 << 4), Ok(())),
        (two_level, but(ONE, 0, 0, 8 << 59 | 1 << 4), Ok(())),
        (&[], far(43), Ok(())),
        (&[], far(44), OUT),
        (&[], far(55), OUT),
        (&[], but(NESTED, 0, 0, 1 << 44), OUT),
        // The structure of the virtual machine, with MPAM.
        (
            &[(3, 0, 1 << 7)],
            but(but(NESTED, 1, 0, 1 << 26), 5, 0, 1 << 43),
            Ok(()),
        ),
        (
            &[(3, 0, 1 << 7)],
            but(but(NESTED, 1, 0, 1 << 26), 5, 0, 1 << 44),
            Err("VMSPtr is out of range"),
        ),
        (&[(3, 0, 1 << 7)], but(NESTED, 5, 0, 1 << 44), Ok(())),
        (
            &[(0, 1 << 18, 0)],
            but(ONE, 2, 0, 0x100),
            Err("S2VMID has more than 8 bits"),
        ),
        (&[(0, 1 << 18, 0)], but(ONE, 2, 0, 0xff), Ok(())),
        // Without stage 2, and in the hypervisor's regime, there is no VMID.
        (&[(0, 1 << 18 | 1, 0)], but(ONE, 2, 0, 0x100), Ok(())),
        (
            &[(0, 1 << 18, 1 << 9)],
            but(but(ONE, 1, 0, 2 << 30), 2, 0, 0x100),
            Ok(()),
        ),
    ]);
}

#[test]
fn stage_2_of_an_entry() {
    let size = |t0sz: u64| but(NESTED, 2, 0x3f << 32, t0sz << 32);
    let shape = |t0sz: u64, sl0: u64, tg: u64| {
        but(NESTED, 2, 0xc0ff << 32, t0sz << 32 | sl0 << 38 | tg << 46)
    };
    const FIT: Result<(), &str> = Err("S2SL0 and S2T0SZ do not fit each other");
    const SIZE: Result<(), &str> = Err("S2T0SZ is out of range");
    let overlay: &[_] = &[(3, 0, 3 << 19 | 1 << 3)];
    let poe = |more: u64| but(NESTED, 2, 0, 1 << 61 | more);
    entries(&[
        (&[], but(NESTED, 2, 0, 1 << 57), Err("S2S without stalls")),
        (
            &[(0, 3 << 24, 2 << 24)],
            NESTED,
            Err("no S2S where stalls are forced"),
        ),
        (&[(0, 3 << 24, 2 << 24)], but(NESTED, 2, 0, 1 << 57), Ok(())),
        (
            &[],
            but(NESTED, 2, 1 << 51, 0),
            Err("S2AA64 is 0; that format is not modelled"),
        ),
        (
            &[],
            but(NESTED, 2, 0, 1 << 56),
            Err("S2HA or S2HD without HTTU"),
        ),
        (
            &[],
            but(NESTED, 2, 0, 1 << 55),
            Err("S2HA or S2HD without HTTU"),
        ),
        (&[(0, 0, 1 << 6)], but(NESTED, 2, 0, 1 << 56), Ok(())),
        (
            &[(0, 0, 1 << 6)],
            but(NESTED, 2, 0, 3 << 55),
            Err("S2HD where HTTU is the access flag only"),
        ),
        (&[(0, 0, 2 << 6)], but(NESTED, 2, 0, 3 << 55), Ok(())),
        (
            &[(0, 0, 3 << 6)],
            but(NESTED, 2, 0, 1 << 59),
            Err("S2HAFT without S2HA"),
        ),
        (&[(0, 0, 3 << 6)], but(NESTED, 2, 0, 9 << 56), Ok(())),
        (&[], but(NESTED, 2, 0, 1 << 59), Ok(())),
        (&[], shape(25, 1, 3), Err("S2TG is not supported")),
        (
            &[(5, 1 << 5, 0)],
            shape(25, 1, 2),
            Err("S2TG is not supported"),
        ),
        (&[], shape(25, 1, 2), Ok(())),
        (
            &[],
            but(NESTED, 3, 0, 1 << 44),
            Err("S2TTB is out of range"),
        ),
        // S2PS 2: 40 bits.
        (
            &[],
            but(but(NESTED, 2, 7 << 48, 2 << 48), 3, 0, 1 << 40),
            Err("S2TTB is out of range"),
        ),
        // IAS is 44.
        (&[], size(19), SIZE),
        (&[], shape(20, 2, 0), Ok(())),
        (&[], size(40), SIZE),
        (&[(3, 0, 1 << 9)], shape(48, 3, 0), Ok(())),
        (&[(3, 0, 1 << 9)], shape(48, 0, 1), SIZE),
        // Level 1 resolves bits 38:30, and four more by concatenation.
        (&[], size(21), Ok(())),
        (&[], size(20), FIT),
        (&[], size(33), Ok(())),
        (&[], size(34), FIT),
        (&[], shape(25, 3, 0), Err("S2SL0 is reserved")),
        // Level 0 is for more than 42 bits of output: OAS 3.
        (
            &[(5, 7, 3)],
            but(shape(23, 2, 0), 2, 7 << 48, 3 << 48),
            Err("S2SL0 starts higher than addresses reach"),
        ),
        (
            &[(0, 3 << 21, 3 << 21)],
            NESTED,
            Err("little-endian tables are not supported"),
        ),
        (
            &[],
            but(NESTED, 2, 0, 1 << 52),
            Err("big-endian tables are not supported"),
        ),
        (overlay, poe(0), Err("S2POE without S2PIE")),
        (overlay, poe(1 << 60), Ok(())),
        (
            overlay,
            but(poe(1 << 60), 1, 0, 1 << 8),
            Err("S2POE with S2HWU"),
        ),
        (
            overlay,
            but(poe(1 << 60), 7, 0, 5 << 20),
            Err("S2POI is reserved"),
        ),
        (
            overlay,
            but(poe(1 << 60), 7, 0, 1 << 60),
            Err("S2POI is reserved"),
        ),
        (overlay, but(poe(1 << 60), 7, 0, 4 << 60), Ok(())),
        (&[], poe(0), Ok(())),
        (
            &[(0, 1 << 18, 0)],
            but(NESTED, 2, 0, 0x100),
            Err("S2VMID has more than 8 bits"),
        ),
    ]);
}
