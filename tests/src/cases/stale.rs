//! What hardware has cached stays in force until it is told: what the driver's invalidations are
//! for, and that a test would notice if one were missing.

use iommu_core::Iova;

use super::bank::opcode;
use super::lab::{Lab, PAGE};
use super::outsider::Kind;
use crate::machine::Machine;

const AT: u64 = 0x8_0000;
const TLBIS: &[u8] = &[
    opcode::TLBI_NH_ASID,
    opcode::TLBI_NH_VA,
    opcode::TLBI_S12_VMALL,
    opcode::TLBI_S2_IPA,
    opcode::TLBI_NSNH_ALL,
];
const CFGIS: &[u8] = &[opcode::CFGI_STE, opcode::CFGI_ALL];

/// A page that was redirected behind the driver's back leads to its old target until the driver
/// unmaps it; unmapping another one does not help.
pub fn a_redirected_page_is_stale_until_it_is_unmapped<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block(3 * PAGE);
    let [old, new] = [(&block, 0), (&block, 4096)];
    lab.map(&domain, AT, &block, 0, PAGE).unwrap();
    lab.map(&domain, AT + 0x10 * PAGE, &block, 2 * PAGE, PAGE)
        .unwrap();
    lab.reaches(0, AT, old.0, old.1);
    lab.reaches(0, AT + 0x10 * PAGE, &block, 8192);

    let outsider = lab.outsider();
    let leaf = outsider.walk(lab.stream(0), AT);
    outsider.set(leaf.at, leaf.descriptor + PAGE);
    lab.reaches(0, AT, old.0, old.1);
    domain.unmap(Iova(AT + 0x10 * PAGE), PAGE).unwrap();
    lab.reaches(0, AT, old.0, old.1);
    rig.silent();

    domain.unmap(Iova(AT), PAGE).unwrap();
    lab.refused(0, AT, old.0, old.1);
    lab.refused(0, AT, new.0, new.1);
    let _ = rig.events();
    lab.map(&domain, AT, &block, PAGE, PAGE).unwrap();
    lab.reaches(0, AT, new.0, new.1);
    lab.misses(0, AT, old.0, old.1);
    rig.silent();
    device.release().unwrap();
}

/// An entry that was changed behind the driver's back stays without effect until the driver
/// attaches something.
pub fn a_changed_entry_is_stale_until_an_attach<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let page = lab.page(&domain, AT);
    lab.reaches(0, AT, page.block(), 0);
    let outsider = lab.outsider();
    let at = outsider.ste(lab.stream(0), 0);
    let was = outsider.word(at);
    // Bypass: what was refused would pass.
    outsider.set(at, 0b1001);
    lab.reaches(0, AT, page.block(), 0);
    rig.silent();
    lab.refused(0, page.block().addr().0, page.block(), 0);
    let _ = rig.events();

    let other = rig.domain();
    let elsewhere = lab.page(&other, AT);
    device.attach(&other).unwrap();
    lab.reaches(0, AT, elsewhere.block(), 0);
    lab.misses(0, AT, page.block(), 0);
    rig.silent();
    // Abort, and back to the first domain.
    outsider.set(at, 0b0001);
    lab.reaches(0, AT, elsewhere.block(), 0);
    device.attach(&domain).unwrap();
    assert_eq!(outsider.word(at), was);
    lab.reaches(0, AT, page.block(), 0);
    rig.silent();
    device.release().unwrap();
}

/// Without TLB invalidation, a page that was unmapped stays within reach: a test that says it does
/// not would notice.
pub fn an_unmap_without_invalidation_shows<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block(2 * PAGE);
    lab.map(&domain, AT, &block, 0, 2 * PAGE).unwrap();
    lab.reaches(0, AT, &block, 0);
    lab.reaches(0, AT + PAGE, &block, 4096);

    lab.bank().leave_out(TLBIS);
    domain.unmap(Iova(AT), PAGE).unwrap();
    lab.reaches(0, AT, &block, 0);
    rig.silent();
    lab.bank().behave();
    domain.unmap(Iova(AT + PAGE), PAGE).unwrap();
    lab.refused(0, AT + PAGE, &block, 4096);
    // An invalidation of one page is not one of the other.
    lab.reaches(0, AT, &block, 0);
    lab.map(&domain, AT, &block, PAGE, PAGE).unwrap();
    domain.unmap(Iova(AT), PAGE).unwrap();
    lab.refused(0, AT, &block, 0);
    device.release().unwrap();
}

