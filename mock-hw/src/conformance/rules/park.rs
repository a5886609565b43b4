//! Where a device rests when nobody uses it.

use iommu_core::{DefaultDomain, DomainRef, ErrorKind, Iova, Rest};

use super::{Need, PINNED, Rule, rule, setup, with, without};
use crate::conformance::Setup;
use crate::conformance::eyes::Aim;
use crate::conformance::lab::{
    Bench, FIRMWARE, Lab, Verdict, ensure, geometry, is_on, must, must_fail,
};

pub(super) const RULES: &[Rule] = &[
    rule("3.1 park: an unpinned device rests blocked", unpinned),
    with(
        Need::Identity,
        "3.1 park: a pinned device rests on identity",
        pinned,
    ),
    without(
        Need::Identity,
        "3.1 park: without an identity domain a pinned device rests blocked",
        pinned_without_identity,
    ),
    with(
        Need::Identity,
        "3.1 park: a pinned device keeps its region from before it is added until after its release",
        uninterrupted,
    ),
    rule(
        "3.3 direct mappings: a paging domain holds them for as long as a pinned device is on it",
        direct,
    ),
    rule(
        "3.3 direct mappings: a domain that is in their way is refused",
        in_the_way,
    ),
    rule(
        "3.11 reset fence: a device is parked while it stands, and comes back",
        fence,
    ),
];

fn firmware(lab: &Lab) -> Iova {
    Iova(lab.machine.firmware_region().start())
}

/// The page of a domain that the region begins in, and its size.
fn firmware_page(lab: &Lab, domain: &DomainRef) -> Verdict<(Iova, u64)> {
    let page = geometry(domain)?.page_size();
    Ok((Iova(firmware(lab).0 & !(page - 1)), page))
}

fn unpinned(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let domain = lab.domain(&core)?;
        let at = lab.iova(&domain, 0)?;
        let mapped = lab.map(&domain, at, "a")?;
        let free = Iova(lab.page(&domain, "free")?.0);
        for when in ["as a new one without default domain", "after a detach"] {
            lab.refused(when, Aim::new(0, at))?;
            lab.refused(when, Aim::new(0, free))?;
            lab.refused(when, Aim::new(0, firmware(lab)))?;
            must("an attach", device.attach(&domain))?;
            lab.reaches("on a paging domain", Aim::new(0, at), "a")?;
            must("a detach", device.detach())?;
        }
        let rest = must("its release", device.release())?;
        ensure!(rest == Rest::Blocked, "it rests on {rest:?}");
        lab.refused("after its release", Aim::new(0, at))?;
        drop(mapped);
        Ok(())
    })
}

fn pinned(bench: &Bench<'_>) -> Verdict {
    bench.with(&setup(&[PINNED]), |lab| {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let identity = core.identity_domain().ok_or("no identity domain")?;
        is_on("as a new one without default domain", &device, &identity)?;
        lab.reaches("at rest", Aim::new(0, firmware(lab)), FIRMWARE)?;
        let domain = lab.domain(&core)?;
        let page = Iova(lab.page(&domain, "a")?.0);
        lab.reaches("at rest", Aim::new(0, page), "a")?;
        must("an attach", device.attach(&domain))?;
        lab.refused("on a paging domain", Aim::new(0, page))?;
        let rest = must("its release", device.release())?;
        ensure!(rest == Rest::Identity, "it rests on {rest:?}");
        lab.reaches("after its release", Aim::new(0, firmware(lab)), FIRMWARE)?;
        lab.reaches("after its release", Aim::new(0, page), "a")
    })
}

fn pinned_without_identity(bench: &Bench<'_>) -> Verdict {
    bench.with(&setup(&[PINNED]), |lab| {
        let core = lab.core_with(DefaultDomain::Paging)?;
        let device = lab.add(&core, 0)?;
        lab.reaches("on its domain", Aim::new(0, firmware(lab)), FIRMWARE)?;
        let rest = must("its release", device.release())?;
        ensure!(rest == Rest::Blocked, "it rests on {rest:?}");
        lab.refused("after its release", Aim::new(0, firmware(lab)))
    })
}

