//! The conformance suite notices each rule that a backend breaks, by its name.

use std::collections::BTreeSet;

use mock_hw::conformance::{Outcome, Report, run};
use tests::toys::{Break, toy};

#[test]
fn a_toy_that_keeps_every_rule_passes() {
    run(&toy(None)).assert();
}

#[test]
fn each_broken_rule_is_named() {
    let mut unnoticed = Vec::new();
    let mut never_broken: BTreeSet<_> = applicable_rules().collect();
    for broken in Break::ALL {
        let report = run(&toy(Some(*broken)));
        println!("{broken:?}: {} rules fail", report.failed().count());
        for rule in report.failed() {
            never_broken.remove(rule);
        }
        if !report.failed().any(|rule| rule == broken.rule()) {
            unnoticed.push(format!(
                "{broken:?} should break {}: {report}",
                broken.rule()
            ));
        }
    }
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n\n"));
    assert_eq!(never_broken, BTreeSet::new(), "rules that no toy breaks");
}

/// The rules that apply to the toy.
fn applicable_rules() -> impl Iterator<Item = &'static str> {
    let report = run(&toy(None));
    let rules = report.rules().to_vec().into_iter();
    rules.filter_map(|(rule, outcome)| (outcome == Outcome::Passed).then_some(rule))
}

/// Most are broken in one way alone: the report says what to mend.
#[test]
fn a_report_says_what_was_otherwise() {
    let report = run(&toy(Some(Break::UnmapSilent)));
    let line = "after it was unmapped, device 0 at 0x80000 reaches page a, not nothing";
    assert!(report.to_string().contains(line), "{report}");
}

/// What a testbed says that its backend can do decides which rules apply, and has to be true.
#[test]
fn claims_are_put_to_the_test() {
    let fails = |report: &Report, rule| report.failed().any(|failed| failed == rule);
    let modest = run(&toy(None).claiming(|can| {
        can.identity = false;
        can.pasids = 0;
    }));
    assert!(fails(&modest, Break::IdentityMissing.rule()), "{modest}");
    let unsupported = "2 PASIDs: attaching one is Unsupported, hardware untouched";
    assert!(fails(&modest, unsupported), "{modest}");

    let boastful = run(&toy(None).claiming(|can| can.page_faults = true));
    let on_and_off = "3.7 page faults: on while a domain handles them, off after";
    assert!(fails(&boastful, on_and_off), "{boastful}");
}

/// Rules that apply where something is missing, or there is more than the toy has.
#[test]
fn toys_that_can_less_or_more_pass() {
    let without_identity = toy(Some(Break::IdentityMissing)).claiming(|can| can.identity = false);
    run(&without_identity).assert();
    let with_page_faults = toy(Some(Break::PageFaultsPretended));
    run(&with_page_faults.claiming(|can| can.page_faults = true)).assert();
    let out_of_reach = toy(None).claiming(|can| {
        can.deferred = false;
        can.dma_between_stores = false;
        can.breakable = false;
    });
    run(&out_of_reach).assert();
}
