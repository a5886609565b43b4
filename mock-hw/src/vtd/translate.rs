//! What becomes of a request: entries, translations, and the faults on the way.

use super::State;
use super::bits::bit;
use super::cache::{Cached, Place};
use super::entries::{Directory, Mapping, Regime};
use super::iotlb::{Kind, Leaf, Tag};
use super::order::Order;
use super::reason::{self, Reason};
use crate::device::Access;

/// A request of a device.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) source: u16,
    pub(super) pasid: Option<u32>,
    pub(super) iova: u64,
    pub(super) access: Access,
    /// Whether an entry on the way has `FPD` set.
    pub(super) silent: bool,
}

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    Fault(Reason),
    /// Nobody is told.
    Silent,
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self::Fault(reason)
    }
}

/// Whether an address is in the range of interrupts.
pub(super) fn is_interrupt(addr: u64) -> bool {
    addr >> 20 == 0xfee
}

impl State {
    /// Whether what is cached is not looked at, as hardware may choose.
    pub(super) fn looks_anew(&mut self) -> bool {
        self.config.order == Order::Random && self.chance.one_in(4)
    }

    pub(super) fn translate(&mut self, r: &mut Request) -> Result<u64, Stop> {
        let legacy = match self.global.mode() {
            0 if r.pasid.is_some() => return Err(reason::PASID_IN_LEGACY_MODE.into()),
            0 => true,
            1 if self.config.has_scalable_mode() => false,
            3 if self.config.ecap_bit(52) => return Err(Stop::Silent),
            _ => return Err(reason::MODE_INVALID.into()),
        };
        self.remember(r);
        if !self.looks_anew()
            && let Some(leaf) = self.iotlb.by_source(r)
            && let Some(result) = self.use_cached(r, &leaf)
        {
            return result;
        }
        let (mapping, pasid) = match legacy {
            true => (self.context(r)?, 0),
            false => self.pasid(r)?,
        };
        self.claim(&mapping, pasid);
        let kind = match mapping.regime {
            Regime::PassThrough => Kind::PassThrough,
            Regime::Second { .. } => Kind::Second,
            Regime::First { .. } => Kind::First,
        };
        let did = mapping.did;
        let tag = Tag { did, kind, pasid };
        if !self.looks_anew()
            && let Some(leaf) = self.iotlb.by_tag(r, &tag)
            && let Some(result) = self.use_cached(r, &leaf)
        {
            let (source, request) = (r.source, r.pasid);
            self.iotlb.insert(Leaf {
                source,
                request,
                ..leaf
            });
            return result;
        }
        let leaf = match mapping.regime {
            Regime::PassThrough => self.pass(r, &tag),
            Regime::Second { root, levels } => self.walk_second(r, &tag, root, levels),
            Regime::First {
                root,
                levels,
                snooped,
            } => self.walk_first(r, &tag, (root, levels, snooped)),
        };
        let leaf = leaf.inspect_err(|reason| self.cache_fault(r, &tag, *reason))?;
        let output = output(r, &leaf);
        if is_interrupt(output) {
            return Err(match legacy {
                true => reason::INTERRUPT_RANGE.into(),
                false => reason::SM_INTERRUPT_RANGE.into(),
            });
        } else if kind == Kind::First && output & self.config.beyond_host() != 0 {
            return Err(reason::SM_BEYOND_HOST.into());
        }
        self.iotlb.insert(leaf);
        self.finish(output)
    }

    /// What passes untranslated is kept out of the protected regions. So is what is translated: the
    /// architecture lets hardware choose.
    fn finish(&self, output: u64) -> Result<u64, Stop> {
        match self.is_protected(output) {
            true => Err(Stop::Silent),
            false => Ok(output),
        }
    }

