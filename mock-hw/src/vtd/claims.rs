//! What software must not do to entries that hardware may have cached (6.5.3.3), and whose domain
//! ids are whose (6.2).
//!
//! An entry that is present changes by clearing P, in one store; by invalidating what is cached of
//! it; and only then by anything else. When an invalidation drops an entry from a cache, the entry
//! in memory is compared with it: if both are present, only these bits may differ:
//!
//! - bits that hardware ignores: 6:3 of the upper word of a legacy context entry;
//! - `FPD` of any entry;
//! - `SLADE` and `PGSNP` of a PASID entry.

use std::collections::HashMap;

use super::State;
use super::bits::{bit, mask};
use super::entries::{Mapping, Regime};
use super::iotlb::Flush;
use crate::memory::BusError;

/// The users of what is cached under one domain id: one set of second-level tables for all, one set
/// of first-level tables for each PASID.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Tag {
    Second(u16),
    First(u16, u32),
}

/// Which tables a domain id stands for in what is cached.
#[derive(Default)]
pub(super) struct Claims {
    by_tag: HashMap<Tag, Regime>,
}

impl Claims {
    /// Lets go of the domain ids of which an invalidation leaves no translation.
    pub(super) fn release(&mut self, what: &Flush) {
        self.by_tag.retain(|tag, _| match (*what, *tag) {
            (Flush::All, _) => false,
            (Flush::Domain(did), Tag::Second(of) | Tag::First(of, _)) => did != of,
            (Flush::Pasid { did, pasid }, Tag::First(of, for_pasid)) => {
                (did, pasid) != (of, for_pasid)
            }
            _ => true,
        });
    }
}

impl State {
    /// A request uses a mapping for a translation.
    pub(super) fn claim(&mut self, mapping: &Mapping, pasid: u32) {
        let Mapping { did, regime } = *mapping;
        let tag = match regime {
            Regime::PassThrough | Regime::Second { .. } => Tag::Second(did),
            Regime::First { .. } => Tag::First(did, pasid),
        };
        let before = self.claims.by_tag.insert(tag, regime);
        if before.is_some_and(|before| before != regime) {
            self.violation_once(format!(
                "domain id {did:#x} is used for {regime:x?} before what was translated by the last \
                 tables was invalidated"
            ));
        }
        if did == 0 && self.config.is_caching() {
            self.violation_once(
                "domain id 0 is used by an entry that is present, in caching mode".into(),
            );
        }
        if u64::from(did) & !mask(self.config.domain_bits()) != 0 {
            self.violation_once(format!(
                "domain id {did:#x} is used, where there are {} bits of them",
                self.config.domain_bits()
            ));
        }
    }

    /// A context entry is dropped from the cache.
    pub(super) fn check_context_kept(&mut self, source: u16, at: u64, words: &[Option<u64>; 4]) {
        let (count, ignored) = match self.global.mode() {
            0 => (2, [1 << 1, 0x78, 0, 0]),
            _ => (4, [1 << 1, 0, 0, 0]),
        };
        if words[0].is_some_and(|word| bit(word, 0)) {
            let now = self.read_entry(at, count);
            self.check_kept(
                now,
                words,
                &ignored,
                &format!("the context entry of {source:#x}"),
            );
        }
    }

    /// A PASID entry is dropped from the cache.
    pub(super) fn check_pasid_kept(
        &mut self,
        source: u16,
        pasid: u32,
        at: u64,
        words: &[Option<u64>; 8],
    ) {
        let ignored = [1 << 1 | 1 << 9, 1 << 24, 0, !0, !0, !0, !0, !0];
        if words[0].is_some_and(|word| bit(word, 0)) {
            let now = self.read_entry(at, 8);
            let what = format!("the entry of PASID {pasid:#x} of {source:#x}");
            self.check_kept(now, words, &ignored, &what);
        }
    }

    fn check_kept<const N: usize>(
        &mut self,
        now: Result<[u64; N], BusError>,
        words: &[Option<u64>; N],
        ignored: &[u64; N],
        what: &str,
    ) {
        let Ok(now) = now else { return };
        let changed = now.iter().zip(words).zip(ignored);
        let changed = changed
            .filter_map(|((now, word), ignored)| word.map(|word| (now ^ word) & !ignored))
            .any(|bits| bits != 0);
        if bit(now[0], 0) && changed {
            self.violation(format!(
                "{what} was changed from {words:x?} to {now:x?} while it was present and cached"
            ));
        }
    }
}
