//! Cases: what a user of the driver, or the hardware, can see of it. Each runs on every machine.
//!
//! A case is a function over [`Machine`](crate::machine::Machine) that does what a user would, and
//! looks at the bytes that devices moved or did not move, at events, and at errors. It never asks
//! the driver whether the driver was right: tables and events are read by an [outsider].
//! [`every_case`](crate::every_case) lists them, each with the [setups] it runs on.
#![expect(
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    clippy::unwrap_used,
    reason = "a case is a test: it panics where its rule is broken"
)]

pub mod bad_input;
pub mod bank;
pub mod basics;
pub mod blocks;
pub mod commands;
pub mod domains;
pub mod events;
pub mod faults;
pub mod lab;
pub mod lifecycle;
mod list;
pub mod mapping;
pub mod outsider;
pub mod rmr;
pub mod setups;
pub mod stale;
mod stands;

pub use lab::{Lab, run};
