//! What an allocator promises, looked at from outside.

mod against_model;
mod threads;

use std::vec::Vec;

use super::{Constraints, IovaAllocator, IovaRange, LARGEST_CACHED};

use crate::addr::AddrRange;
use crate::error::{ErrorKind, Result};
use crate::geometry::Geometry;

const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;

fn geometry(start: u64, size: u64) -> Geometry {
    Geometry {
        aperture: AddrRange::new(start, size).unwrap(),
        physical: AddrRange::EVERYTHING,
        page_sizes: PAGE,
    }
}

fn allocator(start: u64, size: u64) -> IovaAllocator {
    IovaAllocator::new(&geometry(start, size), 2).unwrap()
}

const ANYWHERE: Constraints = Constraints::NONE;

/// So many pages, anywhere, on CPU 0.
fn take(iovas: &IovaAllocator, pages: u64) -> Result<IovaRange> {
    iovas.allocate(0, pages * PAGE, &ANYWHERE)
}

/// All that can be had, page by page.
fn exhaust(iovas: &IovaAllocator) -> Vec<IovaRange> {
    let mut ranges = Vec::new();
    loop {
        match take(iovas, 1) {
            Ok(range) => ranges.push(range),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace);
                return ranges;
            }
        }
    }
}

fn free_all(iovas: &IovaAllocator, ranges: impl IntoIterator<Item = IovaRange>) {
    for range in ranges {
        iovas.free(0, range);
    }
}

#[test]
fn the_lowest_addresses_come_first() {
    let iovas = allocator(0x10_0000, GIB);
    let starts = [1, 1, 2, 5, 1].map(|count| take(&iovas, count).unwrap().iova().0);
    // The single pages fill one magazine together.
    assert_eq!(starts[0], 0x10_0000);
    assert_eq!(starts[1], 0x10_1000);
    assert_eq!(starts[4], 0x10_2000);
    assert!(starts.iter().all(|start| *start < 0x20_0000), "{starts:x?}");
}

#[test]
fn sizes_are_powers_of_two_of_pages_and_exact_where_they_are_large() {
    let iovas = allocator(0, 1 << 40);
    for (bytes, size) in [
        (1, 1),
        (PAGE, 1),
        (PAGE + 1, 2),
        (3 * PAGE, 4),
        (LARGEST_CACHED * PAGE, LARGEST_CACHED),
        (LARGEST_CACHED * PAGE + 1, LARGEST_CACHED + 1),
        (5000 * PAGE - 5, 5000),
    ] {
        let range = iovas.allocate(0, bytes, &ANYWHERE).unwrap();
        assert_eq!(range.size(), size * PAGE);
        assert!(range.iova().is_aligned(size.next_power_of_two() * PAGE));
    }
}

