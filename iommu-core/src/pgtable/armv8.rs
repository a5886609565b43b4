//! The VMSAv8-64 formats (Arm DDI 0487, D8.3), with granules of 4, 16 and 64 KiB and addresses of up
//! to 48 bits.

use core::marker::PhantomData;

use super::Format;
use crate::domain::Prot;

/// How large pages and tables are.
pub trait Granule: Send + Sync + 'static {
    /// log2 of their size.
    const SHIFT: u32;
    /// The sizes of pages and blocks, a bit for each.
    const PAGE_SIZES: u64;
    /// The last level that a walk may begin at, for 32 bits and more.
    const DEEPEST_ROOT: u8;
    /// The first level that a walk of stage 2 may begin at.
    const FIRST_OF_STAGE_2: u8;
}

/// Pages of 4 KiB, blocks of 2 MiB and 1 GiB.
#[derive(Clone, Copy, Debug)]
pub struct Granule4K;

/// Pages of 16 KiB, blocks of 32 MiB.
#[derive(Clone, Copy, Debug)]
pub struct Granule16K;

/// Pages of 64 KiB, blocks of 512 MiB.
#[derive(Clone, Copy, Debug)]
pub struct Granule64K;

impl Granule for Granule4K {
    const SHIFT: u32 = 12;
    const PAGE_SIZES: u64 = 1 << 12 | 1 << 21 | 1 << 30;
    const DEEPEST_ROOT: u8 = 1;
    const FIRST_OF_STAGE_2: u8 = 0;
}

impl Granule for Granule16K {
    const SHIFT: u32 = 14;
    const PAGE_SIZES: u64 = 1 << 14 | 1 << 25;
    const DEEPEST_ROOT: u8 = 2;
    const FIRST_OF_STAGE_2: u8 = 1;
}

impl Granule for Granule64K {
    const SHIFT: u32 = 16;
    const PAGE_SIZES: u64 = 1 << 16 | 1 << 29;
    const DEEPEST_ROOT: u8 = 2;
    const FIRST_OF_STAGE_2: u8 = 1;
}

const VALID: u64 = 1 << 0;
/// A table above level 3, a page at level 3; a block has this bit clear.
const TABLE_OR_PAGE: u64 = 1 << 1;
/// Without this, an access faults so that software can notice it; nobody here wants to.
const ACCESS_FLAG: u64 = 1 << 10;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const OUTER_SHAREABLE: u64 = 0b10 << 8;
const EXECUTE_NEVER: u64 = 1 << 54;

const BLOCK: u64 = VALID | ACCESS_FLAG;
const PAGE: u64 = VALID | ACCESS_FLAG | TABLE_OR_PAGE;

/// Bits 47 to the granule's.
const fn address(shift: u32) -> u64 {
    (1 << 48) - (1 << shift)
}

/// Stage 1: virtual to intermediate or physical addresses.
///
/// Leaves are non-global, tagged with the ASID (SMMUv3 3.17.1), and open to unprivileged accesses,
/// which is what devices make. Memory is normal write-back, device memory `nGnRE`, through the
/// attribute indirection register value [`MAIR`](Stage1::MAIR).
#[derive(Clone, Copy, Debug)]
pub struct Stage1<G = Granule4K>(PhantomData<G>);

impl Stage1 {
    /// Index 0: normal memory, write-back, allocating. Index 1: `Device-nGnRE`.
    pub const MAIR: u64 = 0x04ff;
}

const S1_DEVICE: u64 = 1 << 2;
const S1_UNPRIVILEGED: u64 = 1 << 6;
const S1_READ_ONLY: u64 = 1 << 7;
const S1_NOT_GLOBAL: u64 = 1 << 11;
const S1_PRIVILEGED_EXECUTE_NEVER: u64 = 1 << 53;

const fn stage1(prot: Prot) -> u64 {
    let mut bits = S1_UNPRIVILEGED | S1_NOT_GLOBAL;
    bits |= if prot.contains(Prot::DEVICE) {
        S1_DEVICE | OUTER_SHAREABLE
    } else {
        INNER_SHAREABLE
    };
    if !prot.contains(Prot::WRITE) {
        bits |= S1_READ_ONLY;
    }
    if prot.intersects(Prot::NO_EXECUTE.union(Prot::DEVICE)) {
        bits |= EXECUTE_NEVER | S1_PRIVILEGED_EXECUTE_NEVER;
    }
    bits
}

/// Stage 2: intermediate physical to physical addresses.
#[derive(Clone, Copy, Debug)]
pub struct Stage2<G = Granule4K>(PhantomData<G>);

const S2_NORMAL_WRITE_BACK: u64 = 0b1111 << 2;
const S2_DEVICE_NGNRE: u64 = 0b0001 << 2;
const S2_READ: u64 = 1 << 6;
const S2_WRITE: u64 = 1 << 7;

