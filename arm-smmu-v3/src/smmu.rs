//! The driver's object: one SMMU, running.

use alloc::sync::Arc;
use core::fmt;
use core::iter;

use iommu_core::entry::Target;
use iommu_core::{DomainRef, Error, ErrorKind, Ids, Platform, Result, StreamId};
use lock_api::Mutex;

use crate::ats::Endpoints;
use crate::command_queue::CommandQueue;
use crate::config::{Config, ShutdownPolicy};
use crate::entries::WalkAttributes;
use crate::event_queue::EventQueue;
use crate::features::Features;
use crate::hardware::Hardware;
use crate::spec::commands::Command;
use crate::spec::events::Event;
use crate::spec::registers::{Gerror, offset};
use crate::spec::ste::{Ste, WORDS};
use crate::stream_table::{StreamEntry, StreamTable};

/// An SMMUv3 that is translating: every stream aborts, but for those that firmware asked to keep
/// open and those that a domain is attached to.
///
/// A cheap handle; clones are the same SMMU. One of them is given to
/// [`Iommu::new`](iommu_core::Iommu::new); another is kept for interrupts, inspection and
/// [`shutdown`](Self::shutdown). When the last is gone, and with it the last domain, the SMMU is
/// shut down so that everything aborts.
pub struct ArmSmmuV3<P: Platform> {
    pub(crate) inner: Arc<Inner<P>>,
}

pub(crate) struct Inner<P: Platform> {
    pub(crate) hardware: Hardware<P>,
    pub(crate) features: Features,
    pub(crate) config: Config,
    pub(crate) walk: WalkAttributes,
    pub(crate) streams: StreamTable<P::Memory, P::BlockingLock>,
    pub(crate) commands: CommandQueue<P::Memory, P::IrqLock>,
    pub(crate) events: EventQueue<P::Memory, P::IrqLock>,
    pub(crate) asids: Ids<P::IrqLock>,
    pub(crate) vmids: Ids<P::IrqLock>,
    pub(crate) blocked: DomainRef,
    pub(crate) identity: DomainRef,
    pub(crate) abort: Target<Ste, WORDS>,
    pub(crate) bypass: Target<Ste, WORDS>,
    pub(crate) endpoints: Endpoints<P::BlockingLock>,
    pub(crate) power: Mutex<P::BlockingLock, Power>,
}

/// Whether the hardware may be reading the driver's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Power {
    /// Not told about any memory yet.
    Untouched,
    /// Translating, or on the way there.
    On,
    /// Off, and that is confirmed.
    Off,
    /// Nobody knows.
    Stuck,
}

/// Global errors (6.3.17), as found by
/// [`handle_global_errors`](ArmSmmuV3::handle_global_errors).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct GlobalErrors(pub(crate) Gerror);

impl GlobalErrors {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == Gerror::new()
    }

    /// The errors by their bits in `SMMU_GERROR`.
    #[must_use]
    pub fn bits(&self) -> Gerror {
        self.0
    }

    /// The SMMU has gone into service failure mode: it does nothing any more.
    #[must_use]
    pub fn service_failure(&self) -> bool {
        self.0.sfm()
    }
}

impl fmt::Display for GlobalErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = [
            (self.0.cmdq(), "command refused"),
            (self.0.eventq_abt(), "event queue write aborted"),
            (self.0.priq_abt(), "PRI queue write aborted"),
            (self.0.msi_cmdq_abt(), "command queue MSI aborted"),
            (self.0.msi_eventq_abt(), "event queue MSI aborted"),
            (self.0.msi_priq_abt(), "PRI queue MSI aborted"),
            (self.0.msi_gerror_abt(), "global error MSI aborted"),
            (self.0.sfm(), "service failure mode"),
        ];
        let mut names = errors
            .iter()
            .filter(|(active, _)| *active)
            .map(|(_, name)| name);
        match names.next() {
            None => write!(f, "none known ({:#x})", u32::from(self.0)),
            Some(first) => {
                f.write_str(first)?;
                names.try_for_each(|name| write!(f, ", {name}"))
            }
        }
    }
}

impl fmt::Debug for GlobalErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GlobalErrors({self})")
    }
}

impl<P: Platform> ArmSmmuV3<P> {
    /// Finds out what the SMMU can do, resets it, and lets it translate. When this returns `Ok`,
    /// every stream aborts silently, but for those with an RMR in `config`, which pass.
    ///
    /// An SMMU that firmware left open, with RMR streams, stays open until translation is enabled,
    /// so that their DMA does not break off; in every other case everything aborts meanwhile.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Unsupported`]: this driver cannot drive it; says why, and by which register.
    ///   The SMMU was only read from.
    /// - [`ErrorKind::OutOfMemory`]: nothing was changed.
    /// - [`ErrorKind::IommuTimedOut`], [`ErrorKind::Hardware`]: it does not do as it is told. It is
    ///   off, unless it does not even acknowledge that; memory it might be reading is then never
    ///   freed.
    pub fn probe(platform: P, config: Config) -> Result<Self> {
        crate::reset::bring_up(platform, config).map(|inner| Self {
            inner: Arc::new(inner),
        })
    }

