//! What devices read while their streams move.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Reader;

/// No more faults than this are kept.
const KEPT: usize = 10;

/// What a device reads from two pages: the first leads to the same bytes wherever anything passes,
/// the second to bytes of that place's own. 0 where it is refused.
pub type Words = [u32; 2];

/// Where streams are, were, or go.
#[derive(Clone, Copy, Debug)]
struct Stop {
    name: &'static str,
    words: Words,
}

/// What was looked at, and found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Findings {
    /// How often the streams moved.
    pub moves: usize,
    /// Stores to entries.
    pub stores: usize,
    /// Commands, where the devices read after each.
    pub commands: usize,
    /// The words that were read.
    pub reads: usize,
    /// Those of them that were read during a move.
    pub under_way: usize,
    /// The first few reads that were neither the old place's nor the new one's, and events.
    pub faults: Vec<String>,
}

/// The stops so far, and what was found on the way.
#[derive(Debug, Default)]
struct Way {
    stops: Vec<Stop>,
    /// The first stop of which anything may still be seen.
    settled: usize,
    /// Stores and commands of the current move.
    steps: [usize; 2],
    found: Findings,
}

/// Devices, and what they may read at this moment.
pub struct Watch {
    readers: Vec<Reader>,
    iovas: [u64; 2],
    way: Mutex<Way>,
}

impl Watch {
    /// Watches the two pages at `iovas` through the eyes of `readers`.
    #[must_use]
    pub fn new(readers: Vec<Reader>, iovas: [u64; 2]) -> Self {
        Self {
            readers,
            iovas,
            way: Mutex::default(),
        }
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The streams set out for a place where those words are read.
    pub fn depart(&self, name: &'static str, words: Words) {
        let mut way = self.way();
        way.stops.push(Stop { name, words });
        way.steps = [0; 2];
    }

    /// Where they are, those words are read from now on.
    pub fn stay(&self, words: Words) {
        let mut way = self.way();
        way.stops
            .iter_mut()
            .last()
            .into_iter()
            .for_each(|stop| stop.words = words);
    }

    /// They have arrived: from here on, nothing of earlier places may be seen.
    pub fn arrive(&self) {
        let mut way = self.way();
        way.settled = way.stops.len() - 1;
    }

    /// A store was made to an entry.
    pub fn note_store(&self) {
        let mut way = self.way();
        way.steps[0] += 1;
        way.found.stores += 1;
    }

    /// A command was consumed.
    pub fn note_command(&self) {
        let mut way = self.way();
        way.steps[1] += 1;
        way.found.commands += 1;
    }

    /// How many words were read until now.
    #[must_use]
    pub fn reads(&self) -> usize {
        self.way().found.reads
    }

    /// Lets all devices read both pages.
    pub fn look(&self) {
        (0..self.readers.len() * self.iovas.len()).for_each(|number| self.read(number));
    }

    /// Lets a device read a page: the devices by turns, and each the pages by turns, as `number`
    /// grows. What comes has to be what some place gives where the streams may have been since the
    /// read began.
    pub fn read(&self, number: usize) {
        let (turn, page) = (number / self.iovas.len(), number % self.iovas.len());
        let device = turn % self.readers.len();
        let first = self.way().settled;
        let word = self.readers[device](self.iovas[page]);
        let mut way = self.way();
        let may_be = &way.stops[first..];
        let (old, new) = (may_be[0].name, may_be[may_be.len() - 1].name);
        let fits = may_be.iter().any(|stop| stop.words[page] == word);
        let moves = may_be.len() > 1;
        way.found.reads += 1;
        way.found.under_way += usize::from(moves);
        if !fits {
            let [stores, commands] = way.steps;
            let page = ["common", "own"][page];
            way.fault(format!(
                "{old} to {new}, after {stores} stores and {commands} commands: device {device} \
                 read {word:#x} of the {page} page"
            ));
        }
    }

    /// Notes that something happened that must not.
    pub fn fault(&self, what: String) {
        self.way().fault(what);
    }

    /// What was found until now.
    #[must_use]
    pub fn findings(&self) -> Findings {
        let way = self.way();
        Findings {
            moves: way.stops.len().saturating_sub(1),
            ..way.found.clone()
        }
    }
}

impl Way {
    fn fault(&mut self, what: String) {
        if self.found.faults.len() < KEPT {
            self.found.faults.push(what);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({:?})", *self.way())
    }
}
