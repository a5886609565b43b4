//! Threads in one page table, or flushing one domain, in every order that the memory model allows.
//! To run it:
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test --release -p iommu-core --test loom
//! ```
#![cfg(loom)]

use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use iommu_core::pgtable::{Format, PageTable};
use iommu_core::{
    AddrRange, DmaMemory, Domain, ErrorKind, Flush, Geometry, Iova, MapError, PagingOps, PhysAddr,
    Prot,
};
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::Relaxed;

const PAGE: u64 = 1 << 12;
const TARGET: PhysAddr = PhysAddr(0x80_0000);

/// Two levels of tables of two words each: as small as tables can be.
struct Small;

// SAFETY: bit 0 is set in leaves and tables, bit 1 in tables alone.
unsafe impl Format for Small {
    const PAGE_SHIFT: u32 = 12;
    const INDEX_BITS: u32 = 1;
    const INPUT_BITS: (u32, u32) = (14, 14);
    const PAGE_SIZES: u64 = PAGE | 2 * PAGE;
    const ROOT_LEVELS: (u8, u8) = (2, 2);
    const MAX_ROOT_TABLES: usize = 1;
    const ADDRESS: u64 = 0xffff_ffff_f000;
    const TABLE: u64 = 0b11;
    const LEAF: [u64; 4] = [1; 4];
    const ATTRIBUTES: [u64; 16] = [0; 16];

    fn is_table(descriptor: u64) -> bool {
        descriptor & 0b10 != 0
    }
    fn is_valid(descriptor: u64) -> bool {
        descriptor & 0b01 != 0
    }
}

/// The descriptor of a table that never was.
const POISON: u64 = 0x0bad_f000 | Small::TABLE;

/// Memory whose blocks are never used again. Who looks into one after it was freed finds the way to a
/// table that does not exist; who writes is found out at the end.
#[derive(Clone, Debug, Default)]
struct Blocks(Arc<Mutex<Vec<(Box<[AtomicU64; 2]>, bool)>>>);

impl Blocks {
    fn index(addr: PhysAddr) -> usize {
        usize::try_from(addr.0 / PAGE).expect("a small address") - 1
    }

    fn allocated(&self) -> usize {
        self.0
            .lock()
            .unwrap()
            .iter()
            .filter(|(_, used)| *used)
            .count()
    }

    /// Nothing is allocated, and nobody wrote to what was freed.
    fn check(&self) {
        assert_eq!(self.allocated(), 0);
        for (block, _) in self.0.lock().unwrap().iter() {
            assert!(block.iter().all(|word| word.load(Relaxed) == POISON));
        }
    }
}

// SAFETY: every block is one of its own, zeroed, for good; loom's atomics take the place of words.
unsafe impl DmaMemory for Blocks {
    fn allocate(&self, size: usize, _: usize) -> Option<PhysAddr> {
        assert_eq!(size, 16);
        let block = Box::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let mut all = self.0.lock().unwrap();
        all.push((block, true));
        Some(PhysAddr(all.len() as u64 * PAGE))
    }

    unsafe fn free(&self, addr: PhysAddr, _: usize, _: usize) {
        let block: *const [AtomicU64; 2] = {
            let (block, used) = &mut self.0.lock().unwrap()[Self::index(addr)];
            assert!(std::mem::take(used), "freed twice");
            &**block
        };
        // SAFETY: blocks stay where they are until the memory goes.
        unsafe { &*block }
            .iter()
            .for_each(|word| word.store(POISON, Relaxed));
    }

    fn pointer(&self, addr: PhysAddr) -> NonNull<u8> {
        let all = self.0.lock().unwrap();
        let (block, used) = all.get(Self::index(addr)).expect("a table that exists");
        assert!(used, "a table that was not freed");
        NonNull::from(&**block).cast()
    }

    fn is_coherent(&self) -> bool {
        true
    }
    fn clean(&self, _: PhysAddr, _: usize) {}
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
}

type Table = Arc<PageTable<Blocks, Small>>;

/// Runs `first` and `second` on two CPUs, on a table where pages 0 and 1 are mapped or not, and then
/// `after`.
///
/// To loom the last access to a word hides the loads before it. So each of the two is once in the
/// thread that it starts with.
fn both(mapped: bool, first: fn(&Table), second: fn(&Table), after: fn(&Table, &Blocks)) {
    for [spawned, main] in [[first, second], [second, first]] {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(4);
        model.check(move || {
            let memory = Blocks::default();
            let table: Table = Arc::new(new(&memory).with_page_sizes(PAGE));
            if mapped {
                let map = table.enter(0).map(Iova(0), TARGET, 2 * PAGE, Prot::READ);
                map.unwrap();
            }
            let other = table.clone();
            let thread = loom::thread::spawn(move || spawned(&other));
            main(&table);
            thread.join().unwrap();
            after(&table, &memory);
            drop(table);
            memory.check();
        });
    }
}

fn new(memory: &Blocks) -> PageTable<Blocks, Small> {
    PageTable::new(memory, 14, 48).unwrap()
}

fn map(table: &Table, page: u64, pages: u64) -> Result<(), ErrorKind> {
    let to = PhysAddr(TARGET.0 + page * PAGE);
    let result = table
        .enter(1)
        .map(Iova(page * PAGE), to, pages * PAGE, Prot::READ);
    result.map_err(|stopped| stopped.error.kind())
}

fn unmap(table: &Table, cpu: usize, page: u64, pages: u64) -> Result<(), ErrorKind> {
    let result = table.enter(cpu).unmap(Iova(page * PAGE), pages * PAGE);
    let unmapped = result.map_err(|error| error.kind())?;
    // The hardware confirms.
    table.enter(cpu).reclaim(unmapped);
    Ok(())
}

