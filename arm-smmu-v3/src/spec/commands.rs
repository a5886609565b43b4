//! Commands (chapter 4).

use static_assertions::const_assert_eq;

use iommu_core::{Iova, Pasid, StreamId};

use super::granule::Granule;

/// The bytes of a command.
pub const SIZE: usize = 16;

/// A command, as the two words that go into the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command(pub [u64; 2]);
const_assert_eq!(size_of::<Command>(), SIZE);

const CFGI_STE: u8 = 0x03;
const CFGI_STE_RANGE: u8 = 0x04;
const TLBI_NH_ASID: u8 = 0x11;
const TLBI_NH_VA: u8 = 0x12;
const TLBI_EL2_ALL: u8 = 0x20;
const TLBI_S12_VMALL: u8 = 0x28;
const TLBI_S2_IPA: u8 = 0x2a;
const TLBI_NSNH_ALL: u8 = 0x30;
const ATC_INV: u8 = 0x40;
const SYNC: u8 = 0x46;

/// `SSV`: there is a SubstreamID.
const SSV: u64 = 1 << 11;

/// `Address` in the second word of a command, whose lower bits are other fields.
const ADDRESS: u64 = !0xfff;

/// `Leaf` of an invalidation by address: bit 64.
const LEAF: u64 = 1 << 0;
/// `NUM`: how many times 2^`SCALE` granules, less one.
const NUM_SHIFT: u32 = 12;
const NUM_BITS: u32 = 5;
const SCALE_SHIFT: u32 = 20;
/// `TTL`, bits 73:72, and `TG`, bits 75:74.
const TTL_SHIFT: u32 = 8;
const TG_SHIFT: u32 = 10;

// Plain shifts: a command is built in its slot, by code that is compiled in another crate.

/// The first word of a `CMD_CFGI_*`.
#[inline]
const fn cfgi(opcode: u8, stream: u32) -> u64 {
    opcode as u64 | (stream as u64) << 32
}

/// The first word of a `CMD_TLBI_*`.
#[inline]
const fn tlbi(opcode: u8, vmid: u16, asid: u16) -> u64 {
    opcode as u64 | (vmid as u64) << 32 | (asid as u64) << 48
}

impl Command {
    /// `CMD_CFGI_STE` (4.3.1): the stream's STE, and every CD that was fetched through it. With
    /// `leaf` false, the level-1 descriptor on the way to it too.
    #[must_use]
    #[inline]
    pub const fn cfgi_ste(stream: StreamId, leaf: bool) -> Self {
        Self([cfgi(CFGI_STE, stream.0), leaf as u64])
    }

    /// `CMD_CFGI_ALL` (4.3.3): all cached configuration. The encoding is that of
    /// `CMD_CFGI_STE_RANGE` with the largest range.
    #[must_use]
    #[inline]
    pub const fn cfgi_all() -> Self {
        Self([cfgi(CFGI_STE_RANGE, 0), 31])
    }

    /// `CMD_TLBI_NH_ASID` (4.4.2.2): what is tagged with the ASID and VMID 0.
    #[must_use]
    #[inline]
    pub const fn tlbi_asid(asid: u16) -> Self {
        Self([tlbi(TLBI_NH_ASID, 0, asid), 0])
    }

    /// `CMD_TLBI_NH_VA` (4.4.2.4): what translates the address under the ASID and VMID 0, table
    /// descriptors on the way too.
    #[must_use]
    #[inline]
    pub const fn tlbi_va(asid: u16, iova: Iova) -> Self {
        Self([tlbi(TLBI_NH_VA, 0, asid), iova.0 & ADDRESS])
    }

    /// `Leaf` (4.4.2.4, 4.4.3.1): table descriptors may stay cached.
    #[must_use]
    #[inline]
    pub const fn of_leaves(self) -> Self {
        let Self([first, second]) = self;
        Self([first, second | LEAF])
    }

