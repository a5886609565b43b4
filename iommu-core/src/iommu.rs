//! The core of one IOMMU: which devices are behind it, and in which groups.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use lock_api::Mutex;

use crate::addr::{AddrRange, StreamId};
use crate::device::{Device, DeviceInfo, Rest};
use crate::domain::{DomainKind, DomainRef};
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::group::{Failure, Group, Locked, State, park, transact};
use crate::member::{Attached, Member};
use crate::ops::{IommuOps, PagingConfig};
use crate::park::FixedDomains;
use crate::platform::{DeviceControl, RawLock, SpinLock};
use crate::reserved::ReservedRegion;

/// Tells devices apart for as long as the core lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct DeviceId(u64);

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

/// An IOMMU and the devices behind it.
///
/// A cheap handle; clones are the same IOMMU. The lock `L` is held while hardware changes a
/// device's domain.
pub struct Iommu<L: RawLock = SpinLock> {
    shared: Arc<Shared<L>>,
}

pub(crate) struct Shared<L: RawLock> {
    pub(crate) ops: Box<dyn IommuOps>,
    pub(crate) fixed: FixedDomains,
    config: IommuConfig,
    /// Locked before a group.
    registry: Mutex<L, Registry<L>>,
    /// Locked after a group, for changes of any domain's direct mappings.
    direct: Mutex<L, ()>,
}

struct Registry<L: RawLock> {
    next_device: u64,
    streams: BTreeMap<StreamId, DeviceId>,
    groups: Vec<Entry<L>>,
}

struct Entry<L: RawLock> {
    name: Option<String>,
    state: Arc<Locked<L>>,
    /// Devices in it, and on their way into or out of it.
    devices: usize,
}

impl<L: RawLock> Iommu<L> {
    /// The core over `ops`, with a paging domain for each group.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] for a backend without a blocked domain.
    pub fn new(ops: impl IommuOps) -> Result<Self> {
        Self::with_config(ops, IommuConfig::default())
    }

