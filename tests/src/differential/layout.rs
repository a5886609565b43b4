//! Where a case keeps things in memory: at the same physical addresses on both machines.

use std::ops::Range;

/// The number of bytes of the one block that a case uses, and its alignment.
pub(super) const ARENA: usize = 16 << 20;
/// Where that block is on both machines.
pub(super) const BASE: u64 = 0x4100_0000;

/// The stream table: level 1 where there are two.
pub(super) const STREAM_TABLE: u64 = BASE;
/// The level 2 stream table.
pub(super) const STREAM_TABLE_2: u64 = BASE + 0x1_0000;
/// The command queue, of `1 << COMMAND_BITS` entries.
pub(super) const COMMANDS: u64 = BASE + 0x4000;
pub(super) const COMMAND_BITS: u32 = 8;
/// The event queue, of `1 << EVENT_BITS` entries.
pub(super) const EVENTS: u64 = BASE + 0x8000;
pub(super) const EVENT_BITS: u32 = 7;
/// The event queue of the SMMU without caches that tells what is allowed.
pub(super) const COLD_EVENTS: u64 = BASE + 0xa000;
/// Context descriptors, each in a page of its own whatever the granule.
pub(super) const CONTEXTS: u64 = BASE + 0x3_0000;
pub(super) const CONTEXT_STRIDE: u64 = 0x1_0000;
/// Translation tables, up to `TABLES_END`.
pub(super) const TABLES: u64 = BASE + 0x10_0000;
pub(super) const TABLES_END: u64 = DATA;
/// What devices read and write. Blocks of 2 MiB can begin here.
pub(super) const DATA: u64 = BASE + 0x80_0000;
pub(super) const DATA_SIZE: u64 = 0x8_0000;
/// No memory answers here, on either machine.
pub(super) const HOLE: u64 = 0x8000_0000;
/// Devices, memory and PCI of QEMU's machine: but for the data, no access goes there. Nothing is
/// anywhere else.
pub(super) const KEEP_OUT: [Range<u64>; 2] = [0..0x5000_0000, 0x40_0000_0000..0x100_0000_0000];

/// The StreamIDs of the two masters.
pub(super) const STREAMS: [u32; 2] = [0x10, 0x18];

/// What a word of the data is at the start of a case: no byte is zero, and none has its top bit
/// set, which every byte that a device writes has.
pub(super) fn pattern(addr: u64) -> u64 {
    let mixed = addr.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29 ^ mixed >> 47) & 0x7f7f_7f7f_7f7f_7f7f | 0x0101_0101_0101_0101
}
