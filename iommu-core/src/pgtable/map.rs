//! Mapping and looking up.

use core::sync::atomic::Ordering;

use super::table::{PageTable, Table, Walker, load};
use super::{Format, LAST_LEVEL, span, span_shift};
use crate::addr::{Iova, PhysAddr};
use crate::domain::Prot;
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::paging::MapError;
use crate::platform::DmaMemory;
use crate::sync::AtomicU64;

/// So many leaves are looked at before they are stored: what they are in stays in the cache.
const BLOCK: usize = 16;

impl<M: DmaMemory, F: Format> Walker<'_, M, F> {
    /// Maps `len` bytes from `iova` to `phys` with the largest pages that fit.
    ///
    /// The stores are ordered before whatever tells a device about the mapping. What was not mapped
    /// is in no TLB (Arm DDI 0487, D8.16; VT-d 6.1 without caching mode): nothing to invalidate.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] for an empty range, one that wraps around or is not made of
    /// whole pages, or where neither read nor write is asked for; [`ErrorKind::OutOfRange`] for one
    /// beyond the input or output size; [`ErrorKind::AlreadyExists`] at an address that is mapped,
    /// or whose last unmap is not complete; [`ErrorKind::OutOfMemory`] and
    /// [`ErrorKind::OutOfRange`] (of a new table). With the bytes that are mapped from `iova` on.
    pub fn map(
        &self,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
    ) -> core::result::Result<(), MapError> {
        let table = self.table;
        let fine = table.is_range(iova, len)
            && table.is_target(phys, len)
            && prot.intersects(Prot::READ | Prot::WRITE);
        if !fine {
            let error = table.refuse_map(iova, phys, len);
            return Err(MapError { mapped: 0, error });
        }
        table.map_range(Run {
            iova: iova.0,
            phys: phys.0,
            left: len,
            prot,
        })
    }

    /// The same of one page of the smallest size, where all tables are there; whether it is mapped
    /// now. Where not, nothing changed, and [`map`](Self::map) knows what is to be done.
    #[must_use]
    #[inline(always)]
    pub fn map_page(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> bool {
        let table = self.table;
        if !table.is_page_to(iova, phys, len) || !prot.intersects(Prot::READ | Prot::WRITE) {
            return false;
        }
        let Some((last, index)) = table.last_table(iova) else {
            return false;
        };
        let word = &last.words[index];
        if word.load(Ordering::Relaxed) != 0 {
            return false;
        }
        table.store(word, F::leaf(phys, LAST_LEVEL, prot));
        table.clean(&last, index, 1);
        table.memory().write_barrier();
        true
    }

    /// Where an access to `iova` goes.
    #[must_use]
    #[inline(always)]
    pub fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        let table = self.table;
        if let Some((last, index)) = table.last_table(iova) {
            let word = u64::from_le(last.words[index].load(Ordering::Relaxed));
            let offset = iova.0 & (span::<F>(LAST_LEVEL) - 1);
            return F::is_valid(word).then_some(PhysAddr(word & F::ADDRESS | offset));
        }
        self.translate_block(iova)
    }

    #[inline(never)]
    fn translate_block(&self, iova: Iova) -> Option<PhysAddr> {
        if iova.0 >> self.table.input_bits() != 0 {
            return None;
        }
        let (word, level) = self.table.find(iova);
        let offset = iova.0 & (span::<F>(level) - 1);
        F::is_valid(word).then(|| PhysAddr(word & F::ADDRESS & !(span::<F>(level) - 1) | offset))
    }
}

/// What is still to be mapped.
#[derive(Clone, Copy)]
struct Run {
    iova: u64,
    phys: u64,
    left: u64,
    prot: Prot,
}

impl Run {
    fn advance(&mut self, mapped: u64) {
        self.iova += mapped;
        self.phys = self.phys.wrapping_add(mapped);
        self.left -= mapped;
    }

    /// Whether a leaf at `level` is what comes next.
    #[inline(always)]
    fn fits<F: Format>(&self, level: u8, sizes: u64) -> bool {
        let size = span::<F>(level);
        let aligned = (self.iova | self.phys) & (size - 1) == 0;
        level == LAST_LEVEL || sizes & size != 0 && aligned && self.left >= size
    }

    /// How many leaves at `level` come next, of at most `most`.
    #[inline(always)]
    fn leaves<F: Format>(&self, level: u8, most: usize) -> usize {
        usize::try_from(self.left >> span_shift::<F>(level)).map_or(most, |all| all.min(most))
    }
}

impl<M: DmaMemory, F: Format> PageTable<M, F> {
    fn map_range(&self, mut run: Run) -> core::result::Result<(), MapError> {
        let len = run.left;
        while run.left > 0 {
            match self.map_run(&run) {
                Ok(mapped) => run.advance(mapped),
                Err(error) => {
                    self.memory().write_barrier();
                    let mapped = len - run.left;
                    return Err(MapError { mapped, error });
                }
            }
        }
        self.memory().write_barrier();
        Ok(())
    }

