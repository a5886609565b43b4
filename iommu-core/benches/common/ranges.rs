//! The range calls of a domain.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use iommu_core::{Domain, DomainRef, Iova, PhysAddr, Prot, Result};

use super::lab::RW;
use super::{Case, K4, Lab, M2, Shape};

/// Where ranges are mapped.
pub(super) const AT: u64 = 0x12_4000_0000;

/// Ranges that follow each other, one for each call.
pub(crate) struct Ranges {
    lab: &'static Lab,
    at: u64,
    len: u64,
    count: u64,
    /// Where the next call's is.
    next: u64,
    /// Where they lead, less aligned than larger pages where there are to be none.
    phys: PhysAddr,
    /// Whether all tables are there and stay.
    kept: bool,
}

impl Ranges {
    /// One of `len` bytes, `offset` behind [`AT`] or what the address space has of that.
    pub(crate) fn new(shape: Shape, offset: u64, len: u64) -> Self {
        let at = (AT + offset) & ((1 << shape.bits) - 1);
        Self {
            lab: Lab::new(shape),
            at,
            len,
            count: 1,
            next: at,
            phys: PhysAddr(if len > M2 { 0 } else { K4 }),
            kept: false,
        }
    }

    /// So many of them.
    pub(crate) fn times(self, count: u64) -> Self {
        Self { count, ..self }
    }

    /// With pages on both sides and tables below, which stay.
    pub(crate) fn kept(mut self) -> Self {
        self.kept = true;
        self.map(self.at - K4, K4);
        self.map(self.at + self.len * self.count, K4);
        for nth in 0..self.count {
            let at = self.at + nth * self.len;
            self.lab.map(at, self.phys, K4);
            self.lab.unmap(at, K4);
        }
        self
    }

    /// With so many more pages mapped.
    pub(crate) fn among(self, pages: u64) -> Self {
        self.lab.among(pages);
        self
    }

    fn map(&self, at: u64, len: u64) {
        self.lab.map(at, self.phys, len);
    }

    /// Unmaps by halves what is `kept`, none of them all that a table spans.
    fn unmap(&self, at: u64, len: u64) {
        if self.kept && len > K4 {
            self.lab.unmap(at, len / 2);
            self.lab.unmap(at + len / 2, len / 2);
        } else {
            self.lab.unmap(at, len);
        }
    }

    #[inline(always)]
    fn step(&mut self) -> Iova {
        let at = self.next;
        self.next = at + self.len;
        Iova(at)
    }

    /// Undoes what was done with all ranges that had their turn.
    fn rewind(&mut self, undo: impl Fn(&Self, u64, u64)) {
        while self.next > self.at {
            self.next -= self.len;
            undo(self, self.next, self.len);
        }
        self.lab.memory.tidy();
    }
}

/// A call of a function with such arguments that does nothing.
pub(crate) struct Nothing {
    ranges: Ranges,
    nothing: fn(&Domain, Iova, PhysAddr, u64, Prot) -> Result,
}

impl Nothing {
    pub(crate) fn new(ranges: Ranges) -> Self {
        // Who calls it does not know that it looks at nothing.
        let nothing = black_box(nothing as fn(&_, _, _, _, _) -> _);
        Self { ranges, nothing }
    }
}

impl Case for Nothing {
    #[inline(always)]
    fn call(&mut self) -> Result {
        let at = self.ranges.step();
        let Ranges { lab, phys, len, .. } = &self.ranges;
        (self.nothing)(&lab.domain, at, *phys, *len, RW)
    }
    fn reset(&mut self) {
        self.ranges.rewind(|_, _, _| {});
    }
}

fn nothing(_: &Domain, _: Iova, _: PhysAddr, _: u64, _: Prot) -> Result {
    Ok(())
}

/// Maps a range.
pub(crate) struct Map(pub(crate) Ranges);

impl Case for Map {
    #[inline(always)]
    fn call(&mut self) -> Result {
        let at = self.0.step();
        let Ranges { lab, phys, len, .. } = &self.0;
        // SAFETY: there are no devices behind these registers.
        unsafe { lab.domain.map(at, *phys, *len, RW) }
    }
    fn calls(&self) -> u64 {
        self.0.count
    }
    fn reset(&mut self) {
        self.0.rewind(Ranges::unmap);
    }
}

/// Unmaps a range.
pub(crate) struct Unmap(Ranges);

/// The same, its invalidation left to a flush.
pub(crate) struct UnmapLazily(Ranges);

impl Unmap {
    pub(crate) fn new(ranges: Ranges) -> Self {
        for nth in 0..ranges.count {
            ranges.map(ranges.at + nth * ranges.len, ranges.len);
        }
        ranges.lab.memory.tidy();
        Self(ranges)
    }

