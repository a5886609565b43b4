//! Devices: what the platform says of one, and the handle of one that was added.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use static_assertions::assert_impl_all;

use crate::addr::{Iova, StreamId};
use crate::attached::Attached;
use crate::domain::{DomainRef, Prot};
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::fence::ResetFence;
use crate::group::Group;
use crate::iommu::{DeviceId, InstanceId};
use crate::mapped::{MapBlockError, MappedBlock};
use crate::memory::DmaBlock;
use crate::platform::{DmaMemory, RawLock, SpinLock};
use crate::reserved::ReservedRegion;

/// What the platform knows of a device before any IOMMU does.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    name: Arc<str>,
    streams: Vec<StreamId>,
    reserved: Vec<ReservedRegion>,
    group: Option<String>,
    instance: InstanceId,
    coherent: bool,
}

impl DeviceInfo {
    /// A device of this name, which is used in messages only.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            streams: Vec::new(),
            reserved: Vec::new(),
            group: None,
            instance: InstanceId::FIRST,
            coherent: true,
        }
    }

    /// Adds streams that the device presents. One that is named twice counts once.
    #[must_use]
    pub fn streams<S: Into<StreamId>>(mut self, streams: impl IntoIterator<Item = S>) -> Self {
        self.streams.extend(streams.into_iter().map(Into::into));
        self.streams.sort_unstable();
        self.streams.dedup();
        self
    }

    /// Adds a reserved region, beside those that the backend knows of.
    #[must_use]
    pub fn reserved(mut self, region: ReservedRegion) -> Self {
        self.reserved.push(region);
        self
    }

    /// Puts the device into the group of this name: for devices that can reach each other, or act
    /// as each other, without the IOMMU seeing it. Without a name the device is a group of its own.
    #[must_use]
    pub fn group(mut self, name: &str) -> Self {
        self.group = Some(name.into());
        self
    }

    /// Puts the device behind this IOMMU, where a core has several.
    #[must_use]
    pub fn behind(mut self, instance: InstanceId) -> Self {
        self.instance = instance;
        self
    }

    /// Says that the device's DMA does not see the CPU's caches: what [`Dma`](crate::dma::Dma) maps
    /// for it is cleaned and invalidated.
    #[must_use]
    pub fn non_coherent(mut self) -> Self {
        self.coherent = false;
        self
    }

    /// Whether the device's DMA sees the CPU's caches.
    #[must_use]
    pub fn is_coherent(&self) -> bool {
        self.coherent
    }

    /// The IOMMU that it is behind.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The streams, sorted, each once.
    #[must_use]
    pub fn stream_ids(&self) -> &[StreamId] {
        &self.streams
    }

    /// The reserved regions that the platform knows of.
    #[must_use]
    pub fn reserved_regions(&self) -> &[ReservedRegion] {
        &self.reserved
    }

    /// The name of its group.
    #[must_use]
    pub fn group_name(&self) -> Option<&str> {
        self.group.as_deref()
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }
}

/// Whether the caller may wait.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Context {
    /// It may.
    MayBlock,
    /// It may not: an interrupt handler, or a lock is held.
    Atomic,
}

/// Where a device was left by its release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Rest {
    /// On the backend's blocked domain: its DMA is refused.
    Blocked,
    /// On the identity domain: firmware pinned it, its DMA passes untranslated.
    Identity,
    /// On a release domain that is neither.
    ReleaseDomain,
    /// Where firmware or a crashed kernel had left it: its attach was still deferred, and the
    /// hardware was not touched.
    Untouched,
}

/// A device behind an IOMMU.
///
/// There is one handle per device. Releasing consumes it; dropping it releases too, and logs that
/// it had to.
#[must_use = "dropping the handle releases the device"]
pub struct Device<L: RawLock = SpinLock> {
    pub(crate) id: DeviceId,
    pub(crate) info: Arc<DeviceInfo>,
    pub(crate) reserved: Arc<[ReservedRegion]>,
    /// The attach has not been performed yet; once it has, it never is again.
    pub(crate) deferred: Arc<AtomicBool>,
    pub(crate) group: Group<L>,
    pub(crate) released: bool,
}

assert_impl_all!(Device: Send, Sync);

