//! What the platform provides: register access, DMA memory, a clock, locks, and a way to talk to a
//! device's own switches. A kernel implements these once; every backend is generic over them, so
//! that hot paths are compiled for the platform at hand.

use core::fmt::Debug;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;
use core::time::Duration;

use lock_api::RawMutex;
use portable_atomic::AtomicU128;
use static_assertions::assert_obj_safe;

use crate::addr::PhysAddr;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::AtomicU64;

/// The registers of one IOMMU, by byte offset from its base.
///
/// # Contract
///
/// Accesses reach the device in program order, each as one access of its width. A write is ordered
/// after every store to DMA memory that a [`DmaMemory::write_barrier`] precedes; a read is ordered
/// before every load that a [`DmaMemory::read_barrier`] follows. Values are in the CPU's byte order.
///
/// Offsets are the driver's own constants, within [`len`](Self::len) (checked by the driver when it
/// probes) and multiples of the width. An implementation may panic on any other.
///
/// Context: any, interrupt-safe.
pub trait RegisterBank: Send + Sync + 'static {
    /// The number of bytes that can be accessed.
    fn len(&self) -> usize;
    /// Whether there are no registers at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads 32 bits at `offset`.
    fn read32(&self, offset: usize) -> u32;
    /// Writes 32 bits at `offset`.
    fn write32(&self, offset: usize, value: u32);
    /// Reads 64 bits at `offset`, as one access.
    fn read64(&self, offset: usize) -> u64;
    /// Writes 64 bits at `offset`, as one access.
    fn write64(&self, offset: usize, value: u64);
}
assert_obj_safe!(RegisterBank);

/// Memory that an IOMMU reads its tables and queues from, and that devices reach by DMA.
///
/// A value of this type is a cheap handle to one allocator; clones allocate from the same memory.
///
/// # Safety
///
/// Code that is otherwise safe trusts an implementation with memory safety. It must ensure that
///
/// - [`allocate`](Self::allocate) returns memory of at least the size asked for that nothing else
///   uses until it is freed, full of zeros for the CPU and for hardware, with a physical address
///   aligned as asked for, and a CPU address too, up to 4 KiB;
/// - [`pointer`](Self::pointer) of an address in such a block is valid for reads and writes to the
///   end of the block, for as long as the block is not freed, and stays the same; a block is
///   contiguous in both kinds of address;
/// - physical addresses are what the IOMMU and, without translation, devices use for that memory.
pub unsafe trait DmaMemory: Clone + Send + Sync + Debug + 'static {
    /// A zeroed block of `size` bytes, aligned to `align` (a power of two), or `None` where there
    /// is none.
    ///
    /// Context: the mapping path calls it where it creates a table, with an interrupt-safe lock
    /// held. Mappings can be made wherever the allocator can be called like that.
    fn allocate(&self, size: usize, align: usize) -> Option<PhysAddr>;

    /// Gives back what [`allocate`](Self::allocate) returned.
    ///
    /// # Safety
    ///
    /// `addr` came from `allocate` on the same memory with the same `size` and `align` and was not
    /// freed since; neither the CPU nor any hardware accesses the block any more.
    unsafe fn free(&self, addr: PhysAddr, size: usize, align: usize);

    /// Where the CPU finds `addr`, an address in a block that is allocated. For other addresses the
    /// result may be anything and must not be used.
    ///
    /// Page-table walks call this once per level: an addition, ideally.
    fn pointer(&self, addr: PhysAddr) -> NonNull<u8>;

    /// Whether the hardware's table walks and queue accesses see the CPU's caches. Where they do
    /// not, [`clean`](Self::clean) is called after each change.
    fn is_coherent(&self) -> bool;

    /// Writes the `len` bytes at `addr` back to where hardware that does not see the CPU's caches
    /// reads them. Called on memory that is not coherent, and for devices that are not; complete
    /// when the next [`write_barrier`](Self::write_barrier) is.
    fn clean(&self, addr: PhysAddr, len: usize);

    /// Orders every earlier store, to DMA memory or any other, before every later store to either and
    /// every later register write, as the hardware and other CPUs observe them (`dma_wmb` and,
    /// before a doorbell, `wmb` on Linux; at least `dmb oshst` on Arm).
    fn write_barrier(&self);

    /// Makes the CPU see what hardware that does not see its caches has written to the `len` bytes
    /// at `addr`. Called on memory that is not coherent, and for devices that are not, before it is
    /// read; the CPU has not written there since the last [`clean`](Self::clean). Nothing to do
    /// where the CPU accesses that memory uncached.
    fn invalidate(&self, addr: PhysAddr, len: usize) {
        let _ = (addr, len);
    }

    /// Orders every earlier load, from DMA memory or any other, and every earlier register read before
    /// every later load from either and every later register write (`dma_rmb` on Linux; at least
    /// `dmb oshld` on Arm).
    fn read_barrier(&self);

    /// Stores one 64-bit word that hardware may be reading, as one single-copy-atomic access.
    ///
    /// `value` is in memory order already. The provided method is the plain atomic store; a model
    /// of the hardware replaces it to look at memory between any two stores.
    #[inline(always)]
    fn store_word(&self, word: &AtomicU64, value: u64) {
        word.store(value, Ordering::Relaxed);
    }

    /// What hardware that reads table entries in this memory sees change at once. The provided
    /// method claims no more than every architecture promises; a platform that knows its memory
    /// and its IOMMU to be better (SMMUv3 3.21.3: with FEAT_LSE2) says so, as far as
    /// [`has_pairs`] allows.
    fn atomicity(&self) -> Atomicity {
        Atomicity::Word
    }

    /// Stores two neighbouring words as one single-copy-atomic access, where
    /// [`atomicity`](Self::atomicity) is [`Atomicity::Pair`].
    ///
    /// `value` is in memory order already. While anybody else may access the words, all do so in
    /// pairs.
    ///
    /// # Panics
    ///
    /// As [`store_pair`], which is the provided method.
    #[inline]
    fn store_pair(&self, pair: &[AtomicU64; 2], value: [u64; 2]) {
        store_pair(pair, value);
    }
}

