//! An adverse reader of stream table entries and context descriptors (3.21.3).

mod behaviour;
mod fields;
mod history;
mod image;
mod judge;
mod stream;
mod tables;
mod tags;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::RangeInclusive;

use iommu_core::{Atomicity, PhysAddr};

use self::stream::{Cfgi, Stream, World};
use self::tables::Memory;
use self::tags::Tags;
use super::bits::{bit, field, mask};
use super::settings::ModelConfig;

pub use self::image::Image;

/// More failures than this are not kept.
const MOST_FAILURES: usize = 64;

/// Hardware that reads stream table entries and context descriptors as adversely as 3.21.3 allows: it
/// shows whether software changes live entries without ever being seen in between.
///
/// It is told what software does, every store, and every command when it is consumed; a
/// [`MockMemory`](crate::MockMemory) and an [`SmmuModel`](super::SmmuModel) have hooks for that. After
/// each it puts together whatever hardware may now see, and judges all of it:
///
/// - Each atomic unit of an entry is seen with any value that it had since the last completed
///   invalidation, whatever is seen of the others. An invalidation takes effect when it is consumed at
///   the earliest, and is complete when a later CMD_SYNC is consumed.
/// - Context descriptors and their first levels are cached by stream and substream. Whatever any
///   view of a stream's entry led to is seen through any other, until the invalidation of it is
///   complete; that of the entry drops them too (4.3.1). Words are mixed with those of the same
///   descriptor only: what is cached is a copy of one structure. Behind stage 2, context
///   descriptors are their owner's business, and only where they are counts.
/// - What is seen has to equal what one of the stream's [`Image`]s does, for each class of transactions
///   by itself: without substream, with each substream, with the first beyond; and for ATS Translation
///   Requests of each. Fields that are IGNORED make no difference. A view that is ILLEGAL is wrong
///   in any case, one with V = 0 unless an image has it.
/// - Whatever any view translates may be in the TLB under its tag (VMID and ASID), until an
///   invalidation of the whole tag is complete that was consumed when no view could use the tag any
///   more. Until then the tag stands for one set of tables and attributes, across all streams; and
///   a VMID for one number of stages. Stage 1 of one stream and stage 2 of another have the same
///   VMID only where the other turns from the one to the other, too.
///
/// The views of one structure are all mixtures of the values of its units. Their number is the product
/// of how many different values each unit had since it was confirmed: writers that wait as the
/// architecture asks keep that at two, of a few words. More than 8192 are refused.
///
/// Not looked at: first-level descriptors of stream tables; translation tables; ATCs, and in which
/// order ATS goes on and off at the device (3.9.2); reserved bits; MEV, PPAR, and CONT, which is
/// refused; and what the [model](super::SmmuModel) does not know either.
///
/// ```
/// use iommu_core::{Atomicity, PhysAddr};
/// use mock_hw::smmuv3::{EntryChecker, Image, ModelConfig};
///
/// let abort = [1, 0, 0, 0, 0, 0, 0, 0];
/// let bypass = [9, 0, 0, 0, 0, 0, 0, 0];
/// let mut checker = EntryChecker::new(ModelConfig::default(), Atomicity::Word);
/// checker.watch(5, PhysAddr(0x4001_0140), abort);
/// checker.expect(5, &[Image::new(abort), Image::new(bypass)]);
/// checker.store(PhysAddr(0x4001_0140), &[9]);
/// checker.command([0x0005_0000_0003, 1]); // CMD_CFGI_STE
/// checker.command([0x46, 0]); // CMD_SYNC
/// checker.expect(5, &[Image::new(bypass)]);
/// assert!(checker.failures().is_empty());
/// // Clearing V is noticed at once.
/// checker.store(PhysAddr(0x4001_0140), &[0]);
/// assert!(checker.failures()[0].contains("V = 0"));
/// ```
pub struct EntryChecker {
    world: World,
    streams: Vec<Stream>,
    /// Commands that no CMD_SYNC followed, and when they were consumed.
    pending: Vec<(u64, [u64; 2])>,
    tags: Tags,
    failures: Vec<String>,
}

impl EntryChecker {
    /// A reader that knows no stream, and of memory only zeros. Of `ids`, the identification registers
    /// count.
    #[must_use]
    pub fn new(ids: ModelConfig, atomicity: Atomicity) -> Self {
        let world = World {
            ids,
            memory: Memory::default(),
            unit: match atomicity {
                Atomicity::Word => 1,
                Atomicity::Pair => 2,
            },
            now: 1,
        };
        Self {
            world,
            streams: Vec::new(),
            pending: Vec::new(),
            tags: Tags::default(),
            failures: Vec::new(),
        }
    }

    /// Looks at a stream from now on, whose entry is at `at` with these words, all of it confirmed. Say
    /// next by [`expect`](Self::expect) what it may be seen as.
    ///
    /// # Panics
    ///
    /// If `at` is not aligned to 64 bytes.
    pub fn watch(&mut self, stream: u32, at: PhysAddr, words: [u64; 8]) {
        assert!(at.0.is_multiple_of(64), "no entry at {at}");
        self.set_memory(at, &words);
        let watched = Stream::new(stream, at.0, &self.world);
        self.streams.retain(|of| of.id != stream);
        self.streams.push(watched);
    }

