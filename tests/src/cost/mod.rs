//! What it costs to change what a device is on: each transition of one table entry, and whole
//! attaches.
//!
//! Transitions are planned by [`iommu_core::entry`] for entries as drivers make them, and carried
//! out on a model's command queue, which counts. Attaches go through the core and the driver, on a
//! model, while the device does DMA. Beside both stands what Linux takes.

mod attaches;
mod bare;
mod kinds;
mod linux;
mod print;
mod rig;
mod totals;
mod transitions;
mod watch;
mod why;

use iommu_core::{Atomicity, has_pairs};

pub use self::attaches::attaches;
pub use self::linux::{Linux, Way};
pub use self::print::{csv, table};
pub use self::totals::Totals;
pub use self::transitions::transitions;

/// Why nothing could be measured.
pub type Failure = Box<dyn std::error::Error>;

/// How many streams the device has.
pub const STREAMS: [u32; 3] = [1, 4, 16];

/// What this CPU can store at once: 64 bits, and 128 where it has that.
#[must_use]
pub fn widths() -> &'static [Atomicity] {
    if has_pairs() {
        &[Atomicity::Word, Atomicity::Pair]
    } else {
        &[Atomicity::Word]
    }
}

/// The number of bits that are stored at once.
#[must_use]
pub const fn bits(atomicity: Atomicity) -> u32 {
    match atomicity {
        Atomicity::Word => 64,
        Atomicity::Pair => 128,
    }
}

/// What a line is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// A stream table entry becomes one of another kind.
    Entry,
    /// As [`Entry`](Self::Entry), and the old one lets faults stall. The way of a device out of
    /// its domain leads through an entry that aborts then, whatever the entry alone would allow:
    /// what is stalled must have been terminated before anything passes again (4.7.2).
    Stalling,
    /// A stream table entry that was not valid becomes valid.
    Invalid,
    /// A context descriptor changes.
    Context,
    /// A device is moved by the core and the driver.
    Attach,
}

/// What was counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// The rounds: stores, invalidation, and its end.
    pub rounds: usize,
    /// The stores to entries.
    pub stores: usize,
    /// The commands, each `CMD_SYNC` among them.
    pub commands: usize,
    /// How often software waited for the hardware, as the model saw it.
    pub waits: usize,
}

/// Something that was done, and what it took.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it is about.
    pub subject: Subject,
    /// What there was.
    pub from: &'static str,
    /// What it became.
    pub to: &'static str,
    /// How many streams the device has.
    pub streams: u32,
    /// What was stored at once.
    pub atomicity: Atomicity,
    /// Whether the VMID might change by itself: nobody else uses it.
    pub retag: bool,
    /// The plan, or for an attach the numbers of the words that each round stored.
    pub plan: String,
    /// The plans to and from an aborting entry, where the way leads through that.
    pub through_abort: Option<String>,
    /// What was counted.
    pub counts: Counts,
    /// Why a device sees neither the old nor the new for a while, if it does.
    pub breaks: Option<String>,
    /// What Linux takes, where that was measured.
    pub linux: Option<Linux>,
}
