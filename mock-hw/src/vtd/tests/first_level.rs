//! First-level tables: pages, permissions, flags, and their invalidation.

use super::scalable::{PASID_ALL, pasid_one, piotlb, piotlb_page};
use super::*;

/// First-level tables of 4 levels.
const F1: u64 = 0x4004_0000;
/// P, PGTT 1.
const FIRST: u64 = 0x41;
/// P, R/W, U/S, A.
const TABLE: u64 = 0x27;
/// P, R/W, U/S, A, D.
const PAGE: u64 = 0x67;

fn config() -> VtdConfig {
    VtdConfig::first_level().with_coherent(true)
}

/// Tables for PASID 3 of source 8, and for its requests without one: 4 KiB at 0x20_3000, 2 MiB at
/// 0x40_0000, 1 GiB at 0x4000_0000.
fn up_with(config: VtdConfig) -> Rig {
    let rig = Rig::scalable(config);
    rig.poke(F1, &[(F1 + 0x1000) | TABLE]);
    rig.poke(
        F1 + 0x1000,
        &[(F1 + 0x2000) | TABLE, 0x4000_0000 | PAGE | LARGE],
    );
    rig.poke(F1 + 0x2008, &[(F1 + 0x3000) | TABLE, DATA | PAGE | LARGE]);
    rig.poke(F1 + 0x3018, &[DATA | PAGE]);
    rig.pasid(3, [FIRST, 1, F1]);
    rig.pasid(0, [FIRST, 1, F1]);
    rig
}

fn up() -> Rig {
    up_with(config())
}

/// A read with PASID 3 is refused for this reason.
fn refuses(rig: &Rig, iova: u64, reason: u64) {
    assert_eq!(rig.read_as(3, iova), Outcome::Faulted);
    assert_eq!(rig.fault(), Some((reason, 8, iova & !0xfff)));
}

#[test]
fn pages_of_all_sizes_translate() {
    let rig = up();
    assert_eq!(rig.read_as(3, 0x20_3123), to(DATA + 0x123));
    assert_eq!(rig.read_as(3, 0x5f_f456), to(DATA + 0x1f_f456));
    assert_eq!(rig.read_as(3, 0x7654_3210), to(0x7654_3210));
    assert_eq!(rig.write(8, 0x20_3123), to(DATA + 0x123));
    refuses(&rig, 0x20_4000, 0x71);
    assert_eq!(
        rig.model.pasid_config(8, 3),
        PasidConfig::FirstLevel {
            root: PhysAddr(F1),
            levels: 4,
            did: 1
        }
    );
    rig.is_clean();
}

#[test]
fn addresses_are_canonical() {
    let rig = up();
    rig.poke(F1 + 0xff8, &[(F1 + 0x1000) | TABLE]);
    assert_eq!(rig.read_as(3, 0xffff_ff80_0020_3000), to(DATA));
    refuses(&rig, 0x0000_8000_0000_0000, 0x80);
    refuses(&rig, 0x7fff_ff80_0020_3000, 0x80);
    // Requests in the range of interrupts are requests like others.
    refuses(&rig, 0xfee0_0000, 0x71);
    rig.poke(F1 + 0x3020, &[0xfee0_0000 | PAGE]);
    refuses(&rig, 0x20_4000, 0x87);
    rig.is_clean();
}

#[test]
fn five_levels_translate_where_there_are_any() {
    let mut config = config();
    config.cap |= 1 << 60;
    let rig = up_with(config);
    rig.poke(F1 + 0x5ff8, &[F1 | TABLE]);
    rig.pasid(3, [FIRST, 1, (F1 + 0x5000) | 4]);
    assert_eq!(rig.read_as(3, 0xffff_0000_0020_3000), to(DATA));
    refuses(&rig, 1 << 56, 0x80);
    rig.is_clean();
}

