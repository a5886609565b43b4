//! The page table: its root, and how to come from a descriptor to the table below.

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use super::limbo::Limbo;
use super::presence::{Presence, Present};
use super::reclaim::Ids;
use super::{Format, LAST_LEVEL, span, span_shift, table_size};
use crate::addr::{AddrRange, Iova, PhysAddr};
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::memory::DmaBlock;
use crate::platform::DmaMemory;
use crate::sync::AtomicU64;

/// A page table that hardware may be walking at any time. The [module](super) says how several CPUs
/// use one at once.
///
/// Every descriptor changes by one single-copy-atomic store. A new table is complete before the
/// descriptor that points to it is stored, and one that is linked no more stays as it was until the
/// invalidation that covers it has completed.
///
/// Dropping the page table frees it: only after hardware was told to forget it and confirmed.
pub struct PageTable<M: DmaMemory, F: Format> {
    root: DmaBlock<M>,
    root_level: u8,
    input_bits: u32,
    output_bits: u32,
    /// The bits that no address has that can be mapped, and none that can be mapped to.
    not_input: u64,
    not_output: u64,
    /// The same of addresses of pages.
    not_page_in: u64,
    not_page_out: u64,
    page_sizes: u64,
    resizable: bool,
    leaked: bool,
    pub(super) ids: Ids,
    pub(super) limbo: Limbo,
    presence: Presence,
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
        let (least, most) = F::INPUT_BITS;
        if !(least..=most).contains(&input_bits) || output_bits > 48 {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "input addresses of 32 to 48 bits",
            ));
        }
        let widest = F::INDEX_BITS + F::MAX_ROOT_TABLES.ilog2();
        let (first, mut root_level) = F::ROOT_LEVELS;
        while root_level > first && input_bits > span_shift::<F>(root_level) + widest {
            root_level -= 1;
        }
        let entries = 1_usize << (input_bits - span_shift::<F>(root_level));
        let size = (entries * 8).max(table_size::<F>());
        let root = DmaBlock::new(memory, size, size, "a page table's root")?.below(output_bits)?;
        Ok(Self {
            root,
            root_level,
            input_bits,
            output_bits,
            not_input: u64::MAX << input_bits,
            not_output: u64::MAX << output_bits,
            not_page_in: u64::MAX << input_bits | (span::<F>(LAST_LEVEL) - 1),
            not_page_out: u64::MAX << output_bits | (span::<F>(LAST_LEVEL) - 1),
            page_sizes: F::PAGE_SIZES,
            resizable: false,
            leaked: false,
            ids: Ids::new(),
            limbo: Limbo::new(),
            presence: Presence::new(),
            format: PhantomData,
        })
    }

    /// The table, where the hardware knows no pages but those of `sizes`: a bit for each, of
    /// [`Format::PAGE_SIZES`]. It always knows the smallest.
    #[must_use]
    pub fn with_page_sizes(mut self, sizes: u64) -> Self {
        self.page_sizes = sizes & F::PAGE_SIZES | 1 << F::PAGE_SHIFT;
        self
    }

    /// The table, where the hardware copes with a block that becomes a table of the same
    /// translations, or the other way, without having been invalid in between: level 2 of Arm's
    /// break-before-make levels (`SMMU_IDR3.BBML`, SMMUv3 3.21.1.3), and all of VT-d, which goes by
    /// either until it is told to invalidate (VT-d 6.2.4, 6.5.3.3). Others cannot
    /// [`split`](Walker::split) and [`merge`](Walker::merge).
    #[must_use]
    pub fn with_live_resizing(mut self) -> Self {
        self.resizable = true;
        self
    }

    /// Where hardware starts the walk.
    #[must_use]
    pub fn root(&self) -> PhysAddr {
        self.root.addr()
    }

    /// The level of the root.
    #[must_use]
    pub fn root_level(&self) -> u8 {
        self.root_level
    }

    /// The number of bits of an input address.
    #[must_use]
    pub fn input_bits(&self) -> u32 {
        self.input_bits
    }

    /// The sizes of leaves, a bit for each.
    #[must_use]
    pub fn page_sizes(&self) -> u64 {
        self.page_sizes
    }

    /// The size of the smallest leaf: the unit of every range.
    #[must_use]
    #[inline(always)]
    pub const fn page_size(&self) -> u64 {
        span::<F>(LAST_LEVEL)
    }

    /// The way in for everything that looks at mappings or changes them. `cpu` is the number of the
    /// CPU this runs on: a hint, that keeps CPUs out of each other's way.
    ///
    /// No table that was unmapped is freed while others are inside, so go through with what there
    /// is to do and come out again; not for waits.
    ///
    /// Context: any, interrupt-safe.
    #[inline(always)]
    pub fn enter(&self, cpu: usize) -> Walker<'_, M, F> {
        Walker {
            table: self,
            present: self.presence.enter(cpu),
        }
    }

    /// Never frees the tables, when dropped either: hardware may go on walking them.
    pub fn leak(&mut self) {
        self.root.leak();
        self.leaked = true;
    }

    pub(super) fn memory(&self) -> &M {
        self.root.memory()
    }

    /// Whether `len` is that of a page, and this the address of one within the table.
    #[inline(always)]
    pub(super) fn is_page(&self, iova: Iova, len: u64) -> bool {
        len == span::<F>(LAST_LEVEL) && iova.0 & self.not_page_in == 0
    }

    /// The same, and the address of a page that hardware can address.
    #[inline(always)]
    pub(super) fn is_page_to(&self, iova: Iova, phys: PhysAddr, len: u64) -> bool {
        let wrong = iova.0 & self.not_page_in | phys.0 & self.not_page_out;
        wrong | len ^ span::<F>(LAST_LEVEL) == 0
    }

    /// Whether this is a range of whole pages within the table.
    #[inline(always)]
    pub(super) fn is_range(&self, iova: Iova, len: u64) -> bool {
        is_within::<F>(iova.0, len, self.not_input)
    }

    /// Whether this is a range of whole pages that hardware can address.
    #[inline(always)]
    pub(super) fn is_target(&self, phys: PhysAddr, len: u64) -> bool {
        is_within::<F>(phys.0, len, self.not_output)
    }

    /// Why a range is refused.
    #[cold]
    pub(super) fn refuse(&self, iova: Iova, len: u64) -> Error {
        refused::<F>(iova.0, len, self.input_bits, Culprit::Iova(iova))
    }

    /// Why a mapping is refused.
    #[cold]
    pub(super) fn refuse_map(&self, iova: Iova, phys: PhysAddr, len: u64) -> Error {
        match self.is_range(iova, len) {
            false => self.refuse(iova, len),
            true => refused::<F>(phys.0, len, self.output_bits, Culprit::Phys(phys)),
        }
    }

    pub(super) fn is_resizable(&self) -> bool {
        self.resizable
    }

    /// The root, for addresses of no more than the input's bits.
    #[inline(always)]
    pub(super) fn root_table(&self) -> Table<'_> {
        Table {
            words: self.root.words(),
            phys: self.root.addr(),
        }
    }

    /// The table that a descriptor points to, of which [`Format::is_table`] is true.
    ///
    /// For who was inside before it loaded the descriptor, or is alone with the page table.
    #[inline(always)]
    pub(super) fn table(&self, descriptor: u64) -> Table<'_> {
        self.table_at(PhysAddr(descriptor.wrapping_sub(F::TABLE)))
    }

    #[inline(always)]
    pub(super) fn table_at(&self, phys: PhysAddr) -> Table<'_> {
        let base = self.memory().pointer(phys).cast::<AtomicU64>();
        // SAFETY: `phys` is that of a table that this page table allocated. It is not freed while
        // somebody is inside who may have found it linked, and all accesses to it are atomic.
        let words = unsafe { core::slice::from_raw_parts(base.as_ptr(), 1 << F::INDEX_BITS) };
        Table { words, phys }
    }

    pub(super) fn new_table(&self) -> Result<PhysAddr> {
        let size = table_size::<F>();
        let table = DmaBlock::new(self.memory(), size, size, "a page table")?;
        Ok(table.below(self.output_bits)?.into_addr())
    }

    /// Gives a table back.
    ///
    /// For tables that nobody can find any more, that nobody is inside of, and that hardware has
    /// forgotten.
    pub(super) fn free(&self, table: PhysAddr) {
        let size = table_size::<F>();
        // SAFETY: `new_table` allocated it with this size and alignment. That nobody uses it is
        // what each caller has seen to.
        unsafe { self.memory().free(table, size, size) };
    }

    #[inline(always)]
    pub(super) fn store(&self, word: &AtomicU64, descriptor: u64) {
        self.memory().store_word(word, descriptor.to_le());
    }

    /// Changes a descriptor above the last level; whether it was still `from`.
    #[must_use]
    #[inline(always)]
    pub(super) fn exchange(&self, word: &AtomicU64, from: u64, to: u64) -> bool {
        self.try_exchange(word, from, to).is_ok()
    }

    /// The same; what it was, `from` or not.
    #[inline(always)]
    pub(super) fn try_exchange(
        &self,
        word: &AtomicU64,
        from: u64,
        to: u64,
    ) -> core::result::Result<u64, u64> {
        word.compare_exchange(from.to_le(), to.to_le(), Ordering::SeqCst, Ordering::SeqCst)
            .map(u64::from_le)
            .map_err(u64::from_le)
    }

    /// Lets hardware see `count` descriptors of a table, where it does not by itself.
    #[inline(always)]
    pub(super) fn clean(&self, table: &Table<'_>, first: usize, count: usize) {
        if !self.memory().is_coherent() {
            let at = PhysAddr(table.phys.0 + first as u64 * 8);
            self.memory().clean(at, count * 8);
        }
    }

    /// The last level's table on the way to `iova`, and the index there, if all tables are.
    #[inline(always)]
    pub(super) fn last_table(&self, iova: Iova) -> Option<(Table<'_>, usize)> {
        // One piece of code for each root, so that all shifts are known in it.
        let word = match self.root_level {
            0 => {
                let word = self.below(self.in_root(iova, 0)?, iova, 1)?;
                self.below(word, iova, 2)?
            }
            1 => self.below(self.in_root(iova, 1)?, iova, 2)?,
            _ => self.in_root(iova, 2)?,
        };
        let table = F::is_table(word).then(|| self.table(word))?;
        let index = table.index::<F>(iova.0, LAST_LEVEL);
        Some((table, index))
    }

    #[inline(always)]
    fn in_root(&self, iova: Iova, level: u8) -> Option<u64> {
        let index = index_of(iova.0 >> span_shift::<F>(level));
        Some(load(self.root.words().get(index)?))
    }

    #[inline(always)]
    fn below(&self, word: u64, iova: Iova, level: u8) -> Option<u64> {
        let table = F::is_table(word).then(|| self.table(word))?;
        Some(load(&table.words[table.index::<F>(iova.0, level)]))
    }
}

