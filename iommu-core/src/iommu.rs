//! The core: which IOMMUs there are, which devices are behind them, and in which groups.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use lock_api::Mutex;
use static_assertions::assert_impl_all;

use crate::device::{Device, DeviceInfo};
use crate::domain::DomainRef;
use crate::error::{Error, ErrorKind, Result};
use crate::fault::{Delivery, FaultHandler, PageRequest, PageResponse};
use crate::group::Group;
use crate::ops::{IommuOps, PagingConfig};
use crate::park::FixedDomains;
use crate::platform::{DeviceControl, RawLock, SpinLock};
use crate::registry::Registry;
use crate::transaction::Failure;

/// Tells devices apart for as long as the core lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct DeviceId(pub(crate) u64);

/// What the first device of a group finds itself on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DefaultDomain {
    /// A paging domain of the group's own, empty but for the regions that firmware pinned.
    #[default]
    Paging,
    /// The identity domain: no protection.
    Identity,
    /// None. The device rests where a released one does, until a domain is attached.
    Parked,
}

/// How a core treats its devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IommuConfig {
    /// What groups start on.
    pub default_domain: DefaultDomain,
    /// What paging default domains have to be.
    pub paging: PagingConfig,
}

/// One of the IOMMUs of a core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct InstanceId(usize);

impl InstanceId {
    /// The IOMMU that the core was made with.
    pub const FIRST: Self = Self(0);

    pub(crate) fn index(self) -> usize {
        self.0
    }
}

/// An IOMMU: its backend, and the domains that backend has from the start.
pub(crate) struct Instance {
    pub(crate) ops: Box<dyn IommuOps>,
    pub(crate) fixed: FixedDomains,
}

impl Instance {
    fn new(ops: impl IommuOps, config: &IommuConfig) -> Result<Arc<Self>> {
        let fixed = FixedDomains::of(&ops)?;
        if config.default_domain == DefaultDomain::Identity && fixed.identity.is_none() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "there is no identity domain",
            ));
        }
        Ok(Arc::new(Self {
            ops: Box::new(ops),
            fixed,
        }))
    }
}

/// The IOMMUs of a machine and the devices behind them.
///
/// A cheap handle; clones are the same core. The lock `L` is held while hardware changes a device's
/// domain. Locks are taken in this order: the core's list of groups, a group, direct mappings.
pub struct Iommu<L: RawLock = SpinLock> {
    shared: Arc<Shared<L>>,
}

assert_impl_all!(Iommu: Send, Sync);

pub(crate) struct Shared<L: RawLock> {
    pub(crate) config: IommuConfig,
    first: Arc<Instance>,
    pub(crate) registry: Mutex<L, Registry<L>>,
    /// For changes of any domain's direct mappings.
    pub(crate) direct: Mutex<L, ()>,
}

impl<L: RawLock> Iommu<L> {
    /// A core over one IOMMU, with a paging domain for each group.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] for a backend without a blocked domain.
    pub fn new(ops: impl IommuOps) -> Result<Self> {
        Self::with_config(ops, IommuConfig::default())
    }