#[test]
fn permissions_are_those_of_all_levels() {
    let rig = up();
    rig.poke(F1 + 0x2008, &[(F1 + 0x3000) | TABLE & !2]);
    assert_eq!(rig.read_as(3, 0x20_3000), to(DATA));
    let write = rig.model.transact(8, Some(3), 0x20_3000, Access::Write);
    assert_eq!(write, Outcome::Faulted);
    assert_eq!(rig.fault(), Some((0x85, 8, 0x20_3000)));
    rig.poke(F1 + 0x3020, &[DATA | PAGE & !4]);
    refuses(&rig, 0x20_4000, 0x81);
    rig.is_clean();
}

#[test]
fn entries_that_make_no_sense_are_refused() {
    let rig = up();
    rig.poke(F1 + 0x3020, &[DATA | PAGE | 1 << 48]);
    refuses(&rig, 0x20_4000, 0x72);
    rig.poke(F1 + 0x2018, &[DATA | PAGE | LARGE | 1 << 13]);
    refuses(&rig, 0x60_0000, 0x72);
    rig.poke(F1 + 8, &[F1 | TABLE | LARGE]);
    refuses(&rig, 1 << 39, 0x72);
    // Attributes, and what hardware ignores.
    rig.poke(F1 + 0x2018, &[DATA | PAGE | LARGE | 0xfff0_0000_0000_1f18]);
    assert_eq!(rig.read_as(3, 0x60_0000), to(DATA));
    rig.pasid(4, [FIRST, 1, F1 | 4]);
    assert_eq!(rig.read_as(4, 0x20_3000), Outcome::Faulted);
    assert_eq!(rig.fault(), Some((0x5b, 8, 0x20_3000)), "5 levels");
    rig.pasid(5, [FIRST, 1, F1 | 0x100]);
    assert_eq!(rig.read_as(5, 0x20_3000), Outcome::Faulted);
    assert_eq!(rig.fault(), Some((0x5a, 8, 0x20_3000)));
    let rig = up_with(config().with_large_pages(true, false));
    refuses(&rig, 0x4000_0000, 0x72);
    rig.is_clean();
    rig.pasid(6, [FIRST, 1, 0x10_0000_0000]);
    assert_eq!(rig.read_as(6, 0x20_3000), Outcome::Faulted);
    assert_eq!(rig.fault(), Some((0x73, 8, 0x20_3000)));
    rig.poke(F1 + 0x2018, &[0x10_0000_0000 | TABLE]);
    refuses(&rig, 0x60_0000, 0x70);
}

#[test]
fn flags_are_set_as_pages_are_used() {
    let rig = up();
    rig.poke(F1, &[(F1 + 0x1000) | 7]);
    rig.poke(F1 + 0x3018, &[DATA | 7]);
    assert_eq!(rig.read_as(3, 0x20_3000), to(DATA));
    assert_eq!(rig.peek(F1), (F1 + 0x1000) | 0x27);
    assert_eq!(rig.peek(F1 + 0x3018), DATA | 0x27);
    // A translation that was cached by a read is not good enough for the first write.
    rig.model.transact(8, Some(3), 0x20_3000, Access::Write);
    assert_eq!(rig.peek(F1 + 0x3018), DATA | 0x67);
    // From then on it is, although the other one is still there.
    rig.poke(F1 + 0x3018, &[(DATA + 0x1000) | PAGE]);
    let write = rig.model.transact(8, Some(3), 0x20_3000, Access::Write);
    assert_eq!(write, to(DATA));
    rig.is_clean();
}

#[test]
fn flags_are_not_set_where_walks_do_not_snoop() {
    let rig = up_with(VtdConfig::first_level());
    assert_eq!(rig.read_as(3, 0x20_3000), to(DATA));
    rig.poke(F1 + 0x3020, &[DATA | PAGE & !0x20]);
    refuses(&rig, 0x20_4000, 0x90);
    rig.poke(F1 + 0x3028, &[DATA | PAGE & !0x40]);
    assert_eq!(rig.read_as(3, 0x20_5000), to(DATA));
    let write = rig.model.transact(8, Some(3), 0x20_5000, Access::Write);
    assert_eq!(write, Outcome::Faulted);
    assert_eq!(rig.fault(), Some((0x90, 8, 0x20_5000)));
    // Where the entry asks for it, they snoop.
    let rig = up_with(VtdConfig::first_level().with_snoop_control(true));
    rig.pasid(3, [FIRST, 1 | 1 << 23, F1]);
    rig.poke(F1 + 0x3020, &[DATA | PAGE & !0x20]);
    assert_eq!(rig.read_as(3, 0x20_4000), to(DATA));
    rig.is_clean();
}

