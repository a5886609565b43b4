//! Memory that runs out at every allocation in turn: a typed error, nothing mapped and nothing lost,
//! and the next attempt works.

use iommu_core::dma::{Bidirectional, Dma, DmaBuffer, FromDevice};
use iommu_core::{AddrRange, DomainRef, ErrorKind, Iova, PhysAddr, Prot, Result};
use mock_hw::MockMemory;

use super::setup::{PAGE, Setup};

const K4: u64 = 1 << 12;
const M2: u64 = 1 << 21;
const G1: u64 = 1 << 30;
const RW: Prot = Prot::READ.union(Prot::WRITE);

/// Where the only addresses are that [`Dma`] hands out.
const WINDOW: u64 = 16 * M2;

/// What is tried: a device that was just added.
struct Scene<'a> {
    setup: &'a Setup,
    dma: Dma<MockMemory>,
    domain: DomainRef,
}

impl Scene<'_> {
    fn map(&self, iova: u64, phys: u64, len: u64) -> Result {
        // SAFETY: nobody relies on that memory.
        unsafe { self.domain.map(Iova(iova), PhysAddr(phys), len, RW) }
    }

    fn unmap(&self, iova: u64, len: u64) {
        self.domain.unmap(Iova(iova), len).unwrap();
    }

    /// Nothing is mapped in a range, at its ends and now and then in between.
    fn is_empty(&self, iova: u64, len: u64) -> bool {
        let step = (len / 64).max(K4) & !(K4 - 1);
        let places = (0..len).step_by(usize::try_from(step).unwrap());
        let mut places = places.chain([len - K4]).map(|offset| Iova(iova + offset));
        places.all(|at| self.domain.translate(at).is_none() && !self.setup.write(at, b"?"))
    }

    /// Only so many bytes are left to be handed out.
    fn narrow(&self, bytes: u64) {
        let last = self.domain.geometry().unwrap().aperture.last();
        let before = AddrRange::inclusive(0, WINDOW - 1).unwrap();
        let behind = AddrRange::inclusive(WINDOW + bytes, last).unwrap();
        self.dma.reserve(before).unwrap();
        self.dma.reserve(behind).unwrap();
    }
}

