//! What a test or an example runs on: hardware with an IOMMU and DMA masters behind it.

use iommu_core::{BasicPlatform, Clock, Iova, RegisterBank, StreamId};
use mock_hw::MockMemory;

/// A device that does DMA when it is told to.
pub trait Master {
    /// The stream that its DMA presents: a StreamID, or a source id.
    fn stream(&self) -> StreamId;
    /// Writes `bytes` from `iova` on. What is refused is not written; the device does not tell.
    fn write(&self, iova: Iova, bytes: &[u8]);
    /// Reads from `iova` on. What is refused is left as it was, or becomes zero; the device does
    /// not tell.
    fn read(&self, iova: Iova, to: &mut [u8]);
}

/// Hardware with an IOMMU and DMA masters behind it.
pub trait Machine {
    /// The IOMMU's registers.
    type Bank: RegisterBank + Clone;
    /// What bounds waits for it.
    type Clock: Clock + Clone;

    /// What the driver gets.
    fn platform(&self) -> BasicPlatform<Self::Bank, MockMemory, Self::Clock>;
    /// The memory that driver and devices share.
    fn memory(&self) -> MockMemory;
    /// The masters.
    fn masters(&self) -> Vec<&dyn Master>;
}
