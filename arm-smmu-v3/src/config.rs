//! What the owner of an SMMU decides.

use alloc::vec::Vec;
use core::time::Duration;

use iommu_core::FirmwareRegion;

/// How the stream table is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StreamTableFormat {
    /// Two levels where the hardware has them and more than 256 streams, else linear.
    #[default]
    Auto,
    /// One array; at most 65,536 streams.
    Linear,
    /// Two levels, the second allocated per 256 streams when a device needs it.
    TwoLevel,
}

/// What happens to DMA after [`shutdown`](crate::ArmSmmuV3::shutdown).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShutdownPolicy {
    /// All of it is terminated, firmware's 1:1 regions too.
    Abort,
    /// All of it passes untranslated, as before most operating systems start.
    Bypass,
}

/// What the owner of an SMMU decides. The default suits most.
#[derive(Clone, Debug)]
pub struct Config {
    /// The regions that firmware asked to keep mapped 1:1 (IORT RMR nodes). Their streams are
    /// open from before translation is enabled until a driver attaches something else.
    pub rmrs: Vec<FirmwareRegion>,
    /// The stream table's layout.
    pub stream_table: StreamTableFormat,
    /// How many bits of a StreamID the stream table covers; cut down to what the hardware has.
    /// Streams beyond it are terminated with an event.
    pub stream_bits: u8,
    /// log2 of the number of commands in the command queue; cut down to what the hardware has.
    pub command_queue_log2: u8,
    /// log2 of the number of events in the event queue; cut down to what the hardware has.
    pub event_queue_log2: u8,
    /// The longest that the hardware may take to answer.
    ///
    /// A device that does not answer an invalidation of its own cache (ATS) holds up the SMMU until
    /// the root complex gives it up (3.9.1.4): PCIe allows it a minute and more. Only where this is
    /// longer than that is the error one of the device
    /// ([`DeviceTimedOut`](iommu_core::ErrorKind::DeviceTimedOut)); otherwise it looks as if the
    /// SMMU were dead.
    pub timeout: Duration,
    /// Enables the wired interrupts of the event queue and of global errors. Their handlers call
    /// [`next_event`](crate::ArmSmmuV3::next_event) and
    /// [`handle_global_errors`](crate::ArmSmmuV3::handle_global_errors).
    pub interrupts: bool,
}

impl Default for Config {
    /// No RMRs, all streams, 256 commands, 128 events, one second, no interrupts.
    fn default() -> Self {
        Self {
            rmrs: Vec::new(),
            stream_table: StreamTableFormat::default(),
            stream_bits: 32,
            command_queue_log2: 8,
            event_queue_log2: 7,
            timeout: Duration::from_secs(1),
            interrupts: false,
        }
    }
}
