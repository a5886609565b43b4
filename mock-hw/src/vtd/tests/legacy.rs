//! Legacy mode: entries, tables, and each fault.

use super::*;

#[test]
fn everything_passes_until_translation_is_enabled() {
    let rig = Rig::new(VtdConfig::default());
    assert_eq!(rig.read(8, 0x4000_0123), to(0x4000_0123));
    assert_eq!(rig.write(8, 1 << 48), Outcome::Aborted);
    let rig = Rig::up();
    rig.refuses(8, 0x4000_0123, 2);
    rig.command(QIE);
    assert_eq!(rig.read(8, 0x4000_0123), to(0x4000_0123));
    rig.is_clean();
}

#[test]
fn pages_of_all_sizes_translate() {
    let rig = Rig::up();
    rig.second_level();
    assert_eq!(rig.read(8, 0x20_3123), to(DATA + 0x123));
    assert_eq!(rig.write(8, 0x5f_f456), to(DATA + 0x1f_f456));
    assert_eq!(rig.read(8, 0x7654_3210), to(0x7654_3210));
    rig.refuses(8, 0x20_4000, 6);
    assert_eq!(
        rig.model.source_config(8),
        SourceConfig::SecondLevel {
            root: PhysAddr(S2),
            levels: 3,
            did: 5
        }
    );
    assert_eq!(rig.model.source_config(9), SourceConfig::NotPresent);
    assert_eq!(rig.model.source_config(0x108), SourceConfig::NotPresent);
    rig.is_clean();
}

#[test]
fn four_levels_translate_48_bits() {
    let rig = Rig::up();
    rig.tables();
    rig.context(8, [T2 | 1, 0x502]);
    rig.poke(T2 + 0xff8, &[S2 + RW]);
    let high = 0xff80_0000_0000;
    assert_eq!(rig.read(8, high | 0x20_3000), to(DATA));
    rig.refuses(8, 1 << 48, 4);
    let rig = Rig::up_with(VtdConfig::default().with_widths(&[3, 4], 40));
    rig.poke(T2 + 8, &[S2 + RW]);
    rig.tables();
    rig.context(8, [T2 | 1, 0x502]);
    assert_eq!(rig.read(8, 0x80_0020_3000), to(DATA));
    rig.refuses(8, 1 << 40, 4);
    rig.is_clean();
}

#[test]
fn five_levels_translate_57_bits() {
    let rig = Rig::up_with(VtdConfig::default().with_widths(&[3, 4, 5], 57));
    rig.tables();
    rig.context(8, [T2 | 1, 0x503]);
    rig.poke(T2 + 0xff8, &[T2 + 0x1000 + RW]);
    rig.poke(T2 + 0x1000, &[S2 + RW]);
    assert_eq!(rig.read(8, 0x01ff_0000_0020_3000), to(DATA));
    rig.refuses(8, 1 << 57, 4);
    rig.is_clean();
}

#[test]
fn pass_through_passes() {
    let rig = Rig::up();
    // TT 2, AW 2: the largest.
    rig.context(8, [9, 0x102]);
    assert_eq!(rig.write(8, 0x1234_5678), to(0x1234_5678));
    assert_eq!(
        rig.model.source_config(8),
        SourceConfig::PassThrough { did: 1 }
    );
    rig.refuses(8, 1 << 48, 4);
    rig.context(9, [9, 0x101]);
    rig.refuses(9, 0x1000, 3);
    let rig = Rig::up_with(VtdConfig::default().with_pass_through(false));
    rig.context(8, [9, 0x102]);
    rig.refuses(8, 0x1000, 3);
    rig.is_clean();
}

