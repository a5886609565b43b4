//! What a device reaches on each kind of domain.

use std::sync::Arc;

use iommu_core::{DefaultDomain, Iommu, IommuConfig, NoControl, PagingConfig, Rest};

use super::lab::{Hardware, Lab, PAGE, contents};
use super::outsider::{Kind, Record};
use crate::machine::Machine;

/// A stream that nobody asked for reaches nothing, and the event queue is not flooded with it.
pub fn a_stream_without_a_device_aborts_silently<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let block = lab.block(PAGE);
    lab.refused(0, block.addr().0, &block, 0);
    lab.refused(1, block.addr().0, &block, 0);
    // Streams next to one with a device are no different.
    let device = rig.add(0);
    lab.refused(1, block.addr().0, &block, 0);
    rig.silent();
    device.release().unwrap();
}

/// What the hardware has cached of a stream from before its device was added does not stay.
pub fn a_stream_that_was_refused_works_with_its_device<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let block = lab.block(PAGE);
    lab.refused(0, 0x5000, &block, 0);
    rig.silent();
    let device = rig.add(0);
    lab.refused(0, 0x5000, &block, 0);
    assert!(rig.events().iter().all(|event| event.is(Kind::Translation)));
    lab.map(&device.domain().unwrap(), 0x5000, &block, 0, PAGE)
        .unwrap();
    lab.reaches(0, 0x5000, &block, 0);
    rig.silent();
    device.release().unwrap();
}

/// A StreamID beyond the stream table is refused and recorded.
pub fn a_stream_beyond_the_table_is_recorded<M: Machine>(lab: &Lab<M>) {
    // Sixteen streams, of which 0x10 is the first one too many.
    lab.bank().claim_stream_bits(4);
    let rig = lab.rig();
    let block = lab.block(PAGE);
    lab.put(0, block.addr().0, &lab.fresh());
    let event = rig.event();
    assert!(event.is(Kind::BadStreamId), "{event:?}");
    assert_eq!(event.stream(), 0x10);
    lab.refused(0, block.addr().0, &block, 0);

    let error = rig.add_as(rig.info(0)).unwrap_err();
    assert_eq!(error.kind(), iommu_core::ErrorKind::OutOfRange);
}

/// A device that was added reaches nothing until something is mapped.
pub fn a_new_device_is_on_an_empty_domain<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    assert!(device.attached().is(&device.domain().unwrap()));
    let block = lab.block(PAGE);
    lab.refused(0, block.addr().0, &block, 0);
    assert!(rig.events().iter().all(|event| event.is(Kind::Translation)));
    device.release().unwrap();
}

/// The blocked domain refuses, and no event tells of it.
pub fn the_blocked_domain_refuses_silently<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let page = lab.page(&device.domain().unwrap(), 0x1_0000);
    lab.reaches(0, 0x1_0000, page.block(), 0);
    device.attach(&rig.iommu.blocked_domain()).unwrap();
    lab.refused(0, 0x1_0000, page.block(), 0);
    lab.refused(0, page.block().addr().0, page.block(), 0);
    rig.silent();
    device.release().unwrap();
}

/// The identity domain passes every address as it is.
pub fn the_identity_domain_passes<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let block = lab.block(2 * PAGE);
    device
        .attach(&rig.iommu.identity_domain().unwrap())
        .unwrap();
    lab.reaches(0, block.addr().0, &block, 0);
    lab.reaches(0, block.addr().0 + PAGE + 4, &block, 4100);
    rig.silent();
    device.release().unwrap();
    lab.refused(0, block.addr().0, &block, 0);
}

/// A mapped page is read and written at its IOVA, and nowhere else.
pub fn a_mapped_page_is_reached<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let page = lab.page(&device.domain().unwrap(), 0x1234_5000);
    lab.reaches(0, 0x1234_5000, page.block(), 0);
    lab.reaches(0, 0x1234_5ffc, page.block(), 0xffc);
    rig.silent();
    lab.refused(0, page.block().addr().0, page.block(), 0);
    lab.refused(0, 0x1234_4000, page.block(), 0);
    lab.refused(0, 0x1234_6000, page.block(), 0);
    device.release().unwrap();
}

