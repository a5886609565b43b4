//! DMA memory with physical addresses, that checks what is done with it.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::ptr::NonNull;
use std::slice::from_ref;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommu_core::{Atomicity, DmaMemory, PhysAddr, has_pairs, store_pair};

use crate::arena::Arena;
use crate::ledger::Ledger;

/// What each word of a freed block contains.
///
/// Bits 1:0 are set on purpose: hardware that still reads a freed table finds a descriptor, a
/// stream table entry or a context descriptor that claims to be valid and leads nowhere, instead of
/// one that looks as if it had been cleared in time.
pub const POISON: u64 = 0x0bad_f4ee_0bad_f4eb;

/// The memory did not answer: nothing is there, or nothing that anybody owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusError(
    /// The address that did not answer.
    pub PhysAddr,
);

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no memory answers at {}", self.0)
    }
}

impl std::error::Error for BusError {}

/// What is called after each single-copy-atomic store to what hardware may be reading: with the
/// address, and the word or the two words that were stored, in the CPU's byte order.
pub type StoreHook = Arc<dyn Fn(PhysAddr, &[u64]) + Send + Sync>;

/// Memory that knows which of its bytes are allocated.
///
/// A clone is a handle to the same memory. Misuse by software (a double free, a free with another
/// size) and by devices (an access to what nobody owns) is recorded in
/// [`violations`](Self::violations); it never panics, so that a test can look at all of it.
#[derive(Clone)]
pub struct MockMemory {
    base: PhysAddr,
    arena: NonNull<u8>,
    shared: Arc<Shared>,
}

// SAFETY: `arena` points into memory that `shared` keeps and that is accessed atomically only.
unsafe impl Send for MockMemory {}
// SAFETY: as for `Send`.
unsafe impl Sync for MockMemory {}

struct Shared {
    arena: Arena,
    ledger: Mutex<Ledger>,
    coherent: AtomicBool,
    pairs: AtomicBool,
    /// What memory holds beyond the CPU's cache, for each word that was stored and not cleaned.
    stale: Mutex<BTreeMap<u64, u64>>,
    hooked: AtomicBool,
    hook: Mutex<Option<StoreHook>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that failed while it held the lock says so itself; its other threads may go on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MockMemory {
    /// `size` bytes of zeroed memory at the physical address `base`.
    ///
    /// # Panics
    ///
    /// Where `base` or `size` is not a multiple of 64 KiB, or `size` is zero.
    #[must_use]
    pub fn new(base: PhysAddr, size: usize) -> Self {
        Self::with(base, size, Arena::zeroed)
    }

    /// Memory that somebody else mapped, such as the RAM of a guest. `keep` is dropped with the last
    /// handle. Nothing in it is zeroed until it is allocated.
    ///
    /// # Safety
    ///
    /// The `size` bytes at `arena` are readable and writable until `keep` is dropped, and all other
    /// users of them in this process access them atomically.
    ///
    /// Blocks are aligned as asked for in physical addresses. They are so in CPU addresses as far
    /// as `arena` and `base` are congruent; whoever relies on more maps the arena accordingly.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new), or where `arena` is not aligned to 4 KiB.
    #[must_use]
    pub unsafe fn over(
        base: PhysAddr,
        arena: NonNull<u8>,
        size: usize,
        keep: Box<dyn Any + Send + Sync>,
    ) -> Self {
        Self::with(base, size, |_, size| Arena::foreign(arena, size, keep))
    }

    fn with(base: PhysAddr, size: usize, arena: impl FnOnce(u64, usize) -> Arena) -> Self {
        assert!(
            size != 0 && base.is_aligned(0x1_0000) && size.is_multiple_of(0x1_0000),
            "an arena of {size:#x} bytes at {base} is not made of whole 64 KiB pages"
        );
        let arena = arena(base.0, size);
        let shared = Shared {
            ledger: Mutex::new(Ledger::new(base.0, size as u64)),
            coherent: AtomicBool::new(true),
            pairs: AtomicBool::new(false),
            stale: Mutex::default(),
            hooked: AtomicBool::new(false),
            hook: Mutex::default(),
            arena,
        };
        Self {
            base,
            arena: shared.arena.start(),
            shared: Arc::new(shared),
        }
    }

    /// The physical address of the first byte.
    #[must_use]
    pub fn base(&self) -> PhysAddr {
        self.base
    }

    /// The number of bytes in all, allocated or not.
    #[must_use]
    pub fn size(&self) -> usize {
        self.shared.arena.size()
    }

    /// The number of bytes that are allocated; reserved ones do not count.
    #[must_use]
    pub fn allocated(&self) -> usize {
        locked(&self.shared.ledger).allocated()
    }

    /// The number of blocks that are allocated; reserved ones do not count.
    #[must_use]
    pub fn blocks(&self) -> usize {
        locked(&self.shared.ledger).blocks()
    }

    /// Lets one allocation fail, the `n`-th from this call on, counting from 0; `None` lets all
    /// succeed.
    pub fn fail_allocation(&self, n: Option<usize>) {
        locked(&self.shared.ledger).fail_allocation(n);
    }

    /// How often an allocation was asked for, with or without success.
    #[must_use]
    pub fn allocations(&self) -> usize {
        locked(&self.shared.ledger).allocations()
    }

    /// Marks a range as firmware's own: devices may access it, and it is never handed out. It keeps
    /// its contents. Where the range is not free, that is a violation and nothing is done.
    pub fn reserve(&self, addr: PhysAddr, size: usize) {
        locked(&self.shared.ledger).reserve(addr.0, size as u64);
    }

    /// What was done to this memory that must not be done, in the order in which it happened.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        locked(&self.shared.ledger).violations()
    }

