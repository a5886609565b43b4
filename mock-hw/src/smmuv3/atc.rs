//! The address translation caches (ATC) of devices.

use std::collections::{BTreeMap, VecDeque};

use super::State;
use super::ats::Completion;
use super::endpoint::AtsEvent;
use super::events::{Fault, Transaction};
use super::translate::Stop;
use crate::device::{Access, Outcome};

/// How many pages that a device used lately it may ask for again.
const WANTED: usize = 64;

/// A page of 4 KiB, with the PASID that it was asked for with.
pub(super) type Key = (Option<u32>, u64);

/// A translation that a device keeps.
#[derive(Clone, Copy)]
pub(super) struct Page {
    pub(super) address: u64,
    read: bool,
    write: bool,
    /// An invalidation of it has completed, and yet it is here and not what the tables say.
    stale: bool,
}

impl Page {
    fn allows(&self, access: Access) -> bool {
        match access {
            Access::Read => self.read,
            Access::Write => self.write,
        }
    }
}

/// The ATC behind one StreamID.
#[derive(Default)]
pub(super) struct Endpoint {
    /// The first StreamID of the same device.
    device: u32,
    on: bool,
    /// Everything was invalidated since it was switched off, or ever.
    clean: bool,
    pub(super) unplugged: bool,
    /// Its device did not answer, or could not be switched off, and since then not everything was
    /// invalidated.
    pub(super) failed: bool,
    pub(super) switch_fails: bool,
    pub(super) pages: BTreeMap<Key, Page>,
    wanted: VecDeque<(Key, Access)>,
    pub(super) log: Vec<AtsEvent>,
}

impl Endpoint {
    pub(super) fn of(device: u32) -> Self {
        Self {
            device,
            ..Self::default()
        }
    }
}

/// What CMD_ATC_INV asks of a device (4.5.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct AtcInvalidation {
    pub(super) stream: u32,
    /// The PASID, and whether the invalidation is global: for every PASID.
    pub(super) pasid: Option<(u32, bool)>,
    pub(super) first: u64,
    pub(super) last: u64,
}

impl AtcInvalidation {
    /// Without a PASID it concerns translations with one, too.
    fn covers(&self, (pasid, page): Key) -> bool {
        let whose = match (self.pasid, pasid) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((of, global)), Some(pasid)) => global || of == pasid,
        };
        whose && page <= self.last && self.first <= page | 0xfff
    }

    fn is_everything(&self) -> bool {
        self.pasid.is_none() && (self.first, self.last) == (0, u64::MAX)
    }
}

impl State {
    fn answers(&self, stream: u32) -> bool {
        let endpoint = self.endpoints.get(&stream);
        endpoint.is_some_and(|of| !of.unplugged) && !self.commands.dead_atcs.contains(&stream)
    }

    /// Whether the device keeps to the rules, so that software can.
    fn is_sound(&self, stream: u32) -> bool {
        self.answers(stream) && self.endpoints.get(&stream).is_some_and(|of| !of.failed)
    }

    /// A CMD_SYNC failed for one stream of a device: software cannot tell which.
    pub(super) fn atc_failed(&mut self, stream: u32) {
        let Some(device) = self.endpoints.get(&stream).map(|of| of.device) else {
            return;
        };
        let all = self.endpoints.values_mut();
        all.filter(|of| of.device == device)
            .for_each(|of| of.failed = true);
    }

