//! Nodes on their way into the tree and out of it.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

use super::node::Node;
use crate::error::{Error, Result};

/// A box that could be allocated with failure as an answer; the standard library offers that for
/// vectors alone.
pub(super) struct NodeBox(Box<[Node; 1]>);

impl Deref for NodeBox {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.0[0]
    }
}

impl DerefMut for NodeBox {
    fn deref_mut(&mut self) -> &mut Node {
        &mut self.0[0]
    }
}

impl NodeBox {
    fn new() -> Result<Self> {
        let out_of_memory = || Error::out_of_memory("a map of IOVAs");
        let mut nodes = Vec::new();
        nodes.try_reserve_exact(1).map_err(|_| out_of_memory())?;
        nodes.push(Node::new(1));
        let one = nodes.try_into().map_err(|_: Vec<_>| out_of_memory())?;
        Ok(Self(one))
    }
}

/// Nodes that are in no tree.
#[derive(Default)]
pub(super) struct Chain {
    head: Option<NodeBox>,
    len: usize,
}

impl Chain {
    /// `count` new nodes.
    pub(super) fn new(count: usize) -> Result<Self> {
        let mut chain = Self::default();
        for _ in 0..count {
            chain.extend(Some(NodeBox::new()?));
        }
        Ok(chain)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn append(&mut self, other: &mut Self) {
        self.extend(core::iter::from_fn(|| other.pop()));
    }

    /// Moves all but `keep` nodes into a chain of their own.
    pub(super) fn split_off(&mut self, keep: usize) -> Self {
        let mut rest = Self::default();
        while self.len > keep {
            rest.extend(self.pop());
        }
        rest
    }

    fn pop(&mut self) -> Option<NodeBox> {
        let mut node = self.head.take()?;
        self.head = node.next.take();
        self.len -= 1;
        Some(node)
    }

    /// The node at `place`; where there is none, one of this chain, of `height` and free as a
    /// whole.
    pub(super) fn install<'a>(
        &mut self,
        place: &'a mut Option<NodeBox>,
        height: u32,
    ) -> Option<&'a mut Node> {
        if place.is_none() {
            let mut node = self.pop()?;
            node.clear(height);
            *place = Some(node);
        }
        place.as_deref_mut()
    }
}

impl Extend<NodeBox> for Chain {
    fn extend<I: IntoIterator<Item = NodeBox>>(&mut self, nodes: I) {
        for mut node in nodes {
            node.next = self.head.take();
            self.head = Some(node);
            self.len += 1;
        }
    }
}

impl Drop for Chain {
    /// One after the other, not one within the other.
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}