    /// Maps as much as one table holds.
    fn map_run(&self, run: &Run) -> Result<u64> {
        let mut level = self.root_level();
        let mut table = self.root_table();
        loop {
            let index = table.index::<F>(run.iova, level);
            let word = load(&table.words[index]);
            if level < LAST_LEVEL && F::is_table(word) {
                table = self.table(word);
                level += 1;
            } else if word != 0 {
                return Err(taken(run.iova));
            } else if run.fits::<F>(level, self.page_sizes()) {
                return Ok(self.map_leaves(&table, index, level, run));
            } else {
                let (below, mapped) = self.build(level + 1, run)?;
                self.memory().write_barrier();
                if self.exchange(&table.words[index], 0, F::table(below)) {
                    self.clean(&table, index, 1);
                    return Ok(mapped);
                }
                // Somebody else was first.
                self.free_with_below(below, level + 1);
            }
        }
    }

    /// Maps leaves of one table until one is taken, and returns how many bytes that are.
    fn map_leaves(&self, table: &Table<'_>, index: usize, level: u8, run: &Run) -> u64 {
        let count = run.leaves::<F>(level, table.words.len() - index);
        let first = F::leaf(PhysAddr(run.phys), level, run.prot);
        let words = &table.words[index..index + count];
        let done = match level {
            LAST_LEVEL => self.fill(words, first),
            _ => self.fill_above(words, first, span::<F>(level)),
        };
        self.clean(table, index, done);
        (done as u64) << span_shift::<F>(level)
    }

    /// Stores `leaf`, and the next with the address of the next page, until a word is taken.
    #[inline(always)]
    fn fill(&self, words: &[AtomicU64], mut leaf: u64) -> usize {
        let step = span::<F>(LAST_LEVEL);
        let (blocks, rest) = words.as_chunks::<BLOCK>();
        for (number, block) in blocks.iter().enumerate() {
            let seen = block
                .iter()
                .fold(0, |seen, word| seen | word.load(Ordering::Relaxed));
            if seen != 0 {
                return number * BLOCK + self.fill_one_by_one(block, leaf, step);
            }
            for (index, word) in (0..).zip(block) {
                self.store(word, leaf.wrapping_add(index * step));
            }
            leaf = leaf.wrapping_add(BLOCK as u64 * step);
        }
        blocks.len() * BLOCK + self.fill_one_by_one(rest, leaf, step)
    }

    /// The same above the last level. Somebody who breaks the rule may be linking a table: that is
    /// never overwritten, since then nobody would tell hardware to forget it.
    #[inline(always)]
    fn fill_above(&self, words: &[AtomicU64], mut leaf: u64, step: u64) -> usize {
        let (blocks, rest) = words.as_chunks::<BLOCK>();
        // What one word was found to be the next is expected to be: it stays in its register.
        let mut empty = 0;
        for (number, block) in blocks.iter().enumerate() {
            for (index, word) in block.iter().enumerate() {
                match self.try_exchange(word, empty, leaf) {
                    Ok(found) => empty = found,
                    Err(_) => return number * BLOCK + index,
                }
                leaf = leaf.wrapping_add(step);
            }
        }
        for (index, word) in rest.iter().enumerate() {
            if !self.exchange(word, 0, leaf) {
                return blocks.len() * BLOCK + index;
            }
            leaf = leaf.wrapping_add(step);
        }
        words.len()
    }

    #[inline(never)]
    fn fill_one_by_one(&self, words: &[AtomicU64], mut leaf: u64, step: u64) -> usize {
        for (index, word) in words.iter().enumerate() {
            if word.load(Ordering::Relaxed) != 0 {
                return index;
            }
            self.store(word, leaf);
            leaf = leaf.wrapping_add(step);
        }
        words.len()
    }

    /// A table for `level`, with those leaves of `run` in it, or below it, that it is needed for;
    /// and how many bytes those map. Nobody else knows of it, so nothing is looked at.
    #[inline(never)]
    fn build(&self, level: u8, run: &Run) -> Result<(PhysAddr, u64)> {
        let phys = self.new_table()?;
        let table = self.table_at(phys);
        let index = table.index::<F>(run.iova, level);
        let mapped = if run.fits::<F>(level, self.page_sizes()) {
            let count = run.leaves::<F>(level, table.words.len() - index);
            let mut leaf = F::leaf(PhysAddr(run.phys), level, run.prot);
            for word in &table.words[index..index + count] {
                self.store(word, leaf);
                leaf = leaf.wrapping_add(span::<F>(level));
            }
            (count as u64) << span_shift::<F>(level)
        } else {
            match self.build(level + 1, run) {
                Ok((below, mapped)) => {
                    self.store(&table.words[index], F::table(below));
                    mapped
                }
                Err(error) => {
                    self.free(phys);
                    return Err(error);
                }
            }
        };
        self.clean(&table, 0, table.words.len());
        Ok((phys, mapped))
    }

    /// The descriptor that ends the walk of `iova`, and its level.
    fn find(&self, iova: Iova) -> (u64, u8) {
        let mut level = self.root_level();
        let mut table = self.root_table();
        loop {
            let word = load(&table.words[table.index::<F>(iova.0, level)]);
            if level == LAST_LEVEL || !F::is_table(word) {
                return (word, level);
            }
            table = self.table(word);
            level += 1;
        }
    }
}

#[cold]
fn taken(iova: u64) -> Error {
    Error::new(ErrorKind::AlreadyExists, "the address is mapped").of(Culprit::Iova(Iova(iova)))
}
