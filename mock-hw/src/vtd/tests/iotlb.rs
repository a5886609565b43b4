//! The caches: what is stale until it is invalidated, and by what.

use super::*;

/// A rig whose source 8 has used its page, which then leads elsewhere.
fn stale() -> Rig {
    let rig = Rig::up();
    rig.second_level();
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    assert_eq!(rig.read(8, 0x40_0000), to(DATA));
    rig.poke(S2 + 0x2018, &[(DATA + 0x1000) | RW]);
    rig
}

#[test]
fn translations_are_stale_until_invalidated() {
    let fresh = |descriptor: [u64; 2], is_fresh: bool| {
        let rig = stale();
        rig.flush(&[descriptor]);
        let expected = if is_fresh { DATA + 0x1000 } else { DATA };
        assert_eq!(rig.read(8, 0x20_3000), to(expected), "{descriptor:x?}");
        rig.is_clean();
    };
    fresh(CONTEXT_ALL, false);
    fresh(IOTLB_ALL, true);
    fresh(iotlb_domain(5), true);
    fresh(iotlb_domain(6), false);
    fresh(iotlb_page(5, 0x20_3000, 0), true);
    fresh(iotlb_page(5, 0x20_2000, 0), false);
    fresh(iotlb_page(5, 0x20_0000, 2), true);
    fresh(iotlb_page(6, 0x20_3000, 0), false);
    // With the hint that only last levels changed.
    fresh(iotlb_page(5, 0x20_3040, 0), true);
}

#[test]
fn a_page_within_a_large_one_invalidates_all_of_it() {
    let rig = stale();
    rig.poke(S2 + 0x1010, &[0]);
    assert_eq!(rig.read(8, 0x5f_f000), to(DATA + 0x1f_f000));
    rig.flush(&[iotlb_page(5, 0x50_0000, 0)]);
    rig.refuses(8, 0x40_0000, 6);
    rig.is_clean();
}

#[test]
fn pointers_to_tables_are_cached_too() {
    let rig = stale();
    // Another last-level table.
    rig.poke(T2 + 0x18, &[(DATA + 0x2000) | RW]);
    rig.poke(S2 + 0x1008, &[T2 + RW]);
    rig.flush(&[iotlb_page(5, 0x20_3040, 0)]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA + 0x1000), "the old table");
    rig.flush(&[iotlb_page(5, 0x20_3000, 0)]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA + 0x2000));
    rig.is_clean();
}

#[test]
fn without_caching_mode_what_is_absent_is_not_cached() {
    let rig = stale();
    rig.refuses(8, 0x20_4000, 6);
    rig.poke(S2 + 0x2020, &[DATA | RW]);
    assert_eq!(rig.read(8, 0x20_4000), to(DATA));
    rig.refuses(9, 0x20_4000, 2);
    rig.context(9, [S2 | 1, 0x501]);
    assert_eq!(rig.read(9, 0x20_4000), to(DATA));
    rig.is_clean();
}

#[test]
fn context_entries_are_stale_until_invalidated_with_their_domain_id() {
    let rig = Rig::up();
    rig.second_level();
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.context(8, [S2, 0x501]);
    assert_eq!(rig.read(8, 0x5f_f000), to(DATA + 0x1f_f000));
    // With another one, or of another source, or of domain 6.
    let domain = |did: u64| [0x21 | did << 16, 0];
    rig.flush(&[context_device(8, 0), context_device(9, 5), domain(6)]);
    rig.flush(&[iotlb_domain(5)]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.flush(&[context_device(8, 5)]);
    // What was translated stays, whatever the entry says.
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.flush(&[iotlb_domain(5)]);
    rig.refuses(8, 0x20_3000, 2);
    rig.is_clean();
    let rig = Rig::up();
    rig.second_level();
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.context(8, [S2, 0x501]);
    rig.flush(&[domain(5), iotlb_domain(5)]);
    rig.refuses(8, 0x20_3000, 2);
    rig.is_clean();
}

#[test]
fn functions_beside_a_source_may_be_masked() {
    let rig = Rig::up();
    rig.second_level();
    let mask = |of: u64| [context_device(8, 5)[0] | of << 48, 0];
    for (field, function) in [(1, 12), (2, 14), (3, 15)] {
        rig.context(function, [S2 | 1, 0x501]);
        let source = u32::try_from(function).unwrap();
        assert_eq!(rig.read(source, 0x20_3000), to(DATA));
        rig.context(function, [S2, 0x501]);
        rig.flush(&[mask(field - 1), iotlb_domain(5)]);
        assert_eq!(rig.read(source, 0x20_3000), to(DATA), "mask {field} - 1");
        rig.flush(&[mask(field), iotlb_domain(5)]);
        rig.refuses(source, 0x20_3000, 2);
    }
    rig.is_clean();
}

#[test]
fn translations_are_shared_under_a_domain_id() {
    let rig = stale();
    rig.context(9, [S2 | 1, 0x501]);
    assert_eq!(rig.read(9, 0x20_3000), to(DATA), "what source 8 translated");
    rig.is_clean();
    // Other tables under the same one.
    rig.context(10, [T2 | 1, 0x501]);
    assert_eq!(rig.read(10, 0x20_3000), to(DATA));
    rig.noted("domain id 0x5 is used for Second { root: 40020000, levels: 3 }");
}

#[test]
fn a_domain_id_may_be_used_again_once_it_was_invalidated() {
    let rig = stale();
    rig.poke(T2, &[S2 + 0x1000 + RW]);
    rig.context(8, [0, 0]);
    rig.flush(&[context_device(8, 5), iotlb_domain(5)]);
    rig.context(8, [T2 | 1, 0x501]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA + 0x1000));
    rig.is_clean();
}

#[test]
fn pass_through_is_cached_as_translations_are() {
    let rig = Rig::up();
    rig.context(8, [9, 0x102]);
    assert_eq!(rig.read(8, 0x1000), to(0x1000));
    rig.context(8, [8, 0x102]);
    rig.flush(&[context_device(8, 1)]);
    assert_eq!(rig.read(8, 0x1000), to(0x1000));
    rig.flush(&[iotlb_domain(1)]);
    rig.refuses(8, 0x1000, 2);
    rig.is_clean();
}
