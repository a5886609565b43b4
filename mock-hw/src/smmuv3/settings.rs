//! What kind of SMMU a model is.

use iommu_core::Atomicity;

use super::bits::part;
use super::config::{Context, Stage1, StreamConfig};
use super::decode;
use super::order::Order;

/// The identification registers and reset values of a model (6.3.1 to 6.3.8).
///
/// The default is the SMMU of QEMU's `virt` machine with nested stages: both stages, 16-bit ASIDs
/// and VMIDs, 16-bit StreamIDs, two-level stream tables, range invalidation, all granules, 44-bit
/// addresses; no substreams, stalls, ATS, PRI, MSIs and hardware update of flags.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// `SMMU_IDR0`.
    pub idr0: u32,
    /// `SMMU_IDR1`.
    pub idr1: u32,
    /// `SMMU_IDR2`.
    pub idr2: u32,
    /// `SMMU_IDR3`.
    pub idr3: u32,
    /// `SMMU_IDR4`.
    pub idr4: u32,
    /// `SMMU_IDR5`.
    pub idr5: u32,
    /// `SMMU_IIDR`.
    pub iidr: u32,
    /// `SMMU_AIDR`; the model behaves as SMMUv3.2 in all that is not told by other registers.
    pub aidr: u32,
    /// What `SMMU_GBPA` is reset to.
    pub gbpa: u32,
    /// What registers are reset to whose reset value is UNKNOWN.
    pub unknown: u64,
    /// Whether a changed register is acknowledged only after its acknowledgement was read once, and
    /// has no effect until then. Otherwise it is acknowledged at once.
    pub slow_acks: bool,
    /// Whether `SMMU_EVENTQ_PROD` and the like are found in page 0 too, which is optional. Where they
    /// are not, an access to them there is a violation.
    pub page0_alias: bool,
    /// When invalidations are done.
    pub order: Order,
    /// Decides whatever is left to chance: all of [`Order::Random`], and what is cached and used in
    /// [`partial`](Self::partial) mode.
    pub seed: u64,
    /// What of a stream table entry or context descriptor is fetched as one; `None` for what the
    /// memory promises ([`DmaMemory::atomicity`](iommu_core::DmaMemory::atomicity)).
    pub fetches: Option<Atomicity>,
    /// Whether each part of an entry that is [fetched](Self::fetches) as one is cached on its own,
    /// at random moments, and an entry is made of any mixture of words that are cached and words
    /// that memory has, until they are invalidated (3.21.3). Otherwise entries are cached whole, as
    /// they were when first used.
    pub partial: bool,
    /// How many reads of `SMMU_CMDQ_CONS` after a write of `SMMU_CMDQ_PROD` see nothing of the new
    /// commands; then all are consumed. Software that does not look waits for ever.
    pub lag: usize,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            idr0: 0x0d44_101b,
            idr1: 0x0273_0010,
            idr2: 0,
            idr3: 0x1414,
            idr4: 0,
            idr5: 0x74,
            iidr: 0,
            aidr: 1,
            gbpa: 0x1000,
            unknown: 0,
            slow_acks: true,
            page0_alias: false,
            order: Order::Adverse,
            seed: 0,
            fetches: None,
            partial: false,
            lag: 0,
        }
    }
}

impl ModelConfig {
    /// The default without stage 2.
    #[must_use]
    pub fn stage1() -> Self {
        Self {
            idr0: 0x0d44_101a,
            idr3: 0x1404,
            ..Self::default()
        }
    }

    /// The default without stage 1.
    #[must_use]
    pub fn stage2() -> Self {
        Self {
            idr0: 0x0d44_1019,
            ..Self::default()
        }
    }

