//! The machines that the conformance suite runs on: each backend of this workspace, on each hardware
//! that it can be had on. One file for each backend.

mod deaf;
mod smmuv3;
mod vtd;

pub use smmuv3::{OnSmmuV3, Stand, on_model, on_model_of, on_qemu};
pub use vtd::{OnVtd, VtdSetup, on_q35, on_vtd_model};
