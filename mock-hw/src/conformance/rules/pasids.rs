//! Traffic with a PASID.

use iommu_core::{Device, DomainRef, ErrorKind, Iommu, Iova, Pasid};

use super::{Need, Rule, with, without};
use crate::conformance::Setup;
use crate::conformance::eyes::Aim;
use crate::conformance::lab::{Bench, Lab, Mapped, Verdict, ensure, must, must_fail};

pub(super) const RULES: &[Rule] = &[
    without(
        Need::Pasids,
        "2 PASIDs: attaching one is Unsupported, hardware untouched",
        unsupported,
    ),
    with(
        Need::Pasids,
        "2 PASIDs: each has a domain of its own, beside the traffic without one",
        apart,
    ),
    with(
        Need::Pasids,
        "2 PASIDs: one that is not attached is refused",
        unattached,
    ),
    with(
        Need::Pasids,
        "2 PASIDs: the largest works, the next is refused",
        limits,
    ),
    with(
        Need::Pasids,
        "3.5 PASIDs: a detached one is refused, without allocating",
        detached,
    ),
    with(
        Need::Pasids,
        "2 PASIDs: one domain in place of another",
        replaced,
    ),
    with(Need::Pasids, "3.2 PASIDs: a release ends them", released),
    with(
        Need::Pasids,
        "3.10 PASIDs: an unmap reaches what they have cached",
        unmapped,
    ),
    with(
        Need::Pasids,
        "3.4 PASIDs: memory that runs out leaves every one where it was",
        poor,
    ),
    with(
        Need::Pasids,
        "3.5 PASIDs: identity passes, or is Unsupported, hardware untouched",
        identity,
    ),
    with(
        Need::Pasids,
        "3.11 PASIDs: refused during a reset, back after it",
        fenced,
    ),
];

fn pasid(value: u32) -> Verdict<Pasid> {
    Pasid::new(value).ok_or_else(|| format!("PASID {value:#x} has more than 20 bits"))
}

/// A device on one domain, one of its PASIDs on another.
struct Scene {
    core: Iommu,
    device: Device,
    of_rid: DomainRef,
    of_pasid: DomainRef,
    at: [Iova; 2],
    mapped: [Mapped; 2],
    pasid: Pasid,
}

impl Scene {
    fn set(lab: &Lab) -> Verdict<Self> {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let (of_rid, of_pasid) = (lab.domain(&core)?, lab.domain(&core)?);
        let at = [lab.iova(&of_rid, 0)?, lab.iova(&of_pasid, 1)?];
        let mapped = [
            lab.map(&of_rid, at[0], "of the RID")?,
            lab.map(&of_pasid, at[1], "of the PASID")?,
        ];
        let scene = Self {
            core,
            device,
            of_rid,
            of_pasid,
            at,
            mapped,
            pasid: pasid(1)?,
        };
        must("an attach", scene.device.attach(&scene.of_rid))?;
        scene.expect_nothing(lab, "before it is attached")?;
        must("attaching a PASID", scene.attach(&scene.of_pasid))?;
        scene.expect_both(lab, "after it was attached")?;
        Ok(scene)
    }

    fn attach(&self, domain: &DomainRef) -> iommu_core::Result {
        self.device.group().attach_pasid(self.pasid, domain)
    }

    fn expect_both(&self, lab: &Lab, when: &str) -> Verdict {
        let [rid, with] = self.at.map(|at| Aim::new(0, at));
        lab.reaches(when, rid, "of the RID")?;
        lab.refused(when, with)?;
        lab.reaches(when, with.with(self.pasid), "of the PASID")?;
        lab.refused(when, rid.with(self.pasid))
    }

    fn expect_nothing(&self, lab: &Lab, when: &str) -> Verdict {
        for at in self.at {
            lab.refused(when, Aim::new(0, at).with(self.pasid))?;
        }
        Ok(())
    }

    fn strike(self) -> Verdict {
        for mapped in self.mapped {
            must("unmapping", mapped.unmap())?;
        }
        must("a release", self.device.release())?;
        Ok(())
    }
}

