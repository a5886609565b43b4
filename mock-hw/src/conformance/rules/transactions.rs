//! A group changes domain as one, or stays.

use iommu_core::{Device, DomainRef, ErrorKind, Iommu, Iova, PagingConfig, Stage};

use super::{Need, Rule, rule, with, without};
use crate::conformance::eyes::{Aim, Eyes, Reach};
use crate::conformance::lab::{Bench, Lab, Mapped, Verdict, ensure, is_on, must, must_fail};
use crate::conformance::spy::{Moment, Phase};
use crate::conformance::{DeviceSetup, Setup};

pub(super) const RULES: &[Rule] = &[
    rule("3.4 group attach: moves every device", every_member),
    rule(
        "3.4 group attach: memory that runs out leaves every device where it was",
        poor,
    ),
    rule(
        "3.4 group attach: what was prepared is given back when another device is refused",
        cancelled,
    ),
    rule(
        "3.4 group attach: preparing changes nothing that a device can notice",
        unnoticed,
    ),
    rule(
        "3.4 group attach: meanwhile devices reach what they had, what they get, or nothing",
        meanwhile,
    ),
    rule(
        "3.4 attach: the domain of another IOMMU is refused, hardware untouched",
        foreign,
    ),
    rule("3.4 attach: to the domain it is on is harmless", same),
    rule(
        "3.4 attach: between all kinds of domains, only the new one counts",
        kinds,
    ),
    with(
        Need::Stages,
        "3.4 attach: from one stage of translation to another",
        stages,
    ),
    without(
        Need::Stages,
        "2 stages: one that is not there is Unsupported, hardware untouched",
        missing_stage,
    ),
    rule(
        "5 waits: a group of four waits no more often than one device",
        waits,
    ),
];

const GROUP: usize = 3;

/// A group on one domain, and another domain to go to, each with its page.
pub(super) struct Scene {
    pub(super) core: Iommu,
    pub(super) devices: Vec<Device>,
    pub(super) old: DomainRef,
    pub(super) new: DomainRef,
    /// Where `old` maps page "old" and `new` nothing, and the other way round.
    pub(super) at: [Iova; 2],
    /// Unmapped before the domains go.
    pub(super) mapped: [Mapped; 2],
}

impl Scene {
    pub(super) fn set(lab: &Lab, devices: usize) -> Verdict<Self> {
        let core = lab.core()?;
        let devices = lab.add_group(&core, devices)?;
        let (old, new) = (lab.domain(&core)?, lab.domain(&core)?);
        let at = [lab.iova(&old, 0)?, lab.iova(&new, 1)?];
        let mapped = [lab.map(&old, at[0], "old")?, lab.map(&new, at[1], "new")?];
        let scene = Self {
            core,
            devices,
            old,
            new,
            at,
            mapped,
        };
        must("an attach", scene.attach(&scene.old))?;
        scene.expect_on(lab, "at first", &scene.old)?;
        Ok(scene)
    }

    pub(super) fn attach(&self, domain: &DomainRef) -> iommu_core::Result {
        match self.devices.first() {
            Some(device) => device.group().attach(domain),
            None => Ok(()),
        }
    }

    /// Checks that all devices are on `domain`, by the core's account and by DMA.
    pub(super) fn expect_on(&self, lab: &Lab, when: &str, domain: &DomainRef) -> Verdict {
        for (number, device) in self.devices.iter().enumerate() {
            is_on(when, device, domain)?;
            let [old, new] = self.at.map(|at| Aim::new(number, at));
            if std::sync::Arc::ptr_eq(domain, &self.old) {
                lab.reaches(when, old, "old")?;
                lab.refused(when, new)?;
            } else {
                lab.refused(when, old)?;
                lab.reaches(when, new, "new")?;
            }
        }
        Ok(())
    }

    /// Unmaps, and releases the devices.
    pub(super) fn strike(self) -> Verdict {
        for mapped in self.mapped {
            must("unmapping", mapped.unmap())?;
        }
        for device in self.devices {
            must("a release", device.release())?;
        }
        Ok(())
    }
}

fn every_member(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(GROUP), |lab| {
        let scene = Scene::set(lab, GROUP)?;
        must("an attach", scene.attach(&scene.new))?;
        scene.expect_on(lab, "after an attach", &scene.new)?;
        must("an attach", scene.attach(&scene.old))?;
        scene.expect_on(lab, "after an attach back", &scene.old)?;
        scene.strike()
    })
}

