//! What mapping asks of the platform.

#![forbid(unsafe_code)]

use crate::platform::{DmaMemory, RawLock, SpinLock};

/// What [`Dma`](super::Dma) needs: memory, a lock, the current CPU.
///
/// Any [`DmaMemory`] is one, for one CPU and with a spinning lock. A kernel whose interrupt handlers
/// map or unmap, or that has several CPUs, implements this for a type of its own.
pub trait DmaPlatform: Send + Sync + 'static {
    /// Where bounce buffers and coherent allocations come from.
    type Memory: DmaMemory;
    /// The lock around IOVAs, held for a few instructions; see [`RawLock`].
    type IrqLock: RawLock;

    /// The memory.
    fn memory(&self) -> &Self::Memory;

    /// How many CPUs get a cache of IOVAs of their own, of 3 KiB each.
    fn cpus(&self) -> usize {
        1
    }

    /// The number of the CPU this runs on: a hint, used to keep CPUs out of each other's way.
    fn current_cpu(&self) -> usize {
        0
    }
}

impl<M: DmaMemory> DmaPlatform for M {
    type Memory = M;
    type IrqLock = SpinLock;

    fn memory(&self) -> &M {
        self
    }
}
