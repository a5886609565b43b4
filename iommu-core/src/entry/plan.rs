//! Finding the rounds.

use core::fmt;

use super::{Detour, EntryError, Layout, Mixing, Round, RoundKind, Target};
use crate::platform::Atomicity;

/// What a plan may rely on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Rules {
    /// What a reader of the entry sees change at once.
    pub atomicity: Atomicity,
    /// Whether the tag of cached translations (VMID, domain id) may change apart from the tables
    /// that it stands for. Whoever allows it has seen to it that no other entry uses either tag,
    /// that both domains invalidate what is cached under the mixture, and that it is invalidated
    /// before the tag stands for anything else (SMMUv3 3.17).
    pub retag: bool,
}

const MOST: usize = 3;

/// In which rounds an entry becomes its target: at most three.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Rounds without words are none.
    rounds: [Round; MOST],
    breaks: bool,
}

impl Plan {
    const fn empty(rules: Rules) -> Self {
        Self {
            rounds: [Round::new(RoundKind::Fill, 0, rules); MOST],
            breaks: false,
        }
    }

    /// The plan that makes `live`, all of which the hardware has confirmed, mean `target`.
    ///
    /// # Errors
    ///
    /// [`EntryError::Unknown`] where bits of `live` that would have to change have no meaning that
    /// the layout knows, and may be in use.
    #[inline]
    pub fn new<F: Layout<N>, const N: usize>(
        live: &[u64; N],
        target: &Target<F, N>,
        rules: Rules,
    ) -> Result<Self, EntryError> {
        let differences = Differences::between(live, target);
        match differences.simple(rules) {
            Some((fill, swing)) => Ok(Self::simple(fill, swing, rules)),
            None => Self::unusual(live, target, rules),
        }
    }

    /// Swings `swing`, at most one unit, after `fill` is filled.
    #[inline(always)]
    const fn simple(fill: u8, swing: u8, rules: Rules) -> Self {
        let mut plan = Self::empty(rules);
        plan.rounds[0].words = fill;
        plan.rounds[1] = Round::new(RoundKind::Swing, swing, rules);
        plan
    }

    /// The plan where more than one unit is in conflict, or words have bits that nobody defined.
    #[cold]
    #[inline(never)]
    fn unusual<F: Layout<N>, const N: usize>(
        live: &[u64; N],
        target: &Target<F, N>,
        rules: Rules,
    ) -> Result<Self, EntryError> {
        let differences = Differences::of_all(live, target)?;
        let breaking = Self::breaking(differences.needed(rules), rules);
        let mixing = F::mixing(live, &target.words);
        if mixing == Mixing::Harmful {
            return Ok(breaking);
        }
        match differences.in_one_unit(rules) {
            Some((fill, swing)) if mixing == Mixing::Harmless => {
                Ok(Self::simple(fill, swing, rules))
            }
            _ => Ok(Self::around(live, target, rules, mixing).unwrap_or(breaking)),
        }
    }

    /// By way of waypoints: what may go ahead of the one unit that makes the difference, that unit,
    /// and what may stay behind it. `None` where there are two such units.
    fn around<F: Layout<N>, const N: usize>(
        live: &[u64; N],
        target: &Target<F, N>,
        rules: Rules,
        mixing: Mixing,
    ) -> Option<Self> {
        let used = F::used(live);
        let detour = Detour::between(live, target, rules);
        let change = |word: usize| (live[word] ^ target.words[word]) & target.used[word];
        let conflict = |word: usize| change(word) & used[word];
        let units = |words| widen(words, rules);

        let stuck = |word| conflict(word) & !detour.ahead[word] & !detour.behind[word];
        let swing = units(words_where::<N>(|word| stuck(word) != 0));
        let one = swing.count_ones() <= widen(1, rules).count_ones();
        if !one {
            return None;
        }
        // Some of what is in conflict elsewhere has to go ahead, or to stay behind, or may do either.
        let others =
            |some: &dyn Fn(usize) -> u64| units(words_where::<N>(|word| some(word) != 0)) & !swing;
        let mut first = others(&|word| conflict(word) & !detour.behind[word]);
        let mut last = others(&|word| conflict(word) & !detour.ahead[word]);
        let either = others(&conflict) & !first & !last;
        let needed = units(words_where::<N>(|word| change(word) != 0));
        let free = units(words_where::<N>(|word| change(word) & !used[word] != 0));
        // The new configuration needs all of what the old one ignores before it goes live.
        first |= needed & !last & !either & !swing | free & (last | either);
        if first == 0 && last != 0 {
            last |= either;
        } else {
            first |= either;
        }
        let mut kind = RoundKind::Swing;
        if mixing == Mixing::Apart {
            // Within the unit that is swung, too, what moves by itself goes apart from the rest.
            let apart = |some: &dyn Fn(usize) -> u64| {
                units(words_where::<N>(|word| some(word) != 0)) & swing
            };
            first |= apart(&|word| detour.ahead[word] & !detour.behind[word]);
            if apart(&|word| detour.behind[word] & !detour.ahead[word]) != 0 {
                kind = RoundKind::Behind;
                last |= swing;
            }
        }
        let mut plan = Self::empty(rules);
        plan.rounds = [
            Round::new(RoundKind::Ahead, first, rules),
            Round::new(kind, swing, rules),
            Round::new(RoundKind::Swing, last, rules),
        ];
        Some(plan)
    }