    /// Whether the hardware sees the CPU's caches. Where it does not, [`read_word`](Self::read_word)
    /// and [`dma_read`](Self::dma_read) return what was there before a
    /// [`store_word`](DmaMemory::store_word) until the word was cleaned.
    pub fn set_coherent(&self, coherent: bool) {
        self.shared.coherent.store(coherent, Ordering::SeqCst);
        if coherent {
            locked(&self.shared.stale).clear();
        }
    }

    /// Whether hardware that does not see the CPU's caches sees every word that was stored in a
    /// range.
    #[must_use]
    pub fn cleaned(&self, addr: PhysAddr, len: usize) -> bool {
        let end = addr.0.saturating_add(len as u64);
        locked(&self.shared.stale)
            .range(addr.0 & !7..end)
            .next()
            .is_none()
    }

    /// Whether hardware is promised to see two neighbouring words change at once
    /// ([`Atomicity::Pair`]). Set before anything is stored for hardware.
    ///
    /// # Panics
    ///
    /// Where the CPU that this runs on has no such stores.
    pub fn set_pairs(&self, pairs: bool) {
        assert!(!pairs || has_pairs(), "this CPU stores 64 bits at a time");
        self.shared.pairs.store(pairs, Ordering::SeqCst);
    }

    /// Sets what is called after each [`store_word`](DmaMemory::store_word) and
    /// [`store_pair`](DmaMemory::store_pair): a test can so look at memory between any two stores.
    /// The hook may use this memory, but must not store words.
    pub fn set_store_hook(&self, hook: Option<StoreHook>) {
        self.shared.hooked.store(hook.is_some(), Ordering::SeqCst);
        *locked(&self.shared.hook) = hook;
    }

    /// Reads as a device does.
    ///
    /// # Errors
    ///
    /// Where a byte is not in the arena; or is, but not in a block that is allocated or reserved,
    /// which is a violation too. `to` is unchanged then.
    pub fn dma_read(&self, addr: PhysAddr, to: &mut [u8]) -> Result<(), BusError> {
        self.check(addr, to.len(), "read")?;
        let stale = locked(&self.shared.stale);
        for (at, to) in (addr.0..).zip(to) {
            *to = match stale.get(&(at & !7)) {
                Some(word) => word.to_le_bytes()[usize::from(at.to_le_bytes()[0] & 7)],
                None => self.byte(PhysAddr(at)).load(Ordering::Relaxed),
            };
        }
        Ok(())
    }

