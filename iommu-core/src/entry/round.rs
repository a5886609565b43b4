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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Round {
    pub(super) kind: RoundKind,
    /// A bit for each word that is stored.
    pub(super) words: u8,
    pub(super) rules: Rules,
}

impl Round {
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
            RoundKind::Swing => self.put(entry, store, |_, word| target.words[word]),
            RoundKind::Fill => {
                let used = F::used(entry);
                self.put(entry, store, |entry, word| {
                    merge(entry[word], target.words[word], !used[word])
                });
            }
            RoundKind::Ahead | RoundKind::Behind | RoundKind::Refuse => {
                let next = self.unusual(entry, target);
                self.put(entry, store, |_, word| next[word]);
            }
        }
    }

    #[inline(always)]
    fn put<const N: usize>(
        self,
        entry: &mut [u64; N],
        mut store: impl FnMut(Store),
        value: impl Fn(&[u64; N], usize) -> u64,
    ) {
        match self.rules.atomicity {
            Atomicity::Word => {
                for word in 0..N {
                    if self.words >> word & 1 != 0 {
                        let value = value(entry, word);
                        entry[word] = value;
                        store(Store::Word { word, value });
                    }
                }
            }
            Atomicity::Pair => {
                for pair in 0..N / 2 {
                    let (low, high) = (2 * pair, 2 * pair + 1);
                    if self.words >> low & 1 != 0 {
                        let values = [value(entry, low), value(entry, high)];
                        entry[low] = values[0];
                        entry[high] = values[1];
                        store(Store::Pair { pair, values });
                    }
                }
            }
        }
    }

    /// What the entry becomes by a round that is neither a plain fill nor a plain swing.
    #[cold]
    fn unusual<F: Layout<N>, const N: usize>(
        self,
        entry: &[u64; N],
        target: &Target<F, N>,
    ) -> [u64; N] {
        let used = F::used(entry);
        let detour = Detour::between(entry, target, self.rules);
        core::array::from_fn(|word| {
            let changes = match self.kind {
                RoundKind::Refuse if word == 0 => return F::refusing(&target.words),
                RoundKind::Refuse | RoundKind::Swing => u64::MAX,
                RoundKind::Fill => !used[word],
                RoundKind::Ahead => !used[word] | detour.ahead[word],
                RoundKind::Behind => !detour.behind[word],
            };
            merge(entry[word], target.words[word], changes)
        })
    }
}

/// `old` with the bits of `mask` from `new`.
#[inline(always)]
const fn merge(old: u64, new: u64, mask: u64) -> u64 {
    old ^ (old ^ new) & mask
}

impl<const N: usize> Detour<N> {
    /// What the layout offers, of the bits that are in use before and after and differ.
    pub(super) fn between<F: Layout<N>>(
        entry: &[u64; N],
        target: &Target<F, N>,
        rules: Rules,
    ) -> Self {
        let used = F::used(entry);
        let Self { ahead, behind } = F::detour(entry, &target.words, rules.retag);
        let conflict =
            |word: usize| (entry[word] ^ target.words[word]) & used[word] & target.used[word];
        Self {
            ahead: core::array::from_fn(|word| ahead[word] & conflict(word)),
            behind: core::array::from_fn(|word| behind[word] & conflict(word)),
        }
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
