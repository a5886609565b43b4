//! Regions that firmware wants mapped 1:1 at all times (RMRs), from before the driver comes until
//! after the device has gone.

use arm_smmu_v3::Config;
use iommu_core::{
    Culprit, ErrorKind, FirmwareRegion, Iova, ReservedKind, ReservedRegion, Rest, StreamId,
};

use super::lab::{Block, Lab, PAGE, Rig};
use super::outsider::Kind;
use crate::machine::Machine;

fn region(start: u64, len: u64) -> ReservedRegion {
    ReservedRegion::new(start, len, ReservedKind::Direct).unwrap()
}

/// A configuration with these regions for the first master.
fn config<M: Machine>(lab: &Lab<M>, regions: &[ReservedRegion]) -> Config {
    let rmrs = regions.iter().map(|&region| FirmwareRegion {
        streams: vec![lab.stream(0)],
        region,
    });
    Config {
        rmrs: rmrs.collect(),
        ..lab.config()
    }
}

/// Two pages that firmware pins for the first master, and a page next to each side.
struct Pinned<'a, M: Machine> {
    lab: &'a Lab<M>,
    block: Block,
    rig: Rig<'a, M>,
}

impl<'a, M: Machine> Pinned<'a, M> {
    fn new(lab: &'a Lab<M>) -> Self {
        let block = lab.block(4 * PAGE);
        let regions = [region(block.addr().0 + PAGE, 2 * PAGE)];
        let rig = lab.rig_with(config(lab, &regions));
        Self { lab, block, rig }
    }

    /// The 1:1 address of a byte of the block.
    fn at(&self, at: u64) -> u64 {
        self.block.addr().0 + at
    }

    /// The region is reached, by the first master.
    #[track_caller]
    fn region_is_reached(&self) {
        for at in [4096, 8188, 8192, 12284] {
            self.lab.reaches(0, self.at(at), &self.block, at);
        }
    }

    /// All of memory is reached 1:1.
    #[track_caller]
    fn everything_is_reached(&self) {
        self.region_is_reached();
        for at in [0, 4092, 12288] {
            self.lab.reaches(0, self.at(at), &self.block, at);
        }
        self.rig.silent();
    }

    /// Nothing but the region is reached 1:1.
    #[track_caller]
    fn only_the_region_is_reached(&self) {
        self.region_is_reached();
        self.rig.silent();
        for at in [0, 4092, 12288] {
            self.lab.refused(0, self.at(at), &self.block, at);
        }
        let events = self.rig.events();
        assert!(!events.is_empty() && events.iter().all(|event| event.is(Kind::Translation)));
    }
}

/// The region can be used at every step of a device's life: before the driver, before the device is
/// added, on its default domain, on another one, and after its release. It alone, as soon as there
/// is a paging domain. A plain device next to it gets nothing of all this.
pub fn a_region_lives_through_everything<M: Machine>(lab: &Lab<M>) {
    let early = lab.block(PAGE);
    lab.reaches(0, early.addr().0, &early, 0);
    let pinned = Pinned::new(lab);
    let Pinned { rig, block, .. } = &pinned;
    pinned.everything_is_reached();
    lab.refused(1, pinned.at(PAGE), block, 4096);

    let device = rig.add(0);
    let plain = rig.add(1);
    pinned.only_the_region_is_reached();
    lab.refused(1, pinned.at(PAGE), block, 4096);
    let _ = rig.events();

    let other = rig.domain();
    device.attach(&other).unwrap();
    pinned.only_the_region_is_reached();
    device
        .attach(&rig.iommu.identity_domain().unwrap())
        .unwrap();
    pinned.everything_is_reached();
    device.detach().unwrap();
    pinned.only_the_region_is_reached();

    assert_eq!(device.release().unwrap(), Rest::Identity);
    pinned.everything_is_reached();
    assert_eq!(plain.release().unwrap(), Rest::Blocked);
    lab.refused(1, pinned.at(PAGE), block, 4096);

    // And again.
    let device = rig.add(0);
    pinned.only_the_region_is_reached();
    assert_eq!(device.release().unwrap(), Rest::Identity);
    pinned.everything_is_reached();
}

