//! The bytes behind a [`MockMemory`](crate::MockMemory).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::any::Any;
use std::ptr::NonNull;

/// A piece of this process's memory, given back when dropped.
pub(crate) struct Arena {
    start: NonNull<u8>,
    size: usize,
    keeper: Keeper,
}

enum Keeper {
    Own {
        allocation: NonNull<u8>,
        layout: Layout,
    },
    Foreign {
        _keep: Box<dyn Any + Send + Sync>,
    },
}

// SAFETY: an arena is memory that is accessed atomically only, and whatever keeps it.
unsafe impl Send for Arena {}
// SAFETY: as for `Send`.
unsafe impl Sync for Arena {}

impl Arena {
    /// `size` zeroed bytes, congruent to `base` modulo every power of two up to twice `size`.
    ///
    /// The room for that is asked for, not touched: it costs address space only.
    pub(crate) fn zeroed(base: u64, size: usize) -> Self {
        let align = size.next_power_of_two();
        // With no more alignment than `calloc` has, nobody clears what the system gave zeroed.
        let layout = Layout::from_size_align(size + align, 16).expect("an arena fits memory");
        // SAFETY: the size is not zero.
        let allocation = unsafe { alloc_zeroed(layout) };
        let Some(allocation) = NonNull::new(allocation) else {
            handle_alloc_error(layout)
        };
        let base = usize::try_from(base & (align as u64 - 1)).expect("less than `align`");
        let skip = base.wrapping_sub(allocation.as_ptr().addr()) & (align - 1);
        // SAFETY: `skip` is less than `align`, so `size` bytes follow.
        let start = unsafe { allocation.add(skip) };
        Self {
            start,
            size,
            keeper: Keeper::Own { allocation, layout },
        }
    }

    /// Memory that exists for as long as `keep` does.
    pub(crate) fn foreign(
        start: NonNull<u8>,
        size: usize,
        keep: Box<dyn Any + Send + Sync>,
    ) -> Self {
        assert!(
            start.addr().get().is_multiple_of(0x1000),
            "an arena starts at a page"
        );
        Self {
            start,
            size,
            keeper: Keeper::Foreign { _keep: keep },
        }
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Keeper::Own { allocation, layout } = self.keeper {
            // SAFETY: allocated with this layout, and nothing refers to an arena after its drop.
            unsafe { dealloc(allocation.as_ptr(), layout) }
        }
    }
}