    /// What the hardware can do.
    #[must_use]
    pub fn features(&self) -> &Features {
        &self.inner.features
    }

    /// The stream's entry as it stands in memory, for people to look at; `None` for a stream beyond
    /// the table.
    ///
    /// Context: may block.
    #[must_use]
    pub fn stream_entry(&self, stream: StreamId) -> Option<Ste> {
        self.inner.streams.read(stream)
    }

    /// The oldest event that was not looked at. For the interrupt of the event queue, or for
    /// polling; call it until it returns `None`.
    ///
    /// Context: interrupt-safe; does not wait.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Hardware`] where the queue's index cannot be; the events in the queue are lost.
    pub fn next_event(&self) -> Result<Option<Event>> {
        self.inner.events.next(&self.inner.hardware)
    }

    /// How often events were lost because the queue was full.
    #[must_use]
    pub fn event_overflows(&self) -> u64 {
        self.inner.events.overflows()
    }

    /// Finds out which global errors are active and acknowledges them; a refused command is
    /// replaced, so that the queue goes on, and reported to whoever waits for it. For the interrupt
    /// of global errors, or for polling.
    ///
    /// Context: interrupt-safe; waits for no hardware, and for whoever is submitting commands no longer
    /// than twice the bound of waits.
    pub fn handle_global_errors(&self) -> GlobalErrors {
        let Inner {
            hardware, commands, ..
        } = &*self.inner;
        let active = hardware.read32(offset::GERROR) ^ hardware.read32(offset::GERRORN);
        commands.check(hardware);
        // Where that is not possible, the errors stay active, and are found again.
        let _ = commands.with_gerrorn(hardware, || {
            let raised = Gerror::from(hardware.read32(offset::GERROR));
            let seen = Gerror::from(hardware.read32(offset::GERRORN));
            // The command queue's error is acknowledged by its recovery alone.
            let acknowledged = raised.with_cmdq(seen.cmdq());
            if acknowledged != seen {
                hardware.write32(offset::GERRORN, acknowledged.into());
            }
        });
        let errors = GlobalErrors(Gerror::from(active));
        if errors.0.eventq_abt() {
            // A write that was aborted may have been any of those that seem to be there (7.2.2).
            self.inner.events.discard(hardware);
        }
        if !errors.is_empty() {
            log::error!("global errors: {errors}");
        }
        errors
    }

    /// Turns translation off. When this returns `Ok`, DMA does what `policy` says, no memory of the
    /// driver is used by the SMMU, and attaches reach nothing: they are for a running SMMU. An SMMU
    /// that is off already takes the new policy.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::IommuTimedOut`]: the SMMU does not acknowledge, now or at an earlier attempt.
    /// What it might be reading is never freed. Translation is not turned off before `policy` is in
    /// force.
    pub fn shutdown(&self, policy: ShutdownPolicy) -> Result {
        self.inner.shutdown(policy)
    }
}

impl<P: Platform> Inner<P> {
    /// Tells the hardware to forget what `commands` name, and waits until it has.
    #[inline]
    pub(crate) fn invalidate(&self, commands: impl IntoIterator<Item = Command>) -> Result {
        self.commands.run(&self.hardware, commands)
    }

    /// The same for one command, whose words come in registers.
    #[inline(never)]
    pub(crate) fn invalidate_one(&self, first: u64, second: u64) -> Result {
        self.invalidate(iter::once(Command([first, second])))
    }

    /// Makes sure that `stream` has an entry of its own.
    pub(crate) fn reach(&self, stream: StreamId) -> Result<StreamEntry<P::Memory>> {
        let (entry, fresh) = self.streams.reach(stream)?;
        if fresh {
            self.invalidate([Command::cfgi_ste(stream, false)])?;
            self.streams.in_force(stream);
        }
        Ok(entry)
    }

    pub(crate) fn leak(&self) {
        self.streams.leak();
        self.commands.leak();
        self.events.leak();
    }
}

impl<P: Platform> Drop for Inner<P> {
    fn drop(&mut self) {
        if *self.power.get_mut() == Power::On {
            // What comes of it shows in the state.
            let _ = self.shutdown(ShutdownPolicy::Abort);
        }
        if *self.power.get_mut() == Power::Stuck {
            log::error!("the SMMU could not be shut down, its memory is never freed");
            self.leak();
        }
    }
}

impl<P: Platform> Clone for ArmSmmuV3<P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<P: Platform> fmt::Debug for ArmSmmuV3<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArmSmmuV3")
            .field("features", &self.inner.features)
            .finish_non_exhaustive()
    }
}

/// An encoding or a domain that this driver has no use for.
pub(crate) fn unsupported(reason: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, reason)
}
