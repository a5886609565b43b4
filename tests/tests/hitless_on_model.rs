//! Hitless changes of live entries, watched by devices that do DMA all the while: on this
//! workspace's model of an SMMUv3.

use iommu_core::Atomicity;
use mock_hw::smmuv3::{ModelConfig, Order};
use tests::hitless::checks::{
    atomicities, plans_are_hitless, the_driver_races, the_driver_steps, with_bench,
    wrongs_are_noticed,
};
use tests::hitless::plans::How;
use tests::hitless::substreams;
use tests::model::ModelMachine;

/// How often tearing is left to chance.
const SEEDS: u64 = 8;

/// Hardware that invalidates as late as it may, as early, and at random; with `torn`, also such that
/// keeps words of entries one by one, or two by two where that is what is fetched.
fn hardware(torn: bool) -> Vec<ModelConfig> {
    let order = |order| ModelConfig {
        order,
        ..ModelConfig::default()
    };
    let mut all = vec![
        order(Order::Adverse),
        order(Order::InOrder),
        order(Order::Random),
    ];
    let seeds = if torn { SEEDS } else { 0 };
    all.extend((0..seeds).map(|seed| ModelConfig {
        seed,
        partial: true,
        ..order(Order::Random)
    }));
    all
}

fn each_atomicity_and_hardware(test: impl Fn(Atomicity, &ModelConfig)) {
    for &atomicity in atomicities() {
        for config in hardware(true) {
            test(atomicity, &config);
        }
    }
}

fn machine(config: &ModelConfig, masters: usize) -> ModelMachine {
    ModelMachine::new(config.clone(), masters)
}

#[test]
fn the_drivers_moves_are_hitless_after_every_store_and_every_command() {
    each_atomicity_and_hardware(|atomicity, config| {
        the_driver_steps(&|masters| machine(config, masters), atomicity);
    });
}

#[test]
fn the_drivers_moves_are_hitless_while_devices_do_dma_all_the_time() {
    let [late, .., torn] = &hardware(true)[..] else {
        unreachable!("several kinds of hardware");
    };
    for config in [late, torn] {
        the_driver_races(&|masters| machine(config, masters), 3);
    }
}

#[test]
fn hitless_plans_are_hitless_after_every_store_and_every_command() {
    each_atomicity_and_hardware(|atomicity, config| {
        plans_are_hitless(&|masters| machine(config, masters), atomicity, How::Planned);
    });
    for &atomicity in atomicities() {
        let start = |masters| machine(&ModelConfig::default(), masters);
        plans_are_hitless(&start, atomicity, How::AtOnce);
    }
}

#[test]
fn so_they_are_with_substreams_stalls_and_ats() {
    each_atomicity_and_hardware(|atomicity, config| {
        let machine = machine(&substreams::hardware(config.clone()), 1);
        let readers = substreams::readers(&machine, 0x10);
        let found = with_bench(
            &machine,
            atomicity,
            How::Planned,
            readers,
            |bench, world| {
                let kinds = substreams::entries(world);
                bench.entries(&kinds, atomicity);
            },
        );
        println!("{atomicity:?}: {found:?}");
        assert_eq!(found.faults, [""; 0], "{atomicity:?} on {config:?}");
        assert_eq!(machine.model().violations(), [""; 0]);
        // Between two stage 2.
        let breaking = if atomicity == Atomicity::Word { 4 } else { 0 };
        assert_eq!((found.pairs, found.breaking), (110 - breaking, breaking));
    });
}

#[test]
fn what_is_wrong_is_noticed() {
    wrongs_are_noticed(&|masters| machine(&ModelConfig::default(), masters));
}

/// Plans for a reader that takes 128 bits at once, and a reader that does not.
#[test]
fn a_reader_that_tears_pairs_is_noticed() {
    let torn = ModelConfig {
        order: Order::Random,
        partial: true,
        fetches: Some(Atomicity::Word),
        ..ModelConfig::default()
    };
    if atomicities().contains(&Atomicity::Pair) {
        let machine = machine(&substreams::hardware(torn), 1);
        let readers = substreams::readers(&machine, 0x10);
        let (atomicity, how) = (Atomicity::Pair, How::Planned);
        let found = with_bench(&machine, atomicity, how, readers, |bench, world| {
            let kinds = substreams::entries(world);
            bench.entries(&kinds, atomicity);
        });
        assert!(!found.faults.is_empty(), "{found:?}");
    }
}
