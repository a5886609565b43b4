//! Where a case keeps things in memory: at the same physical addresses on both machines.

use std::ops::Range;

/// The number of bytes of the one block that a case uses, and its alignment.
pub(super) const ARENA: usize = 16 << 20;
/// Where that block is on both machines.
pub(super) const BASE: u64 = 0x100_0000;

/// The root table.
pub(super) const ROOT: u64 = BASE;
/// The context table; in scalable mode, of devices 0 to 15.
pub(super) const CONTEXTS: u64 = BASE + 0x1000;
/// The invalidation queue, of one page.
pub(super) const QUEUE: u64 = BASE + 0x4000;
/// What wait descriptors write.
pub(super) const STATUS: u64 = BASE + 0x5000;
/// A PASID directory and a PASID table for each source.
pub(super) const DIRECTORIES: u64 = BASE + 0x1_0000;
pub(super) const PASID_TABLES: u64 = BASE + 0x2_0000;
/// Translation tables, up to `TABLES_END`.
pub(super) const TABLES: u64 = BASE + 0x10_0000;
pub(super) const TABLES_END: u64 = DATA;
/// What devices read and write. Pages of 2 MiB can begin here.
pub(super) const DATA: u64 = BASE + 0x80_0000;
pub(super) const DATA_SIZE: u64 = 0x2_0000;
/// No memory answers here, on either machine.
pub(super) const HOLE: u64 = 0x8000_0000;
/// Memory and devices of QEMU's machine: but for the data, no access goes there. Nothing is anywhere
/// else.
pub(super) const KEEP_OUT: [Range<u64>; 2] = [0..0x1000_0000, 0xb000_0000..0x1_0000_0000];

/// The source ids of the two masters.
pub(super) const SOURCES: [u16; 2] = [0x10, 0x18];

/// What a word of the data is at the start of a case: no byte is zero, and none has its top bit
/// set, which every byte that a device writes has.
pub(super) fn pattern(addr: u64) -> u64 {
    let mixed = addr.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29 ^ mixed >> 47) & 0x7f7f_7f7f_7f7f_7f7f | 0x0101_0101_0101_0101
}

/// Where nothing but interrupts goes: QEMU aborts on what it cannot deliver, so no access goes there.
pub(super) fn is_interrupt(iova: u64) -> bool {
    iova >> 20 == 0xfee
}
