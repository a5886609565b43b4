//! Groups: devices that the IOMMU cannot keep apart, and what they are attached to.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use lock_api::Mutex;

use crate::addr::Pasid;
use crate::attached::Attached;
use crate::dma::AnySpace;
use crate::domain::DomainRef;
use crate::error::{Error, ErrorKind, Result};
use crate::iommu::{DeviceId, Instance, Shared};
use crate::member::Member;
use crate::platform::{RawLock, SpinLock};
use crate::transaction::{Failure, Outcome, attach, park};

/// Who uses a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// Nobody has said so.
    Nobody,
    /// This many drivers, through the default domain.
    Drivers(usize),
    /// Somebody who wants it alone.
    Claimed,
}

/// What a group's devices and its domain are, under the group's lock.
pub(crate) struct State {
    /// The IOMMU that all of them are behind.
    pub(crate) instance: Arc<Instance>,
    pub(crate) members: Vec<Member>,
    /// The domain that the core chose for the group when its first device came.
    pub(crate) default: Option<DomainRef>,
    /// What all members are meant to be on. `None`: each rests at its park target.
    pub(crate) domain: Option<DomainRef>,
    /// What maps for its devices in the default domain, once one has asked.
    pub(crate) space: Option<Arc<dyn AnySpace + Send + Sync>>,
    /// What their PASIDs are meant to be on.
    pub(crate) pasids: Vec<(Pasid, DomainRef)>,
    pub(crate) owner: Owner,
}

pub(crate) type Locked<L> = Mutex<L, State>;

impl State {
    pub(crate) fn empty(instance: Arc<Instance>) -> Self {
        Self {
            instance,
            members: Vec::new(),
            default: None,
            domain: None,
            space: None,
            pasids: Vec::new(),
            owner: Owner::Nobody,
        }
    }

    /// A group without devices is on nothing, and lets go of its domains.
    pub(crate) fn forget_if_empty(&mut self) {
        if self.members.is_empty() {
            self.domain = None;
            self.tell_space();
            self.default = None;
            self.space = None;
            self.pasids.clear();
        }
    }

    pub(crate) fn member(&mut self, id: DeviceId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.id() == id)
    }

    pub(crate) fn check_not_claimed(&self) -> Result {
        match self.owner {
            Owner::Claimed => Err(Error::new(
                ErrorKind::NotPermitted,
                "somebody claimed the group",
            )),
            Owner::Nobody | Owner::Drivers(_) => Ok(()),
        }
    }

    /// A reset fences off a member: attaches would reach it.
    pub(crate) fn check_fences(&self) -> Result {
        match self.members.iter().find(|member| member.fences > 0) {
            None => Ok(()),
            Some(member) => {
                Err(Error::new(ErrorKind::Busy, "it is being reset").of(member.culprit()))
            }
        }
    }

    /// Attaches all members that no reset fences off to `domain`, and notes what they are meant to
    /// be on.
    pub(crate) fn attach<L: RawLock>(&mut self, shared: &Shared<L>, domain: &DomainRef) -> Result {
        let default = self.default.clone();
        let result = attach(shared, &mut self.members, domain, default.as_ref(), |_| {
            true
        });
        self.note(result, Some(domain.clone()))
    }

    /// As [`attach`](Self::attach), to the default domain; without one, to where each rests.
    pub(crate) fn attach_default<L: RawLock>(&mut self, shared: &Shared<L>) -> Result {
        match self.default.clone() {
            Some(default) => self.attach(shared, &default),
            None => {
                let result = park(shared, &mut self.members, |member| !member.is_deferred());
                self.note(result, None)
            }
        }
    }

    /// After a commit, even one that failed, the group is meant to be on the new domain: members
    /// that landed are.
    fn note(&mut self, result: Outcome, domain: Option<DomainRef>) -> Result {
        if !matches!(&result, Err(Failure::Prepare(_))) && !self.members.is_empty() {
            self.domain = domain;
            self.tell_space();
        }
        result.map_err(Failure::into_error)
    }

    /// Tells what maps in the default domain whether that is where the group is.
    fn tell_space(&self) {
        if let Some(space) = &self.space {
            space.set_in_use(self.is_on(self.default.as_ref()));
        }
    }

    /// Whether the group is on `domain`; `None` stands for where each member rests.
    pub(crate) fn is_on(&self, domain: Option<&DomainRef>) -> bool {
        match (&self.domain, domain) {
            (Some(on), Some(domain)) => Arc::ptr_eq(on, domain),
            (None, None) => true,
            _ => false,
        }
    }
}

/// Devices that the IOMMU cannot keep apart, and so change domain together.
pub struct Group<L: RawLock = SpinLock> {
    pub(crate) shared: Arc<Shared<L>>,
    pub(crate) state: Arc<Locked<L>>,
}

