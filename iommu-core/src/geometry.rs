//! What a paging domain can map.

use crate::addr::{AddrRange, Iova};
use crate::error::{Culprit, Error, ErrorKind, Result};

/// What a paging domain can map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// The IOVAs that can be mapped.
    pub aperture: AddrRange,
    /// The physical addresses that can be mapped to.
    pub physical: AddrRange,
    /// A bit for each page size: `1 << 12` for 4 KiB. The lowest is the unit of
    /// [`Domain::map`](crate::Domain::map).
    pub page_sizes: u64,
}

impl Geometry {
    /// The smallest page, in bytes.
    #[must_use]
    pub const fn page_size(&self) -> u64 {
        1 << self.page_sizes.trailing_zeros()
    }
}

/// The range, where it can be mapped.
pub(crate) fn check_range(geometry: &Geometry, iova: Iova, len: u64) -> Result<AddrRange> {
    let range =
        AddrRange::new(iova.0, len).ok_or(invalid(iova, "the range is empty or wraps around"))?;
    if (iova.0 | len) & (geometry.page_size() - 1) != 0 {
        return Err(invalid(
            iova,
            "address and length must be multiples of the page size",
        ));
    }
    if !geometry.aperture.contains(range) {
        return Err(
            Error::new(ErrorKind::OutOfRange, "beyond the domain's aperture")
                .of(Culprit::Range(range)),
        );
    }
    Ok(range)
}

#[cold]
pub(crate) fn invalid(iova: Iova, reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, reason).of(Culprit::Iova(iova))
}
