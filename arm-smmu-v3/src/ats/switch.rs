//! ATS around a change of entries (3.9.2).
//!
//! What is on and may not stay on goes first: the devices are switched off, invalidate everything,
//! and a `CMD_SYNC` completes; only then do entries change. What is to be on comes last: entries
//! allow it, and all that is cached of what they were has ended, in the SMMU and then at the device;
//! then it is switched on. A device that has ATS on before and after stays on: what it translated by
//! its old domain ends behind the last round.
//!
//! A device that does not answer is a matter of its own (4.7.3): the SMMU works, and all others
//! move. What its cache holds passes only as long as its entries allow ATS; so it is never left with
//! entries that do.

use core::slice;

use iommu_core::{Error, ErrorKind, Member, Platform, Result};

use super::Ats;
use crate::smmu::Inner;
use crate::spec::commands::Command;
use crate::write::{DeviceState, moving, step, stored};

/// What is known of a moving member's ATS, if it has that.
fn of<P: Platform>(member: &mut Member) -> Option<&mut Ats<P::IrqLock>> {
    let state = member.state_mut::<DeviceState<P>>()?;
    state.target.as_ref()?;
    state.ats.as_deref_mut()
}

/// What is known of the ATS of all members that move and have that.
fn all<P: Platform>(members: &[Member]) -> impl Iterator<Item = &Ats<P::IrqLock>> {
    moving::<P>(members).filter_map(|state| state.ats.as_deref())
}

/// Whether any member that moves has ATS.
pub(crate) fn any_has<P: Platform>(members: &[Member]) -> bool {
    all::<P>(members).next().is_some()
}

/// `CMD_SYNC`, and `CMD_ATC_INV` of everything for all members that end with ATS on: what belongs
/// behind the last change of their entries.
///
/// The `CMD_SYNC` is never left out: it completes the `CMD_TLBI_*` of those who looked for devices
/// of the new domain before these were there.
fn flush<P: Platform>(members: &[Member]) -> impl Iterator<Item = Command> {
    let wanted = all::<P>(members).filter(|ats| ats.is_wanted());
    let flushes = wanted.flat_map(Ats::flush);
    [Command::sync()].into_iter().chain(flushes)
}

impl<P: Platform> Inner<P> {
    /// Writes the entries of members of which some have ATS, which is switched off before that and on
    /// afterwards, as needed.
    ///
    /// # Errors
    ///
    /// Those of the command queue. A device that does not answer ends without ATS, or is
    /// [lost](Ats::lose), and all others move.
    pub(crate) fn write_with_ats(&self, members: &mut [Member], retag: Option<u16>) -> Result {
        let rules = self.rules(retag.is_some());
        let mut rounds = self.plan_all(members, rules)?;
        if self.end_ats(members)? {
            rounds = self.plan_all(members, rules)?;
        }
        let flushes = all::<P>(members).any(Ats::is_wanted);
        let joins = all::<P>(members).any(Ats::joins);
        let rounds = rounds.max(usize::from(joins));
        let mut silent = None;
        for round in 0..rounds {
            let count = self.store_round(members, round);
            let entries = stored::<P>(members, count, retag);
            let result = if flushes && round + 1 == rounds {
                self.ask(entries.chain(flush::<P>(members)))
            } else {
                self.invalidate(entries).map(|()| None)
            };
            silent = result.map_err(|error| error.in_step(step(round, rounds)))?;
        }
        if silent.is_some() {
            self.ask_each(members)?;
        }
        self.begin_ats(members)
    }

    /// Asks devices to invalidate, among other things. Returns why, if one did not answer: then what
    /// any other was asked may be lost with that, and all the rest is done (4.7.3).
    fn ask(&self, commands: impl IntoIterator<Item = Command>) -> Result<Option<Error>> {
        match self.invalidate(commands) {
            Ok(()) => Ok(None),
            Err(error) if error.kind() == ErrorKind::DeviceTimedOut => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    /// Switches off what may not have ATS on while its entries change, or afterwards, and has it
    /// invalidate everything: one wait for all, none where nobody has to. The plans are made; returns
    /// whether they have to be made again.
    fn end_ats(&self, members: &mut [Member]) -> Result<bool> {
        let (mut changed, mut any) = (false, false);
        for member in &mut *members {
            let breaks = member.state().is_some_and(DeviceState::<P>::breaks);
            if let Some(ats) = of::<P>(member) {
                changed |= ats.leave(breaks);
                any |= ats.flushes();
            }
        }
        if !any {
            return Ok(changed);
        }
        let leaving = all::<P>(members).filter(|ats| ats.flushes());
        let all_answered = self.ask(leaving.flat_map(Ats::flush))?.is_none();
        for member in members {
            let Some(ats) = of::<P>(member).filter(|ats| ats.flushes()) else {
                continue;
            };
            let mut silent = None;
            if !all_answered {
                silent = self.ask(ats.flush())?;
            }
            changed |= ats.answered(silent.is_none());
            if let Some(error) = silent {
                log::error!("{}", error.of(member.culprit()));
            }
        }
        Ok(changed)
    }

    /// The entries are in force, but not everybody answered who ends with ATS on: asks each by
    /// itself.
    fn ask_each(&self, members: &mut [Member]) -> Result {
        for member in members {
            if of::<P>(member).is_none_or(|ats| !ats.is_wanted()) {
                continue;
            }
            if let Some(error) = self.ask(flush::<P>(slice::from_ref(member)))? {
                self.silence(member, error)?;
            }
        }
        Ok(())
    }

    /// The device does not answer, and its entries allow ATS. If it got that only now, it does
    /// without; if not, it has translations of the domain that it leaves, and is [lost](Ats::lose).
    fn silence(&self, member: &mut Member, error: Error) -> Result {
        let error = error.of(member.culprit());
        log::error!("{error}");
        let Some(ats) = of::<P>(member) else {
            return Ok(());
        };
        ats.distrust();
        if ats.joins() {
            return self.without_ats(member);
        }
        ats.stop();
        self.cut_off(member)?;
        if let Some(ats) = of::<P>(member) {
            ats.lose(error);
        }
        Ok(())
    }

    /// Switches on all members that end with ATS on. One that cannot be ends without.
    fn begin_ats(&self, members: &mut [Member]) -> Result {
        for member in members {
            let Some(ats) = of::<P>(member).filter(|ats| ats.joins()) else {
                continue;
            };
            if let Err(error) = self.endpoints.switch_on(ats.endpoint()) {
                ats.endpoint().switch_off();
                ats.distrust();
                log::warn!("{}: goes on without ATS: {error}", member.culprit());
                self.without_ats(member)?;
            }
        }
        Ok(())
    }

    /// Makes the entries of a member what they are to be without ATS.
    fn without_ats(&self, member: &mut Member) -> Result {
        if let Some(ats) = of::<P>(member) {
            ats.renounce();
        }
        let alone = slice::from_mut(member);
        let rounds = self.plan_all(alone, self.rules(false))?;
        self.write_rounds(alone, rounds, None)
    }

    /// Switches all devices off, for good: before translation is turned off (3.9.1).
    pub(crate) fn end_all_ats(&self) {
        self.endpoints.close(|commands| self.invalidate(commands));
    }
}
