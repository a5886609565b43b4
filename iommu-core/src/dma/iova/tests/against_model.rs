//! Random calls, set against a list of pages.

use std::vec;
use std::vec::Vec;

use proptest::collection;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{ANYWHERE, PAGE, allocator};
use crate::addr::AddrRange;
use crate::dma::iova::{Constraints, IovaAllocator, IovaRange, LARGEST_CACHED};
use crate::error::ErrorKind;

/// What is known of each page of the aperture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    Free,
    Taken,
    Reserved,
}

/// The aperture, as naively as can be.
struct Model {
    first: u64,
    pages: Vec<Page>,
}

impl Model {
    fn free(&self) -> usize {
        self.pages
            .iter()
            .filter(|page| **page == Page::Free)
            .count()
    }

    /// The part of `range` that lies in the aperture.
    fn part(&mut self, range: AddrRange) -> &mut [Page] {
        let end = self.first + self.pages.len() as u64;
        let from = (range.start() / PAGE).clamp(self.first, end) - self.first;
        let to = (range.last() / PAGE + 1).clamp(self.first, end) - self.first;
        &mut self.pages[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()]
    }

    /// Whether there is a free block of `size` pages, aligned to that, up to address `last`.
    fn has_block(&self, size: u64, last: u64) -> bool {
        let end = self.first + self.pages.len() as u64;
        (self.first.next_multiple_of(size)..end)
            .step_by(usize::try_from(size).unwrap())
            .take_while(|first| first + size <= end && (first + size) * PAGE - 1 <= last)
            .any(|first| {
                let at = usize::try_from(first - self.first).unwrap();
                let block = &self.pages[at..][..usize::try_from(size).unwrap()];
                block.iter().all(|page| *page == Page::Free)
            })
    }
}

#[derive(Clone, Debug)]
enum Call {
    Allocate {
        cpu: usize,
        size: u64,
        align: u64,
        bits: u32,
    },
    Free {
        cpu: usize,
        which: prop::sample::Index,
    },
    Leak {
        which: prop::sample::Index,
    },
    Reserve {
        start: prop::sample::Index,
        size: u64,
    },
}

const CPUS: usize = 3;

fn calls(most: u64) -> impl Strategy<Value = Vec<Call>> {
    let any = || any::<prop::sample::Index>();
    let size = prop_oneof![
        6 => 1..=4 * PAGE,
        3 => 1..=64 * PAGE,
        1 => 1..=most * PAGE,
    ];
    let align = prop_oneof![4 => Just(1), 1 => (0..24).prop_map(|bit| 1_u64 << bit)];
    let bits = prop_oneof![3 => Just(64_u32), 1 => 20..32_u32];
    let allocate =
        (0..CPUS, size, align, bits).prop_map(|(cpu, size, align, bits)| Call::Allocate {
            cpu,
            size,
            align,
            bits,
        });
    let call = prop_oneof![
        20 => allocate,
        17 => (0..CPUS, any()).prop_map(|(cpu, which)| Call::Free { cpu, which }),
        1 => any().prop_map(|which| Call::Leak { which }),
        1 => (any(), 1..8 * PAGE).prop_map(|(start, size)| Call::Reserve { start, size }),
    ];
    collection::vec(call, 0..if cfg!(miri) { 40 } else { 400 })
}

fn allocate(
    iovas: &IovaAllocator,
    model: &mut Model,
    cpu: usize,
    size: u64,
    constraints: Constraints,
) -> Option<IovaRange> {
    let pages = size.div_ceil(PAGE);
    let block = pages.next_power_of_two().max(constraints.align / PAGE);
    let possible = model.has_block(block, constraints.last);
    match iovas.allocate(cpu, size, &constraints) {
        Ok(range) => {
            assert!(possible);
            let expected = match pages.next_power_of_two() {
                cached @ ..=LARGEST_CACHED => cached,
                _ => pages,
            };
            assert_eq!(range.size(), expected * PAGE);
            assert!(range.iova().is_aligned(block * PAGE));
            assert!(range.last() <= constraints.last);
            let part = model.part(AddrRange::new(range.iova().0, range.size()).unwrap());
            assert_eq!(part.len() as u64, expected, "outside the aperture");
            assert!(part.iter().all(|page| *page == Page::Free), "not free");
            part.fill(Page::Taken);
            Some(range)
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            assert!(
                !possible,
                "{size:#x} with {constraints:?} could have been had"
            );
            None
        }
    }
}

fn reserve(iovas: &IovaAllocator, model: &mut Model, window: AddrRange) {
    let part = model.part(window);
    let result = iovas.reserve(window);
    if part.contains(&Page::Taken) {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::AlreadyExists);
    } else {
        result.unwrap();
        part.fill(Page::Reserved);
    }
}

fn check(first: u64, count: usize, calls: Vec<Call>) {
    let iovas = allocator(first * PAGE, count as u64 * PAGE);
    let mut model = Model {
        first,
        pages: vec![Page::Free; count],
    };
    let mut live: Vec<IovaRange> = Vec::new();
    for call in calls {
        match call {
            Call::Allocate {
                cpu,
                size,
                align,
                bits,
            } => {
                let constraints = ANYWHERE.aligned(align).below_bits(bits);
                live.extend(allocate(&iovas, &mut model, cpu, size, constraints));
            }
            Call::Free { cpu, which } if !live.is_empty() => {
                let range = live.swap_remove(which.index(live.len()));
                let addresses = AddrRange::new(range.iova().0, range.size()).unwrap();
                model.part(addresses).fill(Page::Free);
                iovas.free(cpu, range);
            }
            Call::Leak { which } if !live.is_empty() => {
                drop(live.swap_remove(which.index(live.len())));
            }
            Call::Reserve { start, size } => {
                let page = first.saturating_sub(1) + start.index(count + 2) as u64;
                let start = page * PAGE + size % PAGE;
                reserve(&iovas, &mut model, AddrRange::new(start, size).unwrap());
            }
            Call::Free { .. } | Call::Leak { .. } => {}
        }
    }
    for range in live {
        let addresses = AddrRange::new(range.iova().0, range.size()).unwrap();
        model.part(addresses).fill(Page::Free);
        iovas.free(0, range);
    }
    let rest: usize = core::iter::from_fn(|| iovas.allocate(1, PAGE, &ANYWHERE).ok())
        .map(|range| {
            let addresses = AddrRange::new(range.iova().0, range.size()).unwrap();
            let part = model.part(addresses);
            assert_eq!(part, [Page::Free]);
            part.fill(Page::Taken);
        })
        .count();
    assert!(rest <= count);
    assert_eq!(model.free(), 0, "pages were lost");
}

#[test]
fn an_allocator_agrees_with_a_list_of_pages() {
    let (cases, most) = if cfg!(miri) {
        (4, 300)
    } else {
        (512, 20_000_usize)
    };
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    // Around 0, and around the ends of nodes of several heights.
    let first = prop_oneof![
        Just(0_u64),
        0..10_000_u64,
        (12..36_u32, 0..4096_u64).prop_map(|(bit, below)| (1_u64 << bit).saturating_sub(below)),
    ];
    let strategy = (first, 1..most, calls(u64::try_from(most).unwrap()));
    runner
        .run(&strategy, |(first, count, calls)| {
            check(first, count, calls);
            Ok(())
        })
        .unwrap();
}
