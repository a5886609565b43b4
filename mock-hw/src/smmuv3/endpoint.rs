//! Devices with an address translation cache (ATC) of their own.

use iommu_core::{DeviceControl, Error, ErrorKind, PhysAddr};

use super::SmmuModel;
use super::atc::Endpoint;
use super::events::Transaction;
use crate::device::{Access, Outcome, Translate};
use crate::memory::MockMemory;

/// What happened to a device's ATS, as the device sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtsEvent {
    /// It was switched on.
    On,
    /// It was switched off.
    Off,
    /// It was told to invalidate translations, and did.
    Invalidated {
        /// Of this PASID alone; `None` for all, and for what has no PASID.
        pasid: Option<u32>,
        /// The first address.
        first: u64,
        /// The last address.
        last: u64,
    },
}

impl AtsEvent {
    /// Everything was invalidated.
    pub const EVERYTHING: Self = Self::Invalidated {
        pasid: None,
        first: 0,
        last: u64::MAX,
    };
}

/// A PCIe function with an address translation cache (ATC), behind an [`SmmuModel`].
///
/// It has ATS off at first and sends what it is told to as it is. Switched on, by the driver through
/// its [`DeviceControl`], it asks for a translation of each page, keeps what it gets until it is told
/// to invalidate that, and sends translated transactions; what it gets no translation for is
/// [`Outcome::Aborted`]. Switched off, it keeps what it had, and uses that again when it is switched
/// on: nothing but CMD_ATC_INV empties the cache.
///
/// Where software breaks the rules of ATS, that is a [violation](SmmuModel::violations) (3.9.1, 3.9.2):
///
/// - it is switched on before all of its cache was invalidated since it was last on;
/// - requests or translated transactions are refused for the stream's entry, while it is on;
/// - the entry changes before a CMD_ATC_INV has completed after it was switched off: what was under
///   way is refused;
/// - it uses a translation after CMD_ATC_INV of it has completed, which it was given once more by a
///   TLB, or through a stream's entry, whose own invalidation had not;
/// - translation is turned off while it is on.
///
/// A device that [does not answer](SmmuModel::kill_atc) for one of its streams, or
/// [cannot be switched off](Self::fail_switch), excuses software, until all of its cache has been
/// invalidated again.
///
/// ```
/// use iommu_core::{DeviceControl, PhysAddr};
/// use mock_hw::smmuv3::{AtsDevice, AtsEvent, ModelConfig, SmmuModel};
/// use mock_hw::{DmaDevice, MockMemory};
///
/// let memory = MockMemory::new(PhysAddr(0x4000_0000), 0x1_0000);
/// let smmu = SmmuModel::new(memory, ModelConfig::default());
/// let gpu = AtsDevice::new(&smmu, [0x10]);
/// let dma = DmaDevice::new(&gpu, 0x10);
/// // Out of reset, everything passes, and nobody has touched the device's switch.
/// let _ = dma.read(0x4000_0000, &mut [0; 4]);
/// gpu.set_ats(false)?;
/// assert_eq!(gpu.events(0x10), [AtsEvent::Off]);
/// # Ok::<(), iommu_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct AtsDevice {
    model: SmmuModel,
    streams: Vec<u32>,
}

impl AtsDevice {
    /// A device that presents these StreamIDs, each with a cache of its own behind one switch. It is
    /// where CMD_ATC_INV for them goes from now on.
    #[must_use]
    pub fn new(model: &SmmuModel, streams: impl IntoIterator<Item = u32>) -> Self {
        let streams: Vec<u32> = streams.into_iter().collect();
        let device = streams.first().copied().unwrap_or_default();
        let endpoints = streams.iter().map(|stream| (*stream, Endpoint::of(device)));
        model.state().endpoints.extend(endpoints);
        Self {
            model: model.clone(),
            streams,
        }
    }

    fn each(&self, mut change: impl FnMut(&mut Endpoint)) {
        let mut state = self.model.state();
        for stream in &self.streams {
            state.endpoints.get_mut(stream).map(&mut change);
        }
    }

    /// What happened to the ATS of a stream of it since it was made, or since
    /// [`clear_events`](Self::clear_events).
    #[must_use]
    pub fn events(&self, stream: u32) -> Vec<AtsEvent> {
        let state = self.model.state();
        let endpoint = state.endpoints.get(&stream);
        endpoint.map(|of| of.log.clone()).unwrap_or_default()
    }

    /// Forgets what happened.
    pub fn clear_events(&self) {
        self.each(|endpoint| endpoint.log.clear());
    }

    /// Whether ATS is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        let state = self.model.state();
        self.streams.iter().any(|stream| state.uses_ats(*stream))
    }

    /// The address that a page of 4 KiB is translated to without PASID, if the cache has it.
    #[must_use]
    pub fn cached(&self, stream: u32, iova: u64) -> Option<PhysAddr> {
        let state = self.model.state();
        let page = state
            .endpoints
            .get(&stream)?
            .pages
            .get(&(None, iova & !0xfff))?;
        Some(PhysAddr(page.address))
    }

    /// Lets [`set_ats`](DeviceControl::set_ats) fail, without effect; or succeed again.
    pub fn fail_switch(&self, fails: bool) {
        self.each(|endpoint| endpoint.switch_fails = fails);
    }

    /// Takes the device away: it does no DMA, answers nothing and cannot be switched.
    pub fn unplug(&self) {
        self.each(|endpoint| endpoint.unplugged = true);
        self.streams
            .iter()
            .for_each(|stream| self.model.kill_atc(*stream, true));
    }
}

impl Translate for AtsDevice {
    fn transact(&self, stream: u32, substream: Option<u32>, iova: u64, access: Access) -> Outcome {
        let mut state = self.model.state();
        state.moment();
        state.endpoint_access(&Transaction::new(stream, substream, iova, access))
    }

    fn memory(&self) -> &MockMemory {
        self.model.memory()
    }
}

impl DeviceControl for AtsDevice {
    fn is_reachable(&self) -> bool {
        let state = self.model.state();
        let plugged = |stream| state.endpoints.get(stream).is_some_and(|of| !of.unplugged);
        self.streams.iter().all(plugged)
    }

    fn has_ats(&self) -> bool {
        true
    }

    fn set_ats(&self, on: bool) -> iommu_core::Result {
        let mut fails = false;
        self.each(|endpoint| fails |= endpoint.switch_fails || endpoint.unplugged);
        if fails {
            self.each(|endpoint| endpoint.failed |= !on);
            return Err(Error::new(ErrorKind::Hardware, "the switch does not move"));
        }
        let mut state = self.model.state();
        for stream in &self.streams {
            state.switch_ats(*stream, on);
        }
        Ok(())
    }
}
