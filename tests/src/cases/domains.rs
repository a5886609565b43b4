//! From one domain to another: the new one holds at once, and nothing of the old one stays.

use iommu_core::{DomainRef, ErrorKind, PagingConfig, Stage};

use super::lab::{Lab, PAGE, Rig};
use super::outsider::Kind;
use crate::machine::Machine;

const AT: u64 = 0x2_0000;

/// Between two domains of one stage, there and back.
pub fn from_paging_to_paging<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let first = device.domain().unwrap();
    let second = rig.domain();
    // Each domain has a page that the other has not, and one at the same IOVA.
    let [a, b] = [&first, &second].map(|domain| lab.page(domain, AT));
    let alone = [
        lab.page(&first, AT + PAGE),
        lab.page(&second, AT + 2 * PAGE),
    ];
    for _ in 0..3 {
        lab.reaches(0, AT, a.block(), 0);
        lab.misses(0, AT, b.block(), 0);
        lab.reaches(0, AT + PAGE, alone[0].block(), 0);
        rig.silent();
        device.attach(&second).unwrap();
        lab.reaches(0, AT, b.block(), 0);
        lab.misses(0, AT, a.block(), 0);
        lab.reaches(0, AT + 2 * PAGE, alone[1].block(), 0);
        rig.silent();
        lab.refused(0, AT + PAGE, alone[0].block(), 0);
        device.attach(&first).unwrap();
        let events = rig.events();
        assert!(!events.is_empty() && events.iter().all(|event| event.is(Kind::Translation)));
    }
    device.release().unwrap();
}

/// Between stage 1 and stage 2.
pub fn from_stage_1_to_stage_2<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domains = [Stage::First, Stage::Second].map(|stage| {
        let config = PagingConfig {
            stage,
            ..PagingConfig::default()
        };
        rig.iommu.paging_domain(&config).unwrap()
    });
    let pages = domains.each_ref().map(|domain| lab.page(domain, AT));
    for round in 0..6 {
        let (on, off) = (round % 2, 1 - round % 2);
        device.attach(&domains[on]).unwrap();
        lab.reaches(0, AT, pages[on].block(), 0);
        lab.misses(0, AT, pages[off].block(), 0);
        rig.silent();
        lab.put(0, AT + PAGE, &lab.fresh());
        let event = rig.event();
        assert!(event.is(Kind::Translation), "{event:?}");
        assert_eq!(usize::from(event.stage()), on + 1, "{event:?}");
    }
    device.release().unwrap();
}

fn through<M: Machine>(
    lab: &Lab<M>,
    rig: &Rig<'_, M>,
    other: &DomainRef,
    check: impl Fn(&super::lab::Mapped),
) {
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let page = lab.page(&domain, AT);
    for _ in 0..3 {
        lab.reaches(0, AT, page.block(), 0);
        lab.refused(0, page.block().addr().0, page.block(), 0);
        let _ = rig.events();
        device.attach(other).unwrap();
        check(&page);
        rig.silent();
        device.attach(&domain).unwrap();
    }
    lab.reaches(0, AT, page.block(), 0);
    device.release().unwrap();
}

/// To the identity domain and back.
pub fn from_paging_to_identity<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let identity = rig.iommu.identity_domain().unwrap();
    through(lab, &rig, &identity, |page| {
        lab.reaches(0, page.block().addr().0, page.block(), 0);
    });
}

/// To the blocked domain and back.
pub fn from_paging_to_blocked<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    through(lab, &rig, &rig.iommu.blocked_domain(), |page| {
        lab.refused(0, AT, page.block(), 0);
        lab.refused(0, page.block().addr().0, page.block(), 0);
    });
}

/// Between the identity domain and the blocked one.
pub fn from_identity_to_blocked<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let block = lab.block(PAGE);
    for _ in 0..3 {
        device
            .attach(&rig.iommu.identity_domain().unwrap())
            .unwrap();
        lab.reaches(0, block.addr().0, &block, 0);
        device.attach(&rig.iommu.blocked_domain()).unwrap();
        lab.refused(0, block.addr().0, &block, 0);
    }
    rig.silent();
    device.release().unwrap();
}

/// Attaching what is attached already changes nothing.
pub fn an_attach_to_the_same_domain_is_harmless<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let page = lab.page(&domain, AT);
    for _ in 0..3 {
        lab.reaches(0, AT, page.block(), 0);
        device.attach(&domain).unwrap();
    }
    lab.reaches(0, AT, page.block(), 0);
    rig.silent();
    device.release().unwrap();
}

/// Detaching returns to the default domain.
pub fn a_detach_returns_to_the_default<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let default = device.domain().unwrap();
    let page = lab.page(&default, AT);
    let other = rig.domain();
    device.attach(&other).unwrap();
    lab.refused(0, AT, page.block(), 0);
    device.detach().unwrap();
    lab.reaches(0, AT, page.block(), 0);
    assert!(device.attached().is(&default));
    device.release().unwrap();
}

/// One device's move leaves the other devices of the old domain where they are.
pub fn a_move_leaves_others_alone<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let devices = [0, 1].map(|master| rig.add(master));
    let domain = rig.domain();
    let page = lab.page(&domain, AT);
    for device in &devices {
        device.attach(&domain).unwrap();
    }
    lab.reaches(0, AT, page.block(), 0);
    lab.reaches(1, AT, page.block(), 0);
    devices[0].detach().unwrap();
    lab.refused(0, AT, page.block(), 0);
    lab.reaches(1, AT, page.block(), 0);
    let [first, second] = devices;
    first.release().unwrap();
    lab.refused(0, AT, page.block(), 0);
    lab.reaches(1, AT, page.block(), 0);
    second.release().unwrap();
    lab.refused(1, AT, page.block(), 0);
}

/// A stage that the hardware does not have is refused, and nothing else.
pub fn a_stage_that_is_not_there_is_unsupported<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let other = if lab.is_stage2() {
        Stage::First
    } else {
        Stage::Second
    };
    let config = PagingConfig {
        stage: other,
        ..PagingConfig::default()
    };
    let error = rig.iommu.paging_domain(&config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let device = rig.add(0);
    let page = lab.page(&device.domain().unwrap(), AT);
    lab.reaches(0, AT, page.block(), 0);
    device.release().unwrap();
}

/// More input bits than the hardware has are refused.
pub fn a_domain_that_is_too_wide_is_refused<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let widest = if lab.is_stage2() { 44 } else { 48 };
    for (bits, kind) in [
        (widest + 1, ErrorKind::OutOfRange),
        (64, ErrorKind::OutOfRange),
        (31, ErrorKind::InvalidArgument),
        (0, ErrorKind::InvalidArgument),
    ] {
        let config = PagingConfig {
            input_bits: Some(bits),
            ..lab.paging()
        };
        let error = rig.iommu.paging_domain(&config).unwrap_err();
        assert_eq!(error.kind(), kind, "{bits} bits");
    }
}
