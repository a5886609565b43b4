//! Hardware that does not answer.

use iommu_core::{Attached, ErrorKind, Pasid, Result};

use super::transactions::Scene;
use super::{Need, Rule, rule, with};
use crate::conformance::eyes::{Aim, Reach};
use crate::conformance::lab::{Bench, Lab, Verdict, ensure, is_certain, must};
use crate::conformance::{Setup, WaitFailure};

pub(super) const RULES: &[Rule] = &[
    with(
        Need::BrokenWaits,
        "3.9 dead hardware: every wait of an attach that fails is told, and no device gains anything",
        every_wait_of_an_attach,
    ),
    with(
        Need::BrokenWaits,
        "3.9 dead hardware: what the core is certain of is so, also after it recovered",
        recovery,
    ),
    with(
        Need::BrokenWaits,
        "3.10 lifetimes: memory whose unmapping is not confirmed is never given back",
        every_wait_of_an_unmap,
    ),
    with(
        Need::BrokenWaits,
        "3.2 release: a park that fails is told, and nothing is freed under the device",
        every_wait_of_a_release,
    ),
    with(
        Need::Pasids,
        "3.9 PASIDs: every wait that fails is told, and no device gains anything",
        every_wait_of_a_pasid,
    ),
    rule(
        "3.9 quarantine: waits for nothing, allocates nothing, and an attach ends it",
        quarantine,
    ),
];

const BOTH: [WaitFailure; 2] = [WaitFailure::NoAnswer, WaitFailure::Dead];
const GROUP: usize = 2;

fn is_honest(what: &str, result: Result) -> Verdict {
    let Err(error) = result else {
        return Err(format!(
            "{what} succeeds though the hardware did not answer"
        ));
    };
    let kinds = [
        ErrorKind::IommuTimedOut,
        ErrorKind::DeviceTimedOut,
        ErrorKind::Hardware,
    ];
    ensure!(
        kinds.contains(&error.kind()),
        "{what} fails with {error}, which is not the hardware's failure"
    );
    Ok(())
}

/// How often `act` waits on a machine that works.
fn count_waits(bench: &Bench<'_>, act: fn(&Scene) -> Result) -> Verdict<usize> {
    bench.with(&Setup::plain(GROUP), |lab| {
        let scene = Scene::set(lab, GROUP)?;
        let (result, touch) = lab.touched(|| act(&scene));
        must("it, on hardware that works,", result)?;
        scene.strike()?;
        Ok(touch.waits)
    })
}

/// Each device reaches, of both domains, what it is certainly on, or nothing but what they map.
fn check_reach(lab: &Lab, scene: &Scene, when: &str) -> Verdict {
    for (number, device) in scene.devices.iter().enumerate() {
        let [old, new] = scene.at.map(|at| lab.eyes.look(Aim::new(number, at)));
        let attached = device.attached();
        let right = if attached.is(&scene.old) {
            old == Reach::Page("old") && new == Reach::Nothing
        } else if attached.is(&scene.new) {
            old == Reach::Nothing && new == Reach::Page("new")
        } else {
            old.is_at_most("old") && new.is_at_most("new")
        };
        ensure!(
            right,
            "{when}, {} is {attached:?} and reaches {old} where one domain maps, {new} where the \
             other does",
            device.name()
        );
    }
    Ok(())
}

fn attach_new(scene: &Scene) -> Result {
    scene.attach(&scene.new)
}

fn every_wait_of_an_attach(bench: &Bench<'_>) -> Verdict {
    let waits = count_waits(bench, attach_new)?;
    for failure in BOTH {
        for nth in 0..waits {
            bench.with(&Setup::plain(GROUP), |lab| {
                lab.may_leak();
                let scene = Scene::set(lab, GROUP)?;
                let when = format!("after wait {nth} of an attach failed ({failure:?})");
                lab.machine.break_wait(nth, failure);
                is_honest(
                    &format!("an attach whose wait {nth} fails"),
                    attach_new(&scene),
                )?;
                let uncertain = scene.devices.iter().any(|device| !is_certain(device));
                ensure!(uncertain, "{when}, the core is certain of every device");
                check_reach(lab, &scene, &when)?;
                for device in &scene.devices {
                    let kept = match device.attached() {
                        Attached::On(_) => true,
                        Attached::Uncertain { new, .. } => std::sync::Arc::ptr_eq(&new, &scene.new),
                        Attached::Deferred | Attached::Quarantined { .. } => false,
                    };
                    ensure!(kept, "{when}, {} is {:?}", device.name(), device.attached());
                }
                check_reach(lab, &scene, &format!("{when}, a moment later"))
            })?;
        }
    }
    Ok(())
}

