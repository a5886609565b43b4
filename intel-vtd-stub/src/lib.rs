//! A backend for Intel VT-d remapping units: the second one, which keeps the core's traits from
//! taking the shape of a single vendor.
//!
//! It covers
//! - units in legacy mode, driven through registers alone;
//! - the blocked domain, and the identity domain where the hardware has pass-through (ECAP.PT);
//! - RMRRs: their devices pass through from the moment translation is on;
//! - memory that table walks see only after cleaning, and hardware with write buffers;
//! - hardware that stops answering: every wait has a bound.
//!
//! It does not cover
//! - paging domains;
//! - queued invalidation, and so units of architecture version 6 or later;
//! - scalable mode and PASIDs;
//! - ATS and page requests: pass-through refuses both;
//! - decoding of faults: they are only reported to exist;
//! - interrupt remapping: it stays as it is found;
//! - taking over devices from a crashed kernel: they are refused like any other.
//!
//! ```no_run
//! use iommu_core::{DefaultDomain, DeviceInfo, Iommu, IommuConfig, NoControl, Platform, Result};
//! # use intel_vtd_stub::{Config, IntelVtd};
//! # use std::sync::Arc;
//!
//! fn start(platform: impl Platform) -> Result {
//!     let vtd = IntelVtd::probe(platform, Config::default())?; // every device is refused
//!     let config = IommuConfig { default_domain: DefaultDomain::Parked, ..Default::default() };
//!     let iommu: Iommu = Iommu::with_config(vtd, config)?;
//!     let nic = iommu.add_device(DeviceInfo::new("nic").streams([0x10_u32]), Arc::new(NoControl))?;
//!     if let Some(identity) = iommu.identity_domain() {
//!         nic.attach(&identity)?; // the device reaches all of memory
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

mod driver;
pub mod spec;
mod tables;
#[cfg(test)]
mod tests;
mod unit;

pub use driver::{Config, IntelVtd};
