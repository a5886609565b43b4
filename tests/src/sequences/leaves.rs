//! A paging domain as a plain list of leaves: what it has to map, refuse and allocate.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use iommu_core::{ErrorKind, Prot};

use super::ops::Op;
use super::{G1, K4, M2};

/// A page or a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leaf {
    pub(super) size: u64,
    pub(super) phys: u64,
    pub(super) prot: Prot,
}

/// What is mapped, by leaves, and which tables are there.
#[derive(Clone, Debug)]
pub(super) struct Leaves {
    /// The sizes of leaves, a bit for each.
    sizes: u64,
    resizable: bool,
    leaves: BTreeMap<u64, Leaf>,
    /// Tables that lie below entries of 1 GiB and of 2 MiB: what each spans, and from where on.
    tables: BTreeSet<(u64, u64)>,
}

impl Leaves {
    /// Nothing, for hardware with leaves of `sizes` that copes with their being split and merged, or
    /// does not.
    pub(super) fn new(sizes: u64, resizable: bool) -> Self {
        Self {
            sizes,
            resizable,
            leaves: BTreeMap::new(),
            tables: BTreeSet::new(),
        }
    }

    /// The number of tables.
    pub(super) fn tables(&self) -> usize {
        self.tables.len()
    }

    /// The leaf that `iova` is in, and where it begins.
    pub(super) fn find(&self, iova: u64) -> Option<(u64, Leaf)> {
        let (&at, &leaf) = self.leaves.range(..=iova).next_back()?;
        (iova - at < leaf.size).then_some((at, leaf))
    }

    /// Where an access to `iova` goes, and what it may do.
    pub(super) fn translate(&self, iova: u64) -> Option<(u64, Prot)> {
        let (at, leaf) = self.find(iova)?;
        Some((leaf.phys + (iova - at), leaf.prot))
    }

    /// Whether leaves can be split and merged.
    pub(super) fn is_resizable(&self) -> bool {
        self.resizable
    }

    /// Whether nothing is mapped.
    pub(super) fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// Leaf number `n` of all, counted around.
    pub(super) fn nth(&self, n: usize) -> Option<(u64, Leaf)> {
        nth(self.leaves.iter(), n).map(|(&at, &leaf)| (at, leaf))
    }

    /// The same of those that are larger than a page.
    pub(super) fn nth_block(&self, n: usize) -> Option<(u64, Leaf)> {
        let blocks = self.leaves.iter().filter(|(_, leaf)| leaf.size > K4);
        nth(blocks, n).map(|(&at, &leaf)| (at, leaf))
    }

    /// Table number `n` of all, counted around: what it spans, and from where on.
    pub(super) fn nth_table(&self, n: usize) -> Option<(u64, u64)> {
        nth(self.tables.iter(), n).copied()
    }

    /// The same of those whose leaves make up one block.
    pub(super) fn nth_block_of_leaves(&self, n: usize) -> Option<(u64, u64)> {
        let blocks = self.tables.iter();
        let blocks = blocks.filter(|(size, at)| self.block(*at, *size).is_some());
        nth(blocks, n).copied()
    }

    /// All that is mapped without a gap around `iova`.
    pub(super) fn run(&self, iova: u64) -> Option<Range<u64>> {
        let (mut start, leaf) = self.find(iova)?;
        let mut end = start + leaf.size;
        while let Some((at, _)) = start.checked_sub(1).and_then(|below| self.find(below)) {
            start = at;
        }
        while let Some((at, leaf)) = self.find(end) {
            end = at + leaf.size;
        }
        Some(start..end)
    }

    /// Does what the domain has to do.
    pub(super) fn apply(&mut self, op: Op) -> Result<(), ErrorKind> {
        match op {
            Op::Map {
                iova,
                phys,
                len,
                prot,
            } => {
                let mapped = self.map(iova, phys, len, prot);
                if mapped == len {
                    return Ok(());
                }
                // All of it or nothing.
                self.unmap(iova, mapped)?;
                Err(ErrorKind::AlreadyExists)
            }
            Op::Unmap { iova, len } => self.unmap(iova, len),
            Op::Protect { iova, len, prot } => {
                for at in self.whole(iova, len)? {
                    self.leaves.entry(at).and_modify(|leaf| leaf.prot = prot);
                }
                Ok(())
            }
            Op::Split { iova } => self.split(iova),
            Op::Merge { iova, size } => self.merge(iova, size),
        }
    }

