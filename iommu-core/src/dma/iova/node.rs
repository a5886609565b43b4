//! One node of the tree: 64 children, which are words of the bitmap or nodes.
//!
//! Pages are counted by *order*: a block of order *n* is 2^n pages, aligned to as many. A node of
//! height *h* has children of order 6*h*; those of height 1 are words with a bit for each page.

use super::chain::{Chain, NodeBox};
use super::magazine::Batch;
use super::tree::Pages;
use super::word::{WORD_ORDER, bits, ones, room_in, runs};

/// How many children a node has.
const FANOUT: usize = 1 << WORD_ORDER;

/// The order of each of the children of a node.
const fn child_order(height: u32) -> u32 {
    WORD_ORDER * height
}

/// The bits of `pages`, which lie in one word.
fn bits_of(pages: Pages) -> u64 {
    bits(pages.first % 64, pages.last % 64)
}

/// A part of the address space: which of its pages are free.
pub(super) struct Node {
    /// The children that are free as a whole.
    free: u64,
    /// For each child, the order of the largest free block in it plus one; 0 where nothing is free.
    room: [u8; FANOUT],
    children: Children,
    /// The next node in a [`Chain`].
    pub(super) next: Option<NodeBox>,
}

/// Taking several blocks of one order.
pub(super) struct Take<'a> {
    pub(super) order: u32,
    /// The first page that is too high.
    pub(super) bound: u64,
    /// How many blocks to take, at most a batch.
    pub(super) wanted: usize,
    /// Where the blocks start.
    pub(super) taken: Batch,
    /// Nodes to make use of. Where none is left that would be needed, no more is taken.
    pub(super) spares: &'a mut Chain,
}

impl Take<'_> {
    fn is_done(&self) -> bool {
        self.taken.len() >= self.wanted
    }

    fn fits(&self, start: u64) -> bool {
        start + (1 << self.order) <= self.bound
    }
}

enum Children {
    Words([u64; FANOUT]),
    /// There are nodes only for children that are free in part. One that is taken as a whole was
    /// taken, and will be freed, by one range.
    Nodes([Option<NodeBox>; FANOUT]),
}

impl Node {
    /// A node of `height` that is free as a whole.
    pub(super) fn new(height: u32) -> Self {
        let mut node = Self {
            free: 0,
            room: [0; FANOUT],
            children: Children::Words([0; FANOUT]),
            next: None,
        };
        node.clear(height);
        node
    }

    pub(super) fn clear(&mut self, height: u32) {
        self.free = u64::MAX;
        self.room = [whole(height); FANOUT];
        self.children = match height {
            1 => Children::Words([u64::MAX; FANOUT]),
            _ => Children::Nodes([const { None }; FANOUT]),
        };
    }

    /// The order of the largest free block plus one, or 0.
    pub(super) fn room(&self, height: u32) -> u8 {
        match room_in(self.free) {
            0 => self.room.iter().copied().fold(0, u8::max),
            children => whole(height) - 1 + children,
        }
    }

    fn note(&mut self, child: usize, room: u8, height: u32) {
        self.room[child] = room;
        let bit = 1 << child;
        if room == whole(height) {
            self.free |= bit;
        } else {
            self.free &= !bit;
        }
    }

    /// The first page of the lowest free block of `order` that ends at `bound` at the latest.
    /// `base` is the node's own first page.
    pub(super) fn find(&self, height: u32, base: u64, order: u32, bound: u64) -> Option<u64> {
        let unit = child_order(height);
        let fits = |start: &u64| start + (1 << order) <= bound;
        if let Some(order) = order.checked_sub(unit) {
            let child = ones(runs(self.free, order)).next()?;
            return Some(base + ((child as u64) << unit)).filter(fits);
        }
        // Only the last child below the bound can have room and not fit.
        (0..FANOUT)
            .filter(|&child| u32::from(self.room[child]) > order)
            .map(|child| (child, base + ((child as u64) << unit)))
            .take_while(|(_, start)| fits(start))
            .find_map(|(child, start)| match &self.children {
                Children::Words(words) => {
                    let page = ones(runs(words[child], order)).next()?;
                    Some(start + page as u64).filter(fits)
                }
                Children::Nodes(nodes) => match &nodes[child] {
                    Some(node) => node.find(height - 1, start, order, bound),
                    None => Some(start),
                },
            })
    }

    /// Whether all of `pages`, which lie in this node, are free.
    pub(super) fn is_free(&self, height: u32, pages: Pages) -> bool {
        parts(height, pages).all(|part| match part {
            Part::Whole(children) => self.free | !children == u64::MAX,
            Part::Of(child, pages) => match &self.children {
                Children::Words(words) => words[child] | !bits_of(pages) == u64::MAX,
                Children::Nodes(nodes) => match &nodes[child] {
                    Some(node) => node.is_free(height - 1, pages),
                    None => self.free & 1 << child != 0,
                },
            },
        })
    }

