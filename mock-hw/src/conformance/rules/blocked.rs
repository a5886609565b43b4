//! The domains that always work.

use iommu_core::{Device, DomainRef, ErrorKind, Iova};

use super::{Need, PINNED, Rule, rule, setup, with};
use crate::conformance::Setup;
use crate::conformance::eyes::Aim;
use crate::conformance::lab::{Bench, FIRMWARE, Lab, Verdict, ensure, is_on, must, must_fail};

pub(super) const RULES: &[Rule] = &[
    rule(
        "3.3 blocked: refused for a pinned device, hardware untouched",
        refused,
    ),
    rule("3.5 blocked: everything is refused", nothing),
    with(
        Need::Identity,
        "3.5 identity: everything passes",
        everything,
    ),
    rule("3.5 blocked: attaching it allocates nothing", poor_blocked),
    with(
        Need::Identity,
        "3.5 identity: attaching it allocates nothing",
        poor_identity,
    ),
    rule(
        "3.5 release: parking a device allocates nothing",
        poor_release,
    ),
];

fn refused(bench: &Bench<'_>) -> Verdict {
    bench.with(&setup(&[PINNED]), |lab| {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let domain = lab.domain(&core)?;
        must("an attach", device.attach(&domain))?;
        let blocked = core.blocked_domain();
        let attached = lab.untouched("the refusal", || device.attach(&blocked))?;
        must_fail(
            "blocking a pinned device",
            attached,
            ErrorKind::InvalidArgument,
        )?;
        is_on("after the refusal", &device, &domain)?;
        let at = Iova(lab.machine.firmware_region().start());
        lab.reaches("after the refusal", Aim::new(0, at), FIRMWARE)?;
        must("its release", device.release())?;
        Ok(())
    })
}

fn nothing(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let domain = lab.domain(&core)?;
        must("an attach", device.attach(&domain))?;
        let at = lab.iova(&domain, 0)?;
        let mapped = lab.map(&domain, at, "a")?;
        let free = Iova(lab.page(&domain, "free")?.0);
        lab.reaches("on a paging domain", Aim::new(0, at), "a")?;
        must("blocking", device.attach(&core.blocked_domain()))?;
        for iova in [at, free, Iova(lab.machine.firmware_region().start())] {
            lab.refused("on the blocked domain", Aim::new(0, iova))?;
        }
        drop(mapped);
        must("its release", device.release())?;
        Ok(())
    })
}

fn everything(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let identity = core.identity_domain().ok_or("no identity domain")?;
        let domain = lab.domain(&core)?;
        let page = lab.page(&domain, "free")?;
        let at = lab.iova(&domain, 0)?;
        let mapped = lab.map(&domain, at, "a")?;
        must("an attach", device.attach(&domain))?;
        lab.refused("on a paging domain", Aim::new(0, Iova(page.0)))?;
        must("an attach", device.attach(&identity))?;
        lab.reaches("on the identity domain", Aim::new(0, Iova(page.0)), "free")?;
        must("an attach", device.attach(&domain))?;
        lab.refused("back on the paging domain", Aim::new(0, Iova(page.0)))?;
        lab.reaches("back on the paging domain", Aim::new(0, at), "a")?;
        drop(mapped);
        must("its release", device.release())?;
        Ok(())
    })
}

fn poor_blocked(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(2), |lab| {
        let core = lab.core()?;
        poor(lab, &core, &core.blocked_domain())
    })
}

fn poor_identity(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(2), |lab| {
        let core = lab.core()?;
        let identity = core.identity_domain().ok_or("no identity domain")?;
        poor(lab, &core, &identity)
    })
}

/// Attaches a fixed domain with no memory left, from rest and from a paging domain.
fn poor(lab: &Lab, core: &iommu_core::Iommu, fixed: &DomainRef) -> Verdict {
    let device = lab.add(core, 0)?;
    without_memory(lab, &device, fixed, "from where it rests")?;
    let domain = lab.domain(core)?;
    must("an attach", device.attach(&domain))?;
    without_memory(lab, &device, fixed, "from a paging domain")?;
    must("its release", device.release())?;
    Ok(())
}

fn without_memory(lab: &Lab, device: &Device, fixed: &DomainRef, from: &str) -> Verdict {
    lab.memory.fail_allocation(Some(0));
    let (attached, touch) = lab.touched(|| device.attach(fixed));
    lab.memory.fail_allocation(None);
    must(&format!("the attach {from} without memory"), attached)?;
    ensure!(
        touch.allocations == 0,
        "the attach {from} asks for memory {} times",
        touch.allocations
    );
    is_on("afterwards", device, fixed)
}

fn poor_release(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let domain = lab.domain(&core)?;
        must("an attach", device.attach(&domain))?;
        lab.memory.fail_allocation(Some(0));
        let (released, touch) = lab.touched(|| device.release());
        lab.memory.fail_allocation(None);
        must("a release without memory", released)?;
        ensure!(
            touch.allocations == 0,
            "it asks for memory {} times",
            touch.allocations
        );
        Ok(())
    })
}
