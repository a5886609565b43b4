//! Invalidation descriptors, and what each invalidates for sure.

use super::encode::{BUSY, reg};
use super::layout;

/// Pages that an invalidation names: `1 << mask` of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pages {
    pub(super) address: u64,
    pub(super) mask: u32,
    /// `IH`: what leads to the pages did not change.
    pub(super) leaf: bool,
}

impl Pages {
    /// Whether every address of a leaf is named: its parts may be cached one by one.
    fn covers(self, leaf: &LeafPlace) -> bool {
        let size_bits = 12 + self.mask;
        leaf.size_bits <= size_bits && self.address >> size_bits == leaf.input >> size_bits
    }

    fn word(self) -> u64 {
        self.address & !0xfff | u64::from(self.leaf) << 6 | u64::from(self.mask)
    }
}

/// Which leaf was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LeafPlace {
    /// Its first input address.
    pub(super) input: u64,
    /// The number of addresses as a power of two.
    pub(super) size_bits: u32,
}

/// What translations are tagged with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag {
    pub(super) did: u16,
    /// The PASID, of first-level translations.
    pub(super) first_level: Option<u16>,
}

/// What must be invalidated before a change of memory is sure to be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    /// A legacy context entry with this domain id; then the translations of that.
    Context {
        source: u16,
        tag: Tag,
    },
    /// A legacy context entry that was not present: caching mode caches it under domain 0.
    Absent {
        source: u16,
    },
    /// A scalable-mode context entry; then all PASID entries, then all translations.
    Path {
        source: u16,
    },
    AllPasids,
    AllTranslations,
    /// A PASID entry; then its translations.
    Pasid {
        pasid: u16,
        tag: Tag,
    },
    /// All translations of a tag.
    Translations {
        tag: Tag,
    },
    /// Those of a leaf.
    Leaf {
        tag: Tag,
        leaf: LeafPlace,
    },
}

/// A descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Descriptor {
    ContextGlobal,
    ContextDomain {
        did: u16,
    },
    /// `function_mask` leaves out that many of the lowest bits of the function.
    ContextDevice {
        source: u16,
        function_mask: u8,
        did: u16,
    },
    IotlbGlobal,
    IotlbDomain {
        did: u16,
    },
    IotlbPages {
        did: u16,
        pages: Pages,
    },
    PasidGlobal,
    PasidDomain {
        did: u16,
    },
    PasidOne {
        did: u16,
        pasid: u16,
    },
    PasidIotlb {
        did: u16,
        pasid: u16,
    },
    PasidIotlbPages {
        did: u16,
        pasid: u16,
        pages: Pages,
    },
    /// Writes this number to where a wait looks.
    Wait(u32),
}

/// Type, granularity and domain id of a descriptor.
fn head(kind: u64, granularity: u64, did: u16) -> u64 {
    kind | granularity << 4 | u64::from(did) << 16
}

impl Descriptor {
    pub(super) fn encode(&self) -> [u64; 4] {
        let (low, high) = match *self {
            Self::ContextGlobal => (head(1, 1, 0), 0),
            Self::ContextDomain { did } => (head(1, 2, did), 0),
            Self::ContextDevice {
                source,
                function_mask,
                did,
            } => {
                let device = u64::from(source) << 32 | u64::from(function_mask) << 48;
                (head(1, 3, did) | device, 0)
            }
            Self::IotlbGlobal => (head(2, 1, 0), 0),
            Self::IotlbDomain { did } => (head(2, 2, did), 0),
            Self::IotlbPages { did, pages } => (head(2, 3, did), pages.word()),
            Self::PasidGlobal => (head(7, 3, 0), 0),
            Self::PasidDomain { did } => (head(7, 0, did), 0),
            Self::PasidOne { did, pasid } => (head(7, 1, did) | u64::from(pasid) << 32, 0),
            Self::PasidIotlb { did, pasid } => (head(6, 2, did) | u64::from(pasid) << 32, 0),
            Self::PasidIotlbPages { did, pasid, pages } => {
                (head(6, 3, did) | u64::from(pasid) << 32, pages.word())
            }
            Self::Wait(number) => (5 | 1 << 5 | u64::from(number) << 32, layout::STATUS),
        };
        [low, high, 0, 0]
    }

