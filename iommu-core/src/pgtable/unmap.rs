//! Unmapping.

use core::sync::atomic::Ordering;

use super::reclaim::{Id, retired};
use super::table::{PageTable, Table, Walker, load};
use super::{Format, LAST_LEVEL, span};
use crate::addr::{AddrRange, Iova, PhysAddr};
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::platform::DmaMemory;
use crate::sync::AtomicU64;

/// So many pages are looked at, or cleared, at once.
const BLOCK: usize = 64;

/// What was taken out of a page table, or changed in it: what hardware may still know of, until it
/// was told to invalidate it and that has completed.
///
/// After that, [`Walker::reclaim`] gives the tables among it back. Where it did not complete, this
/// is simply dropped: the tables then stay as long as the page table.
#[must_use = "hardware is to be told, and tables are to be reclaimed"]
#[derive(Debug)]
pub struct Unmapped {
    pub(super) range: AddrRange,
    /// The sizes of the leaves, a bit for each.
    pub(super) sizes: u64,
    /// What tells the tables of this unmap from others', where there are any.
    pub(super) id: Option<Id>,
    /// The table that a block took the place of.
    pub(super) merged: Option<PhysAddr>,
    /// Whether others took tables or leaves out of the range meanwhile, and may not have told hardware
    /// yet; or tables were emptied without being taken out.
    pub(super) disturbed: bool,
}

impl Unmapped {
    /// The range.
    #[must_use]
    pub fn range(&self) -> AddrRange {
        self.range
    }

    /// The sizes of the leaves that were there, a bit for each; zero for any.
    #[must_use]
    pub fn sizes(&self) -> u64 {
        self.sizes
    }

    /// Whether tables went too, by this call or another: hardware is to forget those on the way to
    /// the leaves as well, and leaves of whatever size.
    #[must_use]
    #[inline(always)]
    pub fn has_tables(&self) -> bool {
        self.id.is_some() || self.merged.is_some() || self.disturbed
    }
}

impl<M: DmaMemory, F: Format> Walker<'_, M, F> {
    /// Takes `len` bytes from `iova` out of the table. What was there may be cached by hardware
    /// until it was told to invalidate it.
    ///
    /// The stores are ordered before whatever tells hardware.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] where a part is not mapped, [`ErrorKind::InvalidArgument`] where the
    /// range begins or ends inside a larger page, and as in [`map`](Self::map). Nothing changed
    /// then.
    pub fn unmap(&self, iova: Iova, len: u64) -> Result<Unmapped> {
        let table = self.table;
        match AddrRange::new(iova.0, len) {
            Some(range) if table.is_range(iova, len) => table.unmap_range(range),
            _ => Err(table.refuse(iova, len)),
        }
    }

    /// The same where the range is one page of the smallest size and mapped as one; whether it was
    /// and is no more. Where not, nothing changed, and [`unmap`](Self::unmap) knows what is to be
    /// done.
    #[must_use = "hardware is to be told"]
    #[inline(always)]
    pub fn unmap_page(&self, iova: Iova, len: u64) -> bool {
        let table = self.table;
        if !table.is_page(iova, len) {
            return false;
        }
        let Some((last, index)) = table.last_table(iova) else {
            return false;
        };
        let word = &last.words[index];
        if !F::is_valid(u64::from_le(word.load(Ordering::Relaxed))) {
            return false;
        }
        table.store(word, 0);
        table.clean(&last, index, 1);
        table.memory().write_barrier();
        true
    }
}

/// What becomes of the tables of a range that is taken out: see [`Unmapped`].
#[derive(Default)]
struct Taken {
    id: Option<Id>,
    disturbed: bool,
}

/// What is left to be done with a range, in one table and those below.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Part {
    pub(super) fn of(range: AddrRange) -> Self {
        Self {
            first: range.start(),
            last: range.last(),
        }
    }

    /// The parts of this that descriptors at `level` span, each with whether it is all of that, in
    /// rising order.
    pub(super) fn slots<F: Format>(self, level: u8) -> impl Iterator<Item = (Self, bool)> {
        let below = span::<F>(level) - 1;
        let mut next = Some(self.first);
        core::iter::from_fn(move || {
            let first = next?;
            let last = first | below;
            next = (last < self.last).then(|| last + 1);
            let whole = first & below == 0 && last <= self.last;
            let last = last.min(self.last);
            Some((Self { first, last }, whole))
        })
    }
}

impl<M: DmaMemory, F: Format> PageTable<M, F> {
    #[inline(never)]
    fn unmap_range(&self, range: AddrRange) -> Result<Unmapped> {
        let mut sizes = 0;
        let part = Part::of(range);
        let (table, level) = self.around(part);
        self.check_mapped(&table, level, part, &mut sizes)?;
        let mut taken = Taken::default();
        self.clear(&table, level, part, &mut taken);
        self.memory().write_barrier();
        Ok(Unmapped {
            range,
            sizes,
            id: taken.id,
            merged: None,
            disturbed: taken.disturbed,
        })
    }

    /// A table that has all of `part`, and its level: above it there is nothing to be looked at.
    #[inline]
    pub(super) fn around(&self, part: Part) -> (Table<'_>, u8) {
        let (mut table, mut level) = (self.root_table(), self.root_level());
        // In one descriptor's span, and not all of it. Of a page it is at least all.
        while part.first ^ part.last < span::<F>(level) - 1 {
            let word = load(&table.words[table.index::<F>(part.first, level)]);
            if !F::is_table(word) {
                break;
            }
            (table, level) = (self.table(word), level + 1);
        }
        (table, level)
    }

