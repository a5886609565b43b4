//! Blocks of DMA memory that free themselves.

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::addr::PhysAddr;
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::platform::{self, DmaMemory};
use crate::sync::AtomicU64;

/// A zeroed block of DMA memory, given back when dropped.
///
/// All access is atomic, by word or by byte, so hardware may read and write the block at the same
/// time. Whoever told hardware about a block drops it only after the hardware was told otherwise
/// and has confirmed that; where that failed, [`leak`](Self::leak) is the way out.
pub struct DmaBlock<M: DmaMemory> {
    memory: M,
    addr: PhysAddr,
    base: NonNull<u8>,
    /// The number of words.
    count: usize,
    align: usize,
    leaked: AtomicBool,
}

// SAFETY: the block is a plain piece of memory, accessed atomically through any shared reference;
// the handle to its allocator is `Send` and `Sync`.
unsafe impl<M: DmaMemory> Send for DmaBlock<M> {}
// SAFETY: as for `Send`.
unsafe impl<M: DmaMemory> Sync for DmaBlock<M> {}

impl<M: DmaMemory> DmaBlock<M> {
    /// Allocates `size` bytes aligned to `align`, a power of two of at least 8. `purpose` says in
    /// the error what the memory was for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfMemory`].
    pub fn new(memory: &M, size: usize, align: usize, purpose: &'static str) -> Result<Self> {
        let align = align.max(8);
        let allocated = size.checked_next_multiple_of(8).and_then(|size| {
            let addr = memory.allocate(size, align)?;
            Some((size, addr))
        });
        let (size, addr) = allocated.ok_or(Error::out_of_memory(purpose))?;
        Ok(Self {
            memory: memory.clone(),
            addr,
            base: memory.pointer(addr),
            count: size / 8,
            align,
            leaked: AtomicBool::new(false),
        })
    }

    /// The block, where hardware with physical addresses of `bits` reaches all of it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfRange`] where it does not. The block is freed.
    pub fn below(self, bits: u32) -> Result<Self> {
        let last = self.addr.0 + (self.size() as u64 - 1);
        if bits >= 64 || last >> bits == 0 {
            return Ok(self);
        }
        Err(Error::new(
            ErrorKind::OutOfRange,
            "the hardware cannot address this memory",
        )
        .of(Culprit::Phys(self.addr)))
    }

    /// The block's address, from where on it is the caller's to free.
    pub(crate) fn into_addr(self) -> PhysAddr {
        self.leak();
        self.addr
    }

    /// Where hardware finds the block.
    #[must_use]
    pub fn addr(&self) -> PhysAddr {
        self.addr
    }

    /// The number of bytes, a multiple of 8.
    #[must_use]
    pub fn size(&self) -> usize {
        self.count * 8
    }

    /// The block as 64-bit words.
    #[must_use]
    #[inline]
    pub fn words(&self) -> &[AtomicU64] {
        let base = self.base.cast::<AtomicU64>();
        // SAFETY: the block is allocated for as long as `self` is, aligned to at least 8 bytes, and
        // accessed atomically only.
        unsafe { core::slice::from_raw_parts(base.as_ptr(), self.count) }
    }

    pub(crate) fn bytes(&self) -> &[AtomicU8] {
        let base = self.base.cast::<AtomicU8>();
        // SAFETY: the block is allocated for as long as `self` is and accessed atomically only.
        unsafe { core::slice::from_raw_parts(base.as_ptr(), self.size()) }
    }

    /// The little-endian word `index`.
    #[must_use]
    #[inline]
    pub fn load(&self, index: usize) -> u64 {
        u64::from_le(self.words()[index].load(Ordering::Relaxed))
    }

