//! What kind of VT-d unit a model is.

use iommu_core::Atomicity;

use super::bits::{bit, bits, field};
use super::order::Order;

/// The capability registers of a model, and how it behaves where the architecture leaves a choice.
///
/// The default is the unit of QEMU's `q35` machine: legacy mode, 39- and 48-bit second-level tables
/// with all page sizes, pass-through, queued invalidation, one fault record, 16-bit domain ids,
/// table walks that do not see the CPU's caches.
///
/// ```
/// use mock_hw::vtd::VtdConfig;
///
/// let config = VtdConfig::legacy().with_caching_mode(true).with_coherent(true);
/// assert_eq!((config.cap, config.ecap), (0xd2_008c_222f_0686, 0xf43));
/// ```
#[derive(Clone, Debug)]
pub struct VtdConfig {
    /// `VER_REG`.
    pub version: u32,
    /// `CAP_REG`.
    pub cap: u64,
    /// `ECAP_REG`.
    pub ecap: u64,
    /// The number of bits of a physical address (HAW), which firmware tells; 32 to 52.
    pub host_bits: u32,
    /// How many reads of a status see nothing of a change that was commanded; the change has no
    /// effect until then. 0 acknowledges at once.
    pub ack_reads: usize,
    /// How many reads of `FSTS_REG` or `IQH_REG` after a write of `IQT_REG` see nothing of the new
    /// descriptors; then all are consumed. Software that looks at neither waits for ever.
    pub lag: usize,
    /// When invalidations are done.
    pub order: Order,
    /// Decides whatever is left to chance: all of [`Order::Random`], and what is cached and used in
    /// [`partial`](Self::partial) mode.
    pub seed: u64,
    /// What of a context or PASID entry is fetched as one; `None` for what the memory promises
    /// ([`DmaMemory::atomicity`](iommu_core::DmaMemory::atomicity)).
    pub fetches: Option<Atomicity>,
    /// Whether each part of an entry that is [fetched](Self::fetches) as one is cached on its own,
    /// at random moments while the entry is present, and an entry is made of any mixture of words
    /// that are cached and words that memory has, until they are invalidated. Otherwise entries are
    /// cached whole.
    pub partial: bool,
    /// Whether a fault is not recorded while another one of the same source is pending.
    pub collapse_faults: bool,
    /// Whether there is `IQERCD_REG`, which tells what an invalidation queue error is about.
    pub error_record: bool,
}

impl Default for VtdConfig {
    fn default() -> Self {
        Self {
            version: 0x10,
            cap: 0xd2_008c_222f_0606,
            ecap: 0xf42,
            host_bits: 48,
            ack_reads: 1,
            lag: 0,
            order: Order::Adverse,
            seed: 0,
            fetches: None,
            partial: false,
            collapse_faults: true,
            error_record: false,
        }
    }
}

/// A register with the bits `high` to `low` set to a value.
fn set(register: &mut u64, high: u32, low: u32, value: u64) {
    let field = super::bits::mask(high - low + 1) << low;
    *register = *register & !field | value << low & field;
}

impl VtdConfig {
    /// The default.
    #[must_use]
    pub fn legacy() -> Self {
        Self::default()
    }

    /// The default with caching mode: entries that are not present are cached too.
    #[must_use]
    pub fn caching() -> Self {
        Self::default().with_caching_mode(true)
    }

    /// The default with scalable mode, second-level tables, and 20-bit PASIDs.
    #[must_use]
    pub fn scalable() -> Self {
        Self {
            ecap: 0x4800_8000_0f42,
            ..Self::default()
        }
        .with_pasid_bits(20)
    }

    /// The default with scalable mode, first-level tables with pages of all sizes, and 20-bit
    /// PASIDs; there is no second level.
    #[must_use]
    pub fn first_level() -> Self {
        Self {
            cap: 0x1d2_008c_222f_0606,
            ecap: 0x8800_0000_0f42,
            ..Self::default()
        }
        .with_pasid_bits(20)
    }

    /// `CAP.CM`: whether entries that are not present are cached too.
    #[must_use]
    pub fn with_caching_mode(mut self, caching: bool) -> Self {
        set(&mut self.cap, 7, 7, caching.into());
        self
    }

