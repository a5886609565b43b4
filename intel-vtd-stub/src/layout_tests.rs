//! The way of every kind of entry to every other.

use std::format;
use std::string::String;

use iommu_core::entry::{Plan, Rules, Target};
use iommu_core::{Atomicity, PhysAddr};

use super::*;
use crate::spec::{ContextEntry, PasidEntry};

const TABLE: PhysAddr = PhysAddr(0x1_2345_6000);
const OTHER: PhysAddr = PhysAddr(0x7654_3000);
const WIDTH: AddressWidth = AddressWidth::BITS_48;

fn plan<F: Layout<N>, const N: usize>(live: &[u64; N], to: &[u64; N], by: Atomicity) -> String {
    let rules = Rules {
        atomicity: by,
        ..Rules::default()
    };
    let target: Target<F, N> = Target::new(*to).unwrap();
    format!("{}", Plan::new(live, &target, rules).unwrap())
}

#[test]
fn a_context_entry_is_never_rewritten_while_it_is_present() {
    let none = [0, 0];
    // As it was left when P was cleared.
    let left = [0, 0x0302];
    let through = ContextEntry::pass_through(WIDTH, 1).to_words();
    let paging = ContextEntry::translating(TABLE, WIDTH, 3).to_words();
    let other = ContextEntry::translating(OTHER, WIDTH, 4).to_words();
    let shallow = ContextEntry::translating(TABLE, AddressWidth::BITS_39, 3).to_words();
    let same_tag = ContextEntry::translating(OTHER, WIDTH, 3).to_words();
    let breaks = "refuse 0, swing 1, swing 0";
    let cases = [
        (none, none, "nothing"),
        (none, through, "fill 1, swing 0"),
        (none, paging, "fill 1, swing 0"),
        (left, none, "nothing"),
        (left, paging, "swing 0"),
        (left, other, "fill 1, swing 0"),
        (through, none, "swing 0"),
        (through, through, "nothing"),
        (through, paging, breaks),
        (paging, none, "swing 0"),
        (paging, through, breaks),
        (paging, other, breaks),
        (paging, shallow, breaks),
        (paging, same_tag, "refuse 0, swing 0"),
    ];
    for (live, to, expected) in cases {
        let found = plan::<Context, 2>(&live, &to, Atomicity::Word);
        assert_eq!(found, expected, "{live:x?} to {to:x?}");
    }
}

#[test]
fn a_pasid_entry_is_never_rewritten_while_it_is_present() {
    let none = [0; 8];
    let through = PasidEntry::pass_through(WIDTH, 1).to_words();
    let second = PasidEntry::second_stage(TABLE, WIDTH, 3).to_words();
    let second2 = PasidEntry::second_stage(OTHER, WIDTH, 4).to_words();
    let first = PasidEntry::first_stage(TABLE, 5).to_words();
    let first2 = PasidEntry::first_stage(OTHER, 6).to_words();
    let kinds = [none, through, second, second2, first, first2];
    for (from, live) in kinds.iter().enumerate() {
        for (to, target) in kinds.iter().enumerate() {
            let expected = match (from, to) {
                (from, to) if from == to => "nothing",
                (0, 4 | 5) => "fill 1 2, swing 0",
                (0, _) => "fill 1, swing 0",
                (_, 0) => "swing 0",
                (_, 4 | 5) => "refuse 0, swing 1 2, swing 0",
                _ => "refuse 0, swing 1, swing 0",
            };
            let found = plan::<Pasid, 8>(live, target, Atomicity::Word);
            assert_eq!(found, expected, "{from} to {to}");
            let breaks = found.starts_with("refuse");
            let by_pairs = plan::<Pasid, 8>(live, target, Atomicity::Pair);
            assert_eq!(by_pairs.starts_with("refuse"), breaks, "{from} to {to}");
        }
    }
}

#[test]
fn not_even_one_word_of_a_present_pasid_entry_is_rewritten() {
    let live = PasidEntry::second_stage(TABLE, WIDTH, 3).to_words();
    let table = PasidEntry::second_stage(OTHER, WIDTH, 3).to_words();
    let tag = PasidEntry::second_stage(TABLE, WIDTH, 4).to_words();
    let found = |to| plan::<Pasid, 8>(&live, to, Atomicity::Word);
    assert_eq!(found(&table), "refuse 0, swing 0");
    assert_eq!(found(&tag), "refuse 0, swing 1, swing 0");
}

#[test]
fn a_scalable_mode_context_entry_appears_at_once() {
    let target = spec::scalable_context(TABLE, true);
    let found = plan::<ScalableContext, 4>(&[0; 4], &target, Atomicity::Word);
    assert_eq!(found, "swing 0");
    let other = spec::scalable_context(OTHER, true);
    let found = plan::<ScalableContext, 4>(&target, &other, Atomicity::Word);
    assert_eq!(found, "refuse 0, swing 0");
}

#[test]
fn an_entry_with_unknown_bits_is_left_alone() {
    let through = ContextEntry::pass_through(WIDTH, 1).to_words();
    let target: Target<Context, 2> = Target::new(through).unwrap();
    for live in [[through[0] | 0x10, through[1]], [through[0], 1 << 40]] {
        target.check(&live).unwrap_err();
    }
    let pass = PasidEntry::pass_through(WIDTH, 1).to_words();
    let target: Target<Pasid, 8> = Target::new(pass).unwrap();
    let mut live = pass;
    live[4] = 1;
    target.check(&live).unwrap_err();
    // Unless it is not present: then they mean nothing.
    live[0] = 0;
    target.check(&live).unwrap();
}

#[test]
fn tags_are_those_of_what_may_be_cached() {
    assert_eq!(Context::tag(&[0, 0x0302]), None);
    let did = |did, by_domain| Some(Tag { did, by_domain });
    let paging = ContextEntry::translating(TABLE, WIDTH, 0xabcd);
    assert_eq!(Context::tag(&paging.to_words()), did(0xabcd, true));
    let through = PasidEntry::pass_through(WIDTH, 1);
    assert_eq!(Pasid::tag(&through.to_words()), did(1, false));
    let first = PasidEntry::first_stage(TABLE, 9);
    assert_eq!(Pasid::tag(&first.to_words()), did(9, false));
    let second = PasidEntry::second_stage(TABLE, WIDTH, 9);
    assert_eq!(Pasid::tag(&second.to_words()), did(9, true));
}
