//! What the caller gets wrong: refused with an error that says so, and what was mapped goes on
//! working.

use iommu_core::{Device, DomainRef, ErrorKind, Iova, PhysAddr, Result};

use super::lab::{Block, Lab, PAGE, RW, Rig};
use crate::machine::Machine;

const AT: u64 = 0x4_0000;

/// A device with two pages at [`AT`] and one behind a hole of one page.
struct Scene<'a, M: Machine> {
    lab: &'a Lab<M>,
    rig: Rig<'a, M>,
    device: Device,
    domain: DomainRef,
    block: Block,
}

impl<'a, M: Machine> Scene<'a, M> {
    fn new(lab: &'a Lab<M>) -> Self {
        let rig = lab.rig();
        let device = rig.add(0);
        let domain = device.domain().unwrap();
        let block = lab.block(8 * PAGE);
        lab.map(&domain, AT, &block, 0, 2 * PAGE).unwrap();
        lab.map(&domain, AT + 3 * PAGE, &block, 3 * PAGE, PAGE)
            .unwrap();
        let scene = Self {
            lab,
            rig,
            device,
            domain,
            block,
        };
        scene.stands();
        scene
    }

    /// Everything is where it was, and nothing else is there.
    #[track_caller]
    fn stands(&self) {
        let Self {
            lab, block, rig, ..
        } = self;
        for page in [0, 1, 3] {
            lab.reaches(0, AT + page * PAGE, block, page * PAGE);
        }
        rig.silent();
        for page in [2, 4, 5] {
            lab.refused(0, AT + page * PAGE, block, page * PAGE);
        }
        let _ = rig.events();
    }

    #[track_caller]
    fn refuses(&self, what: &str, result: Result, kind: ErrorKind) {
        let error = result.expect_err(what);
        assert_eq!(error.kind(), kind, "{what}: {error}");
        self.stands();
    }

    /// Maps without a check of the block.
    fn map_at(&self, iova: u64, phys: u64, len: u64) -> Result {
        // SAFETY: the cases here expect to be refused. Where one is not, the test fails before
        // anything relies on memory that a device could reach.
        unsafe { self.domain.map(Iova(iova), PhysAddr(phys), len, RW) }
    }

    fn end(self) {
        self.device.release().unwrap();
    }
}

/// Mapping over what is mapped is refused as a whole.
pub fn an_overlapping_map_is_refused<M: Machine>(lab: &Lab<M>) {
    let scene = Scene::new(lab);
    let Scene { domain, block, .. } = &scene;
    for (what, at, pages) in [
        ("the same page", 0, 1),
        ("a range that ends in a mapping", 2, 2),
        ("a range that begins in a mapping", 1, 2),
        ("a range around a mapping", 2, 4),
    ] {
        let result = lab.map(domain, AT + at * PAGE, block, 4 * PAGE, pages * PAGE);
        scene.refuses(what, result, ErrorKind::AlreadyExists);
    }
    scene.end();
}

/// A large page over a small mapping is refused, and leaves nothing behind.
pub fn a_block_over_a_page_is_refused<M: Machine>(lab: &Lab<M>) {
    const MIB2: u64 = 2 << 20;
    let scene = Scene::new(lab);
    let large = lab.block_aligned(2 * MIB2, MIB2);
    let result = lab.map(&scene.domain, 0, &large, 0, MIB2);
    scene.refuses("2 MiB over pages", result, ErrorKind::AlreadyExists);
    let result = lab.map(&scene.domain, 2 * MIB2, &large, 0, MIB2);
    assert_eq!(result, Ok(()));
    // It stops at the pages with a block mapped already, which goes again.
    let end = 4 * MIB2;
    lab.map(&scene.domain, end, &scene.block, 0, PAGE).unwrap();
    let result = lab.map(&scene.domain, 3 * MIB2, &large, 0, 2 * MIB2);
    scene.refuses("4 MiB up to a page", result, ErrorKind::AlreadyExists);
    lab.refused(0, 3 * MIB2, &large, 0);
    scene.end();
}

