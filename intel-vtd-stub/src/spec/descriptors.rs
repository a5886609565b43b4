//! Invalidation descriptors: what software puts into the invalidation queue (6.5.2).

use core::fmt;

use iommu_core::PhysAddr;

use super::SourceId;

/// Bits 5:4 of most descriptors: what is invalidated. Each kind of descriptor has its own reading.
const fn granularity(value: u64) -> u64 {
    value << 4
}

const fn domain(did: u16) -> u64 {
    (did as u64) << 16
}

const fn pasid_field(pasid: u32) -> u64 {
    (pasid as u64 & 0xf_ffff) << 32
}

/// A descriptor of 256 bits; where the queue holds those of 128, the first half of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Descriptor(pub [u64; 4]);

/// Which pages an invalidation covers: 2^`order` of them, from `address`, a multiple of that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pages {
    /// Where they begin.
    pub address: u64,
    /// log2 of how many there are, of 4 KiB: the address mask, at most CAP.MAMV.
    pub order: u8,
}

impl Pages {
    /// The smallest such block with all of `len` bytes (not 0) from `start` in it.
    #[must_use]
    pub const fn around(start: u64, len: u64) -> Self {
        let differing = (start ^ (start + (len - 1))) >> 12;
        let order = 64 - differing.leading_zeros();
        let size = match 1_u64.checked_shl(12 + order) {
            Some(size) => size,
            None => 0,
        };
        #[expect(clippy::cast_possible_truncation, reason = "at most 52")]
        Self {
            address: start & !size.wrapping_sub(1),
            order: order as u8,
        }
    }

    const fn word(self) -> u64 {
        self.address & !0xfff | (self.order & 0x3f) as u64
    }
}

/// What an IOTLB invalidation waits for beside the invalidation itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Drain {
    /// Reads that were translated before it (CAP.DRD).
    pub reads: bool,
    /// Writes that were translated before it (CAP.DWD).
    pub writes: bool,
}

impl Drain {
    const fn bits(self) -> u64 {
        (self.reads as u64) << 7 | (self.writes as u64) << 6
    }
}

impl Descriptor {
    const CONTEXTS: u64 = 1;
    const IOTLB: u64 = 2;
    const WAIT: u64 = 5;
    const PASID_IOTLB: u64 = 6;
    const PASIDS: u64 = 7;

    const fn short(low: u64, high: u64) -> Self {
        Self([low, high, 0, 0])
    }

    /// Forgets every context entry.
    #[must_use]
    pub const fn contexts() -> Self {
        Self::short(Self::CONTEXTS | granularity(1), 0)
    }

    /// Forgets every context entry that is tagged `did`.
    #[must_use]
    pub const fn contexts_domain(did: u16) -> Self {
        Self::short(Self::CONTEXTS | granularity(2) | domain(did), 0)
    }

    /// Forgets the context entry of `source`, which is tagged `did`; 0 for one that is not present.
    #[must_use]
    pub const fn context(source: SourceId, did: u16) -> Self {
        let source = (source.bits() as u64) << 32;
        Self::short(Self::CONTEXTS | granularity(3) | domain(did) | source, 0)
    }

    /// Forgets every PASID entry.
    #[must_use]
    pub const fn pasids() -> Self {
        Self::short(Self::PASIDS | granularity(3), 0)
    }

    /// Forgets every PASID entry that is tagged `did`.
    #[must_use]
    pub const fn pasids_domain(did: u16) -> Self {
        Self::short(Self::PASIDS | granularity(0) | domain(did), 0)
    }

    /// Forgets the entries of `pasid` that are tagged `did`; 0 for those that are not present.
    #[must_use]
    pub const fn pasid(pasid: u32, did: u16) -> Self {
        let low = Self::PASIDS | granularity(1) | domain(did) | pasid_field(pasid);
        Self::short(low, 0)
    }

    /// Forgets every translation.
    #[must_use]
    pub const fn iotlb(drain: Drain) -> Self {
        Self::short(Self::IOTLB | granularity(1) | drain.bits(), 0)
    }

    /// Forgets every translation that is tagged `did`.
    #[must_use]
    pub const fn iotlb_domain(did: u16, drain: Drain) -> Self {
        let low = Self::IOTLB | granularity(2) | domain(did) | drain.bits();
        Self::short(low, 0)
    }

    /// Forgets the second-stage translations of these pages that are tagged `did`, and what led
    /// there.
    #[must_use]
    pub const fn iotlb_pages(did: u16, pages: Pages, drain: Drain) -> Self {
        let low = Self::IOTLB | granularity(3) | domain(did) | drain.bits();
        Self::short(low, pages.word())
    }

    /// Forgets every translation that is tagged `did` and `pasid`. Always drains.
    #[must_use]
    pub const fn pasid_iotlb(did: u16, pasid: u32) -> Self {
        let low = Self::PASID_IOTLB | granularity(2) | domain(did) | pasid_field(pasid);
        Self::short(low, 0)
    }

    /// Forgets the first-stage translations of these pages that are tagged `did` and `pasid`, and
    /// what led there. Always drains.
    #[must_use]
    pub const fn pasid_iotlb_pages(did: u16, pasid: u32, pages: Pages) -> Self {
        let low = Self::PASID_IOTLB | granularity(3) | domain(did) | pasid_field(pasid);
        Self::short(low, pages.word())
    }

    /// Writes `data` to `address`, a multiple of 4, once all before it is done.
    #[must_use]
    pub const fn wait(address: PhysAddr, data: u32) -> Self {
        let status_write = 1 << 5;
        Self::short(Self::WAIT | status_write | (data as u64) << 32, address.0)
    }

    /// As [`wait`](Self::wait), and nothing behind it is begun before.
    #[must_use]
    pub const fn fence(address: PhysAddr, data: u32) -> Self {
        let Self([low, high, ..]) = Self::wait(address, data);
        Self::short(low | 1 << 6, high)
    }

    /// Its name in the specification.
    #[must_use]
    pub const fn name(self) -> &'static str {
        // Bits 11:9 continue the type; they are zero in every type that is known here.
        match self.0[0] & 0xe0f {
            Self::CONTEXTS => "cc_inv_dsc",
            Self::IOTLB => "iotlb_inv_dsc",
            Self::WAIT => "inv_wait_dsc",
            Self::PASID_IOTLB => "p_iotlb_inv_dsc",
            Self::PASIDS => "pc_inv_dsc",
            _ => "an unknown descriptor",
        }
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:#x} {:#x}", self.name(), self.0[0], self.0[1])
    }
}