    /// `ECAP.C`: whether table walks see the CPU's caches.
    #[must_use]
    pub fn with_coherent(mut self, coherent: bool) -> Self {
        set(&mut self.ecap, 0, 0, coherent.into());
        self
    }

    /// `ECAP.PT`: whether there is pass-through.
    #[must_use]
    pub fn with_pass_through(mut self, pass_through: bool) -> Self {
        set(&mut self.ecap, 6, 6, pass_through.into());
        self
    }

    /// `ECAP.QI`: whether there is an invalidation queue.
    #[must_use]
    pub fn with_queued_invalidation(mut self, queued: bool) -> Self {
        set(&mut self.ecap, 1, 1, queued.into());
        self
    }

    /// `ECAP.DT`: whether devices may have translation caches.
    #[must_use]
    pub fn with_device_tlbs(mut self, there: bool) -> Self {
        set(&mut self.ecap, 2, 2, there.into());
        self
    }

    /// `ECAP.SC` and, in scalable mode, `SMPWC`: whether tables choose what is snooped.
    #[must_use]
    pub fn with_snoop_control(mut self, there: bool) -> Self {
        set(&mut self.ecap, 7, 7, there.into());
        let scalable = bit(self.ecap, 43);
        set(&mut self.ecap, 48, 48, (there && scalable).into());
        self
    }

    /// `CAP.ND`: the number of bits of a domain id, an even number from 4 to 16.
    #[must_use]
    pub fn with_domain_bits(mut self, bits: u32) -> Self {
        set(&mut self.cap, 2, 0, u64::from(bits.saturating_sub(4) / 2));
        self
    }

    /// `CAP.SAGAW` and `MGAW`: which of 3-, 4- and 5-level second-level tables there are, and how
    /// many bits of an address they translate at most.
    #[must_use]
    pub fn with_widths(mut self, levels: &[u32], max_bits: u32) -> Self {
        let widths = levels.iter().fold(0, |all, level| all | 1 << (level - 2));
        set(&mut self.cap, 12, 8, widths);
        set(&mut self.cap, 21, 16, u64::from(max_bits - 1));
        self
    }

    /// `CAP.SLLPS` and `FL1GP`: whether there are pages of 2 MiB (always, at the first level) and
    /// of 1 GiB.
    #[must_use]
    pub fn with_large_pages(mut self, two_mib: bool, one_gib: bool) -> Self {
        let second = u64::from(two_mib) | u64::from(one_gib) << 1;
        set(&mut self.cap, 37, 34, second);
        set(&mut self.cap, 56, 56, one_gib.into());
        self
    }

    /// `CAP.PSI` and `MAMV`: whether some pages can be invalidated, and the power of two that is
    /// the largest number of them.
    #[must_use]
    pub fn with_page_selective(mut self, mask: Option<u32>) -> Self {
        set(&mut self.cap, 39, 39, mask.is_some().into());
        set(&mut self.cap, 53, 48, mask.unwrap_or(0).into());
        self
    }

    /// `CAP.RWBF`: whether software has to flush write buffers. The model does not delay stores; it
    /// only offers the command.
    #[must_use]
    pub fn with_write_buffer(mut self, there: bool) -> Self {
        set(&mut self.cap, 4, 4, there.into());
        self
    }

    /// `CAP.DWD` and `DRD`: whether invalidations can wait for writes and reads under way.
    #[must_use]
    pub fn with_draining(mut self, writes: bool, reads: bool) -> Self {
        set(&mut self.cap, 54, 54, writes.into());
        set(&mut self.cap, 55, 55, reads.into());
        self
    }

    /// `CAP.NFR` and `FRO`: the number of fault records, 1 to 256, and their byte offset, a
    /// multiple of 16 up to 0x3ff0.
    #[must_use]
    pub fn with_fault_records(mut self, count: usize, offset: usize) -> Self {
        set(&mut self.cap, 47, 40, count.saturating_sub(1) as u64);
        set(&mut self.cap, 33, 24, (offset / 16) as u64);
        self
    }

