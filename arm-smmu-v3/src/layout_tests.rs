//! What the writer makes of entries as other drivers know them: the cases of Linux'
//! `arm-smmu-v3-kunit-test`, rebuilt from what they are about, and all pairs of ten kinds.
//!
//! Whether a plan that calls itself hitless is so, is for somebody else to say: `mock-hw`'s checker.

use std::string::{String, ToString};
use std::vec::Vec;

use iommu_core::Atomicity;
use iommu_core::entry::{EntryError, Plan, Rules, Target};

use super::*;

const WORD: Rules = Rules {
    atomicity: Atomicity::Word,
    retag: true,
};
const PAIR: Rules = Rules {
    atomicity: Atomicity::Pair,
    retag: true,
};

fn bypass() -> Ste {
    let mut ste = crate::entries::abort();
    ste.word0.set_config(Config::BYPASS);
    ste.word1.set_shcfg(1);
    ste
}

/// A CD table of every size there is, two levels; write-back, inner shareable.
fn cd_table(dss: u8, ats: bool, table: u64) -> Ste {
    let mut ste = crate::entries::abort();
    ste.word0 = ste
        .word0
        .with_config(Config::STAGE1)
        .with_s1_fmt(2)
        .with_s1_context_ptr(table)
        .with_s1_cd_max(0x1f);
    ste.word1 = Word1::new()
        .with_s1_dss(dss)
        .with_s1_cir(1)
        .with_s1_cor(1)
        .with_s1_csh(3)
        .with_s1_stalld(true)
        .with_eats(ats.into());
    if dss == 1 {
        ste.word1.set_shcfg(1);
    }
    ste
}

fn stage2(ats: bool, vmid: u16, table: u64) -> Ste {
    let mut ste = crate::entries::abort();
    ste.word0.set_config(Config::STAGE2);
    ste.word1 = Word1::new().with_shcfg(1).with_eats(ats.into());
    ste.word2 = Word2::new()
        .with_s2_vmid(vmid)
        .with_s2_t0sz(4)
        .with_s2_sl0(3)
        .with_s2_ir0(2)
        .with_s2_or0(1)
        .with_s2_sh0(3)
        .with_s2_tg(2)
        .with_s2_ps(1)
        .with_s2_aa64(true)
        .with_s2_ptw(true)
        .with_s2_r(true);
    ste.word3 = Word3::new().with_s2_ttb(table);
    ste
}

fn stalling(mut ste: Ste) -> Ste {
    ste.word1.set_s1_stalld(false);
    if ste.word0.config() == Config::STAGE2 {
        ste.word2.set_s2_s(true);
    }
    ste
}

/// Both stages, the first bypassed by what has no substream; events merged.
fn nested(ats: bool) -> Ste {
    let (one, mut two) = (cd_table(1, ats, 0xf0f0), stage2(ats, 0, 0xdaed));
    two.word0 = one.word0.with_config(Config::NESTED);
    two.word1 = one.word1.with_mev(true);
    two
}

fn target(ste: Ste) -> Target<Ste, WORDS> {
    Target::new(ste.to_words()).unwrap()
}

fn plan(from: Ste, to: Ste, rules: Rules) -> Plan {
    Plan::new(&from.to_words(), &target(to), rules).unwrap()
}

fn cd(asid: u16, table: u64) -> Cd {
    let word0 = cd::Word0::new()
        .with_t0sz(16)
        .with_epd1(true)
        .with_valid(true)
        .with_ips(5)
        .with_aa64(true)
        .with_r(true)
        .with_a(true)
        .with_asid(asid);
    let word1 = cd::Word1::new().with_ttb0(table);
    Cd {
        word0,
        word1,
        mair: 0xff,
        ..Cd::default()
    }
}

/// A process whose memory is gone: nothing is walked, nothing is reported.
fn released(asid: u16) -> Cd {
    let mut cd = cd(asid, 0);
    cd.mair = 0;
    cd.word0 = cd.word0.with_t0sz(0).with_epd0(true).with_r(false);
    cd
}

