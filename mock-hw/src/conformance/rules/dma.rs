//! Buffers that are lent through [`iommu_core::dma`].

use iommu_core::dma::{Bidirectional, Dma};
use iommu_core::{DefaultDomain, Device, DomainRef, Invalidation, Iommu};

use super::{Rule, rule};
use crate::conformance::Setup;
use crate::conformance::eyes::Aim;
use crate::conformance::lab::{Bench, Lab, Verdict, must};
use crate::memory::MockMemory;

pub(super) const RULES: &[Rule] = &[
    rule("3.10 dma: a buffer is reached until it is unmapped", lent),
    rule(
        "3.10 dma: a retired buffer is out of reach when it is given back",
        retired,
    ),
];

/// A device on its default domain, and what maps for it.
fn on_its_own(lab: &Lab) -> Verdict<(Iommu, Device, DomainRef, Dma<MockMemory>)> {
    let core = lab.core_with(DefaultDomain::Paging)?;
    let device = lab.add(&core, 0)?;
    let domain = device.domain().ok_or("no default domain")?;
    let dma = must("asking for DMA", device.dma(lab.machine.memory()))?;
    Ok((core, device, domain, dma))
}

fn lent(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let (_core, device, domain, dma) = on_its_own(lab)?;
        for name in ["a", "b"] {
            let block = lab.block(&domain, name)?;
            let mapped = must("lending a page", dma.map(block, Bidirectional))?;
            let aim = Aim::new(0, mapped.iova());
            lab.reaches("while it is lent", aim, name)?;
            lab.keep(must("unmapping", mapped.unmap())?);
            lab.refused("after it was unmapped", aim)?;
        }
        must("a release", device.release())?;
        Ok(())
    })
}

fn retired(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let (_core, device, domain, dma) = on_its_own(lab)?;
        let lazily = (Invalidation::Lazy, ["a", "b", "c"]);
        let strictly = (Invalidation::Strict, ["d", "e", "f"]);
        for (policy, names) in [lazily, strictly] {
            domain.set_invalidation(policy);
            let mut waiting = Vec::new();
            for name in names {
                let block = lab.block(&domain, name)?;
                let mapped = dma.map(block, Bidirectional);
                let mapped = must("lending a page", mapped)?;
                let aim = Aim::new(0, mapped.iova());
                lab.reaches("while it is lent", aim, name)?;
                let retired = must("retiring it", mapped.retire())?;
                waiting.push((retired, aim));
            }
            for (retired, aim) in waiting {
                lab.keep(must("reclaiming it", retired.reclaim())?);
                lab.refused("after it was given back", aim)?;
            }
        }
        must("a release", device.release())?;
        Ok(())
    })
}