    /// A device does DMA. With ATS on, it translates for itself.
    pub(super) fn endpoint_access(&mut self, t: &Transaction) -> Outcome {
        let key = (t.substream, t.iova & !0xfff);
        let Some(endpoint) = self.endpoints.get_mut(&t.stream) else {
            return self.transact(*t);
        };
        if endpoint.unplugged {
            return Outcome::Aborted;
        }
        if !endpoint.on {
            return self.transact(*t);
        }
        endpoint.wanted.retain(|(wanted, _)| *wanted != key);
        if endpoint.wanted.len() == WANTED {
            endpoint.wanted.pop_front();
        }
        endpoint.wanted.push_back((key, t.access));
        let known = endpoint.pages.get(&key).copied();
        let page = match known.filter(|page| page.allows(t.access)) {
            Some(page) => page,
            None => match self.ask(t.stream, key, t.access) {
                Some(page) if page.allows(t.access) => page,
                _ => return Outcome::Aborted,
            },
        };
        if page.stale && self.is_sound(t.stream) {
            self.violation_once(format!(
                "stream {:#x} still uses {:#x} for {:#x} after a completed CMD_ATC_INV of it",
                t.stream, page.address, key.1
            ));
        }
        let to = page.address | t.iova & 0xfff;
        let translated = Transaction::new(t.stream, None, to, t.access);
        if self.forbids(&translated) {
            self.violation_once(format!(
                "stream {:#x} has ATS on, and its translated transactions are refused",
                t.stream
            ));
        }
        self.transact_translated(&translated)
    }

    /// Whether it is software that keeps a device's translated transaction from passing.
    fn forbids(&mut self, t: &Transaction) -> bool {
        let refused = self.check_translated(t);
        let forbidden = Stop::Record(Fault::TranslatedForbidden);
        let forbids = |stop| stop == Stop::Silent || stop == forbidden;
        refused.is_err_and(forbids) && self.is_sound(t.stream)
    }

    /// A device asks for a translation, and keeps what it gets.
    fn ask(&mut self, stream: u32, key: Key, access: Access) -> Option<Page> {
        let completion = self.request(stream, key, access, false);
        if completion == Completion::UnsupportedRequest && self.is_sound(stream) {
            self.violation_once(format!(
                "stream {stream:#x} has ATS on, and its translation requests are refused"
            ));
        }
        let page = kept(completion)?;
        let endpoint = self.endpoints.get_mut(&stream)?;
        endpoint.pages.insert(key, page);
        Some(page)
    }

    fn request(&mut self, stream: u32, key: Key, access: Access, quietly: bool) -> Completion {
        let (substream, iova) = key;
        let t = Transaction::new(stream, substream, iova, access);
        self.translation_request(&t, access == Access::Write, quietly)
    }

    /// Whether the tables, past all caches, say something else than a device has.
    fn differs(&mut self, stream: u32, key: Key, page: &Page) -> bool {
        let access = if page.write {
            Access::Write
        } else {
            Access::Read
        };
        let now = kept(self.past_caches(|state| state.request(stream, key, access, true)));
        now.is_none_or(|now| {
            (now.address, now.read, now.write) != (page.address, page.read, page.write)
        })
    }

    /// All that devices used lately.
    pub(super) fn wanted(&self) -> Vec<(u32, Key, Access)> {
        let of_one = |(stream, of): (&u32, &Endpoint)| {
            let stream = *stream;
            let wanted = of.wanted.clone().into_iter();
            wanted.map(move |(key, access)| (stream, key, access))
        };
        self.endpoints.iter().flat_map(of_one).collect()
    }

    /// Devices ask again for what they used lately, as they may at any time.
    pub(super) fn refill(&mut self) {
        for (stream, key, access) in self.wanted() {
            self.refill_one(stream, key, access);
        }
    }

    pub(super) fn refill_one(&mut self, stream: u32, key: Key, access: Access) {
        let asks = |of: &Endpoint| of.on && !of.unplugged && !of.pages.contains_key(&key);
        if self.endpoints.get(&stream).is_some_and(asks) {
            self.ask(stream, key, access);
        }
    }

    /// A device makes room in its cache.
    pub(super) fn evict(&mut self, stream: u32, key: Key) {
        if let Some(endpoint) = self.endpoints.get_mut(&stream).filter(|of| of.on) {
            endpoint.pages.remove(&key);
        }
    }

