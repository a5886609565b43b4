//! Adversity: order, tearing, present entries that change, and the moments between two stores.

use iommu_core::Atomicity;

use super::*;

/// A rig whose source 8 has used its page, and whose entry is then no longer present.
fn leaving(order: Order) -> Rig {
    let rig = Rig::up_with(VtdConfig {
        order,
        ..VtdConfig::default()
    });
    rig.second_level();
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.context(8, [S2, 0x501]);
    rig
}

const BOTH: [[u64; 2]; 2] = [context_device(8, 5), iotlb_domain(5)];

#[test]
fn translations_overtake_what_no_fence_orders() {
    let rig = leaving(Order::Adverse);
    rig.submit(&[BOTH[0], BOTH[1], WAIT]);
    assert_eq!(
        rig.read(8, 0x20_3000),
        to(DATA),
        "refilled through the old entry"
    );
    // A wait descriptor alone does not keep what is behind it back.
    let rig = leaving(Order::Adverse);
    rig.submit(&[BOTH[0], WAIT, BOTH[1], WAIT]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    let rig = leaving(Order::Adverse);
    rig.submit(&[BOTH[0], FENCE, BOTH[1], WAIT]);
    rig.refuses(8, 0x20_3000, 2);
    let rig = leaving(Order::Adverse);
    rig.submit(&[BOTH[0], WAIT]);
    rig.submit(&[BOTH[1], WAIT]);
    rig.refuses(8, 0x20_3000, 2);
    let rig = leaving(Order::InOrder);
    rig.submit(&[BOTH[0], BOTH[1], WAIT]);
    rig.refuses(8, 0x20_3000, 2);
    rig.is_clean();
}

#[test]
fn invalidations_are_done_at_the_wait() {
    let rig = leaving(Order::Adverse);
    rig.submit(&[BOTH[0]]);
    rig.submit(&[BOTH[1]]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.flush(&BOTH);
    rig.refuses(8, 0x20_3000, 2);
    rig.is_clean();
}

#[test]
fn any_order_may_come() {
    let mut stale = 0;
    for seed in 0..64 {
        let rig = leaving(Order::Random);
        rig.model.set_seed(seed);
        rig.submit(&[BOTH[0], BOTH[1], WAIT]);
        while rig.bank.read64(IQH) != rig.bank.read64(IQT) {}
        stale += usize::from(rig.read(8, 0x20_3000) == to(DATA));
        rig.fault();
        // What is ordered is gone for sure.
        for descriptor in BOTH {
            rig.submit(&[descriptor, WAIT]);
            while rig.bank.read64(IQH) != rig.bank.read64(IQT) {}
        }
        rig.refuses(8, 0x20_3000, 2);
        rig.is_clean();
    }
    assert!((1..64).contains(&stale), "{stale} of 64");
}

/// What becomes of the reads of source 8 while its entry goes from domain 5, through these steps,
/// with translations but no entries invalidated between.
fn seen(steps: &[[u64; 2]], partial: bool, fetches: Atomicity) -> Vec<Outcome> {
    let mut seen = Vec::new();
    for seed in 0..64 {
        let rig = Rig::up_with(VtdConfig {
            order: Order::InOrder,
            seed,
            partial,
            fetches: Some(fetches),
            ..VtdConfig::default()
        });
        rig.second_level();
        // The same in 4 levels.
        rig.poke(T2, &[S2 + RW]);
        rig.read(8, 0x20_3000);
        for step in steps {
            rig.context(8, *step);
            rig.flush(&[IOTLB_ALL]);
            let outcome = rig.read(8, 0x20_3000);
            rig.fault();
            if !seen.contains(&outcome) {
                seen.push(outcome);
            }
        }
    }
    seen
}

#[test]
fn words_of_an_entry_are_mixed() {
    let steps = [[T2 | 1, 0x602]];
    let whole = seen(&steps, false, Atomicity::Word);
    assert_eq!(whole, [to(DATA)], "the old entry");
    // The old tables with the new number of levels, or the other way round.
    let torn = seen(&steps, true, Atomicity::Word);
    assert!(torn.contains(&Outcome::Faulted), "{torn:x?}");
    let pairs = seen(&steps, true, Atomicity::Pair);
    assert_eq!(pairs, [to(DATA)], "the old one, or the new one");
}

#[test]
fn a_present_entry_does_not_change_while_it_is_cached() {
    let rig = Rig::up();
    rig.second_level();
    rig.read(8, 0x20_3000);
    rig.context(8, [T2 | 1, 0x601]);
    rig.flush(&[context_device(8, 5), iotlb_domain(5)]);
    rig.noted("the context entry of 0x8 was changed from");
    // Through an entry that is not present, but not invalidated as such.
    let rig = Rig::up();
    rig.second_level();
    rig.read(8, 0x20_3000);
    rig.context(8, [S2, 0x501]);
    rig.context(8, [T2 | 1, 0x601]);
    rig.flush(&[context_device(8, 5), iotlb_domain(5)]);
    rig.noted("the context entry of 0x8 was changed from");
    // As it is to be done, and what may change in place.
    let rig = leaving(Order::Adverse);
    rig.flush(&BOTH);
    rig.context(8, [T2 | 1, 0x601]);
    rig.read(8, 0x20_3000);
    rig.fault();
    rig.context(8, [T2 | 3, 0x679]);
    rig.flush(&[context_device(8, 6), iotlb_domain(6)]);
    rig.is_clean();
}

#[test]
fn domain_ids_have_as_many_bits_as_the_unit_says() {
    let rig = Rig::up_with(VtdConfig::default().with_domain_bits(8));
    rig.tables();
    rig.context(8, [S2 | 1, 0x1_0001]);
    rig.read(8, 0x20_3000);
    rig.noted("domain id 0x100 is used, where there are 8 bits");
    let rig = Rig::up_with(VtdConfig::default().with_domain_bits(8));
    rig.flush(&[iotlb_domain(0x100)]);
    rig.noted("a descriptor names domain id 0x100");
}

#[test]
fn without_page_selection_domains_are_invalidated() {
    let rig = Rig::up_with(VtdConfig::default().with_page_selective(None));
    rig.second_level();
    rig.read(8, 0x20_3000);
    rig.poke(S2 + 0x2018, &[0]);
    rig.flush(&[iotlb_page(5, 0x100_0000, 0)]);
    rig.refuses(8, 0x20_3000, 6);
    rig.noted("pages were invalidated");
}

#[test]
fn requests_come_between_any_two_stores() {
    use std::sync::{Arc, Mutex};
    let rig = Rig::up_with(VtdConfig::default().with_coherent(true));
    rig.tables();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let (seen, model) = (seen.clone(), rig.model.clone());
        move |_: PhysAddr, _: &[u64]| {
            model.prefetch();
            let outcome = model.transact(8, None, 0x20_3000, Access::Read);
            seen.lock().unwrap().push(outcome);
        }
    };
    rig.memory.set_store_hook(Some(Arc::new(hook)));
    for (at, word) in [(8, 0x501), (0, S2 | 1), (0, S2)] {
        let word_at = rig.memory.pointer(PhysAddr(CONTEXTS + 0x80 + at));
        // SAFETY: the word is in the arena, aligned, and accessed atomically by all.
        let word_at = unsafe { word_at.cast::<std::sync::atomic::AtomicU64>().as_ref() };
        rig.memory.store_word(word_at, word);
    }
    rig.memory.set_store_hook(None);
    assert_eq!(
        *seen.lock().unwrap(),
        [Outcome::Faulted, to(DATA), to(DATA)]
    );
    rig.is_clean();
}

#[test]
fn what_was_cached_of_tables_that_are_gone_is_no_mistake() {
    let memory = MockMemory::new(PhysAddr(0x4000_0000), 0x1_0000);
    let model = VtdModel::new(
        memory.clone(),
        VtdConfig::default().with_flush_on_root(true),
    );
    let bank = model.bank();
    let on = |value: u32| {
        bank.write32(GCMD, value);
        while bank.read32(GSTS) & TE != value & TE {}
    };
    let [root, contexts] = [0; 2].map(|_: u32| memory.allocate(0x1000, 0x1000).unwrap());
    memory.write_word(root, contexts.0 | 1).unwrap();
    memory.write_word(PhysAddr(contexts.0 + 0x80), 9).unwrap();
    memory
        .write_word(PhysAddr(contexts.0 + 0x88), 0x102)
        .unwrap();
    bank.write64(0x20, root.0);
    on(SRTP);
    while bank.read32(GSTS) & SRTP == 0 {}
    on(TE);
    assert_eq!(model.transact(8, None, 0x1000, Access::Read), to(0x1000));
    on(0);
    for block in [root, contexts] {
        // SAFETY: it was allocated so, and nothing uses it any more.
        unsafe { memory.free(block, 0x1000, 0x1000) };
    }
    bank.write64(0x28, 1 << 63 | 1 << 61);
    while bank.read32(0x2c) >> 31 != 0 {}
    on(SRTP);
    while bank.read32(GSTS) & SRTP == 0 {}
    assert_eq!(model.violations(), [""; 0]);
    assert_eq!(memory.violations(), [""; 0]);
}