/// Transfers of any length at any address land in the pages that the IOVAs are mapped to, in
/// whatever order those lie in memory, and touch no byte more.
pub fn transfers_cross_pages<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block(4 * PAGE);
    for (page, place) in [2, 0, 3, 1].into_iter().enumerate() {
        let iova = 0x7_0000 + page as u64 * PAGE;
        lab.map(&domain, iova, &block, place * PAGE, PAGE).unwrap();
    }
    let data: Vec<u8> = (0..0x2345_u32)
        .map(|i| (i % 251 + 1).to_le_bytes()[0])
        .collect();
    lab.put(0, 0x7_07f1, &data);

    let mut expected = vec![0; 0x4000];
    for (i, byte) in data.iter().enumerate() {
        let at = 0x7f1 + i;
        expected[[2, 0, 3, 1][at >> 12] << 12 | at & 0xfff] = *byte;
    }
    assert!(
        contents::<0x4000>(&block, 0) == expected[..],
        "bytes went astray"
    );

    let seen: [u8; 0x2345] = lab.get(0, 0x7_07f1);
    assert!(seen == data[..], "bytes came from elsewhere");
    rig.silent();
    device.release().unwrap();
}

/// The first and the last page of the widest domain can be used; the page behind cannot.
pub fn the_ends_of_the_aperture_work<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let last = domain.geometry().unwrap().aperture.last();
    let bits = if lab.is_stage2() { 44 } else { 48 };
    assert_eq!(last, (1 << bits) - 1);
    let [low, high] = [0, last - (PAGE - 1)].map(|iova| lab.page(&domain, iova));
    lab.reaches(0, 0, low.block(), 0);
    lab.reaches(0, last - 3, high.block(), 0xffc);
    rig.silent();
    lab.refused(0, last + 1, low.block(), 0);
    lab.refused(0, last + 1, high.block(), 0);
    let events = rig.events();
    match (lab.is_stage2(), lab.hardware()) {
        (false, _) => check_all(&events, Kind::Translation, 1),
        // What stage 1 passes on untranslated has to fit an intermediate address (3.4.1).
        (true, Hardware::Model) => check_all(&events, Kind::AddressSize, 1),
        // QEMU asks the context descriptor, which there is none of, whether to record this.
        (true, Hardware::Qemu) => assert_eq!(events, []),
    }
    device.release().unwrap();
}

#[track_caller]
fn check_all(events: &[Record], kind: Kind, stage: u8) {
    let right = |event: &Record| event.is(kind) && event.stage() == stage;
    assert!(
        !events.is_empty() && events.iter().all(right),
        "{events:#?}"
    );
}

fn narrow<M: Machine>(lab: &Lab<M>, bits: u8) {
    let rig = lab.rig();
    let device = rig.add(0);
    let config = PagingConfig {
        input_bits: Some(bits),
        ..lab.paging()
    };
    let domain = rig.iommu.paging_domain(&config).unwrap();
    device.attach(&domain).unwrap();
    let end = 1 << bits;
    let [low, middle, high] = [0, end / 2, end - PAGE].map(|iova| lab.page(&domain, iova));
    lab.reaches(0, 0, low.block(), 0);
    lab.reaches(0, end / 2, middle.block(), 0);
    lab.reaches(0, end - 4, high.block(), 0xffc);
    rig.silent();
    for page in [&low, &middle, &high] {
        lab.refused(0, end, page.block(), 0);
        lab.refused(0, end + end / 2, page.block(), 0);
    }
    check_all(
        &rig.events(),
        Kind::Translation,
        if lab.is_stage2() { 2 } else { 1 },
    );
    device.release().unwrap();
}

/// A domain of 32 bits: a table that starts at level 1 and is smaller than a page.
pub fn a_domain_of_32_bits_ends_at_4_gib<M: Machine>(lab: &Lab<M>) {
    narrow(lab, 32);
}

/// A domain of 39 bits: a table that starts at level 1 and fills a page.
pub fn a_domain_of_39_bits_ends_at_512_gib<M: Machine>(lab: &Lab<M>) {
    narrow(lab, 39);
}

/// A domain of 40 bits: at stage 2 its root is two tables side by side.
pub fn a_domain_of_40_bits_ends_at_1_tib<M: Machine>(lab: &Lab<M>) {
    narrow(lab, 40);
}

