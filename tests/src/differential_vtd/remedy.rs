//! Descriptors that let a change be seen, and descriptors that look as if they did.

use super::descriptor::{Descriptor, LeafPlace, Need, Pages, Tag};

/// The most pages that a unit like QEMU's invalidates at once, as a power of two (`CAP.MAMV`).
const MOST_PAGES: u32 = 18;

/// A descriptor for a need.
pub(super) fn right(need: Need, variant: u8) -> Descriptor {
    match need {
        Need::Context { source, tag } => match variant % 4 {
            0 => Descriptor::ContextGlobal,
            1 => Descriptor::ContextDomain { did: tag.did },
            _ => Descriptor::ContextDevice {
                source,
                function_mask: variant >> 6,
                did: tag.did,
            },
        },
        Need::Absent { source } => match variant % 4 {
            0 => Descriptor::ContextGlobal,
            1 => Descriptor::ContextDomain { did: 0 },
            _ => Descriptor::ContextDevice {
                source,
                function_mask: variant >> 6,
                did: 0,
            },
        },
        Need::Path { source } => match variant % 2 {
            0 => Descriptor::ContextGlobal,
            _ => Descriptor::ContextDevice {
                source,
                function_mask: 0,
                did: 0,
            },
        },
        Need::AllPasids => Descriptor::PasidGlobal,
        Need::AllTranslations => Descriptor::IotlbGlobal,
        Need::Pasid { pasid, tag } => match variant % 4 {
            0 => Descriptor::PasidGlobal,
            1 => Descriptor::PasidDomain { did: tag.did },
            _ => Descriptor::PasidOne {
                did: tag.did,
                pasid,
            },
        },
        Need::Translations { tag } => translations(tag, variant),
        Need::Leaf { tag, leaf } => {
            let pages = pages(&leaf, variant >> 2);
            match (variant % 4, tag.first_level) {
                (0, _) => translations(tag, variant >> 2),
                (_, Some(pasid)) => Descriptor::PasidIotlbPages {
                    did: tag.did,
                    pasid,
                    pages,
                },
                _ => Descriptor::IotlbPages {
                    did: tag.did,
                    pages,
                },
            }
        }
    }
}

fn translations(tag: Tag, variant: u8) -> Descriptor {
    let did = tag.did;
    match (variant % 4, tag.first_level) {
        (0, _) => Descriptor::IotlbGlobal,
        (1..3, Some(pasid)) => Descriptor::PasidIotlb { did, pasid },
        _ => Descriptor::IotlbDomain { did },
    }
}

/// The pages of a leaf, or more.
fn pages(leaf: &LeafPlace, variant: u8) -> Pages {
    let least = leaf.size_bits - 12;
    let mask = (least + u32::from(variant & 7)).min(MOST_PAGES);
    Pages {
        address: leaf.input >> (12 + mask) << (12 + mask),
        mask,
        leaf: variant & 8 != 0,
    }
}

/// A need that is another one's.
pub(super) fn wrong(need: Need) -> Need {
    let other = |tag: Tag| Tag {
        did: tag.did ^ 0x100,
        ..tag
    };
    match need {
        Need::Context { source, tag } => Need::Context {
            source: source ^ 8,
            tag: other(tag),
        },
        Need::Absent { source } => Need::Absent { source: source ^ 8 },
        Need::Path { source } => Need::Path { source: source ^ 8 },
        Need::AllPasids => Need::AllTranslations,
        Need::AllTranslations => Need::AllPasids,
        Need::Pasid { pasid, tag } => Need::Pasid {
            pasid,
            tag: other(tag),
        },
        Need::Translations { tag } => Need::Translations { tag: other(tag) },
        Need::Leaf { tag, leaf } if tag.did & 1 == 0 => Need::Leaf {
            tag,
            leaf: LeafPlace {
                input: leaf.input ^ 1 << (leaf.size_bits + 9),
                ..leaf
            },
        },
        Need::Leaf { tag, leaf } => Need::Leaf {
            tag: other(tag),
            leaf,
        },
    }
}