impl<L: RawLock> Group<L> {
    /// Attaches every device of the group to `domain`: all of them or, where one cannot be prepared
    /// for it, none. When this returns `Ok`, their DMA is subject to `domain` alone. Attaches of
    /// PASIDs stay.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidArgument`]: the domain blocks and firmware pinned one of the devices to
    ///   1:1 mappings (the error names it and its regions), or the domain belongs to another IOMMU.
    ///   The hardware was not touched.
    /// - [`ErrorKind::AlreadyExists`], [`ErrorKind::OutOfRange`]: the domain cannot take up a pinned
    ///   region of a device. Every device is where it was.
    /// - [`ErrorKind::NotPermitted`]: somebody has [claimed](Self::claim) the group.
    /// - [`ErrorKind::Busy`]: several drivers [share](Self::share) its default domain, or one of the
    ///   devices is being reset.
    /// - Whatever else preparing a device ends in: every device is where it was.
    /// - [`ErrorKind::IommuTimedOut`] and other failures of the hardware itself: devices that it did
    ///   not confirm are [`Attached::Uncertain`], the others are on `domain`.
    pub fn attach(&self, domain: &DomainRef) -> Result {
        let state = &mut *self.state.lock();
        state.check_not_claimed()?;
        if matches!(state.owner, Owner::Drivers(2..)) {
            return Err(Error::new(
                ErrorKind::Busy,
                "several drivers share the default domain",
            ));
        }
        state.check_fences()?;
        state.attach(&self.shared, domain)
    }

    /// Attaches every device of the group to the group's default domain; where it has none, each
    /// device to where it rests. When this returns `Ok`, nothing uses the former domain any more.
    /// A device that is being reset stays parked and follows when that ends.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach), but for `Busy`.
    pub fn detach(&self) -> Result {
        let state = &mut *self.state.lock();
        state.check_not_claimed()?;
        state.attach_default(&self.shared)
    }

    /// The domain that the group's devices are meant to be on; `None` where each rests at its park
    /// target.
    ///
    /// Context: may block.
    #[must_use]
    pub fn domain(&self) -> Option<DomainRef> {
        self.state.lock().domain.clone()
    }

    /// Calls `visit` with each device's name and what its traffic without PASID is really on.
    ///
    /// The group is locked meanwhile: `visit` must not call it.
    ///
    /// Context: may block.
    pub fn for_each(&self, mut visit: impl FnMut(&str, &Attached)) {
        for member in &self.state.lock().members {
            visit(member.name(), member.attached());
        }
    }

    /// Makes the hardware read aborting entries for every device of the group, and switches the
    /// devices' own translation caches off, without waiting for an answer: what to do when the
    /// IOMMU or a device does not answer. What was cached may go on being used, so every domain that
    /// was involved stays alive. Firmware's 1:1 mappings are cut too, and that is logged.
    ///
    /// An attach that succeeds ends it.
    ///
    /// Context: may block.
    pub fn quarantine(&self) {
        let state = &mut *self.state.lock();
        quarantine(&mut state.members);
    }

    /// Attaches a member whose attach is deferred to what its group is on, and with it those that
    /// share a stream with it: what is moved for one is moved for all.
    pub(crate) fn attach_deferred(&self, id: DeviceId) -> Result {
        let state = &mut *self.state.lock();
        let Some(domain) = state.domain.clone() else {
            return Ok(());
        };
        let Some(member) = state.member(id) else {
            return Ok(());
        };
        if !matches!(member.attached(), Attached::Deferred) {
            return Ok(());
        }
        if member.fences > 0 {
            return Err(Error::new(ErrorKind::Busy, "it is being reset").of(member.culprit()));
        }
        member.joins = true;
        while let Some(at) = next_alias(&state.members) {
            state.members[at].joins = true;
        }
        let chosen = |member: &Member| member.joins;
        let result = attach(&self.shared, &mut state.members, &domain, None, chosen);
        for member in &mut state.members {
            member.joins = false;
        }
        result.map_err(Failure::into_error)
    }
}

/// A deferred member that shares a stream with one that joins, and does not join yet.
fn next_alias(members: &[Member]) -> Option<usize> {
    members.iter().position(|member| {
        let deferred = matches!(member.attached(), Attached::Deferred);
        let joining = |other: &Member| other.joins && other.shares_stream(member);
        deferred && !member.joins && members.iter().any(joining)
    })
}

/// Stores aborting entries and switches the devices' caches off. Claims no more than that.
pub(crate) fn quarantine(members: &mut [Member]) {
    let Some(instance) = members.first().map(|member| member.instance().clone()) else {
        return;
    };
    instance.ops.quarantine(members);
    for member in members {
        if member.require_direct() {
            log::error!("{}: quarantined, its 1:1 mappings end", member.culprit());
        }
        if member.control().is_reachable()
            && let Err(error) = member.control().set_ats(false)
        {
            log::error!(
                "{}: its ATS cannot be switched off: {error}",
                member.culprit()
            );
        }
        member.quarantine();
    }
}

impl<L: RawLock> Clone for Group<L> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            state: self.state.clone(),
        }
    }
}

impl<L: RawLock> fmt::Debug for Group<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state.try_lock() {
            Some(state) => f
                .debug_struct("Group")
                .field("members", &state.members)
                .finish(),
            None => f.write_str("Group(locked)"),
        }
    }
}
