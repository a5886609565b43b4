//! The core: which IOMMUs there are, which devices are behind them, and in which groups.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::AtomicBool;

use lock_api::Mutex;
use static_assertions::assert_impl_all;

use crate::addr::{AddrRange, Pasid};
use crate::device::{Device, DeviceInfo, Rest};
use crate::domain::{DomainKind, DomainRef};
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::fault::{Delivery, FaultHandler, PageRequest, PageResponse};
use crate::group::{Group, Locked, Owner, State, quarantine};
use crate::member::{Attached, Member};
use crate::ops::{IommuOps, PagingConfig, Slot};
use crate::park::FixedDomains;
use crate::pasid::{block_all_pasids, restore_pasids};
use crate::platform::{DeviceControl, RawLock, SpinLock};
use crate::registry::Registry;
use crate::reserved::ReservedRegion;
use crate::transaction::{Failure, Outcome, attach, park};

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
    config: IommuConfig,
    first: Arc<Instance>,
    pub(crate) registry: Mutex<L, Registry<L>>,
    /// For changes of any domain's direct mappings.
    direct: Mutex<L, ()>,
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
    /// that belongs to another group; otherwise as [`IommuOps::probe`],
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

impl<L: RawLock> Shared<L> {
    /// Probes the device and attaches it to what its group is on. Returns its reserved regions, and
    /// what says whether its attach is deferred.
    fn join(
        &self,
        id: DeviceId,
        instance: Arc<Instance>,
        info: &Arc<DeviceInfo>,
        control: Arc<dyn DeviceControl>,
        state: &Arc<Locked<L>>,
    ) -> Outcome<(Arc<[ReservedRegion]>, Arc<AtomicBool>)> {
        let state = &mut *state.lock();
        let probed = instance
            .ops
            .probe(info, control.clone())
            .map_err(Failure::Prepare)?;
        let mut member = Member::new(id, instance.clone(), info.clone(), control, probed);
        if let Err(error) = self.admit(state, &member) {
            instance.ops.release(&mut member);
            return Err(Failure::Prepare(error));
        }
        member.set_home(state.default.clone());
        member.yields = true;
        state.members.push(member);
        let at = state.members.len() - 1;
        let result = self.bring_in(state, at);
        if let Err(failure) = result {
            if let Some(mut member) = state.members.pop() {
                match failure {
                    Failure::Prepare(_) => instance.ops.release(&mut member),
                    Failure::Commit(_) => give_up(member),
                }
            }
            state.forget_if_empty();
            return Err(failure);
        }
        let member = &mut state.members[at];
        member.yields = false;
        Ok((member.reserved(), member.deferred_flag()))
    }

