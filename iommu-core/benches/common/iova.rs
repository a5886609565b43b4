//! IOVAs: allocate and free.

use std::hint::black_box;
use std::ops::RangeInclusive;
use std::sync::Arc;

use iommu_core::dma::iova::{Constraints, IovaAllocator, IovaRange};
use iommu_core::{AddrRange, Geometry, Result, SpinLock};
use lock_api::Mutex;

use super::Case;

/// How many ranges are live where nothing else is said.
pub(crate) const LIVE: usize = 4096;

const PAGE: u64 = 4096;

/// An address space in which ranges are live.
pub(crate) struct Space {
    pub(crate) iovas: Arc<IovaAllocator>,
    pub(crate) live: Vec<IovaRange>,
}

impl Space {
    /// 2^`bits` bytes, without page 0 and a window of MSI doorbells, with caches for two CPUs and
    /// `live` ranges of sizes that `pages` chooses.
    pub(crate) fn new(bits: u32, live: usize, mut pages: impl FnMut() -> u64) -> Self {
        let geometry = Geometry {
            aperture: AddrRange::new(0, 1 << bits).expect("not empty"),
            physical: AddrRange::EVERYTHING,
            page_sizes: PAGE,
        };
        let iovas = Arc::new(IovaAllocator::new(&geometry, 2).expect("memory"));
        for (start, size) in [(0, 1), (0xfee0_0000, 0x10_0000)] {
            let window = AddrRange::new(start, size).expect("not empty");
            iovas.reserve(window).expect("free");
        }
        let live = (0..live)
            .map(|_| iovas.allocate(0, pages() * PAGE, &DEVICE).expect("space"))
            .collect();
        Self { iovas, live }
    }
}

/// What a device with 48 address lines asks for.
const DEVICE: Constraints = Constraints::NONE.below_bits(48);

/// The least that a cache takes: a stack under a lock.
pub(crate) struct Floor(Mutex<SpinLock, Vec<u64>>);

impl Floor {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(vec![0]))
    }
}

impl Case for Floor {
    #[inline(always)]
    fn call(&mut self) -> Result {
        pop_and_push(&self.0);
        Ok(())
    }
}

#[inline(never)]
fn pop_and_push(stack: &Mutex<SpinLock, Vec<u64>>) {
    let Some(range) = stack.lock().pop() else {
        return;
    };
    let mut stack = stack.lock();
    if stack.len() < stack.capacity() {
        stack.push(black_box(range));
    }
}

/// Allocate and free, of a size that magazines keep, among [`LIVE`] ranges of the same size.
pub(crate) struct Hot {
    space: Space,
    cpu: usize,
    size: u64,
    device: Constraints,
}

impl Hot {
    pub(crate) fn new(pages: u64) -> Self {
        Self::among(pages, 48, LIVE)
    }

    /// In a space of 2^`bits` bytes with so many `live` ranges.
    pub(crate) fn among(pages: u64, bits: u32, live: usize) -> Self {
        Self {
            space: Space::new(bits, live, || pages),
            cpu: 0,
            size: pages * PAGE,
            device: DEVICE,
        }
    }
}

impl Hot {
    /// One for each of so many CPUs, all in one space.
    pub(crate) fn on_cpus(cpus: usize, pages: u64) -> Vec<Self> {
        let first = Self::new(pages);
        let iovas = first.space.iovas.clone();
        let others = (1..cpus).map(|cpu| Self {
            space: Space {
                iovas: iovas.clone(),
                live: Vec::new(),
            },
            cpu,
            ..first
        });
        let others: Vec<_> = others.collect();
        core::iter::once(first).chain(others).collect()
    }
}

impl Case for Hot {
    #[inline(always)]
    fn call(&mut self) -> Result {
        allocate_and_free(&self.space.iovas, self.cpu, self.size, &self.device);
        Ok(())
    }
}

