//! Mapping and unmapping: what was unmapped is out of reach, what was not stays.

use iommu_core::{ErrorKind, Iova};

use super::lab::{Lab, PAGE, RW, contents};
use super::outsider::Kind;
use crate::machine::Machine;

const AT: u64 = 0x1_0000;

/// What was unmapped is out of reach, an event tells who tried, and the memory is the caller's
/// again, as the device left it.
pub fn what_is_unmapped_is_out_of_reach<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let page = lab.page(&device.domain().unwrap(), AT);
    lab.put(0, AT, b"from the device");
    let block = page.unmap().unwrap();
    assert_eq!(&contents::<15>(&block, 0), b"from the device");

    rig.silent();
    lab.put(0, AT, b"late");
    assert_eq!(&contents::<15>(&block, 0), b"from the device");
    let event = rig.event();
    assert!(
        event.is(Kind::Translation) && event.input() == AT,
        "{event:?}"
    );
    lab.refused(0, AT, &block, 0);
    device.release().unwrap();
}

/// An IOVA that is mapped elsewhere leads there at once.
pub fn a_remapped_iova_leads_to_the_new_page<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let mut old = lab.page(&domain, AT);
    lab.reaches(0, AT, old.block(), 0);
    for _ in 0..4 {
        let before = old.unmap().unwrap();
        old = lab.page(&domain, AT);
        lab.reaches(0, AT, old.block(), 0);
        lab.misses(0, AT, &before, 0);
    }
    rig.silent();
    device.release().unwrap();
}

/// A device that was refused an address can use it as soon as it is mapped.
pub fn a_fault_does_not_stay<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block(2 * PAGE);
    lab.refused(0, AT, &block, 0);
    assert!(!rig.events().is_empty());
    lab.map(&domain, AT, &block, 0, PAGE).unwrap();
    lab.reaches(0, AT, &block, 0);
    // The second page shares a table with the first: only its own entry changes.
    lab.refused(0, AT + PAGE, &block, 4096);
    assert!(!rig.events().is_empty());
    lab.map(&domain, AT + PAGE, &block, PAGE, PAGE).unwrap();
    lab.reaches(0, AT + PAGE, &block, 4096);
    rig.silent();
    device.release().unwrap();
}

/// Unmapping a page in the middle leaves the others.
pub fn neighbours_of_an_unmapped_page_stay<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block(3 * PAGE);
    lab.map(&domain, AT, &block, 0, 3 * PAGE).unwrap();
    for page in 0..3 {
        lab.reaches(0, AT + page * PAGE, &block, page * PAGE);
    }
    domain.unmap(Iova(AT + PAGE), PAGE).unwrap();
    lab.reaches(0, AT, &block, 0);
    lab.reaches(0, AT + 2 * PAGE, &block, 8192);
    rig.silent();
    lab.refused(0, AT + PAGE, &block, 4096);
    device.release().unwrap();
}

fn unmap_pages<M: Machine>(lab: &Lab<M>, pages: u64) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block((pages + 2) * PAGE);
    lab.map(&domain, AT, &block, 0, (pages + 2) * PAGE).unwrap();
    for page in 0..pages + 2 {
        lab.reaches(0, AT + page * PAGE, &block, page * PAGE);
    }
    rig.silent();
    domain.unmap(Iova(AT + PAGE), pages * PAGE).unwrap();
    for page in 1..=pages {
        lab.refused(0, AT + page * PAGE, &block, page * PAGE);
    }
    let _ = rig.events();
    lab.reaches(0, AT, &block, 0);
    lab.reaches(0, AT + (pages + 1) * PAGE, &block, (pages + 1) * PAGE);
    rig.silent();
    device.release().unwrap();
}

/// Many pages by one call, as many as are still invalidated one by one.
pub fn sixty_four_pages_go_by_one_call<M: Machine>(lab: &Lab<M>) {
    unmap_pages(lab, 64);
}

/// Many pages by one call, more than are invalidated one by one.
pub fn seventy_pages_go_by_one_call<M: Machine>(lab: &Lab<M>) {
    unmap_pages(lab, 70);
}