/// Addresses and lengths that are no multiples of a page.
pub fn misaligned_ranges_are_refused<M: Machine>(lab: &Lab<M>) {
    let scene = Scene::new(lab);
    let phys = scene.block.addr().0 + 4 * PAGE;
    let free = AT + 4 * PAGE;
    for (what, iova, phys, len) in [
        ("the IOVA", free + 8, phys, PAGE),
        ("the physical address", free, phys + 0x800, PAGE),
        ("the length", free, phys, PAGE + 1),
        ("less than a page", free, phys, 8),
    ] {
        scene.refuses(
            what,
            scene.map_at(iova, phys, len),
            ErrorKind::InvalidArgument,
        );
    }
    for (what, iova, len) in [
        ("unmap: the IOVA", AT + 8, PAGE),
        ("unmap: the length", AT, PAGE + 8),
        ("unmap: less than a page", AT, 1),
    ] {
        let result = scene.domain.unmap(Iova(iova), len);
        scene.refuses(what, result, ErrorKind::InvalidArgument);
    }
    scene.end();
}

/// Ranges without a byte, and ranges that wrap around.
pub fn empty_and_wrapping_ranges_are_refused<M: Machine>(lab: &Lab<M>) {
    let scene = Scene::new(lab);
    let phys = scene.block.addr().0;
    for (what, iova, phys, len) in [
        ("no byte", AT + 4 * PAGE, phys, 0),
        ("the IOVA wraps", 0u64.wrapping_sub(PAGE), phys, 2 * PAGE),
        (
            "the target wraps",
            AT + 4 * PAGE,
            0u64.wrapping_sub(PAGE),
            2 * PAGE,
        ),
        ("all of it", PAGE, phys, 0u64.wrapping_sub(PAGE)),
    ] {
        let error = scene.map_at(iova, phys, len).expect_err(what);
        let kinds = [ErrorKind::InvalidArgument, ErrorKind::OutOfRange];
        assert!(kinds.contains(&error.kind()), "{what}: {error}");
        scene.stands();
    }
    for (what, iova, len) in [
        ("unmap: no byte", AT, 0),
        ("unmap: it wraps", 0u64.wrapping_sub(PAGE), 2 * PAGE),
    ] {
        let result = scene.domain.unmap(Iova(iova), len);
        scene.refuses(what, result, ErrorKind::InvalidArgument);
    }
    scene.end();
}

/// Ranges beyond the domain's aperture, and targets beyond the hardware's memory.
pub fn ranges_out_of_reach_are_refused<M: Machine>(lab: &Lab<M>) {
    let scene = Scene::new(lab);
    let phys = scene.block.addr().0;
    let end = scene.domain.geometry().unwrap().aperture.last() + 1;
    for (what, iova, phys, len) in [
        ("behind the aperture", end, phys, PAGE),
        ("across its end", end - PAGE, phys, 2 * PAGE),
        ("the last page of all", 0u64.wrapping_sub(PAGE), phys, PAGE),
        ("beyond 44 bits", AT + 4 * PAGE, 1 << 44, PAGE),
        ("across 44 bits", AT + 4 * PAGE, (1 << 44) - PAGE, 2 * PAGE),
        ("far beyond", AT + 4 * PAGE, 1 << 60, PAGE),
    ] {
        scene.refuses(what, scene.map_at(iova, phys, len), ErrorKind::OutOfRange);
    }
    let result = scene.domain.unmap(Iova(end), PAGE);
    scene.refuses("unmap: behind the aperture", result, ErrorKind::OutOfRange);
    let result = scene.domain.unmap(Iova(end - PAGE), 2 * PAGE);
    scene.refuses("unmap: across its end", result, ErrorKind::OutOfRange);
    scene.end();
}

/// Unmapping what is not mapped, as a whole or in part, changes nothing.
pub fn an_unmap_of_a_hole_is_refused<M: Machine>(lab: &Lab<M>) {
    let scene = Scene::new(lab);
    for (what, page, pages) in [
        ("the hole", 2, 1),
        ("a page and the hole", 1, 2),
        ("all, with the hole", 0, 4),
        ("one page too many", 3, 2),
        ("a region without a table", 0x4_0000, 1),
    ] {
        let result = scene.domain.unmap(Iova(AT + page * PAGE), pages * PAGE);
        scene.refuses(what, result, ErrorKind::NotFound);
    }
    scene.end();
}