/// Two devices on two domains see different memory at the same IOVA.
pub fn two_domains_share_no_iova<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let devices = [0, 1].map(|master| rig.add(master));
    let [first, second] = devices
        .each_ref()
        .map(|device| lab.page(&device.domain().unwrap(), 0x9000));
    for _ in 0..2 {
        lab.reaches(0, 0x9000, first.block(), 0);
        lab.misses(0, 0x9000, second.block(), 0);
        lab.reaches(1, 0x9000, second.block(), 0);
        lab.misses(1, 0x9000, first.block(), 0);
    }
    rig.silent();
    for device in devices {
        device.release().unwrap();
    }
}

/// Two devices on one domain see the same memory, and both lose it with the mapping.
pub fn two_devices_share_a_domain<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let devices = [0, 1].map(|master| rig.add(master));
    let domain = rig.domain();
    for device in &devices {
        device.attach(&domain).unwrap();
    }
    let page = lab.page(&domain, 0x9000);
    lab.reaches(0, 0x9000, page.block(), 0);
    lab.reaches(1, 0x9000, page.block(), 0);
    rig.silent();
    let block = page.unmap().unwrap();
    lab.refused(0, 0x9000, &block, 0);
    lab.refused(1, 0x9000, &block, 0);
    for device in devices {
        device.release().unwrap();
    }
}

/// A released device reaches nothing, silently, and can be added again.
pub fn a_released_device_is_blocked<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let page = lab.page(&domain, 0x1_0000);
    lab.reaches(0, 0x1_0000, page.block(), 0);
    assert_eq!(device.release().unwrap(), Rest::Blocked);
    lab.refused(0, 0x1_0000, page.block(), 0);
    lab.refused(0, page.block().addr().0, page.block(), 0);
    rig.silent();
    // What is still mapped is not the device's concern: the handle goes on working.
    drop(page.unmap().unwrap());

    let device = rig.add(0);
    let page = lab.page(&device.domain().unwrap(), 0x1_0000);
    lab.reaches(0, 0x1_0000, page.block(), 0);
    rig.silent();
    device.release().unwrap();
}

/// Where the core has no default domain, a device rests until a domain is attached, and again when
/// it is detached.
pub fn a_parked_device_waits_for_a_domain<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let config = IommuConfig {
        default_domain: DefaultDomain::Parked,
        paging: lab.paging(),
    };
    let iommu: Iommu = Iommu::with_config(rig.smmu.clone(), config).unwrap();
    let device = iommu.add_device(rig.info(0), Arc::new(NoControl)).unwrap();
    assert!(device.domain().is_none());
    let domain = rig.domain();
    let page = lab.page(&domain, 0x1_0000);
    lab.refused(0, 0x1_0000, page.block(), 0);
    device.attach(&domain).unwrap();
    lab.reaches(0, 0x1_0000, page.block(), 0);
    device.detach().unwrap();
    assert!(device.attached().is(&iommu.blocked_domain()));
    lab.refused(0, 0x1_0000, page.block(), 0);
    rig.silent();
    assert_eq!(device.release().unwrap(), Rest::Blocked);
}

/// Devices of one group are on the same domain, and move together.
pub fn a_group_moves_as_one<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let devices = [0, 1].map(|master| rig.add_as(rig.info(master).group("bridge")).unwrap());
    let [group, _] = devices.each_ref().map(|device| device.group());
    let page = lab.page(&group.domain().unwrap(), 0x9000);
    lab.reaches(0, 0x9000, page.block(), 0);
    lab.reaches(1, 0x9000, page.block(), 0);

    let domain = rig.domain();
    assert!(
        devices[0].attach(&domain).is_err(),
        "one device of a group moved alone"
    );
    lab.reaches(0, 0x9000, page.block(), 0);
    rig.silent();

    group.attach(&domain).unwrap();
    group.for_each(|name, on| assert!(on.is(&domain), "{name}"));
    let other = lab.page(&domain, 0x9000);
    for master in [0, 1] {
        lab.reaches(master, 0x9000, other.block(), 0);
        lab.misses(master, 0x9000, page.block(), 0);
    }
    group.attach(&rig.iommu.blocked_domain()).unwrap();
    for master in [0, 1] {
        lab.refused(master, 0x9000, other.block(), 0);
    }
    rig.silent();
    for device in devices {
        device.release().unwrap();
    }
}
