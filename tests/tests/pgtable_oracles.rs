//! Page tables after random changes, against a plain map of pages and readers that share no code with
//! the walker: the `x86_64` crate's for the first stage of VT-d, whose tables are the CPU's, the
//! `aarch64-paging` crate's for both of Arm's stages with 4 KiB pages, and one of Arm DDI 0487 D8.3
//! alone, for every granule.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use aarch64_paging::descriptor::{
    El1Attributes, PagingAttributes, PhysicalAddress, Stage2Attributes,
};
use aarch64_paging::paging::{
    self as arm, El1And0, MemoryRegion, RootTable, Translation, TranslationRegime, VaRange,
};
use iommu_core::pgtable::{
    FirstStage, Format, Granule16K, Granule64K, PageTable, Stage1, Stage2, Undisturbed,
};
use iommu_core::{DmaMemory, ErrorKind, Iova, PhysAddr, Prot};
use mock_hw::MockMemory;
use proptest::prelude::*;
use x86_64::VirtAddr;
use x86_64::structures::paging::mapper::TranslateResult;
use x86_64::structures::paging::{OffsetPageTable, PageTableFlags, Translate as _};

const BASE: u64 = 0x4000_0000;
const RW: Prot = Prot::READ.union(Prot::WRITE);

/// A change, in pages of the format.
#[derive(Clone, Debug)]
enum Change {
    Map {
        at: u64,
        to: u64,
        pages: u64,
        prot: Prot,
    },
    Unmap {
        at: u64,
        pages: u64,
    },
    Protect {
        at: u64,
        pages: u64,
        prot: Prot,
    },
    Split {
        at: u64,
    },
    Merge {
        at: u64,
    },
}

/// So many pages are looked at: a few blocks.
fn space(index_bits: u32) -> u64 {
    4 << index_bits
}

fn change(index_bits: u32) -> impl Strategy<Value = Change> {
    let block = 1_u64 << index_bits;
    let at = prop_oneof![
        0..space(index_bits),
        (0..4_u64).prop_map(move |n| n * block)
    ];
    let pages = prop_oneof![1..5_u64, Just(block), Just(2 * block), 1..2 * block];
    let prot = prop_oneof![Just(RW), Just(Prot::READ)];
    let to = prop_oneof![0..1_u64 << 10, (0..8_u64).prop_map(move |n| n * block)];
    (0..6_u8, at, to, pages, prot).prop_map(move |(kind, at, to, pages, prot)| match kind {
        0 | 1 => Change::Map {
            at,
            to,
            pages,
            prot,
        },
        2 => Change::Unmap { at, pages },
        3 => Change::Protect { at, pages, prot },
        4 => Change::Split { at },
        _ => Change::Merge {
            at: at & !(block - 1),
        },
    })
}

/// What is mapped, by page: where it goes, and whether it can be written.
type Pages = BTreeMap<u64, (u64, bool)>;

