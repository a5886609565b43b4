//! Random sequences on paging domains, seen by a device behind QEMU's IOMMUs: their walkers and their
//! caches are what says where an address leads.
//!
//! `IOMMU_CASES` says how many in all, `IOMMU_SEED` which.
#![cfg(feature = "qemu")]

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use arm_smmu_v3::ArmSmmuV3;
use intel_vtd_stub::{IntelVtd, Mode};
use iommu_core::{DeviceInfo, Iommu, IommuOps, NoControl, Stage};
use mock_hw::MockMemory;
use tests::cases::bank::CorruptingBank;
use tests::cases::setups::{s1, s1_by_leaf, s2, s2_by_leaf};
use tests::qemu::{Edu, Machine, MachineConfig, Q35, Q35Config};
use tests::sequences::{Counts, EduProber, Rig};
use tests::settings::setting;

const SEED: u64 = 0x9a9e;
const SEQUENCES: u64 = 10_000;

/// What a thousand sequences show at least, whatever the seed; looked at from so many on.
const ENOUGH: u64 = 500;
const LEAST: [(&str, u64); 8] = [
    ("map", 2000),
    ("unmap", 3000),
    ("protect", 300),
    ("page read", 20_000),
    ("read refused", 20_000),
    ("page written", 1000),
    ("write refused: read only", 300),
    ("write refused: unmapped", 1000),
];
/// The same where leaves can be split and merged.
const LEAST_RESIZED: [(&str, u64); 2] = [("split", 300), ("merge", 200)];

/// Runs a `share`-th of the sequences, those of `kind`, on paging domains of `stage`.
/// `resizable` is whether their leaves can be split and merged.
fn run(
    name: &str,
    ops: impl IommuOps,
    (edu, memory): (&Edu, &MockMemory),
    (stage, resizable): (Stage, bool),
    (kind, share): (u64, u64),
) {
    let iommu = Iommu::new(ops).expect("a core");
    let info = DeviceInfo::new("edu").streams([edu.stream_id()]);
    let device = iommu.add_device(info, Arc::new(NoControl));
    let device = device.expect("a device");
    let prober = EduProber::new(edu, memory).expect("memory");
    let rig = Rig::new(iommu, device, stage, resizable, prober, memory);
    let (seed, start) = (setting("IOMMU_SEED", SEED), Instant::now());
    let (first, count) = (
        kind << 32,
        setting("IOMMU_CASES", SEQUENCES).div_ceil(share),
    );
    let counts = rig.expect("memory").run(seed, first..first + count);
    let counts = counts.unwrap_or_else(|what| panic!("{name}: {what}"));
    // Past the test runner, which shows what is printed of failed tests only.
    let time = start.elapsed().as_secs_f64();
    let shown = writeln!(
        std::io::stderr(),
        "{name}, seed {seed:#x}, {time:.1} s: {counts}"
    );
    shown.expect("standard error");
    check(name, &counts, &LEAST);
    if resizable {
        check(name, &counts, &LEAST_RESIZED);
    }
}

fn check(name: &str, counts: &Counts, all: &[(&str, u64)]) {
    let sequences = counts.of("sequence");
    if sequences < ENOUGH {
        return;
    }
    for (what, least) in all {
        let (seen, least) = (counts.of(what), least * sequences / 1000);
        assert!(seen >= least, "{name}: {seen} times {what}, not {least}");
    }
}

#[test]
fn the_smmu_leads_a_device_where_the_domain_says() {
    let machine = Machine::start(&MachineConfig::default()).expect("QEMU starts");
    let setups = [s1(), s2(), s1_by_leaf(), s2_by_leaf()];
    for (kind, setup) in [0, 1, 6, 7].into_iter().zip(setups) {
        let platform = CorruptingBank::on(machine.platform(), &setup);
        let smmu = ArmSmmuV3::probe(platform, arm_smmu_v3::Config::default());
        let (stage, ranges) = (setup.stage, setup.range_invalidation);
        let name = format!("SMMUv3, stage {stage:?}, range invalidation {ranges}");
        let on = (&machine.edus()[0], machine.memory());
        run(&name, smmu.expect("an SMMU"), on, (stage, true), (kind, 8));
    }
}

#[test]
fn the_vtd_leads_a_device_where_the_domain_says() {
    let legacy = Q35Config::default();
    let caching = Q35Config {
        caching_mode: true,
        ..legacy.clone()
    };
    let second = Q35Config {
        scalable: true,
        ..legacy.clone()
    };
    let first = Q35Config {
        first_level: true,
        ..second.clone()
    };
    let setups = [
        (legacy, Mode::Legacy, Stage::Second),
        (caching, Mode::Legacy, Stage::Second),
        (second, Mode::Scalable, Stage::Second),
        (first, Mode::Scalable, Stage::First),
    ];
    for (kind, (config, mode, stage)) in (2..).zip(setups) {
        let machine = Q35::start(&config).expect("QEMU starts");
        let caching = config.caching_mode;
        let name = format!("VT-d, {mode:?} mode, stage {stage:?}, caching mode {caching}");
        let config = intel_vtd_stub::Config {
            mode,
            ..intel_vtd_stub::Config::default()
        };
        let vtd = IntelVtd::probe(machine.platform(), config);
        let on = (&machine.edus()[0], machine.memory());
        run(&name, vtd.expect("a unit"), on, (stage, true), (kind, 8));
    }
}
