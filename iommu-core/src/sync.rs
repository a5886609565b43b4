//! Atomics and fences, so that loom can take their place: with `--cfg loom` the words of tables and
//! queues are its own, and it runs every order in which threads can see them.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU64, AtomicUsize, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, fence};

/// Makes up for what loom lacks: to it a `SeqCst` access is one that acquires and releases, without
/// the one order of all of them. Elsewhere the accesses themselves are enough.
#[inline(always)]
pub(crate) fn fence_for_loom() {
    #[cfg(loom)]
    fence(loom::sync::atomic::Ordering::SeqCst);
}
