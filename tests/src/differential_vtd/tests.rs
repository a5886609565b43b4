//! The comparison itself, on two models: it is silent where there is nothing to tell, and finds what
//! it is there to find.

use super::case::Unit;
use super::{Counts, Modelled, UNITS, compare};

/// Compares a model with one that takes a kind of descriptor without doing anything.
fn ignoring(unit: Unit, kind: Option<u64>, cases: u64) -> Result<Counts, String> {
    let [model, other] = [(); 2].map(|()| Modelled::new(unit));
    if let Some(kind) = kind {
        other
            .model
            .ignore_descriptor(Box::new(move |descriptor| descriptor == kind));
    }
    compare(&model, other.side("another model"), 1, 0..cases, unit)
}

#[test]
fn two_models_agree_without_masks() {
    for (unit, _) in UNITS {
        let counts = ignoring(unit, None, 100).unwrap();
        assert_eq!(counts.cases, 100);
        assert!(!counts.to_string().contains("mask:"), "{unit:?}: {counts}");
        assert!(
            counts.of("stale seen on the model") > 0,
            "{unit:?}: {counts}"
        );
    }
}

#[test]
fn each_invalidation_that_does_nothing_is_found() {
    const CONTEXT: u64 = 1;
    const IOTLB: u64 = 2;
    const PASID_IOTLB: u64 = 6;
    const PASID: u64 = 7;
    for (unit, kind) in [
        (Unit::Plain, CONTEXT),
        (Unit::Plain, IOTLB),
        (Unit::Caching, CONTEXT),
        (Unit::Second, PASID),
        (Unit::First, PASID_IOTLB),
    ] {
        let found = ignoring(unit, Some(kind), 1000);
        let story = found.expect_err(&format!("type {kind} goes unnoticed on {unit:?}"));
        assert!(!story.contains("\nmodel: NOT ALLOWED"), "{story}");
    }
}