/// Without TLB invalidation, a range above the threshold for single pages stays within reach too.
pub fn a_long_unmap_without_invalidation_shows<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block(70 * PAGE);
    lab.map(&domain, AT, &block, 0, 70 * PAGE).unwrap();
    for page in [0, 35, 69] {
        lab.reaches(0, AT + page * PAGE, &block, page * PAGE);
    }
    lab.bank().leave_out(TLBIS);
    domain.unmap(Iova(AT), 70 * PAGE).unwrap();
    for page in [0, 35, 69] {
        lab.reaches(0, AT + page * PAGE, &block, page * PAGE);
    }
    rig.silent();
    lab.bank().behave();
    device.release().unwrap();
    drop(domain);

    // Ending the domain invalidated everything of it.
    let device = rig.add(0);
    for page in [0, 35, 69] {
        lab.refused(0, AT + page * PAGE, &block, page * PAGE);
    }
    device.release().unwrap();
}

/// Without configuration invalidation, a device that was moved goes on under its old domain.
pub fn an_attach_without_invalidation_shows<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let old = device.domain().unwrap();
    let page = lab.page(&old, AT);
    lab.reaches(0, AT, page.block(), 0);
    lab.bank().leave_out(CFGIS);
    device.attach(&rig.iommu.blocked_domain()).unwrap();
    lab.reaches(0, AT, page.block(), 0);
    lab.bank().behave();
    // The driver thinks that all is done.
    let new = rig.domain();
    device.attach(&new).unwrap();
    lab.refused(0, AT, page.block(), 0);
    assert!(rig.events().iter().all(|event| event.is(Kind::Translation)));
    device.release().unwrap();
}

/// A domain's end takes what the TLB holds of it: the next one, with the same id, finds nothing.
pub fn a_new_domain_finds_nothing_of_the_old_one<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let block = lab.block(2 * PAGE);
    let device = rig.add(0);
    lab.map(&device.domain().unwrap(), AT, &block, 0, PAGE)
        .unwrap();
    lab.reaches(0, AT, &block, 0);
    device.release().unwrap();
    for _ in 0..3 {
        let device = rig.add(0);
        lab.refused(0, AT, &block, 0);
        let _ = rig.events();
        lab.map(&device.domain().unwrap(), AT, &block, PAGE, PAGE)
            .unwrap();
        lab.reaches(0, AT, &block, 4096);
        lab.misses(0, AT, &block, 0);
        rig.silent();
        device.release().unwrap();
    }
}

/// Ids come back: with more domains one after the other than there are ids, none finds what an
/// earlier one of the same id left in the TLB.
pub fn ids_come_back_clean<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let block = lab.block(300 * PAGE);
    for round in 0..300 {
        let domain = rig.domain();
        let at = round * PAGE;
        lab.map(&domain, AT, &block, at, PAGE).unwrap();
        device.attach(&domain).unwrap();
        lab.reaches(0, AT, &block, at);
        if round > 0 {
            lab.misses(0, AT, &block, at - PAGE);
        }
        rig.silent();
    }
    device.release().unwrap();
}

/// Ids run out, with an error that says so, and can be had again when a domain ends.
pub fn ids_run_out<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let mut domains = Vec::new();
    let error = loop {
        match rig.iommu.paging_domain(&lab.paging()) {
            Ok(domain) => domains.push(domain),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), iommu_core::ErrorKind::NoSpace);
    assert_eq!(domains.len(), 255);
    let last = domains.pop();
    drop(last);
    domains.push(rig.domain());
    assert!(rig.iommu.paging_domain(&lab.paging()).is_err());
}