    /// Describes memory as it stands: context descriptors and their first levels, before they can be
    /// reached or all of them confirmed. It is not seen as a store; nor is it judged by itself.
    ///
    /// Memory that changes other than by [`store`](Self::store), as by being zeroed, is described anew.
    ///
    /// # Panics
    ///
    /// If `at` is not aligned to 8 bytes.
    pub fn set_memory(&mut self, at: PhysAddr, words: &[u64]) {
        let lines = self.put(at, words);
        for stream in &mut self.streams {
            stream.tables.forget(&lines);
        }
    }

    /// Says what a stream may be seen as from now on: its old configuration, its new one, and what is
    /// declared to lie between. All that may be seen now is judged by it. Of streams that change
    /// together, say it before the first store: they may share a VMID on the way from stage 1 to
    /// stage 2 or back.
    ///
    /// # Panics
    ///
    /// If the stream is not watched.
    pub fn expect(&mut self, stream: u32, images: &[Image]) {
        let Some(at) = self.streams.iter().position(|of| of.id == stream) else {
            panic!("stream {stream:#x} is not watched");
        };
        let wrong = self.streams[at].expect(&self.world.ids, images);
        self.tags
            .declare(stream, self.streams[at].declared_claims());
        wrong.into_iter().for_each(|what| self.fail(what));
        self.look(at);
    }

    /// One single-copy atomic store of one or two words. Two words are seen as one only where that is
    /// how they are fetched.
    ///
    /// # Panics
    ///
    /// If `at` is not aligned to 8 bytes.
    pub fn store(&mut self, at: PhysAddr, words: &[u64]) {
        self.world.now += 1;
        let lines = self.put(at, words);
        for at in 0..self.streams.len() {
            if self.streams[at].may_read(&lines) {
                self.look(at);
            }
        }
    }

    /// A command as hardware consumed it. Those that concern neither configuration nor translations
    /// count for nothing.
    pub fn command(&mut self, command: [u64; 2]) {
        self.world.now += 1;
        match field(&command, 7, 0) {
            0x03..=0x06 | 0x10 | 0x11 | 0x20 | 0x28 | 0x30 => {
                self.pending.push((self.world.now, command));
            }
            0x46 => self.complete(),
            _ => {}
        }
    }

    /// What went wrong, in the order in which it did; each thing once.
    #[must_use]
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// How many views there are of a stream's entry.
    #[must_use]
    pub fn views(&self, stream: u32) -> usize {
        let mut streams = self.streams.iter();
        let watched = streams.find(|of| of.id == stream);
        watched.map_or(0, |of| of.entry.views.len())
    }

    /// Changes memory, and returns the lines that it touched.
    fn put(&mut self, at: PhysAddr, words: &[u64]) -> RangeInclusive<u64> {
        assert!(at.0.is_multiple_of(8), "no word at {at}");
        let mut last = at.0;
        for (at, word) in (at.0..).step_by(8).zip(words) {
            self.world.memory.put(at, *word);
            last = at;
        }
        at.0 & !63..=last & !63
    }

    /// Fetches and judges what there is of a stream now.
    fn look(&mut self, at: usize) {
        let stream = &mut self.streams[at];
        let fetched = stream.fetch(&self.world);
        let verdict = stream.judge();
        let (id, now) = (stream.id, self.world.now);
        if fetched.is_err() {
            self.fail(format!(
                "stream {id:#x}: there are too many stores that no invalidation followed"
            ));
        }
        let conflicts = self.tags.set(id, &verdict.claims, now);
        let wrong = verdict.wrong.into_iter().chain(conflicts);
        wrong.for_each(|what| self.fail(what));
    }

    /// A CMD_SYNC was consumed: what came before it is complete.
    fn complete(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        for at in 0..self.streams.len() {
            let stream = &mut self.streams[at];
            let before = pending.iter();
            let named = before.filter_map(|(since, of)| Some((since, invalidated(of, stream.id)?)));
            let named: Vec<_> = named.collect();
            for (since, what) in &named {
                stream.confirm(*what, **since, &self.world);
            }
            if !named.is_empty() {
                self.look(at);
            }
        }
        for (since, command) in &pending {
            self.tags.release(command, *since);
        }
    }

    fn fail(&mut self, what: String) {
        if self.failures.len() < MOST_FAILURES && !self.failures.contains(&what) {
            self.failures.push(what);
        }
    }
}

/// What a command invalidates of a stream's configuration (4.3).
fn invalidated(command: &[u64; 2], stream: u32) -> Option<Cfgi> {
    let named = field(command, 63, 32);
    let low = match field(command, 7, 0) {
        // The lowest bits of the StreamID are IGNORED.
        0x04 => u32::try_from(mask(field(command, 68, 64) + 1)).unwrap_or(u32::MAX),
        _ => 0,
    };
    if named | low != stream | low {
        return None;
    }
    match field(command, 7, 0) {
        0x03 | 0x04 => Some(Cfgi::Entry),
        0x05 => Some(Cfgi::Context {
            substream: field(command, 31, 12),
            level1: !bit(command, 64),
        }),
        0x06 => Some(Cfgi::Contexts),
        _ => None,
    }
}

impl fmt::Debug for EntryChecker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryChecker({} failures)", self.failures.len())
    }
}