#[inline(never)]
fn allocate_and_free(iovas: &IovaAllocator, cpu: usize, size: u64, device: &Constraints) {
    let range = iovas.allocate(cpu, size, device).expect("space");
    iovas.free(cpu, black_box(range));
}

/// A call with the arguments of [`Hot`]'s that does nothing.
pub(crate) struct Unused {
    hot: Hot,
    nothing: fn(&IovaAllocator, usize, u64, &Constraints),
}

impl Unused {
    pub(crate) fn new() -> Self {
        // Who calls it does not know that it looks at nothing.
        let nothing = black_box((|_, _, _, _| {}) as fn(&_, _, _, &_));
        let hot = Hot::new(1);
        Self { hot, nothing }
    }
}

impl Case for Unused {
    #[inline(always)]
    fn call(&mut self) -> Result {
        let hot = &self.hot;
        (self.nothing)(&hot.space.iovas, hot.cpu, hot.size, &hot.device);
        Ok(())
    }
}

/// As [`Hot`], of a size that is allocated from the tree.
pub(crate) struct Large(Hot);

impl Large {
    pub(crate) fn new(pages: u64) -> Self {
        Self(Hot::among(pages, 48, LIVE))
    }
}

impl Case for Large {
    #[inline(always)]
    fn call(&mut self) -> Result {
        self.0.call()
    }
}

/// Allocates ranges, and frees some that are chosen at random: the number of live ranges wanders.
pub(crate) struct Churn {
    space: Space,
    cpu: usize,
    orders: RangeInclusive<u32>,
    /// The most live ranges.
    most: usize,
    /// How many ranges are allocated or freed by one call.
    steps: u32,
    random: u64,
}

impl Churn {
    /// Among `live` ranges of 2^n pages, for each n of `orders`.
    pub(crate) fn new(bits: u32, live: usize, orders: RangeInclusive<u32>) -> Self {
        let mut random = 1;
        Self {
            space: Space::new(bits, live, || some_pages(&mut random, &orders)),
            cpu: 0,
            orders,
            most: live + live / 8,
            steps: 1,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Among [`LIVE`] ranges. A call allocates 512 and frees 512, give or take a few.
    pub(crate) fn counted(orders: RangeInclusive<u32>) -> Self {
        Self {
            steps: 1024,
            ..Self::new(48, LIVE, orders)
        }
    }

    /// One for each of so many CPUs, with [`LIVE`] ranges each, all in one space.
    pub(crate) fn on_cpus(cpus: usize, orders: RangeInclusive<u32>) -> Vec<Self> {
        let Self {
            mut space, random, ..
        } = Self::new(48, LIVE * cpus, orders.clone());
        let cases = (0..cpus).map(|cpu| Self {
            space: Space {
                iovas: space.iovas.clone(),
                live: space.live.split_off(LIVE * (cpus - 1 - cpu)),
            },
            cpu,
            orders: orders.clone(),
            most: LIVE + LIVE / 8,
            steps: 1,
            random: random ^ cpu as u64,
        });
        cases.collect()
    }
}

impl Case for Churn {
    #[inline(always)]
    fn call(&mut self) -> Result {
        for _ in 0..self.steps {
            step(self)?;
        }
        Ok(())
    }
}

#[inline(never)]
fn step(churn: &mut Churn) -> Result {
    let random = next(&mut churn.random);
    let live = &mut churn.space.live;
    if random & 1 != 0 && live.len() < churn.most || live.is_empty() {
        let size = some_pages(&mut churn.random, &churn.orders) * PAGE;
        live.push(churn.space.iovas.allocate(churn.cpu, size, &DEVICE)?);
    } else {
        let which = (random >> 1) as usize % live.len();
        churn.space.iovas.free(churn.cpu, live.swap_remove(which));
    }
    Ok(())
}

fn some_pages(random: &mut u64, orders: &RangeInclusive<u32>) -> u64 {
    let count = u64::from(orders.end() - orders.start() + 1);
    1 << (u64::from(*orders.start()) + (next(random) >> 32) % count)
}

/// Xorshift: the same numbers each time.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
