//! Changing stream table entries that the hardware may be reading: many at once, in as few waits as
//! their plans have rounds.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::iter;

use iommu_core::entry::{Device, Plan, Rules, Step, Store, Target, WriteError, write};
use iommu_core::{DmaMemory, Error, ErrorKind, Member, Platform, Result, StreamId};

use crate::ats::{AtcSet, Ats, any_has};
use crate::command_queue::Unsettled;
use crate::smmu::Inner;
use crate::spec::commands::Command;
use crate::spec::ste::{Ste, WORDS};
use crate::stream_table::{OpenEntry, StreamEntry};

/// What a stream table entry is to become.
pub(crate) type SteTarget = Target<Ste, WORDS>;

/// What the driver knows of a device.
pub(crate) struct DeviceState<P: Platform> {
    /// What the pending commit makes of the entries, unless it ends with ATS on.
    pub(crate) target: Option<SteTarget>,
    /// All that the device presents, sorted.
    pub(crate) streams: Vec<Stream<P::Memory>>,
    /// Where both the device and the SMMU have ATS.
    pub(crate) ats: Option<Box<Ats<P::IrqLock>>>,
}

/// A stream of a device.
pub(crate) struct Stream<M: DmaMemory> {
    entry: StreamEntry<M>,
    /// The entry as it is in memory, while it is being written.
    live: [u64; WORDS],
    /// `None` where it is not being written.
    plan: Option<Plan>,
    /// Whether the round under way has stored something.
    stored: bool,
}

impl<M: DmaMemory> Stream<M> {
    pub(crate) fn new(entry: StreamEntry<M>) -> Self {
        Self {
            entry,
            live: [0; WORDS],
            plan: None,
            stored: false,
        }
    }

    /// Finds the rounds that lead from what the entry is now to `target`.
    fn plan(&mut self, target: &SteTarget, rules: Rules) -> Result<usize> {
        self.live = self.entry.read();
        let plan = Plan::new(&self.live, target, rules)?;
        self.plan = Some(plan);
        Ok(plan.len())
    }

    /// Stores the round of this number; returns whether there is one.
    #[inline]
    fn store(&mut self, number: usize, target: &SteTarget) -> bool {
        let round = self.plan.and_then(|plan| plan.round(number));
        self.stored = round.is_some();
        if let Some(round) = round {
            let entry = &self.entry;
            round.apply(&mut self.live, target, |store| entry.store(store));
        }
        self.stored
    }
}

/// The entry of one stream, that is written by itself.
struct Alone<'a, P: Platform> {
    smmu: &'a Inner<P>,
    stream: StreamId,
    entry: OpenEntry<'a, P::Memory>,
    /// Why the last wait failed. Kept here, so that what passes through the writer is small.
    error: Option<Error>,
}

impl<P: Platform> Device for Alone<'_, P> {
    type Error = ();

    #[inline(always)]
    fn store(&mut self, store: Store) {
        self.entry.store(store);
    }

    #[inline(always)]
    fn confirm(&mut self) -> core::result::Result<(), ()> {
        self.smmu.hardware.platform.memory().write_barrier();
        let commands = iter::once(Command::cfgi_ste(self.stream, true));
        self.smmu
            .invalidate(commands)
            .map_err(|error| self.error = Some(error))
    }
}

impl<P: Platform> Inner<P> {
    #[inline]
    pub(crate) fn rules(&self, retag: bool) -> Rules {
        Rules {
            atomicity: self.hardware.platform.memory().atomicity(),
            retag,
        }
    }

    /// Notes where the member is to go: to `target`, or with ATS where `ats` offers that and the
    /// device has it. Changes nothing in memory.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where one of its entries is not understood,
    /// [`ErrorKind::OutOfMemory`].
    pub(crate) fn prepare(
        &self,
        member: &mut Member,
        target: &SteTarget,
        ats: Option<WithAts<'_, P>>,
    ) -> Result {
        let Some((state, streams)) = member.state_and_streams::<DeviceState<P>>() else {
            return Err(Error::new(
                ErrorKind::Internal,
                "the device's state is not this driver's",
            ));
        };
        for stream in state.presenting(streams) {
            target.check(&stream.entry.read())?;
        }
        if let (Some(own), Some(WithAts { target, set })) = (&mut state.ats, ats) {
            own.prepare(target, set, streams)?;
        }
        state.target = Some(*target);
        Ok(())
    }

    /// Undoes [`prepare`](Self::prepare).
    pub(crate) fn cancel(&self, member: &mut Member) {
        if let Some(state) = member.state_mut::<DeviceState<P>>() {
            state.target = None;
            if let Some(ats) = &mut state.ats {
                ats.renounce();
            }
        }
    }