#[test]
fn an_alignment_above_the_size_is_kept() {
    let iovas = allocator(0x1000, GIB);
    for count in [1, 3, LARGEST_CACHED + 1] {
        let aligned = ANYWHERE.aligned(16 << 20);
        let range = iovas.allocate(0, count * PAGE, &aligned).unwrap();
        assert!(range.iova().is_aligned(16 << 20), "{range:?}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let iovas = allocator(0, GIB);
    let kind = |size, constraints| {
        let refused = iovas.allocate(0, size, &constraints);
        refused.unwrap_err().kind()
    };
    assert_eq!(kind(0, ANYWHERE), ErrorKind::InvalidArgument);
    for align in [0, 3, u64::MAX] {
        assert_eq!(
            kind(PAGE, ANYWHERE.aligned(align)),
            ErrorKind::InvalidArgument
        );
    }
    for bytes in [GIB + 1, 1 << 63, u64::MAX - 1, u64::MAX] {
        assert_eq!(kind(bytes, ANYWHERE), ErrorKind::NoSpace);
    }
    assert_eq!(
        kind(PAGE, ANYWHERE.aligned(1 << 63).below_bits(64)),
        ErrorKind::NoSpace
    );
    assert_eq!(kind(PAGE, ANYWHERE.below_bits(0)), ErrorKind::NoSpace);
    assert_eq!(kind(PAGE, ANYWHERE.below_bits(11)), ErrorKind::NoSpace);

    let kind = |geometry| {
        let refused = IovaAllocator::<crate::SpinLock>::new(&geometry, 1);
        refused.unwrap_err().kind()
    };
    assert_eq!(kind(geometry(1, PAGE)), ErrorKind::InvalidArgument);
    for page_sizes in [0, 1, 1 << 11, 1 << 40] {
        let geometry = Geometry {
            page_sizes,
            ..geometry(0, GIB)
        };
        assert_eq!(kind(geometry), ErrorKind::InvalidArgument);
    }
}

#[test]
fn an_aperture_is_used_to_its_last_whole_page() {
    let iovas = allocator(0x1fff, 3 * PAGE + 1);
    let mut starts: Vec<_> = exhaust(&iovas).iter().map(|range| range.iova().0).collect();
    starts.sort_unstable();
    assert_eq!(starts, [0x2000, 0x3000, 0x4000]);
}

#[test]
fn all_of_the_64_bit_space_can_be_an_aperture() {
    let everything = Geometry {
        aperture: AddrRange::EVERYTHING,
        ..geometry(0, GIB)
    };
    let iovas: IovaAllocator = IovaAllocator::new(&everything, 1).unwrap();
    let halves = [1, 2].map(|_| iovas.allocate(0, 1 << 63, &ANYWHERE).unwrap());
    assert_eq!(halves[0].iova().0, 0);
    assert_eq!(halves[1].iova().0, 1 << 63);
    assert_eq!(take(&iovas, 1).unwrap_err().kind(), ErrorKind::NoSpace);
    free_all(&iovas, halves);
    assert!(iovas.allocate(0, 1 << 63, &ANYWHERE).is_ok());
}

#[test]
fn pages_may_be_larger() {
    let geometry = Geometry {
        page_sizes: 1 << 16 | 1 << 29,
        ..geometry(0, GIB)
    };
    let iovas: IovaAllocator = IovaAllocator::new(&geometry, 1).unwrap();
    let range = iovas.allocate(0, (1 << 16) + 1, &ANYWHERE).unwrap();
    assert_eq!(range.size(), 2 << 16);
}

#[test]
fn a_mask_is_kept_whatever_the_magazines_hold() {
    let iovas = allocator(0, 4 * GIB);
    let (bits, sizes) = match cfg!(miri) {
        true => (20, [1, 8, 64]),
        false => (25, [1, 64, LARGEST_CACHED]),
    };
    for count in sizes {
        let below = || iovas.allocate(0, count * PAGE, &ANYWHERE.below_bits(bits));
        let mut low = Vec::new();
        while let Ok(range) = below() {
            assert!(range.last() < 1 << bits);
            low.push(range);
        }
        let high: Vec<_> = (0..8).map(|_| take(&iovas, count).unwrap()).collect();
        assert!(high.iter().all(|range| range.last() >= 1 << bits));
        let one = low.pop().unwrap();
        iovas.free(0, one);
        free_all(&iovas, high);
        let one = below().expect("the low one, from under the high ones");
        assert_eq!(below().unwrap_err().kind(), ErrorKind::NoSpace);
        low.push(one);
        free_all(&iovas, low);
    }
}

#[test]
fn what_lies_in_magazines_is_found_before_space_runs_out() {
    let count = if cfg!(miri) { 64 } else { 4096 };
    let iovas = allocator(0, count * PAGE);
    for round in 0..3_usize {
        let ranges = exhaust(&iovas);
        assert_eq!(ranges.len() as u64, count);
        // Freed on both CPUs, in an order that leaves holes until the end.
        let (odd, even): (Vec<_>, Vec<_>) = ranges
            .into_iter()
            .partition(|range| range.iova().0 & PAGE != 0);
        for (cpu, range) in odd.into_iter().chain(even).enumerate() {
            iovas.free(cpu + round, range);
        }
        let whole = take(&iovas, count).expect("everything is free");
        iovas.free(0, whole);
    }
}

#[test]
fn every_cpu_number_will_do() {
    let iovas = allocator(0, 16 * PAGE);
    for cpu in [0, 1, 2, 77, usize::MAX] {
        let range = iovas.allocate(cpu, 16 * PAGE, &ANYWHERE).unwrap();
        iovas.free(cpu.wrapping_mul(3), range);
    }
}

#[test]
fn reserved_windows_grow_to_whole_pages_and_are_never_handed_out() {
    let iovas = allocator(0, 16 * PAGE);
    let reserve = |start, size| iovas.reserve(AddrRange::new(start, size).unwrap());
    reserve(0, 1).unwrap();
    reserve(0x4fff, 2).unwrap(); // pages 4 and 5
    reserve(0x5000, 0x1000).unwrap(); // reserved already
    reserve(0x3800, 0x3000).unwrap(); // 3 to 6: overlaps
    reserve(0x7000, 1).unwrap(); // 7: touches
    reserve(0xf000, GIB).unwrap(); // 15, and what is outside
    reserve(GIB, GIB).unwrap(); // all outside
    let mut free: Vec<_> = exhaust(&iovas)
        .iter()
        .map(|range| range.iova().0 / PAGE)
        .collect();
    free.sort_unstable();
    assert_eq!(free, [1, 2, 8, 9, 10, 11, 12, 13, 14]);
    reserve(0x3000, 0x5000).expect("joined windows are reserved as a whole");
}

#[test]
fn a_window_that_is_in_use_is_not_reserved() {
    let iovas = allocator(0, 16 * PAGE);
    let window = AddrRange::new(0, 8 * PAGE).unwrap();
    let range = take(&iovas, 4).unwrap();
    let error = iovas.reserve(window).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    iovas.free(0, range);
    let all = exhaust(&iovas);
    assert_eq!(all.len(), 16, "nothing of it was reserved");
    free_all(&iovas, all);
    iovas.reserve(window).unwrap();
    assert_eq!(exhaust(&iovas).len(), 8);
}

#[test]
fn a_range_that_is_forgotten_is_never_handed_out_again() {
    let iovas = allocator(0, 16 * PAGE);
    let lost = take(&iovas, 4).unwrap();
    let start = lost.iova().0;
    let _ = std::mem::ManuallyDrop::new(lost);
    drop(take(&iovas, 1).unwrap());
    for _ in 0..2 {
        let rest = exhaust(&iovas);
        assert_eq!(rest.len(), 11);
        assert!(
            rest.iter()
                .all(|range| !(start..start + 4 * PAGE).contains(&range.iova().0))
        );
        free_all(&iovas, rest);
    }
}

#[test]
fn memory_grows_with_what_is_in_use_not_with_the_space() {
    for bits in [30, 39, 48, 57, 63] {
        let iovas = allocator(0, 1 << bits);
        let nodes = || iovas.nodes();
        let empty = nodes();
        assert!(empty <= 9, "{empty} nodes for nothing in {bits} bits");
        let count = if cfg!(miri) { 100 } else { 20_000 };
        let ranges: Vec<_> = (0..count).map(|_| take(&iovas, 4).unwrap()).collect();
        // A node of the lowest height has 4096 pages.
        let in_use = nodes() as u64;
        assert!(
            in_use <= 4 * count / 4096 + 12,
            "{in_use} nodes in {bits} bits"
        );
        free_all(&iovas, ranges);
        iovas.empty_magazines();
        assert_eq!(nodes(), empty);
    }
}