    /// Whether the device may join, and for the first of a group, what the group is on.
    fn admit(&self, state: &mut State, member: &Member) -> Result {
        if state.owner == Owner::Claimed && member.require_direct() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "refused: the group is claimed, and firmware pinned the device",
            )
            .of(member.culprit()));
        }
        let beyond = |pasid: &Pasid| member.max_pasids > 0 && pasid.get() > member.max_pasids;
        if let Some((pasid, _)) = state.pasids.iter().find(|(pasid, _)| beyond(pasid)) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "the group uses a PASID that the device does not have",
            )
            .of(Culprit::Pasid(*pasid)));
        }
        if state.members.is_empty() {
            state.default = match self.config.default_domain {
                DefaultDomain::Paging => {
                    Some(state.instance.ops.paging_domain(&self.config.paging)?)
                }
                DefaultDomain::Identity => state.instance.fixed.identity.clone(),
                DefaultDomain::Parked => None,
            };
            state.domain = match state.owner {
                Owner::Claimed => Some(state.instance.fixed.blocked.clone()),
                Owner::Nobody | Owner::Drivers(_) => state.default.clone(),
            };
        }
        Ok(())
    }

    /// Attaches a new member to what its group is on.
    fn bring_in(&self, state: &mut State, at: usize) -> Outcome {
        let id = state.members[at].id();
        let newcomer = |member: &Member| member.id() == id;
        match state.domain.clone() {
            Some(domain) => {
                // What it shares with devices that were attached has moved already, and PASIDs are
                // attached beside what the kernel knows: both end the deferral.
                let (others, new) = state.members.split_at(at);
                let live = |other: &Member| !other.is_deferred() && other.shares_stream(&new[0]);
                let used = !state.pasids.is_empty() && new[0].max_pasids > 0;
                let ends = used || others.iter().any(live);
                let default = state.default.clone().filter(|_| !ends);
                let default = default.as_ref();
                attach(self, &mut state.members, &domain, default, newcomer)?;
            }
            None if rests(&state.members[at]) => {}
            None => park(self, &mut state.members, newcomer)?,
        }
        restore_pasids(self, state, at).or_else(|failure| {
            // Back to where it rests, so that nothing of the group is left with it.
            block_all_pasids(self, &mut state.members, at).and(park(
                self,
                &mut state.members,
                newcomer,
            ))?;
            Err(failure)
        })
    }

    pub(crate) fn release(&self, device: &Device<L>) -> Result<Rest> {
        let result = self.leave(device);
        let mut registry = self.registry.lock();
        registry.unclaim(&device.info, &device.group.state, result.is_ok());
        result
    }

    fn leave(&self, device: &Device<L>) -> Result<Rest> {
        let state = &mut *device.group.state.lock();
        let at = state
            .members
            .iter()
            .position(|member| member.id() == device.id);
        let at = at.ok_or(Error::new(
            ErrorKind::Internal,
            "a device is not in its group",
        ))?;
        let deferred = state.members[at].is_deferred();
        // What another device presents too stays as it is until that one leaves.
        state.members[at].yields = true;
        let parked = block_all_pasids(self, &mut state.members, at).and(park(
            self,
            &mut state.members,
            |member| member.yields && !member.is_deferred(),
        ));
        let parked = parked.map_err(Failure::into_error);
        let mut member = state.members.swap_remove(at);
        self.give_back(state, &member);
        member.answer_all(PageResponse::Invalid);
        let rest = if deferred {
            Rest::Untouched
        } else {
            rest(&member)
        };
        match parked {
            Ok(()) => member.instance().clone().ops.release(&mut member),
            Err(_) => give_up(member),
        }
        state.forget_if_empty();
        parked.map(|()| rest)
    }

    /// Puts streams that a fenced device held parked, and has left behind, on what the group is on:
    /// devices that stay present them too.
    fn give_back(&self, state: &mut State, left: &Member) {
        let Some(domain) = state.domain.clone() else {
            return;
        };
        if left.fences == 0 {
            return;
        }
        let default = state.default.clone();
        let given = attach(
            self,
            &mut state.members,
            &domain,
            default.as_ref(),
            |member| member.shares_stream(left),
        );
        if let Err(failure) = given {
            let error = failure.into_error();
            log::error!(
                "streams that {} held parked stay so: {error}",
                left.culprit()
            );
        }
    }

    /// What attaching the traffic of `slot` to `domain` maps 1:1 there.
    fn direct_ranges<'m>(domain: &DomainRef, member: &'m Member, slot: Slot) -> &'m [AddrRange] {
        if domain.kind() == DomainKind::Paging && !member.instance().fixed.contains(domain) {
            member.ranges_in(domain, slot)
        } else {
            &[]
        }
    }

    /// Makes `domain` hold the regions that `member` needs in it.
    pub(crate) fn hold_direct(&self, domain: &DomainRef, member: &Member, slot: Slot) -> Result {
        let ranges = Self::direct_ranges(domain, member, slot);
        if ranges.is_empty() {
            return Ok(());
        }
        let _guard = self.direct.lock();
        domain.hold_direct(ranges)
    }

    /// Ends [`hold_direct`](Self::hold_direct).
    pub(crate) fn drop_direct(&self, domain: &DomainRef, member: &Member, slot: Slot) {
        let ranges = Self::direct_ranges(domain, member, slot);
        if !ranges.is_empty() {
            let _guard = self.direct.lock();
            domain.drop_direct(ranges);
        }
    }
}

/// Leaves a device to itself that the hardware did not confirm to have moved: what it may go on
/// using, the backend's state and the domains, is never freed.
fn give_up(mut member: Member) {
    quarantine(core::slice::from_mut(&mut member));
    core::mem::forget(member);
}

/// Whether a newcomer rests where the core says, not only where the backend found it: regions that
/// only the platform knows of pin a device too.
fn rests(member: &Member) -> bool {
    match member.attached() {
        Attached::Deferred => true,
        on => on.is(member.instance().fixed.park_target(member.require_direct())),
    }
}

fn rest(member: &Member) -> Rest {
    match member.attached() {
        Attached::On(on) if Arc::ptr_eq(on, &member.instance().fixed.blocked) => Rest::Blocked,
        Attached::On(on) if on.kind() == DomainKind::Identity => Rest::Identity,
        _ => Rest::ReleaseDomain,
    }
}