    /// By way of an entry that refuses everything.
    const fn breaking(needed: u8, rules: Rules) -> Self {
        let first = widen(1, rules);
        let mut plan = Self::empty(rules);
        plan.rounds[0] = Round::new(RoundKind::Refuse, first, rules);
        plan.rounds[1] = Round::new(RoundKind::Swing, needed & !first, rules);
        plan.rounds[2] = Round::new(RoundKind::Swing, first, rules);
        plan.breaks = true;
        plan
    }

    /// The rounds, in their order. There are none where the entry means its target already.
    #[inline]
    pub fn rounds(self) -> impl Iterator<Item = Round> {
        self.rounds.into_iter().filter(|round| round.words != 0)
    }

    /// The round of this number, from 0.
    #[must_use]
    #[inline]
    pub fn round(self, number: usize) -> Option<Round> {
        self.rounds().nth(number)
    }

    /// How many rounds there are: each is one wait for the hardware.
    #[must_use]
    #[inline]
    pub fn len(self) -> usize {
        self.rounds().count()
    }

    /// Whether the entry means its target already.
    #[must_use]
    #[inline]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether a reader may see an entry that refuses everything, where neither the live one nor
    /// the target does.
    #[must_use]
    pub const fn breaks(self) -> bool {
        self.breaks
    }

    /// How many stores there are in all.
    #[must_use]
    pub fn stores(self) -> u32 {
        self.rounds().map(Round::stores).sum()
    }
}

/// Where a live entry and its target differ: a bit for each word.
#[derive(Clone, Copy)]
pub(super) struct Differences {
    /// Bits that the target uses differ.
    needed: u8,
    /// Bits that both use differ.
    conflicting: u8,
    /// Not zero where bits may differ that nobody defined, or that are entangled.
    odd: u64,
}

impl Differences {
    #[inline(always)]
    pub(super) fn between<F: Layout<N>, const N: usize>(
        live: &[u64; N],
        target: &Target<F, N>,
    ) -> Self {
        let used = F::used(live);
        let (mut needed, mut conflicting, mut odd) = (0, 0, 0);
        for (word, live) in live.iter().enumerate() {
            if F::DEFINED[word] == 0 {
                odd |= live;
                continue;
            }
            let bits = (live ^ target.words[word]) & target.used[word];
            if bits != 0 {
                needed |= 1 << word;
                if bits & used[word] != 0 {
                    conflicting |= 1 << word;
                    odd |= bits & used[word] & (!F::DEFINED[word] | F::ENTANGLED[word]);
                }
            }
        }
        Self {
            needed,
            conflicting,
            odd,
        }
    }

    /// As [`between`](Self::between), with what exactly is odd.
    #[inline]
    pub(super) fn of_all<F: Layout<N>, const N: usize>(
        live: &[u64; N],
        target: &Target<F, N>,
    ) -> Result<Self, EntryError> {
        let differences = Self::between(live, target);
        if differences.odd == 0 {
            return Ok(differences);
        }
        let used = F::used(live);
        let (mut needed, mut conflicting) = (0, 0);
        for (word, live) in live.iter().enumerate() {
            let change = (live ^ target.words[word]) & target.used[word];
            let bits = change & used[word] & !F::DEFINED[word];
            if bits != 0 {
                let entry = F::NAME;
                return Err(EntryError::Unknown { entry, word, bits });
            }
            needed |= u8::from(change != 0) << word;
            conflicting |= u8::from(change & used[word] != 0) << word;
        }
        Ok(Self {
            needed,
            conflicting,
            odd: 0,
        })
    }

    #[inline(always)]
    pub(super) const fn are_none(self) -> bool {
        self.needed == 0
    }

    /// Whether every bit that differs, and is in use, has a meaning of its own.
    #[inline(always)]
    pub(super) const fn are_plain(self) -> bool {
        self.odd == 0
    }

    /// What is filled and what is swung, by whole units, where one word at most is in conflict.
    #[inline(always)]
    pub(super) const fn simple(self, rules: Rules) -> Option<(u8, u8)> {
        if self.odd != 0 || self.conflicting & self.conflicting.wrapping_sub(1) != 0 {
            return None;
        }
        let swing = widen(self.conflicting, rules);
        Some((self.needed(rules) & !swing, swing))
    }

    /// As [`simple`](Self::simple), where both words of one unit may be in conflict.
    fn in_one_unit(self, rules: Rules) -> Option<(u8, u8)> {
        let swing = widen(self.conflicting, rules);
        let units = match rules.atomicity {
            Atomicity::Word => swing,
            Atomicity::Pair => swing & 0b0101_0101,
        };
        let one = units & units.wrapping_sub(1) == 0;
        one.then_some((self.needed(rules) & !swing, swing))
    }

    /// The words that change, by whole units.
    #[inline(always)]
    pub(super) const fn needed(self, rules: Rules) -> u8 {
        widen(self.needed, rules)
    }
}

/// A bit for each word of `N` that changes.
fn words_where<const N: usize>(changes: impl Fn(usize) -> bool) -> u8 {
    const { assert!(N <= 8, "a bit of a u8 for each word") };
    (0..N).fold(0, |words, word| words | u8::from(changes(word)) << word)
}

/// All words of the units that `words` are in.
#[inline(always)]
pub(super) const fn widen(words: u8, rules: Rules) -> u8 {
    match rules.atomicity {
        Atomicity::Word => words,
        Atomicity::Pair => ((words | words >> 1) & 0b0101_0101) * 0b11,
    }
}

/// "fill 1 2, swing 0"; a plan that breaks starts with "refuse 0", and one without rounds is
/// "nothing".
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing");
        }
        for (number, round) in self.rounds().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{round}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plan({self})")
    }
}