/// Every case of Linux' test: with how many rounds Linux takes, and whether it is hitless there.
#[test]
fn linux_cases_take_no_more_rounds_and_break_no_more() {
    let (s1, s2) = (cd_table(2, true, 0xf0f0), stage2(true, 0, 0xdaed));
    let (s1_stall, s2_stall) = (
        stalling(cd_table(2, false, 0xf0f0)),
        stalling(stage2(false, 0, 0xdaed)),
    );
    let s1_bypass = cd_table(1, true, 0xf0f0);
    let abort = crate::entries::abort();
    let stage2_alone = {
        let mut ste = stage2(false, 0, 0xdaed);
        ste.word1.set_mev(false);
        ste
    };
    let cases = [
        ("bypass to abort", bypass(), abort, 2, true),
        ("abort to bypass", abort, bypass(), 2, true),
        ("stage 1 to abort", s1, abort, 2, true),
        ("abort to stage 1", abort, s1, 2, true),
        ("stage 1 to bypass", s1, bypass(), 3, true),
        ("bypass to stage 1", bypass(), s1, 3, true),
        ("S1DSS substream 0 to bypass", s1, s1_bypass, 1, true),
        ("S1DSS bypass to substream 0", s1_bypass, s1, 1, true),
        ("S1DSS bypass to bypass", s1_bypass, bypass(), 2, true),
        ("bypass to S1DSS bypass", bypass(), s1_bypass, 2, true),
        ("stage 2 to abort", s2, abort, 2, true),
        ("abort to stage 2", abort, s2, 2, true),
        ("stage 2 to bypass", s2, bypass(), 2, true),
        ("bypass to stage 2", bypass(), s2, 2, true),
        ("stage 1 to stage 2", s1, s2, 3, true),
        ("stage 2 to stage 1", s2, s1, 3, true),
        ("stage 1 to stage 2, stalling", s1_stall, s2_stall, 3, true),
        ("stage 2 to stage 1, stalling", s2_stall, s1_stall, 3, true),
        ("nested to stage 2", nested(true), stage2_alone, 3, true),
        ("stage 2 to nested", stage2_alone, nested(true), 2, true),
        // Linux breaks here.
        ("table and S1DSS", s1, cd_table(1, true, 0x4b4b), 3, true),
        ("and back", cd_table(1, true, 0x4b4b), s1, 3, true),
    ];
    for (name, from, to, most, hitless) in cases {
        for rules in [
            WORD,
            PAIR,
            Rules {
                retag: false,
                ..WORD
            },
        ] {
            let plan = plan(from, to, rules);
            assert!(plan.len() <= most, "{name}: {plan}");
            assert!(!(hitless && plan.breaks()), "{name}: {plan}");
        }
        ends_as(&from.to_words(), &target(to));
    }
    let invalid = Cd::default();
    let cases = [
        ("stage 1 set", invalid, cd(1, 0x1000), 2, true),
        ("stage 1 cleared", cd(1, 0x1000), invalid, 2, true),
        ("ASID changed", cd(1, 0x1000), cd(2, 0x1000), 1, true),
        ("ASID changed back", cd(2, 0x1000), cd(1, 0x1000), 1, true),
        ("process released", cd(1, 0x1000), released(1), 2, true),
        ("and back", released(1), cd(1, 0x1000), 2, true),
    ];
    for (name, from, to, most, hitless) in cases {
        let to: Target<Cd, 8> = Target::new(to.to_words()).unwrap();
        for rules in [WORD, PAIR] {
            let plan = Plan::new(&from.to_words(), &to, rules).unwrap();
            assert!(plan.len() <= most, "{name}: {plan}");
            assert_eq!(!plan.breaks(), hitless, "{name}: {plan}");
        }
        ends_as(&from.to_words(), &to);
    }
}

/// The entry means its target in the end, whatever the rules.
fn ends_as<F: Layout<8>>(from: &Words, to: &Target<F, 8>) {
    for rules in [
        WORD,
        PAIR,
        Rules {
            retag: false,
            ..WORD
        },
    ] {
        let mut live = *from;
        for round in Plan::new(from, to, rules).unwrap().rounds() {
            round.apply(&mut live, to, |_| ());
        }
        assert!(to.is(&live), "{live:x?} for {to:?}");
    }
}

