//! Changing stream table entries that the hardware may be reading: many at once, in as few waits as
//! their plans have rounds.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use iommu_core::entry::{Device, Plan, Rules, Step, Store, Target, WriteError, write};
use iommu_core::{DmaMemory, Error, ErrorKind, Member, Platform, Result, StreamId};

use crate::smmu::Inner;
use crate::spec::commands::Command;
use crate::spec::ste::{Ste, WORDS};
use crate::stream_table::{OpenEntry, StreamEntry};

/// What the driver knows of a device.
pub(crate) struct DeviceState<M: DmaMemory> {
    /// What the pending commit makes of the entries.
    pub(crate) target: Option<Target<Ste, WORDS>>,
    /// All that the device presents, sorted.
    pub(crate) streams: Vec<Stream<M>>,
}

/// A stream of a device.
pub(crate) struct Stream<M: DmaMemory> {
    entry: StreamEntry<M>,
    /// The entry as it is in memory, while it is being written.
    live: [u64; WORDS],
    /// `None` where it is not being written.
    plan: Option<Plan>,
}

impl<M: DmaMemory> Stream<M> {
    pub(crate) fn new(entry: StreamEntry<M>) -> Self {
        Self {
            entry,
            live: [0; WORDS],
            plan: None,
        }
    }

    /// Finds the rounds that lead from what the entry is now to `target`.
    fn plan(&mut self, target: &Target<Ste, WORDS>, rules: Rules) -> Result<usize> {
        self.live = self.entry.read();
        let plan = Plan::new(&self.live, target, rules)?;
        self.plan = Some(plan);
        Ok(plan.len())
    }

    /// Stores a round; returns whether there is one.
    #[inline]
    fn store(&mut self, round: usize, target: &Target<Ste, WORDS>) -> bool {
        let Some(round) = self.plan.and_then(|plan| plan.round(round)) else {
            return false;
        };
        let entry = &self.entry;
        round.apply(&mut self.live, target, |store| entry.store(store));
        true
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
        let commands = [Command::cfgi_ste(self.stream, true)];
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

    /// Notes where the member is to go. Changes nothing in memory.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where one of its entries is not understood.
    pub(crate) fn prepare(&self, member: &mut Member, target: Target<Ste, WORDS>) -> Result {
        let culprit = member.culprit();
        let Some((state, streams)) = member.state_and_streams::<DeviceState<P::Memory>>() else {
            let reason = "the device's state is not this driver's";
            return Err(Error::new(ErrorKind::Internal, reason).of(culprit));
        };
        for stream in state.presenting(streams) {
            target
                .check(&stream.entry.read())
                .map_err(|error| Error::from(error).of(culprit.clone()))?;
        }
        state.target = Some(target);
        Ok(())
    }

    /// Ends what [`prepare`](Self::prepare) began. Returns whether it had begun.
    pub(crate) fn forget(&self, member: &mut Member) -> bool {
        member
            .state_mut::<DeviceState<P::Memory>>()
            .is_some_and(|state| {
                state
                    .streams
                    .iter_mut()
                    .for_each(|stream| stream.plan = None);
                state.target.take().is_some()
            })
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
        if let ([member], None) = (&mut *members, retag)
            && let Some(state) = member.state::<DeviceState<P::Memory>>()
            && let (Some(target), [stream]) = (&state.target, &*state.streams)
            && member.streams().len() == 1
        {
            let result = self.write_entry(&stream.entry, target);
            if result.is_err() {
                self.refuse(members);
            }
            return result;
        }
        self.settle()?;
        let rules = self.rules(retag.is_some());
        let mut rounds = 0;
        for (state, streams) in prepared::<P::Memory>(members) {
            let Some(target) = state.target else { continue };
            for stream in state.presenting(streams) {
                rounds = rounds.max(stream.plan(&target, rules)?);
            }
        }
        for round in 0..rounds {
            let result = self.round(members, round, retag);
            if let Err(error) = result {
                self.refuse(members);
                #[expect(clippy::cast_possible_truncation, reason = "a plan has a few rounds")]
                let (round, of) = (round as u8 + 1, rounds as u8);
                return Err(error.in_step(Step { round, of }));
            }
        }
        Ok(())
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

    /// One round of all entries, and the wait for it.
    fn round(&self, members: &mut [Member], round: usize, retag: Option<u16>) -> Result {
        for (state, _) in prepared::<P::Memory>(members) {
            let Some(target) = state.target else { continue };
            for stream in &mut state.streams {
                stream.store(round, &target);
            }
        }
        self.hardware.platform.memory().write_barrier();
        let members = members.iter().filter_map(Member::state);
        let streams = members.flat_map(|state: &DeviceState<P::Memory>| &state.streams);
        let stored = streams.filter(|stream| stream.plan.is_some_and(|plan| plan.len() > round));
        let entries = stored.map(|stream| Command::cfgi_ste(stream.entry.id(), true));
        let tag = retag.map(|vmid| [Command::sync(), Command::tlbi_vmid(vmid)]);
        self.invalidate(entries.chain(tag.into_iter().flatten()))
    }

    /// Makes what the hardware reads of the members' entries from here on abort, and waits for
    /// nothing.
    pub(crate) fn refuse(&self, members: &mut [Member]) {
        let rules = self.rules(false);
        for (state, streams) in prepared::<P::Memory>(members) {
            for stream in state.presenting(streams) {
                let mut live = stream.entry.read();
                let plan = Plan::new(&live, &self.abort, rules);
                for round in plan.into_iter().flat_map(Plan::rounds) {
                    round.apply(&mut live, &self.abort, |store| stream.entry.store(store));
                }
            }
        }
        self.hardware.platform.memory().write_barrier();
        self.doubts.fetch_add(1, Ordering::AcqRel);
    }

    /// Makes sure that the hardware uses no entry that is not in memory any more.
    #[inline]
    fn settle(&self) -> Result {
        match self.doubts.load(Ordering::Acquire) {
            0 => Ok(()),
            doubts => self.settle_doubts(doubts),
        }
    }

    #[cold]
    #[inline(never)]
    fn settle_doubts(&self, doubts: u64) -> Result {
        self.invalidate([Command::cfgi_all()])?;
        // Where more were raised meanwhile, they are for the next to settle.
        let (settled, relaxed) = (Ordering::AcqRel, Ordering::Relaxed);
        let _ = self.doubts.compare_exchange(doubts, 0, settled, relaxed);
        Ok(())
    }
}

impl<M: DmaMemory> DeviceState<M> {
    /// Those of its streams that are among `moved`.
    fn presenting<'a>(
        &'a mut self,
        moved: &'a [StreamId],
    ) -> impl Iterator<Item = &'a mut Stream<M>> {
        let all = self.streams.iter_mut();
        all.filter(|stream| moved.binary_search(&stream.entry.id()).is_ok())
    }
}

/// The driver's states of all members, with the streams that each moves.
fn prepared<M: DmaMemory>(
    members: &mut [Member],
) -> impl Iterator<Item = (&mut DeviceState<M>, &[StreamId])> {
    members.iter_mut().filter_map(Member::state_and_streams)
}
