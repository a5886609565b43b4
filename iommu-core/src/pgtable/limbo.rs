//! Tables that were unlinked while somebody was inside.
//!
//! They are noted down in *sheets*, blocks like tables: word 0 is the address of the next sheet, each
//! other one a table with its level, or zero. Sheets are added as they are needed and freed with the
//! page table. Nothing can be noted in the tables themselves: somebody may be writing there.

use core::sync::atomic::Ordering;

use super::Format;
use super::table::{PageTable, Table, Walker};
use crate::addr::PhysAddr;
use crate::platform::DmaMemory;
use crate::sync::{AtomicU64, AtomicUsize};

const LEVEL: u64 = 0b11;

/// What was put aside.
pub(super) struct Limbo {
    /// The first sheet, zero for none.
    sheets: AtomicU64,
    /// How many tables are noted down, or about to be.
    waiting: AtomicUsize,
}

impl Limbo {
    pub(super) fn new() -> Self {
        Self {
            sheets: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl<M: DmaMemory, F: Format> Walker<'_, M, F> {
    /// Frees what was put aside, as far as nobody is inside any more.
    pub(super) fn free_what_was_put_aside(&self) {
        if self.table.limbo.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        for word in self.table.notes() {
            let note = word.load(Ordering::Relaxed);
            if note == 0 || !exchange(word, note, 0) {
                continue;
            }
            self.table.limbo.waiting.fetch_sub(1, Ordering::Relaxed);
            let (table, level) = read(note);
            if !self.present.is_alone() {
                self.give_back(table, level);
                return;
            }
            self.table.free_with_below(table, level);
        }
    }
}

impl<M: DmaMemory, F: Format> PageTable<M, F> {
    /// Notes a table down. Whether there was memory for that.
    pub(super) fn put_aside(&self, table: PhysAddr, level: u8) -> bool {
        let note = table.0 | u64::from(level);
        self.limbo.waiting.fetch_add(1, Ordering::Relaxed);
        loop {
            if self.notes().any(|word| exchange(word, 0, note)) {
                return true;
            }
            if !self.add_sheet() {
                self.limbo.waiting.fetch_sub(1, Ordering::Relaxed);
                return false;
            }
        }
    }

    fn add_sheet(&self) -> bool {
        let Ok(sheet) = self.new_table() else {
            return false;
        };
        let link = &self.table_at(sheet).words[0];
        loop {
            let first = self.limbo.sheets.load(Ordering::Acquire);
            link.store(first, Ordering::Relaxed);
            if exchange(&self.limbo.sheets, first, sheet.0) {
                return true;
            }
        }
    }

    fn sheets(&self) -> impl Iterator<Item = Table<'_>> {
        let mut next = self.limbo.sheets.load(Ordering::Acquire);
        core::iter::from_fn(move || {
            let sheet = (next != 0).then(|| self.table_at(PhysAddr(next)))?;
            next = sheet.words[0].load(Ordering::Relaxed);
            Some(sheet)
        })
    }

    fn notes(&self) -> impl Iterator<Item = &AtomicU64> {
        self.sheets().flat_map(|sheet| &sheet.words[1..])
    }

    /// Frees what was put aside, and the sheets: when nobody is inside, and nobody will be.
    pub(super) fn free_aside(&mut self) {
        let this = &*self;
        for note in this.notes().map(|word| word.load(Ordering::Relaxed)) {
            if note != 0 {
                let (table, level) = read(note);
                this.free_with_below(table, level);
            }
        }
        // The next one is known before one is freed.
        this.sheets().for_each(|sheet| this.free(sheet.phys));
    }
}

fn read(note: u64) -> (PhysAddr, u8) {
    let [level, ..] = (note & LEVEL).to_le_bytes();
    (PhysAddr(note & !LEVEL), level)
}

fn exchange(word: &AtomicU64, from: u64, to: u64) -> bool {
    word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}
