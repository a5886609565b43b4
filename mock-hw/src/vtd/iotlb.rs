//! The IOTLB and the paging-structure caches (6.2): translations and pointers to tables under
//! their tags, kept until they are invalidated.

use std::collections::VecDeque;

use super::bits::mask;
use super::reason::Reason;
use super::translate::Request;
use crate::device::Access;

/// More entries than this push out the oldest.
const CAPACITY: usize = 1024;

/// What kind of translation an entry is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    PassThrough,
    Second,
    First,
}

/// Whose an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag {
    pub(super) did: u16,
    pub(super) kind: Kind,
    /// 0 in legacy mode.
    pub(super) pasid: u32,
}

impl Tag {
    /// Whether what is cached under one is found for the other: second-level translations belong to
    /// all PASIDs of a domain.
    fn serves(&self, other: &Self) -> bool {
        self.did == other.did
            && self.kind == other.kind
            && (self.kind == Kind::Second || self.pasid == other.pasid)
    }
}

/// A translation, or that there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leaf {
    /// Who asked, with the PASID of the request.
    pub(super) source: u16,
    pub(super) request: Option<u32>,
    pub(super) tag: Tag,
    /// The first address, and the number of addresses as a power of two.
    pub(super) base: u64,
    pub(super) bits: u32,
    /// Where the first address leads.
    pub(super) output: u64,
    pub(super) read: bool,
    pub(super) write: bool,
    /// Why there is none, for the accesses that are not permitted.
    pub(super) fault: Option<Reason>,
    /// Whether faults are not recorded.
    pub(super) silent: bool,
}

impl Leaf {
    pub(super) fn permits(&self, access: Access) -> bool {
        match access {
            Access::Read => self.read,
            Access::Write => self.write,
        }
    }
}

/// A pointer to a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Table {
    pub(super) tag: Tag,
    /// The first address, and the number of addresses as a power of two.
    pub(super) base: u64,
    pub(super) bits: u32,
    /// The level of the table that it points to.
    pub(super) level: u32,
    pub(super) next: u64,
    /// What the entries on the way to it permit.
    pub(super) read: bool,
    pub(super) write: bool,
}

/// What an invalidation drops (6.5.2.3, 6.5.2.4).
#[derive(Clone, Copy, Debug)]
pub(super) enum Flush {
    All,
    /// All of a domain.
    Domain(u16),
    /// The second-level translations of some pages of a domain, and all its first-level ones.
    Pages {
        did: u16,
        first: u64,
        last: u64,
        leaves: bool,
    },
    /// What is no second-level translation of a PASID in a domain.
    Pasid {
        did: u16,
        pasid: u32,
    },
    /// The first-level translations of some of its pages.
    PasidPages {
        did: u16,
        pasid: u32,
        first: u64,
        last: u64,
        leaves: bool,
    },
}

impl Flush {
    fn matches(&self, tag: &Tag, base: u64, bits: u32, is_leaf: bool) -> bool {
        let overlaps = |first: u64, last: u64| first <= base | mask(bits) && base <= last;
        match *self {
            Self::All => true,
            Self::Domain(did) => tag.did == did,
            Self::Pages { did, .. } if tag.kind == Kind::First => tag.did == did,
            Self::Pages {
                did,
                first,
                last,
                leaves,
            } => tag.did == did && overlaps(first, last) && (is_leaf || !leaves),
            Self::Pasid { did, pasid } => {
                tag.did == did && tag.pasid == pasid && tag.kind != Kind::Second
            }
            Self::PasidPages {
                did,
                pasid,
                first,
                last,
                leaves,
            } => {
                tag.did == did
                    && tag.pasid == pasid
                    && tag.kind == Kind::First
                    && overlaps(first, last)
                    && (is_leaf || !leaves)
            }
        }
    }
}

#[derive(Default)]
pub(super) struct Iotlb {
    leaves: VecDeque<Leaf>,
    tables: VecDeque<Table>,
}

fn push<T: PartialEq>(entries: &mut VecDeque<T>, entry: T) {
    if entries.contains(&entry) {
        return;
    }
    if entries.len() == CAPACITY {
        entries.pop_front();
    }
    entries.push_back(entry);
}

impl Iotlb {
    /// The oldest translation of `addr` for this source and the PASID of its request, whatever its
    /// context entry says by now; one that permits the access, if there is one.
    pub(super) fn by_source(&self, r: &Request) -> Option<Leaf> {
        self.find(r, |leaf| leaf.source == r.source && leaf.request == r.pasid)
    }

    /// The same under a tag, whichever source it was made for.
    pub(super) fn by_tag(&self, r: &Request, tag: &Tag) -> Option<Leaf> {
        self.find(r, |leaf| leaf.tag.serves(tag))
    }

    fn find(&self, r: &Request, is_for: impl Fn(&Leaf) -> bool) -> Option<Leaf> {
        let there = |leaf: &&Leaf| {
            // What another kind of access met says nothing of this one.
            let says_nothing = leaf.fault.is_some() && leaf.permits(r.access);
            is_for(leaf) && leaf.base == r.iova & !mask(leaf.bits) && !says_nothing
        };
        let mut leaves = self.leaves.iter().filter(there);
        let first = leaves.clone().next()?;
        Some(*leaves.find(|leaf| leaf.permits(r.access)).unwrap_or(first))
    }

    /// The last table on the way to `addr` that is known.
    pub(super) fn table(&self, tag: &Tag, addr: u64) -> Option<Table> {
        let tables = self.tables.iter();
        tables
            .filter(|table| table.tag.serves(tag) && table.base == addr & !mask(table.bits))
            .reduce(|a, b| if b.level < a.level { b } else { a })
            .copied()
    }

    pub(super) fn insert(&mut self, leaf: Leaf) {
        push(&mut self.leaves, leaf);
    }

    pub(super) fn insert_table(&mut self, table: Table) {
        push(&mut self.tables, table);
    }

    pub(super) fn invalidate(&mut self, what: &Flush) {
        self.leaves
            .retain(|leaf| !what.matches(&leaf.tag, leaf.base, leaf.bits, true));
        self.tables
            .retain(|table| !what.matches(&table.tag, table.base, table.bits, false));
    }
}
