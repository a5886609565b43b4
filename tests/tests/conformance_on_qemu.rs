//! The conformance suite on every backend of this workspace, on QEMU's hardware.
#![cfg(feature = "qemu")]

use iommu_core::Stage;
use mock_hw::conformance::run;
use tests::cases::setups::{s1, s2_linear};
use tests::qemu::Q35Config;
use tests::stands::{VtdSetup, on_q35, on_qemu};

#[test]
fn smmuv3_with_stage_1() {
    run(&on_qemu(s1())).assert();
}

#[test]
fn smmuv3_with_stage_2_and_a_linear_stream_table() {
    run(&on_qemu(s2_linear())).assert();
}

#[test]
fn vtd_in_legacy_mode() {
    let setup = VtdSetup::legacy("QEMU, legacy");
    run(&on_q35(setup, Q35Config::default())).assert();
}

#[test]
fn vtd_in_legacy_mode_with_caching_mode() {
    let setup = VtdSetup::legacy("QEMU, legacy, caching mode");
    let config = Q35Config {
        caching_mode: true,
        ..Q35Config::default()
    };
    run(&on_q35(setup, config)).assert();
}

#[test]
fn vtd_in_scalable_mode_with_the_second_stage() {
    let setup = VtdSetup::scalable("QEMU, second stage", &[Stage::Second], 0);
    let config = Q35Config {
        scalable: true,
        ..Q35Config::default()
    };
    run(&on_q35(setup, config)).assert();
}

#[test]
fn vtd_in_scalable_mode_with_the_first_stage() {
    let setup = VtdSetup::scalable("QEMU, first stage", &[Stage::First], 0);
    let config = Q35Config {
        scalable: true,
        first_level: true,
        ..Q35Config::default()
    };
    run(&on_q35(setup, config)).assert();
}
