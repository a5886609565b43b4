//! What may be cached of one structure of 64 bytes, and what views that makes.

/// Until when a value could be fetched, if it still can.
const NOW: u64 = u64::MAX;

/// More views than this of one structure are refused.
const MOST_VIEWS: usize = 1 << 13;

#[derive(Clone, Copy)]
struct Held {
    value: [u64; 2],
    /// The last moment at which memory had it.
    until: u64,
}

/// The values that hardware may have of one atomic unit.
#[derive(Default)]
pub(super) struct History(Vec<Held>);

impl History {
    /// From now on, memory has this value. Whether hardware could not have it before.
    pub(super) fn fetch(&mut self, value: [u64; 2], now: u64) -> bool {
        let known = self.0.iter().position(|held| held.value == value);
        if known.is_some_and(|at| self.0[at].until == NOW) {
            return false;
        }
        self.lose(now);
        match known {
            Some(at) => self.0[at].until = NOW,
            None => self.0.push(Held { value, until: NOW }),
        }
        known.is_none()
    }

    /// From now on, it cannot be fetched.
    pub(super) fn lose(&mut self, now: u64) {
        for held in &mut self.0 {
            held.until = held.until.min(now - 1);
        }
    }

    /// An invalidation that began at `since` is complete: whether anything is left that was fetched
    /// then or later.
    pub(super) fn confirm(&mut self, since: u64) -> bool {
        self.0.retain(|held| held.until >= since);
        !self.0.is_empty()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = [u64; 2]> + '_ {
        self.0.iter().map(|held| held.value)
    }

    fn has(&self, value: [u64; 2]) -> bool {
        self.0.iter().any(|held| held.value == value)
    }

    fn is_now(&self, value: [u64; 2]) -> bool {
        let mut held = self.0.iter();
        held.any(|held| held.value == value && held.until == NOW)
    }
}

/// A structure put together from what is cached and what memory has.
pub(super) struct View<T> {
    pub(super) words: [u64; 8],
    /// It was not judged yet.
    pub(super) fresh: bool,
    /// What it means, as far as somebody asked.
    pub(super) meaning: T,
}

impl<T: Default> View<T> {
    fn new(words: [u64; 8]) -> Self {
        Self {
            words,
            fresh: true,
            meaning: T::default(),
        }
    }
}

/// There are more views than anybody wants to look at.
pub(super) struct TooMany;

/// One structure: the values of each of its atomic units, and every mixture of them.
pub(super) struct Structure<T> {
    /// Words per unit.
    unit: usize,
    units: Vec<History>,
    pub(super) views: Vec<View<T>>,
    /// There were too many.
    incomplete: bool,
}

impl<T: Default> Structure<T> {
    /// A structure that was never fetched before; `unit` is the number of words that are fetched as
    /// one, 1 or 2.
    pub(super) fn new(unit: usize, words: &[u64; 8], now: u64) -> Self {
        let mut units = Vec::with_capacity(8 / unit);
        for chunk in words.chunks(unit) {
            let mut history = History::default();
            history.fetch(pair(chunk), now);
            units.push(history);
        }
        let views = vec![View::new(*words)];
        Self {
            unit,
            units,
            views,
            incomplete: false,
        }
    }

    /// From now on, memory has these words.
    pub(super) fn fetch(&mut self, words: &[u64; 8], now: u64) -> Result<(), TooMany> {
        let mut done = Ok(());
        for (at, chunk) in words.chunks(self.unit).enumerate() {
            let value = pair(chunk);
            if self.units[at].fetch(value, now) {
                done = done.and(self.mix(Some((at, value))));
            }
        }
        done
    }

    /// From now on, nothing leads to it.
    pub(super) fn lose(&mut self, now: u64) {
        for history in &mut self.units {
            history.lose(now);
        }
    }

    /// As [`History::confirm`], for all of it.
    pub(super) fn confirm(&mut self, since: u64) -> bool {
        let mut left = true;
        for history in &mut self.units {
            left &= history.confirm(since);
        }
        let Self { unit, units, .. } = self;
        self.views.retain(|view| {
            let mut chunks = units.iter().zip(view.words.chunks(*unit));
            chunks.all(|(history, chunk)| history.has(pair(chunk)))
        });
        if std::mem::take(&mut self.incomplete) {
            self.views.clear();
            // Where there are still too many, that was said before.
            let _ = self.mix(None);
        }
        left
    }

    /// Adds every mixture of the values of the units; of one, only this value if it is given.
    fn mix(&mut self, only: Option<(usize, [u64; 2])>) -> Result<(), TooMany> {
        let mut mixtures = vec![[0; 8]];
        for (at, history) in self.units.iter().enumerate() {
            let words = at * self.unit..(at + 1) * self.unit;
            let put = |mixture: &mut [u64; 8], value: [u64; 2]| {
                mixture[words.clone()].copy_from_slice(&value[..self.unit]);
            };
            let given = only.filter(|(of, _)| *of == at).map(|(_, value)| value);
            let count = given.map_or(history.0.len(), |_| 1);
            if mixtures.len() * count + self.views.len() > MOST_VIEWS {
                self.incomplete = true;
                return Err(TooMany);
            }
            let mut values = history.values();
            if let Some(first) = given.or_else(|| values.next()) {
                let others: Vec<_> = values.take(count - 1).collect();
                let before = mixtures.len();
                for value in others {
                    for of in 0..before {
                        let mut mixture = mixtures[of];
                        put(&mut mixture, value);
                        mixtures.push(mixture);
                    }
                }
                mixtures[..before].iter_mut().for_each(|of| put(of, first));
            }
        }
        self.views.extend(mixtures.into_iter().map(View::new));
        Ok(())
    }

    /// The numbers of the words of a view that memory does not have any more.
    pub(super) fn stale(&self, words: &[u64; 8]) -> Vec<usize> {
        let chunks = self.units.iter().zip(words.chunks(self.unit));
        let stale = chunks
            .enumerate()
            .filter(|(_, (history, chunk))| !history.is_now(pair(chunk)));
        stale
            .flat_map(|(at, _)| at * self.unit..(at + 1) * self.unit)
            .collect()
    }
}

/// The words of a unit; the second is 0 where there is one only.
fn pair(chunk: &[u64]) -> [u64; 2] {
    match *chunk {
        [first, second] => [first, second],
        [first, ..] => [first, 0],
        [] => [0; 2],
    }
}
