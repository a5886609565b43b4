//! One stream: what can be fetched and what may be cached.

use std::ops::RangeInclusive;

use super::super::settings::ModelConfig;
use super::behaviour::{Answer, Behaviour, Entry, Invalid};
use super::history::{Structure, TooMany};
use super::image::{Decoded, Image};
use super::tables::{Memory, Tables};
use super::tags::Claim;

/// What one image makes of a class.
pub(super) type Expected = (Behaviour, Option<Answer>);

/// A configuration invalidation, as it concerns one stream.
#[derive(Clone, Copy)]
pub(super) enum Cfgi {
    /// The entry, with all that was fetched through it.
    Entry,
    /// All context descriptors and their first level.
    Contexts,
    /// One context descriptor; perhaps with its first level.
    Context { substream: u32, level1: bool },
}

/// What a view of the entry means, once it was looked at.
pub(super) type Meaning = Option<Result<Entry, Invalid>>;

pub(super) struct Stream {
    pub(super) id: u32,
    pub(super) at: u64,
    pub(super) entry: Structure<Meaning>,
    pub(super) tables: Tables,
    images: Vec<Decoded>,
    /// The substreams that images have descriptors for.
    declared: Vec<u32>,
    /// The classes of transactions by substream, and what each image makes of them.
    pub(super) classes: Vec<(Option<u32>, Vec<Expected>)>,
}

/// What all streams have in common.
pub(super) struct World {
    pub(super) ids: ModelConfig,
    pub(super) memory: Memory,
    /// Words per atomic unit.
    pub(super) unit: usize,
    /// The number of stores and commands so far, and one.
    pub(super) now: u64,
}

impl Stream {
    pub(super) fn new(id: u32, at: u64, world: &World) -> Self {
        Self {
            id,
            at,
            entry: Structure::new(world.unit, &world.memory.line(at), world.now),
            tables: Tables::default(),
            images: Vec::new(),
            declared: Vec::new(),
            classes: Vec::new(),
        }
    }

    /// Replaces what the stream may be seen as, and returns what is wrong with the images.
    pub(super) fn expect(&mut self, ids: &ModelConfig, images: &[Image]) -> Vec<String> {
        let mut wrong = Vec::new();
        self.images.clear();
        for (at, image) in images.iter().enumerate() {
            match Decoded::new(ids, image) {
                Ok(image) => self.images.push(image),
                Err(why) => wrong.push(format!(
                    "stream {:#x}: image {at} is ILLEGAL: {why}",
                    self.id
                )),
            }
        }
        let declared = images.iter().flat_map(|image| image.contexts.keys());
        self.declared = declared.copied().collect();
        self.classes.clear();
        wrong
    }

    /// The tags that the images fill.
    pub(super) fn declared_claims(&self) -> Vec<Claim> {
        self.images.iter().flat_map(Decoded::claims).collect()
    }

    /// Whether any of these lines of memory can be fetched for this stream.
    pub(super) fn may_read(&self, lines: &RangeInclusive<u64>) -> bool {
        lines.contains(&self.at) || self.tables.may_read(lines)
    }

    /// Fetches whatever can be fetched now.
    pub(super) fn fetch(&mut self, world: &World) -> Result<(), TooMany> {
        let done = self.entry.fetch(&world.memory.line(self.at), world.now);
        let substreams = self.find(world);
        let found = self.fetch_descriptors(world, &substreams);
        self.tables.lose_unreached(world.now);
        self.tables.read(&world.ids, entries(&self.entry));
        self.set_classes(&substreams);
        done.and(found)
    }

    /// An invalidation that was consumed at `since` is complete.
    pub(super) fn confirm(&mut self, what: Cfgi, since: u64, world: &World) {
        if matches!(what, Cfgi::Entry) {
            self.entry.confirm(since);
        }
        let (one, walk) = match what {
            Cfgi::Entry | Cfgi::Contexts => (None, true),
            Cfgi::Context { substream, level1 } => (Some(substream), level1),
        };
        let substreams = self.find(world);
        if walk {
            self.tables.confirm_level1(one, since);
        }
        // What led to too many views did so when it was stored.
        let _ = self.fetch_descriptors(world, &substreams);
        self.tables.confirm_descriptors(one, walk, since);
    }

    /// Decodes the views of the entry, and fetches the first level of what they lead to. Returns the
    /// substreams that are to be looked at.
    fn find(&mut self, world: &World) -> Vec<u32> {
        for view in &mut self.entry.views {
            let words = &view.words;
            let read = || Entry::read(&world.ids, words);
            view.meaning.get_or_insert_with(read);
        }
        self.tables.point(entries(&self.entry));
        let mut substreams = vec![0];
        substreams.extend_from_slice(&self.declared);
        let images = self
            .images
            .iter()
            .filter_map(|image| image.entry.as_ref().ok());
        for entry in entries(&self.entry).chain(images) {
            if let Some(stage1) = &entry.stage1 {
                // The last of the range, and the first beyond.
                let beyond = 1 << stage1.context_bits;
                substreams.extend([beyond - 1, beyond]);
            }
        }
        self.tables
            .fetch_level1(&world.memory, &substreams, world.now);
        substreams.append(&mut self.tables.used(&world.memory));
        substreams.extend(self.tables.descriptors.iter().map(|of| of.index));
        substreams.sort_unstable();
        substreams.dedup();
        substreams
    }

    fn fetch_descriptors(&mut self, world: &World, ids: &[u32]) -> Result<(), TooMany> {
        let (memory, entries) = (&world.memory, entries(&self.entry));
        self.tables
            .fetch_descriptors(memory, entries, ids, world.unit, world.now)
    }

    fn set_classes(&mut self, substreams: &[u32]) {
        let known = self.classes.iter().filter_map(|(id, _)| *id);
        if !self.classes.is_empty() && known.eq(substreams.iter().copied()) {
            return;
        }
        let all = substreams.iter().map(|id| Some(*id));
        let expected = |id| self.images.iter().map(|image| image.of(id)).collect();
        let classes = [None].into_iter().chain(all);
        self.classes = classes.map(|id| (id, expected(id))).collect();
        // Everything is to be judged again.
        self.entry
            .views
            .iter_mut()
            .for_each(|view| view.fresh = true);
    }
}

/// The valid views of an entry, decoded.
fn entries(entry: &Structure<Meaning>) -> impl Iterator<Item = &Entry> + Clone {
    let meanings = entry.views.iter().map(|view| &view.meaning);
    meanings.filter_map(|meaning| meaning.as_ref()?.as_ref().ok())
}
