//! Changing entries that the hardware may be reading: many at once, in as few waits as their plans
//! have rounds that the hardware could notice.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use iommu_core::entry::{self, Plan, Rules, Step};
use iommu_core::{DmaMemory, Member, Platform, RawLock, Result, StreamId};

use crate::features::Features;
use crate::inner::{Inner, PASS_THROUGH_DID};
use crate::layout::{Context, Leading, Pasid, Tag};
use crate::spec::{self, Descriptor, SourceId};
use crate::tables::{Seat, Site};

/// What an entry is to become.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    Context(entry::Target<Context, { spec::CONTEXT_ENTRY_WORDS }>),
    Pasid(entry::Target<Pasid, { spec::PASID_WORDS }>),
}

/// What the driver knows of a device.
pub(crate) struct DeviceState<P: Platform> {
    /// All that the device presents, sorted.
    pub(crate) sources: Vec<Source<P::Memory, P::BlockingLock>>,
    /// The entries that the pending commit changes; room for all there can be.
    pub(crate) moves: Vec<Move<P::Memory>>,
    /// Whether there is a pending commit.
    pub(crate) prepared: bool,
}

pub(crate) struct Source<M: DmaMemory, L: RawLock> {
    pub(crate) stream: StreamId,
    pub(crate) id: SourceId,
    pub(crate) seat: Seat<M, L>,
}

/// An entry on its way to what it is to become.
pub(crate) struct Move<M: DmaMemory> {
    source: SourceId,
    /// 0 for traffic without PASID.
    pasid: u32,
    way: Way<M>,
    /// What the round under way has changed.
    change: Option<Change>,
}

enum Way<M: DmaMemory> {
    Context(Walk<M, Context, { spec::CONTEXT_ENTRY_WORDS }>),
    Pasid(Walk<M, Pasid, { spec::PASID_WORDS }>),
}

struct Walk<M: DmaMemory, F, const N: usize> {
    site: Site<M, N>,
    live: [u64; N],
    target: entry::Target<F, N>,
    plan: Option<Plan>,
}

/// What may be cached by way of an entry, before a round and after it.
#[derive(Clone, Copy)]
struct Change {
    before: Option<Tag>,
    after: Option<Tag>,
}

impl<M: DmaMemory, F: Leading<N>, const N: usize> Walk<M, F, N> {
    fn new(site: Site<M, N>, target: &entry::Target<F, N>) -> Result<Self> {
        target.check(&site.load())?;
        Ok(Self {
            site,
            live: [0; N],
            target: *target,
            plan: None,
        })
    }

    /// Finds the rounds that lead from what the entry is now to its target.
    fn plan(&mut self) -> Result<usize> {
        self.live = self.site.load();
        let plan = Plan::new(&self.live, &self.target, Rules::default())?;
        self.plan = Some(plan);
        Ok(plan.len())
    }

    /// Stores the round of this number, where there is one.
    fn store(&mut self, number: usize) -> Option<Change> {
        let round = self.plan.and_then(|plan| plan.round(number))?;
        let before = F::tag(&self.live);
        let site = &self.site;
        round.apply(&mut self.live, &self.target, |store| site.store(store));
        let after = F::tag(&self.live);
        Some(Change { before, after })
    }
}

impl<M: DmaMemory> Move<M> {
    /// The entry that traffic of `source` with `pasid` finds, in a new table if need be.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`](iommu_core::ErrorKind::OutOfMemory); [`Unsupported`] where the entry is not
    /// understood; [`Internal`] where the entry and the target are of different modes.
    ///
    /// [`Unsupported`]: iommu_core::ErrorKind::Unsupported
    /// [`Internal`]: iommu_core::ErrorKind::Internal
    pub(crate) fn new<L: RawLock>(
        source: &Source<M, L>,
        pasid: u32,
        target: &Target,
    ) -> Result<Self> {
        let way = match (&source.seat, target) {
            (Seat::Context(site), Target::Context(target)) => {
                Way::Context(Walk::new(site.clone(), target)?)
            }
            (Seat::Pasids(pasids), Target::Pasid(target)) => {
                Way::Pasid(Walk::new(pasids.reach(pasid)?, target)?)
            }
            _ => return Err(crate::inner::internal("an entry of another mode")),
        };
        Ok(Self {
            source: source.id,
            pasid,
            way,
            change: None,
        })
    }

    fn plan(&mut self) -> Result<usize> {
        match &mut self.way {
            Way::Context(walk) => walk.plan(),
            Way::Pasid(walk) => walk.plan(),
        }
    }

    fn store(&mut self, number: usize) {
        self.change = match &mut self.way {
            Way::Context(walk) => walk.store(number),
            Way::Pasid(walk) => walk.store(number),
        };
    }

    fn revoke(&self) {
        match &self.way {
            Way::Context(walk) => walk.site.revoke(),
            Way::Pasid(walk) => walk.site.revoke(),
        }
    }

    /// What makes the hardware forget the entry as it was before the round, and the tag of the
    /// translations that it may have cached by way of it, where there are such.
    fn stale(&self, features: &Features) -> Option<(Descriptor, Option<Tag>)> {
        let (did, tag) = match self.change? {
            Change {
                before: Some(tag), ..
            } => (tag.did, Some(tag)),
            // What was cached of an entry that is not present is tagged 0 (6.2.2, 6.2.3).
            Change {
                after: Some(tag), ..
            } if features.invalidates_fresh() => (0, Some(tag)),
            // A part of what was there must not come together with what is there next.
            Change { after: None, .. } if features.caching_mode => (0, None),
            Change { .. } => return None,
        };
        let entry = match self.way {
            Way::Context(_) => Descriptor::context(self.source, did),
            Way::Pasid(_) => Descriptor::pasid(self.pasid, did),
        };
        Some((entry, tag))
    }

