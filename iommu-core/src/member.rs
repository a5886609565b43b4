//! A device as its group and its backend see it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt;

use crate::addr::{AddrRange, StreamId};
use crate::device::DeviceInfo;
use crate::domain::{DomainKind, DomainRef};
use crate::error::Culprit;
use crate::iommu::DeviceId;
use crate::ops::Probed;
use crate::platform::DeviceControl;
use crate::reserved::{ReservedKind, ReservedRegion, joined_ranges};

/// What a device's traffic is really on.
#[derive(Clone, Debug)]
pub enum Attached {
    /// What firmware or a crashed kernel left behind, which goes on working until the device is
    /// first used.
    Deferred,
    /// This domain, and nothing else.
    On(DomainRef),
    /// The hardware did not confirm a change: one of the two, or something in between. Both domains
    /// are kept alive.
    Uncertain {
        /// What it was on, where that is known.
        old: Option<DomainRef>,
        /// What it was to be on.
        new: DomainRef,
    },
}

impl Attached {
    /// The one domain it is on, where that is certain.
    #[must_use]
    pub fn domain(&self) -> Option<&DomainRef> {
        match self {
            Self::On(domain) => Some(domain),
            Self::Deferred | Self::Uncertain { .. } => None,
        }
    }

    /// Whether it is on `domain` and nothing else.
    #[must_use]
    pub fn is(&self, domain: &DomainRef) -> bool {
        self.domain().is_some_and(|on| Arc::ptr_eq(on, domain))
    }
}

/// A device in a group.
pub struct Member {
    id: DeviceId,
    info: Arc<DeviceInfo>,
    control: Arc<dyn DeviceControl>,
    state: Box<dyn Any + Send>,
    reserved: Arc<[ReservedRegion]>,
    direct: Arc<[AddrRange]>,
    /// `direct`, and what is mapped 1:1 in the group's default domain only.
    at_home: Arc<[AddrRange]>,
    /// The group's default domain.
    home: Option<DomainRef>,
    attached: Attached,
    pending: Option<DomainRef>,
    /// What it was on until the commit that is under way moved it.
    left: Option<Attached>,
}

impl Member {
    pub(crate) fn new(
        id: DeviceId,
        info: Arc<DeviceInfo>,
        control: Arc<dyn DeviceControl>,
        probed: Probed,
    ) -> Self {
        let Probed {
            state,
            mut reserved,
            attached,
        } = probed;
        reserved.extend_from_slice(info.reserved_regions());
        reserved.sort_by_key(|region| region.range());
        reserved.dedup();
        let direct = joined_ranges(&reserved, &[ReservedKind::Direct]).into();
        let relaxable = [ReservedKind::Direct, ReservedKind::DirectRelaxable];
        let at_home = joined_ranges(&reserved, &relaxable).into();
        Self {
            id,
            info,
            control,
            state,
            reserved: reserved.into(),
            direct,
            at_home,
            home: None,
            attached,
            pending: None,
            left: None,
        }
    }

    pub(crate) fn id(&self) -> DeviceId {
        self.id
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.info.name()
    }

    /// The streams it presents, sorted, each once.
    #[must_use]
    pub fn streams(&self) -> &[StreamId] {
        self.info.stream_ids()
    }

    /// The way to talk to the device itself.
    #[must_use]
    pub fn control(&self) -> &Arc<dyn DeviceControl> {
        &self.control
    }

    /// The backend's state, as [`Probed::state`] gave it, where it is a `T`.
    #[must_use]
    pub fn state<T: 'static>(&self) -> Option<&T> {
        self.state.downcast_ref()
    }

    /// As [`state`](Self::state), to change.
    #[must_use]
    pub fn state_mut<T: 'static>(&mut self) -> Option<&mut T> {
        self.state.downcast_mut()
    }

    /// All its reserved regions, sorted.
    #[must_use]
    pub fn reserved_regions(&self) -> &[ReservedRegion] {
        &self.reserved
    }

    pub(crate) fn reserved(&self) -> Arc<[ReservedRegion]> {
        self.reserved.clone()
    }

    /// Whether firmware pinned the device to 1:1 mappings.
    #[must_use]
    pub fn require_direct(&self) -> bool {
        !self.direct.is_empty()
    }

    /// Says which domain is the group's default.
    pub(crate) fn set_home(&mut self, home: Option<DomainRef>) {
        self.home = home;
    }

    /// What has to be mapped 1:1 in `domain` while the device is on it.
    pub(crate) fn ranges_in(&self, domain: &DomainRef) -> &[AddrRange] {
        match &self.home {
            Some(home) if Arc::ptr_eq(home, domain) => &self.at_home,
            _ => &self.direct,
        }
    }

    /// What the device is on at this moment.
    #[must_use]
    pub fn attached(&self) -> &Attached {
        &self.attached
    }

    /// The domain that the device is on its way to.
    #[must_use]
    pub fn pending(&self) -> Option<&DomainRef> {
        self.pending.as_ref()
    }

    /// Says that the hardware is known to have moved the device to its pending domain. For
    /// [`IommuOps::commit`](crate::IommuOps::commit) to call.
    pub fn landed(&mut self) {
        if let Some(new) = self.pending.take() {
            self.left = Some(core::mem::replace(&mut self.attached, Attached::On(new)));
        }
    }

    pub(crate) fn set_pending(&mut self, domain: Option<DomainRef>) {
        self.pending = domain;
    }

    /// Ends a commit. What the member is no longer on comes back; a member that still has a
    /// pending domain did not land and is uncertain from here on.
    pub(crate) fn settle(&mut self) -> Option<Attached> {
        if let Some(new) = self.pending.take() {
            let old = match core::mem::replace(&mut self.attached, Attached::Deferred) {
                Attached::Deferred => None,
                Attached::On(old) => Some(old),
                Attached::Uncertain { old, new: earlier } => {
                    // The hardware may be on any of the three, and there is room for two: this one
                    // is never freed.
                    core::mem::forget(earlier);
                    old
                }
            };
            self.attached = Attached::Uncertain { old, new };
        }
        self.left.take()
    }

    /// Whose failure to name.
    #[must_use]
    pub fn culprit(&self) -> Culprit {
        if self.require_direct() {
            Culprit::Pinned {
                device: self.info.shared_name(),
                regions: self.direct.clone(),
            }
        } else {
            Culprit::Device(self.info.shared_name())
        }
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("device", &self.name())
            .field("streams", &self.streams())
            .field("attached", &self.attached)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

/// Whether attaching `domain` could cut 1:1 mappings that firmware asked for.
pub(crate) fn blocks(domain: &DomainRef, blocked: &DomainRef) -> bool {
    domain.kind() == DomainKind::Blocked || Arc::ptr_eq(domain, blocked)
}
