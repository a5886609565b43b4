//! What is reported.

use std::sync::Arc;

use iommu_core::{ErrorKind, Fault, FaultHandler, Iova, PageResponse, PagingConfig, Pasid};

use super::{Need, Rule, rule, with, without};
use crate::conformance::Setup;
use crate::conformance::eyes::Aim;
use crate::conformance::lab::{Bench, Lab, Verdict, ensure, must, must_fail};
use crate::conformance::spy::Call;

pub(super) const RULES: &[Rule] = &[
    rule(
        "4 faults: a refused access is reported, with source and address",
        reported,
    ),
    rule("4 faults: what is let through is not reported", silent),
    with(
        Need::Pasids,
        "4 faults: a refused access with a PASID is reported with it",
        with_pasid,
    ),
    with(
        Need::PageFaults,
        "3.7 page faults: on while a domain handles them, off after",
        page_faults,
    ),
    without(
        Need::PageFaults,
        "3.7 page faults: a domain that handles them is Unsupported, hardware untouched",
        no_page_faults,
    ),
];

/// Takes reports until one is of this access, of those that can be of it.
fn expect_report(lab: &Lab, aim: Aim, page: u64) -> Verdict {
    let streams = lab.machine.device(aim.device);
    let mut others = Vec::new();
    while let Some(fault) = lab.machine.next_fault() {
        let same = streams.stream_ids().contains(&fault.stream)
            && fault.pasid == aim.pasid
            && fault.iova.0 & !(page - 1) == aim.iova.0 & !(page - 1);
        if same {
            return Ok(());
        }
        others.push(format!("{fault:?}"));
    }
    ensure!(
        !others.is_empty(),
        "a refused access of {aim} is not reported at all"
    );
    Err(format!(
        "a refused access of {aim} is reported as {}",
        others.join(", ")
    ))
}

fn reported(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(2), |lab| {
        let core = lab.core()?;
        let devices = lab.add_group(&core, 2)?;
        let domain = lab.domain(&core)?;
        must("an attach", devices[0].group().attach(&domain))?;
        let page = domain.geometry().map_or(1, |geometry| geometry.page_size());
        for (device, n) in [(0, 0), (1, 1), (0, 2)] {
            lab.drain_faults();
            let aim = Aim::new(device, lab.iova(&domain, n)?);
            lab.refused("where nothing is mapped", aim)?;
            expect_report(lab, aim, page)?;
        }
        for device in devices {
            must("a release", device.release())?;
        }
        Ok(())
    })
}

fn silent(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let domain = lab.domain(&core)?;
        must("an attach", device.attach(&domain))?;
        let at = lab.iova(&domain, 0)?;
        let mapped = lab.map(&domain, at, "a")?;
        lab.drain_faults();
        lab.reaches("where a page is mapped", Aim::new(0, at), "a")?;
        let fault = lab.machine.next_fault();
        ensure!(fault.is_none(), "an access that went through is {fault:?}");
        drop(mapped);
        must("its release", device.release())?;
        Ok(())
    })
}

fn with_pasid(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let domain = lab.domain(&core)?;
        let pasid = Pasid::new(1).ok_or("no PASID 1")?;
        must(
            "attaching a PASID",
            device.group().attach_pasid(pasid, &domain),
        )?;
        let page = domain.geometry().map_or(1, |geometry| geometry.page_size());
        lab.drain_faults();
        let aim = Aim::new(0, lab.iova(&domain, 0)?).with(pasid);
        lab.refused("where nothing is mapped", aim)?;
        expect_report(lab, aim, page)?;
        must("its release", device.release())?;
        Ok(())
    })
}

struct Nobody;

impl FaultHandler for Nobody {
    fn handle(&self, fault: Fault) {
        fault.answer(PageResponse::Invalid);
    }
}

fn page_faults(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let group = device.group();
        let domain = group.paging_domain_with_faults(&PagingConfig::default(), Arc::new(Nobody));
        let domain = must("making a paging domain", domain)?;
        lab.notes.calls();
        must("an attach", device.attach(&domain))?;
        let on = lab.notes.calls();
        ensure!(
            on.contains(&Call::Faults(true, true)),
            "page faults are not on: {on:?}"
        );
        let at: Iova = lab.iova(&domain, 0)?;
        let mapped = lab.map(&domain, at, "a")?;
        lab.reaches("with page faults on", Aim::new(0, at), "a")?;
        must("a detach", device.detach())?;
        let off = lab.notes.calls();
        ensure!(
            off.contains(&Call::Faults(false, true)),
            "page faults are not off: {off:?}"
        );
        drop(mapped);
        must("its release", device.release())?;
        Ok(())
    })
}

fn no_page_faults(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let group = device.group();
        let domain = group.paging_domain_with_faults(&PagingConfig::default(), Arc::new(Nobody));
        let domain = must("making a paging domain", domain)?;
        let attached = lab.untouched("the refusal", || device.attach(&domain))?;
        must_fail("an attach", attached, ErrorKind::Unsupported)?;
        must("its release", device.release())?;
        Ok(())
    })
}
