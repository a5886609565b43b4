//! Groups: devices that the IOMMU cannot keep apart, and how they change domain together.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use lock_api::Mutex;

use crate::domain::DomainRef;
use crate::error::{Error, ErrorKind, Result};
use crate::iommu::{DeviceId, Shared};
use crate::member::{Attached, Member, blocks};
use crate::ops::Slot;
use crate::platform::{RawLock, SpinLock};

/// What a group's devices and its domain are, under the group's lock.
pub(crate) struct State {
    pub(crate) members: Vec<Member>,
    /// The domain that the core chose for the group when its first device came.
    pub(crate) default: Option<DomainRef>,
    /// What all members are meant to be on. `None`: each rests at its park target.
    pub(crate) domain: Option<DomainRef>,
}

pub(crate) type Locked<L> = Mutex<L, State>;

/// Devices that the IOMMU cannot keep apart, and so change domain together.
pub struct Group<L: RawLock = SpinLock> {
    pub(crate) shared: Arc<Shared<L>>,
    pub(crate) state: Arc<Locked<L>>,
}

impl<L: RawLock> Group<L> {
    /// Attaches every device of the group to `domain`: all of them or, where one cannot be prepared
    /// for it, none. When this returns `Ok`, their DMA is subject to `domain` alone.
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
    /// - Whatever else preparing a device ends in: every device is where it was.
    /// - [`ErrorKind::IommuTimedOut`] and other failures of the hardware itself: devices that it did
    ///   not confirm are [`Attached::Uncertain`], the others are on `domain`.
    pub fn attach(&self, domain: &DomainRef) -> Result {
        self.attach_locked(&mut self.state.lock(), domain)
    }

    fn attach_locked(&self, state: &mut State, domain: &DomainRef) -> Result {
        let default = state.default.as_ref();
        let result = transact(&self.shared, &mut state.members, domain.clone(), default);
        if !matches!(&result, Err(Failure::Prepare(_))) {
            state.domain = Some(domain.clone());
        }
        result.map_err(Failure::into_error)
    }

    /// Attaches a member whose attach is deferred to what its group is on.
    pub(crate) fn attach_deferred(&self, id: DeviceId) -> Result {
        let state = &mut *self.state.lock();
        let Some(domain) = state.domain.clone() else {
            return Ok(());
        };
        let Some(at) = state.members.iter().position(|member| member.id() == id) else {
            return Ok(());
        };
        if !matches!(state.members[at].attached(), Attached::Deferred) {
            return Ok(());
        }
        transact(&self.shared, &mut state.members[at..=at], domain, None)
            .map_err(Failure::into_error)
    }

    /// Attaches every device of the group to the group's default domain; where it has none, each
    /// device to where it rests. When this returns `Ok`, nothing uses the former domain any more.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach).
    pub fn detach(&self) -> Result {
        let state = &mut *self.state.lock();
        match state.default.clone() {
            Some(default) => self.attach_locked(state, &default),
            None => {
                let result = park(&self.shared, &mut state.members);
                if !matches!(&result, Err(Failure::Prepare(_))) {
                    state.domain = None;
                }
                result.map_err(Failure::into_error)
            }
        }
    }

    /// The domain that the group's devices are meant to be on; `None` where each rests at its park
    /// target.
    #[must_use]
    pub fn domain(&self) -> Option<DomainRef> {
        self.state.lock().domain.clone()
    }

