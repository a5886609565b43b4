//! Context descriptors changed in place.

use arm_smmu_v3::spec::cd::Cd;
use iommu_core::entry::{Plan, Rules, Store, Target};
use iommu_core::{Atomicity, PhysAddr};
use mock_hw::smmuv3::{EntryChecker, Image};

use crate::kinds::{Kind, Stage1, Words, descriptor_of, table};
use crate::rig::{STREAM, SYNC, hardware};

const CFGI_CD: [u64; 2] = [0x0005_0000_0005, 1];
const TLBI_NSNH_ALL: [u64; 2] = [0x30, 0];

/// The descriptor of substream 0, changed while its stream uses it.
fn change(from: Words, to: Words, atomicity: Atomicity) -> (Plan, Vec<String>) {
    let kind = Kind::stage1(Stage1 {
        dss: 2,
        forbids_stalls: true,
        table: 0,
    });
    let stream = |descriptor| Image::new(kind.words()).context(0, descriptor);
    let mut checker = EntryChecker::new(hardware(), atomicity);
    let at = table(0);
    checker.set_memory(PhysAddr(at), &from);
    checker.watch(STREAM, PhysAddr(0x4001_0140), kind.words());
    let target: Target<Cd, 8> = Target::new(to).expect("a target");
    let rules = Rules {
        atomicity,
        ..Rules::default()
    };
    let plan = Plan::new(&from, &target, rules).expect("a plan");
    let mut images = vec![stream(from), stream(to)];
    if plan.breaks() {
        // Silent: no walks (EPD0, EPD1), aborts (A), no event (R, S); ASID 0.
        let mut silent = to;
        silent[0] = silent[0] & !(0b11 << 44 | 0xffff << 48) | 1 << 14 | 1 << 30 | 1 << 46;
        images.push(stream(silent));
    }
    checker.expect(STREAM, &images);
    let mut live = from;
    for round in plan.rounds() {
        round.apply(&mut live, &target, |store| match store {
            Store::Word { word, value } => checker.store(PhysAddr(at + 8 * word as u64), &[value]),
            Store::Pair { pair, values } => checker.store(PhysAddr(at + 16 * pair as u64), &values),
        });
        checker.command(CFGI_CD);
        checker.command(SYNC);
    }
    checker.expect(STREAM, &[stream(to)]);
    checker.command(TLBI_NSNH_ALL);
    checker.command(SYNC);
    (plan, checker.failures().to_vec())
}

#[test]
fn descriptors_change_in_place_as_entries_do() {
    let invalid = [0; 8];
    let one = descriptor_of(1, 1, false);
    let cases = [
        (
            "set",
            invalid,
            one,
            ["fill 1 3, swing 0", "fill 2 3, swing 0 1"],
        ),
        ("cleared", one, invalid, ["swing 0", "swing 0 1"]),
        (
            "another ASID",
            one,
            descriptor_of(2, 1, false),
            ["swing 0", "swing 0 1"],
        ),
        (
            "another process",
            one,
            descriptor_of(2, 2, false),
            ["refuse 0, swing 1, swing 0", "swing 0 1"],
        ),
        ("the same", one, one, ["nothing", "nothing"]),
    ];
    for (name, from, to, expected) in cases {
        for (atomicity, expected) in [Atomicity::Word, Atomicity::Pair].into_iter().zip(expected) {
            let (plan, failures) = change(from, to, atomicity);
            assert_eq!(plan.to_string(), expected, "{name}, {atomicity:?}");
            assert_eq!(failures, [""; 0], "{name}, {atomicity:?}");
        }
    }
}