fn goes_to(table: &Table, page: u64) -> bool {
    table.enter(0).translate(Iova(page * PAGE)) == Some(PhysAddr(TARGET.0 + page * PAGE))
}

#[test]
fn of_two_who_create_a_table_one_wins_and_both_map() {
    both(
        false,
        |table| map(table, 0, 1).unwrap(),
        |table| map(table, 1, 1).unwrap(),
        |table, memory| {
            assert!(goes_to(table, 0) && goes_to(table, 1));
            assert_eq!(memory.allocated(), 2, "the root, and one table");
        },
    );
}

#[test]
fn a_table_is_not_freed_while_somebody_looks_into_it() {
    both(
        true,
        |table| unmap(table, 0, 0, 2).unwrap(),
        |table| {
            let found = table.enter(1).translate(Iova(0));
            assert!(found.is_none_or(|phys| phys == TARGET));
        },
        |table, _| assert_eq!(map(table, 0, 2), Ok(())),
    );
}

#[test]
fn a_table_is_not_freed_while_somebody_unmaps_in_it() {
    both(
        true,
        |table| unmap(table, 0, 0, 2).unwrap_or_else(|kind| assert_eq!(kind, ErrorKind::NotFound)),
        |table| unmap(table, 1, 1, 1).unwrap_or_else(|kind| assert_eq!(kind, ErrorKind::NotFound)),
        |_, _| {},
    );
}

#[test]
fn two_who_unmap_the_same_range_free_its_table_once() {
    both(
        true,
        |table| unmap(table, 0, 0, 2).unwrap_or_else(|kind| assert_eq!(kind, ErrorKind::NotFound)),
        |table| unmap(table, 1, 0, 2).unwrap_or_else(|kind| assert_eq!(kind, ErrorKind::NotFound)),
        |table, _| {
            assert!(!goes_to(table, 0));
            assert_eq!(map(table, 0, 1), Ok(()), "both have reclaimed");
        },
    );
}

#[test]
fn of_two_who_unmap_the_same_table_neither_lets_hardware_keep_it() {
    loom::model(|| {
        let memory = Blocks::default();
        let table: Table = Arc::new(new(&memory).with_page_sizes(PAGE));
        map(&table, 0, 2).unwrap();
        let other = table.clone();
        let thread = loom::thread::spawn(move || other.enter(1).unmap(Iova(0), 2 * PAGE));
        let first = table.enter(0).unmap(Iova(0), 2 * PAGE);
        let second = thread.join().unwrap();
        for unmapped in [&first, &second].into_iter().flatten() {
            assert!(unmapped.has_tables(), "{first:?} {second:?}");
        }
    });
}

#[test]
fn what_is_split_while_it_is_unmapped_is_not_mapped_any_more() {
    loom::model(|| {
        let memory = Blocks::default();
        let table: Table = Arc::new(new(&memory).with_live_resizing());
        map(&table, 0, 2).unwrap();
        let other = table.clone();
        let thread = loom::thread::spawn(move || other.enter(1).split(Iova(0)).is_ok());
        let unmapped = table.enter(0).unmap(Iova(0), 2 * PAGE);
        thread.join().unwrap();
        let there = (0..2).any(|page| table.enter(0).translate(Iova(page * PAGE)).is_some());
        assert!(unmapped.is_err() || !there, "unmapped, and still there");
    });
}

#[test]
fn what_is_mapped_where_somebody_unmaps_waits_for_the_reclaim() {
    both(
        true,
        |table| unmap(table, 0, 0, 2).unwrap(),
        |table| match map(table, 0, 2) {
            Ok(()) => assert!(goes_to(table, 0)),
            Err(kind) => assert_eq!(kind, ErrorKind::AlreadyExists),
        },
        |_, _| {},
    );
}

/// Whether a page is mapped, and whether a translation of it is cached.
#[derive(Default)]
struct Hardware {
    mapped: AtomicU64,
    cached: AtomicU64,
}

/// Unmapping is left to a flush, and a device looks again right after that.
struct Lazy(Arc<Hardware>);

impl PagingOps for Lazy {
    fn geometry(&self) -> Geometry {
        Geometry {
            aperture: AddrRange::new(0, PAGE).unwrap(),
            physical: AddrRange::EVERYTHING,
            page_sizes: PAGE,
        }
    }
    fn map(&self, _: Iova, _: PhysAddr, _: u64, _: Prot) -> Result<(), MapError> {
        unreachable!("it is mapped from the start")
    }
    fn unmap(&self, _: Iova, _: u64) -> iommu_core::Result {
        unreachable!("it is unmapped lazily")
    }
    fn translate(&self, _: Iova) -> Option<PhysAddr> {
        None
    }
    fn unmap_lazily(&self, _: Iova, _: u64) -> iommu_core::Result<Flush> {
        self.0.mapped.store(0, Relaxed);
        Ok(Flush::Needed)
    }
    fn flush(&self) -> iommu_core::Result {
        self.0.cached.store(self.0.mapped.load(Relaxed), Relaxed);
        Ok(())
    }
}

#[test]
fn what_is_flushed_is_cached_no_more() {
    loom::model(|| {
        let hardware = Arc::new(Hardware::default());
        hardware.mapped.store(1, Relaxed);
        hardware.cached.store(1, Relaxed);
        let domain = Domain::paging(Lazy(hardware.clone()));
        let other = domain.clone();
        let thread = loom::thread::spawn(move || other.flush().unwrap());
        let unflushed = domain.unmap_lazily(Iova(0), PAGE).unwrap();
        if domain.is_flushed(unflushed) {
            assert_eq!(hardware.cached.load(Relaxed), 0);
        }
        thread.join().unwrap();
    });
}
