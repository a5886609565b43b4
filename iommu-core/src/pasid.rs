//! Attachments of PASIDs: one domain for each PASID of a group.

use alloc::sync::Arc;

use crate::addr::Pasid;
use crate::domain::DomainRef;
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::group::{Group, State};
use crate::iommu::Shared;
use crate::member::Member;
use crate::ops::Slot;
use crate::platform::RawLock;
use crate::transaction::{Failure, Outcome, attach, attach_pasid};

impl<L: RawLock> Group<L> {
    /// Attaches the traffic with `pasid` of every device of the group that has PASIDs to `domain`:
    /// all of them or none. In place of what was attached to the PASID before, if anything was.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] for PASID 0, one that a device does not have, or a domain of
    /// another IOMMU; [`ErrorKind::Unsupported`] where no device of the group has PASIDs;
    /// [`ErrorKind::AlreadyExists`] where every device's is on `domain` already;
    /// [`ErrorKind::NotPermitted`] where somebody claimed the group; [`ErrorKind::Busy`] while a
    /// device is being reset; otherwise as [`attach`](Self::attach). Where it fails, every PASID is
    /// where it was, but for failures of the hardware itself.
    pub fn attach_pasid(&self, pasid: Pasid, domain: &DomainRef) -> Result {
        let state = &mut *self.state.lock();
        state.check_not_claimed()?;
        state.attach_pasid(&self.shared, pasid, domain)
    }

    /// Ends the attachment of `pasid`: its traffic is refused again.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] where nothing is attached; [`ErrorKind::NotPermitted`] where somebody
    /// claimed the group; otherwise failures of the hardware itself: it can be tried again.
    pub fn detach_pasid(&self, pasid: Pasid) -> Result {
        let state = &mut *self.state.lock();
        state.check_not_claimed()?;
        state.detach_pasid(&self.shared, pasid)
    }

    /// The domain that the traffic with `pasid` is meant to be on.
    #[must_use]
    pub fn pasid_domain(&self, pasid: Pasid) -> Option<DomainRef> {
        let state = self.state.lock();
        state
            .pasids
            .iter()
            .find(|(at, _)| *at == pasid)
            .map(|(_, domain)| domain.clone())
    }
}

impl State {
    pub(crate) fn attach_pasid<L: RawLock>(
        &mut self,
        shared: &Shared<L>,
        pasid: Pasid,
        domain: &DomainRef,
    ) -> Result {
        let wrong =
            |reason| Err(Error::new(ErrorKind::InvalidArgument, reason).of(Culprit::Pasid(pasid)));
        if pasid.get() == 0 {
            return wrong("PASID 0 stands for traffic without PASID");
        }
        let mut able = self
            .members
            .iter()
            .filter(|member| member.max_pasids > 0)
            .peekable();
        if able.peek().is_none() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "no device of the group has PASIDs",
            ));
        }
        if able.any(|member| pasid.get() > member.max_pasids) {
            return wrong("a device of the group does not have this PASID");
        }
        self.check_fences()?;
        let at = self.pasids.iter().position(|(at, _)| *at == pasid);
        if Arc::ptr_eq(domain, &self.instance.fixed.blocked) {
            return if at.is_some() {
                self.detach_pasid(shared, pasid)
            } else {
                Ok(())
            };
        }
        let mut able = self.members.iter().filter(|member| member.max_pasids > 0);
        let on = |member: &Member| member.attached_pasid(pasid).is_some_and(|on| on.is(domain));
        if able.all(on) {
            return Err(
                Error::new(ErrorKind::AlreadyExists, "the PASID is on this domain")
                    .of(Culprit::Pasid(pasid)),
            );
        }
        // A PASID is attached beside what the kernel knows, not beside what firmware left.
        let default = |member: &Member| member.is_deferred() && member.max_pasids > 0;
        if let Some(on) = self.domain.clone() {
            attach(shared, &mut self.members, &on, None, default).map_err(Failure::into_error)?;
        } else if self.members.iter().any(default) {
            return Err(Error::new(ErrorKind::Busy, "a device's attach is deferred"));
        }
        // Published after success, without an allocation that could fail then.
        self.pasids.reserve(1);
        let target = |member: &Member| (member.max_pasids > 0).then(|| domain.clone());
        let result = attach_pasid(shared, &mut self.members, Slot::Pasid(pasid), target);
        if !matches!(&result, Err(Failure::Prepare(_))) {
            match at {
                Some(at) => self.pasids[at].1 = domain.clone(),
                None => self.pasids.push((pasid, domain.clone())),
            }
        }
        result.map_err(Failure::into_error)
    }

    pub(crate) fn detach_pasid<L: RawLock>(&mut self, shared: &Shared<L>, pasid: Pasid) -> Result {
        let at = self.pasids.iter().position(|(at, _)| *at == pasid);
        let at = at.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "nothing is attached").of(Culprit::Pasid(pasid))
        })?;
        block_pasid(shared, &mut self.members, pasid).map_err(Failure::into_error)?;
        self.pasids.swap_remove(at);
        Ok(())
    }

    /// Ends the attachments of all PASIDs; the first failure does not stop the others.
    pub(crate) fn detach_all_pasids<L: RawLock>(&mut self, shared: &Shared<L>) -> Result {
        let mut result = Ok(());
        for at in (0..self.pasids.len()).rev() {
            let pasid = self.pasids[at].0;
            result = result.and(self.detach_pasid(shared, pasid));
        }
        result
    }
}

/// Ends the attachment of `pasid` at those of `members` that have one.
fn block_pasid<L: RawLock>(shared: &Shared<L>, members: &mut [Member], pasid: Pasid) -> Outcome {
    block_pasid_of(shared, members, pasid, |_| true)
}

fn block_pasid_of<L: RawLock>(
    shared: &Shared<L>,
    members: &mut [Member],
    pasid: Pasid,
    chosen: impl Fn(&Member) -> bool,
) -> Outcome {
    attach_pasid(shared, members, Slot::Pasid(pasid), |member| {
        let attached = chosen(member) && member.attached_pasid(pasid).is_some();
        attached.then(|| member.instance().fixed.blocked.clone())
    })
}

/// Ends the attachments of all PASIDs of the member `at`; the first failure does not stop the
/// others.
pub(crate) fn block_all_pasids<L: RawLock>(
    shared: &Shared<L>,
    members: &mut [Member],
    at: usize,
) -> Outcome {
    let id = members[at].id();
    let mut result = Ok(());
    for index in (0..members[at].pasids().count()).rev() {
        let Some(pasid) = members[at].pasids().nth(index) else {
            continue;
        };
        let blocked = block_pasid_of(shared, members, pasid, |member| member.id() == id);
        result = result.and(blocked);
    }
    result
}

/// Puts the PASIDs of the member `at` on what they are meant to be on; the first failure does not
/// stop the others.
pub(crate) fn restore_pasids<L: RawLock>(
    shared: &Shared<L>,
    state: &mut State,
    at: usize,
) -> Outcome {
    let id = state.members[at].id();
    let mut result = Ok(());
    for (pasid, domain) in &state.pasids {
        let restored = attach_pasid(shared, &mut state.members, Slot::Pasid(*pasid), |member| {
            let chosen = member.id() == id && member.max_pasids > 0;
            chosen.then(|| domain.clone())
        });
        result = result.and(restored);
    }
    result
}
