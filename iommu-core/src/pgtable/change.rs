//! Changing what is mapped: permissions, and the sizes of leaves.

use core::sync::atomic::Ordering;

use super::table::{PageTable, Table, Walker, load};
use super::unmap::{Part, Unmapped, not_mapped};
use super::{Format, LAST_LEVEL, span, span_shift};
use crate::addr::{AddrRange, Iova, PhysAddr};
use crate::domain::Prot;
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::platform::DmaMemory;
use crate::sync::AtomicU64;

/// The promise that nobody else maps, unmaps or changes any part of a range, for the call that it is
/// given to.
///
/// What somebody unmaps from a table while a block takes its place would be mapped again.
#[derive(Debug)]
pub struct Undisturbed(());

impl Undisturbed {
    /// Promises it.
    ///
    /// # Safety
    ///
    /// It is true.
    #[must_use]
    pub unsafe fn new() -> Self {
        Self(())
    }
}

impl<M: DmaMemory, F: Format> Walker<'_, M, F> {
    /// Lets devices do with `len` bytes from `iova` what `prot` says, and no more. Hardware may go
    /// by what was said before until it was told to invalidate the range.
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap); nothing changed then. [`ErrorKind::Busy`] where somebody else
    /// changes the same range: a part of it may have changed.
    pub fn protect(&self, iova: Iova, len: u64, prot: Prot) -> Result<Unmapped> {
        let table = self.table;
        let range = match AddrRange::new(iova.0, len) {
            Some(range) if table.is_range(iova, len) => range,
            _ => return Err(table.refuse(iova, len)),
        };
        let mut sizes = 0;
        let part = Part::of(range);
        let (above, level) = table.around(part);
        table.check_mapped(&above, level, part, &mut sizes)?;
        let done = table.protect_in(&above, level, part, prot);
        table.memory().write_barrier();
        done.map(|()| Unmapped {
            range,
            sizes,
            id: None,
            merged: None,
            disturbed: false,
        })
    }

    /// Replaces the block that `iova` is in by a table of the next smaller leaves, with the same
    /// translations. Hardware may go by the block until it was told to invalidate what comes back.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Unsupported`]: the hardware does not cope
    ///   ([`PageTable::with_live_resizing`]);
    /// - [`ErrorKind::NotFound`]: nothing is mapped there;
    /// - [`ErrorKind::InvalidArgument`]: there is a page already, or nothing between the two sizes;
    /// - [`ErrorKind::OutOfMemory`], [`ErrorKind::OutOfRange`]: of the table;
    /// - [`ErrorKind::Busy`]: somebody else changes the same range.
    ///
    /// Nothing changed then.
    pub fn split(&self, iova: Iova) -> Result<Unmapped> {
        let table = self.table;
        table.check_resizable()?;
        let (parent, index, level) = table.slot_of(iova, LAST_LEVEL)?;
        let word = load(&parent.words[index]);
        if !F::is_valid(word) {
            return Err(not_mapped(iova.0));
        }
        let below = level + 1;
        if level == LAST_LEVEL || table.page_sizes() & span::<F>(below) == 0 {
            return Err(
                Error::new(ErrorKind::InvalidArgument, "not a block").of(Culprit::Iova(iova))
            );
        }
        let phys = table.new_table()?;
        let new = table.table_at(phys);
        let mut leaf = word - F::LEAF[usize::from(level)] + F::LEAF[usize::from(below)];
        for slot in new.words {
            table.store(slot, leaf);
            leaf += span::<F>(below);
        }
        table.clean(&new, 0, new.words.len());
        table.memory().write_barrier();
        if !table.exchange(&parent.words[index], word, F::table(phys)) {
            table.free(phys);
            return Err(busy(iova));
        }
        table.clean(&parent, index, 1);
        table.memory().write_barrier();
        Ok(leaves(iova, span::<F>(level)))
    }

    /// Replaces a table of leaves by one block of `size` from `iova` on, with the same translations:
    /// the leaves lead to one piece of memory, aligned to the size, and allow the same. Hardware is
    /// to be told to invalidate what comes back; then [`reclaim`](Self::reclaim) lets the table go.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Unsupported`]: the hardware does not cope
    ///   ([`PageTable::with_live_resizing`]), or has no such block;
    /// - [`ErrorKind::InvalidArgument`]: `iova` is not aligned to the size, or the leaves are not as
    ///   above;
    /// - [`ErrorKind::NotFound`]: no table of leaves is there;
    /// - [`ErrorKind::Busy`]: somebody else changes the same range.
    ///
    /// Nothing changed then.
    pub fn merge(&self, iova: Iova, size: u64, promise: Undisturbed) -> Result<Unmapped> {
        let Undisturbed(()) = promise;
        let table = self.table;
        table.check_resizable()?;
        let level = (table.root_level()..LAST_LEVEL).find(|level| span::<F>(*level) == size);
        let Some(level) = level.filter(|_| table.page_sizes() & size != 0) else {
            return Err(Error::new(ErrorKind::Unsupported, "no block of this size"));
        };
        if !iova.is_aligned(size) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "not aligned to the block's size",
            )
            .of(Culprit::Iova(iova)));
        }
        let (parent, index, found) = table.slot_of(iova, level)?;
        let word = load(&parent.words[index]);
        if found != level || !F::is_table(word) {
            return Err(not_mapped(iova.0));
        }
        let block = table.as_block(&table.table(word), level).ok_or(
            Error::new(ErrorKind::InvalidArgument, "not the leaves of one block")
                .of(Culprit::Iova(iova)),
        )?;
        if !table.exchange(&parent.words[index], word, block) {
            return Err(busy(iova));
        }
        table.clean(&parent, index, 1);
        table.memory().write_barrier();
        Ok(Unmapped {
            merged: Some(PhysAddr(word.wrapping_sub(F::TABLE))),
            ..leaves(iova, size)
        })
    }
}

