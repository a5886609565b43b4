//! Pages of 2 MiB and 1 GiB.

use iommu_core::{ErrorKind, Iova, PhysAddr};

use super::lab::{Lab, PAGE, RW};
use super::outsider::Kind;
use crate::machine::Machine;

const MIB2: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

/// A range of 2 MiB, aligned in both worlds, is one block, and all of it is reached.
pub fn two_mib_are_one_block<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block_aligned(MIB2, MIB2);
    let iova = 0x5_0000_0000;
    lab.map(&domain, iova, &block, 0, MIB2).unwrap();
    for at in [0, 0x1000, 0x10_0000, MIB2 - 4] {
        lab.reaches(0, iova + at, &block, at);
    }
    let leaf = lab.outsider().walk(lab.stream(0), iova);
    assert_eq!((leaf.level, leaf.descriptor & 3), (2, 1));
    rig.silent();
    lab.refused(0, iova - 4, &block, MIB2 - 4);
    lab.refused(0, iova + MIB2, &block, 0);
    let _ = rig.events();
    // One call takes it away, and every part of it.
    domain.unmap(Iova(iova), MIB2).unwrap();
    for at in [0, 0x1000, 0x10_0000, MIB2 - 4] {
        lab.refused(0, iova + at, &block, at);
    }
    assert!(rig.events().iter().all(|event| event.is(Kind::Translation)));
    device.release().unwrap();
}

/// A range of 1 GiB is one block.
pub fn one_gib_is_one_block<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block(PAGE);
    let iova = 0x40_0000_0000;
    let ram = block.addr().0 & !(GIB - 1);
    let at = iova + (block.addr().0 - ram);
    // SAFETY: the device touches the bytes of `block` alone, which the lab keeps.
    unsafe { domain.map(Iova(iova), PhysAddr(ram), GIB, RW) }.unwrap();
    lab.reaches(0, at, &block, 0);
    lab.reaches(0, at + 0xffc, &block, 0xffc);
    let leaf = lab.outsider().walk(lab.stream(0), at);
    assert_eq!((leaf.level, leaf.descriptor & 3), (1, 1));
    rig.silent();

    // It goes as a whole or not at all.
    let error = domain.unmap(Iova(iova), MIB2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    lab.reaches(0, at, &block, 0);
    domain.unmap(Iova(iova), GIB).unwrap();
    lab.refused(0, at, &block, 0);
    device.release().unwrap();
}

/// Unmapping a part of a block is refused, and the block goes on working as a whole.
pub fn a_part_of_a_block_is_not_unmapped<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block_aligned(MIB2, MIB2);
    lab.map(&domain, MIB2, &block, 0, MIB2).unwrap();
    lab.reaches(0, MIB2, &block, 0);
    for (start, len) in [
        (MIB2, PAGE),
        (MIB2 + PAGE, PAGE),
        (MIB2 + PAGE, MIB2 - PAGE),
        (MIB2, MIB2 - PAGE),
    ] {
        let error = domain.unmap(Iova(start), len).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::InvalidArgument,
            "{start:#x}+{len:#x}"
        );
    }
    for at in [0, PAGE, MIB2 - 4] {
        lab.reaches(0, MIB2 + at, &block, at);
    }
    rig.silent();
    device.release().unwrap();
}

/// A range that is not aligned consists of the largest pages that fit, and goes by one call.
pub fn a_range_mixes_page_sizes<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block_aligned(3 * MIB2, MIB2);
    // From the last page before a block to the first one behind it.
    let (start, at, len) = (4 * MIB2 - PAGE, MIB2 - PAGE, MIB2 + 2 * PAGE);
    lab.map(&domain, start, &block, at, len).unwrap();
    let outsider = lab.outsider();
    for (offset, level) in [(0, 3), (PAGE, 2), (MIB2, 2), (MIB2 + PAGE, 3)] {
        lab.reaches(0, start + offset, &block, at + offset);
        let leaf = outsider.walk(lab.stream(0), start + offset);
        assert_eq!(
            (leaf.level, leaf.descriptor & 1),
            (level, 1),
            "at {offset:#x}"
        );
    }
    rig.silent();
    lab.refused(0, start - PAGE, &block, at - PAGE);
    lab.refused(0, start + len, &block, at + len);
    domain.unmap(Iova(start), len).unwrap();
    for offset in [0, PAGE, MIB2, MIB2 + PAGE] {
        lab.refused(0, start + offset, &block, at + offset);
    }
    device.release().unwrap();
}

/// Where a block was, pages can be mapped, and the other way round: nothing of the former shape
/// stays behind in the TLB.
pub fn blocks_and_pages_take_turns<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block_aligned(MIB2, MIB2);
    let pages = lab.block_aligned(MIB2 + PAGE, MIB2);
    let outsider = lab.outsider();
    for _ in 0..2 {
        lab.map(&domain, MIB2, &block, 0, MIB2).unwrap();
        lab.reaches(0, MIB2, &block, 0);
        lab.reaches(0, MIB2 + PAGE, &block, 4096);
        assert_eq!(outsider.walk(lab.stream(0), MIB2).level, 2);
        domain.unmap(Iova(MIB2), MIB2).unwrap();

        lab.map(&domain, MIB2, &pages, PAGE, MIB2).unwrap();
        assert_eq!(outsider.walk(lab.stream(0), MIB2).level, 3);
        for at in [0, PAGE, MIB2 - PAGE] {
            lab.reaches(0, MIB2 + at, &pages, at + PAGE);
            lab.misses(0, MIB2 + at, &block, at);
        }
        domain.unmap(Iova(MIB2), MIB2).unwrap();
        lab.refused(0, MIB2, &pages, 4096);
    }
    device.release().unwrap();
}
