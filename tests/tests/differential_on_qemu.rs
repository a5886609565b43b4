//! Random cases on this workspace's model of an SMMUv3 and on QEMU's.
//!
//! `IOMMU_CASES` says how many (any number, for as long as it takes), `IOMMU_SEED` which.
#![cfg(feature = "qemu")]

use std::io::Write;
use std::time::Instant;

use tests::differential::{Settings, run};
use tests::settings::setting;

const SEED: u64 = 0x5eed;
const CASES: u64 = 6000;

/// What each thousand cases show at least, whatever the seed; looked at from `ENOUGH` cases on.
const ENOUGH: u64 = 5000;
const LEAST_PER_THOUSAND: [(&str, u64); 51] = [
    ("data read", 1000),
    ("data written", 900),
    ("data through bypass", 200),
    ("data through stage 1", 700),
    ("data through stage 2", 500),
    ("data through nested", 350),
    ("data through a 4 KiB page", 600),
    ("data through a 16 KiB page", 200),
    ("data through a 64 KiB page", 200),
    ("data through a 2 MiB block", 200),
    ("data through a 1 GiB block", 100),
    ("data through a 32 MiB block", 90),
    ("data through a 512 MiB block", 80),
    ("no data, no event: abort", 100),
    ("no data, no event: stage 1", 40),
    ("no data, no event: stage 2", 40),
    ("no data, no event: nested", 40),
    ("event 0x02", 150),
    ("event 0x03", 20),
    ("event 0x04", 300),
    ("event 0x09", 25),
    ("event 0x0a", 180),
    ("event 0x0b of stage 1, TT", 8),
    ("event 0x0b of stage 2, IN", 12),
    ("event 0x10 of stage 1, IN", 300),
    ("event 0x10 of stage 2, CD", 30),
    ("event 0x10 of stage 2, TT", 8),
    ("event 0x10 of stage 2, IN", 400),
    ("event 0x11 of stage 1, IN", 12),
    ("event 0x11 of stage 2, IN", 10),
    ("event 0x12 of stage 1, IN", 35),
    ("event 0x12 of stage 2, IN", 30),
    ("event 0x13 of stage 1, IN", 70),
    ("event 0x13 of stage 2, IN", 60),
    ("illegal command, and recovery", 60),
    ("leaf made valid, seen at once", 15),
    ("invalidation that was none", 100),
    ("stale allowed", 80),
    ("stale seen on QEMU", 60),
    ("stale seen on the model", 60),
    ("command CfgiSte", 40),
    ("command CfgiSteRange", 80),
    ("command CfgiCd", 15),
    ("command CfgiCdAll", 8),
    ("command TlbiNhAll", 25),
    ("command TlbiNhAsid", 12),
    ("command TlbiNhVa", 35),
    ("command TlbiNhVaa", 8),
    ("command TlbiS12VmAll", 35),
    ("command TlbiS2Ipa", 60),
    ("command TlbiNsnhAll", 90),
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
