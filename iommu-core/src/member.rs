//! A device as its group and its backend see it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::addr::{AddrRange, Pasid, StreamId};
use crate::attached::Attached;
use crate::device::DeviceInfo;
use crate::domain::{DomainKind, DomainRef};
use crate::error::{Culprit, Error, Result};
use crate::fault::{Outstanding, PageRequest, PageResponse};
use crate::iommu::{DeviceId, Instance};
use crate::ops::{Probed, Slot};
use crate::platform::DeviceControl;
use crate::reserved::{ReservedKind, ReservedRegion, joined_ranges};

/// A device in a group.
pub struct Member {
    id: DeviceId,
    instance: Arc<Instance>,
    info: Arc<DeviceInfo>,
    control: Arc<dyn DeviceControl>,
    state: Box<dyn Any + Send>,
    /// The streams that the attach under way moves: of those it presents.
    streams: Vec<StreamId>,
    reserved: Arc<[ReservedRegion]>,
    direct: Arc<[AddrRange]>,
    /// `direct`, and what is mapped 1:1 in the group's default domain only.
    at_home: Arc<[AddrRange]>,
    /// The group's default domain.
    home: Option<DomainRef>,
    attached: Attached,
    /// Whether that is `Deferred`, for those who look without the group's lock.
    deferred: Arc<AtomicBool>,
    pub(crate) max_pasids: u32,
    pasids: Vec<(Pasid, Attached)>,
    pending: Option<DomainRef>,
    slot: Slot,
    /// What it was on until the commit that is under way moved it.
    left: Option<Attached>,
    /// How many of its attachments, and of those it is moving to, handle page faults.
    faulting: u32,
    /// Page requests whose group is not complete yet.
    pub(crate) partial: Vec<PageRequest>,
    pub(crate) outstanding: Vec<Arc<Outstanding>>,
    /// Groups of page requests that were too many to keep: by stream, PASID and tag.
    pub(crate) spoiled: Vec<(StreamId, Option<Pasid>, u16)>,
    /// How many reset fences stand.
    pub(crate) fences: u32,
    /// On its way into the group or out of it: streams that others present too are theirs to move.
    pub(crate) yields: bool,
    /// Among those whose deferred attach is performed.
    pub(crate) joins: bool,
}

impl Member {
    pub(crate) fn new(
        id: DeviceId,
        instance: Arc<Instance>,
        info: Arc<DeviceInfo>,
        control: Arc<dyn DeviceControl>,
        probed: Probed,
    ) -> Self {
        let Probed {
            state,
            mut reserved,
            attached,
            max_pasids,
        } = probed;
        let deferred = matches!(attached, Attached::Deferred);
        reserved.extend_from_slice(info.reserved_regions());
        reserved.sort_by_key(|region| region.range());
        reserved.dedup();
        let direct = joined_ranges(&reserved, &[ReservedKind::Direct]).into();
        let relaxable = [ReservedKind::Direct, ReservedKind::DirectRelaxable];
        let at_home = joined_ranges(&reserved, &relaxable).into();
        Self {
            id,
            instance,
            streams: info.stream_ids().to_vec(),
            info,
            control,
            state,
            reserved: reserved.into(),
            direct,
            at_home,
            home: None,
            deferred: Arc::new(AtomicBool::new(deferred)),
            attached,
            max_pasids,
            pasids: Vec::new(),
            pending: None,
            slot: Slot::Rid,
            left: None,
            faulting: 0,
            partial: Vec::new(),
            outstanding: Vec::new(),
            spoiled: Vec::new(),
            fences: 0,
            yields: false,
            joins: false,
        }
    }

    pub(crate) fn id(&self) -> DeviceId {
        self.id
    }

