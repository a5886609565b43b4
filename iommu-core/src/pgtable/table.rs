//! The walker.

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{Descriptor, Format};
use crate::addr::{AddrRange, Iova, PhysAddr};
use crate::domain::{MapError, Prot};
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::memory::DmaBlock;
use crate::platform::DmaMemory;

/// The page sizes that can be mapped, a bit for each: 4 KiB, 2 MiB and 1 GiB.
pub const PAGE_SIZES: u64 = 1 << 12 | 1 << 21 | 1 << 30;

const PAGE_SHIFT: u32 = 12;
const LEVEL_BITS: u32 = 9;
const TABLE_SIZE: usize = 4096;
const LAST_LEVEL: u8 = 3;

/// The bits of an address that one entry at `level` spans.
const fn span_shift(level: u8) -> u32 {
    PAGE_SHIFT + LEVEL_BITS * (LAST_LEVEL - level) as u32
}

const fn span(level: u8) -> u64 {
    1 << span_shift(level)
}

/// A page table that hardware may be walking at any time.
///
/// Every descriptor changes by one single-copy-atomic store. A new table is complete before the
/// descriptor that points to it is stored, and a table that was unlinked stays allocated, unchanged
/// but for one invalid descriptor in it, until its [`Unlinked`] is dropped.
///
/// Dropping the page table frees it: only after hardware was told to forget it and confirmed.
pub struct PageTable<M: DmaMemory, F: Format> {
    root: DmaBlock<M>,
    root_level: u8,
    input_bits: u32,
    output_bits: u32,
    page_sizes: u64,
    leaked: bool,
    format: PhantomData<F>,
}

