//! Tables that are linked no more: marked, and given back when hardware has forgotten them.

use core::sync::atomic::Ordering;

use super::table::{PageTable, Table, Walker, load};
use super::unmap::{Part, Unmapped};
use super::{Format, LAST_LEVEL};
use crate::addr::PhysAddr;
use crate::platform::DmaMemory;
use crate::sync::AtomicU64;

/// Marks the descriptor of a retired table. Bits 4:0 are zero, so it is invalid in every format;
/// bits 10:5 are the number of the unmap, and the address stays where it was.
const RETIRED: u64 = 1 << 11;
const ID_SHIFT: u32 = 5;
/// Where no address has bits: pages are of 4 KiB at least.
const LOW: u64 = 0xfff;

/// The number of an unmap that retires tables, its own until it has reclaimed them all.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Id(u8);

/// The numbers in use, a bit for each.
///
/// Where there is none left, tables are not retired: they stay, empty. An unmap whose invalidation
/// never completed keeps its number.
pub(super) struct Ids(AtomicU64);

impl Ids {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(super) fn take(&self) -> Option<Id> {
        let mut used = self.0.load(Ordering::Relaxed);
        loop {
            let free = used.trailing_ones();
            let bit = 1_u64.checked_shl(free)?;
            let taken =
                self.0
                    .compare_exchange(used, used | bit, Ordering::Acquire, Ordering::Relaxed);
            match taken {
                Ok(_) => return u8::try_from(free).ok().map(Id),
                Err(now) => used = now,
            }
        }
    }

    fn give(&self, id: &Id) {
        self.0.fetch_and(!(1 << id.0), Ordering::Release);
    }
}

/// The descriptor of the table that `descriptor` points to, retired by the unmap of number `id`.
pub(super) fn retired<F: Format>(descriptor: u64, id: &Id) -> u64 {
    descriptor & F::ADDRESS & !LOW | RETIRED | u64::from(id.0) << ID_SHIFT
}

fn is_retired(descriptor: u64) -> bool {
    descriptor & (RETIRED | 0x1f) == RETIRED
}

/// The table that a retired descriptor remembers.
fn table_of<F: Format>(descriptor: u64) -> PhysAddr {
    PhysAddr(descriptor & F::ADDRESS & !LOW)
}

impl<M: DmaMemory, F: Format> Walker<'_, M, F> {
    /// Gives the tables that were taken out back to their memory, and lets their range be mapped
    /// again. Those that somebody may still be inside of are put aside for a later call.
    ///
    /// For when the invalidation has completed that covers the unmap's range, tables on the way to
    /// its leaves included.
    ///
    /// Context: any in which the platform's memory can be freed and the heap used.
    pub fn reclaim(&self, unmapped: Unmapped) {
        let Unmapped {
            range, id, merged, ..
        } = unmapped;
        if let Some(table) = merged {
            self.give_back(table, LAST_LEVEL);
        }
        if let Some(id) = id {
            let part = Part::of(range);
            let (table, level) = self.table.around(part);
            self.reclaim_in(&table, level, part, &id);
            self.table.ids.give(&id);
        }
        self.free_what_was_put_aside();
    }

    fn reclaim_in(&self, table: &Table<'_>, level: u8, part: Part, id: &Id) {
        let first = table.index::<F>(part.first, level);
        for (index, (slot, whole)) in (first..).zip(part.slots::<F>(level)) {
            let word = load(&table.words[index]);
            if whole && word == retired::<F>(word, id) {
                // Nobody else changes it while it has this number.
                if self.table.exchange(&table.words[index], word, 0) {
                    self.table.clean(table, index, 1);
                    self.give_back(table_of::<F>(word), level + 1);
                }
            } else if level + 1 < LAST_LEVEL && F::is_table(word) {
                self.reclaim_in(&self.table.table(word), level + 1, slot, id);
            }
        }
    }

    /// Frees a table of `level`, and those below, that nobody finds any more; or puts it aside.
    pub(super) fn give_back(&self, table: PhysAddr, level: u8) {
        if self.present.is_alone() {
            self.table.free_with_below(table, level);
        } else if !self.table.put_aside(table, level) {
            log::warn!("no memory to remember the table at {table} by: it is never freed");
        }
    }
}

impl<M: DmaMemory, F: Format> PageTable<M, F> {
    /// Frees a table of `level` and all below it, as [`free`](Self::free) does.
    pub(super) fn free_with_below(&self, table: PhysAddr, level: u8) {
        if level < LAST_LEVEL {
            self.free_below(&self.table_at(table), level);
        }
        self.free(table);
    }

    /// Frees all tables below one of `level`.
    pub(super) fn free_below(&self, table: &Table<'_>, level: u8) {
        if level == LAST_LEVEL {
            return;
        }
        for word in table.words.iter().map(load) {
            if F::is_table(word) {
                self.free_with_below(PhysAddr(word.wrapping_sub(F::TABLE)), level + 1);
            } else if is_retired(word) {
                self.free_with_below(table_of::<F>(word), level + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgtable::{FirstStage, SecondStage, Stage1, Stage2};

    fn check<F: Format>() {
        let ids = Ids::new();
        let table = F::table(PhysAddr(0xffff_ffff_f000 & F::ADDRESS));
        assert!(F::is_table(table) && F::is_valid(table) && !is_retired(table));
        for _ in 0..64 {
            let id = ids.take().unwrap();
            let word = retired::<F>(table, &id);
            assert!(is_retired(word) && !F::is_table(word) && !F::is_valid(word));
            assert_eq!(F::table(table_of::<F>(word)), table);
        }
        assert!(!is_retired(0));
        for bits in 0..16 {
            for level in 1..4 {
                let prot = crate::Prot::from_bits_truncate(bits | 1);
                assert!(!is_retired(F::leaf(PhysAddr(0), level, prot)));
            }
        }
    }

    #[test]
    fn a_retired_descriptor_is_nothing_else_and_keeps_the_address() {
        check::<Stage1>();
        check::<Stage2>();
        check::<FirstStage>();
        check::<SecondStage>();
    }

    #[test]
    fn a_number_is_one_unmaps_until_it_is_given_back() {
        let ids = Ids::new();
        let taken: [Id; 64] = core::array::from_fn(|_| ids.take().unwrap());
        assert!((0..64).all(|n| taken[usize::from(n)] == Id(n)));
        assert_eq!(ids.take(), None);
        ids.give(&taken[17]);
        assert_eq!((ids.take(), ids.take()), (Some(Id(17)), None));
    }
}
