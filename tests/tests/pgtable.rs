//! Page tables in checked memory, read back by a walker of the test's own.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use iommu_core::pgtable::{Format, PageTable, Stage1, Stage2};
use iommu_core::{DmaMemory, ErrorKind, Iova, PhysAddr, Prot};
use mock_hw::MockMemory;

const BASE: u64 = 0x4000_0000;
const RW: Prot = Prot::READ.union(Prot::WRITE);
const K4: u64 = 1 << 12;
const M2: u64 = 1 << 21;
const G1: u64 = 1 << 30;

fn memory() -> MockMemory {
    MockMemory::new(PhysAddr(BASE), 16 << 20)
}

/// Where hardware finds `iova`, and the size of the page, by Arm DDI 0487 D8.3 alone: 4 KiB granule,
/// bit 0 valid, bit 1 table or page, bits 47:12 the address.
fn walk(memory: &MockMemory, root: u64, level: u32, bits: u32, iova: u64) -> Option<(u64, u64)> {
    let mut table = root;
    for level in level..=3 {
        let shift = 12 + 9 * (3 - level);
        let mut index = iova >> shift;
        if table != root {
            index &= 511;
        } else {
            assert!(index < 1 << (bits - shift), "within the root");
        }
        let entry = memory
            .read_word(PhysAddr(table + index * 8))
            .expect("a table that exists");
        let address = entry & 0xffff_ffff_f000;
        match (entry & 3, level) {
            (0b11, 0..=2) => table = address,
            (0b11, 3) | (0b01, 1 | 2) => {
                assert_ne!(entry & 1 << 10, 0, "the access flag is set");
                let size = 1 << shift;
                assert_eq!(address & (size - 1), 0, "a block is aligned to its size");
                return Some((address | iova & (size - 1), size));
            }
            (entry, _) => {
                assert_eq!(entry & 1, 0, "no reserved encoding");
                return None;
            }
        }
    }
    None
}

fn seen<F: Format>(
    memory: &MockMemory,
    table: &PageTable<MockMemory, F>,
    iova: u64,
) -> Option<(u64, u64)> {
    walk(
        memory,
        table.root().0,
        table.root_level().into(),
        table.input_bits(),
        iova,
    )
}

/// As a driver does, for hardware that confirms at once.
fn unmap<F: Format>(table: &PageTable<MockMemory, F>, iova: u64, len: u64) {
    let walker = table.enter(0);
    walker.reclaim(walker.unmap(Iova(iova), len).expect("it is mapped"));
}

#[test]
fn the_largest_pages_that_fit_are_used() {
    let memory = memory();
    let table = PageTable::<_, Stage1>::new(&memory, 48, 48).unwrap();
    // 4 KiB up to the 2 MiB boundary, 2 MiB up to the 1 GiB boundary, 1 GiB, and down again.
    let (iova, len) = (G1 - M2 - K4, K4 + M2 + G1 + M2 + K4);
    table
        .enter(0)
        .map(Iova(iova), PhysAddr(3 * G1 - M2 - K4), len, RW)
        .unwrap();
    let sizes = [
        (iova, K4),
        (G1 - M2, M2),
        (G1, G1),
        (2 * G1 - 1, G1),
        (2 * G1, M2),
        (2 * G1 + M2, K4),
    ];
    for (at, size) in sizes {
        assert_eq!(
            seen(&memory, &table, at),
            Some((at + 2 * G1, size)),
            "{at:#x}"
        );
        assert_eq!(
            table.enter(0).translate(Iova(at)),
            Some(PhysAddr(at + 2 * G1))
        );
    }
    for beside in [iova - 1, iova + len] {
        assert_eq!(seen(&memory, &table, beside), None);
        assert_eq!(table.enter(0).translate(Iova(beside)), None);
    }
}