    /// What else is stale by the round: that a device passes is kept by QEMU 10.0 with its context
    /// entry, whatever becomes of its PASID entry, and forgotten with it.
    fn stale_context(&self) -> Option<Descriptor> {
        let passed = self.change?.before?.did == PASS_THROUGH_DID;
        let by_pasid = matches!(self.way, Way::Pasid(_)) && self.pasid == 0;
        (passed && by_pasid).then(|| Descriptor::context(self.source, 0))
    }
}

impl<P: Platform> Inner<P> {
    /// Makes the entries of all prepared members what they are to be, and waits until the hardware
    /// uses nothing else.
    ///
    /// Round after round, all entries are stored, what was cached of those that were present is
    /// invalidated, and that is waited for once. What was not present needs no invalidation, and a
    /// round without one no wait: hardware that finds P clear looks no further (6.5.3.3). Not so
    /// where such entries may be cached.
    ///
    /// # Errors
    ///
    /// Those of the queue, with the step at which it failed. The hardware may go on with what it
    /// has cached, of any round so far; what it reads from here on is not present.
    pub(crate) fn write(&self, members: &mut [Member]) -> Result {
        let result = self.settle().and_then(|()| self.write_rounds(members));
        if result.is_err() {
            for entry in moving::<P>(members) {
                entry.revoke();
            }
            self.unit.publish();
            self.doubt();
        }
        result
    }

    fn write_rounds(&self, members: &mut [Member]) -> Result {
        let mut rounds = 0;
        for entry in moving_mut::<P>(members) {
            rounds = rounds.max(entry.plan()?);
        }
        for round in 0..rounds {
            for entry in moving_mut::<P>(members) {
                entry.store(round);
            }
            self.unit.publish();
            let stale = self.stale(members);
            if stale.clone().next().is_some() {
                let result = self.queue.run(&self.unit, stale);
                result.map_err(|error| error.in_step(step(round, rounds)))?;
            }
        }
        Ok(())
    }

    /// What the latest round has made stale: the entries, then the translations.
    fn stale<'a>(&'a self, members: &'a [Member]) -> impl Iterator<Item = Descriptor> + Clone + 'a {
        let changed = moving::<P>(members).filter_map(move |entry| {
            let (descriptor, tag) = entry.stale(&self.features)?;
            let translations = tag.map(|tag| self.translations(tag, entry.pasid));
            Some((descriptor, translations))
        });
        let mut last = None;
        let translations = changed.clone().filter_map(|(_, translations)| translations);
        let translations = translations.filter(move |next| last.replace(*next) != Some(*next));
        let fence = translations.clone().next().map(|_| self.queue.fence());
        let entries = changed.map(|(entry, _)| entry);
        let contexts = moving::<P>(members).filter_map(Move::stale_context);
        contexts.chain(entries).chain(fence).chain(translations)
    }

    /// What makes the hardware forget the translations with this tag, of `pasid` where they carry
    /// that too.
    fn translations(&self, tag: Tag, pasid: u32) -> Descriptor {
        if tag.by_domain {
            Descriptor::iotlb_domain(tag.did, self.features.drain)
        } else {
            Descriptor::pasid_iotlb(tag.did, pasid)
        }
    }

    /// Notes that the hardware may be using entries that are not in memory any more.
    pub(crate) fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::AcqRel);
    }

    /// Makes sure that the hardware uses no entry that is not in memory any more.
    fn settle(&self) -> Result {
        let doubts = self.doubts.load(Ordering::Acquire);
        if doubts == 0 {
            return Ok(());
        }
        self.forget_everything()?;
        // Where more were raised meanwhile, they are for the next to settle.
        let (settled, relaxed) = (Ordering::AcqRel, Ordering::Relaxed);
        let _ = self.doubts.compare_exchange(doubts, 0, settled, relaxed);
        Ok(())
    }

    /// Makes the hardware forget all that it has cached.
    pub(crate) fn forget_everything(&self) -> Result {
        let fence = self.queue.fence();
        let pasids = self.features.scalable;
        let pasids = pasids.then(|| [Descriptor::pasids(), fence]);
        let entries = [Descriptor::contexts(), fence].into_iter();
        let entries = entries.chain(pasids.into_iter().flatten());
        let translations = [Descriptor::iotlb(self.features.drain)];
        self.queue.run(&self.unit, entries.chain(translations))
    }
}

/// The round of this number, from 0, of so many.
const fn step(number: usize, rounds: usize) -> Step {
    #[expect(clippy::cast_possible_truncation, reason = "a plan has a few rounds")]
    let (round, of) = (number as u8 + 1, rounds as u8);
    Step { round, of }
}

/// The entries that the pending commit changes.
fn moving<P: Platform>(members: &[Member]) -> impl Iterator<Item = &Move<P::Memory>> + Clone {
    let states = members.iter().filter_map(Member::state::<DeviceState<P>>);
    states.flat_map(|state| &state.moves)
}

fn moving_mut<P: Platform>(members: &mut [Member]) -> impl Iterator<Item = &mut Move<P::Memory>> {
    let states = members.iter_mut();
    let states = states.filter_map(Member::state_mut::<DeviceState<P>>);
    states.flat_map(|state| &mut state.moves)
}