/// A range that needs more commands than a small command queue holds.
pub fn a_small_command_queue_is_enough<M: Machine>(lab: &Lab<M>) {
    let mut config = lab.config();
    config.command_queue_log2 = 2;
    let rig = lab.rig_with(config);
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block(40 * PAGE);
    for _ in 0..3 {
        lab.map(&domain, AT, &block, 0, 40 * PAGE).unwrap();
        for page in 0..40 {
            lab.reaches(0, AT + page * PAGE, &block, page * PAGE);
        }
        domain.unmap(Iova(AT), 40 * PAGE).unwrap();
        for page in 0..40 {
            lab.refused(0, AT + page * PAGE, &block, page * PAGE);
        }
        let _ = rig.events();
    }
    device.release().unwrap();
}

/// Two megabytes of single pages by one call; their table is given back.
pub fn two_mib_of_pages_go_by_one_call<M: Machine>(lab: &Lab<M>) {
    const SIZE: u64 = 2 << 20;
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    // Not aligned to 2 MiB in memory, so it is mapped by pages.
    let block = lab.block_aligned(SIZE + PAGE, SIZE);
    let before = lab.memory().allocated();
    lab.map(&domain, SIZE, &block, PAGE, SIZE).unwrap();
    let places = [0, PAGE, SIZE / 2, SIZE - PAGE];
    for place in places {
        lab.reaches(0, SIZE + place, &block, place + PAGE);
    }
    assert_eq!(lab.outsider().walk(lab.stream(0), SIZE).level, 3);
    assert!(lab.memory().allocated() > before);
    rig.silent();
    domain.unmap(Iova(SIZE), SIZE).unwrap();
    for place in places {
        lab.refused(0, SIZE + place, &block, place + PAGE);
    }
    // The table of the pages is gone, and with it what it could have led a device to. Those above
    // it may be kept.
    let kept = lab.memory().allocated() - before;
    assert!(kept <= 2 * 4096, "{kept:#x} bytes of tables are kept");
    // The same addresses, by a new table.
    lab.map(&domain, SIZE, &block, PAGE, PAGE).unwrap();
    lab.reaches(0, SIZE, &block, 4096);
    lab.refused(0, SIZE + PAGE, &block, 8192);
    device.release().unwrap();
}

/// What the domain says of an address is where the device gets.
pub fn a_domain_knows_where_a_device_gets<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let page = lab.page(&domain, AT);
    let target = domain.translate(Iova(AT + 0x123)).unwrap();
    assert_eq!(target.0, page.block().addr().0 + 0x123);
    lab.reaches(0, AT + 0x124, page.block(), 0x124);
    assert_eq!(domain.translate(Iova(AT + PAGE)), None);
    assert_eq!(domain.translate(Iova(u64::MAX)), None);
    let block = page.unmap().unwrap();
    assert_eq!(domain.translate(Iova(AT)), None);
    lab.refused(0, AT, &block, 0);
    device.release().unwrap();
}

/// A handle that is forgotten never gives its memory back, so that a device that goes on using it
/// harms nobody.
pub fn a_forgotten_mapping_is_harmless<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let domain = rig.domain();
    // Mapped before any device is there.
    let page = lab.page(&domain, AT);
    let addr = page.block().addr();
    let device = rig.add(0);
    device.attach(&domain).unwrap();
    lab.reaches(0, AT, page.block(), 0);
    std::mem::forget(page);
    lab.put(0, AT, b"still there");
    let mut seen = [0; 11];
    lab.memory().dma_read(addr, &mut seen).unwrap();
    assert_eq!(&seen, b"still there");
    device.release().unwrap();
    drop(domain);
    // The handle keeps the domain, and that keeps the driver: both stay, tables and all.
    rig.smmu
        .shutdown(arm_smmu_v3::ShutdownPolicy::Abort)
        .unwrap();
    drop(rig);
    assert!(lab.expect_leak_of_everything() > 4096);
}

/// Write access alone is a mapping, and no access at all is none.
pub fn a_mapping_without_access_is_refused<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block(PAGE);
    let none = RW.difference(RW);
    let error = lab.map_as(&domain, AT, &block, 0, PAGE, none).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    lab.refused(0, AT, &block, 0);
    lab.map_as(&domain, AT, &block, 0, PAGE, iommu_core::Prot::WRITE)
        .unwrap();
    lab.writes(0, AT, &block, 0);
    device.release().unwrap();
}
