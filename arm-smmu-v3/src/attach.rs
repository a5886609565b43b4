//! The backend's half of attaching: what the core asks of an SMMU.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use iommu_core::{
    Attached, DeviceControl, DeviceInfo, DmaMemory, Domain, DomainKind, DomainRef, Error,
    ErrorKind, IommuOps, Member, PagingConfig, Platform, Probed, ReservedRegion, Result, Slot,
    StreamId,
};

use crate::domain::{PagingDomain, foreign};
use crate::entries;
use crate::smmu::{ArmSmmuV3, Inner, unsupported};
use crate::spec::commands::Command;
use crate::spec::ste::{Config, Ste, WORDS};

/// What the driver knows of a device.
struct DeviceState {
    /// Whether the hardware has confirmed everything that was stored in the device's entries.
    confirmed: bool,
    /// What the pending commit stores.
    target: Option<Ste>,
}

impl<P: Platform> ArmSmmuV3<P> {
    fn target(&self, member: &Member, domain: &DomainRef) -> Result<Ste> {
        match domain.kind() {
            DomainKind::Blocked if Arc::ptr_eq(domain, &self.inner.blocked) => Ok(entries::abort()),
            DomainKind::Identity if Arc::ptr_eq(domain, &self.inner.identity) => {
                Ok(entries::bypass(&self.inner.features))
            }
            DomainKind::Blocked | DomainKind::Identity => Err(foreign(member.culprit())),
            DomainKind::Paging => domain
                .backend::<PagingDomain<P>>()
                .filter(|paging| paging.belongs_to(&self.inner))
                .map(|paging| *paging.ste())
                .ok_or_else(|| foreign(member.culprit())),
            DomainKind::Nested => Err(unsupported("nested domains")),
        }
    }

    /// What the entries of `streams` say that they are on.
    fn found(&self, streams: &[StreamId]) -> Attached {
        let Inner {
            streams: table,
            blocked,
            identity,
            ..
        } = &*self.inner;
        let passes = |stream: &StreamId| {
            table
                .read(*stream)
                .is_some_and(|ste| ste.word0.config() == Config::BYPASS)
        };
        match streams.iter().filter(|stream| passes(stream)).count() {
            0 => Attached::On(blocked.clone()),
            all if all == streams.len() => Attached::On(identity.clone()),
            _ => Attached::Uncertain {
                old: Some(blocked.clone()),
                new: identity.clone(),
            },
        }
    }
}

impl<P: Platform> IommuOps for ArmSmmuV3<P> {
    fn blocked_domain(&self) -> Option<DomainRef> {
        Some(self.inner.blocked.clone())
    }

    fn identity_domain(&self) -> Option<DomainRef> {
        Some(self.inner.identity.clone())
    }

    fn paging_domain(&self, config: &PagingConfig) -> Result<DomainRef> {
        PagingDomain::new(&self.inner, config).map(Domain::paging)
    }

    fn probe(&self, device: &DeviceInfo, _control: Arc<dyn DeviceControl>) -> Result<Probed> {
        for &stream in device.stream_ids() {
            self.inner.reach(stream)?;
        }
        let reserved: Vec<ReservedRegion> = self
            .inner
            .config
            .rmrs
            .iter()
            .filter(|rmr| {
                rmr.streams
                    .iter()
                    .any(|stream| device.stream_ids().contains(stream))
            })
            .map(|rmr| rmr.region)
            .collect();
        Ok(Probed {
            state: Box::new(DeviceState {
                confirmed: true,
                target: None,
            }),
            reserved,
            attached: self.found(device.stream_ids()),
            max_pasids: 0,
        })
    }

    fn prepare(&self, member: &mut Member, slot: Slot) -> Result {
        if slot != Slot::Rid {
            return Err(unsupported("PASIDs").of(member.culprit()));
        }
        let Some(domain) = member.pending().cloned() else {
            return Ok(());
        };
        let target = self.target(member, &domain)?;
        state(member)?.target = Some(target);
        Ok(())
    }

    fn cancel(&self, member: &mut Member, _slot: Slot) {
        if let Ok(state) = state(member) {
            state.target = None;
        }
    }

