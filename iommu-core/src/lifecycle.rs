//! How devices come into a group and leave it.

use alloc::sync::Arc;
use core::sync::atomic::AtomicBool;

use crate::addr::{AddrRange, Pasid};
use crate::attached::Attached;
use crate::device::{Device, DeviceInfo, Rest};
use crate::domain::{DomainKind, DomainRef};
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::fault::PageResponse;
use crate::group::{Locked, Owner, State, quarantine};
use crate::iommu::{DefaultDomain, DeviceId, Instance, Shared};
use crate::member::Member;
use crate::ops::Slot;
use crate::pasid::{block_all_pasids, restore_pasids};
use crate::platform::{DeviceControl, RawLock};
use crate::reserved::ReservedRegion;
use crate::transaction::{Failure, Outcome, attach, park};

impl<L: RawLock> Shared<L> {
    /// Probes the device and attaches it to what its group is on. Returns its reserved regions, and
    /// what says whether its attach is deferred.
    pub(crate) fn join(
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
        if let Some(space) = &state.space {
            space.reserve(&member.reserved())?;
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
