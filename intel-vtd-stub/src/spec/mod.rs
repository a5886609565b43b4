//! The architecture's registers, table entries, descriptors and fault records: types and bit
//! positions, no algorithm and no access to hardware.
//!
//! Section numbers are those of the *Intel Virtualization Technology for Directed I/O Architecture
//! Specification*, revision 5.10. A value that hardware made goes through `from_bits` or
//! `from_words`, which take any value; fields with a fixed set of meanings are plain numbers in a
//! type of their own, so an encoding that is not known here is only a number without a name.

mod descriptors;
mod entries;
mod faults;
mod registers;
mod scalable;
#[cfg(test)]
mod tests;

pub use descriptors::{Descriptor, Drain, Pages};
pub(crate) use entries::TABLE_SIZE;
pub use entries::{
    AddressWidth, CONTEXT_ENTRY_WORDS, ContextEntry, ContextHigh, ContextLow, RootWord, SourceId,
    TranslationType,
};
pub(crate) use faults::F;
pub use faults::{Access, Fault};
pub use registers::{
    CAP, ECAP, FIXED_END, FRCD_SIZE, FSTS, GCMD, GSTS, IQA, IQERCD, IQH, IQT, PMEN, RTADDR, VER,
};
pub use registers::{Cap, Ecap, Fsts, Gcmd, Gsts, Iqa, Iqercd, Pmen, Rtaddr, Ver};
pub use scalable::{
    CONTEXT_WORDS, DirectoryEntry, PASID_WORDS, PasidEntry, PasidWord0, PasidWord1, PasidWord2,
    Pgtt, ScalableContextHigh, ScalableContextLow, TABLE_PASIDS, scalable_context,
};
