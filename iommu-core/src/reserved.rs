//! Regions of a device's address space that are not free for everybody's use.

use alloc::vec::Vec;
use core::fmt;

use crate::addr::{AddrRange, StreamId};
use crate::error::{Culprit, Error, ErrorKind, Result};

/// Why a region is reserved.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReservedKind {
    /// Firmware demands that the region be mapped 1:1 at all times: an RMR (Arm) or RMRR (Intel).
    /// A device with such a region has `require_direct`.
    Direct,
    /// As `Direct` while the kernel uses the device, but it may be dropped when the device is
    /// assigned to somebody else.
    DirectRelaxable,
    /// Never to be handed out as an IOVA.
    Reserved,
    /// A hardware MSI doorbell: writes there are not translated.
    Msi,
    /// A window in which software maps MSI doorbells.
    SoftwareMsi,
}

/// A reserved region of a device's address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReservedRegion {
    range: AddrRange,
    kind: ReservedKind,
}

impl ReservedRegion {
    /// The `len` bytes from `start`. Any alignment is accepted: direct mappings cover whole pages,
    /// the start rounded down and the end up.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] where `len` is zero or the region wraps around.
    pub fn new(start: u64, len: u64, kind: ReservedKind) -> Result<Self> {
        match AddrRange::new(start, len) {
            Some(range) => Ok(Self { range, kind }),
            None => Err(Error::new(
                ErrorKind::InvalidArgument,
                "a reserved region is empty or wraps around",
            )
            .of(Culprit::Iova(start.into()))),
        }
    }

    /// Its addresses.
    #[must_use]
    pub const fn range(&self) -> AddrRange {
        self.range
    }

    /// Why it is reserved.
    #[must_use]
    pub const fn kind(&self) -> ReservedKind {
        self.kind
    }
}

impl fmt::Display for ReservedRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.range, self.kind)
    }
}

/// A reserved region as firmware tables list them: with the streams it belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FirmwareRegion {
    /// The streams that need it.
    pub streams: Vec<StreamId>,
    /// The region.
    pub region: ReservedRegion,
}

/// The regions among `regions` that are of one of `kinds`, sorted, those that overlap or touch made
/// one.
pub(crate) fn joined_ranges(regions: &[ReservedRegion], kinds: &[ReservedKind]) -> Vec<AddrRange> {
    let mut ranges: Vec<AddrRange> = regions
        .iter()
        .filter(|region| kinds.contains(&region.kind))
        .map(|region| region.range)
        .collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let joined = next.start() <= kept.last() || next.start() - 1 == kept.last();
        if joined
            && let Some(both) = AddrRange::inclusive(kept.start(), kept.last().max(next.last()))
        {
            *kept = both;
        }
        joined
    });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(start: u64, len: u64) -> ReservedRegion {
        ReservedRegion::new(start, len, ReservedKind::Direct).unwrap()
    }

    fn joined(regions: &[ReservedRegion]) -> Vec<AddrRange> {
        joined_ranges(regions, &[ReservedKind::Direct])
    }

    #[test]
    fn empty_and_wrapping_regions_are_refused() {
        for (start, len) in [(0x1000, 0), (u64::MAX, 2), (1, u64::MAX)] {
            let result = ReservedRegion::new(start, len, ReservedKind::Direct);
            if (start, len) == (1, u64::MAX) {
                assert!(
                    result.is_ok(),
                    "the last byte of the address space may be reserved"
                );
            } else {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidArgument);
            }
        }
    }

    #[test]
    fn direct_regions_are_sorted_and_joined() {
        let relaxable = ReservedRegion::new(0x9000, 0x1000, ReservedKind::DirectRelaxable).unwrap();
        let ranges = joined(&[
            direct(0x5000, 0x1000),
            direct(0x1000, 0x1000),
            relaxable,
            direct(0x1800, 0x1000),
            direct(0x1000, 0x1000),
            direct(0x2800, 0x10),
        ]);
        let bounds: Vec<_> = ranges.iter().map(|r| (r.start(), r.last())).collect();
        assert_eq!(bounds, [(0x1000, 0x280f), (0x5000, 0x5fff)]);
    }

    #[test]
    fn a_region_that_contains_the_next_keeps_its_end() {
        let ranges = joined(&[direct(0x1000, 0x9000), direct(0x2000, 0x1000)]);
        assert_eq!(ranges, [AddrRange::new(0x1000, 0x9000).unwrap()]);
    }
}
