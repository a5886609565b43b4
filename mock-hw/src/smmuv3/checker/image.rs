//! What software says a stream may be seen as.

use std::collections::BTreeMap;

use super::super::settings::ModelConfig;
use super::behaviour::{Answer, Behaviour, Entry, Event, Invalid, Route, Source};
use super::tags::Claim;

/// One configuration of a stream: a stream table entry with the context descriptors that count for it.
///
/// It is what the stream does, not where that is written: S1ContextPtr, and how the table there is laid
/// out, make no difference to what is seen. A substream without a descriptor here has none that is
/// valid. V may be 0, in the entry and in descriptors; nothing else may be wrong with them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    pub(super) entry: [u64; 8],
    pub(super) contexts: BTreeMap<u32, [u64; 8]>,
}

impl Image {
    /// An entry of these words, without any context descriptor.
    #[must_use]
    pub fn new(entry: [u64; 8]) -> Self {
        Self {
            entry,
            contexts: BTreeMap::new(),
        }
    }

    /// The same with a context descriptor of these words for a substream; 0 where there are no
    /// substreams. Behind stage 2, descriptors are not looked at.
    #[must_use]
    pub fn context(mut self, substream: u32, words: [u64; 8]) -> Self {
        self.contexts.insert(substream, words);
        self
    }
}

/// An [`Image`], decoded.
pub(super) struct Decoded {
    pub(super) entry: Result<Entry, Invalid>,
    contexts: BTreeMap<u32, Source>,
}

impl Decoded {
    /// Decodes an image, or says why it is none.
    pub(super) fn new(ids: &ModelConfig, image: &Image) -> Result<Self, &'static str> {
        let entry = Entry::read(ids, &image.entry);
        let mut contexts = BTreeMap::new();
        match &entry {
            Err(Invalid::Illegal(reason)) => return Err(reason),
            Ok(entry) if entry.stage1.is_some() && entry.guest(0).is_none() => {
                for (id, words) in &image.contexts {
                    match entry.context(ids, words) {
                        Ok(source) => drop(contexts.insert(*id, source)),
                        Err(Invalid::Unset) => {}
                        Err(Invalid::Illegal(reason)) => return Err(reason),
                    }
                }
            }
            _ => {}
        }
        Ok(Self { entry, contexts })
    }

    /// What becomes of transactions with this substream, and of their Translation Requests.
    pub(super) fn of(&self, substream: Option<u32>) -> (Behaviour, Option<Answer>) {
        let Ok(entry) = &self.entry else {
            return (Behaviour::Faulted(Event::InvalidEntry), None);
        };
        let behaviour = match entry.route(substream) {
            Route::Settled(behaviour) => behaviour,
            Route::Context(id) => match (entry.guest(id), self.contexts.get(&id)) {
                (Some(guest), _) => entry.translated(Source::Guest(guest)),
                (None, Some(context)) => entry.translated(*context),
                (None, None) => Behaviour::Faulted(Event::NoDescriptor),
            },
        };
        (behaviour, entry.answer(&behaviour))
    }
    /// The tags that its transactions fill, as far as its descriptors are known.
    pub(super) fn claims(&self) -> impl Iterator<Item = Claim> + '_ {
        let substreams = self.contexts.keys().map(|id| Some(*id));
        let classes = [None].into_iter().chain(substreams);
        classes.flat_map(|class| Claim::of(&self.of(class).0).into_iter().flatten())
    }
}
