//! What the SMMUv3 architecture defines: registers, table entries, commands and events, as types
//! only. Nothing here reads or writes hardware, and nothing decides.
//!
//! Section numbers are those of Arm IHI 0070G.b.

pub mod cd;
pub mod commands;
pub mod events;
pub mod granule;
pub mod registers;
pub mod ste;

#[cfg(test)]
mod golden;
