//! Addresses and ids, each a type of its own: mixing up two of them is a compile error.

use core::fmt;

macro_rules! hex_newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

hex_newtype! {
    /// An I/O virtual address: what a device puts on the bus.
    Iova(u64), "{:#x}"
}
hex_newtype! {
    /// A physical address: what memory answers to, and what an IOMMU's own tables contain.
    PhysAddr(u64), "{:#x}"
}
hex_newtype! {
    /// What a transaction presents to tell the IOMMU whose it is: a StreamID on SMMUv3, a source id
    /// (bus, device, function) on VT-d.
    StreamId(u32), "{:#06x}"
}

impl Iova {
    /// This address plus `offset`, or `None` where the sum does not fit 64 bits.
    #[must_use]
    pub const fn checked_add(self, offset: u64) -> Option<Self> {
        match self.0.checked_add(offset) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// Whether this address is a multiple of `size`, a power of two.
    #[must_use]
    pub const fn is_aligned(self, size: u64) -> bool {
        self.0 & (size - 1) == 0
    }
}

impl PhysAddr {
    /// This address plus `offset`, or `None` where the sum does not fit 64 bits.
    #[must_use]
    pub const fn checked_add(self, offset: u64) -> Option<Self> {
        match self.0.checked_add(offset) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// Whether this address is a multiple of `size`, a power of two.
    #[must_use]
    pub const fn is_aligned(self, size: u64) -> bool {
        self.0 & (size - 1) == 0
    }
}

/// A process address space id: PASID on PCIe, SubstreamID on SMMUv3. 20 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pasid(u32);

impl Pasid {
    /// The largest value that fits the 20 bits of a PASID.
    pub const MAX: Self = Self(0xf_ffff);

    /// `None` where `value` does not fit 20 bits.
    #[must_use]
    pub const fn new(value: u32) -> Option<Self> {
        if value <= Self::MAX.0 {
            Some(Self(value))
        } else {
            None
        }
    }

    /// The value, at most 20 bits.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Pasid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A non-empty range of addresses that does not wrap around, kept with an inclusive end so that
/// the last byte of the address space can belong to one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddrRange {
    start: u64,
    last: u64,
}

impl AddrRange {
    /// All addresses.
    pub const EVERYTHING: Self = Self {
        start: 0,
        last: u64::MAX,
    };

    /// The `len` bytes from `start`; `None` where `len` is zero or the range wraps around.
    #[must_use]
    #[inline]
    pub const fn new(start: u64, len: u64) -> Option<Self> {
        if len == 0 {
            return None;
        }
        match start.checked_add(len - 1) {
            Some(last) => Some(Self { start, last }),
            None => None,
        }
    }

    /// The page of `size` bytes (a power of two) that `addr` is in.
    #[must_use]
    #[inline]
    pub const fn page(addr: u64, size: u64) -> Self {
        Self {
            start: addr & !(size - 1),
            last: addr | (size - 1),
        }
    }

    /// The range from `start` to `last`, both in it; `None` where `last` is below `start`.
    #[must_use]
    #[inline]
    pub const fn inclusive(start: u64, last: u64) -> Option<Self> {
        if last < start {
            None
        } else {
            Some(Self { start, last })
        }
    }

    /// The first address.
    #[must_use]
    #[inline]
    pub const fn start(self) -> u64 {
        self.start
    }

    /// The last address, in the range.
    #[must_use]
    #[inline]
    pub const fn last(self) -> u64 {
        self.last
    }

    /// The number of bytes minus one: the number itself does not fit 64 bits for the range of all
    /// addresses.
    #[must_use]
    #[inline]
    pub const fn len_minus_one(self) -> u64 {
        self.last - self.start
    }

    /// Whether the two share an address.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start <= other.last && other.start <= self.last
    }

    /// Whether every address of `other` is in this range.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.last <= self.last
    }

    /// The smallest range of whole pages of `size` bytes (a power of two) with this range in it:
    /// the start goes down, the end up.
    #[must_use]
    pub const fn to_pages(self, size: u64) -> Self {
        Self {
            start: self.start & !(size - 1),
            last: self.last | (size - 1),
        }
    }
}

impl fmt::Debug for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..={:#x}", self.start, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_never_empty_and_never_wraps() {
        assert_eq!(AddrRange::new(0x1000, 0), None);
        assert_eq!(AddrRange::new(u64::MAX, 2), None);
        assert_eq!(AddrRange::inclusive(2, 1), None);
        let all = AddrRange::inclusive(0, u64::MAX).unwrap();
        assert_eq!(all.len_minus_one(), u64::MAX);
        assert!(all.contains(AddrRange::new(u64::MAX, 1).unwrap()));
    }

    #[test]
    fn pages_cover_both_ends() {
        let range = AddrRange::new(0x1ff8, 0x10).unwrap().to_pages(0x1000);
        assert_eq!((range.start(), range.last()), (0x1000, 0x2fff));
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        let a = AddrRange::new(0x1000, 0x1000).unwrap();
        let b = AddrRange::new(0x2000, 0x1000).unwrap();
        assert!(!a.overlaps(b) && !b.overlaps(a));
        assert!(a.overlaps(AddrRange::new(0x1fff, 1).unwrap()));
    }

    #[test]
    fn a_pasid_has_twenty_bits() {
        assert_eq!(Pasid::new(0x10_0000), None);
        assert_eq!(Pasid::new(0xf_ffff), Some(Pasid::MAX));
    }
}
