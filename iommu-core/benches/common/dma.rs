//! Buffers that are lent to a device and taken back.

use std::hint::black_box;
use std::sync::atomic::AtomicU8;

use iommu_core::dma::{Dma, DmaBuffer, FromDevice, Mapped, Piece, Retired};
use iommu_core::{DmaBlock, DomainRef, Invalidation, PhysAddr, Result};

use super::lab::Drivers;
use super::platform::Heap;
use super::ranges::Order;
use super::{Case, K4, Lab, Shape};

/// An owned buffer in pages of its own, or in less than one.
pub(crate) fn block(len: usize) -> DmaBlock<Heap> {
    DmaBlock::new(&Heap, len, len, "a buffer").expect("memory")
}

/// Pages in a list.
pub(crate) fn list(pages: usize) -> Vec<DmaBlock<Heap>> {
    (0..pages).map(|_| block(4096)).collect()
}

/// Lends a buffer to the device, and takes it back.
pub(crate) struct Lend<B: DmaBuffer> {
    dma: Dma<Drivers>,
    buffer: Option<B>,
}

impl<B: DmaBuffer> Lend<B> {
    pub(crate) fn new(shape: Shape, buffer: B) -> Self {
        Self::by(Lab::new(shape).dma(), buffer)
    }

    fn by(dma: Dma<Drivers>, buffer: B) -> Self {
        let buffer = Some(buffer);
        Self { dma, buffer }
    }

    /// For a device that drives so many address bits only.
    pub(crate) fn below_bits(self, bits: u32) -> Self {
        let dma = self.dma.below_bits(bits);
        Self { dma, ..self }
    }

    /// With so many more pages lent, for good.
    pub(crate) fn among(self, pages: usize) -> Self {
        (0..pages).for_each(|page| std::mem::forget(lend(&self.dma, Page::new(page))));
        self
    }
}

impl Lend<DmaBlock<Heap>> {
    /// One for each of so many threads, by clones of one handle.
    pub(crate) fn for_threads(threads: usize, shape: Shape) -> Vec<Self> {
        let dma = Lab::new(shape).dma();
        (0..threads)
            .map(|_| Self::by(dma.clone(), block(4096)))
            .collect()
    }
}

impl<B: DmaBuffer> Case for Lend<B> {
    #[inline(always)]
    fn call(&mut self) -> Result {
        let buffer = self.buffer.take().expect("it was given back");
        let mapped = self.dma.map(buffer, FromDevice)?;
        black_box(mapped.iova());
        self.buffer = Some(mapped.unmap()?);
        Ok(())
    }
}

/// Retires a buffer that was lent, and lends the one that was retired a ring ago.
pub(crate) struct Retire {
    dma: Dma<Drivers>,
    domain: DomainRef,
    slots: Vec<Option<Retired<DmaBlock<Heap>, FromDevice, Drivers>>>,
    next: usize,
}

impl Retire {
    /// With so many buffers in the ring, each of 4 KiB.
    pub(crate) fn new(shape: Shape, slots: usize) -> Self {
        let (dma, domain) = Self::lab(shape);
        Self::by(dma, domain, slots)
    }

    /// One for each of so many threads, by clones of one handle.
    pub(crate) fn for_threads(threads: usize, shape: Shape, slots: usize) -> Vec<Self> {
        let (dma, domain) = Self::lab(shape);
        (0..threads)
            .map(|_| Self::by(dma.clone(), domain.clone(), slots))
            .collect()
    }

    fn lab(shape: Shape) -> (Dma<Drivers>, DomainRef) {
        let lab = Lab::new(shape);
        lab.domain.set_invalidation(Invalidation::Lazy);
        (lab.dma(), lab.domain.clone())
    }

    fn by(dma: Dma<Drivers>, domain: DomainRef, slots: usize) -> Self {
        let retire = |_| {
            let mapped = dma.map(block(4096), FromDevice).expect("it works");
            Some(mapped.retire().expect("it works"))
        };
        Self {
            slots: (0..slots).map(retire).collect(),
            domain,
            dma,
            next: 0,
        }
    }
}

impl Case for Retire {
    #[inline(always)]
    fn call(&mut self) -> Result {
        let slot = &mut self.slots[self.next];
        if let Some(retired) = slot.take() {
            let mapped = self.dma.map(retired.reclaim()?, FromDevice)?;
            black_box(mapped.iova());
            *slot = Some(mapped.retire()?);
        }
        self.next = (self.next + 1) % self.slots.len();
        Ok(())
    }

    /// Nothing is left to be waited for.
    fn reset(&mut self) {
        self.domain.flush().expect("it works");
    }
}

/// A flush of a domain.
pub(crate) struct Flush(DomainRef);

impl Flush {
    pub(crate) fn new(shape: Shape) -> Self {
        Self(Lab::new(shape).domain.clone())
    }
}

impl Case for Flush {
    #[inline(always)]
    fn call(&mut self) -> Result {
        self.0.flush()
    }
}

/// A buffer is taken and put back: what comes with [`Lend`] without being a part of it.
pub(crate) struct Keep<B>(Option<B>);

impl<B> Keep<B> {
    pub(crate) fn new(buffer: B) -> Self {
        Self(Some(buffer))
    }
}

impl<B: 'static> Case for Keep<B> {
    #[inline(always)]
    fn call(&mut self) -> Result {
        let buffer = self.0.take().expect("it was given back");
        self.0 = Some(black_box(buffer));
        Ok(())
    }
}

/// Takes one back of many that are lent, and lends it again.
pub(crate) struct Relend {
    dma: Dma<Drivers>,
    lent: Vec<Option<Lent>>,
    order: Order,
}

type Lent = Mapped<Page, FromDevice, Drivers>;

impl Relend {
    /// So many, a power of two.
    pub(crate) fn new(shape: Shape, pages: usize) -> Self {
        let dma = Lab::new(shape).dma();
        let lent = (0..pages).map(|page| Some(lend(&dma, Page::new(page))));
        Self {
            lent: lent.collect(),
            order: Order::of(pages as u64),
            dma,
        }
    }
}

impl Case for Relend {
    #[inline(always)]
    fn call(&mut self) -> Result {
        #[expect(clippy::cast_possible_truncation, reason = "below their number")]
        let nth = self.order.step() as usize;
        let lent = &mut self.lent[nth];
        if let Some(mapped) = lent.take() {
            *lent = Some(self.dma.map(mapped.unmap()?, FromDevice)?);
        }
        Ok(())
    }
}

fn lend(dma: &Dma<Drivers>, page: Page) -> Lent {
    dma.map(page, FromDevice).expect("it works")
}

/// A page that is there by its address alone: a million of them take no memory.
pub(crate) struct Page(PhysAddr);

impl Page {
    fn new(number: usize) -> Self {
        Self(PhysAddr(number as u64 * K4))
    }
}

static BYTES: [AtomicU8; 4096] = [const { AtomicU8::new(0) }; 4096];

// SAFETY: nobody reaches the memory: there are no devices behind the registers of a [`Lab`], and
// whole pages are not copied.
unsafe impl DmaBuffer for Page {
    #[inline]
    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        std::iter::once(Piece {
            addr: self.0,
            bytes: &BYTES,
        })
    }
}