/// The ten kinds of entry: all but those that stall allow ATS.
fn kinds() -> [(&'static str, Ste); 10] {
    [
        ("abort", crate::entries::abort()),
        ("bypass", bypass()),
        ("s1_term", cd_table(0, true, 0xf0f0)),
        ("s1_byp", cd_table(1, true, 0xf0f0)),
        ("s1_ssid0", cd_table(2, true, 0xf0f0)),
        ("ssid0_stall", stalling(cd_table(2, false, 0xf0f0))),
        ("s2", stage2(true, 0, 0xdaed)),
        ("s2_stall", stalling(stage2(false, 0, 0xdaed))),
        ("ssid0'", cd_table(2, true, 0x4b4b)),
        ("s2'", stage2(true, 5, 0xbeef)),
    ]
}

#[test]
fn four_of_ninety_pairs_break_by_words_and_none_by_pairs() {
    let mut broken = Vec::new();
    for (from, old) in kinds() {
        for (to, new) in kinds() {
            let by_words = plan(old, new, WORD);
            if by_words.breaks() {
                broken.push([from, to].join(" to "));
            }
            assert!(by_words.len() <= 3, "{from} to {to}: {by_words}");
            let by_pairs = plan(old, new, PAIR);
            assert!(!by_pairs.breaks(), "{from} to {to}: {by_pairs}");
            assert!(
                by_pairs.len() <= by_words.len(),
                "{from} to {to}: {by_pairs}"
            );
            assert_eq!(by_words.is_empty(), from == to);
            ends_as(&old.to_words(), &target(new));
        }
    }
    let expected = [
        "s2 to s2'",
        "s2_stall to s2'",
        "s2' to s2",
        "s2' to s2_stall",
    ];
    assert_eq!(broken, expected.map(String::from));
}

#[test]
fn a_tag_changes_by_itself_only_where_the_caller_allows_it() {
    let (s1, s2) = (cd_table(2, false, 0xf0f0), stage2(false, 5, 0xbeef));
    assert_eq!(plan(s1, s2, WORD).to_string(), "ahead 1 2 3, swing 0");
    assert_eq!(plan(s2, s1, WORD).to_string(), "ahead 1, swing 0, swing 2");
    for (from, to) in [(s1, s2), (s2, s1)] {
        let plan = plan(
            from,
            to,
            Rules {
                retag: false,
                ..WORD
            },
        );
        assert!(plan.breaks() && plan.len() == 3, "{plan}");
    }
}

#[test]
fn ats_is_turned_off_before_a_stall_is_turned_on() {
    let (ats, stall) = (stage2(true, 0, 0xdaed), stalling(stage2(false, 0, 0xdaed)));
    assert_eq!(plan(ats, stall, WORD).to_string(), "ahead 1, swing 2");
    assert_eq!(plan(stall, ats, WORD).to_string(), "ahead 2, swing 1");
}

#[test]
fn a_target_with_fields_of_another_configuration_is_refused() {
    let mut ste = bypass();
    ste.word2.set_s2_vmid(1);
    let Err(EntryError::Undefined {
        word: 2, bits: 1, ..
    }) = Target::<Ste, WORDS>::new(ste.to_words())
    else {
        panic!("a VMID that a bypass has no use for");
    };
    let mut words = cd_table(2, false, 0xf0f0).to_words();
    words[5] = 1;
    assert!(Target::<Ste, WORDS>::new(words).is_err());
}

#[test]
fn an_entry_with_fields_that_nobody_defined_is_taken_out_and_nothing_else() {
    let s1 = cd_table(2, false, 0xf0f0);
    let mut live = s1.to_words();
    // S2FWB, and a VMSPtr.
    for (word, bit) in [(1, 1 << 25), (5, 1 << 12)] {
        live[word] |= bit;
        let refused = Plan::new(&live, &target(bypass()), WORD);
        assert!(
            matches!(refused, Err(EntryError::Unknown { .. })),
            "{refused:?}"
        );
        let to = target(crate::entries::abort());
        assert_eq!(Plan::new(&live, &to, WORD).unwrap().to_string(), "swing 0");
    }
}

#[test]
fn a_descriptor_that_changes_table_and_tag_goes_through_silence() {
    let (from, to) = (cd(1, 0x1000).to_words(), cd(2, 0x2000));
    let to: Target<Cd, 8> = Target::new(to.to_words()).unwrap();
    let plan = Plan::new(&from, &to, WORD).unwrap();
    assert_eq!(plan.to_string(), "refuse 0, swing 1, swing 0");
    let mut live = from;
    plan.round(0).unwrap().apply(&mut live, &to, |_| ());
    let word0 = Cd::from_words(live).word0;
    assert!(word0.valid() && word0.epd0() && word0.epd1() && !word0.r() && word0.a());
    assert_eq!(
        Plan::new(&from, &to, PAIR).unwrap().to_string(),
        "swing 0 1"
    );
}
