//! Who is inside a page table.

use core::sync::atomic::Ordering;

use crate::sync::{AtomicUsize, fence_for_loom};

/// So many CPUs can come and go without touching the same cache line.
const SLOTS: usize = if cfg!(loom) { 2 } else { 8 };

/// A number in a cache line of its own; two lines, where they are fetched by pairs.
#[repr(align(128))]
struct Slot(AtomicUsize);

/// How many are inside, counted in several places to keep CPUs out of each other's way.
///
/// Whoever comes in adds one before it loads its first descriptor. Whoever has taken a descriptor
/// out looks at the counts after that. Both are in the one order of all `SeqCst` accesses: either the
/// count is seen, or the descriptor is seen to be gone.
pub(super) struct Presence {
    slots: [Slot; SLOTS],
}

/// Somebody who is inside.
pub(super) struct Present<'a> {
    all: &'a Presence,
    slot: &'a Slot,
}

impl Presence {
    pub(super) fn new() -> Self {
        Self {
            slots: core::array::from_fn(|_| Slot(AtomicUsize::new(0))),
        }
    }

    /// Comes in, by the number of the CPU: a hint.
    #[inline(always)]
    pub(super) fn enter(&self, cpu: usize) -> Present<'_> {
        let slot = &self.slots[cpu % SLOTS];
        slot.0.fetch_add(1, Ordering::SeqCst);
        fence_for_loom();
        Present { all: self, slot }
    }
}

impl Present<'_> {
    /// Whether whoever else was inside when this was called has left by the time it returns. Who
    /// has come since does not find what was taken out before.
    pub(super) fn is_alone(&self) -> bool {
        fence_for_loom();
        let counts = self.all.slots.iter();
        counts
            .map(|slot| slot.0.load(Ordering::SeqCst))
            .sum::<usize>()
            == 1
    }
}

impl Drop for Present<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.slot.0.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_alone_until_another_comes_on_any_cpu() {
        let presence = Presence::new();
        let one = presence.enter(3);
        assert!(one.is_alone());
        for cpu in [3, 4, usize::MAX] {
            let other = presence.enter(cpu);
            assert!(!one.is_alone() && !other.is_alone());
            drop(other);
            assert!(one.is_alone());
        }
    }
}
