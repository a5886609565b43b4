//! How devices change domain: all are prepared, then all are committed at once.

use alloc::sync::Arc;

use crate::attached::Attached;
use crate::domain::DomainRef;
use crate::error::{Error, ErrorKind, Result};
use crate::fault::PageResponse;
use crate::iommu::Shared;
use crate::member::{Member, blocks};
use crate::ops::Slot;
use crate::platform::RawLock;

/// Where a transaction stopped.
pub(crate) enum Failure {
    /// In preparation: every device is where it was.
    Prepare(Error),
    /// In the hardware: each member knows what it is on.
    Commit(Error),
}

pub(crate) type Outcome<T = ()> = core::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Prepare(error) | Self::Commit(error) => error,
        }
    }
}

/// Moves the traffic without PASID of those of `members` that are `chosen` to `new`. `members` is the
/// whole group: what one of them presents matters to the others.
///
/// A member whose attach is deferred stays as it is when `new` is `default`; one that a reset
/// fences off stays parked, and is moved when that ends.
pub(crate) fn attach<L: RawLock>(
    shared: &Shared<L>,
    members: &mut [Member],
    new: &DomainRef,
    default: Option<&DomainRef>,
    chosen: impl Fn(&Member) -> bool,
) -> Outcome {
    let pinned = |member: &&Member| {
        chosen(member) && member.require_direct() && blocks(new, &member.instance().fixed.blocked)
    };
    if let Some(pinned) = members.iter().find(pinned) {
        let refused = Error::new(
            ErrorKind::InvalidArgument,
            "refused: a blocking domain would cut the 1:1 mappings that firmware asked for",
        )
        .of(pinned.culprit());
        log::warn!("{refused}");
        return Err(Failure::Prepare(refused));
    }
    let defers = default.is_some_and(|default| Arc::ptr_eq(default, new));
    for member in &mut *members {
        let stays = defers && matches!(member.attached(), Attached::Deferred);
        let moves = chosen(member) && !stays && member.fences == 0;
        member.set_pending(Slot::Rid, moves.then(|| new.clone()));
    }
    move_pending(shared, members, Slot::Rid)
}

/// Moves the traffic without PASID of those of `members` that are `chosen` to where each rests.
/// Members that a reset fences off rest already, where that was confirmed.
pub(crate) fn park<L: RawLock>(
    shared: &Shared<L>,
    members: &mut [Member],
    chosen: impl Fn(&Member) -> bool,
) -> Outcome {
    for member in &mut *members {
        let fixed = &member.instance().fixed;
        let target = fixed.park_target(member.require_direct()).clone();
        let rests = member.fences > 0 && member.attached().is(&target);
        if !chosen(member) || rests {
            member.set_pending(Slot::Rid, None);
            continue;
        }
        if member.require_direct() && blocks(&target, &fixed.blocked) {
            log::warn!(
                "{}: parked on a blocking domain, there is no identity domain: its 1:1 mappings end",
                member.culprit()
            );
        }
        member.set_pending(Slot::Rid, Some(target));
    }
    move_pending(shared, members, Slot::Rid)
}

/// Moves the traffic with one PASID of each member for which `target` gives a domain.
pub(crate) fn attach_pasid<L: RawLock>(
    shared: &Shared<L>,
    members: &mut [Member],
    slot: Slot,
    target: impl Fn(&Member) -> Option<DomainRef>,
) -> Outcome {
    for member in &mut *members {
        let new = target(member);
        member.set_pending(slot, new);
    }
    move_pending(shared, members, slot)
}

/// Says which streams each member moves: all that it presents, but not those that would un-park a
/// member that a reset fences off and, where it yields, not those that others present too.
fn choose_streams(members: &mut [Member]) {
    for at in 0..members.len() {
        let (before, rest) = members.split_at_mut(at);
        let Some((member, after)) = rest.split_first_mut() else {
            return;
        };
        let yields = member.yields;
        let kept = |other: &Member| yields || other.fences > 0;
        member.choose_streams(|stream| {
            let mut others = before.iter().chain(&*after);
            !others.any(|other| kept(other) && other.presents(stream))
        });
    }
}

/// Prepares every member that has a pending domain, then commits them all.
fn move_pending<L: RawLock>(shared: &Shared<L>, members: &mut [Member], slot: Slot) -> Outcome {
    choose_streams(members);
    for at in 0..members.len() {
        if let Err(error) = prepare(shared, &mut members[at]) {
            members[..at]
                .iter_mut()
                .for_each(|member| cancel(shared, member));
            members
                .iter_mut()
                .for_each(|member| member.set_pending(slot, None));
            return Err(Failure::Prepare(error));
        }
    }
    // All members of a group are behind one IOMMU.
    let Some(moving) = members.iter().find(|member| member.pending().is_some()) else {
        return Ok(());
    };
    let instance = moving.instance().clone();
    for member in &mut *members {
        if member.pending().is_some() {
            // A request that was made under the old domain is not served under the new one; nobody
            // answers it after this, and new ones wait for the group's lock.
            member.answer_outstanding(slot, PageResponse::Invalid);
        }
    }
    let result = instance.ops.commit(members, slot);
    let mut lost = None;
    for member in members {
        if member.pending().is_some() {
            log::error!(
                "{}: the hardware did not confirm a change of domain",
                member.culprit()
            );
            lost.get_or_insert_with(|| member.culprit());
        }
        settle(shared, member);
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

/// Reserves what one member needs in its new domain: everything that can fail.
fn prepare<L: RawLock>(shared: &Shared<L>, member: &mut Member) -> Result {
    let Some(new) = member.pending().cloned() else {
        return Ok(());
    };
    let slot = member.slot();
    member.reserve_slot();
    shared.hold_direct(&new, member, slot)?;
    if let Err(error) = member.hold_faults(&new) {
        shared.drop_direct(&new, member, slot);
        return Err(error);
    }
    let instance = member.instance().clone();
    let result = instance.ops.prepare(member, slot);
    if result.is_err() {
        member.drop_faults(&new);
        shared.drop_direct(&new, member, slot);
    }
    result
}

/// Undoes [`prepare`].
fn cancel<L: RawLock>(shared: &Shared<L>, member: &mut Member) {
    let Some(new) = member.pending().cloned() else {
        return;
    };
    let (instance, slot) = (member.instance().clone(), member.slot());
    instance.ops.cancel(member, slot);
    member.drop_faults(&new);
    shared.drop_direct(&new, member, slot);
}

/// Ends a commit for one member: lets go of what it has left.
fn settle<L: RawLock>(shared: &Shared<L>, member: &mut Member) {
    let slot = member.slot();
    let (left, surplus) = member.settle();
    if let Some(surplus) = surplus {
        member.drop_faults(&surplus);
        // Held twice, it keeps one hold. Otherwise the hardware may still be using it, and what
        // firmware pinned stays mapped there for good, as the domain does.
        if member
            .attached()
            .domains()
            .any(|on| Arc::ptr_eq(on, &surplus))
        {
            shared.drop_direct(&surplus, member, slot);
        }
    }
    let Some(left) = left else {
        return;
    };
    member.partial.retain(|request| request.slot() != slot);
    for old in left.domains() {
        shared.drop_direct(old, member, slot);
        member.drop_faults(old);
    }
    if let Slot::Pasid(pasid) = slot {
        let blocked = member.instance().fixed.blocked.clone();
        if member
            .attached_pasid(pasid)
            .is_some_and(|on| on.is(&blocked))
        {
            member.forget_pasid(pasid);
        }
    } else if let Some(on) = member.attached().domain().cloned() {
        member.check_faults(&on);
    }
}
