//! The writer of table entries that hardware may be reading.
//!
//! An entry has several words; hardware fetches each whenever it likes, in any order, and may keep
//! it until it is told to forget it and has confirmed that (SMMUv3 3.21.3). So an entry is changed
//! in *rounds*: some words are stored, then the entry is invalidated, then the hardware has
//! confirmed. Within a round a reader may see any mixture of what was there before it and what it
//! stores; so every mixture has to mean what the entry meant before, or what it means afterwards.
//!
//! What makes that possible is that no configuration uses every bit. A [`Layout`] says which bits a
//! configuration uses; from that and the words alone, [`Plan::new`] finds the rounds:
//!
//! - *fill*: bits that the live configuration ignores get their new values; nothing changes for a
//!   reader;
//! - *swing*: one word (two, where both are fetched [at once](crate::Atomicity)) gets its new value: a
//!   reader sees the old entry or the new one.
//!
//! Bits that the new configuration ignores are left as they are. Where bits in use differ in
//! several words, a layout may offer a *waypoint* ([`Detour`]): bits that may change by themselves,
//! ahead of the swing or after it. Without one the plan [breaks](Plan::breaks): the entry first
//! refuses everything, is filled, and is swung last.
//!
//! A plan is a list of word numbers: pure, small, printable. Whoever executes it stores the words
//! of round *k* of all entries that change together ([`Round::apply`]), invalidates them all, and
//! waits once, for each *k*.
//!
//! ```
//! use iommu_core::entry::{Detour, Layout, Plan, Rules, Target};
//!
//! /// Bit 0 of word 0: valid. Bit 1: whether word 1 is used.
//! struct Example;
//! impl Layout<2> for Example {
//!     const NAME: &'static str = "an example";
//!     const DEFINED: [u64; 2] = [0b11, u64::MAX];
//!     fn used(entry: &[u64; 2]) -> &'static [u64; 2] {
//!         match entry[0] & 0b11 {
//!             0b11 => &[u64::MAX, u64::MAX],
//!             0b01 => &[u64::MAX, 0],
//!             _ => &[0b01, 0],
//!         }
//!     }
//!     fn refuses(entry: &[u64; 2]) -> bool {
//!         entry[0] & 0b01 == 0
//!     }
//!     fn refusing(_target: &[u64; 2]) -> u64 {
//!         0
//!     }
//! }
//!
//! let mut live = [0b01, 0];
//! let target: Target<Example, 2> = Target::new([0b11, 0x1000])?;
//! let plan = Plan::new(&live, &target, Rules::default())?;
//! assert_eq!(plan.to_string(), "fill 1, swing 0");
//! for round in plan.rounds() {
//!     round.apply(&mut live, &target, |store| println!("{store:x?}"));
//!     // Here the entry is invalidated, and that is waited for.
//! }
//! assert_eq!(live, [0b11, 0x1000]);
//! # Ok::<(), iommu_core::entry::EntryError>(())
//! ```

mod plan;
mod round;
#[cfg(test)]
mod tests;
mod write;

use core::fmt;
use core::marker::PhantomData;

pub use self::plan::{Plan, Rules};
pub use self::round::{Round, RoundKind, Store};
pub use self::write::{Device, WriteError, write};

use crate::error::{Error, ErrorKind};

/// What hardware makes of one kind of table entry, of `N` words, at most 8.
///
/// The words are in the CPU's byte order.
pub trait Layout<const N: usize>: 'static {
    /// What such an entry is called, with its article.
    const NAME: &'static str;

    /// The bits that have a meaning to the driver, in any configuration.
    const DEFINED: [u64; N];

    /// The bits that hardware uses of `entry`. That includes every bit that decides which bits
    /// those are. In a configuration that does more than refuse, it includes every bit that is not
    /// [`DEFINED`](Self::DEFINED): nobody knows what it would do.
    ///
    /// More bits than the hardware uses are never wrong, but may cost rounds; one bit too few is a
    /// hole.
    fn used(entry: &[u64; N]) -> &'static [u64; N];

    /// Whether `entry` refuses everything, by word 0 alone: whether [`used`](Self::used) names bits
    /// of no other word.
    fn refuses(entry: &[u64; N]) -> bool;

    /// Word 0 of an entry that refuses everything, as silently as there is, and ignores all other
    /// words: what a breaking plan for `target` goes through.
    fn refusing(target: &[u64; N]) -> u64;

    /// The bits that [`detour`](Self::detour) may name.
    const MOVABLE: [u64; N] = [0; N];

    /// Those of them that tag cached translations: left out where [`Rules::retag`] does not allow
    /// it.
    const TAG: [u64; N] = [0; N];

    /// Bits for which [`mixing`](Self::mixing) is asked where they differ, though no other word is
    /// in conflict.
    const ENTANGLED: [u64; N] = [0; N];

    /// What a reader makes of `target` together with structures that it has cached by way of
    /// `live`. Asked where more than one word is in conflict, or an
    /// [entangled](Self::ENTANGLED) bit.
    fn mixing(live: &[u64; N], target: &[u64; N]) -> Mixing {
        let _ = (live, target);
        Mixing::Harmless
    }

    /// Bits that may change by themselves between `live` and `target`, two entries that are too
    /// different for one swing.
    fn detour(live: &[u64; N], target: &[u64; N]) -> Detour<N> {
        let _ = (live, target);
        Detour::NONE
    }
}