const fn stage2(prot: Prot) -> u64 {
    let mut bits = if prot.contains(Prot::DEVICE) {
        S2_DEVICE_NGNRE | OUTER_SHAREABLE
    } else {
        S2_NORMAL_WRITE_BACK | INNER_SHAREABLE
    };
    if prot.contains(Prot::READ) {
        bits |= S2_READ;
    }
    if prot.contains(Prot::WRITE) {
        bits |= S2_WRITE;
    }
    if prot.intersects(Prot::NO_EXECUTE.union(Prot::DEVICE)) {
        bits |= EXECUTE_NEVER;
    }
    bits
}

const fn of_all(stage: u8) -> [u64; 16] {
    let mut all = [0; 16];
    let mut bits = 0;
    while bits < 16 {
        let prot = Prot::from_bits_truncate(bits);
        all[bits as usize] = if stage == 1 {
            stage1(prot)
        } else {
            stage2(prot)
        };
        bits += 1;
    }
    all
}

macro_rules! format {
    ($stage:ident, $number:literal, $first:expr, $most:literal) => {
        // SAFETY: bit 0 is set in leaves and tables. Bit 1 is clear in leaves above the last level
        // and set in tables. Hardware changes neither: it is not told to update flags.
        unsafe impl<G: Granule> Format for $stage<G> {
            const PAGE_SHIFT: u32 = G::SHIFT;
            const PAGE_SIZES: u64 = G::PAGE_SIZES;
            const ROOT_LEVELS: (u8, u8) = ($first, G::DEEPEST_ROOT);
            const MAX_ROOT_TABLES: usize = $most;
            const ADDRESS: u64 = address(G::SHIFT);
            const TABLE: u64 = TABLE_OR_PAGE | VALID;
            const LEAF: [u64; 4] = [BLOCK, BLOCK, BLOCK, PAGE];
            const ATTRIBUTES: [u64; 16] = of_all($number);

            #[inline(always)]
            fn is_table(descriptor: u64) -> bool {
                descriptor & TABLE_OR_PAGE != 0
            }

            #[inline(always)]
            fn is_valid(descriptor: u64) -> bool {
                descriptor & VALID != 0
            }
        }
    };
}
format!(Stage1, 1, 0, 1);
format!(Stage2, 2, G::FIRST_OF_STAGE_2, 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PhysAddr;

    const RW: Prot = Prot::READ.union(Prot::WRITE);

    // The values are those that Linux 6.12's io-pgtable-arm writes for the same request
    // (IOMMU_CACHE set), worked out from its masks by hand.
    #[test]
    fn stage_1_descriptors_are_those_of_the_architecture() {
        let phys = PhysAddr(0x0000_8765_4321_0000);
        let leaf = |phys, level, prot| <Stage1>::leaf(phys, level, prot);
        assert_eq!(leaf(phys, 3, RW), 0x0000_8765_4321_0f43);
        assert_eq!(leaf(phys, 3, Prot::READ), 0x0000_8765_4321_0fc3);
        assert_eq!(leaf(PhysAddr(0x4020_0000), 2, RW), 0x4020_0f41);
        let no_execute = leaf(phys, 3, RW | Prot::NO_EXECUTE);
        assert_eq!(no_execute, 0x0060_8765_4321_0f43);
        assert_eq!(leaf(phys, 3, RW | Prot::DEVICE), 0x0060_8765_4321_0e47);
        assert_eq!(<Stage1>::table(phys), 0x0000_8765_4321_0003);
    }

    #[test]
    fn stage_2_descriptors_are_those_of_the_architecture() {
        let phys = PhysAddr(0x1_2345_6000);
        let leaf = |phys, level, prot| <Stage2>::leaf(phys, level, prot);
        assert_eq!(leaf(phys, 3, RW), 0x1_2345_67ff);
        assert_eq!(leaf(phys, 3, Prot::READ), 0x1_2345_677f);
        assert_eq!(leaf(phys, 3, Prot::WRITE), 0x1_2345_67bf);
        assert_eq!(leaf(PhysAddr(0x4000_0000), 1, RW), 0x4000_07fd);
        assert_eq!(leaf(phys, 3, RW | Prot::DEVICE), 0x0040_0001_2345_66c7);
    }

    #[test]
    fn larger_granules_have_shorter_addresses_and_no_blocks_at_level_1() {
        let phys = PhysAddr(0x0000_8765_4321_0000);
        assert_eq!(Stage1::<Granule16K>::leaf(phys, 3, RW), 0x8765_4321_0f43);
        assert_eq!(Stage2::<Granule64K>::leaf(phys, 3, RW), 0x8765_4321_07ff);
        assert_eq!(Stage1::<Granule16K>::ADDRESS, 0xffff_ffff_c000);
        assert_eq!(Stage2::<Granule64K>::ADDRESS, 0xffff_ffff_0000);
        assert_eq!(Stage2::<Granule16K>::PAGE_SIZES, 0x200_4000);
        assert_eq!(Stage1::<Granule64K>::PAGE_SIZES, 0x2001_0000);
    }
}