impl<L: RawLock> Device<L> {
    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.info.name()
    }

    /// Its reserved regions, sorted: those the platform named and those the backend knows of.
    #[must_use]
    pub fn reserved_regions(&self) -> &[ReservedRegion] {
        &self.reserved
    }

    /// Its group.
    #[must_use]
    pub fn group(&self) -> &Group<L> {
        &self.group
    }

    /// The domain its group is meant to be on; `None` where the device rests at its park target.
    ///
    /// Context: may block.
    #[must_use]
    pub fn domain(&self) -> Option<DomainRef> {
        self.group.domain()
    }

    /// What its traffic is really on.
    ///
    /// Context: may block.
    #[must_use]
    pub fn attached(&self) -> Attached {
        let state = self.group.state.lock();
        let member = state.members.iter().find(|member| member.id() == self.id);
        // The member leaves its group with this handle only.
        member.map_or(Attached::Deferred, |member| member.attached().clone())
    }

    fn alone(&self) -> Result<&Group<L>> {
        if self.group.state.lock().members.len() == 1 {
            return Ok(&self.group);
        }
        Err(Error::new(
            ErrorKind::InvalidArgument,
            "it shares its group: attach the group instead",
        )
        .of(Culprit::Device(self.info.shared_name())))
    }

    /// [`Group::attach`] for a device that is alone in its group.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] where it is not; otherwise as there.
    pub fn attach(&self, domain: &DomainRef) -> Result {
        self.alone()?.attach(domain)
    }

    /// [`Group::detach`] for a device that is alone in its group.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] where it is not; otherwise as there.
    pub fn detach(&self) -> Result {
        self.alone()?.detach()
    }

    /// Performs the attach that was deferred until now. Without one, does nothing.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// As [`Group::attach`].
    pub fn attach_now(&self) -> Result {
        if self.deferred.load(Ordering::Acquire) {
            self.group.attach_deferred(self.id)?;
        }
        Ok(())
    }

    /// Maps a block in the domain that the device's group is on, for the device to use: performs an
    /// attach that was deferred until now.
    ///
    /// Context: may block; with [`Context::Atomic`], as [`Domain::map`](crate::Domain::map).
    ///
    /// # Errors
    ///
    /// As [`attach_now`](Self::attach_now) and [`Domain::map_block`](crate::Domain::map_block);
    /// [`ErrorKind::WouldBlock`] where `context` may not block and the attach is still deferred (call
    /// [`attach_now`](Self::attach_now) before), or somebody is changing the group at this moment.
    /// [`ErrorKind::Unsupported`] where the group is
    /// on no domain that maps, [`ErrorKind::NotPermitted`] where somebody claimed it.
    pub fn map_block<M: DmaMemory>(
        &self,
        context: Context,
        iova: Iova,
        block: DmaBlock<M>,
        prot: Prot,
    ) -> core::result::Result<MappedBlock<M>, MapBlockError<M>> {
        match self.domain_to_map_in(context) {
            Ok(domain) => domain.map_block(iova, block, prot),
            Err(error) => {
                let block = Some(block);
                Err(MapBlockError { error, block })
            }
        }
    }

    /// What the group is on, once an attach that was deferred is performed.
    fn domain_to_map_in(&self, context: Context) -> Result<DomainRef> {
        attach_if_deferred(&self.deferred, &self.group, self.id, &self.info, context)?;
        let state = match context {
            Context::MayBlock => self.group.state.lock(),
            Context::Atomic => self.group.state.try_lock().ok_or_else(|| {
                Error::new(ErrorKind::WouldBlock, "the device's group is being changed")
                    .of(Culprit::Device(self.info.shared_name()))
            })?,
        };
        state.check_not_claimed()?;
        let domain = state.domain.clone();
        domain.ok_or(Error::new(
            ErrorKind::Unsupported,
            "the group is on no domain",
        ))
    }

    /// Parks the device while it is being reset; see [`ResetFence`].
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// Failures of the hardware itself: there is no fence then, and the device may be uncertain.
    pub fn reset_fence(&self) -> Result<ResetFence<L>> {
        ResetFence::raise(&self.group, self.id)
    }

    /// Takes the device away from its domain and its group, parks it, and ends the handle.
    ///
    /// When this returns `Ok`, the device's DMA does what the [`Rest`] says and no domain is used
    /// by it any more. Memory that is still mapped in a domain is not the device's concern: the
    /// handles of those mappings go on working.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// The park failed: the hardware did not answer. Everything it might go on using stays
    /// allocated, the IOMMU's driver included, and the device's streams cannot be added again.
    pub fn release(mut self) -> Result<Rest> {
        self.released = true;
        self.group.shared.release(&self)
    }
}

/// Performs a device's attach that was deferred until now.
pub(crate) fn attach_if_deferred<L: RawLock>(
    deferred: &AtomicBool,
    group: &Group<L>,
    id: DeviceId,
    info: &DeviceInfo,
    context: Context,
) -> Result {
    if !deferred.load(Ordering::Acquire) {
        return Ok(());
    }
    match context {
        Context::MayBlock => group.attach_deferred(id),
        Context::Atomic => Err(Error::new(
            ErrorKind::WouldBlock,
            "the device's attach is deferred until it may block",
        )
        .of(Culprit::Device(info.shared_name()))),
    }
}

impl<L: RawLock> Drop for Device<L> {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        log::warn!("device {}: dropped without being released", self.name());
        if let Err(error) = self.group.shared.release(self) {
            log::error!("device {}: its release failed: {error}", self.name());
        }
    }
}

impl<L: RawLock> fmt::Debug for Device<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name())
    }
}