impl<M: DmaMemory, F: Format> PageTable<M, F> {
    fn check_resizable(&self) -> Result {
        match self.is_resizable() {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Unsupported,
                "the hardware does not cope with leaves that change their size",
            )),
        }
    }

    fn protect_in(&self, table: &Table<'_>, level: u8, part: Part, prot: Prot) -> Result {
        let first = table.index::<F>(part.first, level);
        for (index, (slot, _)) in (first..).zip(part.slots::<F>(level)) {
            let word = load(&table.words[index]);
            if level < LAST_LEVEL && F::is_table(word) {
                self.protect_in(&self.table(word), level + 1, slot, prot)?;
                continue;
            }
            // Exchanged, not stored: what somebody else unmaps meanwhile stays unmapped.
            let phys = word & F::ADDRESS & !(span::<F>(level) - 1);
            let leaf = F::leaf(PhysAddr(phys), level, prot);
            if !F::is_valid(word) || !self.exchange(&table.words[index], word, leaf) {
                return Err(busy(Iova(slot.first)));
            }
            self.clean(table, index, 1);
        }
        Ok(())
    }

    /// The table where a walk to `iova` is at `level`, or ends before, with the index and the level.
    fn slot_of(&self, iova: Iova, level: u8) -> Result<(Table<'_>, usize, u8)> {
        if iova.0 >> self.input_bits() != 0 {
            return Err(self.refuse(iova, span::<F>(LAST_LEVEL)));
        }
        let mut at = self.root_level();
        let mut table = self.root_table();
        loop {
            let index = table.index::<F>(iova.0, at);
            let word = load(&table.words[index]);
            if at == level || !F::is_table(word) {
                return Ok((table, index, at));
            }
            table = self.table(word);
            at += 1;
        }
    }

    /// The one block at `level` that all leaves of a table below make up.
    fn as_block(&self, table: &Table<'_>, level: u8) -> Option<u64> {
        let below = level + 1;
        let first = u64::from_le(table.words[0].load(Ordering::Relaxed));
        let is_leaf = F::is_valid(first) && (below == LAST_LEVEL || !F::is_table(first));
        let aligned = first & F::ADDRESS & (span::<F>(level) - 1) == 0;
        let same = |(index, word): (u64, &AtomicU64)| {
            let leaf = first.wrapping_add(index << span_shift::<F>(below));
            u64::from_le(word.load(Ordering::Relaxed)) == leaf
        };
        let all = is_leaf && aligned && (0..).zip(table.words).all(same);
        all.then(|| first - F::LEAF[usize::from(below)] + F::LEAF[usize::from(level)])
    }
}

/// What hardware may know of leaves that became others.
fn leaves(iova: Iova, size: u64) -> Unmapped {
    let first = iova.0 & !(size - 1);
    Unmapped {
        range: AddrRange::inclusive(first, first | (size - 1)).unwrap_or(AddrRange::EVERYTHING),
        // Of whatever size: both may be cached.
        sizes: 0,
        id: None,
        merged: None,
        disturbed: false,
    }
}

#[cold]
fn busy(iova: Iova) -> Error {
    Error::new(ErrorKind::Busy, "somebody else changes the same range").of(Culprit::Iova(iova))
}