/// Lets the `n`-th allocation of an attempt fail, for every `n` until none does: each time on a device
/// of its own. `attempt` calls what it is given where that begins. `prepare` comes before; `unchanged`
/// is looked at after a failure; then there is another attempt, and `undo`. How many failed.
fn sweep<T>(
    setup: &Setup,
    prepare: impl Fn(&Scene<'_>),
    attempt: impl Fn(&Scene<'_>, &dyn Fn()) -> Result<T>,
    unchanged: impl Fn(&Scene<'_>) -> bool,
    undo: impl Fn(&Scene<'_>, T),
) -> usize {
    // What a stream takes for good.
    drop(setup.nic());
    let baseline = setup.memory.allocated();
    for n in 0..100 {
        let (device, dma) = setup.nic();
        let domain = device.domain().unwrap();
        let scene = Scene { setup, dma, domain };
        prepare(&scene);
        let before = setup.memory.allocated();
        let first = attempt(&scene, &|| setup.memory.fail_allocation(Some(n)));
        setup.memory.fail_allocation(None);
        let failed = match first {
            Ok(done) => {
                undo(&scene, done);
                false
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{setup:?}, {n}");
                assert!(unchanged(&scene), "{setup:?}: allocation {n} failed");
                // Tables that were made may stay, but no more than are needed.
                let left = setup.memory.allocated() - before;
                let again = attempt(&scene, &|| ()).unwrap();
                let all = setup.memory.allocated() - before;
                assert!(left <= all, "{left:#x} bytes are left, of {all:#x}");
                undo(&scene, again);
                true
            }
        };
        assert!(unchanged(&scene), "{setup:?}: undone");
        assert_eq!(scene.domain.leaked_bytes(), 0);
        // Tables may stay for as long as the domain.
        drop((scene, device));
        assert_eq!(setup.memory.allocated(), baseline, "{setup:?}, {n}");
        if !failed {
            setup.check();
            return n;
        }
    }
    panic!("{setup:?}: it asks for memory again and again");
}

/// An attempt that begins at once.
fn at_once<T>(
    attempt: impl Fn(&Scene<'_>) -> Result<T>,
) -> impl Fn(&Scene<'_>, &dyn Fn()) -> Result<T> {
    move |scene, begin| {
        begin();
        attempt(scene)
    }
}

#[test]
fn a_mapping_that_finds_no_memory_for_its_tables_leaves_nothing() {
    // Where, to where, how much; and how many tables of 4 levels that needs besides the root.
    let cases = [
        (M2, 0, K4, 3),
        (M2 - K4, 0, 3 * K4, 4),
        (M2, K4, M2, 3),
        (M2, M2, M2, 2),
        (M2 - K4, M2 - K4, M2 + 2 * K4, 4),
        (M2, K4, 3 * M2, 5),
        (G1 - K4, G1 - K4, 2 * K4, 5),
        (G1 - K4, G1 - K4, G1 + 2 * K4, 5),
        (512 * G1 - 2 * K4, 0, 4 * K4, 6),
    ];
    for (iova, phys, len, tables) in cases {
        for setup in every_setup() {
            let failures = sweep(
                &setup,
                |_| (),
                at_once(|scene| scene.map(iova, phys, len)),
                |scene| scene.is_empty(iova, len),
                |scene, ()| scene.unmap(iova, len),
            );
            assert_eq!(failures, tables, "{setup:?}: {len:#x} bytes at {iova:#x}");
        }
    }
}

fn every_setup() -> impl Iterator<Item = Setup> {
    Setup::both().into_iter().chain([Setup::vtd_first_stage()])
}

#[test]
fn taking_away_needs_no_memory() {
    for setup in every_setup() {
        let failures = sweep(
            &setup,
            |scene| scene.map(M2 - K4, K4, 2 * M2).unwrap(),
            at_once(|scene| scene.domain.unmap(Iova(M2 - K4), 2 * M2)),
            |scene| scene.is_empty(M2 - K4, 2 * M2),
            |_, ()| (),
        );
        assert_eq!(failures, 0, "{setup:?}");
    }
}

#[test]
fn a_block_stays_one_where_there_is_no_memory_to_split_it() {
    let blocks = [(M2, 4 * M2), (G1, 4 * G1)];
    for (number, (size, iova)) in (0..3).flat_map(|number| blocks.map(|block| (number, block))) {
        let setup = every_setup().nth(number).unwrap();
        let last = iova + size - K4;
        // SAFETY: nobody else uses the domain.
        let merge = |scene: &Scene<'_>| unsafe { scene.domain.merge(Iova(iova), size) };
        let leads_on = |scene: &Scene<'_>| {
            let there = |at: u64| scene.domain.translate(Iova(at)) == Some(PhysAddr(at));
            there(iova) && there(last)
        };
        let failures = sweep(
            &setup,
            |scene| scene.map(iova, iova, size).unwrap(),
            at_once(|scene| scene.domain.split(Iova(last))),
            |scene| {
                let refused = scene.domain.unmap(Iova(iova), K4).unwrap_err();
                refused.kind() == ErrorKind::InvalidArgument && leads_on(scene)
            },
            |scene, ()| merge(scene).unwrap(),
        );
        assert_eq!(failures, 1);
        let failures = sweep(
            &setup,
            |scene| {
                scene.map(iova, iova, size).unwrap();
                scene.domain.split(Iova(iova)).unwrap();
            },
            at_once(merge),
            leads_on,
            |_, ()| (),
        );
        assert_eq!(failures, 0, "merging needs no memory");
    }
}

/// Lends buffers that `make` makes, where there are addresses for the `bytes` of one alone. How many
/// allocations failed.
fn lend<B: DmaBuffer>(setup: &Setup, bytes: u64, make: impl Fn(&Setup) -> B) -> usize {
    sweep(
        setup,
        |scene| scene.narrow(bytes),
        |scene, begin| {
            let buffer = make(setup);
            begin();
            match scene.dma.map(buffer, FromDevice) {
                Ok(lent) => {
                    assert!(setup.write(lent.iova(), b"a packet"), "{setup:?}");
                    Ok(lent)
                }
                Err(failed) => {
                    assert!(failed.buffer.is_some(), "{setup:?}: no device reaches it");
                    Err(failed.error)
                }
            }
        },
        |scene| scene.is_empty(WINDOW, bytes),
        |_, lent| drop(lent.unmap().unwrap()),
    )
}

#[test]
fn buffers_that_cannot_be_lent_come_back_with_their_addresses() {
    let large = usize::try_from(M2).unwrap();
    for setup in every_setup() {
        let page = lend(&setup, K4, Setup::page);
        assert_eq!(page, 3, "{setup:?}: tables");
        let bounced = lend(&setup, K4, |setup| setup.block(64, 8));
        assert_eq!(bounced, 4, "{setup:?}: and what it is bounced to");
        let list = lend(&setup, 2 * M2, |setup| {
            let [first, last] = [large, large - PAGE].map(|size| setup.block(size, PAGE));
            vec![first, setup.page(), last]
        });
        assert_eq!(list, 4, "{setup:?}: a table more");
    }
}

#[test]
fn coherent_memory_that_cannot_be_had_leaves_nothing() {
    for setup in every_setup() {
        let failures = sweep(
            &setup,
            |scene| scene.narrow(2 * K4),
            at_once(|scene| scene.dma.allocate_coherent(PAGE + 1)),
            |scene| scene.is_empty(WINDOW, 2 * K4),
            |scene, ring| {
                assert!(scene.setup.write(ring.iova(), b"a descriptor"));
                ring.free().unwrap();
            },
        );
        assert_eq!(failures, 4, "{setup:?}: tables, and itself");
    }
}

#[test]
fn borrowed_bytes_that_cannot_be_lent_stay_as_they_are() {
    for setup in every_setup() {
        let failures = sweep(
            &setup,
            |scene| scene.narrow(K4),
            at_once(|scene| {
                let mut bytes = *b"mine";
                let done = scene.dma.with_bounced(&mut bytes, Bidirectional, |iova| {
                    assert!(scene.setup.write(iova, b"ours"));
                });
                let expected = if done.is_ok() { b"ours" } else { b"mine" };
                assert_eq!(&bytes, expected, "{:?}", scene.setup);
                done
            }),
            |scene| scene.is_empty(WINDOW, K4),
            |_, ()| (),
        );
        assert_eq!(failures, 4, "{setup:?}: tables, and what it is bounced to");
    }
}