#[test]
fn a_target_that_is_less_aligned_gets_smaller_pages() {
    let memory = memory();
    let table = PageTable::<_, Stage2>::new(&memory, 40, 48).unwrap();
    table
        .enter(0)
        .map(Iova(M2), PhysAddr(M2 + K4), M2, RW)
        .unwrap();
    assert_eq!(seen(&memory, &table, M2 + 5), Some((M2 + K4 + 5, K4)));
    table
        .enter(0)
        .map(Iova(4 * M2), PhysAddr(7 * M2), M2, RW)
        .unwrap();
    assert_eq!(seen(&memory, &table, 5 * M2 - 1), Some((8 * M2 - 1, M2)));
}

#[test]
fn no_page_is_larger_than_the_hardware_knows() {
    for (sizes, largest) in [(K4, K4), (K4 | M2, M2), (M2 | G1, G1), (0, K4)] {
        let memory = memory();
        let table = PageTable::<_, Stage1>::new(&memory, 48, 48)
            .unwrap()
            .with_page_sizes(sizes);
        let walker = table.enter(0);
        walker.map(Iova(G1), PhysAddr(0), largest, RW).unwrap();
        assert_eq!(seen(&memory, &table, G1), Some((0, largest)));
        walker.map(Iova(2 * G1), PhysAddr(0), 2 * M2, RW).unwrap();
        let size = if sizes & M2 == 0 { K4 } else { M2 };
        assert_eq!(seen(&memory, &table, 2 * G1), Some((0, size)));
    }
}

#[test]
fn roots_have_the_level_and_the_size_of_the_architecture() {
    // (bits, level, bytes of the root): from Arm DDI 0487, tables D8-12 and D8-17.
    let stage1 = [(32, 1, 4096), (39, 1, 4096), (40, 0, 4096), (48, 0, 4096)];
    let stage2 = [
        (32, 1, 4096),
        (39, 1, 4096),
        (40, 1, 8192),
        (42, 1, 32768),
        (43, 1, 65536),
        (44, 0, 4096),
        (48, 0, 4096),
    ];
    fn check<F: Format>(cases: &[(u32, u8, usize)]) {
        for &(bits, level, bytes) in cases {
            let memory = memory();
            let table = PageTable::<_, F>::new(&memory, bits, 48).unwrap();
            assert_eq!(
                (table.root_level(), memory.allocated()),
                (level, bytes),
                "{bits} bits"
            );
            assert_eq!(table.root().0 % bytes as u64, 0, "aligned to its size");
            let last = (1 << bits) - K4;
            table
                .enter(0)
                .map(Iova(last), PhysAddr(BASE), K4, RW)
                .unwrap();
            assert_eq!(seen(&memory, &table, last + 7), Some((BASE + 7, K4)));
            assert_eq!(seen(&memory, &table, 0), None);
        }
        for bits in [0, 31, 49, 64, u32::MAX] {
            let refused = PageTable::<_, F>::new(&memory(), bits, 48).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
        }
    }
    check::<Stage1>(&stage1);
    check::<Stage2>(&stage2);
}

#[test]
fn what_is_mapped_is_not_mapped_again() {
    let memory = memory();
    let table = PageTable::<_, Stage1>::new(&memory, 39, 48).unwrap();
    table
        .enter(0)
        .map(Iova(4 * M2), PhysAddr(0), M2, RW)
        .unwrap();
    // It runs into the block after two pages.
    let stopped = table
        .enter(0)
        .map(Iova(4 * M2 - 2 * K4), PhysAddr(G1), 4 * K4, RW)
        .unwrap_err();
    assert_eq!(
        (stopped.mapped, stopped.error.kind()),
        (2 * K4, ErrorKind::AlreadyExists)
    );
    assert_eq!(table.enter(0).translate(Iova(4 * M2)), Some(PhysAddr(0)));
    // A table in the way of a block is gone down into, and its pages are respected.
    table
        .enter(0)
        .map(Iova(8 * M2 + K4), PhysAddr(0), K4, RW)
        .unwrap();
    let stopped = table
        .enter(0)
        .map(Iova(8 * M2), PhysAddr(0), M2, RW)
        .unwrap_err();
    assert_eq!(
        (stopped.mapped, stopped.error.kind()),
        (K4, ErrorKind::AlreadyExists)
    );
}