#[test]
fn permissions_are_those_of_all_levels() {
    let rig = Rig::up();
    rig.second_level();
    rig.poke(S2 + 0x1008, &[S2 + 0x2000 + 1]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    assert_eq!(rig.write(8, 0x20_3000), Outcome::Faulted);
    assert_eq!(rig.fault(), Some((5, 8, 0x20_3000)));
    rig.poke(S2 + 0x2020, &[DATA | 2]);
    rig.flush(&[iotlb_domain(5)]);
    rig.refuses(8, 0x20_4000, 6);
    rig.is_clean();
}

#[test]
fn entries_that_make_no_sense_are_refused() {
    let rig = Rig::up();
    rig.tables();
    let entry = |low: u64, high: u64, reason| {
        rig.context(8, [low, high]);
        rig.refuses(8, 0x20_3000, reason);
    };
    entry(S2 | 0x11, 0x501, 0xb);
    entry(S2 | 1 | 1 << 48, 0x501, 0xb);
    entry(S2 | 1, 0x581, 0xb);
    entry(S2 | 1, 1 << 24 | 0x501, 0xb);
    // Widths 0 and 3, translation types 1 and 3.
    entry(S2 | 1, 0x500, 3);
    entry(S2 | 1, 0x503, 3);
    entry(S2 | 5, 0x501, 3);
    entry(S2 | 0xd, 0x501, 3);
    // What hardware ignores.
    rig.context(8, [S2 | 1, 0x579]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.is_clean();
}

#[test]
fn root_entries_that_make_no_sense_are_refused() {
    let rig = Rig::up();
    rig.second_level();
    rig.refuses(0x108, 0x20_3000, 1);
    for (low, high) in [
        (CONTEXTS | 3, 0),
        (CONTEXTS | 1 | 1 << 50, 0),
        (CONTEXTS | 1, 1),
    ] {
        rig.poke(ROOT + 16, &[low, high]);
        rig.refuses(0x108, 0x20_3000, 0xa);
    }
    rig.poke(ROOT + 16, &[CONTEXTS | 1, 0]);
    assert_eq!(rig.read(0x108, 0x20_3000), to(DATA));
    rig.is_clean();
}

#[test]
fn table_entries_that_make_no_sense_are_refused() {
    let rig = Rig::up();
    rig.second_level();
    let entry = |at: u64, word: u64| {
        let old = rig.peek(at);
        rig.poke(at, &[word]);
        rig.flush(&[IOTLB_ALL]);
        rig.refuses(8, 0x20_3000, 0xc);
        rig.poke(at, &[old]);
    };
    entry(S2 + 0x2018, DATA | RW | 1 << 11);
    entry(S2 + 0x2018, DATA | RW | 1 << 48);
    entry(S2 + 0x2018, DATA | RW | 1 << 62);
    entry(S2 + 0x1008, (S2 + 0x2000) | RW | 1 << 11);
    // A large page that is not aligned.
    entry(S2 + 0x1008, DATA | RW | LARGE | 1 << 12);
    rig.poke(S2 + 0x2018, &[DATA | RW | 0xbff0_0000_0000_077c]);
    rig.flush(&[IOTLB_ALL]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    let rig = Rig::up_with(VtdConfig::default().with_large_pages(false, true));
    rig.second_level();
    assert_eq!(rig.read(8, 0x4000_0000), to(0x4000_0000));
    rig.refuses(8, 0x40_0000, 0xc);
    rig.is_clean();
}

#[test]
fn tables_that_nobody_owns_are_refused() {
    let rig = Rig::up();
    rig.second_level();
    rig.poke(S2 + 0x1008, &[0x10_0000_0000 | RW]);
    rig.refuses(8, 0x20_3000, 7);
    rig.context(9, [0x10_0000_0001, 0x601]);
    rig.refuses(9, 0x20_3000, 3);
    rig.poke(ROOT + 32, &[0x10_0000_0001, 0]);
    rig.refuses(0x208, 0x20_3000, 9);
    assert_eq!(rig.model.violations(), [""; 0]);
    let rig = Rig::new(VtdConfig::default());
    rig.queue();
    rig.root(0x10_0000_0000);
    rig.submit(&[CONTEXT_ALL, FENCE, IOTLB_ALL, WAIT]);
    rig.command(QIE | TE);
    rig.refuses(8, 0, 8);
}

#[test]
fn interrupts_are_no_memory() {
    let rig = Rig::up();
    rig.second_level();
    assert_eq!(rig.write(8, 0xfee0_0000), Outcome::Aborted);
    assert_eq!(rig.read(8, 0xfee0_0000), Outcome::Aborted);
    rig.poke(S2 + 0x2018, &[0xfee0_1000 | RW]);
    rig.refuses(8, 0x20_3000, 0xe);
    rig.is_clean();
}

#[test]
fn requests_with_a_pasid_are_refused() {
    let rig = Rig::up();
    rig.second_level();
    let outcome = rig.model.transact(8, Some(3), 0x20_3000, Access::Read);
    assert_eq!(outcome, Outcome::Faulted);
    assert_eq!(rig.fault(), Some((0x31, 8, 0x20_3000)));
    rig.is_clean();
}

#[test]
fn what_was_not_cleaned_is_not_seen() {
    let rig = Rig::up();
    rig.second_level();
    let word = rig.memory.pointer(PhysAddr(CONTEXTS + 0x80));
    // SAFETY: the word is in the arena, aligned, and accessed atomically by all.
    let word = unsafe { word.cast::<std::sync::atomic::AtomicU64>().as_ref() };
    rig.memory.store_word(word, 0);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.memory.clean(PhysAddr(CONTEXTS + 0x80), 8);
    rig.flush(&[context_device(8, 5), iotlb_domain(5)]);
    rig.refuses(8, 0x20_3000, 2);
    let rig = Rig::new(VtdConfig::default().with_coherent(true));
    assert!(rig.memory.is_coherent());
}