/// What was unmapped cannot be unmapped again.
pub fn a_second_unmap_is_refused<M: Machine>(lab: &Lab<M>) {
    let scene = Scene::new(lab);
    lab.map(&scene.domain, AT + 4 * PAGE, &scene.block, 4 * PAGE, PAGE)
        .unwrap();
    scene.domain.unmap(Iova(AT + 4 * PAGE), PAGE).unwrap();
    let result = scene.domain.unmap(Iova(AT + 4 * PAGE), PAGE);
    scene.refuses("a second time", result, ErrorKind::NotFound);
    scene.end();
}

/// Domains without tables of their own cannot be mapped into.
pub fn fixed_domains_have_no_mappings<M: Machine>(lab: &Lab<M>) {
    let scene = Scene::new(lab);
    let fixed = [
        scene.rig.iommu.blocked_domain(),
        scene.rig.iommu.identity_domain().unwrap(),
    ];
    for domain in fixed {
        let result = lab.map(&domain, AT + 4 * PAGE, &scene.block, 4 * PAGE, PAGE);
        scene.refuses("a map", result, ErrorKind::Unsupported);
        let result = domain.unmap(Iova(AT), PAGE);
        scene.refuses("an unmap", result, ErrorKind::Unsupported);
    }
    scene.end();
}

/// A mapping that runs out of memory half way leaves nothing behind, and works with more memory.
pub fn a_map_without_memory_leaves_nothing<M: Machine>(lab: &Lab<M>) {
    const MIB2: u64 = 2 << 20;
    let scene = Scene::new(lab);
    let block = lab.block(4 * PAGE);
    // Two pages before and two behind the border of a table: each half needs one of its own.
    let iova = (1 << 35) + 3 * MIB2 - 2 * PAGE;
    let memory = lab.memory();
    let before = memory.allocated();
    let mut failures = 0;
    loop {
        memory.fail_allocation(Some(failures));
        let result = lab.map(&scene.domain, iova, &block, 0, 4 * PAGE);
        memory.fail_allocation(None);
        match result {
            Ok(()) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::OutOfMemory),
        }
        failures += 1;
        scene.stands();
        for page in 0..4 {
            lab.refused(0, iova + page * PAGE, &block, page * PAGE);
        }
        let _ = scene.rig.events();
    }
    assert!(failures >= 2, "only {failures} allocations");
    assert!(memory.allocated() > before);
    for page in 0..4 {
        lab.reaches(0, iova + page * PAGE, &block, page * PAGE);
    }
    scene.stands();
    scene.end();
}

/// Devices without streams, with streams that somebody else has, and with streams that cannot be.
pub fn devices_that_cannot_be_are_refused<M: Machine>(lab: &Lab<M>) {
    let scene = Scene::new(lab);
    let rig = &scene.rig;
    // In a group of its own: without one it would join that of the device whose stream it has.
    let info = |streams: &[u32]| {
        let info = iommu_core::DeviceInfo::new("odd").group("elsewhere");
        info.streams(streams.iter().copied())
    };
    let own = lab.stream(0).0;
    for (streams, kind) in [
        (&[][..], ErrorKind::InvalidArgument),
        (&[own], ErrorKind::Busy),
        (&[lab.stream(1).0, own], ErrorKind::Busy),
        (&[0x1_0000], ErrorKind::OutOfRange),
        (&[lab.stream(1).0, u32::MAX], ErrorKind::OutOfRange),
    ] {
        let error = rig.add_as(info(streams)).unwrap_err();
        assert_eq!(error.kind(), kind, "{streams:x?}: {error}");
        scene.stands();
        lab.refused(1, AT, &scene.block, 0);
        rig.silent();
    }
    // The streams of a device that was refused are free.
    let device = rig.add(1);
    device.release().unwrap();
    scene.end();
}