fn unsupported(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let core = lab.core()?;
        let device = lab.add(&core, 0)?;
        let domain = lab.domain(&core)?;
        let one = pasid(1)?;
        let attached =
            lab.untouched("the refusal", || device.group().attach_pasid(one, &domain))?;
        must_fail("attaching a PASID", attached, ErrorKind::Unsupported)?;
        must("its release", device.release())?;
        Ok(())
    })
}

fn apart(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let scene = Scene::set(lab)?;
        must(
            "blocking",
            scene.device.attach(&scene.core.blocked_domain()),
        )?;
        let [rid, with] = scene.at.map(|at| Aim::new(0, at));
        let when = "with the traffic without PASID blocked";
        lab.refused(when, rid)?;
        lab.reaches(when, with.with(scene.pasid), "of the PASID")?;
        must("an attach", scene.device.attach(&scene.of_rid))?;
        scene.expect_both(lab, "after an attach")?;
        must("a detach", scene.device.group().detach_pasid(scene.pasid))?;
        scene.expect_nothing(lab, "after its detach")?;
        lab.reaches("after a PASID's detach", rid, "of the RID")?;
        scene.strike()
    })
}

fn unattached(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(2), |lab| {
        let scene = Scene::set(lab)?;
        let other = lab.add(&scene.core, 1)?;
        let free = Iova(lab.page(&scene.of_rid, "free")?.0);
        for value in 2..=bench.can.pasids.min(4) {
            let another = pasid(value)?;
            for at in [scene.at[0], scene.at[1], free] {
                lab.refused("never attached", Aim::new(0, at).with(another))?;
            }
        }
        for at in [scene.at[0], scene.at[1], free] {
            let aim = Aim::new(1, at).with(scene.pasid);
            lab.refused("attached for another device", aim)?;
        }
        must("a release", other.release())?;
        scene.strike()
    })
}

fn limits(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let scene = Scene::set(lab)?;
        let group = scene.device.group();
        let last = pasid(bench.can.pasids)?;
        must(
            "attaching the largest",
            group.attach_pasid(last, &scene.of_pasid),
        )?;
        let aim = Aim::new(0, scene.at[1]).with(last);
        lab.reaches("after that", aim, "of the PASID")?;
        for beyond in [0, bench.can.pasids + 1] {
            let Some(beyond) = Pasid::new(beyond) else {
                continue;
            };
            let attach = || group.attach_pasid(beyond, &scene.of_pasid);
            let attached = lab.untouched("the refusal", attach)?;
            let what = format!("attaching PASID {beyond}");
            must_fail(&what, attached, ErrorKind::InvalidArgument)?;
        }
        scene.strike()
    })
}

fn detached(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let scene = Scene::set(lab)?;
        let group = scene.device.group();
        for round in 0..2 {
            lab.memory.fail_allocation(Some(0));
            let (detached, touch) = lab.touched(|| match round {
                0 => group.detach_pasid(scene.pasid),
                _ => group.attach_pasid(scene.pasid, &scene.core.blocked_domain()),
            });
            lab.memory.fail_allocation(None);
            must("a detach", detached)?;
            ensure!(
                touch.allocations == 0,
                "it asks for memory {} times",
                touch.allocations
            );
            scene.expect_nothing(lab, "after its detach")?;
            let rid = Aim::new(0, scene.at[0]);
            lab.reaches("after a PASID's detach", rid, "of the RID")?;
            must("attaching it again", scene.attach(&scene.of_pasid))?;
            scene.expect_both(lab, "attached again")?;
        }
        scene.strike()
    })
}

fn replaced(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let scene = Scene::set(lab)?;
        must("attaching another domain", scene.attach(&scene.of_rid))?;
        let [first, second] = scene.at.map(|at| Aim::new(0, at).with(scene.pasid));
        lab.reaches("on another domain", first, "of the RID")?;
        lab.refused("on another domain", second)?;
        must("attaching the first again", scene.attach(&scene.of_pasid))?;
        scene.expect_both(lab, "back")?;
        scene.strike()
    })
}

