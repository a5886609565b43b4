//! Mappings of a paging domain that a device is on.

use iommu_core::{Device, DomainRef, ErrorKind, Iommu, Iova, Prot};

use super::{Rule, rule};
use crate::conformance::Setup;
use crate::conformance::eyes::{Aim, Reach};
use crate::conformance::lab::{Bench, Lab, RW, Verdict, ensure, geometry, must, must_fail};

pub(super) const RULES: &[Rule] = &[
    rule(
        "3.10 map: visible at once, also where a refusal was cached",
        visible,
    ),
    rule(
        "3.10 unmap: in force at once, also where it was cached",
        gone,
    ),
    rule("3.10 unmap: a page in place of another", remapped),
    rule(
        "3.10 flush: what was unmapped lazily is gone, the rest stays",
        flushed,
    ),
    rule("2 map: neighbours are left alone", neighbours),
    rule("2 map: what is not writable is not written", read_only),
    rule("2 map: the tables say where devices get", translate),
    rule(
        "2 domains: one IOVA leads elsewhere in another domain",
        isolated,
    ),
    rule(
        "2 map: what is mapped stays mapped when it is mapped again",
        overlap,
    ),
    rule(
        "2 unmap: what is not mapped is NotFound, nothing changes",
        hole,
    ),
    rule("2 map: without memory nothing is left", poor),
    rule(
        "2 geometry: the aperture's ends work, beyond them is refused",
        ends,
    ),
    rule("2 geometry: every page size that is offered works", sizes),
    rule(
        "2 map: a range of pages, mapped and unmapped at once",
        range,
    ),
];

/// A device on a paging domain.
fn on_a_domain(lab: &Lab) -> Verdict<(Iommu, Device, DomainRef)> {
    let core = lab.core()?;
    let device = lab.add(&core, 0)?;
    let domain = lab.domain(&core)?;
    must("an attach", device.attach(&domain))?;
    Ok((core, device, domain))
}

fn page_size(domain: &DomainRef) -> Verdict<u64> {
    Ok(geometry(domain)?.page_size())
}

fn visible(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(2), |lab| {
        let (core, device, domain) = on_a_domain(lab)?;
        let other = lab.add(&core, 1)?;
        must("an attach", other.attach(&domain))?;
        for n in 0..3 {
            let at = lab.iova(&domain, n)?;
            for device in 0..2 {
                lab.refused("before it is mapped", Aim::new(device, at))?;
            }
            let mapped = lab.map(&domain, at, "a")?;
            for device in 0..2 {
                lab.reaches("after it was mapped", Aim::new(device, at), "a")?;
            }
            drop(mapped);
        }
        must("a release", device.release())?;
        must("a release", other.release())?;
        Ok(())
    })
}

fn gone(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(2), |lab| {
        let (core, device, domain) = on_a_domain(lab)?;
        let other = lab.add(&core, 1)?;
        must("an attach", other.attach(&domain))?;
        let at = lab.iova(&domain, 0)?;
        let mapped = lab.map(&domain, at, "a")?;
        for device in 0..2 {
            lab.reaches("while it is mapped", Aim::new(device, at), "a")?;
        }
        must("unmapping", mapped.unmap())?;
        for device in 0..2 {
            lab.refused("after it was unmapped", Aim::new(device, at))?;
        }
        must("a release", device.release())?;
        must("a release", other.release())?;
        Ok(())
    })
}

