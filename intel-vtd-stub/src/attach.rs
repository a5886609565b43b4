//! The backend's half of attaching: what the core asks of a unit.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::{
    Attached, DeviceControl, DeviceInfo, DmaMemory, Domain, DomainKind, DomainRef, Error,
    ErrorKind, IommuOps, Member, PagingConfig, Platform, Probed, RawLock, ReservedKind,
    ReservedRegion, Result, Slot,
};

use crate::domain::{PagingDomain, foreign, pasid_of};
use crate::inner::{Fixed, Inner, internal};
use crate::spec::SourceId;
use crate::tables::Seat;
use crate::vtd::IntelVtd;
use crate::write::{DeviceState, Move, Source, Target};

/// Where the addresses begin whose writes are interrupts and are never translated.
const MSI_START: u64 = 0xfee0_0000;
/// How many of them there are.
const MSI_LEN: u64 = 0x10_0000;

impl<P: Platform> IntelVtd<P> {
    /// What the entries of a device on `domain` say.
    fn target<'a>(&'a self, domain: &'a DomainRef) -> Result<&'a Target> {
        let is = |fixed: &Fixed| Arc::ptr_eq(domain, &fixed.domain);
        let Inner {
            blocked, identity, ..
        } = &*self.inner;
        match domain.kind() {
            DomainKind::Blocked if is(blocked) => Ok(&blocked.target),
            DomainKind::Identity => match identity {
                Some(identity) if is(identity) => Ok(&identity.target),
                _ => Err(foreign()),
            },
            DomainKind::Paging => paging::<P>(domain)
                .filter(|paging| paging.belongs_to(&self.inner))
                .map(PagingDomain::target)
                .ok_or_else(foreign),
            DomainKind::Nested => Err(Error::new(ErrorKind::Unsupported, "nested domains")),
            DomainKind::Blocked => Err(foreign()),
        }
    }

    fn prepare_moves(&self, member: &mut Member, slot: Slot, domain: &DomainRef) -> Result {
        let target = *self.target(domain)?;
        let no_pasids = self.inner.features.max_pasid == 0;
        if slot != Slot::Rid && no_pasids {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the unit knows no PASIDs in the mode it is driven in",
            ));
        }
        let Some((state, streams)) = member.state_and_streams::<DeviceState<P>>() else {
            return Err(internal("a device of another backend"));
        };
        state.moves.clear();
        let moved = |source: &&Source<_, _>| streams.binary_search(&source.stream).is_ok();
        for source in state.sources.iter().filter(moved) {
            match Move::new(source, pasid_of(slot), &target) {
                Ok(entry) => state.moves.push(entry),
                Err(error) => {
                    state.moves.clear();
                    return Err(error);
                }
            }
        }
        state.prepared = true;
        Ok(())
    }

    /// What a device finds itself on: what its entries say, which were made before it was known.
    fn found(&self, sources: &[Source<P::Memory, P::BlockingLock>]) -> Attached {
        let blocked = &self.inner.blocked.domain;
        let Some(identity) = &self.inner.identity else {
            return Attached::On(blocked.clone());
        };
        let is_on = |fixed: &Fixed| {
            let mut entries = sources.iter();
            entries.all(|source| says(source, &fixed.target))
        };
        if is_on(&self.inner.blocked) {
            Attached::On(blocked.clone())
        } else if is_on(identity) {
            Attached::On(identity.domain.clone())
        } else {
            Attached::Uncertain {
                old: Some(blocked.clone()),
                new: identity.domain.clone(),
            }
        }
    }
}

/// Whether the entry for traffic without PASID means the target.
fn says<M: DmaMemory, L: RawLock>(source: &Source<M, L>, target: &Target) -> bool {
    match (&source.seat, target) {
        (Seat::Context(site), Target::Context(target)) => target.is(&site.load()),
        (Seat::Pasids(pasids), Target::Pasid(target)) => {
            pasids.find(0).is_some_and(|site| target.is(&site.load()))
        }
        _ => false,
    }
}

impl<P: Platform> IommuOps for IntelVtd<P> {
    fn blocked_domain(&self) -> Option<DomainRef> {
        Some(self.inner.blocked.domain.clone())
    }

