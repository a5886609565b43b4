//! A backend for Intel VT-d remapping units: small, and the second one, which keeps the core's traits
//! from taking the shape of a single vendor.
//!
//! It covers
//! - legacy mode: second-stage paging of 3 and 4 levels with pages of 4 KiB, 2 MiB and 1 GiB;
//! - scalable mode: first-stage and second-stage paging, requests with PASID;
//! - the identity domain, where the hardware has pass-through (ECAP.PT), and the blocked one;
//! - queued invalidation: many descriptors share one wait; refused descriptors and devices that do
//!   not answer are recovered from;
//! - hardware that caches what is not present (CAP.CM), has write buffers (CAP.RWBF), or does not
//!   see the CPU's caches;
//! - RMRRs: their devices pass through from the moment translation is on;
//! - faults, decoded and printable;
//! - hardware that stops answering: every wait has a bound, and what it may be using is kept.
//!
//! It does not cover
//! - units without queued invalidation: they are refused;
//! - ATS and page requests: entries refuse both;
//! - nested translation, first-stage and second-stage tables of 5 levels, accessed and dirty bits;
//! - more than 8,192 PASIDs for a device;
//! - snoop control, memory types, performance monitoring;
//! - the interrupt of faults: the platform programs it, and calls [`IntelVtd::next_fault`];
//! - interrupt remapping: it stays as it is found;
//! - finding units, their devices and RMRRs in firmware's DMAR table: the platform does;
//! - taking over devices from a crashed kernel: they are refused like any other.
//!
//! ```no_run
//! use iommu_core::{DeviceInfo, DmaBlock, Iommu, Iova, NoControl, Platform, Prot, Result};
//! # use intel_vtd_stub::{Config, IntelVtd};
//! # use std::sync::Arc;
//!
//! fn start(platform: impl Platform) -> Result {
//!     let memory = platform.memory().clone();
//!     let vtd = IntelVtd::probe(platform, Config::default())?; // every device is refused
//!     let iommu: Iommu = Iommu::new(vtd.clone())?;
//!     let nic = iommu.add_device(DeviceInfo::new("nic").streams([0x10_u32]), Arc::new(NoControl))?;
//!     let domain = nic.domain().expect("a domain of its own, empty");
//!     let buffer = DmaBlock::new(&memory, 4096, 4096, "a receive buffer")?;
//!     let rx = domain.map_block(Iova(0x10_0000), buffer, Prot::WRITE)?; // the device writes here
//!     drop(rx); // and no more
//!     while let Some(fault) = vtd.next_fault() {
//!         log::warn!("{fault}");
//!     }
//!     nic.release()?; // it is refused again
//!     Ok(())
//! }
//! ```
#![no_std]
// The tests bring a memory of their own, which is an unsafe promise to the core.
#![cfg_attr(not(test), forbid(unsafe_code))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod attach;
mod bring_up;
mod config;
mod domain;
mod faults;
mod features;
mod inner;
mod inspect;
mod layout;
mod queue;
pub mod spec;
mod tables;
#[cfg(test)]
mod tests;
mod unit;
mod vtd;
mod write;

pub use config::{Config, Mode, ShutdownPolicy};
pub use features::{Features, SecondStageFeatures};
pub use inspect::SourceEntry;
pub use vtd::IntelVtd;