/// Blocking the device is refused by name, and its DMA goes on.
pub fn blocking_a_pinned_device_is_refused<M: Machine>(lab: &Lab<M>) {
    let pinned = Pinned::new(lab);
    let rig = &pinned.rig;
    let device = rig.add(0);
    let default = device.domain().unwrap();
    let error = device.attach(&rig.iommu.blocked_domain()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let Culprit::Pinned {
        device: name,
        regions,
    } = error.culprit()
    else {
        panic!("{error}");
    };
    assert_eq!(&**name, "master0");
    assert_eq!(regions[..], [region(pinned.at(PAGE), 2 * PAGE).range()]);
    assert!(
        error
            .to_string()
            .contains(&format!("{:#x}", pinned.at(PAGE))),
        "{error}"
    );
    assert!(device.attached().is(&default));
    pinned.only_the_region_is_reached();
    device.release().unwrap();
}

/// The region is a fixed part of each domain that the device is on: it can be neither unmapped nor
/// mapped over. What is next to it can.
pub fn a_region_is_not_the_users<M: Machine>(lab: &Lab<M>) {
    let pinned = Pinned::new(lab);
    let Pinned { rig, block, .. } = &pinned;
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let start = pinned.at(PAGE);
    for (at, len) in [
        (start, PAGE),
        (start + PAGE, PAGE),
        (start, 2 * PAGE),
        (start - PAGE, 2 * PAGE),
    ] {
        let error = domain.unmap(Iova(at), len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotPermitted, "{at:#x}: {error}");
        let error = lab.map(&domain, at, block, 0, len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{at:#x}: {error}");
        assert!(error.reason().contains("firmware"), "{at:#x}: {error}");
    }
    pinned.only_the_region_is_reached();
    // Pages of its own, on both sides of it.
    lab.map(&domain, start - PAGE, block, 3 * PAGE, PAGE)
        .unwrap();
    lab.map(&domain, start + 2 * PAGE, block, 0, PAGE).unwrap();
    lab.reaches(0, start - PAGE, block, 3 * 4096);
    lab.reaches(0, start + 2 * PAGE, block, 0);
    pinned.region_is_reached();
    domain.unmap(Iova(start - PAGE), PAGE).unwrap();
    domain.unmap(Iova(start + 2 * PAGE), PAGE).unwrap();
    pinned.only_the_region_is_reached();
    device.release().unwrap();
}

/// The region leaves a domain with the device, and is the user's then.
pub fn a_region_leaves_with_its_device<M: Machine>(lab: &Lab<M>) {
    let pinned = Pinned::new(lab);
    let Pinned { rig, block, .. } = &pinned;
    let device = rig.add(0);
    let plain = rig.add(1);
    let shared = plain.domain().unwrap();
    lab.refused(1, pinned.at(PAGE), block, 4096);
    device.attach(&shared).unwrap();
    // On the same domain, the plain device reaches the region too.
    lab.reaches(1, pinned.at(PAGE), block, 4096);
    pinned.region_is_reached();
    device.detach().unwrap();
    lab.refused(1, pinned.at(PAGE), block, 4096);
    let error = shared.unmap(Iova(pinned.at(PAGE)), PAGE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    lab.map(&shared, pinned.at(PAGE), block, 0, PAGE).unwrap();
    lab.reaches(1, pinned.at(PAGE), block, 0);
    plain.release().unwrap();
    device.release().unwrap();
}

/// A domain that maps something else where the region belongs is refused, and the device stays.
pub fn a_domain_in_the_way_is_refused<M: Machine>(lab: &Lab<M>) {
    let pinned = Pinned::new(lab);
    let Pinned { rig, block, .. } = &pinned;
    let device = rig.add(0);
    let default = device.domain().unwrap();
    let other = rig.domain();
    lab.map(&other, pinned.at(2 * PAGE), block, 0, PAGE)
        .unwrap();
    let error = device.attach(&other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert!(device.attached().is(&default));
    pinned.only_the_region_is_reached();
    // Nothing of the region was left in the domain.
    assert_eq!(other.translate(Iova(pinned.at(PAGE))), None);
    other.unmap(Iova(pinned.at(2 * PAGE)), PAGE).unwrap();
    device.attach(&other).unwrap();
    pinned.only_the_region_is_reached();
    device.release().unwrap();
}

/// A group with a pinned device is pinned: the other device cannot be blocked either.
pub fn a_group_is_pinned_by_one_device<M: Machine>(lab: &Lab<M>) {
    let pinned = Pinned::new(lab);
    let rig = &pinned.rig;
    let plain = rig.add_as(rig.info(1).group("bridge")).unwrap();
    let device = rig.add_as(rig.info(0).group("bridge")).unwrap();
    pinned.only_the_region_is_reached();
    lab.reaches(1, pinned.at(PAGE), &pinned.block, 4096);
    let error = plain
        .group()
        .attach(&rig.iommu.blocked_domain())
        .unwrap_err();
    assert!(matches!(error.culprit(), Culprit::Pinned { .. }), "{error}");
    pinned.only_the_region_is_reached();
    lab.reaches(1, pinned.at(PAGE), &pinned.block, 4096);
    assert_eq!(device.release().unwrap(), Rest::Identity);
    pinned.everything_is_reached();
    assert_eq!(plain.release().unwrap(), Rest::Blocked);
    lab.refused(1, pinned.at(PAGE), &pinned.block, 4096);
}

/// Regions may be listed twice, overlap and touch, and need not be aligned: whole pages are mapped.
pub fn odd_regions_are_mapped_by_pages<M: Machine>(lab: &Lab<M>) {
    let block = lab.block(8 * PAGE);
    let base = block.addr().0;
    let rig = lab.rig_with(config(
        lab,
        &[
            region(base + PAGE, PAGE),
            region(base + PAGE, PAGE),
            region(base + PAGE + 0x800, PAGE),
            // Bytes in the middle of a page, and across the border to the next.
            region(base + 4 * PAGE + 0x123, 5),
            region(base + 6 * PAGE - 4, 8),
        ],
    ));
    let device = rig.add(0);
    for page in 0..8 {
        let (iova, at) = (base + page * PAGE, page * PAGE);
        match page {
            1 | 2 | 4 | 5 | 6 => {
                lab.reaches(0, iova, &block, at);
                lab.reaches(0, iova + 0xffc, &block, at + 0xffc);
            }
            _ => {
                lab.refused(0, iova, &block, at);
                lab.refused(0, iova + 0xffc, &block, at + 0xffc);
            }
        }
    }
    let other = rig.domain();
    device.attach(&other).unwrap();
    lab.reaches(0, base + 2 * PAGE, &block, 2 * 4096);
    assert_eq!(device.release().unwrap(), Rest::Identity);
}

/// A region for a stream that the hardware does not have is firmware's mistake: the others work.
pub fn a_region_of_an_impossible_stream_is_skipped<M: Machine>(lab: &Lab<M>) {
    let block = lab.block(2 * PAGE);
    let mut config = config(lab, &[region(block.addr().0, PAGE)]);
    config.rmrs.insert(
        0,
        FirmwareRegion {
            streams: vec![StreamId(0x1_0000), lab.stream(1), StreamId(u32::MAX)],
            region: region(block.addr().0 + PAGE, PAGE),
        },
    );
    let rig = lab.rig_with(config);
    lab.reaches(0, block.addr().0, &block, 0);
    lab.reaches(1, block.addr().0 + PAGE, &block, 4096);
    let devices = [0, 1].map(|master| rig.add(master));
    lab.reaches(0, block.addr().0, &block, 0);
    lab.refused(0, block.addr().0 + PAGE, &block, 4096);
    lab.reaches(1, block.addr().0 + PAGE, &block, 4096);
    lab.refused(1, block.addr().0, &block, 0);
    for device in devices {
        assert_eq!(device.release().unwrap(), Rest::Identity);
    }
}

/// A region that the platform knows of, and the driver does not, is held as well.
pub fn a_region_of_the_platform_counts_too<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let block = lab.block(2 * PAGE);
    lab.refused(0, block.addr().0, &block, 0);
    let info = rig.info(0).reserved(region(block.addr().0, PAGE));
    let device = rig.add_as(info).unwrap();
    lab.reaches(0, block.addr().0, &block, 0);
    lab.refused(0, block.addr().0 + PAGE, &block, 4096);
    let default = device.domain().unwrap();
    assert!(device.attach(&rig.iommu.blocked_domain()).is_err());
    assert!(device.attached().is(&default));
    assert_eq!(device.release().unwrap(), Rest::Identity);
    lab.reaches(0, block.addr().0, &block, 0);
}

/// Where firmware refused everything before, an RMR stream is open from the moment that the driver
/// is there, and others are not open even then.
pub fn a_region_opens_what_firmware_had_closed<M: Machine>(lab: &Lab<M>) {
    let block = lab.block(2 * PAGE);
    let first = lab.probe(lab.config()).unwrap();
    first.shutdown(arm_smmu_v3::ShutdownPolicy::Abort).unwrap();
    drop(first);
    lab.refused(0, block.addr().0, &block, 0);
    let rig = lab.rig_with(config(lab, &[region(block.addr().0, PAGE)]));
    lab.reaches(0, block.addr().0, &block, 0);
    lab.refused(1, block.addr().0, &block, 0);
    rig.silent();
}