    /// The block as a table of entries of `N` words: entry `index`.
    ///
    /// # Panics
    ///
    /// Where there is no such entry.
    #[must_use]
    #[inline]
    pub fn entry<const N: usize>(&self, index: usize) -> DmaEntry<'_, M, N> {
        DmaEntry {
            block: self,
            words: &self.words().as_chunks::<N>().0[index],
            index,
        }
    }

    /// Stores the little-endian word `index` as one single-copy-atomic access, and cleans it where
    /// the memory is not coherent. Not ordered against other stores; see
    /// [`DmaMemory::write_barrier`].
    #[inline]
    pub fn store(&self, index: usize, value: u64) {
        self.memory.store_word(&self.words()[index], value.to_le());
        if !self.memory.is_coherent() {
            self.memory
                .clean(PhysAddr(self.addr.0 + index as u64 * 8), 8);
        }
    }

    /// The little-endian words `2 * index` and the next, as one access: for memory whose
    /// [`atomicity`](DmaMemory::atomicity) is by pairs.
    ///
    /// # Panics
    ///
    /// Where there are no such words, or the block is not aligned to 16 bytes.
    #[must_use]
    pub fn load_pair(&self, index: usize) -> [u64; 2] {
        platform::load_pair(self.pair(index)).map(u64::from_le)
    }

    /// Stores the little-endian words `2 * index` and the next as one single-copy-atomic access,
    /// and cleans them where the memory is not coherent. Ordered as [`store`](Self::store).
    ///
    /// # Panics
    ///
    /// As [`load_pair`](Self::load_pair).
    pub fn store_pair(&self, index: usize, value: [u64; 2]) {
        self.memory
            .store_pair(self.pair(index), value.map(u64::to_le));
        if !self.memory.is_coherent() {
            self.memory
                .clean(PhysAddr(self.addr.0 + index as u64 * 16), 16);
        }
    }

    fn pair(&self, index: usize) -> &[AtomicU64; 2] {
        &self.words().as_chunks().0[index]
    }

    /// Makes later loads of the `len` bytes from `offset` on see what hardware wrote, where the
    /// memory is not coherent.
    pub fn refresh(&self, offset: usize, len: usize) {
        if !self.memory.is_coherent() {
            self.memory
                .invalidate(PhysAddr(self.addr.0 + offset as u64), len);
        }
    }

    /// Copies out of the block, from byte `offset` on.
    pub fn read_at(&self, offset: usize, to: &mut [u8]) {
        self.refresh(offset, to.len());
        let from = &self.bytes()[offset..][..to.len()];
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.load(Ordering::Relaxed);
        }
    }

    /// Copies into the block, from byte `offset` on, and cleans where the memory is not coherent.
    pub fn write_at(&self, offset: usize, from: &[u8]) {
        for (to, from) in self.bytes()[offset..][..from.len()].iter().zip(from) {
            to.store(*from, Ordering::Relaxed);
        }
        if !self.memory.is_coherent() {
            self.memory
                .clean(PhysAddr(self.addr.0 + offset as u64), from.len());
        }
    }

    /// The memory the block came from.
    #[must_use]
    #[inline]
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Never gives the block back, however often it is dropped: what to do with memory that
    /// hardware may go on using.
    pub fn leak(&self) {
        self.leaked.store(true, Ordering::Relaxed);
    }
}

/// Some words of a block, found once and accessed often.
pub struct DmaEntry<'a, M: DmaMemory, const N: usize> {
    block: &'a DmaBlock<M>,
    words: &'a [AtomicU64; N],
    index: usize,
}

impl<M: DmaMemory, const N: usize> DmaEntry<'_, M, N> {
    /// All its words, little-endian, each loaded by one access, in no particular order.
    #[must_use]
    #[inline]
    pub fn load(&self) -> [u64; N] {
        self.words
            .each_ref()
            .map(|word| u64::from_le(word.load(Ordering::Relaxed)))
    }

    /// As [`DmaBlock::store`], of word number `word` of the entry.
    ///
    /// # Panics
    ///
    /// Where there is no such word.
    #[inline]
    pub fn store(&self, word: usize, value: u64) {
        let memory = &self.block.memory;
        memory.store_word(&self.words[word], value.to_le());
        if !memory.is_coherent() {
            let at = (self.index * N + word) as u64 * 8;
            memory.clean(PhysAddr(self.block.addr.0 + at), 8);
        }
    }
}

impl<M: DmaMemory, const N: usize> fmt::Debug for DmaEntry<'_, M, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} of {:?}", self.index, self.block)
    }
}

impl<M: DmaMemory> Drop for DmaBlock<M> {
    fn drop(&mut self) {
        if *self.leaked.get_mut() {
            return;
        }
        // SAFETY: the block came from this memory with this size and alignment, and this is the
        // only handle to it. That no hardware uses it is the promise of whoever told hardware.
        unsafe { self.memory.free(self.addr, self.count * 8, self.align) }
    }
}

impl<M: DmaMemory> fmt::Debug for DmaBlock<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaBlock({}, {:#x} bytes)", self.addr, self.size())
    }
}
