//! Under which tags a TLB may hold translations, and of what (3.17, 3.17.6, 5.2.1, 5.4.1).

use std::collections::HashMap;

use super::super::bits::{field, id};
use super::behaviour::{Behaviour, Source};
use super::fields::{PROTECTED_WALK, STAGE1_CACHED, STAGE2_CACHED};

/// A tag, as far as tables belong to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tag {
    /// Virtual addresses of a regime without ASIDs (NS-EL2).
    Hypervisor,
    /// Virtual addresses of an ASID, by stage 1 alone. The set of the ASID makes no difference.
    Virtual { vmid: u16, asid: u16 },
    /// Virtual addresses, by both stages; the ASIDs are the guest's business.
    Nested { vmid: u16 },
    /// Intermediate addresses.
    Intermediate { vmid: u16 },
}

/// A tag that a stream may fill, with what its translations are made from.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) tag: Tag,
    signature: [u64; 8],
}

impl Claim {
    /// The tags that transactions of this behaviour fill.
    pub(super) fn of(behaviour: &Behaviour) -> [Option<Self>; 2] {
        let Behaviour::Translated { stage1, stage2, .. } = behaviour else {
            return [None, None];
        };
        let and = |words: &[u64], mask: &[u64]| {
            let mut signature = [0; 8];
            for (to, (word, mask)) in signature.iter_mut().zip(words.iter().zip(mask)) {
                *to = word & mask;
            }
            signature
        };
        let first = stage1.as_ref().map(|of| {
            let vmid = of.vmid;
            match (&of.context, stage2) {
                (_, Some(stage2)) => {
                    let tag = Tag::Nested { vmid };
                    let signature = and(&[stage2[1]], &[PROTECTED_WALK]);
                    Self { tag, signature }
                }
                (Source::Words(cd), None) => {
                    let asid = id(cd, 63, 48);
                    let tag = match of.hypervisor {
                        true => Tag::Hypervisor,
                        false => Tag::Virtual { vmid, asid },
                    };
                    let signature = and(cd, &STAGE1_CACHED);
                    Self { tag, signature }
                }
                // A guest's descriptor without its stage 2 is wrong in itself.
                (Source::Guest(_), None) => Self {
                    tag: Tag::Nested { vmid },
                    signature: [0; 8],
                },
            }
        });
        let second = stage2.map(|words| Self {
            tag: Tag::Intermediate {
                vmid: id(&words, 79, 64),
            },
            signature: and(&words, &STAGE2_CACHED),
        });
        [first, second]
    }
}

/// A claim that may have left translations in a TLB.
struct Live {
    stream: u32,
    claim: Claim,
    /// The last moment at which the stream could fill it; none if it still can.
    until: Option<u64>,
}

/// All tags that a TLB may hold.
#[derive(Default)]
pub(super) struct Tags {
    live: Vec<Live>,
    /// The tags that the images of each stream fill.
    declared: HashMap<u32, Vec<Claim>>,
}

impl Tags {
    /// What a stream may be seen as fills these tags.
    pub(super) fn declare(&mut self, stream: u32, claims: Vec<Claim>) {
        self.declared.insert(stream, claims);
    }

    /// From now on, a stream may fill these tags and no others. Returns what is wrong with that.
    pub(super) fn set(&mut self, stream: u32, claims: &[Claim], now: u64) -> Vec<String> {
        for live in self.live.iter_mut().filter(|live| live.stream == stream) {
            if !claims.contains(&live.claim) {
                live.until.get_or_insert(now - 1);
            }
        }
        let mut wrong = Vec::new();
        for claim in claims {
            let mut known = self.live.iter_mut();
            if let Some(live) = known.find(|live| live.stream == stream && live.claim == *claim) {
                live.until = None;
                continue;
            }
            let others = self.live.iter();
            wrong.extend(others.filter_map(|live| self.conflict(stream, claim, live)));
            self.live.push(Live {
                stream,
                claim: claim.clone(),
                until: None,
            });
        }
        wrong
    }

    /// Why a stream must not fill a tag while another claim is live.
    fn conflict(&self, stream: u32, claim: &Claim, live: &Live) -> Option<String> {
        let why = match (claim.tag, live.claim.tag) {
            (tag, of) if tag == of && claim.signature != live.claim.signature => {
                "other tables or attributes"
            }
            (Tag::Virtual { vmid, .. }, Tag::Nested { vmid: of })
            | (Tag::Nested { vmid }, Tag::Virtual { vmid: of, .. })
                if vmid == of =>
            {
                "the other number of stages"
            }
            (Tag::Virtual { vmid, .. }, Tag::Intermediate { vmid: of })
                if vmid == of && !self.turns(live.stream, claim) =>
            {
                "the other stage"
            }
            (Tag::Intermediate { vmid }, Tag::Virtual { vmid: of, .. })
                if vmid == of && !self.turns(stream, &live.claim) =>
            {
                "the other stage"
            }
            _ => return None,
        };
        let (tag, by) = (claim.tag, live.stream);
        let state = match live.until {
            None => "in use",
            Some(_) => "not invalidated since",
        };
        Some(format!(
            "stream {stream:#x} can fill the TLB's {tag:x?}, which has {why} of stream {by:#x} ({state})"
        ))
    }

    /// Whether a stream with stage 2 is about to have this stage 1 under the same VMID, or had it just
    /// now: the VMID has one owner, who turns from one to the other. Anybody else's stage 2 would
    /// be hit by the invalidations of this stage 1, and the other way round.
    fn turns(&self, stream: u32, stage1: &Claim) -> bool {
        let declared = self.declared.get(&stream);
        declared.is_some_and(|claims| claims.contains(stage1))
    }

    /// A TLB invalidation that was consumed at `since` is complete.
    pub(super) fn release(&mut self, command: &[u64; 2], since: u64) {
        self.live.retain(|live| {
            let gone = live.until.is_some_and(|until| until < since);
            !(gone && covers(command, live.claim.tag))
        });
    }
}

/// Whether a command invalidates all there is under a tag (4.4). Without stage 2, all VMIDs are 0, and
/// commands that name another one may do nothing (4.4.2).
fn covers(command: &[u64; 2], tag: Tag) -> bool {
    let (vmid, asid) = (id(command, 47, 32), id(command, 63, 48));
    match (field(command, 7, 0), tag) {
        (0x10, Tag::Virtual { vmid: of, .. } | Tag::Nested { vmid: of }) => of == vmid,
        (
            0x11,
            Tag::Virtual {
                vmid: of,
                asid: tag,
            },
        ) => (of, tag) == (vmid, asid),
        (0x20, Tag::Hypervisor) => true,
        (
            0x28,
            Tag::Virtual { vmid: of, .. }
            | Tag::Nested { vmid: of }
            | Tag::Intermediate { vmid: of },
        ) => of == vmid,
        (0x30, tag) => tag != Tag::Hypervisor,
        _ => false,
    }
}