    pub(crate) fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.info.name()
    }

    /// The streams that an attach moves, sorted, each once. Those that another device of the group
    /// presents too are not among them when the device is added or released, nor while that other
    /// device is being reset.
    #[must_use]
    pub fn streams(&self) -> &[StreamId] {
        &self.streams
    }

    /// Whether the device presents `stream`.
    pub(crate) fn presents(&self, stream: StreamId) -> bool {
        self.info.stream_ids().contains(&stream)
    }

    /// Moves those of its streams for which `moved` says so. Allocates nothing.
    pub(crate) fn choose_streams(&mut self, moved: impl Fn(StreamId) -> bool) {
        self.streams.clear();
        let all = self.info.stream_ids().iter().copied();
        self.streams.extend(all.filter(|stream| moved(*stream)));
    }

    /// Whether the two present a stream in common.
    pub(crate) fn shares_stream(&self, other: &Self) -> bool {
        let mut own = self.info.stream_ids().iter();
        own.any(|stream| other.presents(*stream))
    }

    /// The way to talk to the device itself.
    #[must_use]
    pub fn control(&self) -> &Arc<dyn DeviceControl> {
        &self.control
    }

    /// The backend's state, as [`Probed::state`] gave it, where it is a `T`.
    #[must_use]
    pub fn state<T: 'static>(&self) -> Option<&T> {
        self.state.downcast_ref()
    }

    /// As [`state`](Self::state), to change.
    #[must_use]
    pub fn state_mut<T: 'static>(&mut self) -> Option<&mut T> {
        self.state.downcast_mut()
    }

    /// As [`state_mut`](Self::state_mut), with the [`streams`](Self::streams).
    #[must_use]
    pub fn state_and_streams<T: 'static>(&mut self) -> Option<(&mut T, &[StreamId])> {
        let state = self.state.downcast_mut()?;
        Some((state, &self.streams))
    }

    /// All its reserved regions, sorted.
    #[must_use]
    pub fn reserved_regions(&self) -> &[ReservedRegion] {
        &self.reserved
    }

    pub(crate) fn reserved(&self) -> Arc<[ReservedRegion]> {
        self.reserved.clone()
    }

    /// Whether firmware pinned the device to 1:1 mappings.
    #[must_use]
    pub fn require_direct(&self) -> bool {
        !self.direct.is_empty()
    }

    /// Says which domain is the group's default.
    pub(crate) fn set_home(&mut self, home: Option<DomainRef>) {
        self.home = home;
    }

    /// What has to be mapped 1:1 in `domain` while the traffic of `slot` is on it.
    pub(crate) fn ranges_in(&self, domain: &DomainRef, slot: Slot) -> &[AddrRange] {
        match (slot, &self.home) {
            (Slot::Pasid(_), _) => &[],
            (Slot::Rid, Some(home)) if Arc::ptr_eq(home, domain) => &self.at_home,
            (Slot::Rid, _) => &self.direct,
        }
    }

    /// What the device's traffic without PASID is on at this moment.
    #[must_use]
    pub fn attached(&self) -> &Attached {
        &self.attached
    }

    /// What its traffic with `pasid` is on at this moment; `None` where nothing was attached.
    #[must_use]
    pub fn attached_pasid(&self, pasid: Pasid) -> Option<&Attached> {
        self.pasids
            .iter()
            .find(|(at, _)| *at == pasid)
            .map(|(_, attached)| attached)
    }

    /// The PASIDs that something is attached to, in no particular order.
    pub fn pasids(&self) -> impl Iterator<Item = Pasid> {
        self.pasids.iter().map(|(pasid, _)| *pasid)
    }

    /// The largest PASID that can be attached, as [`Probed::max_pasids`] gave it.
    #[must_use]
    pub fn max_pasids(&self) -> u32 {
        self.max_pasids
    }

    /// Whether its attach is deferred.
    pub(crate) fn is_deferred(&self) -> bool {
        matches!(self.attached, Attached::Deferred)
    }

    pub(crate) fn deferred_flag(&self) -> Arc<AtomicBool> {
        self.deferred.clone()
    }

    /// The domain that the device is on its way to.
    #[must_use]
    pub fn pending(&self) -> Option<&DomainRef> {
        self.pending.as_ref()
    }

    /// The slot that [`pending`](Self::pending) is about.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Says that the hardware is known to have moved the device to its pending domain. For
    /// [`IommuOps::commit`](crate::IommuOps::commit) to call.
    pub fn landed(&mut self) {
        let Some(new) = self.pending.take() else {
            return;
        };
        self.left = self.replace(Attached::On(new));
    }

    pub(crate) fn set_pending(&mut self, slot: Slot, domain: Option<DomainRef>) {
        self.slot = slot;
        self.pending = domain;
    }

    /// Makes room, so that a commit of the slot allocates nothing.
    pub(crate) fn reserve_slot(&mut self) {
        if let Slot::Pasid(pasid) = self.slot
            && self.attached_pasid(pasid).is_none()
        {
            self.pasids.reserve(1);
        }
    }

    /// Sets what the slot of the commit under way is on; returns what it was on.
    fn replace(&mut self, attached: Attached) -> Option<Attached> {
        match self.slot {
            Slot::Rid => {
                self.deferred.store(false, Ordering::Release);
                Some(core::mem::replace(&mut self.attached, attached))
            }
            Slot::Pasid(pasid) => match self.pasids.iter_mut().find(|(at, _)| *at == pasid) {
                Some((_, was)) => Some(core::mem::replace(was, attached)),
                None => {
                    self.pasids.push((pasid, attached));
                    None
                }
            },
        }
    }

    pub(crate) fn forget_pasid(&mut self, pasid: Pasid) {
        self.pasids.retain(|(at, _)| *at != pasid);
    }

    /// Ends a commit. What the member is no longer on comes back; a member that still has a
    /// pending domain did not land and is uncertain from here on, and a domain that it then holds
    /// once too often, or that there is no room to remember, comes back too.
    pub(crate) fn settle(&mut self) -> (Option<Attached>, Option<DomainRef>) {
        let mut surplus = None;
        if let Some(new) = self.pending.take() {
            let was = match self.slot {
                Slot::Rid => Some(&mut self.attached),
                Slot::Pasid(pasid) => self
                    .pasids
                    .iter_mut()
                    .find(|(at, _)| *at == pasid)
                    .map(|(_, was)| was),
            };
            let was = was.map_or(Attached::Deferred, |was| {
                core::mem::replace(was, Attached::Deferred)
            });
            let (now, twice) = was.uncertain(new);
            self.replace(now);
            surplus = twice;
        }
        (self.left.take(), surplus)
    }

    pub(crate) fn quarantine(&mut self) {
        self.deferred.store(false, Ordering::Release);
        let was = core::mem::replace(&mut self.attached, Attached::Deferred);
        self.attached = was.quarantined();
        for (_, attached) in &mut self.pasids {
            let was = core::mem::replace(attached, Attached::Deferred);
            *attached = was.quarantined();
        }
    }

    /// Answers what the traffic of `slot` is waiting for, and forgets what was answered.
    pub(crate) fn answer_outstanding(&mut self, slot: Slot, response: PageResponse) {
        for outstanding in &self.outstanding {
            if outstanding.slot() == slot {
                outstanding.answer(response);
            }
        }
        self.outstanding
            .retain(|outstanding| !outstanding.is_answered());
    }

    /// Answers everything that the device is waiting for.
    pub(crate) fn answer_all(&mut self, response: PageResponse) {
        self.partial.clear();
        self.spoiled.clear();
        for outstanding in self.outstanding.drain(..) {
            outstanding.answer(response);
        }
    }

    /// How many of the device's attachments handle page faults.
    #[must_use]
    pub fn fault_users(&self) -> u32 {
        self.faulting
    }

    /// Counts one more attachment that handles page faults; the first turns them on.
    pub(crate) fn hold_faults(&mut self, domain: &DomainRef) -> Result {
        if domain.fault_handler().is_some() {
            if self.faulting == 0 {
                let instance = self.instance.clone();
                instance.ops.set_faults(self, true)?;
            }
            self.faulting += 1;
        }
        Ok(())
    }

    /// Counts one attachment fewer that handles page faults; the last turns them off.
    pub(crate) fn drop_faults(&mut self, domain: &DomainRef) {
        if domain.fault_handler().is_none() {
            return;
        }
        match self.faulting.checked_sub(1) {
            Some(left) => self.faulting = left,
            None => log::error!("{}: {}", self.culprit(), internal_count()),
        }
        if self.faulting == 0 {
            self.stop_faults();
        }
    }

    fn stop_faults(&mut self) {
        let instance = self.instance.clone();
        if let Err(error) = instance.ops.set_faults(self, false) {
            log::error!(
                "{}: page faults cannot be turned off: {error}",
                self.culprit()
            );
        }
    }

    /// After an attach of identity or blocked without PASIDs nothing handles page faults any more.
    pub(crate) fn check_faults(&mut self, on: &DomainRef) {
        let none = matches!(on.kind(), DomainKind::Identity | DomainKind::Blocked);
        if none && self.slot == Slot::Rid && self.pasids.is_empty() && self.faulting != 0 {
            log::error!("{}: {}", self.culprit(), internal_count());
            self.faulting = 0;
            self.stop_faults();
        }
    }

    /// Whose failure to name.
    #[must_use]
    pub fn culprit(&self) -> Culprit {
        if self.require_direct() {
            Culprit::Pinned {
                device: self.info.shared_name(),
                regions: self.direct.clone(),
            }
        } else {
            Culprit::Device(self.info.shared_name())
        }
    }
}

fn internal_count() -> Error {
    Error::new(
        crate::error::ErrorKind::Internal,
        "attachments that handle page faults are miscounted",
    )
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("device", &self.name())
            .field("streams", &self.streams())
            .field("attached", &self.attached)
            .field("pasids", &self.pasids)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

/// Whether attaching `domain` could cut 1:1 mappings that firmware asked for.
pub(crate) fn blocks(domain: &DomainRef, blocked: &DomainRef) -> bool {
    domain.kind() == DomainKind::Blocked || Arc::ptr_eq(domain, blocked)
}
