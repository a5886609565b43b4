//! A stream that two devices present.

use iommu_core::{Device, Iommu};

use super::{PLAIN, Rule, rule, setup};
use crate::conformance::DeviceSetup;
use crate::conformance::eyes::Aim;
use crate::conformance::lab::{Bench, Lab, Verdict, ensure, must};

pub(super) const RULES: &[Rule] = &[
    rule("3.12 shared streams: both devices are one group", one_group),
    rule(
        "3.12 shared streams: the last device's release parks it",
        last,
    ),
];

/// Two devices; the second presents the stream of the first too.
fn add(lab: &Lab) -> Verdict<(Iommu, [Device; 2])> {
    let core = lab.core()?;
    let devices = [lab.add(&core, 0)?, lab.add(&core, 1)?];
    Ok((core, devices))
}

fn aliases() -> crate::conformance::Setup {
    setup(&[
        PLAIN,
        DeviceSetup {
            alias_of: Some(0),
            ..PLAIN
        },
    ])
}

fn one_group(bench: &Bench<'_>) -> Verdict {
    bench.with(&aliases(), |lab| {
        let (core, devices) = add(lab)?;
        let mut members = 0;
        devices[0].group().for_each(|_, _| members += 1);
        ensure!(
            members == 2,
            "the first device's group has {members} devices"
        );
        let domain = lab.domain(&core)?;
        let at = lab.iova(&domain, 0)?;
        let mapped = lab.map(&domain, at, "a")?;
        must("an attach", devices[1].group().attach(&domain))?;
        for device in 0..2 {
            lab.reaches("on one domain", Aim::new(device, at), "a")?;
        }
        drop(mapped);
        for device in devices {
            must("a release", device.release())?;
        }
        Ok(())
    })
}

fn last(bench: &Bench<'_>) -> Verdict {
    for leaves in [0, 1] {
        bench.with(&aliases(), |lab| {
            let (core, devices) = add(lab)?;
            let domain = lab.domain(&core)?;
            let at = lab.iova(&domain, 0)?;
            let mapped = lab.map(&domain, at, "a")?;
            must("an attach", devices[0].group().attach(&domain))?;
            let [first, second] = devices;
            let (leaver, stayer) = match leaves {
                0 => (first, second),
                _ => (second, first),
            };
            must("a release", leaver.release())?;
            let shared = Aim::new(0, at);
            lab.reaches("after one of two devices left", shared, "a")?;
            must("a release", stayer.release())?;
            lab.refused("after both devices left", shared)?;
            lab.refused("after both devices left", Aim::new(1, at))?;
            drop(mapped);
            Ok(())
        })?;
    }
    Ok(())
}
