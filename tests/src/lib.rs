//! Tests and examples of the workspace: the drivers on models of hardware, and on QEMU's.

pub mod clock;
pub mod machine;
pub mod qemu;
pub mod tour;