    /// What a cached translation makes of a request; `None` where tables have to be looked at for
    /// the dirty flag.
    fn use_cached(&mut self, r: &mut Request, leaf: &Leaf) -> Option<Result<u64, Stop>> {
        r.silent = leaf.silent;
        if let Some(reason) = leaf.fault {
            return Some(Err(reason.into()));
        }
        match (leaf.permits(r.access), leaf.tag.kind) {
            (true, _) => Some(self.finish(output(r, leaf))),
            (false, Kind::First) => None,
            (false, _) => Some(Err(self.second_permission(r.access).into())),
        }
    }

    /// In caching mode, it is cached too that there is no translation (6.1). First-level tables are
    /// as those of CPUs: what is not present in them is not cached.
    fn cache_fault(&mut self, r: &Request, tag: &Tag, reason: Reason) {
        if !self.config.is_caching() || tag.kind == Kind::First {
            return;
        }
        let (base, bits) = (r.iova & !0xfff, 12);
        self.iotlb.insert(Leaf {
            source: r.source,
            request: r.pasid,
            tag: *tag,
            base,
            bits,
            output: 0,
            read: r.access != Access::Read,
            write: r.access != Access::Write,
            fault: Some(reason),
            silent: r.silent,
        });
    }

    /// Where a source's context entry is: in the context table of its bus, or of half its bus.
    pub(super) fn locate_context(&self, source: u16) -> Result<u64, Reason> {
        let (bus, function) = (u64::from(source >> 8), u64::from(source & 0xff));
        let root = super::bits::page(self.global.root).wrapping_add(bus * 16);
        let legacy = self.global.mode() == 0;
        let entry = self.read_entry::<2>(root, 2);
        if legacy {
            let table = self
                .config
                .decode_root(&entry.map_err(|_| reason::ROOT_ACCESS)?)?;
            return Ok(table.wrapping_add(function * 16));
        }
        let halves = entry.map_err(|_| reason::SM_ROOT_ACCESS)?;
        let half = halves[usize::from(function >= 0x80)];
        let table = self.config.decode_scalable_root(half)?;
        Ok(table.wrapping_add((function & 0x7f) * 32))
    }

    /// The words of a source's context entry. `decode` tells the domain id of one that makes sense.
    fn fetch_context(
        &mut self,
        r: &mut Request,
        count: usize,
        decode: impl Fn(&Self, &[u64; 4]) -> Option<u16>,
    ) -> Result<[u64; 4], Reason> {
        let mut known = self
            .cache
            .contexts
            .get(&r.source)
            .cloned()
            .unwrap_or_default();
        let fetched = match self.enough(&known) {
            Some(_) if known.at == Place::NoTable => return Err(self.no_root()),
            Some(fetched) => fetched,
            None => {
                let at = match self.locate_context(r.source) {
                    Ok(at) => at,
                    Err(reason) => {
                        self.cache_no_context(r.source, reason);
                        return Err(reason);
                    }
                };
                let access = match count {
                    2 => reason::CONTEXT_ACCESS,
                    _ => reason::SM_CONTEXT_ACCESS,
                };
                let fresh = self.read_entry(at, count).map_err(|_| access)?;
                let tag = decode(self, &fresh);
                let fetched = self.mix(&mut known, at, fresh);
                self.keep(&mut known, &fetched, tag);
                self.cache.contexts.insert(r.source, known);
                fetched
            }
        };
        r.silent = bit(fetched.words[0], 1);
        Ok(fetched.words)
    }

    /// There is no context table.
    fn no_root(&self) -> Reason {
        match self.global.mode() {
            0 => reason::ROOT_NOT_PRESENT,
            _ => reason::SM_ROOT_NOT_PRESENT,
        }
    }

    /// In caching mode, it is cached too that there is no context table.
    fn cache_no_context(&mut self, source: u16, reason: Reason) {
        let absent = matches!(
            reason,
            reason::ROOT_NOT_PRESENT | reason::SM_ROOT_NOT_PRESENT
        );
        if absent && self.config.is_caching() {
            let nothing = Cached {
                at: Place::NoTable,
                words: [Some(0); 4],
                dids: [0].into(),
            };
            self.cache.contexts.entry(source).or_insert(nothing);
        }
    }

