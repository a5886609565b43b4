//! What has to be found, on any machine.

use iommu_core::{Atomicity, has_pairs};

use super::kinds::World;
use super::plans::{Bench, How};
use super::{Devices, Reader, plans, tour};

/// Starts a machine, as after reset, with this many devices.
type Start<'a, M> = &'a dyn Fn(usize) -> M;

/// The atomicities that this CPU can store by.
#[must_use]
pub fn atomicities() -> &'static [Atomicity] {
    match has_pairs() {
        true => &[Atomicity::Word, Atomicity::Pair],
        false => &[Atomicity::Word],
    }
}

/// The machine has nothing to complain of, and all its memory is free.
#[track_caller]
fn check_books<M: Devices>(machine: &M) {
    assert_eq!(machine.violations(), [""; 0], "misuse of the hardware");
    let memory = machine.memory();
    assert_eq!(memory.violations(), [""; 0], "misuse of memory");
    assert_eq!(memory.allocated(), 0, "bytes that were never given back");
}

/// The driver's hitless moves are hitless after every store and every command.
pub fn the_driver_steps<M: Devices>(start: Start<'_, M>, atomicity: Atomicity) {
    let machine = start(2);
    let found = tour::stepping(&machine, atomicity);
    println!("{atomicity:?}: {found:?}");
    assert_eq!(found.faults, [""; 0], "{atomicity:?}");
    // Of six places, all moves between two; but for two of them at 64 bits.
    let moves = match atomicity {
        Atomicity::Word => 28,
        Atomicity::Pair => 30,
    };
    assert_eq!(found.moves, moves, "{atomicity:?}");
    // Two entries each, invalidated one by one, and a CMD_SYNC.
    assert!(found.stores >= 2 * moves && found.commands >= 3 * moves);
    assert!(found.under_way >= 4 * (found.stores + found.commands));
    check_books(&machine);
}

/// They are while the devices do DMA all the time.
pub fn the_driver_races<M: Devices>(start: Start<'_, M>, times: usize) {
    let machine = start(2);
    let found = tour::racing(&machine, times);
    println!("{found:?}");
    assert_eq!(found.faults, [""; 0]);
    assert_eq!(found.moves, 28 * times);
    // The driver pauses after each store until a read has ended.
    assert!(found.stores >= 2 * found.moves && found.under_way >= found.stores);
    check_books(&machine);
}

/// Entries and descriptors made by hand: plans that are called hitless are. `how` is a right way to
/// change them.
pub fn plans_are_hitless<M: Devices>(start: Start<'_, M>, atomicity: Atomicity, how: How) {
    let machine = start(1);
    let found = with_bench(
        &machine,
        atomicity,
        how,
        machine.readers(),
        |bench, world| {
            let kinds = world.entries();
            bench.entries(&kinds, atomicity);
            let kinds = world.descriptors();
            bench.descriptors(world, &kinds, atomicity);
        },
    );
    println!("{atomicity:?}, {how:?}: {found:?}");
    assert_eq!(found.faults, [""; 0], "{atomicity:?}, {how:?}");
    // Of 110 pairs of entries and 12 of descriptors.
    let breaking = match atomicity {
        Atomicity::Word => 30 + 2,
        Atomicity::Pair => 28,
    };
    assert_eq!((found.pairs, found.breaking), (122 - breaking, breaking));
    check_books(&machine);
}

/// Runs `work` on an SMMU without a driver, and returns what it found.
pub fn with_bench<M: Devices>(
    machine: &M,
    atomicity: Atomicity,
    how: How,
    readers: Vec<Reader>,
    work: impl FnOnce(&mut Bench<M::Bank>, &mut World),
) -> plans::Findings {
    let memory = machine.memory();
    memory.set_pairs(atomicity == Atomicity::Pair);
    let stream = machine.masters()[0].stream();
    let mut world = World::new(&memory);
    let mut bench = Bench::new(machine.platform().bank, &world, stream, readers, how);
    work(&mut bench, &mut world);
    bench.finish()
}

/// What is wrong is noticed: a move with a break, invalidations that the driver makes and that do
/// not arrive, a plan without any, and a swing before its fill.
pub fn wrongs_are_noticed<M: Devices>(start: Start<'_, M>) {
    let found = tour::breaking(&start(2));
    let refused =
        |fault: &String| fault.starts_with("stage 2 to stage 2'") && fault.contains("0x0");
    assert!(found.faults.iter().any(refused), "{found:?}");

    let found = tour::without_invalidation(&start(2));
    assert!(!found.faults.is_empty(), "{found:?}");

    for (how, from, to) in [
        (How::Silently, "bypass", "s1"),
        (How::Backwards, "s2'", "s2"),
    ] {
        let machine = start(1);
        let readers = machine.readers();
        let found = with_bench(&machine, Atomicity::Word, how, readers, |bench, world| {
            let kinds = world.entries();
            let of = |name| kinds.iter().find(|kind| kind.name == name).unwrap();
            let (mut from, to) = (of(from).clone(), of(to));
            if how == How::Backwards {
                // An entry that passes, and has in the words that it ignores what it had when it
                // was another one.
                let bypass = of("bypass");
                from.words[0] = bypass.words[0];
                from.sights.clone_from(&bypass.sights);
            }
            bench.entry(&from, to, Atomicity::Word);
        });
        assert_eq!(found.pairs, 1);
        assert!(!found.faults.is_empty(), "{how:?}: {found:?}");
    }
}