fn flushed(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(2), |lab| {
        let (core, device, domain) = on_a_domain(lab)?;
        let other = lab.add(&core, 1)?;
        must("an attach", other.attach(&domain))?;
        let size = page_size(&domain)?;
        let stays = lab.map(&domain, lab.iova(&domain, 0)?, "stays")?;
        for n in 1..3 {
            let at = lab.iova(&domain, n)?;
            let phys = lab.page(&domain, "goes")?;
            // SAFETY: the page is kept until the end.
            must("a mapping", unsafe { domain.map(at, phys, size, RW) })?;
            for device in 0..2 {
                lab.reaches("while it is mapped", Aim::new(device, at), "goes")?;
            }
            let unflushed = must("unmapping lazily", domain.unmap_lazily(at, size))?;
            ensure!(
                domain.translate(at).is_none(),
                "the tables still lead from {at} to somewhere"
            );
            must("a flush", domain.flush())?;
            ensure!(
                domain.is_flushed(unflushed),
                "the domain was flushed and is not"
            );
            for device in 0..2 {
                lab.refused("after the flush", Aim::new(device, at))?;
                lab.reaches("after the flush", Aim::new(device, stays.iova()), "stays")?;
            }
        }
        drop(stays);
        must("a release", device.release())?;
        must("a release", other.release())?;
        Ok(())
    })
}

fn remapped(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let (_core, device, domain) = on_a_domain(lab)?;
        let at = lab.iova(&domain, 0)?;
        for name in ["a", "b", "c"] {
            let mapped = lab.map(&domain, at, name)?;
            lab.reaches("after a mapping was made", Aim::new(0, at), name)?;
            must("unmapping", mapped.unmap())?;
        }
        must("its release", device.release())?;
        Ok(())
    })
}

fn neighbours(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let (_core, device, domain) = on_a_domain(lab)?;
        let at = |n| lab.iova(&domain, n);
        let first = lab.map(&domain, at(0)?, "first")?;
        let third = lab.map(&domain, at(2)?, "third")?;
        let check = |when: &str, middle: Option<&'static str>| {
            lab.reaches(when, Aim::new(0, at(0)?), "first")?;
            match middle {
                Some(page) => lab.reaches(when, Aim::new(0, at(1)?), page)?,
                None => lab.refused(when, Aim::new(0, at(1)?))?,
            }
            lab.reaches(when, Aim::new(0, at(2)?), "third")?;
            lab.refused(when, Aim::new(0, at(3)?))
        };
        check("without the middle", None)?;
        let second = lab.map(&domain, at(1)?, "second")?;
        check("with the middle", Some("second"))?;
        must("unmapping", second.unmap())?;
        check("after the middle was unmapped", None)?;
        drop((first, third));
        must("its release", device.release())?;
        Ok(())
    })
}

fn read_only(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let (_core, device, domain) = on_a_domain(lab)?;
        let at = lab.iova(&domain, 0)?;
        let mapped = lab.map_as(&domain, at, "a", Prot::READ)?;
        let (when, aim) = ("mapped for reading", Aim::new(0, at));
        lab.expect(when, aim, &Reach::ReadOnly("a"))?;
        must("unmapping", mapped.unmap())?;
        let mapped = lab.map(&domain, at, "b")?;
        lab.reaches("mapped again, for writing too", aim, "b")?;
        drop(mapped);
        must("its release", device.release())?;
        Ok(())
    })
}

fn translate(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let (_core, device, domain) = on_a_domain(lab)?;
        let at = lab.iova(&domain, 0)?;
        let inside = at
            .checked_add(8)
            .ok_or("an IOVA at the end of everything")?;
        ensure!(
            domain.translate(at).is_none(),
            "an empty domain translates {at}"
        );
        let mapped = lab.map(&domain, at, "a")?;
        let page = mapped.block().addr();
        ensure!(
            domain.translate(inside) == page.checked_add(8),
            "{inside} is mapped to {page} + 8, and the domain says {:?}",
            domain.translate(inside)
        );
        must("unmapping", mapped.unmap())?;
        ensure!(
            domain.translate(at).is_none(),
            "an unmapped domain translates {at}"
        );
        must("its release", device.release())?;
        Ok(())
    })
}