    /// Takes or frees `pages`, which lie in this node. Nodes that this needs come from `spares`,
    /// and those that it no longer needs go there: at most one for each height and each end of the
    /// range that is not an end of a child.
    pub(super) fn mark(&mut self, height: u32, pages: Pages, free: bool, spares: &mut Chain) {
        for part in parts(height, pages) {
            match part {
                Part::Whole(children) => self.mark_children(height, children, free),
                Part::Of(child, pages) => {
                    let room = self.mark_part(height, child, pages, free, spares);
                    self.note(child, room, height);
                }
            }
        }
    }

    fn mark_children(&mut self, height: u32, children: u64, free: bool) {
        let room = if free { whole(height) } else { 0 };
        for child in ones(children) {
            self.room[child] = room;
            if let Children::Words(words) = &mut self.children {
                words[child] = if free { u64::MAX } else { 0 };
            }
        }
        self.free = if free {
            self.free | children
        } else {
            self.free & !children
        };
    }

    /// What room the child has afterwards.
    fn mark_part(
        &mut self,
        height: u32,
        child: usize,
        pages: Pages,
        free: bool,
        spares: &mut Chain,
    ) -> u8 {
        match &mut self.children {
            Children::Words(words) => {
                let word = &mut words[child];
                *word = if free {
                    *word | bits_of(pages)
                } else {
                    *word & !bits_of(pages)
                };
                room_in(*word)
            }
            Children::Nodes(nodes) => {
                let node = if free {
                    nodes[child].as_deref_mut()
                } else {
                    spares.install(&mut nodes[child], height - 1)
                };
                let Some(node) = node else {
                    // Nothing of it was taken.
                    return self.room[child];
                };
                node.mark(height - 1, pages, free, spares);
                let room = node.room(height - 1);
                if room == whole(height) {
                    spares.extend(nodes[child].take());
                }
                room
            }
        }
    }

    /// Takes blocks as `take` asks for, lowest first.
    pub(super) fn take(&mut self, height: u32, base: u64, take: &mut Take<'_>) {
        let unit = child_order(height);
        if take.order >= unit {
            while !take.is_done()
                && let Some(first) = self.find(height, base, take.order, take.bound)
            {
                let last = first + ((1 << take.order) - 1);
                self.mark(height, Pages { first, last }, false, take.spares);
                take.taken.push(first);
            }
            return;
        }
        for child in 0..FANOUT {
            if u32::from(self.room[child]) <= take.order {
                continue;
            }
            let start = base + ((child as u64) << unit);
            if take.is_done() || !take.fits(start) {
                return;
            }
            let room = match &mut self.children {
                Children::Words(words) => {
                    let word = &mut words[child];
                    for bit in ones(runs(*word, take.order)) {
                        let page = start + bit as u64;
                        if take.is_done() || !take.fits(page) {
                            break;
                        }
                        *word &= !(bits(0, (1 << take.order) - 1) << bit);
                        take.taken.push(page);
                    }
                    room_in(*word)
                }
                Children::Nodes(nodes) => {
                    let Some(node) = take.spares.install(&mut nodes[child], height - 1) else {
                        return;
                    };
                    node.take(height - 1, start, take);
                    node.room(height - 1)
                }
            };
            self.note(child, room, height);
        }
    }

    /// How many nodes there are, this one included.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        match &self.children {
            Children::Words(_) => 1,
            Children::Nodes(nodes) => {
                1 + nodes
                    .iter()
                    .flatten()
                    .map(|node| node.count())
                    .sum::<usize>()
            }
        }
    }
}

/// What [`Node::room`] of a child is where it is free as a whole.
#[expect(clippy::cast_possible_truncation, reason = "at most 64")]
const fn whole(height: u32) -> u8 {
    child_order(height) as u8 + 1
}

/// Some pages of a node.
enum Part {
    /// All pages of these children, a bit for each.
    Whole(u64),
    /// These pages of this child.
    Of(usize, Pages),
}

/// Cuts `pages`, which lie in a node, where whole children begin and end: into three at most.
fn parts(height: u32, pages: Pages) -> impl Iterator<Item = Part> {
    let unit = child_order(height);
    let mut rest = Some(pages);
    core::iter::from_fn(move || {
        let pages = rest?;
        let first = pages.first >> unit;
        let within = pages.first - (first << unit);
        // How many children end within the pages.
        let ends = ((pages.last + 1) >> unit) - first;
        let child = (first & 0x3f) as usize;
        let (part, last) = if within == 0 && ends > 0 {
            let last = ((first + ends) << unit) - 1;
            (
                Part::Whole(bits(child as u64, child as u64 + ends - 1)),
                last,
            )
        } else {
            let last = pages.last.min(((first + 1) << unit) - 1);
            let pages = Pages { last, ..pages };
            (Part::Of(child, pages), last)
        };
        rest = (last < pages.last).then_some(Pages {
            first: last + 1,
            ..pages
        });
        Some(part)
    })
}