#[test]
fn an_unmap_that_is_refused_changes_nothing() {
    let memory = memory();
    let table = PageTable::<_, Stage1>::new(&memory, 39, 48).unwrap();
    table.enter(0).map(Iova(0), PhysAddr(G1), K4, RW).unwrap();
    table
        .enter(0)
        .map(Iova(2 * K4), PhysAddr(G1), K4, RW)
        .unwrap();
    table.enter(0).map(Iova(M2), PhysAddr(M2), M2, RW).unwrap();
    let cases = [
        (0, 3 * K4, ErrorKind::NotFound),
        (K4, K4, ErrorKind::NotFound),
        (2 * K4, M2, ErrorKind::NotFound),
        (M2, K4, ErrorKind::InvalidArgument),
        (M2 + K4, M2 - K4, ErrorKind::InvalidArgument),
        (M2, M2 + K4, ErrorKind::NotFound),
    ];
    for (iova, len, kind) in cases {
        let refused = table.enter(0).unmap(Iova(iova), len).unwrap_err();
        assert_eq!(refused.kind(), kind, "{iova:#x} + {len:#x}");
        for (at, phys) in [(0, G1), (2 * K4, G1), (M2, M2)] {
            assert_eq!(seen(&memory, &table, at).map(|(phys, _)| phys), Some(phys));
        }
    }
}

#[test]
fn tables_stay_until_whoever_unmapped_says_that_hardware_has_forgotten_them() {
    let memory = memory();
    let table = PageTable::<_, Stage1>::new(&memory, 48, 48).unwrap();
    let empty = memory.allocated();
    // 1 GiB of pages: one table of level 2 and 512 of level 3 below one entry of level 1.
    table.enter(0).map(Iova(G1), PhysAddr(K4), G1, RW).unwrap();
    let full = memory.allocated();
    assert_eq!(
        full - empty,
        (1 + 1 + 512) * 4096,
        "and one of level 1 in between"
    );
    let unmapped = table.enter(0).unmap(Iova(G1), G1).unwrap();
    assert!(unmapped.has_tables());
    assert_eq!(memory.allocated(), full);
    let refused = table.enter(0).map(Iova(G1), PhysAddr(0), K4, RW);
    assert_eq!(refused.unwrap_err().error.kind(), ErrorKind::AlreadyExists);
    table.enter(0).reclaim(unmapped);
    assert_eq!(
        memory.allocated() - empty,
        4096,
        "the level-1 table serves others too"
    );
    table.enter(0).map(Iova(G1), PhysAddr(K4), G1, RW).unwrap();
    // The hardware did not confirm: nothing is given back, until all of the table is.
    drop(table.enter(0).unmap(Iova(G1), G1).unwrap());
    assert_eq!(memory.allocated(), full);
    let gone = table.enter(0).unmap(Iova(G1), G1).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    drop(table);
    assert_eq!((memory.allocated(), memory.violations().len()), (0, 0));
}

#[test]
fn a_page_table_gives_all_its_memory_back() {
    let memory = memory();
    let table = PageTable::<_, Stage2>::new(&memory, 44, 48).unwrap();
    for at in [0, M2 + K4, 5 * G1, (1 << 44) - K4] {
        table.enter(0).map(Iova(at), PhysAddr(0), K4, RW).unwrap();
    }
    assert!(memory.blocks() > 5);
    drop(table);
    assert_eq!((memory.blocks(), memory.violations().len()), (0, 0));
}

#[test]
fn memory_may_run_out_at_any_table() {
    for n in 0.. {
        let memory = memory();
        memory.fail_allocation(Some(n));
        let Ok(table) = PageTable::<_, Stage1>::new(&memory, 48, 48) else {
            assert_eq!((n, memory.blocks()), (0, 0));
            continue;
        };
        let (iova, len) = (G1 - 2 * K4, 4 * K4);
        match table.enter(0).map(Iova(iova), PhysAddr(BASE), len, RW) {
            Err(stopped) => {
                assert_eq!(stopped.error.kind(), ErrorKind::OutOfMemory);
                for page in 0..4 {
                    let there = page * K4 < stopped.mapped;
                    assert_eq!(seen(&memory, &table, iova + page * K4).is_some(), there);
                }
            }
            Ok(()) => {
                assert_eq!(n, 6, "a root, and five tables: each of them failed once");
                return;
            }
        }
        drop(table);
        assert_eq!((memory.blocks(), memory.violations().len()), (0, 0));
    }
}

