//! Domains that go, and what they leave behind.

use iommu_core::Error;

use super::{Rule, rule};
use crate::conformance::Setup;
use crate::conformance::eyes::Aim;
use crate::conformance::lab::{Bench, RW, Verdict, ensure, geometry, must};

pub(super) const RULES: &[Rule] = &[
    rule(
        "3.4 ids: a new domain finds nothing that an old one left in caches",
        fresh,
    ),
    rule(
        "3.10 lifetimes: a domain lives as long as a device is on it",
        held,
    ),
    rule(
        "3.10 lifetimes: a domain that goes gives all its memory back",
        memory,
    ),
];

/// More often than there are ids of 8 bits.
const OFTEN: usize = 260;

fn fresh(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let mut page = None;
        for round in 0..OFTEN {
            let domain = lab.domain(&core)?;
            must(&format!("attach {round}"), device.attach(&domain))?;
            let aim = Aim::new(0, lab.iova(&domain, 0)?);
            lab.refused("on a new domain", aim)?;
            let phys = match page {
                Some(phys) => phys,
                None => *page.insert(lab.page(&domain, "a")?),
            };
            let size = geometry(&domain)?.page_size();
            // SAFETY: the lab keeps the page until the end, and nobody takes it for unchanging.
            let mapped = unsafe { domain.map(aim.iova, phys, size, RW) };
            must("mapping", mapped)?;
            lab.reaches("on a new domain", aim, "a")?;
            // The domain ends with its mapping, which the device has just used.
            must("a detach", device.detach())?;
        }
        must("its release", device.release())?;
        Ok(())
    })
}

fn held(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let domain = lab.domain(&core)?;
        let at = lab.iova(&domain, 0)?;
        must("an attach", device.attach(&domain))?;
        let mapped = lab.map(&domain, at, "a")?;
        // The mapping's handle and the core hold it; this one does not count.
        drop(domain);
        lab.reaches(
            "after the last reference of the user's",
            Aim::new(0, at),
            "a",
        )?;
        must("unmapping", mapped.unmap())?;
        lab.refused("after that", Aim::new(0, at))?;
        drop(core);
        lab.refused("after the core's handle is gone", Aim::new(0, at))?;
        must("its release", device.release())?;
        lab.refused("after its release", Aim::new(0, at))
    })
}

fn memory(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let before = lab.memory.allocated();
        for round in 0..3 {
            let domain = lab.domain(&core)?;
            must("an attach", device.attach(&domain))?;
            let block = lab.block(&domain, "a")?;
            let mapped = domain.map_block(lab.iova(&domain, 0)?, block, RW);
            let mapped = must("mapping", mapped.map_err(Error::from))?;
            let block = must("unmapping", mapped.unmap())?;
            must("a detach", device.detach())?;
            drop(domain);
            let page = block.size();
            lab.keep(block);
            let kept = lab.memory.allocated() - before - (round + 1) * page;
            ensure!(kept == 0, "{kept} bytes stay");
        }
        must("its release", device.release())?;
        Ok(())
    })
}
