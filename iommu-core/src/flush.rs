//! Which unmaps hardware has forgotten: lazy invalidation.

use core::sync::atomic::Ordering;

use crate::error::Result;
use crate::sync::{AtomicU64, fence};

/// When hardware is told to forget what was unmapped: the policy of a [`Domain`](crate::Domain).
///
/// Under either, memory is given back only after the hardware has forgotten it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Invalidation {
    /// By the unmap itself: a device is cut off at once, and each unmap waits.
    #[default]
    Strict,
    /// By a flush of the whole domain when something is asked for back, for all that was unmapped
    /// until then: a device may go on reaching what was unmapped, and nearly no unmap waits.
    Lazy,
}

/// Whether an unmap is complete: what [`PagingOps::unmap_lazily`](crate::PagingOps::unmap_lazily)
/// leaves to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "devices may go on using what was unmapped until a flush"]
pub enum Flush {
    /// The hardware has forgotten what was unmapped.
    NotNeeded,
    /// Devices may go on using what was unmapped until
    /// [`PagingOps::flush`](crate::PagingOps::flush) was called and returned `Ok`.
    Needed,
}

/// Something that was unmapped, and that devices may reach until its domain is
/// [flushed](crate::Domain::flush): says when that was. It means nothing to any other domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "devices may go on using what was unmapped until a flush"]
pub struct Unflushed {
    /// The number of the first flush that covers it.
    flush: u64,
}

impl Unflushed {
    /// Nothing that devices could reach.
    pub(crate) const NOTHING: Self = Self { flush: 0 };
}

/// The flushes of a domain, numbered from 1 on in the order in which they begin.
///
/// There is no queue of what is to be flushed: whoever unmapped it keeps it, and remembers the first
/// flush that will not have begun before the unmap. Who clears descriptors and then sees that flush
/// number `n` has not begun, knows that the hardware's walks after its invalidations find them
/// cleared: the two fences order it so.
pub(crate) struct Flushes {
    begun: AtomicU64,
    /// The latest that has ended well.
    done: AtomicU64,
}

impl Flushes {
    pub(crate) fn new() -> Self {
        Self {
            begun: AtomicU64::new(0),
            done: AtomicU64::new(0),
        }
    }

    /// What was unmapped by now.
    #[inline]
    pub(crate) fn unflushed(&self) -> Unflushed {
        fence(Ordering::SeqCst);
        let flush = self.begun.load(Ordering::Relaxed) + 1;
        Unflushed { flush }
    }

    #[inline]
    pub(crate) fn is_flushed(&self, unflushed: Unflushed) -> bool {
        self.done.load(Ordering::Acquire) >= unflushed.flush
    }

    /// Flushes. Where that fails, a later one that does not makes up for it.
    pub(crate) fn run(&self, flush: impl FnOnce() -> Result) -> Result {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        fence(Ordering::SeqCst);
        flush()?;
        self.done.fetch_max(number, Ordering::Release);
        Ok(())
    }
}