    /// What the context entry of a request says, in legacy mode.
    fn context(&mut self, r: &mut Request) -> Result<Mapping, Reason> {
        let decode =
            |state: &Self, words: &[u64; 4]| state.config.decode_context(&[words[0], words[1]]);
        let words = self.fetch_context(r, 2, |state, words| {
            decode(state, words).ok().map(|mapping| mapping.did)
        })?;
        decode(self, &words)
    }

    /// The same in scalable mode.
    fn directory(&mut self, r: &mut Request) -> Result<Directory, Reason> {
        let words = self.fetch_context(r, 4, |state, words| {
            state.config.decode_scalable_context(words).ok().map(|_| 0)
        })?;
        self.config.decode_scalable_context(&words)
    }

    /// What the PASID entry of a request says, and for which PASID.
    fn pasid(&mut self, r: &mut Request) -> Result<(Mapping, u32), Reason> {
        let directory = self.directory(r)?;
        let pasid = match r.pasid {
            None => directory.rid_pasid,
            Some(_) if !directory.pasids => return Err(reason::PASIDS_DISABLED),
            Some(pasid) => pasid,
        };
        let bits = directory.pasid_bits.min(self.config.pasid_bits().max(1));
        if r.pasid.is_some() && pasid >> bits != 0 {
            return Err(reason::PASID_TOO_LARGE);
        }
        self.pasid_entry(r, &directory, pasid)
            .map(|mapping| (mapping, pasid))
    }

    fn pasid_entry(
        &mut self,
        r: &mut Request,
        directory: &Directory,
        pasid: u32,
    ) -> Result<Mapping, Reason> {
        let key = (r.source, pasid);
        let mut known = self.cache.pasids.get(&key).cloned().unwrap_or_default();
        if let Some(fetched) = self.enough(&known) {
            let above = self.cache.directories.get(&(r.source, pasid >> 6));
            let above = above.and_then(|above| above.words[0]).unwrap_or(0);
            r.silent |= bit(fetched.words[0] | above, 1);
            return self.config.decode_pasid(&fetched.words);
        }
        // The table of the PASID, through the directory.
        let key = (r.source, pasid >> 6);
        let mut above = self
            .cache
            .directories
            .get(&key)
            .cloned()
            .unwrap_or_default();
        let entry = match self.enough(&above) {
            Some(entry) => entry,
            None => {
                let at = directory.base.wrapping_add(u64::from(pasid >> 6) * 8);
                let fresh = self.read_entry(at, 1);
                let fresh = fresh.map_err(|_| reason::DIRECTORY_ACCESS)?;
                self.mix(&mut above, at, fresh)
            }
        };
        r.silent |= bit(entry.words[0], 1);
        let table = self
            .config
            .decode_directory(entry.words[0])
            .inspect_err(|_| {
                self.keep(&mut above, &entry, None);
                self.cache.directories.insert(key, above.clone());
            })?;
        let at = table.wrapping_add(u64::from(pasid & 0x3f) * 64);
        let fresh = self.read_entry(at, 8).map_err(|_| reason::PASID_ACCESS)?;
        let tag = self
            .config
            .decode_pasid(&fresh)
            .ok()
            .map(|mapping| mapping.did);
        let fetched = self.mix(&mut known, at, fresh);
        self.keep(&mut known, &fetched, tag);
        if let Some(did) = tag {
            self.keep(&mut above, &entry, tag);
            above.dids.insert(did);
            self.cache.directories.insert(key, above);
        }
        self.cache.pasids.insert((r.source, pasid), known);
        r.silent |= bit(fetched.words[0], 1);
        self.config.decode_pasid(&fetched.words)
    }
}

/// Where a translation leads a request.
fn output(r: &Request, leaf: &Leaf) -> u64 {
    leaf.output | r.iova & super::bits::mask(leaf.bits)
}