    pub(crate) fn lazily(self) -> UnmapLazily {
        UnmapLazily(self.0)
    }
}

impl Case for UnmapLazily {
    #[inline(always)]
    fn call(&mut self) -> Result {
        let at = self.0.step();
        let Ranges { lab, len, .. } = &self.0;
        lab.domain.unmap_lazily(at, *len).map(drop)
    }
    fn calls(&self) -> u64 {
        self.0.count
    }
    fn reset(&mut self) {
        self.0.rewind(Ranges::map);
    }
}

impl Case for Unmap {
    #[inline(always)]
    fn call(&mut self) -> Result {
        let at = self.0.step();
        let Ranges { lab, len, .. } = &self.0;
        lab.domain.unmap(at, *len)
    }
    fn calls(&self) -> u64 {
        self.0.count
    }
    fn reset(&mut self) {
        self.0.rewind(Ranges::map);
    }
}

/// Finds where a page leads.
pub(crate) struct Translate {
    ranges: Ranges,
    found: Option<PhysAddr>,
}

impl Translate {
    pub(crate) fn new(ranges: Ranges) -> Self {
        ranges.map(ranges.at, K4);
        let found = None;
        Self { ranges, found }
    }
}

impl Case for Translate {
    #[inline(always)]
    fn call(&mut self) -> Result {
        let Ranges { lab, at, .. } = &self.ranges;
        self.found = lab.domain.translate(Iova(*at));
        Ok(())
    }
}

/// The least that mapping takes: a single-copy-atomic store for each descriptor.
pub(crate) struct Stores(Box<[AtomicU64]>);

impl Stores {
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Case for Stores {
    #[inline(always)]
    fn call(&mut self) -> Result {
        store_all(&self.0);
        Ok(())
    }
}

#[inline(never)]
fn store_all(words: &[AtomicU64]) {
    for (word, value) in words.iter().zip(black_box(0_u64)..) {
        word.store(value, Ordering::Relaxed);
    }
}

/// Maps a range, and unmaps the one that has been mapped longest of those this case has mapped. They
/// come in random order, and half of the ranges that they are of are mapped at any time.
pub(crate) struct Ring {
    domain: DomainRef,
    at: u64,
    len: u64,
    newest: Order,
    oldest: Order,
    lazily: bool,
}

impl Ring {
    /// So many pages are mapped, a power of two, of twice as many `offset` behind [`AT`] or what the
    /// address space has of that.
    pub(crate) fn new(lab: &Lab, shape: Shape, offset: u64, live: u64) -> Self {
        Self::of(K4, lab, shape, offset, live)
    }

    /// The same of ranges of `len` bytes.
    pub(crate) fn of(len: u64, lab: &Lab, shape: Shape, offset: u64, live: u64) -> Self {
        let oldest = Order::of(2 * live);
        let mut ring = Self {
            domain: lab.domain.clone(),
            at: (AT + offset) & ((1 << shape.bits) - 1),
            len,
            newest: oldest,
            oldest,
            lazily: false,
        };
        for _ in 0..live {
            let at = ring.at + ring.newest.step() * len;
            lab.map(at, PhysAddr(K4), len);
        }
        ring
    }

    /// The same without invalidations: they are left to a flush, which is not a part of it.
    pub(crate) fn lazily(self) -> Self {
        let lazily = true;
        Self { lazily, ..self }
    }
}

impl Case for Ring {
    #[inline(always)]
    fn call(&mut self) -> Result {
        let map = Iova(self.at + self.newest.step() * self.len);
        let unmap = Iova(self.at + self.oldest.step() * self.len);
        // SAFETY: there are no devices behind these registers.
        unsafe { self.domain.map(map, PhysAddr(K4), self.len, RW) }?;
        match self.lazily {
            false => self.domain.unmap(unmap, self.len),
            true => self.domain.unmap_lazily(unmap, self.len).map(|_| ()),
        }
    }
}

/// Numbers below a power of two in a random order, each once before any comes again.
#[derive(Clone, Copy)]
pub(super) struct Order {
    last: u64,
    mask: u64,
}

impl Order {
    pub(super) fn of(count: u64) -> Self {
        let mask = count.next_power_of_two() - 1;
        Self { last: 0, mask }
    }

    /// A linear congruential generator of full period (Knuth's MMIX).
    #[inline(always)]
    pub(super) fn step(&mut self) -> u64 {
        let next = self.last.wrapping_mul(6_364_136_223_846_793_005);
        self.last = next.wrapping_add(1_442_695_040_888_963_407) & self.mask;
        self.last
    }
}
