//! Devices come and go.

use std::sync::Arc;

use iommu_core::{DefaultDomain, DomainKind, Iova, Rest};

use super::{Need, PINNED, PLAIN, Rule, rule, setup, without};
use crate::conformance::Setup;
use crate::conformance::eyes::{Aim, Eyes, Reach};
use crate::conformance::lab::{Bench, Verdict, ensure, must};
use crate::conformance::spy::{Call, Found, Moment, Phase};

pub(super) const RULES: &[Rule] = &[
    rule(
        "2 capabilities: what the testbed names is what there is",
        capabilities,
    ),
    rule("3.2 lifecycle: a device nobody added is refused", stranger),
    rule(
        "3.2 lifecycle: probing changes nothing about what a device reaches",
        probing,
    ),
    rule(
        "3.2 lifecycle: a probed device is on what the backend says",
        truth,
    ),
    rule(
        "3.2 lifecycle: a new device reaches its domain's mappings and nothing else",
        newcomer,
    ),
    rule(
        "3.2 lifecycle: a released device is refused, its mappings stay harmless",
        release,
    ),
    rule(
        "3.2 lifecycle: a device that comes back finds nothing of what it had",
        comeback,
    ),
    rule(
        "3.2 lifecycle: the release hook writes no entry",
        release_hook,
    ),
    rule(
        "3.2 lifecycle: a probe without memory keeps nothing",
        poor_probe,
    ),
    without(
        Need::Deferred,
        "3.6 deferred attach: no device is found deferred",
        never_deferred,
    ),
];

fn capabilities(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core()?;
        let there = core.identity_domain().is_some();
        ensure!(
            there == bench.can.identity,
            "an identity domain: said to be {}, is {there}",
            bench.can.identity
        );
        let kind = core.blocked_domain().kind();
        ensure!(
            kind == DomainKind::Blocked,
            "the blocked domain is a domain of kind {kind:?}"
        );
        ensure!(
            core.identity_domain()
                .is_none_or(|domain| domain.kind() == DomainKind::Identity),
            "the identity domain is of another kind"
        );
        ensure!(!bench.can.stages.is_empty(), "no stage of translation");
        Ok(())
    })
}

fn stranger(bench: &Bench<'_>) -> Verdict {
    bench.with(&setup(&[PLAIN, PINNED]), |lab| {
        let core = lab.core()?;
        let domain = lab.domain(&core)?;
        let page = Iova(lab.page(&domain, "a")?.0);
        lab.refused("before it is added", Aim::new(0, page))?;
        lab.refused("before it is added", Aim::new(0, lab.iova(&domain, 0)?))
    })
}

fn probing(bench: &Bench<'_>) -> Verdict {
    for device in [PLAIN, PINNED] {
        bench.with(&setup(&[device]), |lab| {
            let core = lab.core()?;
            let domain = lab.domain(&core)?;
            let page = Iova(lab.page(&domain, "a")?.0);
            let firmware = Iova(lab.machine.firmware_region().start());
            let aims = [page, firmware].map(|iova| Aim::new(0, iova));
            let before = aims.map(|aim| lab.eyes.look(aim));
            let look = move |eyes: &Eyes, moment: Moment| {
                if moment.phase != Phase::Probe {
                    return None;
                }
                let mut aims = aims.iter().zip(&before);
                aims.find_map(|(aim, before)| {
                    let now = eyes.look(*aim);
                    (now != *before).then(|| {
                        format!("while it is probed, {aim} reaches {now}; before, {before}")
                    })
                })
            };
            let device = lab.during(look, || lab.add(&core, 0))??;
            must("its release", device.release())?;
            Ok(())
        })?;
    }
    Ok(())
}

fn truth(bench: &Bench<'_>) -> Verdict {
    for device in [PLAIN, PINNED] {
        bench.with(&setup(&[device]), |lab| {
            let core = lab.core()?;
            let domain = lab.domain(&core)?;
            let page = lab.page(&domain, "a")?;
            let aim = Aim::new(0, Iova(page.0));
            let end = Moment {
                phase: Phase::Probe,
                is_end: true,
            };
            let eyes = lab.eyes.clone();
            let look = move |moment| (moment == end).then(|| eyes.look(aim).to_string());
            lab.notes.watch(Arc::new(look));
            let device = lab.add(&core, 0)?;
            let seen = lab.notes.found();
            let calls = lab.notes.calls();
            let said = calls.iter().find_map(|call| match call {
                Call::Probe(found) => Some(*found),
                _ => None,
            });
            let seen = seen.unwrap_or_default();
            match said {
                Some(Found::On(DomainKind::Blocked)) => ensure!(
                    seen == Reach::Nothing.to_string(),
                    "the backend found it on the blocked domain, and it reaches {seen}"
                ),
                Some(Found::On(DomainKind::Identity)) => ensure!(
                    seen == Reach::Page("a").to_string(),
                    "the backend found it on the identity domain, and it reaches {seen}"
                ),
                _ => {}
            }
            must("its release", device.release())?;
            Ok(())
        })?;
    }
    Ok(())
}

