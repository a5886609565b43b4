//! Commands that let a change be seen, and commands that look as if they did.

use super::case::Environment;
use super::command::{Aim, ByAddress, Command, LeafPlace, Need, RangeFields};

/// Commands for a need, waited for group by group.
pub(super) fn right(environment: Environment, need: Need, variant: u8) -> Vec<Vec<Command>> {
    let coin = variant & 0x80 != 0;
    let commands = match need {
        Need::Ste { sid } => match variant % 4 {
            0 | 1 => vec![Command::CfgiSte { sid, leaf: coin }],
            2 => vec![Command::CfgiSteRange { sid, range: 4 }],
            _ => vec![Command::PrefetchConfig { sid }, Command::CFGI_ALL],
        },
        Need::Cd { sid } => match variant % 4 {
            0 | 1 => vec![Command::CfgiCd { sid, leaf: coin }],
            2 => vec![Command::CfgiCdAll { sid }],
            _ => vec![Command::CfgiSte { sid, leaf: true }],
        },
        Need::Stage1 {
            vmid,
            asid,
            by_address,
            leaf,
            ..
        } => {
            let variant = match by_address {
                ByAddress::Any => variant,
                ByAddress::Whole => variant | 0x10,
                ByAddress::None => variant | 4,
            };
            let aim = aim(&leaf, variant);
            match variant % 8 {
                0..3 => vec![Command::TlbiNhVa { vmid, asid, aim }],
                3 => vec![Command::TlbiNhVaa { vmid, aim }],
                4 => vec![Command::TlbiNhAsid { vmid, asid }],
                5 => vec![Command::TlbiNhAll { vmid }],
                6 if environment.has_stage2() => vec![Command::TlbiS12VmAll { vmid }],
                _ => vec![Command::TlbiNsnhAll],
            }
        }
        Need::Stage2 { vmid, leaf, nested } => match variant % 8 {
            0..5 => {
                let aim = aim(&leaf, variant);
                let first = vec![Command::TlbiS2Ipa { vmid, aim }];
                return if nested {
                    vec![first, vec![Command::TlbiNhAll { vmid }]]
                } else {
                    vec![first]
                };
            }
            5 | 6 => vec![Command::TlbiS12VmAll { vmid }],
            _ => vec![Command::TlbiNsnhAll],
        },
        Need::Combined { vmid } => vec![Command::TlbiNhAll { vmid }],
    };
    vec![commands]
}

/// How an invalidation by address names a leaf.
fn aim(leaf: &LeafPlace, variant: u8) -> Aim {
    let leaf_only = variant & 0x40 != 0;
    // Granules of the leaf, and the leaf's own size as NUM and SCALE.
    let exact = RangeFields {
        granule: leaf.granule,
        num: 0,
        scale: leaf.size_bits - leaf.granule,
        level_hint: leaf.level,
    };
    let range = match variant >> 3 & 3 {
        0 | 1 => None,
        2 => Some(exact),
        _ => Some(RangeFields {
            num: 1,
            scale: exact.scale,
            level_hint: 0,
            ..exact
        }),
    };
    Aim {
        address: leaf.input,
        range,
        leaf: leaf_only,
    }
}

/// The same need of somebody else.
pub(super) fn wrong(need: Need) -> Need {
    match need {
        Need::Ste { sid } => Need::Ste { sid: sid ^ 0x20 },
        Need::Cd { sid } => Need::Cd { sid: sid ^ 0x20 },
        Need::Stage1 {
            vmid,
            asid,
            global,
            by_address,
            leaf,
        } => Need::Stage1 {
            vmid,
            asid: asid ^ 0x8000,
            global,
            by_address,
            leaf: LeafPlace {
                input: leaf.input ^ 1 << leaf.size_bits.max(21),
                ..leaf
            },
        },
        Need::Stage2 { vmid, leaf, nested } => Need::Stage2 {
            vmid: vmid ^ 0x8000,
            leaf,
            nested,
        },
        Need::Combined { vmid } => Need::Combined {
            vmid: vmid ^ 0x8000,
        },
    }
}
