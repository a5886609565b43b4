use super::*;

const CFGI_5: [u64; 2] = [0x0005_0000_0003, 1];
/// VMID 2, ASID 7.
const TLBI_ASID: [u64; 2] = [0x0007_0002_0000_0011, 0];

fn in_order(order: Order, seed: u64) -> Rig {
    let rig = Rig::up_with(ModelConfig {
        order,
        seed,
        ..Default::default()
    });
    rig.settle();
    rig
}

impl Rig {
    /// Looks until all commands are consumed.
    fn settle(&self) {
        while self.bank.read32(0x9c) != self.bank.read32(0x98) {}
    }
}

#[test]
fn in_order_each_command_is_done_at_once() {
    let rig = in_order(Order::InOrder, 0);
    rig.ste(5, &[BYPASS]);
    rig.read(5, 0);
    rig.ste(5, &[ABORT]);
    assert_eq!(rig.read(5, 0), to(0));
    rig.submit(&[CFGI_5]);
    assert_eq!(rig.read(5, 0), Outcome::Aborted);
    // What is not invalidated stays; what is ignored is not invalidated.
    rig.ste(5, &[BYPASS]);
    rig.submit(&[SYNC]);
    assert_eq!(rig.read(5, 0), Outcome::Aborted);
    rig.model.ignore_command(Box::new(|opcode| opcode == 3));
    rig.submit(&[CFGI_5, SYNC]);
    assert_eq!(rig.read(5, 0), Outcome::Aborted);
    // No speculation: a disabled cache stays empty.
    rig.submit(&[CFGI_ALL, SYNC]);
    assert_eq!(rig.model.cached_stream_config(5), None);
    rig.model.set_order(Order::Adverse);
    rig.submit(&[[0x0006_0000_0003, 1]]);
    rig.is_clean();
}

/// Stream 5 moves to another descriptor with the same ASID; where its page goes then.
fn moved(seed: u64, batch: &[[u64; 2]]) -> Outcome {
    let rig = in_order(Order::Random, seed);
    rig.stage1();
    assert_eq!(rig.read(5, 0x20_3000), to(DATA));
    rig.poke(CD + 0x1000, &[CD_39, S1 + 0x8000]);
    rig.poke(S1 + 0x8000, &[0x4000_0000 | BLOCK]);
    rig.ste(5, &[STE_S1 + 0x1000, 0, 2]);
    rig.submit(batch);
    rig.settle();
    rig.read(5, 0x20_3000)
}

#[test]
fn in_random_order_a_missing_synchronisation_is_found_by_some_seed() {
    let (old, new) = (to(DATA), to(0x4020_3000));
    let outcomes = |batch: &[[u64; 2]]| (0..60).map(|seed| moved(seed, batch)).collect::<Vec<_>>();
    let right = outcomes(&[CFGI_5, SYNC, TLBI_ASID, SYNC]);
    assert!(right.iter().all(|outcome| *outcome == new));
    for batch in [
        &[CFGI_5, TLBI_ASID, SYNC][..],
        &[TLBI_ASID, CFGI_5, SYNC],
        &[TLBI_ASID, SYNC, CFGI_5, SYNC],
    ] {
        let wrong = outcomes(batch);
        assert!(wrong.contains(&old) && wrong.contains(&new), "{batch:x?}");
    }
    assert_eq!(
        outcomes(&[CFGI_5, TLBI_ASID, SYNC]),
        outcomes(&[CFGI_5, TLBI_ASID, SYNC])
    );
}

#[test]
fn random_invalidations_come_late_or_early_but_no_later_than_the_synchronisation() {
    let mut early = 0;
    for seed in 0..40 {
        let rig = in_order(Order::Random, seed);
        rig.ste(5, &[BYPASS]);
        assert_eq!(rig.read(5, 0), to(0));
        rig.ste(5, &[ABORT]);
        rig.submit(&[CFGI_5]);
        early += usize::from(rig.read(5, 0) == Outcome::Aborted);
        rig.submit(&[SYNC]);
        rig.settle();
        assert_eq!(rig.read(5, 0), Outcome::Aborted);
        rig.is_clean();
    }
    assert!((5..35).contains(&early), "{early}");
}

#[test]
fn a_random_consumer_moves_bit_by_bit() {
    let moves = |seed| {
        let rig = in_order(Order::Random, seed);
        let start = rig.bank.read32(0x9c);
        rig.submit(&[SYNC; 20]);
        let mut seen = Vec::new();
        while seen.last() != Some(&20) {
            seen.push(rig.bank.read32(0x9c) - start);
        }
        seen
    };
    assert!(moves(1).len() > 2 && moves(1) != moves(2) && moves(1) == moves(1));
}