    fn commit(&self, members: &mut [Member], _slot: Slot) -> Result {
        let result = self.inner.write_entries(members);
        for member in members.iter_mut() {
            let Ok(state) = state(member) else { continue };
            if state.target.take().is_some() && state.confirmed {
                member.landed();
            }
        }
        result
    }

    fn quarantine(&self, members: &mut [Member]) {
        for member in &mut *members {
            if let Ok(state) = state(member) {
                state.confirmed = false;
                state.target = Some(entries::abort());
            }
        }
        self.inner
            .store(members, FIRST, |_, target, _| Some(target));
        for member in members {
            if let Ok(state) = state(member) {
                state.target = None;
            }
        }
    }

    fn release(&self, _member: &mut Member) {}
}

fn state(member: &mut Member) -> Result<&mut DeviceState> {
    let culprit = member.culprit();
    member.state_mut().ok_or_else(|| {
        Error::new(
            ErrorKind::Internal,
            "the device's state is not this driver's",
        )
        .of(culprit)
    })
}

/// The words of an entry but the first, which says what the entry is.
const REST: Range<usize> = 1..WORDS;
const FIRST: Range<usize> = 0..1;

impl<P: Platform> Inner<P> {
    /// Stores the target of every member that has one into the entries of all its streams, and
    /// waits until the hardware uses nothing else.
    ///
    /// The hardware may read any word of an entry at any time and cache each by itself (3.21.3).
    /// So an entry first aborts, which makes it ignore all other words; then they are filled in;
    /// then the first word follows. Each step is confirmed before the next begins, for all entries
    /// at once: at most three waits, however many entries there are. An entry that aborts
    /// meanwhile is silent about it.
    fn write_entries(&self, members: &mut [Member]) -> Result {
        let result = self.steps(members);
        if result.is_err() {
            // The hardware may go on with what it has cached, but what it reads from here on
            // aborts.
            self.store(members, FIRST, |_, _, _| Some(entries::abort()));
        }
        for member in members {
            if let Ok(state) = state(member)
                && state.target.is_some()
            {
                state.confirmed = result.is_ok();
            }
        }
        result
    }

    fn steps(&self, members: &[Member]) -> Result {
        let aborts = |ste: Ste| ste.word0.valid() && ste.word0.config().aborts();
        self.step(members, FIRST, |now, target, confirmed| {
            let done = confirmed && (now == target || aborts(now));
            (!done).then_some(entries::abort())
        })?;
        self.step(members, REST, |now, target, _| {
            let differs = now.to_words()[REST] != target.to_words()[REST];
            (!aborts(target) && differs).then_some(target)
        })?;
        self.step(members, FIRST, |now, target, _| {
            (now.word0 != target.word0).then_some(target)
        })
    }

    /// [`store`](Self::store), and waits until the hardware has let go of what the entries were.
    /// Where nothing was stored, does not wait.
    fn step(
        &self,
        members: &[Member],
        words: Range<usize>,
        choose: impl Fn(Ste, Ste, bool) -> Option<Ste>,
    ) -> Result {
        if !self.store(members, words, choose) {
            return Ok(());
        }
        let moving = members.iter().filter(|member| target(member).is_some());
        let streams = moving.flat_map(Member::streams);
        self.invalidate(streams.map(|stream| Command::cfgi_ste(*stream, true)))
    }

    /// Stores `words` of what `choose` returns for each entry, given what the entry is, its target,
    /// and whether the hardware has confirmed what it is. Returns whether anything was stored.
    fn store(
        &self,
        members: &[Member],
        words: Range<usize>,
        choose: impl Fn(Ste, Ste, bool) -> Option<Ste>,
    ) -> bool {
        let mut stored = false;
        for member in members {
            let Some((target, confirmed)) = target(member) else {
                continue;
            };
            for &stream in member.streams() {
                let Some(now) = self.streams.read(stream) else {
                    continue;
                };
                if let Some(ste) = choose(now, target, confirmed) {
                    self.streams.store(stream, words.clone(), &ste);
                    stored = true;
                }
            }
        }
        self.hardware.platform.memory().write_barrier();
        stored
    }
}

/// What the pending commit stores for the member, and whether the hardware has confirmed what its
/// entries are.
fn target(member: &Member) -> Option<(Ste, bool)> {
    let state = member.state::<DeviceState>()?;
    state.target.map(|target| (target, state.confirmed))
}
