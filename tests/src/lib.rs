//! Tests and examples of the workspace: the drivers on models of hardware, and on QEMU's.

pub mod cases;
pub mod clock;
pub mod contracts;
pub mod cost;
pub mod differential;
pub mod differential_vtd;
pub mod hitless;
pub mod machine;
pub mod model;
pub mod qemu;
pub mod sequences;
pub mod settings;
pub mod stands;
pub mod tour;
pub mod toys;

/// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
