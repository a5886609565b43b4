//! Caching mode: what is not present is cached too.

use super::*;

fn up() -> Rig {
    Rig::up_with(VtdConfig::caching())
}

#[test]
fn absent_context_entries_are_cached_under_domain_id_0() {
    let rig = up();
    rig.refuses(8, 0x20_3000, 2);
    rig.second_level();
    rig.refuses(8, 0x20_3000, 2);
    rig.flush(&[context_device(8, 5), iotlb_domain(5)]);
    rig.refuses(8, 0x20_3000, 2);
    rig.flush(&[context_device(8, 0)]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.is_clean();
}

#[test]
fn absent_context_tables_are_cached_too() {
    let rig = up();
    rig.refuses(0x108, 0x20_3000, 1);
    rig.second_level();
    rig.poke(ROOT + 16, &[CONTEXTS | 1, 0]);
    rig.refuses(0x108, 0x20_3000, 1);
    rig.flush(&[context_device(0x108, 0)]);
    assert_eq!(rig.read(0x108, 0x20_3000), to(DATA));
    rig.is_clean();
}

#[test]
fn absent_translations_are_cached() {
    let rig = up();
    rig.second_level();
    rig.refuses(8, 0x20_4000, 6);
    rig.poke(S2 + 0x2020, &[(DATA + 0x4000) | RW]);
    rig.refuses(8, 0x20_4000, 6);
    rig.flush(&[iotlb_page(5, 0x20_4000, 0)]);
    assert_eq!(rig.read(8, 0x20_4000), to(DATA + 0x4000));
    rig.is_clean();
}

#[test]
fn domain_id_0_belongs_to_what_is_absent() {
    let rig = up();
    rig.tables();
    rig.context(8, [S2 | 1, 1]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.noted("domain id 0 is used");
    let rig = Rig::up();
    rig.tables();
    rig.context(8, [S2 | 1, 1]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.is_clean();
}

#[test]
fn a_cached_fault_is_about_the_access_that_met_it() {
    let rig = up();
    rig.second_level();
    rig.poke(S2 + 0x2020, &[DATA | 1]);
    assert_eq!(rig.write(8, 0x20_4000), Outcome::Faulted);
    rig.fault();
    assert_eq!(rig.read(8, 0x20_4000), to(DATA));
    rig.poke(S2 + 0x2020, &[(DATA + 0x1000) | RW]);
    assert_eq!(rig.read(8, 0x20_4000), to(DATA), "stale");
    assert_eq!(rig.write(8, 0x20_4000), Outcome::Faulted);
    rig.flush(&[iotlb_page(5, 0x20_4000, 0)]);
    assert_eq!(rig.write(8, 0x20_4000), to(DATA + 0x1000));
    rig.is_clean();
}