/// What a reader of a table entry sees change at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Atomicity {
    /// A word of 64 bits, aligned.
    #[default]
    Word,
    /// Two words, aligned: 128 bits.
    Pair,
}

/// Whether this CPU stores 128 bits as one access without a lock: what
/// [`Atomicity::Pair`] asks of the CPU's side.
#[must_use]
pub fn has_pairs() -> bool {
    AtomicU128::is_lock_free()
}

/// Stores two words as one access of 128 bits, atomic for everybody where [`has_pairs`] says so.
///
/// # Panics
///
/// Where the pair is not aligned to 16 bytes.
pub fn store_pair(pair: &[AtomicU64; 2], value: [u64; 2]) {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&value[0].to_ne_bytes());
    bytes[8..].copy_from_slice(&value[1].to_ne_bytes());
    as_one(pair).store(u128::from_ne_bytes(bytes), Ordering::Relaxed);
}

fn as_one(pair: &[AtomicU64; 2]) -> &AtomicU128 {
    let pair = NonNull::from(pair).cast::<AtomicU128>();
    assert!(pair.is_aligned(), "a pair of words at {pair:?}");
    // SAFETY: the two words are 16 bytes that live as long as the reference they came from, and
    // atomic; the address was checked to be aligned. Whoever else accesses them meanwhile does so
    // in pairs, as `store_pair` says.
    unsafe { pair.as_ref() }
}

/// Loads what [`DmaMemory::store_pair`] stores.
pub(crate) fn load_pair(pair: &[AtomicU64; 2]) -> [u64; 2] {
    let bytes = as_one(pair).load(Ordering::Relaxed).to_ne_bytes();
    let (chunks, _) = bytes.as_chunks::<8>();
    [0, 1].map(|word| u64::from_ne_bytes(chunks[word]))
}

/// Time, for bounded waits.
///
/// Context: any, interrupt-safe.
pub trait Clock: Send + Sync + 'static {
    /// The time since some fixed moment; it never goes back.
    fn now(&self) -> Duration;

    /// Called between two looks at hardware that has not answered yet. A model of hardware lets
    /// its own time pass here.
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// Calls `look` until it returns something or `bound` has passed, and once more after that: a
    /// CPU that was away for long does not mistake its own absence for dead hardware.
    fn poll<T>(&self, bound: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T>
    where
        Self: Sized,
    {
        let start = self.now();
        loop {
            if let Some(seen) = look() {
                return Some(seen);
            }
            if self.now().saturating_sub(start) >= bound {
                return look();
            }
            self.relax();
        }
    }
}
assert_obj_safe!(Clock);

/// A kind of lock, as the `lock_api` crate describes it.
///
/// Two kinds are used: a *blocking* one, held while the hardware changes a device's domain, and an
/// *interrupt-safe* one, held for a few instructions around queues and ids. Where code runs in
/// interrupts, the second must keep them off while it is held.
pub trait RawLock: RawMutex + Send + Sync + 'static {}
impl<T: RawMutex + Send + Sync + 'static> RawLock for T {}

/// The lock where nothing else is chosen: it spins. Right for both kinds where no interrupt handler
/// calls this code and threads are not preempted while they hold it for long.
pub type SpinLock = spin::Mutex<()>;

/// One IOMMU's surroundings.
pub trait Platform: Send + Sync + 'static {
    /// Its registers.
    type Bank: RegisterBank;
    /// The memory it reads.
    type Memory: DmaMemory;
    /// The clock that bounds waits for it.
    type Clock: Clock;
    /// The lock for paths that may block; see [`RawLock`].
    type BlockingLock: RawLock;
    /// The lock for paths that may not; see [`RawLock`].
    type IrqLock: RawLock;

    /// The registers.
    fn bank(&self) -> &Self::Bank;
    /// The memory.
    fn memory(&self) -> &Self::Memory;
    /// The clock.
    fn clock(&self) -> &Self::Clock;
    /// The number of the CPU this runs on: a hint, used to keep CPUs out of each other's way.
    fn current_cpu(&self) -> usize {
        0
    }
}