    /// `CAP.PLMR` and `PHMR`: whether there is a protected memory region below and above 4 GiB.
    #[must_use]
    pub fn with_protected_regions(mut self, low: bool, high: bool) -> Self {
        set(&mut self.cap, 5, 5, low.into());
        set(&mut self.cap, 6, 6, high.into());
        self
    }

    /// `CAP.ESRTPS`: whether setting the root table pointer invalidates all caches.
    #[must_use]
    pub fn with_flush_on_root(mut self, there: bool) -> Self {
        set(&mut self.cap, 63, 63, there.into());
        self
    }

    /// `ECAP.PASID` and `PSS`: the number of bits of PASIDs, up to 20; 0 for none.
    #[must_use]
    pub fn with_pasid_bits(mut self, bits: u32) -> Self {
        set(&mut self.ecap, 40, 40, (bits != 0).into());
        set(&mut self.ecap, 39, 35, bits.saturating_sub(1).into());
        self
    }

    /// `ECAP.SLTS` and `FLTS`: which levels of tables there are in scalable mode, which this turns
    /// on.
    #[must_use]
    pub fn with_levels(mut self, first: bool, second: bool) -> Self {
        set(&mut self.ecap, 43, 43, 1);
        set(&mut self.ecap, 46, 46, second.into());
        set(&mut self.ecap, 47, 47, first.into());
        self
    }

    /// One bit of `CAP_REG`.
    pub(super) fn cap_bit(&self, at: u32) -> bool {
        bit(self.cap, at)
    }

    /// One bit of `ECAP_REG`.
    pub(super) fn ecap_bit(&self, at: u32) -> bool {
        bit(self.ecap, at)
    }

    pub(super) fn is_caching(&self) -> bool {
        self.cap_bit(7)
    }

    pub(super) fn is_coherent(&self) -> bool {
        self.ecap_bit(0)
    }

    pub(super) fn has_scalable_mode(&self) -> bool {
        self.ecap_bit(43)
    }

    pub(super) fn has_pasids(&self) -> bool {
        self.ecap_bit(40)
    }

    pub(super) fn has_device_tlbs(&self) -> bool {
        self.ecap_bit(2)
    }

    pub(super) fn pasid_bits(&self) -> u32 {
        field(self.ecap, 39, 35) + 1
    }

    pub(super) fn domain_bits(&self) -> u32 {
        4 + 2 * field(self.cap, 2, 0)
    }

    /// The number of address bits that second-level tables translate at most.
    pub(super) fn max_width(&self) -> u32 {
        field(self.cap, 21, 16) + 1
    }

    /// The number of levels of tables with an `AW` field, if there are such tables.
    pub(super) fn levels(&self, width: u32) -> Option<u32> {
        let there = (1..=3).contains(&width) && self.cap_bit(8 + width);
        there.then_some(width + 2)
    }

    /// The largest `AW` field that there are tables for.
    pub(super) fn largest_width(&self) -> Option<u32> {
        (1..=3).rev().find(|width| self.levels(*width).is_some())
    }

    /// Whether an entry of a second-level table of this level may be a page.
    pub(super) fn has_large_page(&self, level: u32) -> bool {
        matches!(level, 2 | 3) && self.cap_bit(34 + level - 2)
    }

    /// The largest power of two that is a number of pages invalidated at once.
    pub(super) fn max_address_mask(&self) -> u64 {
        bits(self.cap, 53, 48)
    }

    /// Where the fault records are, and how many there are.
    pub(super) fn fault_records(&self) -> (usize, usize) {
        let (offset, count) = (bits(self.cap, 33, 24) * 16, bits(self.cap, 47, 40) + 1);
        (
            usize::try_from(offset).unwrap_or(0),
            usize::try_from(count).unwrap_or(1),
        )
    }

    /// Where `IVA_REG` is; `IOTLB_REG` follows it.
    pub(super) fn iotlb_registers(&self) -> usize {
        usize::try_from(bits(self.ecap, 17, 8) * 16).unwrap_or(0)
    }

    /// The number of bytes of all registers, in whole pages.
    pub(super) fn bank_len(&self) -> usize {
        let (offset, count) = self.fault_records();
        let end = (offset + 16 * count).max(self.iotlb_registers() + 16);
        end.next_multiple_of(0x1000)
    }
}