    /// Writes as a device does.
    ///
    /// # Errors
    ///
    /// As [`dma_read`](Self::dma_read); nothing is written then.
    pub fn dma_write(&self, addr: PhysAddr, from: &[u8]) -> Result<(), BusError> {
        self.check(addr, from.len(), "written")?;
        for (at, from) in (addr.0..).zip(from) {
            self.byte(PhysAddr(at)).store(*from, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads a little-endian word as one access, as hardware that walks tables does.
    ///
    /// # Errors
    ///
    /// As [`dma_read`](Self::dma_read), and where `addr` is not a multiple of 8.
    pub fn read_word(&self, addr: PhysAddr) -> Result<u64, BusError> {
        if !addr.is_aligned(8) {
            return Err(BusError(addr));
        }
        self.check(addr, 8, "read")?;
        if !self.is_coherent()
            && let Some(old) = locked(&self.shared.stale).get(&addr.0)
        {
            return Ok(*old);
        }
        Ok(u64::from_le(self.word(addr).load(Ordering::Acquire)))
    }

    /// Writes a little-endian word as one access, as hardware does; no hook is called.
    ///
    /// # Errors
    ///
    /// As [`read_word`](Self::read_word).
    pub fn write_word(&self, addr: PhysAddr, value: u64) -> Result<(), BusError> {
        if !addr.is_aligned(8) {
            return Err(BusError(addr));
        }
        self.check(addr, 8, "written")?;
        self.word(addr).store(value.to_le(), Ordering::Release);
        Ok(())
    }

    /// Flips bits of a word, as memory that fails does: for the CPU and for hardware, whoever owns
    /// the word. No hook is called, and nothing is noted.
    ///
    /// # Panics
    ///
    /// Where `addr` is not a multiple of 8, or not in the arena.
    pub fn corrupt_word(&self, addr: PhysAddr, flip: u64) {
        let offset = addr.0.wrapping_sub(self.base.0);
        assert!(
            addr.is_aligned(8) && offset < self.size() as u64,
            "there is no word at {addr}"
        );
        if let Some(stale) = locked(&self.shared.stale).get_mut(&addr.0) {
            *stale ^= flip;
        }
        self.word(addr).fetch_xor(flip.to_le(), Ordering::AcqRel);
    }

    fn check(&self, addr: PhysAddr, len: usize, verb: &str) -> Result<(), BusError> {
        locked(&self.shared.ledger)
            .check(addr.0, len as u64, verb)
            .map_err(|at| BusError(PhysAddr(at)))
    }

    /// A word in the arena, at an address that was checked and is a multiple of 8.
    fn word(&self, addr: PhysAddr) -> &AtomicU64 {
        // SAFETY: the caller checked that the word is in the arena, which lives as long as `self`;
        // all accesses to it are atomic.
        unsafe { self.pointer(addr).cast::<AtomicU64>().as_ref() }
    }

    /// A byte in the arena, at an address that was checked.
    fn byte(&self, addr: PhysAddr) -> &AtomicU8 {
        // SAFETY: the caller checked that the byte is in the arena, which lives as long as `self`;
        // all accesses to it are atomic.
        unsafe { self.pointer(addr).cast::<AtomicU8>().as_ref() }
    }

    fn fill(&self, addr: u64, size: u64, value: u64) {
        // Blocks start and end at multiples of 8; see `Ledger`.
        for at in (addr..addr + size).step_by(8) {
            self.word(PhysAddr(at))
                .store(value.to_le(), Ordering::Relaxed);
        }
    }
}

// SAFETY: the ledger hands out each byte of the arena once until it is freed, at multiples of the
// alignment; `fill` zeroes it. Pointers are the arena's start plus an offset, so they stay, and
// blocks are contiguous; own arenas are congruent to their physical address modulo the largest
// alignment that fits (`Arena`), and foreign ones are the promise of `over`'s caller. Models take
// physical addresses as they are.
unsafe impl DmaMemory for MockMemory {
    fn allocate(&self, size: usize, align: usize) -> Option<PhysAddr> {
        let (addr, size) = locked(&self.shared.ledger).allocate(size as u64, align as u64)?;
        self.fill(addr, size, 0);
        Some(PhysAddr(addr))
    }

    unsafe fn free(&self, addr: PhysAddr, size: usize, align: usize) {
        let mut ledger = locked(&self.shared.ledger);
        if let Some(size) = ledger.free(addr.0, size as u64, align as u64) {
            // Under the lock: the block could be somebody else's already.
            self.fill(addr.0, size, POISON);
            let mut stale = locked(&self.shared.stale);
            stale.retain(|at, _| !(addr.0..addr.0 + size).contains(at));
        }
    }

    #[inline(always)]
    fn pointer(&self, addr: PhysAddr) -> NonNull<u8> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "offsets in an arena fit usize"
        )]
        let offset = addr.0.wrapping_sub(self.base.0) as usize;
        NonNull::new(self.arena.as_ptr().wrapping_add(offset)).unwrap_or(self.arena)
    }

