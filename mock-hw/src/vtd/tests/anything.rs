//! Whatever software writes, the model neither panics nor hangs.

use super::*;
use crate::chance::Chance;

/// A word that has a chance to mean something: a few bits, or an address with a few bits.
fn word(chance: &mut Chance) -> u64 {
    let address = 0x4000_0000 + (chance.below(0x80) << 12) as u64;
    let few = chance.word() & chance.word() & chance.word() & 0xfff;
    match chance.below(8) {
        0 => chance.word(),
        1 => u64::MAX,
        2 => chance.word() & chance.word() & chance.word(),
        3 => 1 << chance.below(64),
        4 => 0,
        _ => address | few | u64::from(chance.one_in(2)),
    }
}

/// Registers that matter, and any.
fn offset(chance: &mut Chance, len: usize) -> usize {
    const OFTEN: [usize; 14] = [
        0x18, 0x18, 0x18, 0x20, 0x28, 0x2c, 0x34, 0x64, 0x88, 0x88, 0x88, 0x90, 0xf8, 0xfc,
    ];
    match chance.one_in(4) {
        true => chance.below(len / 4) * 4,
        false => OFTEN[chance.below(OFTEN.len())],
    }
}

fn one(seed: u64) -> usize {
    let mut chance = Chance::new(seed);
    let mut config = match chance.below(4) {
        0 => VtdConfig::default(),
        1 => VtdConfig::caching(),
        2 => VtdConfig::scalable().with_device_tlbs(true),
        _ => VtdConfig::first_level().with_coherent(true),
    };
    let odd = chance.one_in(3);
    if odd {
        (config.cap, config.ecap) = (chance.word(), chance.word());
    }
    config.order = [Order::Adverse, Order::InOrder, Order::Random][chance.below(3)];
    config.partial = chance.one_in(2);
    config.seed = seed;
    let rig = match (odd, config.ecap >> 43 & 1) {
        (true, _) => Rig::new(config),
        (false, 0) => Rig::up_with(config),
        (false, _) => Rig::scalable(config),
    };
    for at in (ROOT + 0x20..ROOT + 0x8000).step_by(8) {
        rig.poke(at, &[word(&mut chance)]);
    }
    let mut reached = 0;
    for _ in 0..400 {
        let at = offset(&mut chance, rig.bank.len());
        match chance.below(6) {
            0 => rig.bank.write64(at & !7, word(&mut chance)),
            1 => rig
                .bank
                .write32(at, u32::try_from(word(&mut chance) >> 32).unwrap()),
            2 => rig.bank.write32(at, 1 << chance.below(32)),
            3 => drop((rig.bank.read64(at & !7), rig.bank.read32(at))),
            4 => rig.poke(
                QUEUE + (chance.below(0x200) * 8) as u64,
                &[word(&mut chance)],
            ),
            _ => {
                let source = u32::try_from(chance.below(0x20)).unwrap();
                let pasid = chance
                    .one_in(4)
                    .then(|| u32::try_from(chance.below(0x40)).unwrap());
                let access = [Access::Read, Access::Write][chance.below(2)];
                let outcome = rig.model.transact(source, pasid, word(&mut chance), access);
                reached += usize::from(matches!(outcome, Outcome::Translated(_)));
                let _ = (
                    rig.model.source_config(source),
                    rig.model.pasid_config(source, 3),
                );
            }
        }
    }
    reached
}

#[test]
fn anything_may_be_written() {
    let reached: usize = (0..100).map(one).sum();
    assert!(reached > 500, "only {reached} requests went through");
}
