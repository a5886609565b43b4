use iommu_core::PhysAddr;

use super::*;
use crate::MockMemory;
use crate::bank::RegisterFile;
use crate::smmuv3::{ModelBank, ModelConfig, SmmuModel};

fn smmu() -> FaultInjector<ModelBank> {
    let memory = MockMemory::new(PhysAddr(0x4000_0000), 0x1_0000);
    memory.reserve(PhysAddr(0x4000_0000), 0x1_0000);
    let model = SmmuModel::new(memory, ModelConfig::default());
    FaultInjector::new(model.bank(), SMMUV3_POLLED)
}

/// Whether a register reads so after a few looks.
fn comes(bank: &impl RegisterBank, offset: usize, value: u32) -> bool {
    (0..4).any(|_| bank.read32(offset) == value)
}

/// Four waits: GBPA, the queue's enable, a CMD_SYNC, interrupts. Which of them were answered.
fn start(bank: &impl RegisterBank) -> [bool; 4] {
    bank.write32(0x44, 0x8010_0000);
    let aborts = comes(bank, 0x44, 0x0010_0000);
    bank.write64(0x90, 0x4000_0004);
    bank.write32(0x98, 0);
    bank.write32(0x9c, 0);
    bank.write32(0x20, 8);
    let enabled = comes(bank, 0x24, 8);
    // The memory is all zero: not a legal command, so the first ends in an error; but it ends.
    bank.write32(0x98, 1);
    let looked = comes(bank, 0x9c, 0x0100_0000);
    bank.write32(0x50, 1);
    [aborts, enabled, looked, comes(bank, 0x54, 1)]
}

#[test]
fn every_wait_can_be_the_one_without_an_answer() {
    let bank = smmu();
    assert_eq!(start(&bank), [true; 4]);
    assert_eq!(bank.waits(), 4);
    for n in 0..4 {
        let bank = smmu();
        bank.inject(Fault::StuckWait(n));
        let answers = start(&bank);
        let expected = [0, 1, 2, 3].map(|wait| wait != n);
        assert_eq!(answers, expected, "wait {n}");
        assert_eq!(bank.waits(), 4);
    }
}

#[test]
fn dead_hardware_takes_nothing_more() {
    for n in 0..4 {
        let bank = smmu();
        bank.inject(Fault::DeadFromWait(n));
        assert_eq!(start(&bank), [0, 1, 2, 3].map(|wait| wait < n), "wait {n}");
    }
    let bank = smmu();
    bank.inject(Fault::DeadFromWait(1));
    start(&bank);
    // What it was told until then, it did.
    assert_eq!(
        (bank.inner().read32(0x20), bank.inner().read32(0x98)),
        (8, 0)
    );
    bank.heal();
    assert!(comes(&bank, 0x24, 8));
}

#[test]
fn a_self_acknowledging_register_stays_as_written() {
    let bank = smmu();
    bank.inject(Fault::StuckWait(0));
    bank.write32(0x44, 0x8010_0000);
    for _ in 0..9 {
        assert_eq!(bank.read32(0x44), 0x8010_0000);
    }
    assert_eq!(bank.inner().read32(0x44), 0x8010_0000);
    assert_eq!(
        bank.inner().read32(0x44),
        0x0010_0000,
        "it was done in fact"
    );
}

#[test]
fn reads_that_follow_belong_to_the_same_wait() {
    let bank = FaultInjector::new(RegisterFile::new(16), [4]);
    for _ in 0..3 {
        bank.read32(4);
    }
    assert_eq!(bank.waits(), 0, "nothing was asked for");
    for wait in 1..4 {
        bank.write32(0, 1);
        bank.write32(8, 1);
        for _ in 0..3 {
            bank.read32(4);
            bank.read32(8);
        }
        assert_eq!(bank.waits(), wait);
    }
    assert_eq!((bank.reads(4), bank.writes()), (12, 6));
    bank.restart();
    assert_eq!((bank.waits(), bank.reads(4), bank.writes()), (0, 0, 0));
}

#[test]
fn scripted_faults_come_when_they_are_due() {
    let bank = FaultInjector::new(RegisterFile::new(16), []);
    bank.inject(Fault::GarbageRead {
        offset: 8,
        nth: 1,
        value: 0x1_dead_beef,
    });
    bank.inject(Fault::DroppedWrite(1));
    bank.inject(Fault::FrozenRead { offset: 0, nth: 1 });
    bank.write64(8, 0x11);
    bank.write64(8, 0x22);
    assert_eq!(
        [bank.read64(8), bank.read64(8), bank.read64(8)],
        [0x11, 0x1_dead_beef, 0x11]
    );
    for (value, seen) in [(1, 1), (2, 2), (3, 2), (4, 2)] {
        bank.write32(0, value);
        assert_eq!(bank.read32(0), seen);
    }
    bank.heal();
    assert_eq!(bank.read32(0), 4);
    bank.restart();
    bank.inject(Fault::Gone(2));
    bank.write32(0, 5);
    assert_eq!([bank.read32(0), bank.read32(0)], [5, !0]);
    bank.write32(0, 6);
    assert_eq!((bank.read64(8), bank.inner().read32(0)), (u64::MAX, 5));
}

#[test]
fn noise_is_as_its_seed() {
    let run = |seed| {
        let bank = FaultInjector::new(RegisterFile::new(16), []);
        bank.inject(Fault::Noise { one_in: 4, seed });
        (0..40)
            .map(|value| {
                bank.write32(4, value);
                bank.read32(4)
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let right = (0..).zip(run(1)).filter(|(value, read)| value == read);
    assert!((10..39).contains(&right.count()));
}

#[test]
fn words_of_memory_can_fail() {
    let memory = MockMemory::new(PhysAddr(0x4000_0000), 0x1_0000);
    memory.reserve(PhysAddr(0x4000_0000), 0x1000);
    memory.write_word(PhysAddr(0x4000_0008), 0xf0).unwrap();
    memory.corrupt_word(PhysAddr(0x4000_0008), 0x11);
    assert_eq!(memory.read_word(PhysAddr(0x4000_0008)), Ok(0xe1));
    memory.corrupt_word(PhysAddr(0x4000_2000), 1);
    assert_eq!(memory.violations(), [""; 0]);
}
