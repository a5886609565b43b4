//! Finding the rounds.

use core::fmt;

use super::{Detour, EntryError, Layout, Round, RoundKind, Target};
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

/// No plan takes more rounds.
const MOST: usize = 6;

/// In which rounds an entry becomes its target.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    rounds: [Round; MOST],
    len: u8,
    breaks: bool,
}

impl Plan {
    const fn empty(rules: Rules) -> Self {
        let nothing = Round {
            kind: RoundKind::Fill,
            words: 0,
            rules,
        };
        Self {
            rounds: [nothing; MOST],
            len: 0,
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
        let used = F::used(live);
        // Words of which used bits change, and those of them where the live configuration uses
        // such bits too.
        let (mut needed, mut conflicting) = (0u8, 0u8);
        for word in 0..N {
            let bits = (live[word] ^ target.words[word]) & target.used[word];
            if bits != 0 {
                needed |= 1 << word;
                if bits & used[word] != 0 {
                    conflicting |= 1 << word;
                    if bits & used[word] & !F::DEFINED[word] != 0 {
                        return Err(unknown::<F, N>(live, word));
                    }
                }
            }
        }
        let (needed, swing) = (widen(needed, rules), widen(conflicting, rules));
        let mut plan = Self::empty(rules);
        if !is_one_unit(swing, rules) {
            return Ok(Self::long(live, target, rules));
        }
        if needed & !swing != 0 {
            plan.add(RoundKind::Fill, needed & !swing, rules);
        }
        if swing != 0 {
            plan.add(RoundKind::Swing, swing, rules);
        }
        Ok(plan)
    }

    /// The plan where more than one word is in conflict.
    #[cold]
    fn long<F: Layout<N>, const N: usize>(
        live: &[u64; N],
        target: &Target<F, N>,
        rules: Rules,
    ) -> Self {
        Self::around(live, target, rules)
            .filter(|plan| !plan.breaks)
            .unwrap_or_else(|| Self::breaking(live, target, rules))
    }

    /// By way of a waypoint, if there is one.
    fn around<F: Layout<N>, const N: usize>(
        live: &[u64; N],
        target: &Target<F, N>,
        rules: Rules,
    ) -> Option<Self> {
        let used = F::used(live);
        let detour = Detour::between(live, target, rules);
        let mut plan = Self::empty(rules);
        if detour.ahead != [0; N] {
            let words = words_where::<N>(|word| {
                let bits = (live[word] ^ target.words[word]) & target.used[word];
                bits & (!used[word] | detour.ahead[word]) != 0
            });
            plan.add(RoundKind::Ahead, widen(words, rules), rules);
        } else if detour.behind != [0; N] {
            let mut stop = *target;
            for word in 0..N {
                stop.words[word] ^= (live[word] ^ target.words[word]) & detour.behind[word];
            }
            for round in Self::new(live, &stop, rules).ok()?.rounds() {
                match round.kind {
                    RoundKind::Fill => plan.add(RoundKind::Fill, round.words, rules),
                    RoundKind::Swing => plan.add(RoundKind::Behind, round.words, rules),
                    _ => return None,
                }
            }
        } else {
            return None;
        }
        let mut entry = *live;
        for round in plan.rounds() {
            round.apply(&mut entry, target, |_| ());
        }
        let rest = Self::new(&entry, target, rules).ok()?;
        if plan.len() + rest.len() > MOST {
            return None;
        }
        for round in rest.rounds() {
            plan.add(round.kind, round.words, rules);
        }
        plan.breaks = rest.breaks;
        Some(plan)
    }

    /// By way of an entry that refuses everything.
    fn breaking<F: Layout<N>, const N: usize>(
        live: &[u64; N],
        target: &Target<F, N>,
        rules: Rules,
    ) -> Self {
        let first = widen(1, rules);
        let others =
            words_where::<N>(|word| (live[word] ^ target.words[word]) & target.used[word] != 0);
        let mut plan = Self::empty(rules);
        plan.breaks = true;
        plan.add(RoundKind::Refuse, first, rules);
        let others = widen(others, rules) & !first;
        if others != 0 {
            plan.add(RoundKind::Swing, others, rules);
        }
        plan.add(RoundKind::Swing, first, rules);
        plan
    }

    #[inline(always)]
    fn add(&mut self, kind: RoundKind, words: u8, rules: Rules) {
        if let Some(round) = self.rounds.get_mut(usize::from(self.len)) {
            *round = Round { kind, words, rules };
            self.len += 1;
        }
    }

    /// The rounds, in their order. There are none where the entry means its target already.
    #[inline]
    pub fn rounds(&self) -> impl ExactSizeIterator<Item = Round> {
        self.rounds[..usize::from(self.len)].iter().copied()
    }

    /// The round of this number, from 0.
    #[must_use]
    #[inline]
    pub fn round(&self, number: usize) -> Option<Round> {
        self.rounds[..usize::from(self.len)].get(number).copied()
    }

    /// How many rounds there are: each is one wait for the hardware.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len.into()
    }

    /// Whether the entry means its target already.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a reader may see an entry that refuses everything, where neither the live one nor
    /// the target does.
    #[must_use]
    pub const fn breaks(&self) -> bool {
        self.breaks
    }

    /// How many stores there are in all.
    #[must_use]
    pub fn stores(&self) -> u32 {
        self.rounds().map(Round::stores).sum()
    }
}

#[cold]
fn unknown<F: Layout<N>, const N: usize>(live: &[u64; N], word: usize) -> EntryError {
    let bits = live[word] & !F::DEFINED[word];
    EntryError::Unknown {
        entry: F::NAME,
        word,
        bits,
    }
}

/// A bit for each word of `N` that changes.
fn words_where<const N: usize>(changes: impl Fn(usize) -> bool) -> u8 {
    const { assert!(N <= 8, "a bit of a u8 for each word") };
    (0..N).fold(0, |words, word| words | u8::from(changes(word)) << word)
}

/// All words of the units that `words` are in.
#[inline(always)]
const fn widen(words: u8, rules: Rules) -> u8 {
    match rules.atomicity {
        Atomicity::Word => words,
        Atomicity::Pair => ((words | words >> 1) & 0b0101_0101) * 0b11,
    }
}

/// Whether `words`, widened, are one unit at most.
#[inline(always)]
const fn is_one_unit(words: u8, rules: Rules) -> bool {
    let units = match rules.atomicity {
        Atomicity::Word => words,
        Atomicity::Pair => words & 0b0101_0101,
    };
    units & units.wrapping_sub(1) == 0
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
