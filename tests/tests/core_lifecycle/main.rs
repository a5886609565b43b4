//! The core's rules for the life of a device, on a mocked backend that records every call.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod backend;
mod life;
mod pinned;