fn newcomer(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(2), |lab| {
        let core = lab.core_with(DefaultDomain::Paging)?;
        let devices = [lab.add(&core, 0)?, lab.add(&core, 1)?];
        let domain = devices[0].domain().ok_or("no default domain")?;
        let at = lab.iova(&domain, 0)?;
        let when = "on an empty domain";
        lab.refused(when, Aim::new(0, at))?;
        let free = Iova(lab.page(&domain, "free")?.0);
        lab.refused(when, Aim::new(0, free))?;
        let mapped = lab.map(&domain, at, "a")?;
        let when = "after a mapping was made";
        lab.reaches(when, Aim::new(0, at), "a")?;
        lab.refused(when, Aim::new(0, free))?;
        lab.refused(when, Aim::new(1, at))?;
        must("unmapping", mapped.unmap())?;
        for device in devices {
            must("a release", device.release())?;
        }
        Ok(())
    })
}

fn release(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let domain = lab.domain(&core)?;
        must("an attach", device.attach(&domain))?;
        let at = lab.iova(&domain, 0)?;
        let mapped = lab.map(&domain, at, "a")?;
        lab.reaches("before its release", Aim::new(0, at), "a")?;
        let rest = must("its release", device.release())?;
        ensure!(rest == Rest::Blocked, "a released device rests on {rest:?}");
        lab.refused("after its release", Aim::new(0, at))?;
        let page = lab.page(&domain, "free")?;
        lab.refused("after its release", Aim::new(0, Iova(page.0)))?;
        must("unmapping after the release", mapped.unmap())?;
        let again = lab.map(&domain, at, "b")?;
        lab.refused("after its release", Aim::new(0, at))?;
        drop(again);
        Ok(())
    })
}

fn comeback(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core_with(DefaultDomain::Paging)?;
        for round in 0..3 {
            let device = lab.add(&core, 0)?;
            let domain = device.domain().ok_or("no default domain")?;
            let at = lab.iova(&domain, 0)?;
            let when = if round == 0 {
                "when it is new"
            } else {
                "when it is back"
            };
            lab.refused(when, Aim::new(0, at))?;
            let mapped = lab.map(&domain, at, "a")?;
            lab.reaches(when, Aim::new(0, at), "a")?;
            drop(mapped);
            must("its release", device.release())?;
        }
        Ok(())
    })
}

fn release_hook(bench: &Bench<'_>) -> Verdict {
    for device in [PLAIN, PINNED] {
        bench.with(&setup(&[device]), |lab| {
            let core = lab.core_with(DefaultDomain::Paging)?;
            let device = lab.add(&core, 0)?;
            must("its release", device.release())?;
            for call in lab.notes.calls() {
                if let Call::Release(stores) = call {
                    ensure!(stores == 0, "it stores {stores} words");
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn poor_probe(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core()?;
        for n in 0..64 {
            let before = lab.memory.allocated();
            let first = lab.memory.allocations();
            lab.memory.fail_allocation(Some(n));
            let added = lab.try_add(&core, 0);
            let asked = lab.memory.allocations() - first;
            lab.memory.fail_allocation(None);
            match added {
                Ok(device) => {
                    ensure!(asked <= n, "allocation {n} fails, and nobody is told");
                    must("its release", device.release())?;
                    return Ok(());
                }
                Err(_) => {
                    let kept = lab.memory.allocated() - before;
                    ensure!(kept == 0, "a failed probe keeps {kept} bytes");
                    let at = Iova(lab.machine.firmware_region().start());
                    lab.refused("after a failed probe", Aim::new(0, at))?;
                }
            }
        }
        Err("a probe asks for memory 64 times".into())
    })
}

fn never_deferred(bench: &Bench<'_>) -> Verdict {
    for device in [PLAIN, PINNED] {
        bench.with(&setup(&[device]), |lab| {
            let core = lab.core()?;
            let device = lab.add(&core, 0)?;
            let deferred = Call::Probe(Found::Deferred);
            ensure!(
                !lab.notes.calls().contains(&deferred),
                "a device is deferred on a testbed that says there are none"
            );
            must("its release", device.release())?;
            Ok(())
        })?;
    }
    Ok(())
}
