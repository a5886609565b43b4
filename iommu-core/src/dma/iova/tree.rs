//! The map of an address space: which pages are free, and which are reserved.

use alloc::vec::Vec;

use super::chain::Chain;
use super::magazine::Batch;
use super::node::{Node, Take};
use super::word::WORD_ORDER;
use crate::error::{Error, ErrorKind, Result};

/// Pages by their numbers, both in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pages {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Pages {
    /// The pages that both have.
    pub(super) fn and(self, other: Self) -> Option<Self> {
        let both = Self {
            first: self.first.max(other.first),
            last: self.last.min(other.last),
        };
        (both.first <= both.last).then_some(both)
    }
}

pub(super) struct Tree {
    root: Node,
    height: u32,
    aperture: Pages,
    /// Sorted; no two touch.
    reserved: Vec<Pages>,
    /// What is kept back for new nodes, so that none is allocated with a lock held.
    spares: Chain,
}

impl Tree {
    /// A tree in which the pages of `aperture` are free.
    pub(super) fn new(aperture: Pages) -> Result<Self> {
        let bits = u64::BITS - aperture.last.leading_zeros();
        // The children of a root of height 1 are words.
        let height = bits.div_ceil(WORD_ORDER).max(2) - 1;
        let mut tree = Self {
            root: Node::new(height),
            height,
            aperture,
            reserved: Vec::new(),
            spares: Chain::default(),
        };
        tree.spares = Chain::new(2 * tree.path())?;
        let everything = Pages {
            first: 0,
            last: u64::MAX >> (u64::BITS - WORD_ORDER * (height + 1)),
        };
        let below = aperture
            .first
            .checked_sub(1)
            .map(|last| Pages { first: 0, last });
        let above = Pages {
            first: aperture.last + 1,
            last: everything.last,
        };
        for outside in [below, above.and(everything)].into_iter().flatten() {
            tree.mark(outside, false);
        }
        Ok(tree)
    }

    /// The most nodes that taking one block makes: one for each height but the root's.
    pub(super) fn path(&self) -> usize {
        self.height as usize - 1
    }

    /// Whether there are `nodes` spare nodes.
    pub(super) fn has_spares(&self, nodes: usize) -> bool {
        self.spares.len() >= nodes
    }

    pub(super) fn add_spares(&mut self, mut nodes: Chain) {
        self.spares.append(&mut nodes);
    }

    /// The spare nodes that are too many, for the caller to free when the lock is not held.
    #[must_use]
    pub(super) fn trim(&mut self) -> Chain {
        self.spares.split_off(2 * self.path())
    }

    /// The first page of the lowest free block of `order` below page `bound`.
    pub(super) fn find(&self, order: u32, bound: u64) -> Option<u64> {
        self.root.find(self.height, 0, order, bound)
    }

    /// Takes or frees `pages`. Freed are pages that were taken together; to take some needs a
    /// [path](Self::path) of spare nodes for each end that is no end of a free block.
    pub(super) fn mark(&mut self, pages: Pages, free: bool) {
        self.root.mark(self.height, pages, free, &mut self.spares);
    }

    /// Takes up to `wanted` of the lowest free blocks of `order` below page `bound`: the pages where
    /// they start. With a [path](Self::path) of spare nodes, that is at least one if there is
    /// one.
    pub(super) fn take(&mut self, order: u32, bound: u64, wanted: usize) -> Batch {
        let mut take = Take {
            order,
            bound,
            wanted,
            taken: Batch::EMPTY,
            spares: &mut self.spares,
        };
        self.root.take(self.height, 0, &mut take);
        take.taken
    }

    /// How long the list of windows may get by reserving `window`, and how many nodes that may take.
    pub(super) fn needs(&self, window: Pages) -> (usize, usize) {
        let gaps = gaps(&self.reserved, window).count();
        (self.reserved.len() + 1, 2 * gaps * self.path())
    }

    /// Reserves the part of `window` that lies in the aperture; what is reserved already stays so.
    /// The list of windows moves to `list`, which has as much room as [`needs`](Self::needs) says
    /// and takes what is to be freed; there are as many spare nodes.
    pub(super) fn reserve(&mut self, window: Pages, list: &mut Vec<Pages>) -> Result {
        let Some(window) = window.and(self.aperture) else {
            return Ok(());
        };
        let is_free = |gap| self.root.is_free(self.height, gap);
        if !gaps(&self.reserved, window).all(is_free) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "a part of the range is in use",
            ));
        }
        for gap in gaps(&self.reserved, window) {
            self.root.mark(self.height, gap, false, &mut self.spares);
        }
        let touches = |old: &&Pages| window.first <= old.last + 1 && old.first <= window.last + 1;
        let joined = self.reserved.iter().filter(touches);
        let joined = joined.fold(window, |joined, old| Pages {
            first: joined.first.min(old.first),
            last: joined.last.max(old.last),
        });
        let before = |old: &&Pages| old.last + 1 < window.first;
        let after = |old: &&Pages| old.first > window.last + 1;
        list.extend(self.reserved.iter().filter(before));
        list.push(joined);
        list.extend(self.reserved.iter().filter(after));
        core::mem::swap(&mut self.reserved, list);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn nodes(&self) -> usize {
        self.root.count()
    }
}

/// The parts of `window` that none of `reserved`, sorted windows that do not touch, covers.
fn gaps(reserved: &[Pages], window: Pages) -> impl Iterator<Item = Pages> {
    let starts = reserved.iter().map(|taken| taken.first);
    let ends = reserved.iter().map(|taken| taken.last + 1);
    core::iter::once(0)
        .chain(ends)
        .zip(starts.chain([u64::MAX]))
        .filter_map(move |(first, end)| {
            let last = end.checked_sub(1)?;
            Pages { first, last }.and(window)
        })
}
