//! The backend's half of attaching: what the core asks of an SMMU.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::entry::{Plan, Target};
use iommu_core::{
    Attached, DeviceControl, DeviceInfo, DomainKind, DomainRef, IommuOps, Member, PagingConfig,
    Platform, Probed, ReservedRegion, Result, Slot, StreamId,
};

use crate::ats::{Ats, Endpoint};
use crate::domain::{PagingDomain, foreign};
use crate::paging::{self, paging};
use crate::smmu::{ArmSmmuV3, Inner, unsupported};
use crate::spec::ste::{Config, Ste, WORDS};
use crate::write::{DeviceState, Stream};

impl<P: Platform> ArmSmmuV3<P> {
    /// What the entries of a stream on `domain` say, without ATS.
    fn target<'a>(&'a self, domain: &'a DomainRef) -> Result<&'a Target<Ste, WORDS>> {
        let Inner {
            blocked,
            identity,
            abort,
            bypass,
            ..
        } = &*self.inner;
        match domain.kind() {
            DomainKind::Blocked if Arc::ptr_eq(domain, blocked) => Ok(abort),
            DomainKind::Identity if Arc::ptr_eq(domain, identity) => Ok(bypass),
            DomainKind::Blocked | DomainKind::Identity => Err(foreign()),
            DomainKind::Paging => paging::<P>(domain)
                .filter(|paging| paging.belongs_to(&self.inner))
                .map(PagingDomain::ste)
                .ok_or_else(foreign),
            DomainKind::Nested => Err(unsupported("nested domains")),
        }
    }

    /// In which rounds attaching `domain` would change the entry of `stream`, as it is now: how
    /// often that waits for the hardware, and whether DMA breaks off meanwhile. An attach may do
    /// better than this where nobody else uses a stage-2 domain. Switching a device's ATS off, where
    /// it has that on and `domain` has none or the plan breaks, is one more wait before the rounds.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// As [`Group::attach`](iommu_core::Group::attach), where the domain or the entry does not fit.
    pub fn plan(&self, stream: StreamId, domain: &DomainRef) -> Result<Plan> {
        let entry = self.inner.reach(stream)?;
        let without = self.target(domain)?;
        let with = paging::<P>(domain).and_then(PagingDomain::with_ats);
        let target = match with {
            Some(with) if self.inner.endpoints.present(stream) => with.target,
            _ => without,
        };
        Ok(Plan::new(&entry.read(), target, self.inner.rules(false))?)
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
        paging::new(&self.inner, config)
    }

    fn probe(&self, device: &DeviceInfo, control: Arc<dyn DeviceControl>) -> Result<Probed> {
        let streams = device.stream_ids().iter();
        let streams = streams.map(|stream| {
            let entry = self.inner.reach(*stream)?;
            Ok(Stream::new(entry))
        });
        let streams = streams.collect::<Result<Vec<_>>>()?;
        let ats = if self.inner.features.ats && control.has_ats() {
            let endpoint = Arc::new(Endpoint::new(device, control));
            self.inner.endpoints.add(endpoint.clone())?;
            Some(Box::new(Ats::new(endpoint)))
        } else {
            None
        };
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
            state: Box::new(DeviceState::<P> {
                target: None,
                streams,
                ats,
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
        let paging = paging::<P>(&domain);
        let with_ats = paging.and_then(PagingDomain::with_ats);
        let target = self.target(&domain);
        let prepared = target.and_then(|target| self.inner.prepare(member, target, with_ats));
        prepared.map_err(|error| error.of(member.culprit()))?;
        if let Some(paging) = paging {
            *paging.users.lock() += 1;
        }
        Ok(())
    }

    fn cancel(&self, member: &mut Member, _slot: Slot) {
        self.inner.cancel(member);
        if let Some(paging) = member.pending().and_then(paging::<P>) {
            *paging.users.lock() -= 1;
        }
    }

    fn commit(&self, members: &mut [Member], _slot: Slot) -> Result {
        let mut result = self.move_all(members);
        let confirmed = result.is_ok();
        for member in members.iter_mut() {
            match self.inner.finish(member, confirmed) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    result = result.and(Err(error));
                    continue;
                }
            }
            let left = member.attached().domain();
            if let Some(paging) = left.and_then(paging::<P>) {
                *paging.users.lock() -= 1;
            }
            member.landed();
        }
        self.inner.tidy(members);
        result
    }

    fn quarantine(&self, members: &mut [Member]) {
        self.inner
            .refuse(members.iter_mut().filter_map(Member::state_and_streams));
    }

    fn release(&self, member: &mut Member) {
        let state = member.state::<DeviceState<P>>();
        if let Some(ats) = state.and_then(|state| state.ats.as_ref()) {
            self.inner.endpoints.remove(ats.endpoint());
        }
    }
}

impl<P: Platform> ArmSmmuV3<P> {
    /// Moves all members that were prepared. Between a stage-1 and a stage-2 domain of which nobody
    /// else uses the second, translations of the first carry the VMID of the second for a moment,
    /// so that DMA goes on.
    fn move_all(&self, members: &mut [Member]) -> Result {
        let Some((old, new)) = common_move(members) else {
            return self.inner.write_entries(members, None);
        };
        let moving = members.iter().filter(|member| member.pending().is_some());
        let count = moving.count();
        let Some((stage1, stage2, vmid)) = both_stages::<P>(&old, &new) else {
            return self.inner.write_entries(members, None);
        };
        let users = stage2.users.lock();
        if *users != count || !stage1.tag_also(vmid) {
            drop(users);
            return self.inner.write_entries(members, None);
        }
        let result = self.inner.write_entries(members, Some(vmid));
        if result.is_ok() {
            stage1.tag_no_more();
        }
        result
    }
}

/// The two domains where one uses stage 1 and the other stage 2, in this order, and the VMID.
fn both_stages<'a, P: Platform>(
    old: &'a DomainRef,
    new: &'a DomainRef,
) -> Option<(&'a PagingDomain<P>, &'a PagingDomain<P>, u16)> {
    let (old, new) = (paging::<P>(old)?, paging::<P>(new)?);
    match (old.vmid(), new.vmid()) {
        (None, Some(vmid)) => Some((old, new, vmid)),
        (Some(vmid), None) => Some((new, old, vmid)),
        _ => None,
    }
}

/// The domain that all moving members are on, and the one they all go to.
fn common_move(members: &[Member]) -> Option<(DomainRef, DomainRef)> {
    let mut moving = members.iter().filter_map(|member| {
        let new = member.pending()?;
        Some((member.attached().domain(), new))
    });
    let (old, new) = moving.next()?;
    let old = old?;
    let same = |(from, to): (Option<&DomainRef>, &DomainRef)| {
        from.is_some_and(|from| Arc::ptr_eq(from, old)) && Arc::ptr_eq(to, new)
    };
    moving.all(same).then(|| (old.clone(), new.clone()))
}