fn uninterrupted(bench: &Bench<'_>) -> Verdict {
    bench.with(&setup(&[PINNED]), |lab| {
        let core = lab.core_with(DefaultDomain::Paging)?;
        let aim = Aim::new(0, firmware(lab));
        lab.reaches("before it is added", aim, FIRMWARE)?;
        let device = lab.add(&core, 0)?;
        lab.reaches("after it was added", aim, FIRMWARE)?;
        let other = lab.domain(&core)?;
        must("an attach", device.attach(&other))?;
        lab.reaches("on another domain", aim, FIRMWARE)?;
        must("a detach", device.detach())?;
        lab.reaches("after a detach", aim, FIRMWARE)?;
        must("its release", device.release())?;
        lab.reaches("after its release", aim, FIRMWARE)
    })
}

fn direct(bench: &Bench<'_>) -> Verdict {
    bench.with(&setup(&[PINNED, super::PLAIN]), |lab| {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let other = lab.add(&core, 1)?;
        let domain = lab.domain(&core)?;
        let at = firmware(lab);
        must("an attach", other.attach(&domain))?;
        lab.refused("before a pinned one joins", Aim::new(1, at))?;
        must("an attach", device.attach(&domain))?;
        lab.reaches("on a paging domain", Aim::new(0, at), FIRMWARE)?;
        let (page, size) = firmware_page(lab, &domain)?;
        let kind = ErrorKind::NotPermitted;
        must_fail("unmapping the region", domain.unmap(page, size), kind)?;
        let block = lab.block(&domain, "a")?;
        let mapped = lab.try_map(&domain, page, block, super::super::lab::RW);
        must_fail("mapping there", mapped, ErrorKind::AlreadyExists)?;
        lab.reaches("after those", Aim::new(0, at), FIRMWARE)?;
        must("its release", device.release())?;
        lab.refused("after the pinned one left", Aim::new(1, at))?;
        must("a release", other.release())?;
        Ok(())
    })
}

fn in_the_way(bench: &Bench<'_>) -> Verdict {
    bench.with(&setup(&[PINNED]), |lab| {
        let core = lab.core_with(DefaultDomain::Paging)?;
        let device = lab.add(&core, 0)?;
        let home = device.domain().ok_or("no default domain")?;
        let domain = lab.domain(&core)?;
        let (page, _) = firmware_page(lab, &domain)?;
        let mapped = lab.map(&domain, page, "a")?;
        let attached = lab.untouched("the refusal", || device.attach(&domain))?;
        must_fail("an attach", attached, ErrorKind::AlreadyExists)?;
        is_on("after the refusal", &device, &home)?;
        let aim = Aim::new(0, firmware(lab));
        lab.reaches("after the refusal", aim, FIRMWARE)?;
        drop(mapped);
        must("an attach when the way is free", device.attach(&domain))?;
        lab.reaches("on the domain", aim, FIRMWARE)?;
        must("its release", device.release())?;
        Ok(())
    })
}

fn fence(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core_with(DefaultDomain::Paging)?;
        let device = lab.add(&core, 0)?;
        let domain = device.domain().ok_or("no default domain")?;
        let at = lab.iova(&domain, 0)?;
        let mapped = lab.map(&domain, at, "a")?;
        lab.reaches("before the reset", Aim::new(0, at), "a")?;
        let fence = must("raising the fence", device.reset_fence())?;
        lab.refused("during the reset", Aim::new(0, at))?;
        must("ending the fence", fence.end())?;
        lab.reaches("after the reset", Aim::new(0, at), "a")?;
        drop(mapped);
        must("its release", device.release())?;
        Ok(())
    })
}
