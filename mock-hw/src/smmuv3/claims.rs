//! Who uses which tag of the TLB (3.17, 3.17.6, 5.2.1, 5.4.1).
//!
//! Hardware takes all translations under one tag for those of one set of tables. Software that uses
//! a tag for another set first invalidates what was translated under it.

use std::collections::HashMap;

use super::State;
use super::bits::{bit, mask};
use super::config::{Stage1, Stage2};
use super::tlb::{Space, Tlbi};

/// A tag, as far as tables belong to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Tag {
    /// Stage 2 tables.
    Vmid(u16),
    /// Stage 1 tables; no ASID where the regime has none.
    Asid {
        hypervisor: bool,
        vmid: u16,
        asid: Option<u16>,
    },
    /// Whether stage 1 goes on to stage 2.
    Nesting(u16),
}

/// What the users of one tag have in common: the fields that a TLB entry may have cached.
pub(super) type Signature = [u64; 5];

#[derive(Default)]
pub(super) struct Claims {
    by_tag: HashMap<Tag, Signature>,
}

impl Claims {
    /// Whether everybody who claimed the tag until it was invalidated meant the same.
    fn claim(&mut self, tag: Tag, signature: Signature) -> bool {
        let before = self.by_tag.insert(tag, signature);
        before.is_none_or(|before| before == signature)
    }

    /// Lets go of the tags of which an invalidation leaves no translation.
    pub(super) fn release(&mut self, what: &Tlbi) {
        if what.range.is_some() {
            return;
        }
        let space = |space| what.space.is_none_or(|of| of == space);
        let vmid_matches = |vmid| what.vmid.is_none_or(|of| of == vmid);
        self.by_tag.retain(|tag, _| {
            let gone = match *tag {
                Tag::Vmid(vmid) => {
                    space(Space::Intermediate) && !what.hypervisor && vmid_matches(vmid)
                }
                Tag::Nesting(vmid) => {
                    space(Space::Virtual)
                        && !what.hypervisor
                        && what.asid.is_none()
                        && vmid_matches(vmid)
                }
                Tag::Asid {
                    hypervisor,
                    vmid,
                    asid,
                } => {
                    space(Space::Virtual)
                        && what.hypervisor == hypervisor
                        && vmid_matches(vmid)
                        && what
                            .asid
                            .is_none_or(|of| asid.is_none_or(|asid| of == asid))
                }
            };
            !gone
        });
    }
}

/// The fields of a stream table entry that stage 2 translations depend on. S2PTW is not among them:
/// it is IGNORED without stage 1.
pub(super) fn stage2_signature(ste: &[u64; 8]) -> Signature {
    let tables = mask(57) & !mask(32) & !(1 << 54) | 0b111 << 59;
    [ste[1] & 1 << 25, ste[2] & tables, ste[3], ste[7], 0]
}

/// The fields of a context descriptor that stage 1 translations depend on.
pub(super) fn stage1_signature(stage1: &Stage1, cd: &[u64; 8]) -> Signature {
    // Sizes and attributes of the two halves, and what holds for both.
    let (low, high) = (mask(14), mask(30) & !mask(16));
    let both = mask(44) & !mask(32) | 1 << 15;
    let low_used = stage1.hypervisor || !bit(cd, 14);
    let high_used = !stage1.hypervisor && !bit(cd, 30);
    let when = |used: bool, word: u64| if used { word } else { 0 };
    let switches = when(!stage1.hypervisor, cd[0] & (1 << 14 | 1 << 30));
    [
        cd[0] & (both | when(low_used, low) | when(high_used, high)) | switches,
        when(low_used, cd[1]),
        when(high_used, cd[2]),
        cd[3],
        cd[4],
    ]
}

impl State {
    /// A stream uses its stage 2 for a translation.
    pub(super) fn claim_stage2(&mut self, stage2: &Stage2, signature: Signature) {
        if !self.claims.claim(Tag::Vmid(stage2.vmid), signature) {
            let root = stage2.tables.root;
            self.violation_once(format!(
                "VMID {:#x} is used with another stage 2 (tables at {root}) before what was \
                 translated by the last one was invalidated",
                stage2.vmid
            ));
        }
    }

    /// A stream uses its stage 1 for a translation.
    pub(super) fn claim_stage1(&mut self, stage1: &Stage1, asid: u16, nested: bool, of: Signature) {
        let (hypervisor, vmid) = (stage1.hypervisor, stage1.vmid);
        let asid = (!hypervisor).then_some(asid);
        let tag = Tag::Asid {
            hypervisor,
            vmid,
            asid,
        };
        if !self.claims.claim(tag, of) {
            self.violation_once(format!(
                "ASID {asid:x?} of VMID {vmid:#x} is used with another stage 1 (tables at {:#x} and \
                 {:#x}) before what was translated by the last one was invalidated",
                of[1], of[2]
            ));
        }
        let nesting = [u64::from(nested), 0, 0, 0, 0];
        if !hypervisor && !self.claims.claim(Tag::Nesting(vmid), nesting) {
            self.violation_once(format!(
                "VMID {vmid:#x} is used with and without stage 2 by streams that have a stage 1"
            ));
        }
    }
}