    /// The same invalidation by address, of `pages` pages (1 to 2^36) of tables of `granule` from the
    /// address on, in one command (4.4.1.1): `TG`, and the least of what `NUM` and `SCALE` can say
    /// that covers them, up to one part in 16 more. For hardware with `SMMU_IDR3.RIL`.
    ///
    /// `level` is that of all leaves there, where there is one (`TTL`): 1 to 3, and the address
    /// aligned to the size of such a leaf. 0 says nothing about them.
    #[must_use]
    #[inline]
    pub const fn over(self, granule: Granule, pages: u64, level: u8) -> Self {
        let Self([first, second]) = self;
        if pages <= 1 && level == 0 {
            // Nothing but a granule must not be said.
            return self;
        }
        let last = pages.saturating_sub(1);
        let bits = u64::BITS - last.leading_zeros();
        let scale = bits.saturating_sub(NUM_BITS);
        let num = last >> scale & ((1 << NUM_BITS) - 1);
        Self([
            first | num << NUM_SHIFT | (scale as u64) << SCALE_SHIFT,
            second | (granule.command_tg() as u64) << TG_SHIFT | (level as u64 & 0b11) << TTL_SHIFT,
        ])
    }

    /// `CMD_TLBI_EL2_ALL` (4.4.2.7): everything of EL2.
    #[must_use]
    #[inline]
    pub const fn tlbi_el2_all() -> Self {
        Self([tlbi(TLBI_EL2_ALL, 0, 0), 0])
    }

    /// `CMD_TLBI_S12_VMALL` (4.4.3.2): everything tagged with the VMID, both stages.
    #[must_use]
    #[inline]
    pub const fn tlbi_vmid(vmid: u16) -> Self {
        Self([tlbi(TLBI_S12_VMALL, vmid, 0), 0])
    }

    /// `CMD_TLBI_S2_IPA` (4.4.3.1): stage-2 translations of the address under the VMID.
    #[must_use]
    #[inline]
    pub const fn tlbi_ipa(vmid: u16, ipa: Iova) -> Self {
        Self([tlbi(TLBI_S2_IPA, vmid, 0), ipa.0 & ADDRESS])
    }

    /// `CMD_TLBI_NSNH_ALL` (4.4.4.1): everything that is Non-secure and not EL2.
    #[must_use]
    #[inline]
    pub const fn tlbi_nsnh_all() -> Self {
        Self([tlbi(TLBI_NSNH_ALL, 0, 0), 0])
    }

    /// `CMD_ATC_INV` (4.5.1): what the stream's device has in its translation cache for the 2^`size`
    /// pages of 4 KiB from `first` on, which is aligned to that; a size of 52 is everything. Of what
    /// it asked for with `pasid`, or of all.
    ///
    /// The device may ask again at once: what the SMMU would answer is to be invalidated, and that
    /// to be completed, before.
    #[must_use]
    pub const fn atc_inv(stream: StreamId, pasid: Option<Pasid>, first: Iova, size: u8) -> Self {
        let substream = match pasid {
            Some(pasid) => SSV | (pasid.get() as u64) << 12,
            None => 0,
        };
        Self([
            ATC_INV as u64 | substream | (stream.0 as u64) << 32,
            first.0 & ADDRESS | size as u64 & 0x3f,
        ])
    }

    /// `CMD_SYNC` (4.7.3) without a signal: completes when all commands before it have, which shows
    /// in the consumer index.
    #[must_use]
    #[inline]
    pub const fn sync() -> Self {
        Self([SYNC as u64, 0])
    }

    /// Whether a device's cache is asked to invalidate something (`CMD_ATC_INV`, 4.5.1).
    #[must_use]
    #[inline]
    pub const fn is_atc_inv(self) -> bool {
        self.0[0] & 0xff == ATC_INV as u64
    }

    /// The command's name in the specification.
    #[must_use]
    #[inline]
    pub const fn name(self) -> &'static str {
        match (self.0[0] & 0xff) as u8 {
            CFGI_STE => "CMD_CFGI_STE",
            CFGI_STE_RANGE => "CMD_CFGI_STE_RANGE",
            TLBI_NH_ASID => "CMD_TLBI_NH_ASID",
            TLBI_NH_VA => "CMD_TLBI_NH_VA",
            TLBI_EL2_ALL => "CMD_TLBI_EL2_ALL",
            TLBI_S12_VMALL => "CMD_TLBI_S12_VMALL",
            TLBI_S2_IPA => "CMD_TLBI_S2_IPA",
            TLBI_NSNH_ALL => "CMD_TLBI_NSNH_ALL",
            ATC_INV => "CMD_ATC_INV",
            SYNC => "CMD_SYNC",
            _ => "a command",
        }
    }
}
