//! Devices whose DMA leaves the caches of their IOMMU alone.
//!
//! What they write they know from before, and what they read they tell afterwards: the harness looks at
//! QEMU's device with translation off, and QEMU's VT-d forgets everything then.

use std::cell::RefCell;
use std::ops::Range;

use mock_hw::DmaDevice;

use crate::qemu::Edu;

/// The number of words in a device's buffer.
pub(super) const SLOTS: usize = 1024;

/// A device with a buffer of 32-bit words.
pub(super) trait Device {
    /// Fills the buffer from its start; translation is off.
    fn fill(&self, values: &[u32]);
    /// Writes the first `size` bytes of a word of the buffer.
    fn write(&self, slot: usize, size: usize, iova: u64);
    /// Reads into the first `size` bytes of a word of the buffer: zeros, where it is refused.
    fn read(&self, slot: usize, size: usize, iova: u64);
    /// Some words of the buffer, as bytes; translation is off.
    fn tell(&self, slots: Range<usize>) -> Vec<u8>;
}

fn bytes(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

impl Device for Edu {
    fn fill(&self, values: &[u32]) {
        Self::fill(self, 0, &bytes(values));
    }

    fn write(&self, slot: usize, size: usize, iova: u64) {
        self.send(slot * 4, size, iova);
    }

    fn read(&self, slot: usize, size: usize, iova: u64) {
        self.receive(slot * 4, size, iova);
    }

    fn tell(&self, slots: Range<usize>) -> Vec<u8> {
        let mut bytes = vec![0; slots.len() * 4];
        self.fetch(slots.start * 4, &mut bytes);
        bytes
    }
}

/// A device behind a model.
#[derive(Debug)]
pub(super) struct ModelDevice {
    device: DmaDevice,
    buffer: RefCell<Vec<u8>>,
}

impl ModelDevice {
    pub(super) fn new(device: DmaDevice) -> Self {
        Self {
            device,
            buffer: RefCell::default(),
        }
    }
}

impl Device for ModelDevice {
    fn fill(&self, values: &[u32]) {
        *self.buffer.borrow_mut() = bytes(values);
    }

    fn write(&self, slot: usize, size: usize, iova: u64) {
        let bytes = &self.buffer.borrow()[slot * 4..][..size];
        // A device that was refused does not tell.
        let _ = self.device.write(iova, bytes);
    }

    fn read(&self, slot: usize, size: usize, iova: u64) {
        let to = &mut self.buffer.borrow_mut()[slot * 4..][..size];
        to.fill(0);
        let _ = self.device.read(iova, to);
    }

    fn tell(&self, slots: Range<usize>) -> Vec<u8> {
        self.buffer.borrow()[slots.start * 4..slots.end * 4].to_vec()
    }
}