    fn is_coherent(&self) -> bool {
        self.shared.coherent.load(Ordering::Relaxed)
    }

    fn clean(&self, addr: PhysAddr, len: usize) {
        let range = addr.0 & !7..addr.0.saturating_add(len as u64);
        locked(&self.shared.stale).retain(|at, _| !range.contains(at));
    }

    fn write_barrier(&self) {
        fence(Ordering::SeqCst);
    }

    fn read_barrier(&self) {
        fence(Ordering::SeqCst);
    }

    #[inline(always)]
    fn store_word(&self, word: &AtomicU64, value: u64) {
        if self.is_coherent() && !self.shared.hooked.load(Ordering::Relaxed) {
            word.store(value, Ordering::Relaxed);
        } else {
            self.store_observed(from_ref(word), &[value], || {
                word.store(value, Ordering::Relaxed)
            });
        }
    }

    fn atomicity(&self) -> Atomicity {
        match self.shared.pairs.load(Ordering::Relaxed) {
            false => Atomicity::Word,
            true => Atomicity::Pair,
        }
    }

    fn store_pair(&self, pair: &[AtomicU64; 2], value: [u64; 2]) {
        if self.is_coherent() && !self.shared.hooked.load(Ordering::Relaxed) {
            store_pair(pair, value);
        } else {
            self.store_observed(pair, &value, || store_pair(pair, value));
        }
    }
}

impl MockMemory {
    #[cold]
    fn store_observed(&self, words: &[AtomicU64], values: &[u64], store: impl FnOnce()) {
        let start = words.as_ptr().addr();
        let offset = start.wrapping_sub(self.arena.as_ptr().addr());
        let addr = self.base.0.wrapping_add(offset as u64);
        if offset >= self.size() {
            locked(&self.shared.ledger)
                .violation("a word outside this memory was stored to it".into());
        }
        if !self.is_coherent() {
            let mut stale = locked(&self.shared.stale);
            for (at, word) in (addr..).step_by(8).zip(words) {
                let old = u64::from_le(word.load(Ordering::Relaxed));
                stale.entry(at).or_insert(old);
            }
        }
        store();
        let hook = locked(&self.shared.hook).clone();
        if let Some(hook) = hook {
            let values = [values[0], values[values.len() - 1]].map(u64::from_le);
            hook(PhysAddr(addr), &values[..words.len()]);
        }
    }
}

impl fmt::Debug for MockMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, allocated) = (self.size(), self.allocated());
        write!(
            f,
            "MockMemory({:#x} bytes at {}, {allocated:#x} allocated)",
            size, self.base
        )
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
