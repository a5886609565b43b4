//! Every condition under which a context descriptor is ILLEGAL (5.4.2), one bit away from one that is
//! legal.

use super::legality::{Case, ONE, but, check};
use super::*;

const CONTEXT: [u64; 8] = [CD_39, S1, 0, 0xff, 0, 0, 0, 0];

fn contexts(ste: [u64; 8], cases: &[Case]) {
    check(cases, |config, words| {
        let StreamConfig::Stage1 { stage1, .. } = config.decode_stream(&ste)? else {
            panic!()
        };
        config.decode_context(&stage1, words).map(|_| ())
    });
}

#[test]
fn a_context_descriptor() {
    let choice: &[_] = &[(0, 3 << 24, 0)];
    let no_stalls = but(ONE, 1, 0, 1 << 27);
    contexts(
        no_stalls,
        &[
            (choice, CONTEXT, Ok(())),
            (
                choice,
                but(CONTEXT, 0, 0, 1 << 44),
                Err("S where the stream forbids stalls"),
            ),
        ],
    );
    const WIDE: Result<(), &str> = Err("ASID has more than 8 bits");
    const OUT: Result<(), &str> = Err("TTB is out of range");
    const SIZE: Result<(), &str> = Err("TSZ is out of range");
    const TG: Result<(), &str> = Err("TG is not supported");
    let t0 = |t0sz: u64, tg: u64| but(CONTEXT, 0, 0xff, t0sz | tg << 6);
    // TTB1 enabled too, with 4 KiB.
    let both = |t1sz: u64, tg: u64| but(CONTEXT, 0, 0xff << 16 | 1 << 30, t1sz << 16 | tg << 22);
    contexts(
        ONE,
        &[
            (&[], CONTEXT, Ok(())),
            (&[], but(CONTEXT, 0, 1 << 31, 0), Err("V is 0")),
            (
                &[],
                but(CONTEXT, 0, 1 << 46, 0),
                Err("A is 0 where refused transactions always abort"),
            ),
            (&[(0, 1 << 26, 0)], but(CONTEXT, 0, 1 << 46, 0), Ok(())),
            (&[], but(CONTEXT, 0, 0, 1 << 44), Err("S without stalls")),
            (choice, but(CONTEXT, 0, 0, 1 << 44), Ok(())),
            (
                &[(0, 3 << 24, 2 << 24)],
                CONTEXT,
                Err("no S where stalls are forced"),
            ),
            (
                &[],
                but(CONTEXT, 0, 0, 1 << 15),
                Err("big-endian tables are not supported"),
            ),
            (
                &[(0, 3 << 21, 3 << 21)],
                CONTEXT,
                Err("little-endian tables are not supported"),
            ),
            // IGNORED with EPD0 and EPD1.
            (&[], but(CONTEXT, 0, 0, 3 << 14), Ok(())),
            (
                &[],
                but(CONTEXT, 0, 1 << 41, 0),
                Err("AA64 is 0; that format is not modelled"),
            ),
            (
                &[(0, 8, 0)],
                CONTEXT,
                Err("64-bit tables are not supported"),
            ),
            (
                &[],
                but(CONTEXT, 0, 0, 1 << 43),
                Err("HA or HD without HTTU"),
            ),
            (
                &[],
                but(CONTEXT, 0, 0, 1 << 42),
                Err("HA or HD without HTTU"),
            ),
            (
                &[(0, 0, 1 << 6)],
                but(CONTEXT, 0, 0, 3 << 42),
                Err("HD where HTTU is the access flag only"),
            ),
            (
                &[(0, 0, 3 << 6)],
                but(CONTEXT, 1, 0, 8),
                Err("HAFT without HA"),
            ),
            (
                &[(0, 0, 3 << 6)],
                but(but(CONTEXT, 1, 0, 8), 0, 0, 1 << 43),
                Ok(()),
            ),
            (&[(0, 1 << 12, 0)], but(CONTEXT, 0, 0, 1 << 56), WIDE),
            (&[], but(CONTEXT, 0, 0, 1 << 56), Ok(())),
            (&[], t0(16, 0), Ok(())),
            (&[], t0(15, 0), SIZE),
            (&[], t0(39, 0), Ok(())),
            (&[], t0(40, 0), SIZE),
            (&[(3, 0, 1 << 9)], t0(48, 0), Ok(())),
            (&[(3, 0, 1 << 9)], t0(49, 0), SIZE),
            (&[(3, 0, 1 << 9)], t0(48, 1), SIZE),
            (&[], t0(25, 3), TG),
            (&[(5, 1 << 6, 0)], t0(25, 1), TG),
            (&[], both(25, 2), Ok(())),
            (&[], both(15, 2), SIZE),
            (&[], both(25, 0), TG),
            (&[], but(both(25, 2), 2, 0, 1 << 44), OUT),
            (&[], but(CONTEXT, 1, 0, 1 << 44), OUT),
            (&[], but(but(CONTEXT, 0, 7 << 32, 0), 1, 0, 1 << 32), OUT),
            // IGNORED with EPD0.
            (
                &[],
                but(but(CONTEXT, 0, 0xff, 1 << 14), 1, 0, 1 << 44),
                Ok(()),
            ),
        ],
    );
}

#[test]
fn a_context_of_the_hypervisor_and_one_with_indirection() {
    let el2 = but(ONE, 1, 0, 2 << 30);
    let hyp: &[_] = &[(0, 1 << 12, 1 << 9)];
    contexts(
        el2,
        &[
            // The ASID is IGNORED, and so is EPD0; there is no TTB1.
            (hyp, but(CONTEXT, 0, 1 << 30, 1 << 56), Ok(())),
            (
                hyp,
                but(CONTEXT, 0, 0xff, 1 << 14),
                Err("TSZ is out of range"),
            ),
        ],
    );
    let pie = but(CONTEXT, 2, 0, 1 << 59);
    let enabled: &[_] = &[(3, 0, 1 << 18)];
    contexts(
        but(ONE, 1, 0, 1 << 24),
        &[
            (enabled, pie, Ok(())),
            (enabled, but(pie, 7, 0, 4), Err("PIIP is reserved")),
            (enabled, but(pie, 7, 0, 6 << 45), Err("PIIP is reserved")),
            (enabled, but(pie, 6, 0, 4 << 3), Err("PIIU is reserved")),
            (
                enabled,
                but(but(pie, 7, 0, 2 << 6), 6, 0, 5 << 6),
                Err("PIIP executes what PIIU writes"),
            ),
            (enabled, but(but(pie, 7, 0, 2 << 6), 6, 0, 5 << 9), Ok(())),
            (enabled, but(CONTEXT, 7, 0, 4), Ok(())),
            (&[], but(pie, 7, 0, 4), Ok(())),
        ],
    );
    // S1PIE is 0.
    contexts(ONE, &[(enabled, but(pie, 7, 0, 4), Ok(()))]);
}
