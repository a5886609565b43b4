//! The driver's object: one remapping unit, running.

use alloc::sync::Arc;
use core::fmt;

use iommu_core::{Platform, Result};

use crate::bring_up::bring_up;
use crate::config::{Config, ShutdownPolicy};
use crate::features::Features;
use crate::inner::Inner;
use crate::spec::Fault;

/// A VT-d remapping unit that is translating: every device is refused, but for those that firmware
/// goes on using and those that a domain is attached to.
///
/// A cheap handle; clones are the same unit. One of them is given to
/// [`Iommu::new`](iommu_core::Iommu::new); another is kept for faults and
/// [`shutdown`](Self::shutdown). Dropping the last one leaves translation on, with every device
/// where it is, and never frees the tables. Units share nothing: a platform with several has one of
/// these for each.
pub struct IntelVtd<P: Platform> {
    pub(crate) inner: Arc<Inner<P>>,
}

impl<P: Platform> IntelVtd<P> {
    /// Takes over a remapping unit. When this returns `Ok`, translation is on: the devices that
    /// `config` lists an RMRR for pass through, and every other device's DMA is refused.
    ///
    /// Until translation is on, VT-d passes everything that firmware's protected memory regions do
    /// not keep out, so a device left active by firmware reaches all other memory up to the end of
    /// this call; there is no way to refuse it earlier on every unit. A unit that firmware left
    /// translating in the mode that is wanted changes over to the new tables without such a gap; one
    /// left in another mode is switched off first. Firmware's protected memory regions end once
    /// translation is on. Without ECAP.PT nothing can pass through, and RMRR devices are refused
    /// too, which a warning says, until a paging domain with their regions mapped is attached.
    ///
    /// The caller keeps out of GCMD_REG and of the invalidation queue from here on; interrupt
    /// remapping that is on stays on.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// - [`InvalidArgument`]: the register bank is too small, or the platform's memory says it is
    ///   coherent and the hardware says it is not;
    /// - [`Unsupported`]: no queued invalidation, or not the mode that was asked for; the error
    ///   names the register;
    /// - [`Hardware`]: its capabilities contradict the architecture;
    /// - [`OutOfMemory`], [`OutOfRange`]: no memory for the tables, or none that it can address.
    ///
    /// In all these the hardware was not touched, and nothing is kept. Further:
    ///
    /// - [`IommuTimedOut`]: the hardware did not answer; the error names the register or the
    ///   descriptor;
    /// - [`Hardware`]: it answered with something the architecture does not allow.
    ///
    /// What the hardware may be using is then kept for good.
    ///
    /// [`InvalidArgument`]: iommu_core::ErrorKind::InvalidArgument
    /// [`Unsupported`]: iommu_core::ErrorKind::Unsupported
    /// [`Hardware`]: iommu_core::ErrorKind::Hardware
    /// [`OutOfMemory`]: iommu_core::ErrorKind::OutOfMemory
    /// [`OutOfRange`]: iommu_core::ErrorKind::OutOfRange
    /// [`IommuTimedOut`]: iommu_core::ErrorKind::IommuTimedOut
    pub fn probe(platform: P, config: Config) -> Result<Self> {
        let inner = Arc::new(bring_up(platform, config)?);
        Ok(Self { inner })
    }

    /// What the hardware can do.
    #[must_use]
    pub fn features(&self) -> &Features {
        &self.inner.features
    }

    /// The oldest fault that was not looked at. For the interrupt of faults, which the platform sets
    /// up in FECTL, FEDATA, FEADDR and FEUADDR, or for polling; call it until it returns `None`.
    ///
    /// Context: interrupt-safe; does not wait.
    #[must_use]
    pub fn next_fault(&self) -> Option<Fault> {
        self.inner.faults.next(&self.inner.unit)
    }

    /// How often faults were lost because all records were full.
    #[must_use]
    pub fn fault_overflows(&self) -> u64 {
        self.inner.faults.overflows()
    }

    /// Hands the unit over: devices do what `policy` says. Attaching fails from here on, and what
    /// devices were said to be attached to no longer counts. It can be called again, with another
    /// policy too.
    ///
    /// Context: may block. Nobody else attaches or adds devices meanwhile.
    ///
    /// # Errors
    ///
    /// - [`IommuTimedOut`](iommu_core::ErrorKind::IommuTimedOut): the hardware did not confirm. What
    ///   it might be using is never freed;
    /// - [`NotPermitted`](iommu_core::ErrorKind::NotPermitted): devices are to be kept out, but
    ///   translation is off already.
    pub fn shutdown(&self, policy: ShutdownPolicy) -> Result {
        self.inner.shutdown(policy)
    }
}

impl<P: Platform> Clone for IntelVtd<P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<P: Platform> fmt::Debug for IntelVtd<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntelVtd")
            .field("features", &self.inner.features)
            .finish_non_exhaustive()
    }
}
