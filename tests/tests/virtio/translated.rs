//! The transport of a device whose addresses are translated: to copy into a kernel, with the `Hal`.

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::device::ACCESS_PLATFORM;

/// Accepts `VIRTIO_F_ACCESS_PLATFORM` for a driver.
///
/// The drivers of the crate, as of 0.13, never do, though every address that they give to a device
/// comes from their `Hal`. A driver should (virtio 1.2, 6.1), and a device behind an IOMMU may fail
/// to operate otherwise (6.2), or take IOVAs for physical addresses.
pub(crate) struct Translated<T>(T);

impl<T: Transport> Translated<T> {
    /// [`Error::Unsupported`] where the device does not offer the feature: it would use physical
    /// addresses.
    pub(crate) fn new(mut transport: T) -> Result<Self> {
        transport.set_status(DeviceStatus::empty());
        transport.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER);
        if transport.read_device_features() & ACCESS_PLATFORM == 0 {
            transport.set_status(DeviceStatus::FAILED);
            return Err(Error::Unsupported);
        }
        Ok(Self(transport))
    }
}

impl<T: Transport> Transport for Translated<T> {
    fn write_driver_features(&mut self, features: u64) {
        self.0.write_driver_features(features | ACCESS_PLATFORM);
    }

    fn device_type(&self) -> DeviceType {
        self.0.device_type()
    }
    fn read_device_features(&mut self) -> u64 {
        self.0.read_device_features()
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.0.max_queue_size(queue)
    }
    fn notify(&mut self, queue: u16) {
        self.0.notify(queue);
    }
    fn get_status(&self) -> DeviceStatus {
        self.0.get_status()
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.0.set_status(status);
    }
    fn set_guest_page_size(&mut self, size: u32) {
        self.0.set_guest_page_size(size);
    }
    fn requires_legacy_layout(&self) -> bool {
        self.0.requires_legacy_layout()
    }
    fn queue_set(&mut self, queue: u16, size: u32, table: u64, driver: u64, device: u64) {
        self.0.queue_set(queue, size, table, driver, device);
    }
    fn queue_unset(&mut self, queue: u16) {
        self.0.queue_unset(queue);
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.queue_used(queue)
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.0.ack_interrupt()
    }
    fn read_config_generation(&self) -> u32 {
        self.0.read_config_generation()
    }
    fn read_config_space<F: FromBytes + IntoBytes>(&self, offset: usize) -> Result<F> {
        self.0.read_config_space(offset)
    }
    fn write_config_space<F: IntoBytes + Immutable>(&mut self, offset: usize, to: F) -> Result {
        self.0.write_config_space(offset, to)
    }
}
