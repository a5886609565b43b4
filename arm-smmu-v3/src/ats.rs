//! The address translation caches (ATC) of devices (3.9, 4.5): which of them may have translations
//! of a domain, and how to have those invalidated.
//!
//! A device asks the SMMU for translations, keeps them, and then gets past the SMMU with nothing but
//! a look at its stream table entry. So a translation that ends has to end at the device too, after
//! it has ended in the SMMU's TLB, which would hand it out again (4.5.1): `CMD_TLBI_*`, `CMD_SYNC`,
//! `CMD_ATC_INV`, `CMD_SYNC`. That is queued at once and waited for once.
//!
//! That look is all that stands between a device and what it was ever given: it rests on
//! `SMMU_CR0.ATSCHK`, which is set before anything is translated.
//!
//! Domains are unmapped from while devices come and go, and nobody waits for anybody. What makes
//! that sound is the command queue: a device is [added](AtcSet::add) to the set of its new domain
//! before its entry changes, and its cache is invalidated as a whole behind a `CMD_SYNC` after that;
//! whoever unmaps looks at the set after its `CMD_TLBI_*` are in the queue. If it finds the device
//! there, it has the device invalidate. If not, its `CMD_TLBI_*` are before that `CMD_SYNC`, and what
//! the device asks for afterwards is not answered from what they name.

mod device;
mod switch;

use alloc::vec::Vec;
use core::mem;
use core::sync::atomic::{AtomicBool, Ordering};

use iommu_core::{AddrRange, Error, Iova, Platform, RawLock, Result, StreamId};
use lock_api::Mutex;

use crate::smmu::Inner;
use crate::spec::commands::Command;

pub(crate) use self::device::{Ats, Endpoint, Endpoints};
pub(crate) use self::switch::any_has;

/// What a `CMD_ATC_INV` can name: 2^`size` pages of 4 KiB, the first at a multiple of that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    first: Iova,
    size: u8,
}

impl Span {
    pub(crate) const EVERYTHING: Self = Self::covering(AddrRange::EVERYTHING);

    /// The smallest one with all of `range` in it.
    pub(crate) const fn covering(range: AddrRange) -> Self {
        let (first, last) = (range.start() >> 12, range.last() >> 12);
        let size = u64::BITS - (first ^ last).leading_zeros();
        let first = Iova(first >> size << size << 12);
        #[expect(clippy::cast_possible_truncation, reason = "at most 52")]
        let size = size as u8;
        Self { first, size }
    }

    /// Has the device of `stream` invalidate what it has here, whatever the PASID.
    pub(crate) const fn invalidate(self, stream: StreamId) -> Command {
        Command::atc_inv(stream, None, self.first, self.size)
    }
}

/// Has the devices of `streams` invalidate everything. For behind a `CMD_SYNC`, where the entries or
/// the translations of these streams changed.
pub(crate) fn invalidate_everything(
    streams: impl IntoIterator<Item = StreamId>,
) -> impl Iterator<Item = Command> {
    let streams = streams.into_iter();
    streams.map(|stream| Span::EVERYTHING.invalidate(stream))
}

/// The streams whose devices may have translations of one domain in their caches.
///
/// The lock is held to look one stream up, and to change the set: never while waiting, and nothing
/// is allocated under it.
pub(crate) struct AtcSet<L: RawLock> {
    /// By stream, each once.
    streams: Mutex<L, Vec<Entry>>,
    /// Whether there are none.
    empty: AtomicBool,
}

#[derive(Clone, Copy)]
struct Entry {
    stream: StreamId,
    /// How often it was added.
    users: u32,
    /// Its stream table entry aborts; the device is not asked any more.
    refused: bool,
}

impl<L: RawLock> AtcSet<L> {
    pub(crate) const fn new() -> Self {
        Self {
            streams: Mutex::new(Vec::new()),
            empty: AtomicBool::new(true),
        }
    }

    /// Whether there are none. Who has just run commands sees every stream that was added before
    /// any command of its own attach.
    pub(crate) fn is_empty(&self) -> bool {
        self.empty.load(Ordering::Relaxed)
    }

    /// Adds `streams`, each to be [removed](Self::remove) as often as it was added: before the
    /// entries of any of them change. Those that are new are [refused](Self::refuse) if `refused`.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`](iommu_core::ErrorKind::OutOfMemory); nothing was added.
    pub(crate) fn add(&self, streams: &[StreamId], refused: bool) -> Result {
        let mut spare = Vec::new();
        loop {
            let needed = {
                let all = &mut *self.streams.lock();
                let needed = all.len() + streams.len();
                if all.capacity() < needed && needed <= spare.capacity() {
                    spare.extend_from_slice(all);
                    mem::swap(all, &mut spare);
                }
                if needed <= all.capacity() {
                    streams
                        .iter()
                        .for_each(|stream| count(all, *stream, refused));
                    self.empty.store(all.is_empty(), Ordering::Relaxed);
                    return Ok(());
                }
                needed
            };
            spare
                .try_reserve(needed)
                .map_err(|_| Error::out_of_memory("the streams of a domain"))?;
        }
    }

