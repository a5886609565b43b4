//! The formats of VT-d: first-stage (VT-d 9.7) and second-stage (9.8) paging entries.

use super::Format;
use crate::domain::Prot;

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Where it is set above the last level, the walk ends there.
const PAGE_SIZE: u64 = 1 << 7;

/// The first stage: the page tables of the CPU, open to user-mode accesses, which is what devices
/// make.
///
/// Accessed and dirty bits are set from the start: hardware that does not see the CPU's caches must
/// not find a reason to set one (VT-d 7.1.3, SFS.9). Reading cannot be denied, and execution is not
/// the tables' to deny: the driver does not let devices ask for it.
#[derive(Clone, Copy, Debug)]
pub struct FirstStage;

const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;

const fn of_all(write: u64, read: u64) -> [u64; 16] {
    let mut all = [0; 16];
    let mut bits = 0;
    while bits < 16 {
        let prot = Prot::from_bits_truncate(bits);
        if prot.contains(Prot::WRITE) {
            all[bits as usize] |= write;
        }
        if prot.contains(Prot::READ) {
            all[bits as usize] |= read;
        }
        bits += 1;
    }
    all
}

// SAFETY: P is set in leaves and tables. Bit 7 is clear in tables and set in leaves above the last
// level. Hardware sets A in the entry of a table (SFS.9), which is set already.
unsafe impl Format for FirstStage {
    const PAGE_SHIFT: u32 = 12;
    const PAGE_SIZES: u64 = 1 << 12 | 1 << 21 | 1 << 30;
    const ROOT_LEVELS: (u8, u8) = (0, 1);
    const MAX_ROOT_TABLES: usize = 1;
    const ADDRESS: u64 = ADDRESS;
    const TABLE: u64 = P | RW | US | A;
    const LEAF: [u64; 4] = {
        let page = P | US | A;
        [page | PAGE_SIZE, page | PAGE_SIZE, page | PAGE_SIZE, page]
    };
    const ATTRIBUTES: [u64; 16] = of_all(RW | D, 0);

    #[inline(always)]
    fn is_table(descriptor: u64) -> bool {
        descriptor & (P | PAGE_SIZE) == P
    }

    #[inline(always)]
    fn is_valid(descriptor: u64) -> bool {
        descriptor & P != 0
    }
}

/// The second stage: reading and writing each allowed by a bit of its own.
#[derive(Clone, Copy, Debug)]
pub struct SecondStage;

const R: u64 = 1 << 0;
const W: u64 = 1 << 1;

// SAFETY: R or W is set in leaves, both in tables. Bit 7 is clear in tables and set in leaves above
// the last level. Hardware changes nothing: it is not told to update flags.
unsafe impl Format for SecondStage {
    const PAGE_SHIFT: u32 = 12;
    const PAGE_SIZES: u64 = 1 << 12 | 1 << 21 | 1 << 30;
    const ROOT_LEVELS: (u8, u8) = (0, 1);
    const MAX_ROOT_TABLES: usize = 1;
    const ADDRESS: u64 = ADDRESS;
    const TABLE: u64 = R | W;
    const LEAF: [u64; 4] = [PAGE_SIZE, PAGE_SIZE, PAGE_SIZE, 0];
    const ATTRIBUTES: [u64; 16] = of_all(W, R);

    #[inline(always)]
    fn is_table(descriptor: u64) -> bool {
        descriptor & (R | W | PAGE_SIZE) == R | W
    }

    #[inline(always)]
    fn is_valid(descriptor: u64) -> bool {
        descriptor & (R | W) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PhysAddr;

    const RW_PROT: Prot = Prot::READ.union(Prot::WRITE);

    // The values are those that Linux 6.12's intel-iommu makes of its masks (DMA_PTE_READ,
    // DMA_PTE_WRITE, DMA_PTE_LARGE_PAGE, DMA_FL_PTE_*), worked out by hand.
    #[test]
    fn second_stage_entries_are_those_of_the_architecture() {
        let phys = PhysAddr(0x0000_8765_4321_0000);
        assert_eq!(SecondStage::leaf(phys, 3, RW_PROT), 0x0000_8765_4321_0003);
        assert_eq!(SecondStage::leaf(phys, 3, Prot::READ), 0x8765_4321_0001);
        assert_eq!(SecondStage::leaf(phys, 3, Prot::WRITE), 0x8765_4321_0002);
        assert_eq!(
            SecondStage::leaf(PhysAddr(0x20_0000), 2, RW_PROT),
            0x20_0083
        );
        let huge = SecondStage::leaf(PhysAddr(0x4000_0000), 1, Prot::READ);
        assert_eq!(huge, 0x4000_0081);
        assert_eq!(SecondStage::table(phys), 0x8765_4321_0003);
    }

    #[test]
    fn first_stage_entries_are_those_of_the_architecture() {
        let phys = PhysAddr(0x1_2345_6000);
        assert_eq!(FirstStage::leaf(phys, 3, RW_PROT), 0x1_2345_6067);
        assert_eq!(FirstStage::leaf(phys, 3, Prot::READ), 0x1_2345_6025);
        assert_eq!(FirstStage::leaf(PhysAddr(0x20_0000), 2, RW_PROT), 0x20_00e7);
        assert_eq!(FirstStage::table(phys), 0x1_2345_6027);
    }

    #[test]
    fn an_entry_without_permissions_maps_nothing() {
        assert!(!SecondStage::is_valid(0x5080) && !SecondStage::is_table(0x5000));
        assert!(!FirstStage::is_valid(0x50e6) && !FirstStage::is_table(0x5026));
        assert!(SecondStage::is_valid(0x5002) && SecondStage::is_table(0x5003));
        assert!(FirstStage::is_valid(0x50a5) && !FirstStage::is_table(0x50a5));
        assert!(FirstStage::is_table(0x5027));
    }
}