impl<M: DmaMemory, F: Format> PageTable<M, F> {
    /// An empty table for addresses of `input_bits` (32 to 48), starting at the level that makes
    /// the walk shortest, with as many tables side by side as the format allows. Hardware can walk
    /// tables and map to addresses of `output_bits` (at most 48).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] for other numbers of bits, [`ErrorKind::OutOfMemory`],
    /// [`ErrorKind::OutOfRange`] where the memory lies beyond what the hardware can address.
    pub fn new(memory: &M, input_bits: u32, output_bits: u32) -> Result<Self> {
        if !(32..=48).contains(&input_bits) || output_bits > 48 {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "input addresses of 32 to 48 bits",
            ));
        }
        let widest = LEVEL_BITS + F::MAX_ROOT_TABLES.ilog2();
        let root_level = if input_bits - span_shift(1) <= widest {
            1
        } else {
            0
        };
        let entries = 1_usize << (input_bits - span_shift(root_level));
        let size = (entries * 8).max(TABLE_SIZE);
        let root = DmaBlock::new(memory, size, size, "a page table's root")?.below(output_bits)?;
        Ok(Self {
            root,
            root_level,
            input_bits,
            output_bits,
            page_sizes: PAGE_SIZES,
            leaked: false,
            format: PhantomData,
        })
    }

    /// The table, where the hardware knows no pages but those of `sizes`: a bit for each, of
    /// [`PAGE_SIZES`]. It always knows those of 4 KiB.
    #[must_use]
    pub fn with_page_sizes(mut self, sizes: u64) -> Self {
        self.page_sizes = sizes & PAGE_SIZES | 1 << PAGE_SHIFT;
        self
    }

    /// Where hardware starts the walk.
    #[must_use]
    pub fn root(&self) -> PhysAddr {
        self.root.addr()
    }

    /// The level of the root: 0 or 1.
    #[must_use]
    pub fn root_level(&self) -> u8 {
        self.root_level
    }

    /// The number of bits of an input address.
    #[must_use]
    pub fn input_bits(&self) -> u32 {
        self.input_bits
    }

    fn memory(&self) -> &M {
        self.root.memory()
    }

    fn node(&self, phys: PhysAddr) -> Node<'_, M> {
        let base = self.memory().pointer(phys).cast::<AtomicU64>();
        // SAFETY: `phys` is that of a table this page table allocated and has not freed; the
        // borrow of `self` keeps it from being freed.
        let words = unsafe { core::slice::from_raw_parts(base.as_ptr(), TABLE_SIZE / 8) };
        Node {
            memory: self.memory(),
            phys,
            words,
        }
    }

    fn root_node(&self) -> Node<'_, M> {
        Node {
            memory: self.memory(),
            phys: self.root.addr(),
            words: self.root.words(),
        }
    }

    fn check_range(&self, start: u64, len: u64, bits: u32) -> Result {
        let aligned = (start | len) & (span(LAST_LEVEL) - 1) == 0;
        match AddrRange::new(start, len) {
            Some(range) if aligned && range.last() >> bits == 0 => Ok(()),
            _ => Err(Error::new(
                ErrorKind::InvalidArgument,
                "not a range of whole pages within the table",
            )
            .of(Culprit::Iova(Iova(start)))),
        }
    }

    /// Maps `len` bytes from `iova` to `phys` with the largest pages that fit.
    ///
    /// The stores are ordered before whatever tells a device about the mapping.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] for an empty range, one that is not made of 4 KiB pages, or
    /// one beyond the input or output size; [`ErrorKind::AlreadyExists`],
    /// [`ErrorKind::OutOfMemory`] and [`ErrorKind::OutOfRange`] (of a new table), with the bytes
    /// mapped so far.
    pub fn map(
        &mut self,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
    ) -> core::result::Result<(), MapError> {
        let checked = self
            .check_range(iova.0, len, self.input_bits)
            .and_then(|()| self.check_range(phys.0, len, self.output_bits));
        checked.map_err(|error| MapError { mapped: 0, error })?;
        let mut done = 0;
        while done < len {
            let (iova, phys) = (Iova(iova.0 + done), PhysAddr(phys.0 + done));
            match self.map_run(iova, phys, len - done, prot) {
                Ok(mapped) => done += mapped,
                Err(error) => {
                    return Err(MapError {
                        mapped: done,
                        error,
                    });
                }
            }
        }
        self.memory().write_barrier();
        Ok(())
    }

    /// Maps as much as one table holds.
    fn map_run(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> Result<u64> {
        let mut level = self.root_level;
        let mut node = self.root_node();
        loop {
            let size = span(level);
            let index = node.index(iova, level);
            let aligned = (iova.0 | phys.0) & (size - 1) == 0;
            let leaf_fits = self.page_sizes & size != 0 && aligned && len >= size;
            match F::decode(node.load(index), level) {
                Descriptor::Table(next) => node = self.node(next),
                Descriptor::Invalid if leaf_fits => {
                    return self.map_leaves(&node, index, level, phys, len, prot);
                }
                Descriptor::Invalid => {
                    let next = self.new_table()?;
                    self.memory().write_barrier();
                    node.store(index, F::table(next));
                    node = self.node(next);
                }
                Descriptor::Leaf(_) => return Err(taken(iova)),
            }
            level += 1;
        }
    }

    fn map_leaves(
        &self,
        node: &Node<'_, M>,
        first: usize,
        level: u8,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
    ) -> Result<u64> {
        let size = span(level);
        let mut done = 0;
        for index in first..node.words.len() {
            // A table in the way ends the run: the next one goes down into it.
            if len - done < size || F::decode(node.load(index), level) != Descriptor::Invalid {
                break;
            }
            node.store(index, F::leaf(PhysAddr(phys.0 + done), level, prot));
            done += size;
        }
        Ok(done)
    }

    fn new_table(&self) -> Result<PhysAddr> {
        let table = DmaBlock::new(self.memory(), TABLE_SIZE, TABLE_SIZE, "a page table")?;
        Ok(table.below(self.output_bits)?.into_addr())
    }

    /// Takes `len` bytes from `iova` out of the table. What was there may be cached by hardware
    /// until it was told to invalidate it; tables that became empty as a whole come back in the
    /// [`Unlinked`], to be freed after that.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] where a part is not mapped, [`ErrorKind::InvalidArgument`] where the
    /// range ends inside a larger page, and as in [`map`](Self::map). Nothing changed then.
    pub fn unmap(&mut self, iova: Iova, len: u64) -> Result<Unlinked<M>> {
        self.check_range(iova.0, len, self.input_bits)?;
        self.check_mapped(iova, len)?;
        let mut unlinked = Unlinked {
            memory: self.memory().clone(),
            first: None,
        };
        self.unmap_in(
            &self.root_node(),
            self.root_level,
            iova.0,
            iova.0 + (len - 1),
            &mut unlinked,
        );
        self.memory().write_barrier();
        Ok(unlinked)
    }

    fn check_mapped(&self, iova: Iova, len: u64) -> Result {
        let mut done = 0;
        while done < len {
            let at = Iova(iova.0 + done);
            let (descriptor, level) = self.find(at);
            let size = span(level);
            if !matches!(descriptor, Descriptor::Leaf(_)) {
                return Err(
                    Error::new(ErrorKind::NotFound, "a part of the range is not mapped")
                        .of(Culprit::Iova(at)),
                );
            }
            if !at.is_aligned(size) || len - done < size {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    "the range ends inside a larger page",
                )
                .of(Culprit::Iova(at)));
            }
            done += size;
        }
        Ok(())
    }

    /// The descriptor that ends the walk of `iova`, and its level.
    fn find(&self, iova: Iova) -> (Descriptor, u8) {
        let mut level = self.root_level;
        let mut node = self.root_node();
        loop {
            match F::decode(node.load(node.index(iova, level)), level) {
                Descriptor::Table(next) => node = self.node(next),
                end => return (end, level),
            }
            level += 1;
        }
    }

    fn unmap_in(
        &self,
        node: &Node<'_, M>,
        level: u8,
        start: u64,
        last: u64,
        unlinked: &mut Unlinked<M>,
    ) {
        let size = span(level);
        let mut at = start;
        loop {
            let entry_last = at | (size - 1);
            let index = node.index(Iova(at), level);
            if let Descriptor::Table(next) = F::decode(node.load(index), level) {
                let whole = at & (size - 1) == 0 && entry_last <= last;
                if whole {
                    node.store(index, 0);
                    self.unlink(next, level + 1, unlinked);
                } else {
                    self.unmap_in(
                        &self.node(next),
                        level + 1,
                        at,
                        last.min(entry_last),
                        unlinked,
                    );
                }
            } else {
                node.store(index, 0);
            }
            if entry_last >= last {
                return;
            }
            at = entry_last + 1;
        }
    }

    /// Collects a table that is no longer linked, and those below it.
    fn unlink(&self, table: PhysAddr, level: u8, unlinked: &mut Unlinked<M>) {
        let node = self.node(table);
        if level < LAST_LEVEL {
            for index in 0..node.words.len() {
                if let Descriptor::Table(next) = F::decode(node.load(index), level) {
                    self.unlink(next, level + 1, unlinked);
                }
            }
        }
        unlinked.push(&node);
    }

    /// Where an access to `iova` goes.
    #[must_use]
    pub fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        if iova.0 >> self.input_bits != 0 {
            return None;
        }
        match self.find(iova) {
            (Descriptor::Leaf(phys), level) => Some(PhysAddr(phys.0 | iova.0 & (span(level) - 1))),
            _ => None,
        }
    }

    /// Never frees the tables, when dropped either: hardware may go on walking them.
    pub fn leak(&mut self) {
        self.root.leak();
        self.leaked = true;
    }
}

