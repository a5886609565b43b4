//! One owner takes a group for itself.

use iommu_core::{DefaultDomain, ErrorKind, Iova};

use super::{PINNED, Rule, rule, setup};
use crate::conformance::Setup;
use crate::conformance::eyes::Aim;
use crate::conformance::lab::{Bench, FIRMWARE, Verdict, must, must_fail};

pub(super) const RULES: &[Rule] = &[
    rule(
        "3.8 claim: the owner's devices reach what the owner maps",
        claim,
    ),
    rule("3.8 claim: a pinned device cannot be claimed", pinned),
];

fn claim(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core_with(DefaultDomain::Paging)?;
        let device = lab.add(&core, 0)?;
        let home = device.domain().ok_or("no default domain")?;
        let own = lab.domain(&core)?;
        let at = [lab.iova(&home, 0)?, lab.iova(&own, 1)?];
        let mapped = [lab.map(&home, at[0], "home")?, lab.map(&own, at[1], "own")?];
        let [home, own_at] = at.map(|at| Aim::new(0, at));
        lab.reaches("before the claim", home, "home")?;
        let claim = must("a claim", device.group().claim())?;
        lab.refused("when it is claimed", home)?;
        lab.refused("when it is claimed", own_at)?;
        must("the owner's attach", claim.attach(&own))?;
        lab.refused("on the owner's domain", home)?;
        lab.reaches("on the owner's domain", own_at, "own")?;
        must("the owner's detach", claim.detach())?;
        lab.refused("after the owner's detach", own_at)?;
        must("the end of the claim", claim.release())?;
        lab.reaches("after the claim", home, "home")?;
        lab.refused("after the claim", own_at)?;
        drop(mapped);
        must("its release", device.release())?;
        Ok(())
    })
}

fn pinned(bench: &Bench<'_>) -> Verdict {
    bench.with(&setup(&[PINNED]), |lab| {
        let core = lab.core_with(DefaultDomain::Paging)?;
        let device = lab.add(&core, 0)?;
        let claim = lab.untouched("the refusal", || device.group().claim())?;
        must_fail("claiming it", claim, ErrorKind::InvalidArgument)?;
        let at = Iova(lab.machine.firmware_region().start());
        lab.reaches("after the refusal", Aim::new(0, at), FIRMWARE)?;
        must("its release", device.release())?;
        Ok(())
    })
}
