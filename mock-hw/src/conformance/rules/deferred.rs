//! Devices that firmware or a crashed kernel left translating.

use iommu_core::{Context, DefaultDomain, Device, Iommu, Iova, Rest};

use super::{Need, PLAIN, Rule, setup, with};
use crate::conformance::eyes::Aim;
use crate::conformance::lab::{Bench, FIRMWARE, Lab, RW, Verdict, ensure, is_on, must};
use crate::conformance::spy::Call;
use crate::conformance::{DeviceSetup, Setup};

pub(super) const RULES: &[Rule] = &[
    with(
        Need::Deferred,
        "3.6 deferred attach: adding the device touches nothing",
        adding,
    ),
    with(
        Need::Deferred,
        "3.6 deferred attach: the first use attaches, once",
        first_use,
    ),
    with(
        Need::Deferred,
        "3.6 deferred attach: attaching something else ends it",
        attached,
    ),
    with(
        Need::Deferred,
        "3.6 deferred attach: a release before the first use touches nothing",
        released,
    ),
];

fn one() -> Setup {
    setup(&[DeviceSetup {
        deferred: true,
        ..PLAIN
    }])
}

fn firmware(lab: &Lab) -> Aim {
    Aim::new(0, Iova(lab.machine.firmware_region().start()))
}

/// Adds the device, which has to be found deferred, without touching anything.
fn add(lab: &Lab) -> Verdict<(Iommu, Device)> {
    let core = lab.core_with(DefaultDomain::Paging)?;
    lab.reaches("before it is added", firmware(lab), FIRMWARE)?;
    let device = lab.untouched("adding a deferred device", || lab.add(&core, 0))??;
    lab.reaches("after it was added", firmware(lab), FIRMWARE)?;
    let attached = device.attached();
    ensure!(
        matches!(attached, iommu_core::Attached::Deferred),
        "a device that firmware left translating is {attached:?}"
    );
    Ok((core, device))
}

fn adding(bench: &Bench<'_>) -> Verdict {
    bench.with(&one(), |lab| {
        let (core, device) = add(lab)?;
        must("its release", device.release())?;
        drop(core);
        Ok(())
    })
}

fn first_use(bench: &Bench<'_>) -> Verdict {
    bench.with(&one(), |lab| {
        let (core, device) = add(lab)?;
        let domain = device.domain().ok_or("no default domain")?;
        let page = |n| lab.iova(&domain, n);
        lab.notes.calls();
        for (n, name) in ["a", "b"].into_iter().enumerate() {
            let at = page(n as u64)?;
            let block = lab.block(&domain, name)?;
            let mapped = device.map_block(Context::MayBlock, at, block, RW);
            let mapped = must("mapping", mapped.map_err(iommu_core::Error::from))?;
            is_on("after the first use", &device, &domain)?;
            lab.reaches("after the first use", Aim::new(0, at), name)?;
            lab.refused("after the first use", firmware(lab))?;
            lab.keep(must("unmapping", mapped.unmap())?);
        }
        let calls = lab.notes.calls();
        let commits = calls.iter().filter(|call| matches!(call, Call::Commit(_)));
        let commits = commits.count();
        ensure!(commits == 1, "the attach was performed {commits} times");
        must("its release", device.release())?;
        drop(core);
        Ok(())
    })
}

fn attached(bench: &Bench<'_>) -> Verdict {
    bench.with(&one(), |lab| {
        let (core, device) = add(lab)?;
        let domain = lab.domain(&core)?;
        let at = lab.iova(&domain, 0)?;
        let mapped = lab.map(&domain, at, "a")?;
        must("an attach", device.attach(&domain))?;
        is_on("after an attach", &device, &domain)?;
        lab.reaches("after an attach", Aim::new(0, at), "a")?;
        lab.refused("after an attach", firmware(lab))?;
        must("nothing to do", device.attach_now())?;
        is_on("after that", &device, &domain)?;
        drop(mapped);
        must("its release", device.release())?;
        lab.refused("after its release", firmware(lab))
    })
}

fn released(bench: &Bench<'_>) -> Verdict {
    bench.with(&one(), |lab| {
        let (core, device) = add(lab)?;
        // The end of a domain may touch the hardware.
        let domain = device.domain();
        let released = lab.untouched("the release", || device.release())?;
        let rest = must("its release", released)?;
        ensure!(rest == Rest::Untouched, "it rests on {rest:?}");
        lab.reaches("after its release", firmware(lab), FIRMWARE)?;
        drop((domain, core));
        Ok(())
    })
}
