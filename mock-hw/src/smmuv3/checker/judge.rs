//! Every pair of views of a stream's entry and its context descriptors, judged.

use std::fmt::Write as _;

use super::behaviour::{Behaviour, Entry, Event, Invalid, Route, Source};
use super::history::View;
use super::stream::{Expected, Meaning, Stream};
use super::tables::{Descriptor, Place, Readings};
use super::tags::Claim;

/// A context descriptor as it is seen.
type Seen<'a> = (&'a Descriptor, &'a View<Readings>);

/// What is to be judged: a view of the entry, and what a class of transactions finds there.
#[derive(Clone, Copy)]
struct Case<'a> {
    stream: &'a Stream,
    view: &'a View<Meaning>,
    class: Option<u32>,
    expected: &'a [Expected],
    descriptor: Option<Seen<'a>>,
    /// Whether it was never judged.
    fresh: bool,
}

/// What came to light.
#[derive(Default)]
pub(super) struct Verdict {
    pub(super) wrong: Vec<String>,
    /// The tags that the stream may fill.
    pub(super) claims: Vec<Claim>,
}

impl Stream {
    /// Judges all views; what was judged before is only asked for its tags.
    pub(super) fn judge(&mut self) -> Verdict {
        let mut verdict = Verdict::default();
        for view in &self.entry.views {
            for (class, expected) in &self.classes {
                let case = Case {
                    stream: self,
                    view,
                    class: *class,
                    expected,
                    descriptor: None,
                    fresh: view.fresh,
                };
                let go_on = match &view.meaning {
                    Some(Ok(entry)) => case.route(entry, &mut verdict),
                    Some(Err(Invalid::Illegal(why))) => case.illegal(why, &mut verdict),
                    _ => case.unset(&mut verdict),
                };
                if !go_on {
                    break;
                }
            }
        }
        self.entry
            .views
            .iter_mut()
            .for_each(|view| view.fresh = false);
        for descriptor in &mut self.tables.descriptors {
            let views = descriptor.structure.views.iter_mut();
            views.for_each(|view| view.fresh = false);
        }
        verdict
    }
}

impl<'a> Case<'a> {
    /// All that transactions of the class may find. Whether other classes are worth a look.
    fn route(self, entry: &Entry, verdict: &mut Verdict) -> bool {
        let id = match entry.route(self.class) {
            Route::Settled(behaviour) => {
                self.settle(entry, behaviour, verdict);
                return true;
            }
            Route::Context(id) => id,
        };
        let tables = &self.stream.tables;
        if tables.may_be_absent(entry, id) {
            let nothing = Behaviour::Faulted(Event::NoDescriptor);
            Self {
                fresh: true,
                ..self
            }
            .settle(entry, nothing, verdict);
        }
        let all = tables.descriptors.iter().filter(|of| of.index == id);
        for (of, view) in all.flat_map(|of| of.structure.views.iter().map(move |view| (of, view))) {
            let case = Self {
                descriptor: Some((of, view)),
                fresh: self.fresh || view.fresh,
                ..self
            };
            let source = match of.place {
                Place::Guest(guest) => Ok(Source::Guest(guest)),
                Place::Memory(_) => view.meaning.of(entry),
            };
            match source {
                Ok(source) => case.settle(entry, entry.translated(source), verdict),
                Err(Invalid::Unset) => {
                    case.settle(entry, Behaviour::Faulted(Event::NoDescriptor), verdict);
                }
                Err(Invalid::Illegal(why)) => drop(case.illegal(why, verdict)),
            }
        }
        true
    }

    /// The class sees this.
    fn settle(self, entry: &Entry, behaviour: Behaviour, verdict: &mut Verdict) {
        for claim in Claim::of(&behaviour).into_iter().flatten() {
            if !verdict.claims.contains(&claim) {
                verdict.claims.push(claim);
            }
        }
        if !self.fresh {
            return;
        }
        let count = self.expected.len();
        if !self.expected.iter().any(|(of, _)| *of == behaviour) {
            let seen = format!("transactions {} are {behaviour}", self.class());
            self.note(
                &format!("{seen}, which none of the {count} images does"),
                verdict,
            );
            return;
        }
        let answer = entry.answer(&behaviour);
        if !self.expected.iter().any(|(_, of)| *of == answer)
            && let Some(answer) = answer
        {
            let seen = format!("Translation Requests {} are {answer}", self.class());
            self.note(
                &format!("{seen}, which none of the {count} images does"),
                verdict,
            );
        }
    }

    /// The entry is seen with V = 0: all classes are refused alike.
    fn unset(self, verdict: &mut Verdict) -> bool {
        let invalid = Behaviour::Faulted(Event::InvalidEntry);
        if self.fresh && !self.expected.iter().any(|(of, _)| *of == invalid) {
            self.note("the entry is seen with V = 0, which no image is", verdict);
        }
        false
    }

    fn illegal(self, why: &str, verdict: &mut Verdict) -> bool {
        if self.fresh {
            let what = match self.descriptor {
                Some(_) => "context descriptor",
                None => "entry",
            };
            self.note(&format!("the {what} is seen ILLEGAL: {why}"), verdict);
        }
        false
    }

    fn class(&self) -> String {
        match self.class {
            Some(id) => format!("with substream {id:#x}"),
            None => "without substream".to_owned(),
        }
    }

    /// Notes what is wrong, and of which words that was put together.
    fn note(self, what: &str, verdict: &mut Verdict) {
        let Self { stream, view, .. } = self;
        let mut text = format!("stream {:#x}: {what}; entry {:x?}", stream.id, view.words);
        let stale = |words: Vec<usize>| match words.as_slice() {
            [] => "as in memory".to_owned(),
            words => format!("of which memory does not have words {words:?} any more"),
        };
        let _ = write!(text, ", {}", stale(stream.entry.stale(&view.words)));
        if let Some((of, view)) = self.descriptor {
            let index = of.index;
            let _ = match of.place {
                Place::Memory(at) => write!(
                    text,
                    "; context descriptor {index:#x} from {at:#x} {:x?}, {}",
                    view.words,
                    stale(of.structure.stale(&view.words))
                ),
                Place::Guest(_) => write!(text, "; context descriptor {index:#x} of a guest"),
            };
        }
        verdict.wrong.push(text);
    }
}