/// Makes a change, and of `expected` what should come of it.
fn make<F: Format>(table: &PageTable<MockMemory, F>, expected: &mut Pages, change: &Change) {
    let page = |n: u64| n << F::PAGE_SHIFT;
    let block = 1_u64 << F::INDEX_BITS;
    let walker = table.enter(0);
    match *change {
        Change::Map {
            at,
            to,
            pages,
            prot,
        } => {
            let result = walker.map(Iova(page(at)), PhysAddr(page(to)), page(pages), prot);
            let free = (at..at + pages)
                .take_while(|n| !expected.contains_key(n))
                .count() as u64;
            let done = match result {
                Ok(()) => pages,
                Err(stopped) => {
                    assert_eq!(stopped.error.kind(), ErrorKind::AlreadyExists);
                    stopped.mapped >> F::PAGE_SHIFT
                }
            };
            assert_eq!(done, free);
            let write = prot.contains(Prot::WRITE);
            expected.extend((0..done).map(|n| (at + n, (to + n, write))));
        }
        Change::Unmap { at, pages } => {
            let all = (at..at + pages).all(|n| expected.contains_key(&n));
            match walker.unmap(Iova(page(at)), page(pages)) {
                Ok(unmapped) => {
                    assert!(all);
                    walker.reclaim(unmapped);
                    expected.retain(|n, _| !(at..at + pages).contains(n));
                }
                // A part is missing, or the range ends inside a block.
                Err(error) if all => assert_eq!(error.kind(), ErrorKind::InvalidArgument),
                Err(_) => {}
            }
        }
        Change::Protect { at, pages, prot } => {
            if walker.protect(Iova(page(at)), page(pages), prot).is_ok() {
                for n in at..at + pages {
                    let there = expected.get_mut(&n).expect("it is mapped");
                    there.1 = prot.contains(Prot::WRITE);
                }
            }
        }
        Change::Split { at } => match walker.split(Iova(page(at))) {
            Ok(replaced) => walker.reclaim(replaced),
            Err(error) if expected.contains_key(&at) => {
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "a page already");
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
        },
        Change::Merge { at } => {
            // SAFETY: there is nobody else.
            let promise = unsafe { Undisturbed::new() };
            let first = expected.get(&at).copied();
            let fits = first.is_some_and(|(to, write)| {
                to.is_multiple_of(block)
                    && (0..block).all(|n| expected.get(&(at + n)) == Some(&(to + n, write)))
            });
            match walker.merge(Iova(page(at)), page(block), promise) {
                Ok(replaced) => {
                    assert!(fits);
                    walker.reclaim(replaced);
                }
                Err(error) if fits => assert_eq!(error.kind(), ErrorKind::NotFound, "a block"),
                Err(_) => {}
            }
        }
    }
}

/// Makes all changes, and looks at every page after each.
fn check<F: Format>(
    changes: &[Change],
    input_bits: u32,
    read: impl Fn(&MockMemory, &PageTable<MockMemory, F>, u64) -> Option<(u64, bool)>,
) {
    let memory = MockMemory::new(PhysAddr(BASE), 4 << 20);
    let table = PageTable::<_, F>::new(&memory, input_bits, 48).expect("a table");
    let table = table.with_live_resizing();
    let mut expected = Pages::new();
    for change in changes {
        make(&table, &mut expected, change);
        // With the same offset in every page.
        for n in (0..space(F::INDEX_BITS) + 3).step_by(1 + usize::from(F::PAGE_SHIFT > 12) * 36) {
            let iova = n << F::PAGE_SHIFT | 0x123;
            let there = expected
                .get(&n)
                .map(|(to, write)| (to << F::PAGE_SHIFT | 0x123, *write));
            assert_eq!(
                read(&memory, &table, iova),
                there,
                "page {n:#x} after {change:?}"
            );
            let found = table.enter(0).translate(Iova(iova));
            assert_eq!(found.map(|phys| phys.0), there.map(|(to, _)| to));
        }
    }
    drop(table);
    assert_eq!((memory.blocks(), memory.violations().len()), (0, 0));
}

/// As the `x86_64` crate reads the tables of a CPU.
fn as_a_cpu(
    memory: &MockMemory,
    table: &PageTable<MockMemory, FirstStage>,
    iova: u64,
) -> Option<(u64, bool)> {
    let root = memory.pointer(table.root()).cast();
    let offset = VirtAddr::new(root.addr().get() as u64 - table.root().0);
    // SAFETY: the root is a table in the arena, and nobody changes it meanwhile.
    let root = unsafe { &mut *root.as_ptr() };
    // SAFETY: all tables are in the arena, that far from their physical addresses.
    let reader = unsafe { OffsetPageTable::new(root, offset) };
    match reader.translate(VirtAddr::new(iova)) {
        TranslateResult::Mapped {
            frame,
            offset,
            flags,
        } => {
            let to = frame.start_address().as_u64() + offset;
            assert!(flags.contains(PageTableFlags::USER_ACCESSIBLE | PageTableFlags::ACCESSED));
            Some((to, flags.contains(PageTableFlags::WRITABLE)))
        }
        _ => None,
    }
}

