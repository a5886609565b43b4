//! DMA: giving memory to devices and taking it back.
//!
//! - [`iova`]: which addresses of a domain are taken.

pub mod iova;
