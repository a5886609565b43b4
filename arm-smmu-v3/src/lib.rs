//! A driver for Arm's SMMUv3, as a backend of [`iommu_core`].
//!
//! | | |
//! |---|---|
//! | Stream table | linear or two levels, the second allocated when a device needs it |
//! | Streams | abort, bypass, stage 1 (one context descriptor), stage 2 |
//! | Page tables | granules of 4, 16 and 64 KiB, with blocks, 32 to 48 bits |
//! | Events | decoded and printable; read by interrupt or by polling |
//! | ATS | on while a device is on a paging domain, if its [`DeviceControl`](iommu_core::DeviceControl) has it |
//! | Not yet | PASIDs, page requests, stalls, nesting |
//!
//! The layers: [`spec`] holds the architecture's types and nothing else; `entries` says what goes
//! into table entries; the queues and tables talk to one SMMU through its
//! [`Platform`](iommu_core::Platform); [`ArmSmmuV3`] is the driver. Which domain a device is on,
//! and when, is decided by [`iommu_core::Iommu`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod ats;
mod attach;
mod command_queue;
mod config;
mod domain;
mod entries;
mod event_queue;
mod features;
mod gather;
mod hardware;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod layout;
mod paging;
mod reset;
mod smmu;
pub mod spec;
mod stream_table;
mod sync;
mod tidy;
mod write;

pub use config::{Config, ShutdownPolicy, StreamTableFormat};
pub use features::{Features, IdRegisters};
pub use smmu::{ArmSmmuV3, GlobalErrors};
