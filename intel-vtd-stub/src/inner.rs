//! One unit, running: what its handle, its domains and its devices share.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use iommu_core::{DomainRef, Error, ErrorKind, Ids, Platform, Result};
use lock_api::Mutex;

use crate::config::Config;
use crate::faults::FaultRecords;
use crate::features::Features;
use crate::queue::Queue;
use crate::spec::Gcmd;
use crate::tables::Tables;
use crate::unit::Unit;
use crate::write::Target;

/// The domain id of entries that pass through. With CAP.CM, hardware tags what is not present with
/// 0, so that one is no domain's.
pub(crate) const PASS_THROUGH_DID: u16 = 1;

pub(crate) struct Inner<P: Platform> {
    pub(crate) unit: Unit<P>,
    pub(crate) features: Features,
    pub(crate) config: Config,
    pub(crate) queue: Queue<P::Memory, P::IrqLock>,
    pub(crate) faults: FaultRecords<P::IrqLock>,
    pub(crate) dids: Ids<P::IrqLock>,
    pub(crate) blocked: Fixed,
    /// Where the hardware can let devices pass.
    pub(crate) identity: Option<Fixed>,
    /// How often a wait for entries failed since the hardware was last known to use no others than
    /// those in memory.
    pub(crate) doubts: AtomicU64,
    /// Whether devices can be attached: until the unit is shut down.
    pub(crate) running: AtomicBool,
    pub(crate) state: Mutex<P::BlockingLock, State<P>>,
}

/// A domain that there is one of.
pub(crate) struct Fixed {
    pub(crate) domain: DomainRef,
    /// What the entries say that are on it.
    pub(crate) target: Target,
}

pub(crate) struct State<P: Platform> {
    pub(crate) tables: Tables<P::Memory, P::BlockingLock>,
    pub(crate) switches: Gcmd,
    /// Whether hardware may be reading the tables.
    pub(crate) walked: bool,
    /// Whether hardware may be reading the queue.
    pub(crate) queued: bool,
}

impl<P: Platform> Inner<P> {
    /// # Errors
    ///
    /// [`ErrorKind::NotPermitted`] after a shutdown.
    pub(crate) fn check_running(&self) -> Result {
        if self.running.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NotPermitted,
            "translation was shut down",
        ))
    }
}

impl<P: Platform> Drop for Inner<P> {
    fn drop(&mut self) {
        let State {
            tables,
            walked,
            queued,
            ..
        } = self.state.get_mut();
        if *walked {
            log::warn!(
                "the root table at {} and all below it are never freed: the hardware may be \
                 reading them",
                tables.root()
            );
            tables.leak();
        }
        if *queued {
            self.queue.leak();
        }
    }
}

/// A rule of this crate was broken inside it.
pub(crate) fn internal(reason: &'static str) -> Error {
    Error::new(ErrorKind::Internal, reason)
}