/// What comes of a new entry together with what was cached by way of the old one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mixing {
    /// What the old entry does, or what the new one does.
    Harmless,
    /// Something else, unless the bits of the [`Detour`] change by themselves.
    Apart,
    /// Something else: the entry has to refuse in between.
    Harmful,
}

/// Waypoints: bits that may change apart from the rest.
///
/// A mask may contain bits that do not differ, or that one of the two entries ignores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Detour<const N: usize> {
    /// Those that may change while the old configuration is live. Every mixture of their old and
    /// new values is legal there and does to transactions what the layout's author takes for the
    /// old configuration's doing.
    pub ahead: [u64; N],
    /// Those that may keep their old values when the new configuration goes live; every mixture is
    /// legal there.
    pub behind: [u64; N],
}

impl<const N: usize> Detour<N> {
    /// There is none.
    pub const NONE: Self = Self {
        ahead: [0; N],
        behind: [0; N],
    };
}

/// What an entry is to become: words of which every bit is used.
pub struct Target<F, const N: usize> {
    words: [u64; N],
    used: &'static [u64; N],
    refuses: bool,
    layout: PhantomData<fn() -> F>,
}

impl<F: Layout<N>, const N: usize> Target<F, N> {
    /// Checks that `words` sets no bit that its own configuration does not use.
    ///
    /// # Errors
    ///
    /// [`EntryError::Undefined`] with the first word that does.
    pub fn new(words: [u64; N]) -> Result<Self, EntryError> {
        let used = F::used(&words);
        for (word, bits) in words.iter().enumerate() {
            let bits = bits & !(used[word] & F::DEFINED[word]);
            if bits != 0 {
                return Err(EntryError::Undefined {
                    entry: F::NAME,
                    word,
                    bits,
                });
            }
        }
        Ok(Self {
            words,
            used,
            refuses: F::refuses(&words),
            layout: PhantomData,
        })
    }

    /// The words.
    #[must_use]
    pub const fn words(&self) -> &[u64; N] {
        &self.words
    }

    /// Checks that `live` can be made this: as [`Plan::new`], without the plan.
    ///
    /// # Errors
    ///
    /// [`EntryError::Unknown`].
    pub fn check(&self, live: &[u64; N]) -> Result<(), EntryError> {
        plan::Differences::of_all(live, self).map(drop)
    }

    /// Whether `entry` means the same: whether they are equal as far as this one is used.
    #[must_use]
    pub fn is(&self, entry: &[u64; N]) -> bool {
        let mut words = entry.iter().zip(&self.words).zip(self.used);
        words.all(|((entry, word), used)| (entry ^ word) & used == 0)
    }
}

impl<F, const N: usize> Clone for Target<F, N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F, const N: usize> Copy for Target<F, N> {}

impl<F, const N: usize> fmt::Debug for Target<F, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({:x?})", self.words)
    }
}

/// An entry that the writer does not touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum EntryError {
    /// The target sets bits that its own configuration does not use.
    Undefined {
        /// What the entry is called.
        entry: &'static str,
        /// The number of the word.
        word: usize,
        /// The bits.
        bits: u64,
    },
    /// The live entry is in a configuration that the layout does not know: these bits are set, and
    /// what the hardware makes of them cannot be said.
    Unknown {
        /// What the entry is called.
        entry: &'static str,
        /// The number of the word.
        word: usize,
        /// The bits.
        bits: u64,
    },
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undefined { entry, word, bits } => {
                write!(
                    f,
                    "{entry} sets bits {bits:#x} of word {word}, which it does not use"
                )
            }
            Self::Unknown { entry, word, bits } => {
                write!(f, "{entry} has unknown bits {bits:#x} set in word {word}")
            }
        }
    }
}

impl core::error::Error for EntryError {}

impl From<EntryError> for Error {
    fn from(error: EntryError) -> Self {
        match error {
            EntryError::Undefined { .. } => Self::new(
                ErrorKind::InvalidArgument,
                "an entry sets bits that its own configuration does not use",
            ),
            EntryError::Unknown { .. } => Self::new(
                ErrorKind::Unsupported,
                "an entry is in a configuration that this driver does not know",
            ),
        }
    }
}

/// Where in a plan something happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The number of the round, from 1.
    pub round: u8,
    /// How many rounds the longest plan has of those that are executed together.
    pub of: u8,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round {} of {} of writing entries", self.round, self.of)
    }
}
