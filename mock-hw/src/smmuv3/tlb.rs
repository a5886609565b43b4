//! The TLB: translations and table pointers under their tags, kept until they are invalidated.

use std::collections::VecDeque;

use super::bits::mask;
use super::walk::{Limits, Permissions, Stage1Permissions};

/// More entries than this push out the oldest.
const CAPACITY: usize = 1024;

/// What addresses an entry translates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Space {
    /// Virtual addresses, through stage 1 and, where nested, stage 2.
    Virtual,
    /// Intermediate addresses, through stage 2.
    Intermediate,
}

/// Whose an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag {
    pub(super) space: Space,
    /// Of the hypervisor's regime (NS-EL2) instead of the guests' (NS-EL1).
    pub(super) hypervisor: bool,
    pub(super) vmid: u16,
    /// The ASID and its set; `None` where the regime has no ASIDs.
    pub(super) asid: Option<(u16, bool)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    /// The next level's table, and what the tables above it forbid.
    Table {
        next: u64,
        limits: Limits,
    },
    Leaf(Leaf),
}

/// A translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leaf {
    /// Where the first byte goes.
    pub(super) output: u64,
    /// What stage 1 made of the first byte's address.
    pub(super) intermediate: u64,
    pub(super) stage1: Stage1Permissions,
    pub(super) stage2: Permissions,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) tag: Tag,
    /// Whether it holds for every ASID of its set.
    pub(super) global: bool,
    /// The first address.
    pub(super) base: u64,
    /// The number of addresses, as a power of two.
    pub(super) bits: u32,
    /// The number of addresses of the descriptor it was made from: larger than `bits` where stage 2
    /// has smaller pages. An invalidation of any of them concerns this entry.
    pub(super) span_bits: u32,
    pub(super) granule_bits: u32,
    /// The level of that descriptor.
    pub(super) level: u32,
    pub(super) content: Content,
}

/// What a command invalidates; every condition that is given has to hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tlbi {
    pub(super) hypervisor: bool,
    /// `None` for both.
    pub(super) space: Option<Space>,
    pub(super) vmid: Option<u16>,
    pub(super) asid: Option<u16>,
    /// Whether global entries match any ASID.
    pub(super) globals: bool,
    /// First and last address.
    pub(super) range: Option<(u64, u64)>,
    pub(super) leaf_only: bool,
    pub(super) granule_bits: Option<u32>,
    pub(super) level: Option<u32>,
}

impl Tlbi {
    /// Everything of a regime.
    pub(super) const fn all(hypervisor: bool) -> Self {
        Self {
            hypervisor,
            space: None,
            vmid: None,
            asid: None,
            globals: true,
            range: None,
            leaf_only: false,
            granule_bits: None,
            level: None,
        }
    }

    fn matches(&self, entry: &Entry) -> bool {
        let tag = &entry.tag;
        let asid = match (self.asid, tag.asid) {
            (None, _) | (Some(_), None) => true,
            (Some(_), Some(_)) if entry.global => self.globals,
            (Some(wanted), Some((asid, _))) => wanted == asid,
        };
        let depth = match entry.content {
            Content::Leaf(_) => self.level.is_none_or(|level| level == entry.level),
            Content::Table { .. } => {
                !self.leaf_only && self.level.is_none_or(|level| entry.level < level)
            }
        };
        let first = entry.base & !mask(entry.span_bits);
        let last = entry.base | mask(entry.span_bits);
        asid && depth
            && self.hypervisor == tag.hypervisor
            && self.space.is_none_or(|space| space == tag.space)
            && self.vmid.is_none_or(|vmid| vmid == tag.vmid)
            && self
                .granule_bits
                .is_none_or(|bits| bits == entry.granule_bits)
            && self
                .range
                .is_none_or(|range| range.0 <= last && first <= range.1)
    }
}

impl Entry {
    fn covers(&self, tag: &Tag, addr: u64) -> bool {
        // A global entry belongs to its set of ASIDs, any other to its ASID in both sets (3.17).
        let by = |tag: &Tag| {
            tag.asid
                .map(|(asid, set)| if self.global { (0, set) } else { (asid, false) })
        };
        let regime = |tag: &Tag| Tag { asid: None, ..*tag };
        regime(&self.tag) == regime(tag)
            && by(&self.tag) == by(tag)
            && self.base == addr & !mask(self.bits)
    }
}

#[derive(Default)]
pub(super) struct Tlb {
    entries: VecDeque<Entry>,
}

impl Tlb {
    /// The translation of `addr`; the oldest one, should there be several. And whether there are
    /// several that differ, or that the hardware cannot tell apart (3.20.1): the same translation
    /// twice is harmless only where sizes may change without break-before-make.
    pub(super) fn leaf(
        &self,
        tag: &Tag,
        addr: u64,
        sizes_may_change: bool,
    ) -> Option<(Leaf, bool)> {
        let mut leaves = self.entries.iter().filter_map(|entry| match entry.content {
            Content::Leaf(leaf) if entry.covers(tag, addr) => {
                let offset = addr & mask(entry.bits);
                let (output, intermediate) = (leaf.output | offset, leaf.intermediate | offset);
                Some(Leaf {
                    output,
                    intermediate,
                    ..leaf
                })
            }
            _ => None,
        });
        let first = leaves.next()?;
        Some((first, leaves.any(|leaf| !sizes_may_change || leaf != first)))
    }

    /// The last table on the way to `addr` that is known, with its level.
    pub(super) fn table(
        &self,
        tag: &Tag,
        addr: u64,
        granule_bits: u32,
    ) -> Option<(u64, u32, Limits)> {
        let tables = self.entries.iter().filter_map(|entry| match entry.content {
            Content::Table { next, limits }
                if entry.granule_bits == granule_bits && entry.covers(tag, addr) =>
            {
                Some((next, entry.level + 1, limits))
            }
            _ => None,
        });
        tables.reduce(|a, b| if b.1 > a.1 { b } else { a })
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        if self.entries.len() == CAPACITY {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    pub(super) fn invalidate(&mut self, what: &Tlbi) {
        self.entries.retain(|entry| !what.matches(entry));
    }
}
