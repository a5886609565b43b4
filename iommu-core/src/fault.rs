//! Page faults: requests of devices for pages that are not there yet, and their answers.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};

use crate::addr::{Iova, Pasid, StreamId};
use crate::domain::{DomainRef, Prot};
use crate::group::State;
use crate::iommu::Instance;
use crate::ops::Slot;

/// A device's request for a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRequest {
    /// The stream that asks.
    pub stream: StreamId,
    /// Its PASID, where it presents one.
    pub pasid: Option<Pasid>,
    /// The page it asks for.
    pub iova: Iova,
    /// The access that it wants.
    pub prot: Prot,
    /// What ties the requests of one group together: the group index of PRI, the tag of a stalled
    /// transaction.
    pub tag: u16,
    /// Whether it is the last of its group: the group is answered as a whole.
    pub last: bool,
}

impl PageRequest {
    pub(crate) fn slot(&self) -> Slot {
        self.pasid.map_or(Slot::Rid, Slot::Pasid)
    }
}

/// How a group of page requests is answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PageResponse {
    /// The pages are there: try again.
    Success,
    /// They will never be: terminate the access.
    Invalid,
    /// Page requests of this device cannot be served any more.
    Failure,
}

/// What handles the page faults of a domain. It is dropped with the domain, which may happen while a
/// group is locked: it must not own anything of a group whose end takes that lock, such as a
/// [`Device`](crate::Device) or a [`Claim`](crate::Claim).
pub trait FaultHandler: Send + Sync + 'static {
    /// Takes a group of page requests. It may be answered at once or later, from anywhere.
    ///
    /// Context: may block; no lock of the core's is held.
    fn handle(&self, fault: Fault);
}

/// A group of page requests that waits for its answer: one, whatever happens to the device and its
/// domain meanwhile. Dropping it answers [`PageResponse::Failure`].
#[must_use = "dropping it answers the device with a failure"]
pub struct Fault {
    requests: Vec<PageRequest>,
    domain: DomainRef,
    outstanding: Arc<Outstanding>,
}

impl Fault {
    pub(crate) fn new(
        requests: Vec<PageRequest>,
        domain: DomainRef,
        outstanding: Arc<Outstanding>,
    ) -> Self {
        Self {
            requests,
            domain,
            outstanding,
        }
    }

    /// The requests, the last of them last.
    #[must_use]
    pub fn requests(&self) -> &[PageRequest] {
        &self.requests
    }

    /// The domain that the device's traffic was on.
    #[must_use]
    pub fn domain(&self) -> &DomainRef {
        &self.domain
    }

    /// Whether the answer still matters: a device that has left its domain was answered by that.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.outstanding.is_answered()
    }

    /// Answers, unless the device has left the domain and was answered by that.
    pub fn answer(self, response: PageResponse) {
        self.outstanding.answer(response);
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        self.outstanding.answer(PageResponse::Failure);
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

/// An answer that is due.
pub(crate) struct Outstanding {
    instance: Arc<Instance>,
    last: PageRequest,
    progress: AtomicU8,
}

const WAITING: u8 = 0;
const ANSWERING: u8 = 1;
const ANSWERED: u8 = 2;

impl Outstanding {
    pub(crate) fn new(instance: Arc<Instance>, last: PageRequest) -> Arc<Self> {
        let progress = AtomicU8::new(WAITING);
        Arc::new(Self {
            instance,
            last,
            progress,
        })
    }

    pub(crate) fn slot(&self) -> Slot {
        self.last.slot()
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.progress.load(Ordering::Acquire) == ANSWERED
    }

    /// Answers if nobody has yet. When this returns, the answer is with the backend, whoever gave
    /// it.
    pub(crate) fn answer(&self, response: PageResponse) {
        let first =
            self.progress
                .compare_exchange(WAITING, ANSWERING, Ordering::AcqRel, Ordering::Acquire);
        if first.is_ok() {
            self.instance.ops.answer(&self.last, response);
            self.progress.store(ANSWERED, Ordering::Release);
            return;
        }
        while !self.is_answered() {
            core::hint::spin_loop();
        }
    }
}

/// What becomes of a page request.
pub(crate) enum Delivery {
    /// It waits for the last of its group.
    Kept,
    /// It completes a group, which goes to this handler.
    To(Arc<dyn FaultHandler>, Fault),
    /// Nobody takes it: this is the answer, if it is the last of its group.
    Nobody(PageResponse),
}

/// How many requests a device may have in groups that are not complete.
const MAX_PARTIAL: usize = 512;
/// How many groups of a device may be waiting for their answer.
const MAX_OUTSTANDING: usize = 512;

impl State {
    /// Takes in a page request of one of the members.
    pub(crate) fn deliver(&mut self, request: PageRequest) -> Delivery {
        let slot = request.slot();
        let member = self
            .members
            .iter_mut()
            .find(|member| member.presents(request.stream));
        let Some(member) = member else {
            return Delivery::Nobody(PageResponse::Invalid);
        };
        let attached = match slot {
            Slot::Rid => Some(member.attached()),
            Slot::Pasid(pasid) => member.attached_pasid(pasid),
        };
        let on = attached.and_then(|attached| attached.domain()).cloned();
        let handled = on.and_then(|domain| Some((domain.fault_handler()?.clone(), domain)));
        let Some((handler, domain)) = handled else {
            return Delivery::Nobody(PageResponse::Invalid);
        };
        let key = |request: &PageRequest| (request.stream, request.pasid, request.tag);
        let same = |other: &PageRequest| key(other) == key(&request);
        let spoiled = member
            .spoiled
            .iter()
            .position(|group| *group == key(&request));
        if !request.last {
            if spoiled.is_some() {
                return Delivery::Kept;
            }
            if member.partial.len() < MAX_PARTIAL {
                member.partial.push(request);
            } else {
                // The group cannot be served as a whole; its last request is answered.
                member.partial.retain(|other| !same(other));
                member.spoiled.push(key(&request));
            }
            return Delivery::Kept;
        }
        member
            .outstanding
            .retain(|outstanding| !outstanding.is_answered());
        if let Some(at) = spoiled {
            member.spoiled.swap_remove(at);
            return Delivery::Nobody(PageResponse::Failure);
        }
        if member.outstanding.len() >= MAX_OUTSTANDING {
            member.partial.retain(|other| !same(other));
            return Delivery::Nobody(PageResponse::Failure);
        }
        let mut requests: Vec<PageRequest> = member
            .partial
            .iter()
            .filter(|other| same(other))
            .copied()
            .collect();
        member.partial.retain(|other| !same(other));
        requests.push(request);
        let outstanding = Outstanding::new(member.instance().clone(), request);
        member.outstanding.push(outstanding.clone());
        Delivery::To(handler, Fault::new(requests, domain, outstanding))
    }
}
