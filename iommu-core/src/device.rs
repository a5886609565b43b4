//! Devices: what the platform says of one, and the handle of one that was added.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::addr::StreamId;
use crate::domain::DomainRef;
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::group::Group;
use crate::iommu::DeviceId;
use crate::member::Attached;
use crate::platform::{RawLock, SpinLock};
use crate::reserved::ReservedRegion;

/// What the platform knows of a device before any IOMMU does.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    name: Arc<str>,
    streams: Vec<StreamId>,
    reserved: Vec<ReservedRegion>,
    group: Option<String>,
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
    pub(crate) name: Arc<str>,
    pub(crate) reserved: Arc<[ReservedRegion]>,
    pub(crate) group: Group<L>,
    pub(crate) released: bool,
}

impl<L: RawLock> Device<L> {
    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
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
    #[must_use]
    pub fn domain(&self) -> Option<DomainRef> {
        self.group.domain()
    }

    /// What its traffic is really on.
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
        .of(Culprit::Device(self.name.clone())))
    }

    /// [`Group::attach`] for a device that is alone in its group.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] where it is not; otherwise as there.
    pub fn attach(&self, domain: &DomainRef) -> Result {
        self.alone()?.attach(domain)
    }

    /// [`Group::detach`] for a device that is alone in its group.
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
        self.group.attach_deferred(self.id)
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
    /// allocated, and the device's streams cannot be added again.
    pub fn release(mut self) -> Result<Rest> {
        self.released = true;
        self.group.shared.release(&self)
    }
}

impl<L: RawLock> Drop for Device<L> {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        log::warn!("device {}: dropped without being released", self.name);
        if let Err(error) = self.group.shared.release(self) {
            log::error!("device {}: its release failed: {error}", self.name);
        }
    }
}

impl<L: RawLock> fmt::Debug for Device<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name)
    }
}
