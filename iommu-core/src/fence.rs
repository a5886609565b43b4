//! The reset fence: a device that is being reset must not be translated for, nor asked anything.

use core::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::group::{Group, State};
use crate::iommu::{DeviceId, Shared};
use crate::pasid::{block_all_pasids, restore_pasids};
use crate::platform::{RawLock, SpinLock};
use crate::transaction::{Failure, Outcome, attach, park};

/// Keeps a device parked while it is being reset. Fences nest: the device comes back when the last
/// one ends, to what its group is on then.
///
/// While it stands, attaches to the device's group are [`ErrorKind::Busy`], but for those that end
/// something; mappings are not affected.
#[must_use = "dropping it ends the fence"]
pub struct ResetFence<L: RawLock = SpinLock> {
    group: Group<L>,
    id: DeviceId,
    /// A reset had failed when it was raised; this one may make up for it.
    heals: bool,
    failed: bool,
    ended: bool,
}

/// The fence of a device whose reset failed never comes down by itself.
const STUCK: u32 = 1 << 31;

impl<L: RawLock> ResetFence<L> {
    /// Parks the device: PASIDs go to the blocked domain first, then the rest to where it rests,
    /// then the device's own translation cache is switched off. That ends the deferral of an
    /// attach. Where a fence stands already, nothing of it is done again.
    pub(crate) fn raise(group: &Group<L>, id: DeviceId) -> Result<Self> {
        let state = &mut *group.state.lock();
        let Some(at) = state.members.iter().position(|member| member.id() == id) else {
            return Err(Error::new(
                ErrorKind::Internal,
                "a device is not in its group",
            ));
        };
        if state.members[at].fences == 0 {
            let shared = &group.shared;
            let parked = block_all_pasids(shared, &mut state.members, at)
                .and_then(|()| park(shared, &mut state.members, |member| member.id() == id));
            if let Err(failure) = parked {
                if restore_pasids(shared, state, at).is_err() {
                    log::error!("PASIDs of a device that could not be parked stay blocked");
                }
                return Err(failure.into_error());
            }
            let member = &state.members[at];
            if member.control().is_reachable()
                && let Err(error) = member.control().set_ats(false)
            {
                log::warn!(
                    "{}: its ATS cannot be switched off: {error}",
                    member.culprit()
                );
            }
        }
        let fences = &mut state.members[at].fences;
        let heals = *fences & STUCK != 0;
        *fences += 1;
        Ok(Self {
            group: group.clone(),
            id,
            heals,
            failed: false,
            ended: false,
        })
    }

    /// Says that the reset failed: the device stays parked, also when the last fence ends, until
    /// another fence is raised and ends well.
    pub fn reset_failed(&mut self) {
        self.failed = true;
    }

    /// Ends the fence. If it is the last, the device and its PASIDs go to what its group is on now.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// As [`Group::attach`]: the device then stays parked, or is uncertain.
    pub fn end(mut self) -> Result {
        self.lower()
    }

    fn lower(&mut self) -> Result {
        self.ended = true;
        let state = &mut *self.group.state.lock();
        let at = state
            .members
            .iter()
            .position(|member| member.id() == self.id);
        // The device may have been released meanwhile.
        let Some(at) = at else { return Ok(()) };
        let fences = &mut state.members[at].fences;
        if self.failed {
            *fences |= STUCK;
        } else if self.heals {
            *fences &= !STUCK;
        }
        *fences -= 1;
        if *fences > 0 {
            return Ok(());
        }
        restore(&self.group.shared, state, at).map_err(Failure::into_error)
    }
}

/// Puts one member on what its group is on.
fn restore<L: RawLock>(shared: &Shared<L>, state: &mut State, at: usize) -> Outcome {
    let id = state.members[at].id();
    if let Some(domain) = state.domain.clone() {
        let default = state.default.clone();
        attach(
            shared,
            &mut state.members,
            &domain,
            default.as_ref(),
            |member| member.id() == id,
        )?;
    }
    restore_pasids(shared, state, at)
}

impl<L: RawLock> Drop for ResetFence<L> {
    fn drop(&mut self) {
        if !self.ended
            && let Err(error) = self.lower()
        {
            log::error!("a device stays parked after its reset: {error}");
        }
    }
}

impl<L: RawLock> fmt::Debug for ResetFence<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResetFence")
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}
