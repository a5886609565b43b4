//! The conformance suite on every backend of this workspace, on models.

use iommu_core::has_pairs;
use mock_hw::smmuv3::{ModelConfig, Order};
use tests::cases::setups::{
    Setup, only_s1, only_s2, s1, s1_16k, s1_64k, s1_linear, s1_narrow, s2, s2_16k, s2_64k,
    s2_narrow,
};
use tests::stands::{on_model, on_model_of};

fn smmuv3(setup: Setup) {
    mock_hw::conformance::run(&on_model(setup)).assert();
}

#[test]
fn smmuv3_with_stage_1_of_both() {
    smmuv3(s1_narrow());
}

#[test]
fn smmuv3_with_stage_1_and_a_linear_stream_table() {
    smmuv3(s1_linear());
}

#[test]
fn smmuv3_with_stage_2_of_both() {
    smmuv3(s2_narrow());
}

#[test]
fn smmuv3_with_wide_ids() {
    smmuv3(s2());
}

#[test]
fn smmuv3_with_stage_1_alone() {
    smmuv3(only_s1());
}

#[test]
fn smmuv3_with_stage_2_alone() {
    smmuv3(only_s2());
}

/// Entries and translations are cached word by word, and invalidated, whenever it suits the SMMU.
#[test]
fn smmuv3_in_random_order() {
    for (seed, setup) in [(1, s1()), (2, s2())] {
        let config = ModelConfig {
            order: Order::Random,
            partial: true,
            seed,
            ..ModelConfig::default()
        };
        let testbed = on_model_of("the model, random order", setup, config, |_| {});
        mock_hw::conformance::run(&testbed).assert();
    }
}

#[test]
fn smmuv3_with_pages_of_16_kib() {
    smmuv3(s1_16k());
    smmuv3(s2_16k());
}

#[test]
fn smmuv3_with_pages_of_64_kib() {
    smmuv3(s1_64k());
    smmuv3(s2_64k());
}

#[test]
fn smmuv3_with_stores_of_128_bits() {
    for setup in [s1(), s2()] {
        let config = ModelConfig::default();
        let testbed = on_model_of("the model, 128 bits", setup, config, |memory| {
            memory.set_pairs(has_pairs());
        });
        mock_hw::conformance::run(&testbed).assert();
    }
}

#[test]
fn smmuv3_with_memory_that_is_not_coherent() {
    for setup in [s1(), s2()] {
        let config = ModelConfig::default();
        let testbed = on_model_of("the model, not coherent", setup, config, |memory| {
            memory.set_coherent(false);
        });
        mock_hw::conformance::run(&testbed).assert();
    }
}

mod vtd {
    use iommu_core::Stage;
    use mock_hw::vtd::{Order, VtdConfig};
    use tests::stands::{VtdSetup, on_vtd_model};

    /// A device has more PASIDs than one table of them holds.
    const PASIDS: u32 = 200;

    fn run(setup: VtdSetup, config: VtdConfig) {
        mock_hw::conformance::run(&on_vtd_model(setup, config)).assert();
    }

    #[test]
    fn legacy() {
        run(VtdSetup::legacy("the model, legacy"), VtdConfig::legacy());
    }

    #[test]
    fn legacy_and_caching_mode() {
        let setup = VtdSetup::legacy("the model, legacy, caching mode");
        run(setup, VtdConfig::caching());
    }

    #[test]
    fn legacy_without_pass_through() {
        let setup = VtdSetup {
            identity: false,
            ..VtdSetup::legacy("the model, legacy, no pass-through")
        };
        run(setup, VtdConfig::legacy().with_pass_through(false));
    }

    #[test]
    fn legacy_with_few_ids_and_coherent_walks() {
        let config = VtdConfig::legacy().with_domain_bits(6);
        let setup = VtdSetup::legacy("the model, legacy, 64 domain ids, coherent");
        run(setup, config.with_coherent(true));
    }

    #[test]
    fn legacy_in_random_order() {
        let config = VtdConfig {
            order: Order::Random,
            partial: true,
            ..VtdConfig::caching()
        };
        run(VtdSetup::legacy("the model, legacy, random order"), config);
    }

    #[test]
    fn scalable_with_the_second_stage() {
        let setup = VtdSetup::scalable("the model, scalable", &[Stage::Second], PASIDS);
        run(setup, VtdConfig::scalable());
    }

    #[test]
    fn scalable_with_the_first_stage() {
        let setup = VtdSetup::scalable("the model, first stage", &[Stage::First], PASIDS);
        run(setup, VtdConfig::first_level());
    }

    #[test]
    fn scalable_with_both_stages() {
        let stages = [Stage::First, Stage::Second];
        let setup = VtdSetup::scalable("the model, both stages", &stages, PASIDS);
        let config = VtdConfig::scalable().with_levels(true, true);
        run(setup, config.with_caching_mode(true));
    }
}
