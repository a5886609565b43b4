//! Helpers for the tests that prove the core's contracts: a backend that records what it is asked to
//! do and fails where it is told to, and an attacker that tries to reach what it was not given.

mod backend;
mod intruder;

pub use backend::{Backend, Control, Log, Trap, block, config, handler, rw};
pub use intruder::{Intruder, View};
