//! Which bits of context entries (9.3, 9.4) and PASID table entries (9.6) the hardware uses: what the
//! writer of live entries goes by.
//!
//! Every mask is made of the fields in [`spec`]. A bit that the driver does not define
//! counts as used wherever an entry is present: what it would mean is not known.
//!
//! A present entry never becomes another present entry, though one store of 16 bytes could make it
//! one (6.2.2.1, 6.2.3.1): P is cleared first, by one store that changes no other word, and what was
//! cached is invalidated. So hardware that is halfway through reading an entry finds it as it was,
//! or not present.

use iommu_core::entry::{Layout, Mixing};

use crate::spec::{
    self, AddressWidth, ContextHigh, ContextLow, PasidWord0, PasidWord1, PasidWord2,
};
use crate::spec::{Pgtt, ScalableContextLow, TranslationType};

const PRESENT: u64 = 1;

/// What hardware looks at in an entry that is not present.
const HEAD: u64 = ContextLow::new().with_p(true).with_fpd(true).into_bits();

const fn is_present(word0: u64) -> bool {
    word0 & PRESENT != 0
}

const fn apart(live: u64, target: u64) -> Mixing {
    if is_present(live) && is_present(target) {
        Mixing::Harmful
    } else {
        Mixing::Harmless
    }
}

/// What the translations that an entry leads to are tagged with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tag {
    pub(crate) did: u16,
    /// Whether they are to be invalidated like those of the second stage: by domain.
    pub(crate) by_domain: bool,
}

/// An entry that leads to translations.
pub(crate) trait Leading<const N: usize>: Layout<N> {
    /// The tag of what may be cached by way of `entry`; `None` where it is not present.
    fn tag(entry: &[u64; N]) -> Option<Tag>;
}

/// A legacy-mode context entry.
pub(crate) struct Context;

const CONTEXT_TABLE: u64 = ContextLow::new().with_asr(u64::MAX >> 12).into_bits();

impl Layout<{ spec::CONTEXT_ENTRY_WORDS }> for Context {
    const NAME: &'static str = "a context entry";

    const DEFINED: [u64; 2] = [
        HEAD | CONTEXT_TABLE
            | ContextLow::new()
                .with_tt(TranslationType::from_bits(3))
                .into_bits(),
        ContextHigh::new()
            .with_aw(AddressWidth::from_bits(7))
            .with_did(0xffff)
            .into_bits(),
    ];

    fn used(entry: &[u64; 2]) -> &'static [u64; 2] {
        let low = ContextLow::from_bits(entry[0]);
        match low.tt() {
            _ if !low.p() => &[HEAD, 0],
            TranslationType::PASS_THROUGH => &[!CONTEXT_TABLE, u64::MAX],
            _ => &[u64::MAX; 2],
        }
    }

    fn refuses(entry: &[u64; 2]) -> bool {
        !is_present(entry[0])
    }

    fn refusing(_target: &[u64; 2]) -> u64 {
        0
    }

    const ENTANGLED: [u64; 2] = Self::DEFINED;

    fn mixing(live: &[u64; 2], target: &[u64; 2]) -> Mixing {
        apart(live[0], target[0])
    }
}

impl Leading<{ spec::CONTEXT_ENTRY_WORDS }> for Context {
    fn tag(entry: &[u64; 2]) -> Option<Tag> {
        let did = ContextHigh::from_bits(entry[1]).did();
        is_present(entry[0]).then_some(Tag {
            did,
            by_domain: true,
        })
    }
}

/// A scalable-mode context entry.
pub(crate) struct ScalableContext;

impl Layout<{ spec::CONTEXT_WORDS }> for ScalableContext {
    const NAME: &'static str = "a scalable-mode context entry";

    const DEFINED: [u64; 4] = [
        ScalableContextLow::new()
            .with_p(true)
            .with_fpd(true)
            .with_paside(true)
            .with_pdts(7)
            .with_pasiddirptr(u64::MAX >> 12)
            .into_bits(),
        0,
        0,
        0,
    ];

    fn used(entry: &[u64; 4]) -> &'static [u64; 4] {
        if is_present(entry[0]) {
            &[u64::MAX; 4]
        } else {
            &[HEAD, 0, 0, 0]
        }
    }

    fn refuses(entry: &[u64; 4]) -> bool {
        !is_present(entry[0])
    }

    fn refusing(_target: &[u64; 4]) -> u64 {
        0
    }

    const ENTANGLED: [u64; 4] = Self::DEFINED;

    fn mixing(live: &[u64; 4], target: &[u64; 4]) -> Mixing {
        apart(live[0], target[0])
    }
}

/// A PASID table entry.
pub(crate) struct Pasid;

const SECOND_STAGE: u64 = PasidWord0::new().with_ssptptr(u64::MAX >> 12).into_bits();

const FIRST_STAGE: u64 = PasidWord2::new()
    .with_fspm(3)
    .with_fsptptr(u64::MAX >> 12)
    .into_bits();

const ALL: u64 = u64::MAX;

impl Layout<{ spec::PASID_WORDS }> for Pasid {
    const NAME: &'static str = "a PASID table entry";

    const DEFINED: [u64; 8] = [
        HEAD | SECOND_STAGE
            | PasidWord0::new()
                .with_aw(AddressWidth::from_bits(7))
                .with_pgtt(Pgtt::from_bits(7))
                .into_bits(),
        PasidWord1::new()
            .with_did(0xffff)
            .with_pwsnp(true)
            .into_bits(),
        FIRST_STAGE,
        0,
        0,
        0,
        0,
        0,
    ];

    fn used(entry: &[u64; 8]) -> &'static [u64; 8] {
        let word0 = PasidWord0::from_bits(entry[0]);
        match word0.pgtt() {
            _ if !word0.p() => &[HEAD, 0, 0, 0, 0, 0, 0, 0],
            Pgtt::FIRST_STAGE => &[!SECOND_STAGE, ALL, ALL, ALL, ALL, ALL, ALL, ALL],
            Pgtt::SECOND_STAGE => &[ALL, ALL, !FIRST_STAGE, ALL, ALL, ALL, ALL, ALL],
            Pgtt::PASS_THROUGH => &[!SECOND_STAGE, ALL, !FIRST_STAGE, ALL, ALL, ALL, ALL, ALL],
            _ => &[ALL; 8],
        }
    }

    fn refuses(entry: &[u64; 8]) -> bool {
        !is_present(entry[0])
    }

    fn refusing(_target: &[u64; 8]) -> u64 {
        0
    }

    const ENTANGLED: [u64; 8] = Self::DEFINED;

    fn mixing(live: &[u64; 8], target: &[u64; 8]) -> Mixing {
        apart(live[0], target[0])
    }
}

impl Leading<{ spec::PASID_WORDS }> for Pasid {
    fn tag(entry: &[u64; 8]) -> Option<Tag> {
        let word0 = PasidWord0::from_bits(entry[0]);
        word0.p().then_some(Tag {
            did: PasidWord1::from_bits(entry[1]).did(),
            by_domain: matches!(word0.pgtt(), Pgtt::SECOND_STAGE | Pgtt::NESTED),
        })
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