    /// Maps by the largest leaves that fit and no table is in the way of; how much of it.
    fn map(&mut self, iova: u64, phys: u64, len: u64, prot: Prot) -> u64 {
        let mut done = 0;
        while done < len && self.find(iova + done).is_none() {
            let (at, phys) = (iova + done, phys + done);
            for size in [G1, M2, K4] {
                let fits = self.sizes & size != 0
                    && (at | phys).is_multiple_of(size)
                    && len - done >= size;
                let table = (size, at & !(size - 1));
                if fits && !self.tables.contains(&table) {
                    self.leaves.insert(at, Leaf { size, phys, prot });
                    done += size;
                    break;
                }
                self.tables.insert(table);
            }
        }
        done
    }

    /// Where the leaves of a range begin that consists of whole ones.
    fn whole(&self, iova: u64, len: u64) -> Result<Vec<u64>, ErrorKind> {
        let (mut at, end) = (iova, iova + len);
        let mut all = Vec::new();
        while at < end {
            let (start, leaf) = self.find(at).ok_or(ErrorKind::NotFound)?;
            if start != at || at + leaf.size > end {
                return Err(ErrorKind::InvalidArgument);
            }
            all.push(at);
            at += leaf.size;
        }
        Ok(all)
    }

    fn unmap(&mut self, iova: u64, len: u64) -> Result<(), ErrorKind> {
        for at in self.whole(iova, len)? {
            self.leaves.remove(&at);
        }
        // Tables go with all that they span.
        let spanned = |span: u64, at: u64| iova <= at && at + span <= iova + len;
        self.tables.retain(|&(span, at)| !spanned(span, at));
        Ok(())
    }

    fn split(&mut self, iova: u64) -> Result<(), ErrorKind> {
        if !self.resizable {
            return Err(ErrorKind::Unsupported);
        }
        let (at, leaf) = self.find(iova).ok_or(ErrorKind::NotFound)?;
        let size = leaf.size >> 9;
        if self.sizes & size == 0 {
            return Err(ErrorKind::InvalidArgument);
        }
        for offset in (0..leaf.size).step_by(1 << size.trailing_zeros()) {
            let phys = leaf.phys + offset;
            self.leaves.insert(at + offset, Leaf { size, phys, ..leaf });
        }
        self.tables.insert((leaf.size, at));
        Ok(())
    }

    fn merge(&mut self, iova: u64, size: u64) -> Result<(), ErrorKind> {
        if !self.resizable || self.sizes & size == 0 {
            return Err(ErrorKind::Unsupported);
        }
        if !self.tables.contains(&(size, iova)) {
            return Err(ErrorKind::NotFound);
        }
        let block = self.block(iova, size).ok_or(ErrorKind::InvalidArgument)?;
        self.leaves
            .retain(|at, _| !(iova..iova + size).contains(at));
        self.leaves.insert(iova, block);
        self.tables.remove(&(size, iova));
        Ok(())
    }

    /// The one block that the leaves of the table from `iova` on make up.
    fn block(&self, iova: u64, size: u64) -> Option<Leaf> {
        let below = size >> 9;
        let first = self.leaves.get(&iova)?;
        let alike = |at: u64| {
            let phys = first.phys + at;
            self.leaves.get(&(iova + at)) == Some(&Leaf { phys, ..*first })
        };
        let fits = first.size == below && first.phys.is_multiple_of(size);
        let all = fits && (0..512).all(|n| alike(n * below));
        all.then_some(Leaf { size, ..*first })
    }
}

/// Element `n`, counted around.
fn nth<T>(all: impl Iterator<Item = T> + Clone, n: usize) -> Option<T> {
    let n = n.checked_rem(all.clone().count())?;
    all.clone().nth(n)
}
