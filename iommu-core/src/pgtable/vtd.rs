//! The formats of VT-d: first-stage (VT-d 9.7) and second-stage (9.8) paging entries.

use super::{Descriptor, Format};
use crate::addr::PhysAddr;
use crate::domain::Prot;

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Where it is set above the last level, the walk ends there.
const PAGE_SIZE: u64 = 1 << 7;

const fn page_size(level: u8) -> u64 {
    if level < 3 { PAGE_SIZE } else { 0 }
}

/// `present` where any of these bits makes an entry count.
const fn decode(entry: u64, level: u8, present: u64) -> Descriptor {
    let address = PhysAddr(entry & ADDRESS);
    if entry & present == 0 {
        return Descriptor::Invalid;
    }
    match level {
        0 => Descriptor::Table(address),
        1 | 2 if entry & PAGE_SIZE == 0 => Descriptor::Table(address),
        _ => Descriptor::Leaf(address),
    }
}

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

// SAFETY: a table's entry has P set, bit 7 clear, and the address in bits 51:12; no other entry
// above the last level has both. A word of zero has P clear.
unsafe impl Format for FirstStage {
    const MAX_ROOT_TABLES: usize = 1;

    fn leaf(phys: PhysAddr, level: u8, prot: Prot) -> u64 {
        let write = if prot.contains(Prot::WRITE) {
            RW | D
        } else {
            0
        };
        phys.0 & ADDRESS | page_size(level) | P | US | A | write
    }

    fn table(phys: PhysAddr) -> u64 {
        phys.0 & ADDRESS | P | RW | US | A
    }

    fn decode(descriptor: u64, level: u8) -> Descriptor {
        decode(descriptor, level, P)
    }
}

/// The second stage: reading and writing each allowed by a bit of its own.
#[derive(Clone, Copy, Debug)]
pub struct SecondStage;

const R: u64 = 1 << 0;
const W: u64 = 1 << 1;

// SAFETY: a table's entry has R and W set, bit 7 clear, and the address in bits 51:12; no leaf above
// the last level has bit 7 clear. A word of zero has R and W clear.
unsafe impl Format for SecondStage {
    const MAX_ROOT_TABLES: usize = 1;

    fn leaf(phys: PhysAddr, level: u8, prot: Prot) -> u64 {
        let read = if prot.contains(Prot::READ) { R } else { 0 };
        let write = if prot.contains(Prot::WRITE) { W } else { 0 };
        phys.0 & ADDRESS | page_size(level) | read | write
    }

    fn table(phys: PhysAddr) -> u64 {
        phys.0 & ADDRESS | R | W
    }

    fn decode(descriptor: u64, level: u8) -> Descriptor {
        decode(descriptor, level, R | W)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let page = PhysAddr(0x5000);
        for level in 0..=3 {
            assert_eq!(SecondStage::decode(0x5080, level), Descriptor::Invalid);
            assert_eq!(FirstStage::decode(0x50e6, level), Descriptor::Invalid);
        }
        assert_eq!(SecondStage::decode(0x5002, 3), Descriptor::Leaf(page));
        assert_eq!(SecondStage::decode(0x5003, 2), Descriptor::Table(page));
        assert_eq!(FirstStage::decode(0x50a5, 2), Descriptor::Leaf(page));
        assert_eq!(FirstStage::decode(0x5027, 0), Descriptor::Table(page));
    }
}