/// Shows the `aarch64-paging` crate a page table that is there already.
struct Tables<'a> {
    memory: &'a MockMemory,
    root: PhysAddr,
}

impl Tables<'_> {
    fn at<A: PagingAttributes>(&self, table: PhysAddr) -> NonNull<arm::PageTable<A>> {
        self.memory.pointer(table).cast()
    }
}

impl<A: PagingAttributes> Translation<A> for Tables<'_> {
    /// Asked for once: for the root.
    fn allocate_table(&mut self) -> (NonNull<arm::PageTable<A>>, PhysicalAddress) {
        let phys = usize::try_from(self.root.0).expect("a small address");
        (self.at(self.root), PhysicalAddress(phys))
    }

    /// Tables are not its own.
    unsafe fn deallocate_table(&mut self, _: NonNull<arm::PageTable<A>>) {}

    fn physical_to_virtual(&self, table: PhysicalAddress) -> NonNull<arm::PageTable<A>> {
        self.at(PhysAddr(table.0 as u64))
    }
}

/// As the `aarch64-paging` crate reads tables of regime `R`: `open` is how, and `write` finds out from
/// a leaf whether devices may write.
fn as_the_crate<F: Format, R: TranslationRegime>(
    open: impl Fn(Tables<'_>, usize) -> RootTable<R, Tables<'_>>,
    write: impl Fn(R::Attributes) -> bool,
) -> impl Fn(&MockMemory, &PageTable<MockMemory, F>, u64) -> Option<(u64, bool)> {
    move |memory, table, iova| {
        let root = table.root();
        // It would free the tables, which are somebody else's.
        let reader = ManuallyDrop::new(open(Tables { memory, root }, table.root_level().into()));
        let start = usize::try_from(iova & !0xfff).expect("a small address");
        let mut found = None;
        let walk = reader.walk_range(
            &MemoryRegion::new(start, start + 1),
            &mut |_, leaf, level| {
                if !leaf.is_valid() {
                    return Ok(());
                }
                assert_eq!(leaf.is_table_or_page(), level == 3, "a reserved encoding");
                assert_ne!(level, 0, "no such block");
                let within = (1 << (12 + 9 * (3 - level))) - 1;
                let to = leaf.output_address().0 as u64;
                assert_eq!(to & within, 0);
                found = Some((to | iova & within, write(leaf.flags())));
                Ok(())
            },
        );
        walk.expect("an address of the table");
        found
    }
}

fn stage_1(tables: Tables<'_>, level: usize) -> RootTable<El1And0, Tables<'_>> {
    RootTable::with_va_range(tables, level, El1And0, VaRange::Lower)
}

fn stage_1_write(flags: El1Attributes) -> bool {
    let always = El1Attributes::ACCESSED | El1Attributes::USER | El1Attributes::NON_GLOBAL;
    assert!(flags.contains(always));
    !flags.contains(El1Attributes::READ_ONLY)
}

fn stage_2(tables: Tables<'_>, level: usize) -> RootTable<arm::Stage2, Tables<'_>> {
    RootTable::new(tables, level, arm::Stage2)
}

fn stage_2_write(flags: Stage2Attributes) -> bool {
    let always = Stage2Attributes::ACCESS_FLAG | Stage2Attributes::S2AP_ACCESS_RO;
    assert!(flags.contains(always));
    flags.contains(Stage2Attributes::S2AP_ACCESS_RW)
}

/// As Arm DDI 0487 D8.3 says, for stage `stage`.
fn as_arm<F: Format>(
    stage: u8,
) -> impl Fn(&MockMemory, &PageTable<MockMemory, F>, u64) -> Option<(u64, bool)> {
    move |memory, table, iova| {
        let granule = F::PAGE_SHIFT;
        let mut at = table.root().0;
        for level in table.root_level()..=3 {
            let shift = granule + (granule - 3) * u32::from(3 - level);
            let bits = match level == table.root_level() {
                true => table.input_bits() - shift,
                false => granule - 3,
            };
            let index = iova >> shift & ((1 << bits) - 1);
            let word = memory.read_word(PhysAddr(at + index * 8)).expect("a table");
            let address = word & 0xffff_ffff_ffff & !((1 << granule) - 1);
            let write = match stage {
                1 => word & 1 << 7 == 0,
                _ => word & 1 << 7 != 0,
            };
            match (word & 3, level) {
                (0b11, 0..=2) => at = address,
                (0b11, 3) | (0b01, 1 | 2) => {
                    assert!(level != 1 || granule == 12, "no such block");
                    assert_eq!(address & ((1 << shift) - 1), 0);
                    return Some((address | iova & ((1 << shift) - 1), write));
                }
                (word, _) => {
                    assert_eq!(word & 1, 0, "a reserved encoding");
                    return None;
                }
            }
        }
        None
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_first_stage_is_what_a_cpu_reads(changes in prop::collection::vec(change(9), 1..24)) {
        // Canonical addresses of the lower half.
        check::<FirstStage>(&changes, 48, as_a_cpu);
    }

    #[test]
    fn stage_1_with_4k_is_arms(changes in prop::collection::vec(change(9), 1..24)) {
        check::<Stage1>(&changes, 39, as_arm(1));
    }

    #[test]
    fn stage_2_with_4k_is_arms(changes in prop::collection::vec(change(9), 1..24)) {
        check::<Stage2>(&changes, 42, as_arm(2));
    }

    #[test]
    fn stage_1_is_what_another_crate_reads(changes in prop::collection::vec(change(9), 1..24)) {
        check::<Stage1>(&changes, 48, as_the_crate(stage_1, stage_1_write));
    }

    /// With a root of one table: it knows no others.
    #[test]
    fn stage_2_is_what_another_crate_reads(changes in prop::collection::vec(change(9), 1..24)) {
        check::<Stage2>(&changes, 39, as_the_crate(stage_2, stage_2_write));
    }

    #[test]
    fn stage_1_with_16k_is_arms(changes in prop::collection::vec(change(11), 1..24)) {
        check::<Stage1<Granule16K>>(&changes, 48, as_arm(1));
    }

    #[test]
    fn stage_2_with_16k_is_arms(changes in prop::collection::vec(change(11), 1..24)) {
        check::<Stage2<Granule16K>>(&changes, 40, as_arm(2));
    }

    #[test]
    fn stage_1_with_64k_is_arms(changes in prop::collection::vec(change(13), 1..16)) {
        check::<Stage1<Granule64K>>(&changes, 42, as_arm(1));
    }

    #[test]
    fn stage_2_with_64k_is_arms(changes in prop::collection::vec(change(13), 1..16)) {
        check::<Stage2<Granule64K>>(&changes, 48, as_arm(2));
    }
}

#[test]
fn roots_of_larger_granules_have_the_level_and_the_size_of_the_architecture() {
    fn root<F: Format>(bits: u32) -> (u8, usize) {
        let memory = MockMemory::new(PhysAddr(BASE), 4 << 20);
        let table = PageTable::<_, F>::new(&memory, bits, 48).expect("a table");
        (table.root_level(), memory.allocated() >> F::PAGE_SHIFT)
    }
    // By Arm DDI 0487: 11 bits a level with 16 KiB, 13 with 64 KiB; stage 2 puts up to 16 tables side
    // by side, and has no level 0 with these.
    assert_eq!(root::<Stage1<Granule16K>>(36), (2, 1));
    assert_eq!(root::<Stage1<Granule16K>>(47), (1, 1));
    assert_eq!(root::<Stage1<Granule16K>>(48), (0, 1));
    assert_eq!(root::<Stage2<Granule16K>>(40), (2, 16));
    assert_eq!(root::<Stage2<Granule16K>>(48), (1, 2));
    assert_eq!(root::<Stage1<Granule64K>>(42), (2, 1));
    assert_eq!(root::<Stage1<Granule64K>>(48), (1, 1));
    assert_eq!(root::<Stage2<Granule64K>>(46), (2, 16));
    assert_eq!(root::<Stage2<Granule64K>>(47), (1, 1));
}