#[test]
fn translations_are_stale_until_invalidated() {
    let fresh = |descriptor: [u64; 2], is_fresh: bool| {
        let rig = up();
        assert_eq!(rig.read_as(3, 0x20_3000), to(DATA));
        rig.poke(F1 + 0x3018, &[(DATA + 0x1000) | PAGE]);
        rig.flush(&[descriptor]);
        let expected = if is_fresh { DATA + 0x1000 } else { DATA };
        assert_eq!(rig.read_as(3, 0x20_3000), to(expected), "{descriptor:x?}");
        rig.is_clean();
    };
    fresh(PASID_ALL, false);
    fresh(piotlb(1, 3), true);
    fresh(piotlb(1, 4), false);
    fresh(piotlb(2, 3), false);
    fresh(piotlb_page(1, 3, 0x20_3000), true);
    fresh(piotlb_page(1, 3, 0x20_3040), true);
    fresh(piotlb_page(1, 3, 0x20_2000), false);
    fresh(piotlb_page(1, 3, 0x20_0002), true);
    fresh(piotlb_page(1, 4, 0x20_3000), false);
    fresh(iotlb_domain(1), true);
    // By page of a domain: all that is first-level in it.
    fresh(iotlb_page(1, 0x90_0000, 0), true);
    fresh(iotlb_page(2, 0x20_3000, 0), false);
    fresh(IOTLB_ALL, true);
}

#[test]
fn pointers_to_tables_are_cached_too() {
    let rig = up();
    assert_eq!(rig.read_as(3, 0x20_3000), to(DATA));
    rig.poke(F1 + 0x4018, &[(DATA + 0x2000) | PAGE]);
    rig.poke(F1 + 0x2008, &[(F1 + 0x4000) | TABLE]);
    rig.flush(&[piotlb_page(1, 3, 0x20_3040)]);
    assert_eq!(rig.read_as(3, 0x20_3000), to(DATA), "the old table");
    rig.flush(&[piotlb_page(1, 3, 0x20_3000)]);
    assert_eq!(rig.read_as(3, 0x20_3000), to(DATA + 0x2000));
    rig.is_clean();
}

#[test]
fn a_domain_id_serves_one_set_of_tables_for_each_pasid() {
    let rig = up();
    assert_eq!(rig.read_as(3, 0x20_3000), to(DATA));
    // Others for another PASID, in the same domain.
    rig.poke(F1 + 0x5000, &[(F1 + 0x1000) | TABLE]);
    rig.pasid(4, [FIRST, 1, F1 + 0x5000]);
    assert_eq!(rig.read_as(4, 0x20_3000), to(DATA));
    rig.is_clean();
    // And for the same one, after the entry but not the translations were invalidated.
    rig.pasid(3, [FIRST & !1, 1, F1]);
    rig.flush(&[pasid_one(1, 3)]);
    rig.pasid(3, [FIRST, 1, F1 + 0x5000]);
    rig.read_as(3, 0x5f_f000);
    rig.noted("domain id 0x1 is used for First");
}

#[test]
fn absent_translations_are_not_cached_even_in_caching_mode() {
    let rig = up_with(config().with_caching_mode(true));
    refuses(&rig, 0x20_4000, 0x71);
    rig.poke(F1 + 0x3020, &[DATA | PAGE]);
    assert_eq!(rig.read_as(3, 0x20_4000), to(DATA));
    rig.is_clean();
}
