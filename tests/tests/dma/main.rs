//! The DMA API on the models of an SMMUv3 and of a VT-d: a device reaches what it was lent, for as
//! long as it was lent, and nothing else.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod bad_input;
mod bounced;
mod caches;
mod deferred;
mod doorbells;
mod failures;
mod lent;
mod not_coherent;
mod poor;
mod refused;
mod retired;
mod setup;
mod stress;
mod windows;
