//! The architecture's registers and table entries: types and bit positions, no algorithm and no
//! access to hardware.
//!
//! Section numbers are those of the *Intel Virtualization Technology for Directed I/O Architecture
//! Specification*. A value that hardware made goes through `from_bits`, which takes any value;
//! fields with a fixed set of meanings are plain numbers in a type of their own, so an encoding
//! that is not known here is only a number without a name.

mod entries;
mod registers;
#[cfg(test)]
mod tests;

pub(crate) use entries::TABLE_SIZE;
pub use entries::{
    AddressWidth, ContextEntry, ContextHigh, ContextLow, RootLow, SourceId, TranslationType,
};
pub use registers::{
    CAP, CCMD, ECAP, FIXED_END, FSTS, GCMD, GSTS, IOTLB_OFFSET, IQH, IQT, PMEN, RTADDR, VER,
};
pub use registers::{Cap, Ccmd, Ecap, Fsts, Gcmd, Granularity, Gsts, Iotlb, Pmen, Rtaddr, Ver};
