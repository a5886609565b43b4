//! The VMSAv8-64 formats with 4 KiB granule (Arm DDI 0487, D8.3).

use super::{Descriptor, Format};
use crate::addr::PhysAddr;
use crate::domain::Prot;

const VALID: u64 = 1 << 0;
/// A table above level 3, a page at level 3; a block has this bit clear.
const TABLE_OR_PAGE: u64 = 1 << 1;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// Without this, an access faults so that software can notice it; nobody here wants to.
const ACCESS_FLAG: u64 = 1 << 10;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const OUTER_SHAREABLE: u64 = 0b10 << 8;
const EXECUTE_NEVER: u64 = 1 << 54;

fn leaf_bits(phys: PhysAddr, level: u8) -> u64 {
    let kind = if level == 3 {
        VALID | TABLE_OR_PAGE
    } else {
        VALID
    };
    phys.0 & ADDRESS | ACCESS_FLAG | kind
}

fn decode(descriptor: u64, level: u8) -> Descriptor {
    let address = PhysAddr(descriptor & ADDRESS);
    match (
        descriptor & VALID != 0,
        descriptor & TABLE_OR_PAGE != 0,
        level,
    ) {
        (false, ..) | (true, false, 0 | 3) => Descriptor::Invalid,
        (true, true, 0..=2) => Descriptor::Table(address),
        (true, ..) => Descriptor::Leaf(address),
    }
}

/// Stage 1: virtual to intermediate or physical addresses.
///
/// Leaves are non-global, tagged with the ASID (SMMUv3 3.17.1), and open to unprivileged accesses,
/// which is what devices make. Memory is normal write-back, device memory `nGnRE`, through the
/// attribute indirection register value [`MAIR`](Self::MAIR).
#[derive(Clone, Copy, Debug)]
pub struct Stage1;

impl Stage1 {
    /// Index 0: normal memory, write-back, allocating. Index 1: `Device-nGnRE`.
    pub const MAIR: u64 = 0x04ff;
}

const S1_DEVICE: u64 = 1 << 2;
const S1_UNPRIVILEGED: u64 = 1 << 6;
const S1_READ_ONLY: u64 = 1 << 7;
const S1_NOT_GLOBAL: u64 = 1 << 11;
const S1_PRIVILEGED_EXECUTE_NEVER: u64 = 1 << 53;

// SAFETY: a table's descriptor has bits 1:0 set above level 3 and the address in bits 47:12, which is
// all that an address of a table below 48 bits has.
unsafe impl Format for Stage1 {
    const MAX_ROOT_TABLES: usize = 1;

    fn leaf(phys: PhysAddr, level: u8, prot: Prot) -> u64 {
        let mut bits = leaf_bits(phys, level) | S1_UNPRIVILEGED | S1_NOT_GLOBAL;
        bits |= if prot.contains(Prot::DEVICE) {
            S1_DEVICE | OUTER_SHAREABLE
        } else {
            INNER_SHAREABLE
        };
        if !prot.contains(Prot::WRITE) {
            bits |= S1_READ_ONLY;
        }
        if prot.intersects(Prot::NO_EXECUTE | Prot::DEVICE) {
            bits |= EXECUTE_NEVER | S1_PRIVILEGED_EXECUTE_NEVER;
        }
        bits
    }

    fn table(phys: PhysAddr) -> u64 {
        phys.0 & ADDRESS | TABLE_OR_PAGE | VALID
    }

    fn decode(descriptor: u64, level: u8) -> Descriptor {
        decode(descriptor, level)
    }
}

/// Stage 2: intermediate physical to physical addresses.
#[derive(Clone, Copy, Debug)]
pub struct Stage2;

const S2_NORMAL_WRITE_BACK: u64 = 0b1111 << 2;
const S2_DEVICE_NGNRE: u64 = 0b0001 << 2;
const S2_READ: u64 = 1 << 6;
const S2_WRITE: u64 = 1 << 7;

// SAFETY: as for stage 1.
unsafe impl Format for Stage2 {
    const MAX_ROOT_TABLES: usize = 16;

    fn leaf(phys: PhysAddr, level: u8, prot: Prot) -> u64 {
        let mut bits = leaf_bits(phys, level);
        bits |= if prot.contains(Prot::DEVICE) {
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
        if prot.intersects(Prot::NO_EXECUTE | Prot::DEVICE) {
            bits |= EXECUTE_NEVER;
        }
        bits
    }

    fn table(phys: PhysAddr) -> u64 {
        phys.0 & ADDRESS | TABLE_OR_PAGE | VALID
    }

    fn decode(descriptor: u64, level: u8) -> Descriptor {
        decode(descriptor, level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The values are those that Linux 6.12's io-pgtable-arm writes for the same request
    // (IOMMU_CACHE set, 4 KiB granule), worked out from its masks by hand.
    #[test]
    fn stage_1_descriptors_are_those_of_the_architecture() {
        let phys = PhysAddr(0x0000_8765_4321_0000);
        let rw = Prot::READ | Prot::WRITE;
        assert_eq!(Stage1::leaf(phys, 3, rw), 0x0000_8765_4321_0f43);
        assert_eq!(Stage1::leaf(phys, 3, Prot::READ), 0x0000_8765_4321_0fc3);
        assert_eq!(Stage1::leaf(PhysAddr(0x4020_0000), 2, rw), 0x4020_0f41);
        assert_eq!(
            Stage1::leaf(phys, 3, rw | Prot::NO_EXECUTE),
            0x0060_8765_4321_0f43
        );
        assert_eq!(
            Stage1::leaf(phys, 3, rw | Prot::DEVICE),
            0x0060_8765_4321_0e47
        );
        assert_eq!(Stage1::table(phys), 0x0000_8765_4321_0003);
    }

    #[test]
    fn stage_2_descriptors_are_those_of_the_architecture() {
        let phys = PhysAddr(0x1_2345_6000);
        let rw = Prot::READ | Prot::WRITE;
        assert_eq!(Stage2::leaf(phys, 3, rw), 0x1_2345_67ff);
        assert_eq!(Stage2::leaf(phys, 3, Prot::READ), 0x1_2345_677f);
        assert_eq!(Stage2::leaf(phys, 3, Prot::WRITE), 0x1_2345_67bf);
        assert_eq!(Stage2::leaf(PhysAddr(0x4000_0000), 1, rw), 0x4000_07fd);
        assert_eq!(
            Stage2::leaf(phys, 3, rw | Prot::DEVICE),
            0x0040_0001_2345_66c7
        );
    }

    #[test]
    fn a_reserved_encoding_maps_nothing() {
        assert_eq!(Stage1::decode(0x1000 | VALID, 3), Descriptor::Invalid);
        assert_eq!(
            Stage1::decode(0x1000 | VALID, 2),
            Descriptor::Leaf(PhysAddr(0x1000))
        );
        assert_eq!(
            Stage2::decode(0x1003, 3),
            Descriptor::Leaf(PhysAddr(0x1000))
        );
        assert_eq!(
            Stage2::decode(0x1003, 0),
            Descriptor::Table(PhysAddr(0x1000))
        );
        assert_eq!(Stage2::decode(0x1002, 0), Descriptor::Invalid);
        assert_eq!(Stage2::decode(0x1001, 0), Descriptor::Invalid);
    }
}
