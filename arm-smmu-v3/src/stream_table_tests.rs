//! What the hardware finds, against literals from Linux's masks (`STRTAB_BASE_*`, `STRTAB_L1_*`).

use super::*;
use iommu_core::{PhysAddr, SpinLock};
use mock_hw::MockMemory;

const ABORT: Ste = crate::entries::abort();

type Table = StreamTable<MockMemory, SpinLock>;

fn memory() -> MockMemory {
    MockMemory::new(PhysAddr(0x8000_0000), 0x40_0000)
}

fn store(table: &Table, stream: StreamId, ste: Ste) {
    let (entry, _) = table.reach(stream).unwrap();
    for (word, value) in ste.to_words().into_iter().enumerate() {
        entry.store(Store::Word { word, value });
    }
}

#[test]
fn a_linear_table_is_described_and_aborts() {
    let memory = memory();
    let table = Table::new(&memory, ABORT, 6, false, 44).unwrap();
    // LOG2SIZE 6, FMT linear; RA and the address.
    let root = table.base().into_bits() - 0x4000_0000_0000_0000;
    assert_eq!(table.base_cfg().into_bits(), 0x0000_0006);
    assert_eq!(root & 0xfff, 0, "aligned to its size of 4 KiB");
    for stream in 0..64 {
        let entry = PhysAddr(root + stream * 64);
        assert_eq!(memory.read_word(entry), Ok(0x1), "V and Config 0");
    }
    let bypass = Ste::from_words([0x9, 0x1000_0000_0000, 0, 0, 0, 0, 0, 0]);
    store(&table, StreamId(5), bypass);
    assert_eq!(memory.read_word(PhysAddr(root + 0x140)), Ok(0x9));
    assert_eq!(
        memory.read_word(PhysAddr(root + 0x148)),
        Ok(0x1000_0000_0000)
    );
}

#[test]
fn two_levels_are_described_and_abort() {
    let memory = memory();
    let table = Table::new(&memory, ABORT, 16, true, 44).unwrap();
    // LOG2SIZE 16, SPLIT 8, FMT 2.
    assert_eq!(table.base_cfg().into_bits(), 0x0001_0210);
    let root = table.base().into_bits() - 0x4000_0000_0000_0000;
    assert_eq!(root & 0x7ff, 0, "aligned to its size of 2 KiB");
    let descriptor = |index: u64| memory.read_word(PhysAddr(root + index * 8)).unwrap();
    let shared = descriptor(0);
    assert_eq!(
        shared & 0x3fff,
        9,
        "Span 9: 256 entries of 64 bytes, aligned"
    );
    assert!((1..256).all(|index| descriptor(index) == shared));

    assert!(table.reach(StreamId(0x1205)).unwrap().1);
    let own = descriptor(0x12);
    assert!(own != shared && own & 0x3fff == 9);
    assert!((0..256).all(|index| index == 0x12 || descriptor(index) == shared));
    for stream in 0..256 {
        for level2 in [shared, own] {
            let entry = PhysAddr((level2 & !0x3f) + stream * 64);
            assert_eq!(memory.read_word(entry), Ok(0x1), "V and Config 0");
        }
    }
    let bypass = Ste::from_words([0x9, 0, 0, 0, 0, 0, 0, 0]);
    store(&table, StreamId(0x1205), bypass);
    let entry = PhysAddr((own & !0x3f) + 0x140);
    assert_eq!(memory.read_word(entry), Ok(0x9));
    assert_eq!(table.read(StreamId(0x1205)), Some(bypass));
}

#[test]
fn a_table_is_reached_until_the_hardware_has_confirmed_it() {
    let memory = memory();
    let table = Table::new(&memory, ABORT, 10, true, 44).unwrap();
    assert!(table.reach(StreamId(0x101)).unwrap().1);
    let blocks = memory.blocks();
    assert!(table.reach(StreamId(0x102)).unwrap().1, "not confirmed yet");
    table.in_force(StreamId(0x101));
    assert!(!table.reach(StreamId(0x102)).unwrap().1);
    assert_eq!(memory.blocks(), blocks, "one table for both");
}

#[test]
fn what_is_not_there_is_an_error_and_leaves_nothing_behind() {
    for two_level in [false, true] {
        let memory = memory();
        for failing in 0..if two_level { 2 } else { 1 } {
            memory.fail_allocation(Some(failing));
            let error = Table::new(&memory, ABORT, 10, two_level, 44)
                .map(drop)
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfMemory);
            assert_eq!(memory.blocks(), 0);
        }
        memory.fail_allocation(None);
        let table = Table::new(&memory, ABORT, 10, two_level, 44).unwrap();
        for beyond in [0x400, u32::MAX] {
            let error = table.reach(StreamId(beyond)).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfRange);
            assert_eq!(error.culprit(), &Culprit::Stream(StreamId(beyond)));
            assert_eq!(table.read(StreamId(beyond)), None);
        }
        if two_level {
            let blocks = memory.blocks();
            memory.fail_allocation(Some(0));
            let error = table.reach(StreamId(1)).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfMemory);
            assert_eq!(memory.blocks(), blocks);
            assert_eq!(table.read(StreamId(1)), Some(ABORT));
        }
        drop(table);
        assert_eq!((memory.blocks(), memory.violations().len()), (0, 0));
    }
}