    /// Makes sure that all of `part` is mapped, by leaves that are in it as a whole, and adds their
    /// sizes.
    #[inline(always)]
    pub(super) fn check_mapped(
        &self,
        table: &Table<'_>,
        level: u8,
        part: Part,
        sizes: &mut u64,
    ) -> Result {
        match level {
            LAST_LEVEL => {
                *sizes |= span::<F>(LAST_LEVEL);
                self.check_pages(table, part)
            }
            _ => self.check_above(table, level, part, sizes),
        }
    }

    #[inline(never)]
    fn check_above(&self, table: &Table<'_>, level: u8, part: Part, sizes: &mut u64) -> Result {
        for (slot, whole) in part.slots::<F>(level) {
            let word = load(&table.words[table.index::<F>(slot.first, level)]);
            if F::is_table(word) {
                self.check_mapped(&self.table(word), level + 1, slot, sizes)?;
            } else if !F::is_valid(word) {
                return Err(not_mapped(slot.first));
            } else if !whole {
                return Err(inside(slot.first));
            } else {
                *sizes |= span::<F>(level);
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn check_pages(&self, table: &Table<'_>, part: Part) -> Result {
        let first = table.index::<F>(part.first, LAST_LEVEL);
        let last = table.index::<F>(part.last, LAST_LEVEL);
        let words = &table.words[first..=last];
        let (blocks, rest) = words.as_chunks::<BLOCK>();
        // What all words of a block have in common is valid only if each is.
        let common = |block: &[AtomicU64; BLOCK]| {
            let words = block.iter().map(|word| word.load(Ordering::Relaxed));
            words.fold(u64::MAX, |common, word| common & word)
        };
        let all = |block| F::is_valid(u64::from_le(common(block)));
        let is_valid = |word: &AtomicU64| F::is_valid(u64::from_le(word.load(Ordering::Relaxed)));
        if blocks.iter().all(all) && rest.iter().all(is_valid) {
            return Ok(());
        }
        match words.iter().position(|word| !is_valid(word)) {
            Some(gap) => Err(not_mapped(part.first + gap as u64 * span::<F>(LAST_LEVEL))),
            None => Ok(()),
        }
    }

    #[inline(always)]
    fn clear_all(&self, words: &[AtomicU64]) {
        words.iter().for_each(|word| self.store(word, 0));
    }

    /// Takes `part` out: leaves are cleared, and tables that it spans as a whole are retired, as far
    /// as there is a number for them.
    #[inline(always)]
    fn clear(&self, table: &Table<'_>, level: u8, part: Part, taken: &mut Taken) {
        match level {
            LAST_LEVEL => self.clear_pages(table, part),
            _ => self.clear_above(table, level, part, taken),
        }
    }

    #[inline(never)]
    fn clear_pages(&self, table: &Table<'_>, part: Part) {
        let first = table.index::<F>(part.first, LAST_LEVEL);
        let last = table.index::<F>(part.last, LAST_LEVEL);
        let words = &table.words[first..=last];
        let (blocks, rest) = words.as_chunks::<BLOCK>();
        blocks.iter().for_each(|block| self.clear_all(block));
        self.clear_all(rest);
        self.clean(table, first, words.len());
    }

    #[inline(never)]
    fn clear_above(&self, table: &Table<'_>, level: u8, part: Part, taken: &mut Taken) {
        let first = table.index::<F>(part.first, level);
        for (index, (slot, whole)) in (first..).zip(part.slots::<F>(level)) {
            let mut word = load(&table.words[index]);
            if !F::is_table(word) {
                word = self.clear_leaf(&table.words[index], word);
                self.clean(table, index, 1);
                // Nothing, where somebody else unmaps it too.
                taken.disturbed |= !F::is_valid(word);
                if !F::is_table(word) {
                    continue;
                }
            }
            if whole && taken.id.is_none() {
                taken.id = self.ids.take();
            }
            match &taken.id {
                Some(id) if whole => {
                    // Where this fails, somebody else has retired it.
                    let retired = retired::<F>(word, id);
                    taken.disturbed |= !self.exchange(&table.words[index], word, retired);
                    self.clean(table, index, 1);
                }
                _ => {
                    taken.disturbed |= whole;
                    self.clear(&self.table(word), level + 1, slot, taken);
                }
            }
        }
    }

    /// Takes a leaf above the last level out, where `word` is one. Returns what was there: where
    /// that is a table, it still is.
    #[inline]
    fn clear_leaf(&self, slot: &AtomicU64, mut word: u64) -> u64 {
        // Somebody else may change what it allows meanwhile, or split it: then it is a table.
        while F::is_valid(word) && !F::is_table(word) {
            match self.try_exchange(slot, word, 0) {
                Ok(leaf) => return leaf,
                Err(now) => word = now,
            }
        }
        word
    }
}

#[cold]
pub(super) fn not_mapped(at: u64) -> Error {
    Error::new(ErrorKind::NotFound, "a part of the range is not mapped").of(Culprit::Iova(Iova(at)))
}

#[cold]
fn inside(at: u64) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        "the range ends inside a larger page",
    )
    .of(Culprit::Iova(Iova(at)))
}