fn isolated(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(2), |lab| {
        let (core, device, domain) = on_a_domain(lab)?;
        let other = lab.add(&core, 1)?;
        let second = lab.domain(&core)?;
        must("an attach", other.attach(&second))?;
        let at = lab.iova(&domain, 0)?;
        let aims = [0, 1].map(|device| Aim::new(device, at));
        let mapped = lab.map(&domain, at, "a")?;
        lab.reaches("on the first domain", aims[0], "a")?;
        lab.refused("on the second domain", aims[1])?;
        let again = lab.map(&second, at, "b")?;
        lab.reaches("on the first domain", aims[0], "a")?;
        lab.reaches("on the second domain", aims[1], "b")?;
        must("unmapping in the first", mapped.unmap())?;
        lab.refused("on the first domain", aims[0])?;
        lab.reaches("on the second domain", aims[1], "b")?;
        drop(again);
        must("a release", device.release())?;
        must("a release", other.release())?;
        Ok(())
    })
}

fn overlap(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let (_core, device, domain) = on_a_domain(lab)?;
        let at = lab.iova(&domain, 1)?;
        let mapped = lab.map(&domain, at, "a")?;
        let block = lab.block(&domain, "b")?;
        let again = lab.try_map(&domain, at, block, RW);
        must_fail("mapping there again", again, ErrorKind::AlreadyExists)?;
        lab.reaches("after the refusal", Aim::new(0, at), "a")?;
        // Two pages, of which the second is taken.
        let page = page_size(&domain)?;
        let size = usize::try_from(2 * page).map_err(|_| "a large page")?;
        let two = iommu_core::DmaBlock::new(&lab.memory, size, size, "two pages");
        let two = must("allocating", two)?;
        lab.eyes.watch("two", two.addr());
        let before = lab.iova(&domain, 0)?;
        let again = lab.try_map(&domain, before, two, RW);
        must_fail("mapping over it", again, ErrorKind::AlreadyExists)?;
        lab.refused("after the refusal", Aim::new(0, before))?;
        lab.reaches("after the refusal", Aim::new(0, at), "a")?;
        drop(mapped);
        must("its release", device.release())?;
        Ok(())
    })
}

fn hole(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let (_core, device, domain) = on_a_domain(lab)?;
        let page = page_size(&domain)?;
        let at = lab.iova(&domain, 0)?;
        let mapped = lab.map(&domain, at, "a")?;
        let hole = lab.iova(&domain, 1)?;
        let unmap = domain.unmap(hole, page);
        must_fail("unmapping a hole", unmap, ErrorKind::NotFound)?;
        let unmap = domain.unmap(at, 2 * page);
        must_fail("unmapping a page and a hole", unmap, ErrorKind::NotFound)?;
        lab.reaches("after the refusals", Aim::new(0, at), "a")?;
        must("unmapping", mapped.unmap())?;
        must_fail(
            "unmapping twice",
            domain.unmap(at, page),
            ErrorKind::NotFound,
        )?;
        must("its release", device.release())?;
        Ok(())
    })
}

fn poor(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let (_core, device, domain) = on_a_domain(lab)?;
        let at = lab.iova(&domain, 0)?;
        for n in 0..64 {
            let block = lab.block(&domain, "a")?;
            let first = lab.memory.allocations();
            lab.memory.fail_allocation(Some(n));
            let mapped = lab.try_map(&domain, at, block, RW);
            let asked = lab.memory.allocations() - first;
            lab.memory.fail_allocation(None);
            if let Ok(mapped) = mapped {
                ensure!(asked <= n, "allocation {n} fails, and nobody is told");
                lab.reaches("after a mapping was made", Aim::new(0, at), "a")?;
                drop(mapped);
                must("its release", device.release())?;
                return Ok(());
            }
            must_fail("mapping without memory", mapped, ErrorKind::OutOfMemory)?;
            lab.refused("after memory ran out", Aim::new(0, at))?;
            ensure!(
                domain.translate(at).is_none(),
                "after memory ran out, the domain translates {at}"
            );
        }
        Err("a mapping asks for memory 64 times".into())
    })
}