    /// A core over one IOMMU; more can be [added](Self::add_instance).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] for a backend without a blocked domain, or for identity as
    /// the default on a backend without an identity domain.
    pub fn with_config(ops: impl IommuOps, config: IommuConfig) -> Result<Self> {
        let first = Instance::new(ops, &config)?;
        let registry = Mutex::new(Registry::new(first.clone()));
        let direct = Mutex::new(());
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                first,
                registry,
                direct,
            }),
        })
    }

    /// Adds another IOMMU. Its devices say that they are [behind](DeviceInfo::behind) it.
    ///
    /// # Errors
    ///
    /// As [`with_config`](Self::with_config).
    pub fn add_instance(&self, ops: impl IommuOps) -> Result<InstanceId> {
        let instance = Instance::new(ops, &self.shared.config)?;
        let mut registry = self.shared.registry.lock();
        Ok(InstanceId(registry.add_instance(instance)))
    }

    /// A new, empty paging domain of the first IOMMU, to map into and attach.
    /// [`Group::paging_domain`] makes one of the IOMMU that a group is behind.
    ///
    /// # Errors
    ///
    /// As [`IommuOps::paging_domain`].
    pub fn paging_domain(&self, config: &PagingConfig) -> Result<DomainRef> {
        self.shared.first.ops.paging_domain(config)
    }

    /// The domain of the first IOMMU that refuses everything.
    #[must_use]
    pub fn blocked_domain(&self) -> DomainRef {
        self.shared.first.fixed.blocked.clone()
    }

    /// The domain of the first IOMMU that passes everything, where there is one.
    #[must_use]
    pub fn identity_domain(&self) -> Option<DomainRef> {
        self.shared.first.fixed.identity.clone()
    }

    /// Adds a device: finds or makes its group and attaches it to what the group is on, a default
    /// domain for a new group; its PASIDs too. When this returns `Ok`, the device's DMA is subject
    /// to that domain, unless its attach is deferred.
    ///
    /// A device that presents a stream of another device joins its group: the two cannot be kept
    /// apart.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] for a device without streams, one behind an IOMMU that is not
    /// there, or a pinned one that would join a claimed group; [`ErrorKind::Busy`] for a stream
    /// that belongs to another group; [`ErrorKind::AlreadyExists`] for one with a reserved region
    /// where its group has mapped something by [`Dma`](crate::dma::Dma); otherwise as
    /// [`IommuOps::probe`],
    /// [`IommuOps::paging_domain`] and [`Group::attach`]. The device then reaches no more than
    /// before.
    pub fn add_device(
        &self,
        info: DeviceInfo,
        control: Arc<dyn DeviceControl>,
    ) -> Result<Device<L>> {
        let shared = &self.shared;
        let (id, instance, state) = shared.registry.lock().claim(&info)?;
        let info = Arc::new(info);
        match shared.join(id, instance, &info, control, &state) {
            Ok((reserved, deferred)) => Ok(Device {
                id,
                info,
                reserved,
                deferred,
                group: Group {
                    shared: shared.clone(),
                    state,
                },
                released: false,
            }),
            Err(failure) => {
                let clean = matches!(failure, Failure::Prepare(_));
                shared.registry.lock().unclaim(&info, &state, clean);
                Err(failure.into_error())
            }
        }
    }

    /// Takes a page request of a device behind the IOMMU `instance` to the handler of the domain
    /// that its traffic is on. Requests are kept until the last of their group comes; a group that
    /// nobody handles is answered [`PageResponse::Invalid`], one that is too large
    /// [`PageResponse::Failure`]. For a backend's event handling; requests that the hardware
    /// answered itself are not reported.
    ///
    /// Context: may block.
    pub fn report_page_request(&self, instance: InstanceId, request: PageRequest) {
        let (instance, group) = {
            let registry = self.shared.registry.lock();
            let Some(found) = registry.instance(instance.0) else {
                return;
            };
            (found, registry.group_of(instance.0, request.stream))
        };
        let delivery = match group {
            Some(group) => group.lock().deliver(request),
            None => Delivery::Nobody(PageResponse::Invalid),
        };
        match delivery {
            Delivery::Kept => {}
            Delivery::To(handler, fault) => handler.handle(fault),
            Delivery::Nobody(response) if request.last => instance.ops.answer(&request, response),
            Delivery::Nobody(_) => {}
        }
    }
}

impl<L: RawLock> Clone for Iommu<L> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<L: RawLock> fmt::Debug for Iommu<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iommu")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl<L: RawLock> Group<L> {
    /// A new, empty paging domain of the IOMMU that the group is behind.
    ///
    /// # Errors
    ///
    /// As [`IommuOps::paging_domain`].
    pub fn paging_domain(&self, config: &PagingConfig) -> Result<DomainRef> {
        let instance = self.state.lock().instance.clone();
        instance.ops.paging_domain(config)
    }

    /// As [`paging_domain`](Self::paging_domain), its page faults handled by `handler`: they are
    /// turned on for a device when it is attached, and off when it leaves.
    ///
    /// # Errors
    ///
    /// As [`IommuOps::paging_domain`].
    pub fn paging_domain_with_faults(
        &self,
        config: &PagingConfig,
        handler: Arc<dyn FaultHandler>,
    ) -> Result<DomainRef> {
        let shared = "the backend shares a new domain";
        self.paging_domain(config)?
            .with_faults(handler)
            .ok_or(Error::new(ErrorKind::Internal, shared))
    }

    /// The domain of the group's IOMMU that refuses everything.
    #[must_use]
    pub fn blocked_domain(&self) -> DomainRef {
        self.state.lock().instance.fixed.blocked.clone()
    }

    /// The domain of the group's IOMMU that passes everything, where there is one.
    #[must_use]
    pub fn identity_domain(&self) -> Option<DomainRef> {
        self.state.lock().instance.fixed.identity.clone()
    }
}
