//! What the owner of a unit decides.

use alloc::vec::Vec;
use core::time::Duration;

use iommu_core::{FirmwareRegion, Stage};

/// Which kind of tables a unit is driven with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Legacy mode where it can translate, scalable mode where only that can. Scalable mode has to
    /// be asked for where its first stage or its PASIDs are wanted.
    #[default]
    Auto,
    /// Legacy mode: second stage and pass-through, no PASIDs.
    Legacy,
    /// Scalable mode: first stage, second stage and pass-through, PASIDs.
    Scalable,
}

/// What becomes of devices at [`shutdown`](crate::IntelVtd::shutdown). A unit that does not
/// translate passes everything, so there is no way to switch it off and keep devices out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShutdownPolicy {
    /// Every device is refused, those of RMRRs too. Translation stays on, and the tables that say
    /// so are never freed.
    KeepBlocked,
    /// Translation goes off: every device reaches all of memory, as before the unit was taken over.
    /// The tables are freed with the last handle.
    PassThrough,
}

/// What the owner of a unit decides, and what firmware's tables say of it. The default suits most.
#[derive(Clone, Debug)]
pub struct Config {
    /// The longest that the hardware may take to answer.
    pub timeout: Duration,
    /// The RMRRs of firmware's DMAR table: the regions that devices behind this unit go on using.
    /// The source ids of those of kind [`Direct`](iommu_core::ReservedKind::Direct) and
    /// [`DirectRelaxable`](iommu_core::ReservedKind::DirectRelaxable) pass through from the moment
    /// translation is on, until a driver attaches something else. Firmware is often wrong: regions
    /// may be misaligned (they are widened to pages where they are mapped), listed twice, or of
    /// devices behind other units, which does no harm; a stream that is not a source id is logged.
    pub rmrrs: Vec<FirmwareRegion>,
    /// The kind of tables.
    pub mode: Mode,
    /// The stage of paging domains that leave it to the driver; [`Stage::Any`] for the second where
    /// there is one.
    pub stage: Stage,
    /// log2 of the number of descriptors in the invalidation queue; between a page of 4 KiB (8, in
    /// scalable mode 7) and 128 of them.
    pub queue_log2: u8,
    /// The width of physical addresses, as the DMAR table has it; `None` for the widest guest
    /// address that the unit can have, which is never less (11.4.2, MGAW).
    pub host_address_bits: Option<u8>,
}

impl Default for Config {
    /// A second for each answer, no RMRR, [`Mode::Auto`], [`Stage::Any`], 256 descriptors.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            rmrrs: Vec::new(),
            mode: Mode::default(),
            stage: Stage::Any,
            queue_log2: 8,
            host_address_bits: None,
        }
    }
}