impl<M: DmaMemory, F: Format> Drop for PageTable<M, F> {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        let mut all = Unlinked {
            memory: self.memory().clone(),
            first: None,
        };
        for index in 0..self.root.words().len() {
            if let Descriptor::Table(next) = F::decode(self.root.load(index), self.root_level) {
                self.unlink(next, self.root_level + 1, &mut all);
            }
        }
    }
}

impl<M: DmaMemory, F: Format> fmt::Debug for PageTable<M, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PageTable({} bits, level {} at {})",
            self.input_bits,
            self.root_level,
            self.root()
        )
    }
}

fn taken(iova: Iova) -> Error {
    Error::new(ErrorKind::AlreadyExists, "the address is mapped").of(Culprit::Iova(iova))
}

/// One table of a walk.
struct Node<'a, M> {
    memory: &'a M,
    phys: PhysAddr,
    words: &'a [AtomicU64],
}

impl<M: DmaMemory> Node<'_, M> {
    fn index(&self, iova: Iova, level: u8) -> usize {
        // A root of several tables, or of less than one, has its own number of entries.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "masked to the size of a table"
        )]
        let index = (iova.0 >> span_shift(level)) as usize;
        index & (self.words.len() - 1)
    }

    fn load(&self, index: usize) -> u64 {
        u64::from_le(self.words[index].load(Ordering::Relaxed))
    }

    fn store(&self, index: usize, descriptor: u64) {
        self.memory
            .store_word(&self.words[index], descriptor.to_le());
        if !self.memory.is_coherent() {
            self.memory
                .clean(PhysAddr(self.phys.0 + index as u64 * 8), 8);
        }
    }
}

/// Tables that no descriptor points to any more, but that hardware may still be walking.
///
/// Drop it after the invalidation that covers them has completed; [`leak`](Self::leak) it where
/// that failed.
#[must_use = "dropping it frees the tables"]
pub struct Unlinked<M: DmaMemory> {
    memory: M,
    /// Each table's first word holds the address of the next: a multiple of 4 KiB, so to hardware
    /// the word is an invalid descriptor.
    first: Option<PhysAddr>,
}

impl<M: DmaMemory> Unlinked<M> {
    fn push(&mut self, node: &Node<'_, M>) {
        node.store(0, self.first.map_or(0, |next| next.0));
        self.first = Some(node.phys);
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Never frees the tables.
    pub fn leak(mut self) {
        self.first = None;
    }
}

impl<M: DmaMemory> Drop for Unlinked<M> {
    fn drop(&mut self) {
        while let Some(table) = self.first {
            let link = self.memory.pointer(table).cast::<AtomicU64>();
            // SAFETY: the table is allocated until the line that frees it, and nobody else has it.
            let next = u64::from_le(unsafe { link.as_ref() }.load(Ordering::Relaxed));
            self.first = (next != 0).then_some(PhysAddr(next));
            // SAFETY: the page table allocated it with this size and alignment, no descriptor
            // points to it, and whoever drops this says that hardware has forgotten it.
            unsafe { self.memory.free(table, TABLE_SIZE, TABLE_SIZE) };
        }
    }
}

impl<M: DmaMemory> fmt::Debug for Unlinked<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Unlinked({})",
            if self.is_empty() { "none" } else { "tables" }
        )
    }
}
