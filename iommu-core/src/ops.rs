//! What a backend provides.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use static_assertions::assert_obj_safe;

use crate::addr::Pasid;
use crate::attached::Attached;
use crate::device::DeviceInfo;
use crate::domain::DomainRef;
use crate::error::{Error, ErrorKind, Result};
use crate::fault::{PageRequest, PageResponse};
use crate::member::Member;
use crate::platform::DeviceControl;
use crate::reserved::ReservedRegion;

/// Which of a device's traffic an attach is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Slot {
    /// The traffic without PASID.
    Rid,
    /// The traffic with this PASID.
    Pasid(Pasid),
}

/// Which stage of translation a paging domain uses, where the hardware has two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Stage {
    /// The backend chooses.
    #[default]
    Any,
    /// Stage 1 (Arm), first level (Intel): what processes and kernels use.
    First,
    /// Stage 2 (Arm), second level (Intel): what hypervisors use for a guest's memory.
    Second,
}

/// What a new paging domain has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PagingConfig {
    /// The stage it uses.
    pub stage: Stage,
    /// How many bits an IOVA has; `None` for as many as the hardware offers.
    pub input_bits: Option<u8>,
    /// The smallest page, in bytes: that of a kernel which lends whole pages of its own. `None` for
    /// the smallest that the hardware offers.
    pub page_size: Option<u64>,
}

/// What a backend finds out about a device.
pub struct Probed {
    /// The backend's state for the device, with all the memory that parking it needs.
    pub state: Box<dyn Any + Send>,
    /// The reserved regions that the backend knows of, from firmware tables or the architecture.
    pub reserved: Vec<ReservedRegion>,
    /// What the device's traffic without PASID is on at this moment: one of the backend's fixed
    /// domains, or what cannot be said for certain, or something that is to stay until first use.
    pub attached: Attached,
    /// How many PASIDs the device and the hardware have in common, 0 for none: PASIDs from 1 up to
    /// this can be attached.
    pub max_pasids: u32,
}

impl fmt::Debug for Probed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probed")
            .field("reserved", &self.reserved)
            .field("attached", &self.attached)
            .finish_non_exhaustive()
    }
}

/// An IOMMU driver, as the core drives it.
///
/// The core decides *what* a device is attached to and when; the backend knows *how*. A backend
/// repeats none of the core's rules: it never chooses where a device rests, never compares a device
/// with its reserved regions, and never undoes a park.
///
/// # An attach
///
/// The core calls [`prepare`](Self::prepare) for each device of a group. If one fails it calls
/// [`cancel`](Self::cancel) for those that succeeded, and everything is as it was. Otherwise it
/// calls [`commit`](Self::commit) once, with all of them. [`Member::pending`] is the domain that a
/// member is on its way to in all three; a member without one is left alone. An attach is about one
/// slot: the traffic without PASID, or that with one PASID. Attaching the blocked domain to a PASID
/// ends its attachment.
///
/// # Context
///
/// Calls about members are made with their group locked, may block, and come from several CPUs for
/// different groups.
pub trait IommuOps: Send + Sync + 'static {
    /// The domain that refuses everything: always the same object. Attaching it never allocates and
    /// fails for nothing but dead hardware. A backend without one is refused by
    /// [`Iommu::new`](crate::Iommu::new).
    fn blocked_domain(&self) -> Option<DomainRef>;

    /// The domain that passes everything untranslated: always the same object, or `None` where the
    /// hardware has no such thing. Attaching it never allocates and fails for nothing but dead
    /// hardware.
    fn identity_domain(&self) -> Option<DomainRef>;

    /// The domain that a device rests in when nobody uses it; `None` for the blocked one.
    fn release_domain(&self) -> Option<DomainRef> {
        self.blocked_domain()
    }

    /// A new, empty paging domain. It can be mapped into before any device is attached.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the hardware has no such domain,
    /// [`OutOfMemory`](crate::ErrorKind::OutOfMemory), [`NoSpace`](crate::ErrorKind::NoSpace) where
    /// its ids are used up.
    fn paging_domain(&self, config: &PagingConfig) -> Result<DomainRef>;

    /// Gets to know a device, reserves everything that parking it will need, and changes nothing
    /// about what it reaches.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](crate::ErrorKind::OutOfRange) for a stream that the hardware cannot have,
    /// [`OutOfMemory`](crate::ErrorKind::OutOfMemory). Nothing is kept then.
    fn probe(&self, device: &DeviceInfo, control: Arc<dyn DeviceControl>) -> Result<Probed>;

    /// Makes everything ready for moving `member` to its pending domain: allocates, checks that the
    /// domain fits, reserves ids. Changes nothing that a device can notice.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the domain does not fit the
    /// device, and whatever reserving things can end in. Nothing is kept then.
    fn prepare(&self, member: &mut Member, slot: Slot) -> Result;

    /// Gives back what [`prepare`](Self::prepare) reserved. Cannot fail, does not allocate.
    fn cancel(&self, member: &mut Member, slot: Slot);

    /// Moves all members that have a pending domain to it, sharing the waits, and calls
    /// [`landed`](Member::landed) on each that the hardware is known to have moved. One member's
    /// failure does not stop the others.
    ///
    /// When this returns, a device that landed is subject to its new domain alone.
    ///
    /// # Errors
    ///
    /// The first failure. A member that did not land may be on its old domain, on the new one, or
    /// on neither.
    fn commit(&self, members: &mut [Member], slot: Slot) -> Result;

    /// Stores an entry that aborts for every stream of each of `members` and for every PASID, and
    /// does not wait for the hardware: what to do when it does not answer. Cannot fail, does not
    /// allocate.
    fn quarantine(&self, members: &mut [Member]);

    /// Turns the device's page faults on, or off. Off cannot fail but for dead hardware.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the device or the hardware has none and
    /// is asked to turn them on.
    fn set_faults(&self, member: &mut Member, on: bool) -> Result {
        let _ = member;
        if on {
            return Err(Error::new(ErrorKind::Unsupported, "no page faults"));
        }
        Ok(())
    }

    /// Answers the group of page requests that `last` ends. Called once for each group.
    ///
    /// Context: as the handler's that answers; a group may be locked.
    fn answer(&self, last: &PageRequest, response: PageResponse) {
        let _ = (last, response);
    }

    /// Whether the hardware keeps the interrupt messages of different devices apart, so that the
    /// owner of one cannot raise those of another.
    fn isolates_msis(&self) -> bool {
        false
    }

    /// Forgets a device. The core has parked it, unless its attach was still deferred; this hook
    /// frees the backend's state and writes no table entry.
    fn release(&self, member: &mut Member);
}
assert_obj_safe!(IommuOps);
