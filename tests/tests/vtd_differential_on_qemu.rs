//! Random cases on this workspace's model of a VT-d unit and on QEMU's.
//!
//! `IOMMU_CASES` says how many (any number, for as long as it takes), `IOMMU_SEED` which.
#![cfg(feature = "qemu")]

use std::io::Write;
use std::time::Instant;

use tests::differential_vtd::{Settings, run};
use tests::settings::setting;

const SEED: u64 = 0x5eed;
const CASES: u64 = 5000;

/// What each thousand cases show at least, whatever the seed; looked at from `ENOUGH` cases on.
const ENOUGH: u64 = 5000;
const LEAST_PER_THOUSAND: [(&str, u64); 62] = [
    ("data read", 870),
    ("data through a 1 GiB page", 170),
    ("data through a 2 MiB page", 360),
    ("data through a 4 KiB page", 760),
    ("data through first level", 270),
    ("data through no table", 390),
    ("data through pass-through", 390),
    ("data through second level, four levels", 450),
    ("data through second level, three levels", 580),
    ("data written", 820),
    ("descriptor ContextDevice", 60),
    ("descriptor ContextDomain", 20),
    ("descriptor ContextGlobal", 110),
    ("descriptor IotlbDomain", 110),
    ("descriptor IotlbGlobal", 150),
    ("descriptor IotlbPages", 120),
    ("descriptor PasidDomain", 13),
    ("descriptor PasidGlobal", 80),
    ("descriptor PasidIotlb", 19),
    ("descriptor PasidIotlbPages", 30),
    ("descriptor PasidOne", 20),
    ("entry made present, seen at once", 140),
    ("fault 0x01", 19),
    ("fault 0x02", 120),
    ("fault 0x03", 140),
    ("fault 0x04", 40),
    ("fault 0x05", 150),
    ("fault 0x06", 150),
    ("fault 0x07", 12),
    ("fault 0x08", 20),
    ("fault 0x09", 15),
    ("fault 0x0a", 13),
    ("fault 0x0b", 40),
    ("fault 0x0c", 60),
    ("fault 0x38", 20),
    ("fault 0x39", 14),
    ("fault 0x3a", 13),
    ("fault 0x40", 16),
    ("fault 0x41", 100),
    ("fault 0x42", 30),
    ("fault 0x50", 40),
    ("fault 0x51", 30),
    ("fault 0x58", 40),
    ("fault 0x59", 70),
    ("fault 0x5b", 80),
    ("fault 0x71", 90),
    ("fault 0x72", 20),
    ("fault 0x73", 17),
    ("fault 0x78", 3),
    ("fault 0x79", 90),
    ("fault 0x7a", 20),
    ("fault 0x7b", 15),
    ("fault 0x80", 12),
    ("fault 0x81", 16),
    ("fault 0x84", 12),
    ("fault 0x85", 9),
    ("flags set in an entry", 50),
    ("illegal descriptor, and recovery", 60),
    ("no data, no fault", 310),
    ("stale allowed", 90),
    ("stale seen on QEMU", 50),
    ("stale seen on the model", 70),
];

#[test]
fn qemu_and_the_model_agree_on_random_cases() {
    let settings = Settings {
        seed: setting("IOMMU_SEED", SEED),
        cases: setting("IOMMU_CASES", CASES),
    };
    let start = Instant::now();
    let counts = run(settings).unwrap_or_else(|divergence| panic!("{divergence}"));
    // Past the test runner, which shows what is printed of failed tests only.
    let shown = writeln!(
        std::io::stderr(),
        "seed {:#x}, {:.1} s: {counts}",
        settings.seed,
        start.elapsed().as_secs_f64()
    );
    shown.expect("standard error");

    assert!(counts.cases >= settings.cases);
    if counts.cases < ENOUGH {
        return;
    }
    assert!(
        counts.cases_with_data * 2 >= counts.cases,
        "too little data"
    );
    for (class, least) in LEAST_PER_THOUSAND {
        let least = least * counts.cases / 1000;
        let seen = counts.of(class);
        assert!(seen >= least, "{class}: {seen}, not {least}");
    }
}