impl<M: DmaMemory, F: Format> Drop for PageTable<M, F> {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        self.free_aside();
        self.free_below(&self.root_table(), self.root_level);
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

/// Somebody inside a [`PageTable`].
pub struct Walker<'a, M: DmaMemory, F: Format> {
    pub(super) table: &'a PageTable<M, F>,
    pub(super) present: Present<'a>,
}

impl<M: DmaMemory, F: Format> fmt::Debug for Walker<'_, M, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inside {:?}", self.table)
    }
}

/// One table.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    pub(super) words: &'a [AtomicU64],
    pub(super) phys: PhysAddr,
}

impl Table<'_> {
    /// Where the descriptor of an address is. A root has as many as it needs, a power of two.
    #[inline(always)]
    pub(super) fn index<F: Format>(&self, addr: u64, level: u8) -> usize {
        index_of(addr >> span_shift::<F>(level)) & (self.words.len() - 1)
    }
}

/// Why a range is refused that is not one of whole pages below 2^`bits`.
#[cold]
fn refused<F: Format>(start: u64, len: u64, bits: u32, culprit: Culprit) -> Error {
    let pages = (start | len) & (span::<F>(LAST_LEVEL) - 1) == 0;
    let (kind, reason) = match AddrRange::new(start, len) {
        None => (
            ErrorKind::InvalidArgument,
            "the range is empty or wraps around",
        ),
        Some(_) if !pages => (
            ErrorKind::InvalidArgument,
            "address and length must be multiples of the page size",
        ),
        Some(range) if range.last() >> bits != 0 => (
            ErrorKind::OutOfRange,
            "beyond what the tables or the hardware can address",
        ),
        Some(_) => (
            ErrorKind::InvalidArgument,
            "a mapping that allows neither read nor write",
        ),
    };
    Error::new(kind, reason).of(culprit)
}

/// Whether a range is not empty, made of whole pages, and has no address with a bit of `not`, which
/// are all from some bit on.
#[inline(always)]
fn is_within<F: Format>(start: u64, len: u64, not: u64) -> bool {
    // Where the first address, the last one, and their distance have none of these bits, it does not
    // wrap around. An empty range is one less than nothing long.
    let more = len.wrapping_sub(1);
    let high = (start | more | start.wrapping_add(more)) & not;
    high | (start | len) & (span::<F>(LAST_LEVEL) - 1) == 0
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "masked, or checked against the number of descriptors"
)]
#[inline(always)]
fn index_of(index: u64) -> usize {
    index as usize
}

/// Loads a descriptor above the last level; see [`Presence`] for the order.
#[inline(always)]
pub(super) fn load(word: &AtomicU64) -> u64 {
    u64::from_le(word.load(Ordering::SeqCst))
}
