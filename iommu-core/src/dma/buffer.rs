//! Buffers that can be lent to a device.

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};

use crate::addr::PhysAddr;
use crate::memory::DmaBlock;
use crate::platform::DmaMemory;

/// A part of a buffer that is contiguous for the CPU and for devices.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Where it is for devices that nothing translates for.
    pub addr: PhysAddr,
    /// Where it is for the CPU.
    pub bytes: &'a [AtomicU8],
}

impl Piece<'_> {
    /// Whether it consists of whole pages of `size` bytes, a power of two.
    pub(super) fn is_whole_pages(&self, size: u64) -> bool {
        (self.addr.0 | self.bytes.len() as u64) & (size - 1) == 0
    }

    /// Its last address; its only one where it is empty.
    pub(super) fn last(&self) -> u64 {
        let further = self.bytes.len().saturating_sub(1) as u64;
        self.addr.0.saturating_add(further)
    }
}

/// A buffer that owns its memory: what [`Dma::map`](super::Dma::map) takes.
///
/// Lists of buffers are buffers too: a device sees a `Vec` of them as one range of IOVAs, in their
/// order (scatter-gather).
///
/// # Safety
///
/// Devices read and write the memory that [`pieces`](Self::pieces) names while the value is lent to
/// them. The implementer ensures that
///
/// - the pieces are the same each time, in the same order, wherever the value is moved to;
/// - their memory is the value's own until it is dropped: nobody else accesses it, and it is not
///   freed where the value is forgotten;
/// - no two pieces overlap, and each has the physical addresses from `addr` on, contiguously, in
///   the sense of [`DmaMemory`].
pub unsafe trait DmaBuffer: 'static {
    /// The parts of the buffer, in order.
    fn pieces(&self) -> impl Iterator<Item = Piece<'_>>;

    /// The number of bytes.
    fn len(&self) -> usize {
        self.pieces().map(|piece| piece.bytes.len()).sum()
    }

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// SAFETY: a block owns what it was allocated, which does not move and is contiguous; it frees it
// only when dropped.
unsafe impl<M: DmaMemory> DmaBuffer for DmaBlock<M> {
    #[inline]
    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        core::iter::once(Piece {
            addr: self.addr(),
            bytes: self.bytes(),
        })
    }

    #[inline]
    fn len(&self) -> usize {
        self.size()
    }
}

// SAFETY: each buffer keeps the promises, and the list neither changes nor drops one while it is
// owned by somebody who does not.
unsafe impl<B: DmaBuffer> DmaBuffer for Vec<B> {
    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        self.iter().flat_map(DmaBuffer::pieces)
    }
}

/// The part of each of `pieces` that lies in the `len` bytes from `offset` on.
pub(super) fn within<'a>(
    pieces: impl Iterator<Item = Piece<'a>>,
    offset: usize,
    len: usize,
) -> impl Iterator<Item = Piece<'a>> {
    let (mut skip, mut left) = (offset, len);
    pieces.filter_map(move |Piece { addr, bytes }| {
        let start = skip.min(bytes.len());
        let end = bytes.len().min(start.saturating_add(left));
        skip -= start;
        left -= end - start;
        (start < end).then(|| Piece {
            addr: PhysAddr(addr.0 + start as u64),
            bytes: &bytes[start..end],
        })
    })
}

/// Copies from `pieces` into `to`.
pub(super) fn read<'a>(pieces: impl Iterator<Item = Piece<'a>>, to: &mut [u8]) {
    let from = pieces.flat_map(|piece| piece.bytes);
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.load(Ordering::Relaxed);
    }
}

/// Copies `from` into `pieces`.
pub(super) fn write<'a>(pieces: impl Iterator<Item = Piece<'a>>, from: &[u8]) {
    let to = pieces.flat_map(|piece| piece.bytes);
    for (to, from) in to.zip(from) {
        to.store(*from, Ordering::Relaxed);
    }
}

/// Copies from one buffer into another, as far as the shorter goes: at once where it is `certain` that
/// no device reaches either, and byte by byte where a device that breaks the rules may.
pub(super) fn copy(from: &impl DmaBuffer, to: &impl DmaBuffer, certain: bool) {
    let mut to = to.pieces().map(|piece| piece.bytes);
    let mut room: &[AtomicU8] = &[];
    for mut bytes in from.pieces().map(|piece| piece.bytes) {
        while !bytes.is_empty() {
            if room.is_empty() {
                let Some(next) = to.next() else { return };
                room = next;
            }
            let len = bytes.len().min(room.len());
            let (first, rest) = bytes.split_at(len);
            let (target, left) = room.split_at(len);
            if certain {
                let target = target.as_ptr().cast::<u8>().cast_mut();
                // SAFETY: both are `len` bytes of atomics, which may be written through. They are of
                // two buffers, whose memory is nobody else's, and no device changes it meanwhile.
                unsafe { core::ptr::copy_nonoverlapping(first.as_ptr().cast(), target, len) };
            } else {
                for (to, from) in target.iter().zip(first) {
                    to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
            (bytes, room) = (rest, left);
        }
    }
}

/// What came of lending a buffer, or of asking for it back, that failed.
pub struct Failed<B> {
    /// Why.
    pub error: crate::Error,
    /// The buffer, unless devices may go on reaching it: then it is never given back, and counted in
    /// [`Domain::leaked_bytes`](crate::Domain::leaked_bytes).
    pub buffer: Option<B>,
}

impl<B> From<Failed<B>> for crate::Error {
    /// The reason. The buffer is dropped.
    fn from(failed: Failed<B>) -> Self {
        failed.error
    }
}

impl<B> fmt::Debug for Failed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failed")
            .field("error", &self.error)
            .field("buffer", &self.buffer.as_ref().map(|_| "given back"))
            .finish()
    }
}

impl<B> fmt::Display for Failed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<B> core::error::Error for Failed<B> {}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(Vec<AtomicU8>);

    // SAFETY: no device ever hears of it.
    unsafe impl DmaBuffer for Bytes {
        fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
            core::iter::once(Piece {
                addr: PhysAddr(0),
                bytes: &self.0,
            })
        }
    }

    fn list(lengths: &[u8]) -> Vec<Bytes> {
        let zeroes = |len: &u8| (0..*len).map(|_| AtomicU8::new(0)).collect();
        lengths.iter().map(zeroes).map(Bytes).collect()
    }

    fn all(list: &[Bytes]) -> impl Iterator<Item = &AtomicU8> {
        list.iter().flat_map(|bytes| &bytes.0)
    }

    #[test]
    fn bytes_keep_their_order_however_the_pieces_are_cut() {
        let cuts: [&[u8]; 5] = [&[6], &[2, 4], &[0, 3, 0, 3], &[1, 1, 1, 1, 1, 1, 0], &[4]];
        let all_cuts = cuts.into_iter().flat_map(|from| cuts.map(|to| (from, to)));
        for (from, to) in all_cuts {
            for certain in [false, true] {
                let (from, to) = (list(from), list(to));
                (1..)
                    .zip(all(&from))
                    .for_each(|(n, byte)| byte.store(n, Ordering::Relaxed));
                copy(&from, &to, certain);
                let copied = all(&from).count().min(all(&to).count());
                for (nth, byte) in all(&to).enumerate() {
                    let expected = if nth < copied { nth + 1 } else { 0 };
                    assert_eq!(usize::from(byte.load(Ordering::Relaxed)), expected);
                }
            }
        }
    }
}
