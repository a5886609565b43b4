//! The conformance suite on every backend of this workspace, on QEMU's hardware.
#![cfg(feature = "qemu")]

use iommu_core::Stage;
use mock_hw::conformance::run;
use tests::cases::setups::{only_s1_64k, s1, s2_16k, s2_linear};
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
fn smmuv3_with_pages_of_16_kib() {
    run(&on_qemu(s2_16k())).assert();
}

/// Stage 1 alone: with stage 2, the root of 44 bits is four tables side by side, of which QEMU 10.0
/// finds the first only. It clears those bits of `S2TTB` that such a root has zero (5.2) after it has
/// added to them which of the tables it is, and not before.
#[test]
fn smmuv3_with_pages_of_64_kib() {
    run(&on_qemu(only_s1_64k())).assert();
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
