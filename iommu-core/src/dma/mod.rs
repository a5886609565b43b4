//! DMA: giving memory to devices and taking it back.
//!
//! [`Device::dma`](crate::Device::dma) is what a driver maps with. A mapping *owns* its buffer: what
//! a device may reach is nobody else's until it was unmapped and the hardware confirmed that.
//!
//! ```
//! # use iommu_core::dma::{Dma, DmaPlatform, FromDevice, ToDevice};
//! # use iommu_core::{DmaBlock, DmaMemory, Iova, Result};
//! # fn example<M: DmaMemory>(dma: &Dma<M>, memory: &M, ring: impl Fn(Iova)) -> Result {
//! let buffer = DmaBlock::new(memory, 4096, 4096, "a receive buffer")?;
//! let mut rx = dma.map(buffer, FromDevice)?;
//! ring(rx.iova()); // to the device
//!
//! let mut header = [0; 14];
//! rx.sync_for_cpu().read(0, &mut header)?; // still mapped: the next packet may come
//! ring(rx.iova());
//!
//! let buffer = rx.unmap()?; // unmapped and invalidated: ours again
//! # drop(buffer);
//! # Ok(())
//! # }
//! ```
//!
//! - [`Dma::map`] lends a [`DmaBuffer`], alone or in a list (scatter-gather), [`ToDevice`],
//!   [`FromDevice`] or [`Bidirectional`]ly; a [`Mapped`] buffer can be used again and again between
//!   [`sync_for_cpu`](Mapped::sync_for_cpu) and
//!   [`sync_for_device`](CpuView::sync_for_device);
//! - [`Dma::with_bounced`] lends a copy of borrowed bytes;
//! - [`Dma::allocate_coherent`] allocates memory that both sides use at the same time;
//! - [`Dma::map_doorbell`] is for MSIs;
//! - [`iova`] says which addresses of a domain are taken.
//!
//! # What the types rule out
//!
//! A device that reaches memory after it was given back. The buffer is gone while it is lent:
//!
//! ```compile_fail,E0382
//! # use iommu_core::{DmaBlock, DmaMemory, Result, dma::{Dma, FromDevice}};
//! # fn example<M: DmaMemory>(dma: &Dma<M>, buffer: DmaBlock<M>) -> Result {
//! let rx = dma.map(buffer, FromDevice)?;
//! buffer.read_at(0, &mut [0; 8]);
//! # Ok(())
//! # }
//! ```
//!
//! A borrowed buffer cannot be lent: forgetting the handle would end the borrow, not the mapping.
//!
//! ```compile_fail,E0277
//! # use iommu_core::{DmaMemory, Result, dma::{Dma, FromDevice}};
//! # fn example<M: DmaMemory>(dma: &Dma<M>) -> Result {
//! let mut packet = [0_u8; 64];
//! let rx = dma.map(&mut packet[..], FromDevice)?;
//! # Ok(())
//! # }
//! ```
//!
//! It is unmapped once:
//!
//! ```compile_fail,E0382
//! # use iommu_core::dma::{DmaBuffer, DmaPlatform, FromDevice, Mapped};
//! # fn example<B: DmaBuffer, P: DmaPlatform>(rx: Mapped<B, FromDevice, P>) {
//! drop(rx.unmap());
//! drop(rx.unmap());
//! # }
//! ```
//!
//! What the CPU looks at ends before the buffer is unmapped, or handed to the device again:
//!
//! ```compile_fail,E0505
//! # use iommu_core::{Result, dma::{DmaBuffer, DmaPlatform, FromDevice, Mapped}};
//! # fn example<B: DmaBuffer, P: DmaPlatform>(mut rx: Mapped<B, FromDevice, P>) -> Result {
//! let view = rx.sync_for_cpu();
//! drop(rx.unmap());
//! view.read(0, &mut [0; 8])?;
//! # Ok(())
//! # }
//! ```
//!
//! And the CPU does with the bytes what the direction says:
//!
//! ```compile_fail,E0599
//! # use iommu_core::{Result, dma::{DmaBuffer, DmaPlatform, FromDevice, Mapped}};
//! # fn example<B: DmaBuffer, P: DmaPlatform>(mut rx: Mapped<B, FromDevice, P>) -> Result {
//! rx.sync_for_cpu().write(0, b"it would be overwritten")?;
//! # Ok(())
//! # }
//! ```
//!
//! # Strict and lazy
//!
//! [`Mapped::unmap`] invalidates, waits, and gives the buffer back. A driver that can do without the
//! buffer for a while [retires](Mapped::retire) it instead, and [reclaims](Retired::reclaim) it
//! later. Whether that is cheaper is the domain's policy
//! ([`Domain::set_invalidation`](crate::Domain::set_invalidation)): a
//! [lazy](crate::Invalidation::Lazy) one leaves the invalidation to the first who reclaims, for
//! everything that was retired until then. A device may reach what was retired for longer, but never
//! what was given back:
//!
//! ```
//! # use iommu_core::dma::{DmaBuffer, DmaPlatform, FromDevice, Mapped, Retired};
//! # use iommu_core::Result;
//! # fn example<B: DmaBuffer, P: DmaPlatform>(
//! #     slots: &mut [Option<Retired<B, FromDevice, P>>], slot: usize, done: Mapped<B, FromDevice, P>,
//! # ) -> Result {
//! let oldest = slots[slot].replace(done.retire()?); // nobody waits
//! if let Some(oldest) = oldest {
//!     let buffer = oldest.reclaim()?; // about one in slots.len() waits
//! #     drop(buffer);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Invalidation that is not confirmed
//!
//! Where the hardware does not confirm an invalidation within its bound, what the device may
//! go on reaching is never given back, its IOVAs are never handed out again, and
//! [`Domain::leaked_bytes`](crate::Domain::leaked_bytes) counts it.
//!
//! # Where nothing translates
//!
//! With the identity domain as default, an IOVA is the physical address, and the device reaches all
//! of memory, at all times: the types keep the driver in order, nothing keeps the device.
//!
//! # Contexts
//!
//! Mapping and unmapping take locks of the platform's interrupt-safe kind only
//! ([`DmaPlatform::IrqLock`] around IOVAs, and those of the domain), and hold none while the hardware
//! is waited for. Two calls may block, with the group's lock held: the first mapping of a device
//! whose attach is deferred (see [`Dma::in_context`]), and [`Dma::map_doorbell`].

mod buffer;
mod coherent;
mod direction;
mod doorbell;
mod handle;
pub mod iova;
mod mapped;
mod platform;
mod retired;
mod space;

pub use buffer::{DmaBuffer, Failed, Piece};
pub use coherent::Coherent;
pub use direction::{Bidirectional, DeviceReads, DeviceWrites, Direction, FromDevice, ToDevice};
pub use handle::Dma;
pub use mapped::{CpuView, Mapped};
pub use platform::DmaPlatform;
pub use retired::Retired;
pub(crate) use space::AnySpace;