    /// The same of legacy mode by registers: what is written where, the last with a bit that shows
    /// when it is done.
    pub(super) fn registers(&self) -> Vec<(usize, u64)> {
        let context = |granularity: u64, rest: u64| (reg::CCMD, BUSY | granularity << 61 | rest);
        let iotlb = |granularity: u64, did: u16| {
            let command = BUSY | granularity << 60 | u64::from(did) << 32;
            (reg::IOTLB, command)
        };
        match *self {
            Self::ContextGlobal => vec![context(1, 0)],
            Self::ContextDomain { did } => vec![context(2, u64::from(did))],
            Self::ContextDevice {
                source,
                function_mask,
                did,
            } => {
                let device = u64::from(source) << 16 | u64::from(function_mask) << 32;
                vec![context(3, device | u64::from(did))]
            }
            Self::IotlbGlobal => vec![iotlb(1, 0)],
            Self::IotlbDomain { did } => vec![iotlb(2, did)],
            Self::IotlbPages { did, pages } => vec![(reg::IVA, pages.word()), iotlb(3, did)],
            _ => Vec::new(),
        }
    }

    /// What is left of a need after this descriptor; the same need where it does not help.
    pub(super) fn serve(&self, need: Need) -> Option<Need> {
        match need {
            Need::Context { source, tag } => match *self {
                Self::ContextGlobal => true,
                Self::ContextDomain { did } => did == tag.did,
                Self::ContextDevice { did, .. } => did == tag.did && self.names(source),
                _ => false,
            }
            .then_some(Some(Need::Translations { tag })),
            Need::Absent { source } => match *self {
                Self::ContextGlobal | Self::ContextDomain { did: 0 } => true,
                Self::ContextDevice { did: 0, .. } => self.names(source),
                _ => false,
            }
            .then_some(None),
            Need::Path { source } => {
                let served = *self == Self::ContextGlobal || self.names(source);
                served.then_some(Some(Need::AllPasids))
            }
            Need::AllPasids => (*self == Self::PasidGlobal).then_some(Some(Need::AllTranslations)),
            Need::AllTranslations => (*self == Self::IotlbGlobal).then_some(None),
            Need::Pasid { pasid, tag } => match *self {
                Self::PasidGlobal => true,
                Self::PasidDomain { did } => did == tag.did,
                Self::PasidOne { did, pasid: of } => did == tag.did && of == pasid,
                _ => false,
            }
            .then_some(Some(Need::Translations { tag })),
            Need::Translations { tag } => self.drops_all(tag).then_some(None),
            Need::Leaf { tag, leaf } => {
                let pages = match *self {
                    Self::IotlbPages { did, pages } => {
                        did == tag.did && tag.first_level.is_none() && pages.covers(&leaf)
                    }
                    Self::PasidIotlbPages { did, pasid, pages } => {
                        did == tag.did && tag.first_level == Some(pasid) && pages.covers(&leaf)
                    }
                    _ => false,
                };
                (pages || self.drops_all(tag)).then_some(None)
            }
        }
        .unwrap_or(Some(need))
    }

    fn names(&self, source: u16) -> bool {
        match *self {
            Self::ContextDevice {
                source: of,
                function_mask,
                ..
            } => {
                let ignored = [0, 0b100, 0b110, 0b111][usize::from(function_mask & 3)];
                (of ^ source) & !ignored == 0
            }
            _ => false,
        }
    }

    /// Whether all translations of a tag are gone for sure.
    fn drops_all(&self, tag: Tag) -> bool {
        match *self {
            Self::IotlbGlobal => true,
            Self::IotlbDomain { did } => did == tag.did,
            Self::PasidIotlb { did, pasid } => did == tag.did && tag.first_level == Some(pasid),
            _ => false,
        }
    }
}
