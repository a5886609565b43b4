//! Under which tags a TLB may hold translations, and of what (3.17, 3.17.6, 5.2.1, 5.4.1).

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
pub(super) struct Tags(Vec<Live>);

impl Tags {
    /// From now on, a stream may fill these tags and no others. Returns what is wrong with that.
    pub(super) fn set(&mut self, stream: u32, claims: &[Claim], now: u64) -> Vec<String> {
        for live in self.0.iter_mut().filter(|live| live.stream == stream) {
            if !claims.contains(&live.claim) {
                live.until.get_or_insert(now - 1);
            }
        }
        let mut wrong = Vec::new();
        for claim in claims {
            let mut known = self.0.iter_mut();
            if let Some(live) = known.find(|live| live.stream == stream && live.claim == *claim) {
                live.until = None;
                continue;
            }
            wrong.extend(
                self.0
                    .iter()
                    .filter_map(|live| conflict(stream, claim, live)),
            );
            self.0.push(Live {
                stream,
                claim: claim.clone(),
                until: None,
            });
        }
        wrong
    }

    /// A TLB invalidation that was consumed at `since` is complete.
    pub(super) fn release(&mut self, command: &[u64; 2], since: u64) {
        self.0.retain(|live| {
            let gone = live.until.is_some_and(|until| until < since);
            !(gone && covers(command, live.claim.tag))
        });
    }
}

/// Why a stream must not fill a tag while another claim is live.
fn conflict(stream: u32, claim: &Claim, live: &Live) -> Option<String> {
    let (tag, other) = (claim.tag, live.claim.tag);
    let why = match (tag, other) {
        _ if tag == other && claim.signature != live.claim.signature => {
            "other tables or attributes"
        }
        (Tag::Virtual { vmid, .. }, Tag::Nested { vmid: of })
        | (Tag::Nested { vmid }, Tag::Virtual { vmid: of, .. })
            if vmid == of =>
        {
            "the other number of stages"
        }
        // A stream that turns from one stage to the other may keep its VMID; two are two owners, and
        // an invalidation of one hits the other.
        (Tag::Virtual { vmid, .. }, Tag::Intermediate { vmid: of })
        | (Tag::Intermediate { vmid }, Tag::Virtual { vmid: of, .. })
            if vmid == of && stream != live.stream =>
        {
            "the other stage"
        }
        _ => return None,
    };
    let (by, state) = match live.until {
        None => (live.stream, "in use"),
        Some(_) => (live.stream, "not invalidated since"),
    };
    Some(format!(
        "stream {stream:#x} can fill the TLB's {tag:x?}, which has {why} of stream {by:#x} ({state})"
    ))
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