fn recovery(bench: &Bench<'_>) -> Verdict {
    let waits = count_waits(bench, attach_new)?;
    for failure in BOTH {
        for nth in 0..waits {
            bench.with(&Setup::plain(GROUP), |lab| {
                lab.may_leak();
                let scene = Scene::set(lab, GROUP)?;
                lab.machine.break_wait(nth, failure);
                // Whether it fails is another rule's question.
                let _ = attach_new(&scene);
                lab.machine.heal();
                let when = format!("after wait {nth} failed ({failure:?}) and it recovered");
                check_reach(lab, &scene, &when)?;
                for domain in [&scene.old, &scene.new, &scene.old] {
                    // It may refuse to go on; what it says has to be true.
                    let attached = scene.attach(domain);
                    check_reach(lab, &scene, &when)?;
                    if attached.is_ok() {
                        scene.expect_on(lab, &when, domain)?;
                    }
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn every_wait_of_an_unmap(bench: &Bench<'_>) -> Verdict {
    let waits = bench.with(&Setup::plain(1), |lab| {
        let Scene {
            mapped, devices, ..
        } = Scene::set(lab, 1)?;
        let [old, _new] = mapped;
        let (unmapped, touch) = lab.touched(|| old.unmap());
        must("unmapping", unmapped)?;
        drop(devices);
        Ok(touch.waits)
    })?;
    for failure in BOTH {
        for nth in 0..waits {
            bench.with(&Setup::plain(1), |lab| {
                lab.may_leak();
                let scene = Scene::set(lab, 1)?;
                let [old, _new] = scene.mapped;
                let page = old.block().addr();
                lab.machine.break_wait(nth, failure);
                let what = format!("an unmap whose wait {nth} fails ({failure:?})");
                is_honest(&what, old.unmap())?;
                ensure!(
                    scene.old.leaked_bytes() > 0,
                    "after {what}, page {page} is given back"
                );
                let seen = lab.eyes.look(Aim::new(0, scene.at[0]));
                ensure!(
                    seen.is_at_most("old"),
                    "after {what}, the device reaches {seen}"
                );
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn every_wait_of_a_release(bench: &Bench<'_>) -> Verdict {
    for failure in BOTH {
        for nth in 0..16 {
            let told = bench.with(&Setup::plain(1), |lab| {
                lab.may_leak();
                let Scene {
                    core,
                    mut devices,
                    old,
                    new,
                    at,
                    mapped,
                } = Scene::set(lab, 1)?;
                let device = devices.pop().ok_or("no device")?;
                lab.machine.break_wait(nth, failure);
                let (released, touch) = lab.touched(|| device.release());
                if touch.waits <= nth {
                    lab.machine.heal();
                    must("its release", released)?;
                    drop(mapped);
                    return Ok(false);
                }
                let what = format!("a release whose wait {nth} fails ({failure:?})");
                is_honest(&what, released.map(|_| ()))?;
                // Whatever is let go of here is not what the hardware may be using.
                drop((core, mapped, old, new));
                let seen = lab.eyes.look(Aim::new(0, at[0]));
                ensure!(
                    seen.is_at_most("old"),
                    "after {what}, the device reaches {seen}"
                );
                Ok(true)
            })?;
            if !told {
                break;
            }
        }
    }
    Ok(())
}

fn every_wait_of_a_pasid(bench: &Bench<'_>) -> Verdict {
    let failures = if bench.can.breakable { &BOTH[..] } else { &[] };
    for (failure, detaches) in failures.iter().flat_map(|of| [(*of, false), (*of, true)]) {
        for nth in 0..16 {
            let told = bench.with(&Setup::plain(1), |lab| {
                lab.may_leak();
                let scene = Scene::set(lab, 1)?;
                let group = scene.devices[0].group();
                let pasid = Pasid::new(1).ok_or("no PASID 1")?;
                if detaches {
                    must("attaching a PASID", group.attach_pasid(pasid, &scene.new))?;
                }
                let aims = scene.at.map(|at| Aim::new(0, at).with(pasid));
                lab.eyes.look(aims[1]);
                lab.machine.break_wait(nth, failure);
                let (result, touch) = lab.touched(|| match detaches {
                    false => group.attach_pasid(pasid, &scene.new),
                    true => group.detach_pasid(pasid),
                });
                let failed = touch.waits > nth;
                let what = if detaches { "a detach" } else { "an attach" };
                let what = format!("{what} of a PASID whose wait {nth} fails ({failure:?})");
                if failed {
                    is_honest(&what, result)?;
                } else {
                    must(&what, result)?;
                }
                lab.refused(&format!("after {what}"), aims[0])?;
                let seen = lab.eyes.look(aims[1]);
                ensure!(
                    seen.is_at_most("new"),
                    "after {what}, the PASID reaches {seen}"
                );
                Ok(failed)
            })?;
            if !told {
                break;
            }
        }
    }
    Ok(())
}

fn quarantine(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(GROUP), |lab| {
        let scene = Scene::set(lab, GROUP)?;
        let group = scene.devices[0].group().clone();
        lab.memory.fail_allocation(Some(0));
        let ((), touch) = lab.touched(|| group.quarantine());
        lab.memory.fail_allocation(None);
        ensure!(touch.stores > 0, "it leaves all entries as they are");
        ensure!(touch.waits == 0, "it waits {} times", touch.waits);
        ensure!(
            touch.allocations == 0,
            "it asks for memory {} times",
            touch.allocations
        );
        for device in &scene.devices {
            let attached = device.attached();
            ensure!(
                matches!(attached, Attached::Quarantined { .. }),
                "a quarantined device is {attached:?}"
            );
        }
        must("an attach", scene.attach(&scene.core.blocked_domain()))?;
        for device in 0..GROUP {
            lab.refused("blocked after a quarantine", Aim::new(device, scene.at[0]))?;
        }
        must("an attach", scene.attach(&scene.new))?;
        scene.expect_on(lab, "on a domain after a quarantine", &scene.new)?;
        scene.strike()
    })
}
