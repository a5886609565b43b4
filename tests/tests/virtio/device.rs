//! What every virtio device has, with the transport to it: features, status and queues.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mock_hw::DmaDevice;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::virtqueue::{self, Port, Virtqueue};

/// `VIRTIO_F_INDIRECT_DESC` and `VIRTIO_F_VERSION_1` (virtio 1.2, 6).
const FEATURES: u64 = 1 << 28 | 1 << 32;
/// `VIRTIO_F_ACCESS_PLATFORM`: the device's addresses are translated on their way to memory.
pub(crate) const ACCESS_PLATFORM: u64 = 1 << 33;

/// What one type of device has of its own.
pub(crate) trait Model {
    const TYPE: DeviceType;

    fn config(&self) -> Vec<u8>;

    /// Does what it can of what is in its queues.
    fn serve(&mut self, port: &mut Port, queues: &mut [Option<Virtqueue>]) -> virtqueue::Result;
}

/// A device behind an IOMMU, and the transport to it. A clone is the same one.
pub(crate) struct VirtioDevice<M>(Arc<Mutex<State<M>>>);

struct State<M> {
    model: M,
    port: Port,
    offered: u64,
    accepted: u64,
    status: DeviceStatus,
    queues: [Option<Virtqueue>; 2],
}

impl<M: Model> VirtioDevice<M> {
    pub(crate) fn new(dma: DmaDevice, model: M) -> Self {
        Self::offering(FEATURES | ACCESS_PLATFORM, dma, model)
    }

    /// A device that takes addresses for physical ones, whatever is between it and memory.
    pub(crate) fn taking_physical_addresses(dma: DmaDevice, model: M) -> Self {
        Self::offering(FEATURES, dma, model)
    }

    fn offering(offered: u64, dma: DmaDevice, model: M) -> Self {
        Self(Arc::new(Mutex::new(State {
            model,
            port: Port::new(dma),
            offered,
            accepted: 0,
            status: DeviceStatus::empty(),
            queues: [None, None],
        })))
    }

    /// Every address where it did DMA, or tried to.
    pub(crate) fn seen(&self) -> Vec<PhysAddr> {
        self.state().port.seen().to_vec()
    }

    /// Where its queues are.
    pub(crate) fn queues(&self) -> Vec<PhysAddr> {
        let queues = &self.state().queues;
        queues.iter().flatten().flat_map(Virtqueue::areas).collect()
    }

    /// What it is like now.
    pub(crate) fn inspect<R>(&self, look: impl FnOnce(&M) -> R) -> R {
        look(&self.state().model)
    }

    /// Something happens to it, and it looks at its queues.
    pub(crate) fn happens(&self, what: impl FnOnce(&mut M)) {
        let state = &mut *self.state();
        what(&mut state.model);
        if state.status.contains(DeviceStatus::DRIVER_OK) {
            let served = state.model.serve(&mut state.port, &mut state.queues);
            served.expect("nothing it needs is refused");
        }
    }

    fn state(&self) -> MutexGuard<'_, State<M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> Clone for VirtioDevice<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M: Model> Transport for VirtioDevice<M> {
    fn device_type(&self) -> DeviceType {
        M::TYPE
    }
    fn read_device_features(&mut self) -> u64 {
        self.state().offered
    }
    fn write_driver_features(&mut self, features: u64) {
        let mut state = self.state();
        assert_eq!(
            features & !state.offered,
            0,
            "not offered (virtio 1.2, 2.2)"
        );
        state.accepted = features;
    }
    fn max_queue_size(&mut self, _: u16) -> u32 {
        16
    }
    fn notify(&mut self, _: u16) {
        self.happens(|_| ());
    }
    fn get_status(&self) -> DeviceStatus {
        self.state().status
    }
    fn set_status(&mut self, status: DeviceStatus) {
        let mut state = self.state();
        state.status = status;
        if status.is_empty() {
            (state.accepted, state.queues) = (0, [None, None]);
        }
        if status.contains(DeviceStatus::DRIVER_OK) {
            // From here on it does DMA. It may fail to operate without the feature (virtio 1.2,
            // 6.2), and has to: addresses could be physical ones, which the IOMMU would take for
            // others.
            assert_eq!(
                state.accepted & ACCESS_PLATFORM,
                ACCESS_PLATFORM,
                "VIRTIO_F_ACCESS_PLATFORM was not accepted"
            );
        }
    }
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, queue: u16, size: u32, table: u64, driver: u64, device: u64) {
        let size = u16::try_from(size).unwrap();
        let areas = [table, driver, device];
        self.state().queues[usize::from(queue)] = Some(Virtqueue::new(size, areas));
    }
    fn queue_unset(&mut self, queue: u16) {
        self.state().queues[usize::from(queue)] = None;
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        self.state().queues[usize::from(queue)].is_some()
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let config = self.state().model.config();
        let field = config.get(offset..).ok_or(Error::ConfigSpaceTooSmall)?;
        let (field, _) = T::read_from_prefix(field).map_err(|_| Error::ConfigSpaceTooSmall)?;
        Ok(field)
    }
    fn write_config_space<T: IntoBytes + Immutable>(&mut self, _: usize, _: T) -> Result {
        Err(Error::Unsupported)
    }
}
