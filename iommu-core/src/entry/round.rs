//! One round of a plan.

use core::fmt;

use super::{Detour, Layout, Rules, Target};
use crate::platform::Atomicity;

/// What a round does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RoundKind {
    /// Gives bits that the live configuration ignores their new values.
    Fill,
    /// As [`Fill`](Self::Fill), and bits that may change ahead of the rest too.
    Ahead,
    /// Makes the target live, all of it or all but the words that later rounds store.
    Swing,
    /// Makes the target live but for bits that may stay behind.
    Behind,
    /// Makes the entry refuse everything.
    Refuse,
}

/// One single-copy-atomic store, in the CPU's byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Store {
    /// One word.
    Word {
        /// Its number in the entry.
        word: usize,
        /// What is stored.
        value: u64,
    },
    /// Two words.
    Pair {
        /// The number of the first, divided by two.
        pair: usize,
        /// What is stored.
        values: [u64; 2],
    },
}

/// Some words of an entry, stored in any order, then invalidated and waited for together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Round {
    pub(super) kind: RoundKind,
    /// A bit for each word that is stored; whole units.
    pub(super) words: u8,
    rules: Rules,
}

impl Round {
    pub(super) const fn new(kind: RoundKind, words: u8, rules: Rules) -> Self {
        Self { kind, words, rules }
    }

    /// What it does.
    #[must_use]
    pub const fn kind(self) -> RoundKind {
        self.kind
    }

    /// The numbers of the words that it stores, rising.
    pub fn words(self) -> impl Iterator<Item = usize> {
        (0..8).filter(move |word| self.words >> word & 1 != 0)
    }

    /// How many stores it takes.
    #[must_use]
    pub const fn stores(self) -> u32 {
        match self.rules.atomicity {
            Atomicity::Word => self.words.count_ones(),
            Atomicity::Pair => self.words.count_ones() / 2,
        }
    }

    /// Changes `entry`, which is as the rounds before left it, and hands each store to `store`.
    #[inline]
    pub fn apply<F: Layout<N>, const N: usize>(
        self,
        entry: &mut [u64; N],
        target: &Target<F, N>,
        store: impl FnMut(Store),
    ) {
        match self.kind {
            RoundKind::Swing => put(self.rules.atomicity, self.words, entry, store, |_, word| {
                target.words[word]
            }),
            RoundKind::Fill => {
                let used = F::used(entry);
                put(
                    self.rules.atomicity,
                    self.words,
                    entry,
                    store,
                    |entry, word| merge(entry[word], target.words[word], !used[word]),
                );
            }
            RoundKind::Ahead | RoundKind::Behind | RoundKind::Refuse => {
                self.apply_unusual(entry, target, store);
            }
        }
    }

    /// A round that is neither a plain fill nor a plain swing.
    #[cold]
    #[inline(never)]
    fn apply_unusual<F: Layout<N>, const N: usize>(
        self,
        entry: &mut [u64; N],
        target: &Target<F, N>,
        store: impl FnMut(Store),
    ) {
        let used = F::used(entry);
        let detour = Detour::between(entry, target, self.rules);
        let next: [u64; N] = core::array::from_fn(|word| {
            let changes = match self.kind {
                RoundKind::Refuse if word == 0 => return F::refusing(&target.words),
                RoundKind::Refuse | RoundKind::Swing => u64::MAX,
                RoundKind::Fill => !used[word],
                RoundKind::Ahead => !used[word] | detour.ahead[word],
                RoundKind::Behind => !detour.behind[word],
            };
            merge(entry[word], target.words[word], changes)
        });
        put(self.rules.atomicity, self.words, entry, store, |_, word| {
            next[word]
        });
    }
}

/// Stores `value` of each of `words`, whole units, in an entry.
#[inline(always)]
pub(super) fn put<const N: usize>(
    atomicity: Atomicity,
    words: u8,
    entry: &mut [u64; N],
    mut store: impl FnMut(Store),
    value: impl Fn(&[u64; N], usize) -> u64,
) {
    let mut left = match atomicity {
        Atomicity::Word => words,
        Atomicity::Pair => words & 0b0101_0101,
    };
    while left != 0 {
        put_unit(atomicity, left, entry, &mut store, &value);
        left &= left - 1;
    }
}

/// Stores the first unit of `words`, of which there is one.
#[inline(always)]
pub(super) fn put_unit<const N: usize>(
    atomicity: Atomicity,
    words: u8,
    entry: &mut [u64; N],
    mut store: impl FnMut(Store),
    value: impl Fn(&[u64; N], usize) -> u64,
) {
    let word = words.trailing_zeros() as usize % N;
    match atomicity {
        Atomicity::Word => {
            let value = value(entry, word);
            entry[word] = value;
            store(Store::Word { word, value });
        }
        Atomicity::Pair => {
            let (high, pair) = (word | 1, word / 2);
            let values = [value(entry, word), value(entry, high)];
            entry[word] = values[0];
            entry[high] = values[1];
            store(Store::Pair { pair, values });
        }
    }
}

/// `old` with the bits of `mask` from `new`.
#[inline(always)]
pub(super) const fn merge(old: u64, new: u64, mask: u64) -> u64 {
    old ^ (old ^ new) & mask
}

impl<const N: usize> Detour<N> {
    /// The bits of a word that may change by themselves, that are in use before and after, and that
    /// differ.
    #[inline(always)]
    fn movable<F: Layout<N>>(
        word: usize,
        entry: &[u64; N],
        target: &Target<F, N>,
        rules: Rules,
    ) -> u64 {
        if F::MOVABLE[word] == 0 {
            return 0;
        }
        let kept = if rules.retag { 0 } else { F::TAG[word] };
        let change = entry[word] ^ target.words[word];
        F::MOVABLE[word] & !kept & change & F::used(entry)[word] & target.used[word]
    }

    /// Whether there is anything to ask the layout for.
    #[inline]
    pub(super) fn may_exist<F: Layout<N>>(
        entry: &[u64; N],
        target: &Target<F, N>,
        rules: Rules,
    ) -> bool {
        let mut bits = 0;
        for word in 0..N {
            bits |= Self::movable(word, entry, target, rules);
        }
        bits != 0
    }

    /// What the layout offers.
    pub(super) fn between<F: Layout<N>>(
        entry: &[u64; N],
        target: &Target<F, N>,
        rules: Rules,
    ) -> Self {
        let mut detour = F::detour(entry, &target.words);
        for word in 0..N {
            let movable = Self::movable(word, entry, target, rules);
            detour.ahead[word] &= movable;
            detour.behind[word] &= movable;
        }
        detour
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            RoundKind::Fill => "fill",
            RoundKind::Ahead => "ahead",
            RoundKind::Swing => "swing",
            RoundKind::Behind => "swing but",
            RoundKind::Refuse => "refuse",
        })?;
        for word in self.words() {
            write!(f, " {word}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Round({self})")
    }
}