#[test]
fn at_every_store_a_reader_sees_the_old_or_the_new_and_nothing_else() {
    let memory = memory();
    let table = PageTable::<_, Stage1>::new(&memory, 48, 48).unwrap();
    let (root, level) = (table.root().0, table.root_level().into());
    let stores = Arc::new(AtomicUsize::new(0));
    let (count, at_store) = (stores.clone(), memory.clone());
    memory.set_store_hook(Some(Arc::new(move |_, _| {
        count.fetch_add(1, Relaxed);
        for iova in (0..1200).map(|page| page * K4) {
            if let Some((phys, _)) = walk(&at_store, root, level, 48, iova) {
                assert_eq!(
                    phys,
                    G1 + iova,
                    "nothing but what was asked for is reachable"
                );
            }
        }
    })));
    table
        .enter(0)
        .map(Iova(3 * K4), PhysAddr(G1 + 3 * K4), 2 * M2, RW)
        .unwrap();
    let count = stores.load(Relaxed);
    let seen = "512 pages, and the links of 2 tables that are built with what is above them";
    assert_eq!(count, 512 + 2, "{seen}");
    unmap(&table, 3 * K4, 2 * M2);
    memory.set_store_hook(None);
}

#[test]
fn tables_in_memory_that_is_not_coherent_are_cleaned_before_they_are_linked() {
    let memory = memory();
    memory.set_coherent(false);
    let table = PageTable::<_, Stage1>::new(&memory, 39, 48).unwrap();
    table.enter(0).map(Iova(0), PhysAddr(G1), K4, RW).unwrap();
    let mut at = table.root();
    for index in [0, 0, 0] {
        let word = PhysAddr(at.0 + index * 8);
        assert!(memory.cleaned(word, 8), "the descriptor at {word}");
        at = PhysAddr(memory.read_word(word).unwrap() & 0xffff_ffff_f000);
        if at.0 != G1 {
            assert!(memory.cleaned(at, 4096), "the whole new table");
        }
    }
    assert!(!memory.is_coherent());
}

#[test]
fn ten_thousand_random_changes_agree_with_a_plain_map() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let memory = memory();
    let table = PageTable::<_, Stage2>::new(&memory, 40, 48).unwrap();
    // By page: where it goes, and the first page of the mapping that made it.
    let mut expected = BTreeMap::<u64, u64>::new();
    let mut kept = Vec::<(u64, u64)>::new();
    for _ in 0..10_000 {
        if random(2) == 0 || kept.is_empty() {
            let pages = [1, 1, 2, 7, 512, 600, 1024][random(7) as usize];
            let at = random(4096) & if pages >= 512 { !511 } else { !0 };
            let to = random(1 << 20) & if pages >= 512 { !511 } else { !0 };
            let free = expected.range(at..at + pages).next().is_none();
            let result = table
                .enter(0)
                .map(Iova(at * K4), PhysAddr(to * K4), pages * K4, RW);
            match result {
                Ok(()) => {
                    assert!(free);
                    expected.extend((0..pages).map(|page| (at + page, to + page)));
                    kept.push((at, pages));
                }
                Err(stopped) => {
                    assert!(!free);
                    if stopped.mapped > 0 {
                        unmap(&table, at * K4, stopped.mapped);
                    }
                }
            }
        } else {
            let (at, pages) = kept.swap_remove(random(kept.len() as u64) as usize);
            unmap(&table, at * K4, pages * K4);
            for page in at..at + pages {
                expected.remove(&page);
            }
        }
        let page = random(5200);
        let found = seen(&memory, &table, page * K4).map(|(phys, _)| phys / K4);
        assert_eq!(found, expected.get(&page).copied());
    }
    for (at, pages) in kept {
        unmap(&table, at * K4, pages * K4);
    }
    drop(table);
    assert_eq!((memory.blocks(), memory.violations().len()), (0, 0));
}