/// A [`Platform`] made of its parts, with spinning locks.
#[derive(Clone, Debug)]
pub struct BasicPlatform<B, M, C> {
    /// The registers.
    pub bank: B,
    /// The memory.
    pub memory: M,
    /// The clock.
    pub clock: C,
}

impl<B: RegisterBank, M: DmaMemory, C: Clock> Platform for BasicPlatform<B, M, C> {
    type Bank = B;
    type Memory = M;
    type Clock = C;
    type BlockingLock = SpinLock;
    type IrqLock = SpinLock;

    fn bank(&self) -> &B {
        &self.bank
    }
    fn memory(&self) -> &M {
        &self.memory
    }
    fn clock(&self) -> &C {
        &self.clock
    }
}

/// How to talk to one device about its own part in translation: the switches in its PCIe
/// capabilities, mostly. A device without them uses [`NoControl`].
///
/// Context: may block; called with the device's group locked.
pub trait DeviceControl: Send + Sync + 'static {
    /// Whether the device answers at all. An unreachable device is not asked to invalidate.
    fn is_reachable(&self) -> bool {
        true
    }

    /// Whether the device may be given an address translation cache (PCIe ATS): it has one, all
    /// that lies between it and the IOMMU passes ATS on, no other device presents its streams, and
    /// it is trusted: with ATS it is the device that keeps to what it was allowed to reach, and its
    /// IOMMU checks no more than that it may use ATS at all. The answer stays the same as long as
    /// the device is there.
    ///
    /// A device that says no is never asked to switch ATS on, and its cache is never asked to
    /// invalidate anything.
    fn has_ats(&self) -> bool {
        false
    }

    /// Switches the device's address translation cache. When this returns, the device sends no
    /// more translation requests (`off`) or may send them (`on`), for translations of 4 KiB or more
    /// (STU 0). It is off when the device is given to the core. What the cache holds is the IOMMU
    /// driver's business: it has it invalidated before it switches it on, and after it has switched
    /// it off.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where the device has no such cache and is asked to turn it on;
    /// [`ErrorKind::Hardware`] where the switch does not move. A device that was not switched on
    /// goes on without ATS.
    fn set_ats(&self, on: bool) -> Result {
        no_such_switch(on, "the device has no ATS")
    }

    /// The largest PASID that the device may be given, 0 where it has none: what its PCIe capability
    /// says, and no more than all that lies between it and the IOMMU passes on. The answer stays
    /// the same as long as the device is there.
    fn max_pasid(&self) -> u32 {
        0
    }

    /// Switches the device's use of PASIDs. They are off when the device is given to the core.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where the device has none and is asked to turn them on.
    fn set_pasid(&self, on: bool) -> Result {
        no_such_switch(on, "the device has no PASIDs")
    }

    /// Switches the device's page requests.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where the device has none and is asked to turn them on.
    fn set_pri(&self, on: bool) -> Result {
        no_such_switch(on, "the device has no page requests")
    }

    /// Stops the device's DMA as far as the device itself can be told to.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::DeviceTimedOut`] where it does not stop.
    fn quiesce(&self) -> Result {
        Ok(())
    }
}
assert_obj_safe!(DeviceControl);

fn no_such_switch(on: bool, reason: &'static str) -> Result {
    if on {
        Err(Error::new(ErrorKind::Unsupported, reason))
    } else {
        Ok(())
    }
}

/// The [`DeviceControl`] of a device without ATS, PASIDs and page requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoControl;

impl DeviceControl for NoControl {}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    struct Ticks(Cell<u64>);
    // SAFETY: each test uses its clock from one thread.
    unsafe impl Sync for Ticks {}
    impl Clock for Ticks {
        fn now(&self) -> Duration {
            Duration::from_secs(self.0.get())
        }
        fn relax(&self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn a_wait_ends_after_its_bound_and_looks_once_more() {
        let clock = Ticks(Cell::new(0));
        let mut looks = 0;
        let seen = clock.poll(Duration::from_secs(3), || {
            looks += 1;
            None::<()>
        });
        assert_eq!((seen, looks, clock.0.get()), (None, 5, 3));
    }

    #[test]
    fn a_cpu_that_was_away_still_sees_the_answer() {
        let clock = Ticks(Cell::new(0));
        let mut looks = 0;
        let seen = clock.poll(Duration::from_secs(3), || {
            looks += 1;
            clock.0.set(100);
            (looks == 2).then_some(())
        });
        assert_eq!(seen, Some(()));
    }

    #[test]
    fn a_device_without_switches_says_so_and_can_be_told_off() {
        let none = NoControl;
        assert!(!none.has_ats() && none.is_reachable());
        for switch in [NoControl::set_ats, NoControl::set_pasid, NoControl::set_pri] {
            let on = switch(&none, true).map_err(|error| error.kind());
            assert_eq!(
                (on, switch(&none, false)),
                (Err(ErrorKind::Unsupported), Ok(()))
            );
        }
    }
}