fn poor(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(GROUP), |lab| {
        let scene = Scene::set(lab, GROUP)?;
        for n in 0..64 {
            let before = lab.memory.allocated();
            let first = lab.memory.allocations();
            lab.memory.fail_allocation(Some(n));
            let attached = scene.attach(&scene.new);
            let asked = lab.memory.allocations() - first;
            lab.memory.fail_allocation(None);
            if attached.is_ok() {
                ensure!(asked <= n, "allocation {n} fails, and nobody is told");
                scene.expect_on(lab, "after an attach", &scene.new)?;
                return scene.strike();
            }
            must_fail("an attach without memory", attached, ErrorKind::OutOfMemory)?;
            scene.expect_on(lab, "after memory ran out", &scene.old)?;
            let kept = lab.memory.allocated() - before;
            ensure!(kept == 0, "a failed attach keeps {kept} bytes");
        }
        Err("an attach asks for memory 64 times".into())
    })
}

/// More often than there are ids of 8 bits.
const OFTEN: usize = 260;

fn cancelled(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(GROUP), |lab| {
        let scene = Scene::set(lab, GROUP)?;
        let before = lab.memory.allocated();
        for round in 0..OFTEN {
            let domain = lab.domain(&scene.core)?;
            lab.notes.refuse_preparation(Some(GROUP - 1));
            let attached = lab.untouched("an attach that is refused", || scene.attach(&domain))?;
            must_fail("an attach that is refused", attached, ErrorKind::NoSpace)
                .map_err(|how| format!("in round {round}, {how}"))?;
            lab.notes.refuse_preparation(None);
        }
        scene.expect_on(lab, "after the refusals", &scene.old)?;
        let kept = lab.memory.allocated() - before;
        ensure!(kept == 0, "refused attaches keep {kept} bytes");
        must("an attach after the refusals", scene.attach(&scene.new))?;
        scene.expect_on(lab, "after an attach", &scene.new)?;
        scene.strike()
    })
}

/// Attaches a group to another domain, and looks at each moment of one phase of that.
fn attach_watched(
    lab: &Lab,
    scene: &Scene,
    watched: Phase,
    allowed: impl Fn([&Reach; 2]) -> bool + Send + Sync + 'static,
) -> Verdict {
    // Back and forth without DMA: the caches know nothing, and what is stored is seen.
    must("an attach", scene.attach(&scene.new))?;
    must("an attach back", scene.attach(&scene.old))?;
    let [first, second] = scene.at;
    // Where the device gets if all addresses pass for a moment.
    let free = Iova(lab.page(&scene.old, "free")?.0);
    let look = move |eyes: &Eyes, Moment { phase, .. }: Moment| {
        // Who looked earlier would find in the caches what was there then.
        let devices = if phase == watched { GROUP } else { 0 };
        (0..devices).find_map(|device| {
            let look = |iova| eyes.look(Aim::new(device, iova));
            let (old, new, free) = (look(first), look(second), look(free));
            (free != Reach::Nothing || !allowed([&old, &new])).then(|| {
                format!(
                    "in {phase:?}, device {device} reaches {old} where its old domain maps, \
                     {new} where its new one does, and {free} where none does"
                )
            })
        })
    };
    let attached = lab.during(look, || scene.attach(&scene.new))?;
    must("an attach", attached)?;
    scene.expect_on(lab, "after the attach", &scene.new)
}

const OLD: Reach = Reach::Page("old");

fn unnoticed(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(GROUP), |lab| {
        let scene = Scene::set(lab, GROUP)?;
        attach_watched(lab, &scene, Phase::Prepare, |[old, new]| {
            *old == OLD && *new == Reach::Nothing
        })?;
        scene.strike()
    })
}

fn meanwhile(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(GROUP), |lab| {
        let scene = Scene::set(lab, GROUP)?;
        attach_watched(lab, &scene, Phase::Commit, |[old, new]| {
            old.is_at_most("old") && new.is_at_most("new")
        })?;
        scene.strike()
    })
}