fn ends(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let (_core, device, domain) = on_a_domain(lab)?;
        let page = page_size(&domain)?;
        let aperture = geometry(&domain)?.aperture;
        let last = Iova(aperture.last() & !(page - 1));
        let ends = [(Iova(aperture.start()), "first"), (last, "last")];
        for (at, name) in ends {
            let mapped = lab.map(&domain, at, name)?;
            lab.reaches("at an end of the aperture", Aim::new(0, at), name)?;
            must("unmapping", mapped.unmap())?;
            lab.refused("after that", Aim::new(0, at))?;
        }
        let below = aperture.start().checked_sub(page);
        let beyond = [last.checked_add(page), below.map(Iova)];
        for at in beyond.into_iter().flatten() {
            let block = lab.block(&domain, "beyond")?;
            let mapped = lab.try_map(&domain, at, block, RW);
            must_fail("mapping beyond the aperture", mapped, ErrorKind::OutOfRange)?;
            lab.refused("beyond the aperture", Aim::new(0, at))?;
        }
        must("its release", device.release())?;
        Ok(())
    })
}

/// The largest page that is tried: memory is smaller than the next.
const LARGEST: u64 = 2 << 20;

fn sizes(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let (_core, device, domain) = on_a_domain(lab)?;
        let geometry = geometry(&domain)?;
        for bit in 0..=LARGEST.trailing_zeros() {
            let size = 1 << bit;
            if geometry.page_sizes & size == 0 {
                continue;
            }
            let at = Iova((lab.iova(&domain, 0)?.0).next_multiple_of(size));
            let bytes = usize::try_from(size).map_err(|_| "a large page")?;
            let block = iommu_core::DmaBlock::new(&lab.memory, bytes, bytes, "a page");
            let block = must("allocating", block)?;
            let tail = block.addr().checked_add(size - geometry.page_size());
            let tail = tail.ok_or("memory at the end of everything")?;
            if tail != block.addr() {
                lab.eyes.watch("at its start", block.addr());
            }
            lab.eyes.watch("at its end", tail);
            let mapped = lab.try_map(&domain, at, block, RW);
            let mapped = must(&format!("mapping a page of {size:#x} bytes"), mapped)?;
            let end = at
                .checked_add(size - geometry.page_size())
                .ok_or("no end")?;
            lab.reaches("in a page", Aim::new(0, end), "at its end")?;
            if end != at {
                lab.reaches("in a page", Aim::new(0, at), "at its start")?;
            }
            must("unmapping", mapped.unmap())?;
            lab.refused("after it was unmapped", Aim::new(0, at))?;
            lab.refused("after it was unmapped", Aim::new(0, end))?;
        }
        must("its release", device.release())?;
        Ok(())
    })
}

/// More than most backends invalidate one by one.
const MANY: u64 = 40;

fn range(bench: &Bench<'_>) -> Verdict {
    bench.with(&Setup::plain(1), |lab| {
        let (_core, device, domain) = on_a_domain(lab)?;
        let page = page_size(&domain)?;
        let bytes = usize::try_from(MANY * page).map_err(|_| "large pages")?;
        let aligned = usize::try_from(page).map_err(|_| "large pages")?;
        let block = iommu_core::DmaBlock::new(&lab.memory, bytes, aligned, "a range");
        let block = must("allocating", block)?;
        let pages = [(0, "first"), (MANY / 2, "middle"), (MANY - 1, "last")];
        for (n, name) in pages {
            let at = block.addr().checked_add(n * page);
            lab.eyes.watch(name, at.ok_or("no such page")?);
        }
        for n in [0, MANY / 2, MANY - 1, MANY] {
            let aim = Aim::new(0, lab.iova(&domain, n)?);
            lab.refused("before a range is mapped", aim)?;
        }
        let mapped = lab.try_map(&domain, lab.iova(&domain, 0)?, block, RW);
        let mapped = must("mapping a range", mapped)?;
        for (n, name) in pages {
            let aim = Aim::new(0, lab.iova(&domain, n)?);
            lab.reaches("in a range", aim, name)?;
        }
        lab.refused("after a range", Aim::new(0, lab.iova(&domain, MANY)?))?;
        must("unmapping a range", mapped.unmap())?;
        for (n, _) in pages {
            let aim = Aim::new(0, lab.iova(&domain, n)?);
            lab.refused("after a range was unmapped", aim)?;
        }
        must("its release", device.release())?;
        Ok(())
    })
}