    /// Ends what [`prepare`](Self::prepare) began, after a commit that the SMMU confirmed or did
    /// not. Returns whether the member has moved.
    ///
    /// # Errors
    ///
    /// Its device alone failed; it has not.
    pub(crate) fn finish(&self, member: &mut Member, confirmed: bool) -> Result<bool> {
        let Some(state) = member.state_mut::<DeviceState<P>>() else {
            return Ok(false);
        };
        if state.target.take().is_none() {
            return Ok(false);
        }
        match &mut state.ats {
            None => Ok(confirmed),
            Some(ats) => ats.finish(confirmed),
        }
    }

    /// Makes the entries of all prepared members what they are to be, and waits until the hardware
    /// uses nothing else.
    ///
    /// Round after round, all entries are stored, all are invalidated, and that is waited for once.
    /// With `retag`, what is cached under that VMID is invalidated after each round too.
    ///
    /// # Errors
    ///
    /// Those of the command queue, with the step at which it failed. The hardware may go on with
    /// what it has cached, of any round so far; what it reads from here on aborts.
    pub(crate) fn write_entries(&self, members: &mut [Member], retag: Option<u16>) -> Result {
        let result = if let ([member], None) = (&*members, retag)
            && let Some(DeviceState {
                target: Some(target),
                streams,
                ats: None,
            }) = member.state::<DeviceState<P>>()
            && let [stream] = &**streams
            && member.streams().len() == 1
        {
            self.write_entry(&stream.entry, target)
        } else {
            self.write_together(members, retag)
        };
        if result.is_err() {
            let moving = members.iter_mut().filter_map(moving_mut);
            self.refuse(moving);
        }
        result
    }

    /// One entry alone.
    #[inline]
    pub(crate) fn write_entry(
        &self,
        entry: &StreamEntry<P::Memory>,
        target: &Target<Ste, WORDS>,
    ) -> Result {
        self.settle()?;
        let mut alone = Alone {
            smmu: self,
            stream: entry.id(),
            entry: entry.open(),
            error: None,
        };
        let mut live = alone.entry.read();
        match write(&mut live, target, self.rules(false), &mut alone) {
            Ok(()) => Ok(()),
            Err(WriteError::Entry(error)) => Err(error.into()),
            Err(WriteError::Unconfirmed(step, ())) => {
                let reason = "an entry was not confirmed";
                let unknown = Error::new(ErrorKind::IommuTimedOut, reason);
                Err(alone.error.unwrap_or(unknown).in_step(step))
            }
        }
    }

    /// All entries together.
    fn write_together(&self, members: &mut [Member], retag: Option<u16>) -> Result {
        self.settle()?;
        if any_has::<P>(members) {
            return self.write_with_ats(members, retag);
        }
        let rounds = self.plan_all(members, self.rules(retag.is_some()))?;
        self.write_rounds(members, rounds, retag)
    }

    /// Plans all entries of members that move; returns the number of rounds.
    pub(crate) fn plan_all(&self, members: &mut [Member], rules: Rules) -> Result<usize> {
        let mut rounds = 0;
        for member in members {
            let Some((state, moved)) = member.state_and_streams::<DeviceState<P>>() else {
                continue;
            };
            let Some((target, streams)) = state.target_and_streams() else {
                continue;
            };
            for stream in streams {
                stream.plan = None;
                if moved.binary_search(&stream.entry.id()).is_ok() {
                    rounds = rounds.max(stream.plan(target, rules)?);
                }
            }
        }
        Ok(rounds)
    }

    /// Carries out the plans.
    pub(crate) fn write_rounds(
        &self,
        members: &mut [Member],
        rounds: usize,
        retag: Option<u16>,
    ) -> Result {
        for round in 0..rounds {
            let count = self.store_round(members, round);
            let result = self.invalidate(stored::<P>(members, count, retag));
            result.map_err(|error| error.in_step(step(round, rounds)))?;
        }
        Ok(())
    }

    /// Stores one round of all entries; returns how many have one of this number.
    pub(crate) fn store_round(&self, members: &mut [Member], number: usize) -> usize {
        let mut count = 0;
        let states = members.iter_mut().filter_map(Member::state_mut);
        let moving = states.filter_map(DeviceState::<P>::target_and_streams);
        for (target, streams) in moving {
            for stream in streams {
                count += usize::from(stream.store(number, target));
            }
        }
        self.hardware.platform.memory().write_barrier();
        count
    }