fn foreign(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |other| {
        let elsewhere = other.core()?;
        let foreign = other.domain(&elsewhere)?;
        bench.with(&Setup::plain(1), |lab| {
            let core = lab.core()?;
            let device = lab.add(&core, 0)?;
            let before = device.attached();
            for domain in [&foreign, &elsewhere.blocked_domain()] {
                let attached = lab.untouched("the refusal", || device.attach(domain))?;
                let what = "attaching a domain of another IOMMU";
                must_fail(what, attached, ErrorKind::InvalidArgument)?;
            }
            if let Some(domain) = before.domain() {
                is_on("after the refusal", &device, domain)?;
            }
            must("its release", device.release())?;
            Ok(())
        })
    })
}

fn same(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(GROUP), |lab| {
        let scene = Scene::set(lab, GROUP)?;
        for _ in 0..3 {
            must("an attach to the same domain", scene.attach(&scene.old))?;
            scene.expect_on(lab, "after it", &scene.old)?;
        }
        must("an attach to another", scene.attach(&scene.new))?;
        scene.expect_on(lab, "after an attach to another", &scene.new)?;
        scene.strike()
    })
}

fn kinds(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let scene = Scene::set(lab, 1)?;
        let free = Iova(lab.page(&scene.old, "free")?.0);
        let mut kinds = vec![
            (scene.old.clone(), [Some("old"), None, None]),
            (scene.new.clone(), [None, Some("new"), None]),
            (scene.core.blocked_domain(), [None; 3]),
        ];
        if let Some(identity) = scene.core.identity_domain() {
            kinds.push((identity, [None, None, Some("free")]));
        }
        let aims = [scene.at[0], scene.at[1], free].map(|iova| Aim::new(0, iova));
        for (from, _) in &kinds {
            for (to, reach) in &kinds {
                must("an attach", scene.attach(from))?;
                // What is used is cached.
                for aim in aims {
                    lab.eyes.look(aim);
                }
                must("an attach", scene.attach(to))?;
                let when = format!("from {:?} to {:?}", from.kind(), to.kind());
                for (aim, page) in aims.iter().zip(reach) {
                    // What identity makes of an address without memory is the bus's business.
                    if to.kind() == iommu_core::DomainKind::Identity && page.is_none() {
                        continue;
                    }
                    match page {
                        Some(page) => lab.reaches(&when, *aim, page)?,
                        None => lab.refused(&when, *aim)?,
                    }
                }
            }
        }
        scene.strike()
    })
}

fn stages(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(2), |lab| {
        let core = lab.core()?;
        let devices = lab.add_group(&core, 2)?;
        let group = devices[0].group().clone();
        let mut domains = Vec::new();
        let pages = ["of one stage", "of another stage", "of a third stage"];
        for (stage, page) in bench.can.stages.iter().zip(pages) {
            let config = PagingConfig {
                stage: *stage,
                ..PagingConfig::default()
            };
            let domain = must("making a paging domain", core.paging_domain(&config))?;
            let at = lab.iova(&domain, 0)?;
            domains.push((lab.map(&domain, at, page)?, domain, at, page));
        }
        for (_, first, _, _) in &domains {
            for (_, second, at, page) in &domains {
                must("an attach", group.attach(first))?;
                lab.eyes.look(Aim::new(1, *at));
                must("an attach to another stage", group.attach(second))?;
                for device in 0..2 {
                    let aim = Aim::new(device, *at);
                    lab.reaches("on another stage", aim, page)?;
                }
            }
        }
        drop(domains);
        for device in devices {
            must("a release", device.release())?;
        }
        Ok(())
    })
}

fn missing_stage(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core()?;
        for stage in [Stage::First, Stage::Second] {
            if bench.can.stages.contains(&stage) {
                continue;
            }
            let config = PagingConfig {
                stage,
                ..PagingConfig::default()
            };
            let made = lab.untouched("the refusal", || core.paging_domain(&config))?;
            must_fail("a domain of a missing stage", made, ErrorKind::Unsupported)?;
        }
        Ok(())
    })
}

fn waits(bench: &Bench<'_>) -> Verdict {
    let mut counts = [0; 2];
    for (count, devices) in counts.iter_mut().zip([1, 4]) {
        let setup = Setup {
            devices: vec![DeviceSetup::default(); devices],
        };
        *count = bench.with(&setup, |lab| {
            let scene = Scene::set(lab, devices)?;
            let (attached, touch) = lab.touched(|| scene.attach(&scene.new));
            must("an attach", attached)?;
            scene.strike()?;
            Ok(touch.waits)
        })?;
    }
    let [one, four] = counts;
    ensure!(
        four <= one,
        "four devices wait {four} times, one waits {one} times"
    );
    Ok(())
}
