//! Fault records, overflow, and the fault event.

use super::*;

fn three() -> Rig {
    Rig::up_with(VtdConfig::default().with_fault_records(3, 0x1e00))
}

fn record(rig: &Rig, index: usize) -> [u64; 2] {
    let at = 0x1e00 + 16 * index;
    [rig.bank.read64(at), rig.bank.read64(at + 8)]
}

#[test]
fn a_record_tells_what_was_refused() {
    let rig = Rig::up();
    rig.second_level();
    assert_eq!(rig.write(0x1234, 0x20_3456), Outcome::Faulted);
    assert_eq!(rig.bank.read64(0x220), 0x20_3000);
    assert_eq!(rig.bank.read64(0x228), 0x8000_0001_0000_1234);
    assert_eq!(rig.bank.read32(0x22c), 0x8000_0001);
    assert_eq!(rig.bank.read32(FSTS), 2);
    // Writing 0 leaves it, and so does the lower half.
    rig.bank.write32(0x22c, 0);
    rig.bank.write32(0x228, !0);
    assert_eq!(rig.bank.read32(FSTS), 2);
    rig.bank.write64(0x228, 1 << 63);
    assert_eq!(rig.bank.read32(FSTS), 0);
    assert_eq!(rig.read(8, 0x80_0000_0000), Outcome::Faulted);
    // A read, beyond 39 bits.
    assert_eq!(rig.bank.read64(0x228), 0xc000_0004_0000_0008);
    rig.is_clean();
}

#[test]
fn records_are_a_ring_that_overflows() {
    let rig = three();
    for source in 1..=4 {
        assert_eq!(rig.read(source, u64::from(source) << 12), Outcome::Faulted);
    }
    assert_eq!(rig.bank.read32(FSTS), 3, "PPF, PFO, FRI 0");
    assert_eq!(record(&rig, 2), [0x3000, 0xc000_0002_0000_0003]);
    // Nothing is recorded until the overflow is acknowledged.
    rig.bank.write32(0x1e0c, 1 << 31);
    assert_eq!(rig.read(5, 0x5000), Outcome::Faulted);
    assert_eq!(record(&rig, 0)[0], 0x1000);
    rig.bank.write32(FSTS, 1);
    assert_eq!(rig.read(6, 0x6000), Outcome::Faulted);
    assert_eq!(record(&rig, 0), [0x6000, 0xc000_0002_0000_0006]);
    for index in 0..3 {
        rig.bank.write32(0x1e0c + 16 * index, 1 << 31);
    }
    assert_eq!(rig.bank.read32(FSTS) & 3, 0);
    assert_eq!(rig.read(7, 0x7000), Outcome::Faulted);
    assert_eq!(rig.bank.read32(FSTS), 0x102, "FRI 1");
    rig.is_clean();
}

#[test]
fn faults_of_one_source_collapse() {
    let rig = three();
    rig.read(1, 0x1000);
    rig.read(1, 0x2000);
    assert_eq!(record(&rig, 1), [0, 0]);
    let rig = Rig::up_with(VtdConfig {
        collapse_faults: false,
        ..VtdConfig::default().with_fault_records(3, 0x1e00)
    });
    rig.read(1, 0x1000);
    rig.read(1, 0x2000);
    assert_eq!(record(&rig, 1)[0], 0x2000);
    rig.is_clean();
}

#[test]
fn fpd_keeps_faults_from_being_recorded() {
    let rig = Rig::up();
    rig.tables();
    rig.context(8, [S2 | 3, 0x501]);
    assert_eq!(rig.read(8, 0x20_4000), Outcome::Aborted);
    // Also in an entry that is not present.
    rig.context(9, [2, 0]);
    assert_eq!(rig.read(9, 0x20_4000), Outcome::Aborted);
    assert_eq!(rig.bank.read32(FSTS), 0);
    rig.is_clean();
}

#[test]
fn the_event_is_masked_out_of_reset() {
    let rig = Rig::up();
    assert_eq!(rig.bank.read32(0x38), 1 << 31);
    rig.bank.write32(0x3c, 0x41);
    rig.bank.write32(0x40, 0xfee0_0000);
    rig.read(1, 0);
    assert_eq!(rig.bank.read32(0x38), 3 << 30);
    assert_eq!(rig.model.messages(), []);
    rig.bank.write32(0x38, 0);
    assert_eq!(rig.model.messages(), [(0xfee0_0000, 0x41)]);
    assert_eq!(rig.bank.read32(0x38), 0);
    // Nothing more is told while the first one is pending.
    rig.read(2, 0);
    assert_eq!(rig.bank.read32(FSTS), 3);
    rig.fault();
    rig.bank.write32(0x38, 1 << 31);
    rig.read(1, 0);
    rig.fault();
    assert_eq!(
        rig.bank.read32(0x38),
        1 << 31,
        "served, so it waits no more"
    );
    rig.is_clean();
}