    /// Calls `visit` with each device's name and what its traffic is really on.
    ///
    /// The group is locked meanwhile: `visit` must not call it.
    pub fn for_each(&self, mut visit: impl FnMut(&str, &Attached)) {
        for member in &self.state.lock().members {
            visit(member.name(), member.attached());
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

/// Where a transaction stopped.
pub(crate) enum Failure {
    /// In preparation: every device is where it was.
    Prepare(Error),
    /// In the hardware: each member knows what it is on.
    Commit(Error),
}

impl Failure {
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Prepare(error) | Self::Commit(error) => error,
        }
    }
}

/// Moves all of `members` to `new`.
///
/// A member whose attach is deferred stays as it is when `new` is `default`.
pub(crate) fn transact<L: RawLock>(
    shared: &Shared<L>,
    members: &mut [Member],
    new: DomainRef,
    default: Option<&DomainRef>,
) -> core::result::Result<(), Failure> {
    if let Some(pinned) = members.iter().find(|member| member.require_direct())
        && blocks(&new, &shared.fixed.blocked)
    {
        let refused = Error::new(
            ErrorKind::InvalidArgument,
            "refused: a blocking domain would cut the 1:1 mappings that firmware asked for",
        )
        .of(pinned.culprit());
        log::warn!("{refused}");
        return Err(Failure::Prepare(refused));
    }
    let defers = default.is_some_and(|default| Arc::ptr_eq(default, &new));
    for member in &mut *members {
        let skip = defers && matches!(member.attached(), Attached::Deferred);
        member.set_pending((!skip).then(|| new.clone()));
    }
    move_pending(shared, members)
}

/// Moves each of `members` to where it rests.
pub(crate) fn park<L: RawLock>(
    shared: &Shared<L>,
    members: &mut [Member],
) -> core::result::Result<(), Failure> {
    for member in &mut *members {
        let target = shared.fixed.park_target(member.require_direct());
        if member.require_direct() && blocks(target, &shared.fixed.blocked) {
            log::warn!(
                "{}: parked on a blocking domain, there is no identity domain: its 1:1 mappings end",
                member.culprit()
            );
        }
        member.set_pending(Some(target.clone()));
    }
    move_pending(shared, members)
}

/// Prepares every member that has a pending domain, then commits them all.
fn move_pending<L: RawLock>(
    shared: &Shared<L>,
    members: &mut [Member],
) -> core::result::Result<(), Failure> {
    for at in 0..members.len() {
        if let Err(error) = prepare(shared, &mut members[at]) {
            for member in &mut members[..at] {
                cancel(shared, member);
            }
            for member in members {
                member.set_pending(None);
            }
            return Err(Failure::Prepare(error));
        }
    }
    if members.iter().all(|member| member.pending().is_none()) {
        return Ok(());
    }
    let result = shared.ops.commit(members, Slot::Rid);
    let mut lost = None;
    for member in members {
        let moving = member.pending().is_some();
        match member.settle() {
            Some(Attached::On(old)) => shared.drop_direct(&old, member),
            Some(Attached::Uncertain { old, new }) => {
                if let Some(old) = old {
                    shared.drop_direct(&old, member);
                }
                shared.drop_direct(&new, member);
            }
            Some(Attached::Deferred) | None => {}
        }
        if moving {
            log::error!(
                "{}: the hardware did not confirm a change of domain",
                member.culprit()
            );
            lost.get_or_insert_with(|| member.culprit());
        }
    }
    match (result, lost) {
        (Err(error), _) => Err(Failure::Commit(error)),
        (Ok(()), Some(culprit)) => Err(Failure::Commit(
            Error::new(
                ErrorKind::Internal,
                "the backend reported success but did not move it",
            )
            .of(culprit),
        )),
        (Ok(()), None) => Ok(()),
    }
}

fn prepare<L: RawLock>(shared: &Shared<L>, member: &mut Member) -> Result {
    let Some(new) = member.pending().cloned() else {
        return Ok(());
    };
    shared.hold_direct(&new, member)?;
    let result = shared.ops.prepare(member, Slot::Rid);
    if result.is_err() {
        shared.drop_direct(&new, member);
    }
    result
}

fn cancel<L: RawLock>(shared: &Shared<L>, member: &mut Member) {
    let Some(new) = member.pending().cloned() else {
        return;
    };
    shared.ops.cancel(member, Slot::Rid);
    shared.drop_direct(&new, member);
}
