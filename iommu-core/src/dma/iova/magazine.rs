//! Small stacks of ranges of one size.

use core::ops::{Index, IndexMut};

/// How many sizes are kept in magazines: 1 page to 2^10.
pub(super) const ORDERS: u32 = 11;

/// The most ranges that move between a magazine and the tree at a time.
pub(super) const BATCH: usize = 16;

/// The most pages that are taken from the tree at a time to fill a magazine with: a small address
/// space is not used up by one CPU that needs little of it.
const BATCH_PAGES: usize = 512;

/// How many ranges of `order` to take from the tree at a time.
pub(super) fn batch_size(order: u32) -> usize {
    (BATCH_PAGES >> order).clamp(1, BATCH)
}

/// Where free ranges of one size start, the last freed on top.
pub(super) struct Stack<const N: usize> {
    len: usize,
    starts: [u64; N],
}

/// What one CPU keeps of one size: 256 bytes with the length.
pub(super) type Magazine = Stack<{ 2 * BATCH - 1 }>;

/// What is on its way between a magazine and the tree.
pub(super) type Batch = Stack<BATCH>;

impl<const N: usize> Stack<N> {
    pub(super) const EMPTY: Self = Self {
        len: 0,
        starts: [0; N],
    };

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes the range on top, where it `fits`.
    #[inline(always)]
    pub(super) fn pop_if(&mut self, fits: impl FnOnce(u64) -> bool) -> Option<u64> {
        // An empty stack has its top where no stack has anything.
        let top = self.len.wrapping_sub(1);
        let start = *self.starts.get(top)?;
        if !fits(start) {
            return None;
        }
        self.len = top;
        Some(start)
    }

    /// Takes the range on top.
    pub(super) fn pop(&mut self) -> Option<u64> {
        self.pop_if(|_| true)
    }

    /// Keeps a range, if there is room.
    #[inline(always)]
    pub(super) fn push(&mut self, start: u64) -> bool {
        let Some(top) = self.starts.get_mut(self.len) else {
            return false;
        };
        *top = start;
        self.len += 1;
        true
    }

    /// Moves the ranges that were kept longest, as many as a batch holds.
    pub(super) fn spill(&mut self) -> Batch {
        let mut batch = Batch::EMPTY;
        let count = self.len.min(BATCH);
        for start in &self.starts[..count] {
            batch.push(*start);
        }
        self.starts.copy_within(count..self.len, 0);
        self.len -= count;
        batch
    }
}

/// A magazine for each order.
pub(super) struct Magazines([Magazine; ORDERS as usize]);

impl Magazines {
    pub(super) const EMPTY: Self = Self([const { Magazine::EMPTY }; ORDERS as usize]);
}

impl Index<u32> for Magazines {
    type Output = Magazine;
    #[inline(always)]
    fn index(&self, order: u32) -> &Magazine {
        &self.0[order as usize]
    }
}

impl IndexMut<u32> for Magazines {
    #[inline(always)]
    fn index_mut(&mut self, order: u32) -> &mut Magazine {
        &mut self.0[order as usize]
    }
}