#[test]
fn configuration_may_be_fetched_at_any_time() {
    // Nobody uses the stream after it was written: yet some seed has it cached.
    let cached = |seed| {
        let rig = in_order(Order::Random, seed);
        rig.ste(5, &[ABORT]);
        rig.read(5, 0);
        rig.submit(&[CFGI_5, SYNC]);
        rig.settle();
        rig.model.cached_stream_config(5).is_some()
    };
    let count = (0..40).filter(|seed| cached(*seed)).count();
    assert!((1..40).contains(&count), "{count}");
    // On demand, in any order.
    let rig = in_order(Order::InOrder, 0);
    rig.stage1();
    rig.read(5, 0x20_3000);
    rig.submit(&[CFGI_ALL, TLBI_ALL, SYNC]);
    for _ in 0..8 {
        rig.model.prefetch();
    }
    let Some(StreamConfig::Stage1 { stage1, .. }) = rig.model.cached_stream_config(5) else {
        panic!()
    };
    assert_eq!(stage1.descriptor.unwrap().asid, 7);
    rig.is_clean();
}

#[test]
fn a_seed_can_be_set_later() {
    let run = |seed| {
        let rig = in_order(Order::Random, 9);
        rig.ste(5, &[BYPASS]);
        rig.model.set_seed(seed);
        (0..30)
            .map(|at| {
                rig.ste(5, &[if at % 2 == 0 { BYPASS } else { ABORT }]);
                rig.submit(&[CFGI_5]);
                rig.read(5, 0)
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

fn partial(seed: u64) -> Rig {
    Rig::up_with(ModelConfig {
        partial: true,
        seed,
        ..Default::default()
    })
}

#[test]
fn words_of_an_entry_are_cached_one_by_one() {
    // From stage 1 with VMID 2 to bypass and back, by two stores of words each time.
    let mut outcomes = Vec::new();
    for seed in 0..60 {
        let rig = partial(seed);
        rig.stage1();
        rig.stage2();
        assert_eq!(rig.read(5, 0x20_3000), to(DATA));
        // Stage 2 of stream 6: words 0, 2 and 3 change, and nothing is invalidated.
        rig.ste(5, &[STE_S2, 0, S2_39, S2]);
        outcomes.push(rig.read(5, 0x20_3000));
    }
    // Old, new, and illegal mixtures: stage 2 with what is left of stage 1.
    assert!(outcomes.contains(&to(DATA)) && outcomes.contains(&Outcome::Faulted));
}

#[test]
fn a_mixture_ends_with_the_invalidation() {
    let mut mixed = 0;
    for seed in 0..60 {
        let rig = partial(seed);
        rig.ste(5, &[BYPASS]);
        for _ in 0..8 {
            assert_eq!(rig.read(5, 0x1000), to(0x1000));
        }
        rig.ste(5, &[ABORT]);
        let aborts = (0..20)
            .filter(|_| rig.read(5, 0x1000) == Outcome::Aborted)
            .count();
        mixed += usize::from((1..20).contains(&aborts));
        rig.submit(&[CFGI_5, SYNC]);
        for _ in 0..20 {
            assert_eq!(rig.read(5, 0x1000), Outcome::Aborted);
        }
        rig.is_clean();
    }
    assert!(mixed > 30, "{mixed}");
}

#[test]
fn a_cached_word_may_be_fetched_again() {
    let outlives = |seed| {
        let rig = partial(seed);
        for (entry, reads) in [(BYPASS, 8), (ABORT, 20), (BYPASS, 0)] {
            rig.ste(5, &[entry]);
            for _ in 0..reads {
                rig.read(5, 0x1000);
            }
        }
        (0..8).any(|_| rig.read(5, 0x1000) == Outcome::Aborted)
    };
    assert!((0..20).any(outlives), "an entry between two others");
}

#[test]
fn half_an_invalidation_of_a_descriptor_is_seen() {
    // The TLB too: before the descriptor was invalidated, a mixture may have been translated.
    let old_somewhere = |invalidated: bool| {
        (0..60).any(|seed| {
            let rig = partial(seed);
            rig.stage1();
            for _ in 0..4 {
                rig.read(5, 0x20_3000);
            }
            // Another ASID and other tables.
            rig.poke(CD, &[CD_39 + (1 << 48), S1 + 0x8000]);
            rig.poke(S1 + 0x8000, &[0x4000_0000 | BLOCK]);
            if invalidated {
                rig.submit(&[[0x0005_0000_0005, 1], SYNC, TLBI_ALL, SYNC]);
            }
            (0..8).any(|_| rig.read(5, 0x20_3000) != to(0x4020_3000))
        })
    };
    assert!(old_somewhere(false) && !old_somewhere(true));
}

#[test]
fn what_is_whole_is_never_mixed() {
    for seed in 0..20 {
        let rig = Rig::up_with(ModelConfig {
            seed,
            ..Default::default()
        });
        rig.ste(5, &[BYPASS]);
        rig.read(5, 0x1000);
        rig.ste(5, &[ABORT]);
        assert_eq!(rig.read(5, 0x1000), to(0x1000));
        rig.model.set_partial(true);
        let outcomes = [(); 64].map(|()| rig.read(5, 0x1000));
        assert!(outcomes.contains(&Outcome::Aborted));
    }
}