fn released(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let Scene {
            core,
            device,
            at,
            mapped,
            pasid,
            ..
        } = Scene::set(lab)?;
        must("its release", device.release())?;
        for at in at {
            let aim = Aim::new(0, at);
            lab.refused("after its release", aim)?;
            lab.refused("after its release", aim.with(pasid))?;
        }
        let again = lab.add(&core, 0)?;
        for at in at {
            lab.refused("added again", Aim::new(0, at).with(pasid))?;
        }
        drop(mapped);
        must("its release", again.release())?;
        Ok(())
    })
}

fn unmapped(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let scene = Scene::set(lab)?;
        let [of_rid, of_pasid] = scene.mapped;
        let [rid, with] = scene.at.map(|at| Aim::new(0, at));
        must("unmapping", of_pasid.unmap())?;
        lab.refused("after an unmap", with.with(scene.pasid))?;
        let again = lab.map(&scene.of_pasid, scene.at[1], "again")?;
        lab.reaches("mapped again", with.with(scene.pasid), "again")?;
        lab.reaches("all the time", rid, "of the RID")?;
        drop((of_rid, again));
        must("its release", scene.device.release())?;
        Ok(())
    })
}

fn poor(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(2), |lab| {
        let core = lab.core()?;
        let devices = lab.add_group(&core, 2)?;
        let group = devices[0].group().clone();
        let domain = lab.domain(&core)?;
        let at = lab.iova(&domain, 0)?;
        let mapped = lab.map(&domain, at, "a")?;
        let one = pasid(1)?;
        for n in 0..64 {
            let first = lab.memory.allocations();
            lab.memory.fail_allocation(Some(n));
            let attached = group.attach_pasid(one, &domain);
            let asked = lab.memory.allocations() - first;
            lab.memory.fail_allocation(None);
            if attached.is_ok() {
                ensure!(asked <= n, "allocation {n} fails, and nobody is told");
                for device in 0..2 {
                    let aim = Aim::new(device, at).with(one);
                    lab.reaches("after an attach", aim, "a")?;
                }
                drop(mapped);
                for device in devices {
                    must("a release", device.release())?;
                }
                return Ok(());
            }
            must_fail("an attach without memory", attached, ErrorKind::OutOfMemory)?;
            for device in 0..2 {
                let aim = Aim::new(device, at).with(one);
                lab.refused("after memory ran out", aim)?;
            }
        }
        Err("an attach asks for memory 64 times".into())
    })
}

fn identity(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let scene = Scene::set(lab)?;
        let Some(identity) = scene.core.identity_domain() else {
            return scene.strike();
        };
        let free = Aim::new(0, Iova(lab.page(&scene.of_rid, "free")?.0));
        let aim = free.with(scene.pasid);
        lab.refused("on a paging domain", aim)?;
        let (attached, touch) = lab.touched(|| scene.attach(&identity));
        if attached.is_ok() {
            lab.reaches("on identity", aim, "free")?;
            lab.refused("beside identity", free)?;
            must("attaching the first again", scene.attach(&scene.of_pasid))?;
        } else {
            must_fail("attaching identity", attached, ErrorKind::Unsupported)?;
            let quiet = touch.stores == 0 && touch.register_writes == 0;
            ensure!(quiet, "the refusal touches the hardware");
        }
        lab.refused("back on its domain", aim)?;
        scene.expect_both(lab, "back on its domain")?;
        scene.strike()
    })
}

fn fenced(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let scene = Scene::set(lab)?;
        let fence = must("raising the fence", scene.device.reset_fence())?;
        scene.expect_nothing(lab, "during the reset")?;
        lab.refused("during the reset", Aim::new(0, scene.at[0]))?;
        must("ending the fence", fence.end())?;
        scene.expect_both(lab, "after the reset")?;
        scene.strike()
    })
}