    /// What such an SMMU makes of a stream table entry with these words. A context descriptor is not
    /// looked at.
    ///
    /// # Errors
    ///
    /// Why the entry is not valid.
    pub fn decode_stream(&self, ste: &[u64; 8]) -> Result<StreamConfig, &'static str> {
        decode::stream_table_entry(self, ste).map(|ste| ste.stream_config())
    }

    /// What such an SMMU makes of a context descriptor with these words, in a stream with this
    /// stage 1.
    ///
    /// # Errors
    ///
    /// Why the descriptor is not valid.
    pub fn decode_context(&self, stage1: &Stage1, cd: &[u64; 8]) -> Result<Context, &'static str> {
        decode::context(self, stage1, cd)
    }

    /// One bit of `SMMU_IDR0`.
    pub(super) fn idr0_bit(&self, at: u32) -> bool {
        part(self.idr0, at, at) == 1
    }

    /// One bit of `SMMU_IDR3`.
    pub(super) fn idr3_bit(&self, at: u32) -> bool {
        part(self.idr3, at, at) == 1
    }

    pub(super) fn has_stage1(&self) -> bool {
        self.idr0_bit(1)
    }

    pub(super) fn has_stage2(&self) -> bool {
        self.idr0_bit(0)
    }

    pub(super) fn has_hyp(&self) -> bool {
        self.idr0_bit(9)
    }

    pub(super) fn has_ats(&self) -> bool {
        self.idr0_bit(10)
    }

    pub(super) fn has_pri(&self) -> bool {
        self.idr0_bit(16)
    }

    /// 0: software chooses per stream; 1: never; 2: always.
    pub(super) fn stall_model(&self) -> u32 {
        part(self.idr0, 25, 24)
    }

    /// 0b10: little-endian tables only; 0b11: big-endian only; else both.
    pub(super) fn table_endian(&self) -> u32 {
        part(self.idr0, 22, 21)
    }

    pub(super) fn httu(&self) -> u32 {
        part(self.idr0, 7, 6)
    }

    /// Whether 64-bit tables are supported.
    pub(super) fn has_tables(&self) -> bool {
        self.idr0_bit(3)
    }

    /// Whether the size of a block may change without break-before-make, level 2.
    pub(super) fn sizes_may_change(&self) -> bool {
        part(self.idr3, 12, 11) == 2
    }

    pub(super) fn two_level_streams(&self) -> bool {
        part(self.idr0, 28, 27) != 0
    }

    pub(super) fn stream_bits(&self) -> u32 {
        part(self.idr1, 5, 0).min(32)
    }

    pub(super) fn substream_bits(&self) -> u32 {
        part(self.idr1, 10, 6).min(20)
    }

    pub(super) fn command_queue_bits(&self) -> u32 {
        part(self.idr1, 25, 21).min(19)
    }

    pub(super) fn event_queue_bits(&self) -> u32 {
        part(self.idr1, 20, 16).min(19)
    }

    pub(super) fn has_range_invalidation(&self) -> bool {
        self.idr3_bit(10)
    }

    /// The number of bits of a physical address.
    pub(super) fn output_bits(&self) -> u32 {
        size_bits(part(self.idr5, 2, 0))
    }

    /// The number of bits of an intermediate physical address (3.4).
    pub(super) fn intermediate_bits(&self) -> u32 {
        let aarch32 = part(self.idr0, 2, 2) == 1;
        if aarch32 {
            self.output_bits().max(40)
        } else {
            self.output_bits()
        }
    }

    /// Whether tables of pages of 2 to the power of `granule` bytes are supported.
    pub(super) fn has_granule(&self, granule: u32) -> bool {
        match granule {
            12 => part(self.idr5, 4, 4) == 1,
            14 => part(self.idr5, 5, 5) == 1,
            16 => part(self.idr5, 6, 6) == 1,
            _ => false,
        }
    }

    /// The largest legal value of a field like T0SZ.
    pub(super) fn max_size_field(&self, granule: u32) -> u32 {
        match (self.idr3_bit(9), granule) {
            (true, 16) => 47,
            (true, _) => 48,
            (false, _) => 39,
        }
    }
}

/// The number of address bits that a field like OAS, IPS or S2PS stands for. 52 bits and more are not
/// modelled and count as 48.
pub(super) fn size_bits(field: u32) -> u32 {
    match field {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    }
}