    /// Takes back what [`add`](Self::add) did. For when the hardware is known to use the domain no
    /// more for `streams`, and their devices have nothing of it, or get past the SMMU with nothing.
    /// Allocates nothing.
    pub(crate) fn remove(&self, streams: &[StreamId]) {
        let all = &mut *self.streams.lock();
        for stream in streams {
            let Ok(at) = find(all, *stream) else { continue };
            all[at].users -= 1;
            if all[at].users == 0 {
                all.remove(at);
            }
        }
        self.empty.store(all.is_empty(), Ordering::Relaxed);
    }

    /// The entries of `streams` abort, in memory: their devices, which may not answer, are not asked
    /// any more. Instead the SMMU is told about the entries; then it lets nothing of what the
    /// devices have pass. Allocates nothing.
    pub(crate) fn refuse(&self, streams: &[StreamId]) {
        self.set_refused(streams, true);
    }

    /// The entries of `streams` are about to let something pass again, and the devices have
    /// invalidated everything: they are asked from here on. Allocates nothing.
    pub(crate) fn ask(&self, streams: &[StreamId]) {
        self.set_refused(streams, false);
    }

    fn set_refused(&self, streams: &[StreamId], refused: bool) {
        let all = &mut *self.streams.lock();
        for stream in streams {
            if let Ok(at) = find(all, *stream) {
                all[at].refused = refused;
            }
        }
    }

    /// The next one above `last`.
    fn next(&self, last: Option<StreamId>) -> Option<Entry> {
        let all = self.streams.lock();
        let at = last.map_or(0, |last| all.partition_point(|entry| entry.stream <= last));
        all.get(at).copied()
    }

    /// A `CMD_SYNC`, and what ends translations of `span` at the devices, for a queue that adds a
    /// `CMD_SYNC` at the end; nothing where there are no devices. The set is looked at when these
    /// commands are asked for.
    fn behind(&self, span: Span) -> impl Iterator<Item = Command> {
        let mut last = None;
        let each = core::iter::from_fn(move || {
            let entry = self.next(last)?;
            let first = last.replace(entry.stream).is_none();
            let command = if entry.refused {
                Command::cfgi_ste(entry.stream, true)
            } else {
                span.invalidate(entry.stream)
            };
            Some([first.then(Command::sync), Some(command)])
        });
        each.flatten().flatten()
    }

    /// The commands that end the translations of `range`: `tlbi`, which end them in the TLB, and
    /// after that those to the devices. The queue adds a `CMD_SYNC` at the end.
    pub(crate) fn unmap(
        &self,
        tlbi: impl IntoIterator<Item = Command>,
        range: AddrRange,
    ) -> impl Iterator<Item = Command> {
        tlbi.into_iter().chain(self.behind(Span::covering(range)))
    }
}

fn find(all: &[Entry], stream: StreamId) -> core::result::Result<usize, usize> {
    all.binary_search_by_key(&stream, |entry| entry.stream)
}

fn count(all: &mut Vec<Entry>, stream: StreamId, refused: bool) {
    match find(all, stream) {
        Ok(at) => all[at].users += 1,
        Err(at) => all.insert(
            at,
            Entry {
                stream,
                users: 1,
                refused,
            },
        ),
    }
}

impl<P: Platform> Inner<P> {
    /// The devices' half of [`end_translations`](Self::end_translations), for who has done the other.
    ///
    /// # Errors
    ///
    /// As there.
    #[cold]
    #[inline(never)]
    pub(crate) fn end_at_devices(&self, atcs: &AtcSet<P::IrqLock>, range: AddrRange) -> Result {
        self.invalidate(atcs.behind(Span::covering(range)))
    }

    /// Ends the translations of `range`, a part of the domain of `atcs`, in the TLB by `tlbi` and at
    /// the devices, and waits for that once.
    ///
    /// # Errors
    ///
    /// Those of the command queue. With [`DeviceTimedOut`](iommu_core::ErrorKind::DeviceTimedOut),
    /// any of the devices may still have them.
    pub(crate) fn end_translations(
        &self,
        atcs: &AtcSet<P::IrqLock>,
        tlbi: impl IntoIterator<Item = Command>,
        range: AddrRange,
    ) -> Result {
        if !atcs.is_empty() {
            return self.invalidate(atcs.unmap(tlbi, range));
        }
        // Commands of known number are cheaper. Somebody may come meanwhile; then the TLB is done
        // with, and the rest follows.
        self.invalidate(tlbi)?;
        match atcs.is_empty() {
            true => Ok(()),
            false => self.end_at_devices(atcs, range),
        }
    }
}

#[cfg(test)]
mod tests;
