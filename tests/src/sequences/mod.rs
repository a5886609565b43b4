//! Random sequences of map, unmap, protect, split and merge on a paging domain, seen by a device.
//!
//! What each call has to answer, what is mapped after it, and how many tables there are, is said by a
//! plain list of leaves that shares no code with the page tables. A device then reads and writes at
//! the ends of what changed, next to them and in between: it finds the page that the list says, or
//! nothing. Before something is taken away or changed it has looked at the same places, so that
//! whatever may be cached is.
//!
//! Domains are the drivers', on any machine: a [`Rig`] takes what runs, and a [`Prober`] that tells
//! a device what to do.

mod leaves;
mod ops;
mod probe;
mod run;

pub use probe::{EduProber, ModelProber, Prober};
pub use run::{Counts, Rig};

const K4: u64 = 1 << 12;
const M2: u64 = 1 << 21;
const G1: u64 = 1 << 30;

/// The address that the sequences begin at.
const WINDOW: u64 = 5 * G1;