    /// Whether a device's ATS is on.
    pub(super) fn uses_ats(&self, stream: u32) -> bool {
        self.endpoints.get(&stream).is_some_and(|of| of.on)
    }

    /// A device does what CMD_ATC_INV asks of it.
    pub(super) fn invalidate_atc(&mut self, what: &AtcInvalidation) {
        if !self.answers(what.stream) {
            return;
        }
        self.end_transactions(what.stream);
        let Some(endpoint) = self.endpoints.get_mut(&what.stream) else {
            return;
        };
        endpoint.pages.retain(|key, _| !what.covers(*key));
        endpoint.clean |= what.is_everything();
        endpoint.failed &= !what.is_everything();
        endpoint.log.push(AtsEvent::Invalidated {
            pasid: what.pasid.and_then(|(of, global)| (!global).then_some(of)),
            first: what.first,
            last: what.last,
        });
    }

    /// What was under way when a device was switched off must still pass, until CMD_ATC_INV has
    /// completed (3.9.2).
    fn end_transactions(&mut self, stream: u32) {
        let unfinished = |of: &&Endpoint| !of.on && !of.clean;
        let Some(endpoint) = self.endpoints.get(&stream).filter(unfinished) else {
            return;
        };
        let under_way: Vec<u64> = endpoint.pages.values().map(|page| page.address).collect();
        for iova in under_way {
            let t = Transaction::new(stream, None, iova, Access::Read);
            if self.forbids(&t) {
                self.violation_once(format!(
                    "stream {stream:#x}: its entry changed before CMD_ATC_INV and CMD_SYNC had ended \
                     what was under way when ATS was switched off"
                ));
            }
        }
    }

    /// The invalidations of a CMD_SYNC are complete. What is left of what they named is stale, where
    /// it is not what the tables say.
    pub(super) fn check_endpoints(&mut self, completed: &[AtcInvalidation]) {
        let streams: Vec<u32> = self.endpoints.keys().copied().collect();
        streams.into_iter().for_each(|of| self.end_transactions(of));
        for what in completed {
            let Some(endpoint) = self.endpoints.get(&what.stream) else {
                continue;
            };
            let covered = endpoint.pages.iter().filter(|(key, _)| what.covers(**key));
            let covered: Vec<(Key, Page)> = covered.map(|(key, page)| (*key, *page)).collect();
            for (key, page) in covered {
                if self.differs(what.stream, key, &page)
                    && let Some(endpoint) = self.endpoints.get_mut(&what.stream)
                    && let Some(page) = endpoint.pages.get_mut(&key)
                {
                    page.stale = true;
                }
            }
        }
    }

    /// Translation was turned off (3.9.1).
    pub(super) fn check_ats_is_off(&mut self) {
        let on = |stream: &u32| self.uses_ats(*stream) && self.is_sound(*stream);
        let on: Vec<u32> = self.endpoints.keys().copied().filter(on).collect();
        for stream in on {
            self.violation(format!(
                "SMMUEN was cleared while stream {stream:#x} has ATS on"
            ));
        }
    }

    /// A device's switch is moved.
    pub(super) fn switch_ats(&mut self, stream: u32, on: bool) {
        let Some(endpoint) = self.endpoints.get_mut(&stream) else {
            return;
        };
        let was_on = std::mem::replace(&mut endpoint.on, on);
        let clean = endpoint.clean;
        endpoint.clean &= !was_on && !on;
        endpoint
            .log
            .push(if on { AtsEvent::On } else { AtsEvent::Off });
        if on && !was_on && !clean {
            self.violation(format!(
                "ATS of stream {stream:#x} was switched on before everything in its ATC was invalidated"
            ));
        }
    }
}

/// What a device keeps of a completion.
fn kept(completion: Completion) -> Option<Page> {
    match completion {
        Completion::Success { page, read, write } if read || write => Some(Page {
            address: page.0,
            read,
            write,
            stale: false,
        }),
        _ => None,
    }
}