    /// The core over `ops`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] for a backend without a blocked domain, or for identity as
    /// the default on a backend without an identity domain.
    pub fn with_config(ops: impl IommuOps, config: IommuConfig) -> Result<Self> {
        let fixed = FixedDomains::of(&ops)?;
        if config.default_domain == DefaultDomain::Identity && fixed.identity.is_none() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "there is no identity domain",
            ));
        }
        let registry = Registry {
            next_device: 0,
            streams: BTreeMap::new(),
            groups: Vec::new(),
        };
        Ok(Self {
            shared: Arc::new(Shared {
                ops: Box::new(ops),
                fixed,
                config,
                registry: Mutex::new(registry),
                direct: Mutex::new(()),
            }),
        })
    }

    /// A new, empty paging domain, to map into and attach.
    ///
    /// # Errors
    ///
    /// As [`IommuOps::paging_domain`].
    pub fn paging_domain(&self, config: &PagingConfig) -> Result<DomainRef> {
        self.shared.ops.paging_domain(config)
    }

    /// The domain that refuses everything.
    #[must_use]
    pub fn blocked_domain(&self) -> DomainRef {
        self.shared.fixed.blocked.clone()
    }

    /// The domain that passes everything, where there is one.
    #[must_use]
    pub fn identity_domain(&self) -> Option<DomainRef> {
        self.shared.fixed.identity.clone()
    }

    /// Adds a device: finds or makes its group and attaches it to what the group is on, a default
    /// domain for a new group. When this returns `Ok`, the device's DMA is subject to that domain,
    /// unless its attach is deferred.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] for a device without streams; [`ErrorKind::Busy`] for a
    /// stream that another device has; otherwise as [`IommuOps::probe`],
    /// [`IommuOps::paging_domain`] and [`Group::attach`]. The device then reaches no more than
    /// before.
    pub fn add_device(
        &self,
        info: DeviceInfo,
        control: Arc<dyn DeviceControl>,
    ) -> Result<Device<L>> {
        let shared = &self.shared;
        let (id, state) = shared.claim(&info)?;
        let info = Arc::new(info);
        match shared.join(id, &info, control, &state) {
            Ok(reserved) => Ok(Device {
                id,
                name: info.shared_name(),
                reserved,
                group: Group {
                    shared: shared.clone(),
                    state,
                },
                released: false,
            }),
            Err(Failure::Prepare(error)) => {
                shared.unclaim(id, &state, true);
                Err(error)
            }
            Err(Failure::Commit(error)) => {
                shared.unclaim(id, &state, false);
                Err(error)
            }
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

impl<L: RawLock> Shared<L> {
    /// Takes the device's streams and a place in its group: all of it or nothing.
    fn claim(&self, info: &DeviceInfo) -> Result<(DeviceId, Arc<Locked<L>>)> {
        if info.stream_ids().is_empty() {
            return Err(
                Error::new(ErrorKind::InvalidArgument, "a device without streams")
                    .of(Culprit::Device(info.shared_name())),
            );
        }
        let registry = &mut *self.registry.lock();
        if let Some(taken) = info
            .stream_ids()
            .iter()
            .find(|stream| registry.streams.contains_key(stream))
        {
            return Err(
                Error::new(ErrorKind::Busy, "another device has this stream")
                    .of(Culprit::Stream(*taken)),
            );
        }
        let id = DeviceId(registry.next_device);
        registry.next_device += 1;
        registry
            .streams
            .extend(info.stream_ids().iter().map(|stream| (*stream, id)));
        let name = info.group_name();
        let group = registry
            .groups
            .iter_mut()
            .find(|g| name.is_some() && g.name.as_deref() == name);
        let state = match group {
            Some(group) => {
                group.devices += 1;
                group.state.clone()
            }
            None => {
                let empty = State {
                    members: Vec::new(),
                    default: None,
                    domain: None,
                };
                let state = Arc::new(Mutex::new(empty));
                let name = name.map(Into::into);
                registry.groups.push(Entry {
                    name,
                    state: state.clone(),
                    devices: 1,
                });
                state
            }
        };
        Ok((id, state))
    }

    /// Gives the place in the group back and, if `streams`, the streams too.
    fn unclaim(&self, id: DeviceId, state: &Arc<Locked<L>>, streams: bool) {
        let registry = &mut *self.registry.lock();
        if streams {
            registry.streams.retain(|_, owner| *owner != id);
        }
        if let Some(at) = registry
            .groups
            .iter()
            .position(|g| Arc::ptr_eq(&g.state, state))
        {
            registry.groups[at].devices -= 1;
            if registry.groups[at].devices == 0 {
                registry.groups.swap_remove(at);
            }
        }
    }

    /// Probes the device and attaches it to what its group is on.
    fn join(
        &self,
        id: DeviceId,
        info: &Arc<DeviceInfo>,
        control: Arc<dyn DeviceControl>,
        state: &Arc<Locked<L>>,
    ) -> core::result::Result<Arc<[ReservedRegion]>, Failure> {
        let probed = self
            .ops
            .probe(info, control.clone())
            .map_err(Failure::Prepare)?;
        let member = Member::new(id, info.clone(), control, probed);
        let reserved = member.reserved();
        let state = &mut *state.lock();
        let first = state.members.is_empty();
        state.members.push(member);
        let at = state.members.len() - 1;
        let attached = if first {
            self.choose_default()
        } else {
            Ok(state.domain.clone())
        };
        let result = match attached {
            Err(error) => Err(Failure::Prepare(error)),
            Ok(domain) => {
                if first {
                    state.default.clone_from(&domain);
                    state.domain.clone_from(&domain);
                }
                state.members[at].set_home(state.default.clone());
                match domain {
                    None => self.settle(&mut state.members[at..]),
                    Some(domain) => transact(
                        self,
                        &mut state.members[at..],
                        domain,
                        state.default.as_ref(),
                    ),
                }
            }
        };
        if let Err(failure) = result {
            if let Some(mut member) = state.members.pop() {
                match failure {
                    Failure::Prepare(_) => self.ops.release(&mut member),
                    Failure::Commit(_) => core::mem::forget(member),
                }
            }
            if first {
                state.default = None;
                state.domain = None;
            }
            return Err(failure);
        }
        Ok(reserved)
    }

    /// Makes sure that newcomers rest where the core says, not only where the backend found them:
    /// regions that only the platform knows of pin a device too.
    fn settle(&self, members: &mut [Member]) -> core::result::Result<(), Failure> {
        let rests = |member: &Member| match member.attached() {
            Attached::Deferred => true,
            on => on.is(self.fixed.park_target(member.require_direct())),
        };
        if members.iter().all(rests) {
            Ok(())
        } else {
            park(self, members)
        }
    }

    fn choose_default(&self) -> Result<Option<DomainRef>> {
        match self.config.default_domain {
            DefaultDomain::Paging => self.ops.paging_domain(&self.config.paging).map(Some),
            DefaultDomain::Identity => Ok(self.fixed.identity.clone()),
            DefaultDomain::Parked => Ok(None),
        }
    }

    pub(crate) fn release(&self, device: &Device<L>) -> Result<Rest> {
        let result = self.leave(device);
        self.unclaim(device.id, &device.group.state, result.is_ok());
        result
    }

    fn leave(&self, device: &Device<L>) -> Result<Rest> {
        let state = &mut *device.group.state.lock();
        let at = state
            .members
            .iter()
            .position(|member| member.id() == device.id);
        let mut member = state.members.swap_remove(at.ok_or(Error::new(
            ErrorKind::Internal,
            "a device is not in its group",
        ))?);
        let deferred = matches!(member.attached(), Attached::Deferred);
        let parked = if deferred {
            Ok(())
        } else {
            park(self, core::slice::from_mut(&mut member)).map_err(Failure::into_error)
        };
        let rest = if deferred {
            Rest::Untouched
        } else {
            self.rest(&member)
        };
        match parked {
            Ok(()) => self.ops.release(&mut member),
            // The hardware may go on using what the backend keeps for the device, and the domains.
            Err(_) => core::mem::forget(member),
        }
        if state.members.is_empty() {
            state.domain = None;
            state.default = None;
        }
        parked.map(|()| rest)
    }

    fn rest(&self, member: &Member) -> Rest {
        match member.attached() {
            Attached::On(on) if Arc::ptr_eq(on, &self.fixed.blocked) => Rest::Blocked,
            Attached::On(on) if on.kind() == DomainKind::Identity => Rest::Identity,
            _ => Rest::ReleaseDomain,
        }
    }

    /// What attaching `member` to `domain` maps 1:1 there.
    fn direct_ranges<'m>(&self, domain: &DomainRef, member: &'m Member) -> &'m [AddrRange] {
        if domain.kind() == DomainKind::Paging && !self.fixed.contains(domain) {
            member.ranges_in(domain)
        } else {
            &[]
        }
    }

    /// Makes `domain` hold the regions that `member` needs in it.
    pub(crate) fn hold_direct(&self, domain: &DomainRef, member: &Member) -> Result {
        let ranges = self.direct_ranges(domain, member);
        if ranges.is_empty() {
            return Ok(());
        }
        let _guard = self.direct.lock();
        domain.hold_direct(ranges)
    }

    /// Ends [`hold_direct`](Self::hold_direct).
    pub(crate) fn drop_direct(&self, domain: &DomainRef, member: &Member) {
        let ranges = self.direct_ranges(domain, member);
        if !ranges.is_empty() {
            let _guard = self.direct.lock();
            domain.drop_direct(ranges);
        }
    }
}