    fn identity_domain(&self) -> Option<DomainRef> {
        let identity = self.inner.identity.as_ref();
        identity.map(|identity| identity.domain.clone())
    }

    fn paging_domain(&self, config: &PagingConfig) -> Result<DomainRef> {
        PagingDomain::new(&self.inner, config).map(Domain::paging)
    }

    fn probe(&self, device: &DeviceInfo, control: Arc<dyn DeviceControl>) -> Result<Probed> {
        let inner = &*self.inner;
        inner.check_running()?;
        let ids = device.stream_ids().iter();
        let ids = ids.map(|stream| (*stream).try_into());
        let ids = ids.collect::<Result<Vec<SourceId>>>()?;
        let (seats, fresh) = inner.state.lock().tables.seats(&ids)?;
        inner.unit.publish();
        if fresh && inner.features.invalidates_fresh() {
            // The absence of the tables may be cached, of any source id.
            inner.forget_everything()?;
        }
        let named = device.stream_ids().iter().copied().zip(ids);
        let sources: Vec<_> = named
            .zip(seats)
            .map(|((stream, id), seat)| Source { stream, id, seat })
            .collect();
        let mut reserved: Vec<ReservedRegion> = inner
            .config
            .rmrrs
            .iter()
            .filter(|rmrr| rmrr.streams.iter().any(|s| device.stream_ids().contains(s)))
            .map(|rmrr| rmrr.region)
            .collect();
        reserved.push(ReservedRegion::new(MSI_START, MSI_LEN, ReservedKind::Msi)?);
        let max_pasids = control.max_pasid().min(inner.features.max_pasid);
        if max_pasids != 0 {
            control.set_pasid(true)?;
        }
        Ok(Probed {
            attached: self.found(&sources),
            state: Box::new(DeviceState::<P> {
                moves: Vec::with_capacity(sources.len()),
                sources,
                prepared: false,
            }),
            reserved,
            max_pasids,
        })
    }

    fn prepare(&self, member: &mut Member, slot: Slot) -> Result {
        self.inner.check_running()?;
        let Some(domain) = member.pending().cloned() else {
            return Ok(());
        };
        let prepared = self.prepare_moves(member, slot, &domain);
        prepared.map_err(|error| error.of(member.culprit()))?;
        if let Some(paging) = paging::<P>(&domain) {
            paging.hold(slot);
        }
        Ok(())
    }

    fn cancel(&self, member: &mut Member, _slot: Slot) {
        let Some(state) = member.state_mut::<DeviceState<P>>() else {
            return;
        };
        state.moves.clear();
        if !core::mem::take(&mut state.prepared) {
            return;
        }
        if let Some(paging) = member.pending().and_then(paging::<P>) {
            paging.let_go();
        }
    }

    fn commit(&self, members: &mut [Member], slot: Slot) -> Result {
        let result = self.inner.write(members);
        for member in members {
            let Some(state) = member.state_mut::<DeviceState<P>>() else {
                continue;
            };
            state.moves.clear();
            if !core::mem::take(&mut state.prepared) || result.is_err() {
                continue;
            }
            let left = match slot {
                Slot::Rid => Some(member.attached()),
                Slot::Pasid(pasid) => member.attached_pasid(pasid),
            };
            if let Some(paging) = left.and_then(Attached::domain).and_then(paging::<P>) {
                paging.let_go();
            }
            member.landed();
        }
        result
    }

    fn quarantine(&self, members: &mut [Member]) {
        let states = members.iter().filter_map(Member::state::<DeviceState<P>>);
        for source in states.flat_map(|state| &state.sources) {
            match &source.seat {
                Seat::Context(site) => site.revoke(),
                Seat::Pasids(pasids) => pasids.revoke_all(),
            }
        }
        self.inner.unit.publish();
        self.inner.doubt();
    }

    fn release(&self, member: &mut Member) {
        if member.max_pasids() == 0 {
            return;
        }
        if let Err(error) = member.control().set_pasid(false) {
            log::warn!(
                "{}: PASIDs cannot be switched off: {error}",
                member.culprit()
            );
        }
    }
}

/// The paging domain that this is, if it is one.
fn paging<P: Platform>(domain: &DomainRef) -> Option<&PagingDomain<P>> {
    domain.backend()
}
