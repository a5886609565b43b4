//! Who uses a group: drivers that share its default domain, or one owner alone.

use core::fmt;

use crate::addr::Pasid;
use crate::domain::DomainRef;
use crate::error::{Error, ErrorKind, Result};
use crate::group::{Group, Owner};
use crate::platform::{RawLock, SpinLock};

impl<L: RawLock> Group<L> {
    /// Uses the group through its default domain, together with other drivers, until the result is
    /// dropped.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WouldBlock`] where the group has no default domain;
    /// [`ErrorKind::NotPermitted`] where somebody claimed it; [`ErrorKind::Busy`] where it is on
    /// another domain or has PASIDs attached.
    pub fn share(&self) -> Result<Share<L>> {
        let state = &mut *self.state.lock();
        let users = match state.owner {
            Owner::Claimed => {
                return Err(Error::new(
                    ErrorKind::NotPermitted,
                    "somebody claimed the group",
                ));
            }
            Owner::Nobody => 0,
            Owner::Drivers(users) => users,
        };
        if state.default.is_none() {
            return Err(Error::new(
                ErrorKind::WouldBlock,
                "the group has no default domain",
            ));
        }
        if !state.is_on(state.default.as_ref()) || !state.pasids.is_empty() {
            return Err(Error::new(
                ErrorKind::Busy,
                "the group is not on its default domain",
            ));
        }
        state.owner = Owner::Drivers(users + 1);
        Ok(Share {
            group: self.clone(),
        })
    }

    /// Takes the group for oneself, to hand its devices to somebody who is not trusted: a guest, a
    /// program. The group is put on the blocked domain; from here on only the claim attaches.
    ///
    /// A group with a device that firmware pinned cannot be claimed: blocking would cut its 1:1
    /// mappings, and identity would hand all memory to the owner's device.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotPermitted`] where somebody else uses the group; [`ErrorKind::Busy`] where it
    /// is not on its default domain, has PASIDs attached, or is being reset; otherwise as
    /// [`attach`](Self::attach) of the blocked domain. Where it fails, nothing is claimed.
    pub fn claim(&self) -> Result<Claim<L>> {
        let state = &mut *self.state.lock();
        if !matches!(state.owner, Owner::Nobody | Owner::Drivers(0)) {
            return Err(Error::new(
                ErrorKind::NotPermitted,
                "somebody uses the group",
            ));
        }
        if !state.is_on(state.default.as_ref()) || !state.pasids.is_empty() {
            return Err(Error::new(
                ErrorKind::Busy,
                "the group is not on its default domain",
            ));
        }
        state.check_fences()?;
        let blocked = state.instance.fixed.blocked.clone();
        state.attach(&self.shared, &blocked)?;
        state.owner = Owner::Claimed;
        Ok(Claim {
            group: self.clone(),
            ended: false,
        })
    }
}

/// A driver's use of a group's default domain; see [`Group::share`].
#[must_use = "dropping it ends the use"]
pub struct Share<L: RawLock = SpinLock> {
    group: Group<L>,
}

impl<L: RawLock> Drop for Share<L> {
    fn drop(&mut self) {
        let state = &mut *self.group.state.lock();
        if let Owner::Drivers(users) = state.owner {
            state.owner = match users.saturating_sub(1) {
                0 => Owner::Nobody,
                users => Owner::Drivers(users),
            };
        }
    }
}

impl<L: RawLock> fmt::Debug for Share<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Share").field(&self.group).finish()
    }
}

/// Sole use of a group; see [`Group::claim`]. Dropping it ends the claim.
#[must_use = "dropping it ends the claim"]
pub struct Claim<L: RawLock = SpinLock> {
    group: Group<L>,
    ended: bool,
}

impl<L: RawLock> Claim<L> {
    /// Whether the hardware keeps the interrupt messages of different devices apart. Where it does
    /// not, whoever drives this group's devices can raise interrupts of others.
    #[must_use]
    pub fn isolates_msis(&self) -> bool {
        self.group.state.lock().instance.ops.isolates_msis()
    }

    /// [`Group::attach`] by the owner.
    ///
    /// # Errors
    ///
    /// As there, but for the claim.
    pub fn attach(&self, domain: &DomainRef) -> Result {
        let state = &mut *self.group.state.lock();
        state.check_fences()?;
        state.attach(&self.group.shared, domain)
    }

    /// Puts the group back on the blocked domain. A device that is being reset follows when that
    /// ends.
    ///
    /// # Errors
    ///
    /// Failures of the hardware itself, as in [`Group::attach`].
    pub fn detach(&self) -> Result {
        let state = &mut *self.group.state.lock();
        let blocked = state.instance.fixed.blocked.clone();
        state.attach(&self.group.shared, &blocked)
    }

    /// [`Group::attach_pasid`] by the owner.
    ///
    /// # Errors
    ///
    /// As there, but for the claim.
    pub fn attach_pasid(&self, pasid: Pasid, domain: &DomainRef) -> Result {
        let state = &mut *self.group.state.lock();
        state.attach_pasid(&self.group.shared, pasid, domain)
    }

    /// [`Group::detach_pasid`] by the owner.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn detach_pasid(&self, pasid: Pasid) -> Result {
        let state = &mut *self.group.state.lock();
        state.detach_pasid(&self.group.shared, pasid)
    }

    /// Ends the claim: PASIDs are detached, and the group goes to its default domain or, without
    /// one, to where each device rests. Where a device cannot be prepared for that, all of them go
    /// to the blocked domain; [`Group::detach`] tries again.
    ///
    /// # Errors
    ///
    /// As [`Group::attach`]. The claim has ended all the same.
    pub fn release(mut self) -> Result {
        self.end()
    }

    fn end(&mut self) -> Result {
        self.ended = true;
        let state = &mut *self.group.state.lock();
        state.owner = Owner::Nobody;
        let shared = &self.group.shared;
        let pasids = state.detach_all_pasids(shared);
        let home = state.attach_default(shared);
        if home.is_err() && !state.is_on(state.default.as_ref()) {
            // Home may be out of reach; what the owner gave is not where they stay. Blocking needs
            // nothing that could be missing.
            let blocked = state.instance.fixed.blocked.clone();
            state.attach(shared, &blocked)?;
        }
        home.and(pasids)
    }
}

impl<L: RawLock> Drop for Claim<L> {
    fn drop(&mut self) {
        if !self.ended
            && let Err(error) = self.end()
        {
            log::error!("the end of a claim failed: {error}");
        }
    }
}

impl<L: RawLock> fmt::Debug for Claim<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Claim").field(&self.group).finish()
    }
}