    /// Makes what the hardware reads of the entries from here on abort, switches the devices' ATS
    /// off, and waits for nothing.
    pub(crate) fn refuse<'a>(
        &self,
        states: impl Iterator<Item = (&'a mut DeviceState<P>, &'a [StreamId])>,
    ) {
        for (state, streams) in states {
            if let Some(ats) = &state.ats {
                ats.stop();
            }
            self.abort(state, streams);
            if let Some(ats) = &mut state.ats {
                ats.refuse(streams);
            }
        }
        self.commands.doubt();
    }

    /// Makes the entries of a member abort, and waits until the hardware uses nothing else.
    ///
    /// # Errors
    ///
    /// Those of the command queue.
    pub(crate) fn cut_off(&self, member: &mut Member) -> Result {
        let Some((state, streams)) = member.state_and_streams::<DeviceState<P>>() else {
            return Ok(());
        };
        self.abort(state, streams);
        let entries = streams
            .iter()
            .map(|stream| Command::cfgi_ste(*stream, true));
        self.invalidate(entries)
    }

    /// Makes what the hardware reads of the entries abort.
    fn abort(&self, state: &mut DeviceState<P>, streams: &[StreamId]) {
        let rules = self.rules(false);
        for stream in state.presenting(streams) {
            let mut live = stream.entry.read();
            let plan = Plan::new(&live, &self.abort, rules);
            for round in plan.into_iter().flat_map(Plan::rounds) {
                round.apply(&mut live, &self.abort, |store| stream.entry.store(store));
            }
        }
        self.hardware.platform.memory().write_barrier();
    }

    /// Makes sure that the hardware uses no entry that is not in memory any more.
    #[inline]
    fn settle(&self) -> Result {
        match self.commands.unsettled() {
            None => Ok(()),
            Some(unsettled) => self.settle_what(unsettled),
        }
    }

    #[cold]
    #[inline(never)]
    fn settle_what(&self, unsettled: Unsettled) -> Result {
        if !self.commands.catch_up(&self.hardware, unsettled)? {
            self.invalidate([Command::cfgi_all()])?;
            self.commands.settled(unsettled);
        }
        Ok(())
    }
}

impl<P: Platform> DeviceState<P> {
    /// Those of its streams that are among `moved`.
    fn presenting<'a>(
        &'a mut self,
        moved: &'a [StreamId],
    ) -> impl Iterator<Item = &'a mut Stream<P::Memory>> {
        let all = self.streams.iter_mut();
        all.filter(|stream| moved.binary_search(&stream.entry.id()).is_ok())
    }

    /// The entries of those of its streams that are among `moved`.
    pub(crate) fn entries<'a>(
        &'a mut self,
        moved: &'a [StreamId],
    ) -> impl Iterator<Item = &'a StreamEntry<P::Memory>> {
        self.presenting(moved).map(|stream| &stream.entry)
    }

    /// What the pending commit makes of the entries, and these.
    fn target_and_streams(&mut self) -> Option<(&SteTarget, &mut [Stream<P::Memory>])> {
        let with_ats = self.ats.as_ref().and_then(|ats| ats.target());
        let target = with_ats.or(self.target.as_ref())?;
        Some((target, &mut self.streams))
    }

    /// Whether one of the plans breaks.
    pub(crate) fn breaks(&self) -> bool {
        let plans = self.streams.iter().filter_map(|stream| stream.plan);
        plans.into_iter().any(Plan::breaks)
    }
}

/// Invalidates what the latest round has changed: `count` entries, and what is tagged `retag`.
pub(crate) fn stored<P: Platform>(
    members: &[Member],
    count: usize,
    retag: Option<u16>,
) -> impl Iterator<Item = Command> {
    let streams = moving::<P>(members).flat_map(|state| &state.streams);
    let mut stored = streams.filter(|stream| stream.stored);
    // The queue does best where it knows how many there are.
    let entries = (0..count).map(move |_| match stored.next() {
        Some(stream) => Command::cfgi_ste(stream.entry.id(), true),
        None => Command::sync(),
    });
    let tag = retag.map(|vmid| [Command::sync(), Command::tlbi_vmid(vmid)]);
    entries.chain(tag.into_iter().flatten())
}

/// The round of this number, from 0, of so many.
pub(crate) const fn step(number: usize, rounds: usize) -> Step {
    #[expect(clippy::cast_possible_truncation, reason = "a plan has a few rounds")]
    let (round, of) = (number as u8 + 1, rounds as u8);
    Step { round, of }
}

/// What an entry becomes for a device with ATS, and whom the domain's invalidations are for then.
pub(crate) struct WithAts<'a, P: Platform> {
    pub(crate) target: &'a SteTarget,
    pub(crate) set: &'a Arc<AtcSet<P::IrqLock>>,
}

/// The driver's state of a member that the pending commit moves, with the streams of it that move.
fn moving_mut<P: Platform>(member: &mut Member) -> Option<(&mut DeviceState<P>, &[StreamId])> {
    let moving = |(state, _): &(&mut DeviceState<P>, _)| state.target.is_some();
    member.state_and_streams().filter(moving)
}

/// The driver's states of all members that the pending commit moves.
pub(crate) fn moving<P: Platform>(members: &[Member]) -> impl Iterator<Item = &DeviceState<P>> {
    let moving = |state: &&DeviceState<P>| state.target.is_some();
    members
        .iter()
        .filter_map(move |member| member.state().filter(moving))
}
