//! When invalidations happen, and what hardware does that nobody asked for (6.5).

use super::State;
use super::cache::{ContextScope, PasidScope};
use super::global::TE;
use super::iotlb::Flush;
use super::translate::{Request, is_interrupt};
use crate::device::Access;

/// How many pages translated lately may be looked up again.
const RECENT: usize = 64;

/// In which order, and when, invalidations are done. Descriptors between two fences have no order,
/// and each is complete only when a wait descriptor after it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// As late as possible, and in the order that hurts most: at the wait descriptor, translations
    /// first, those among them that were queued behind the wait descriptor without a fence; then
    /// all that was used lately is translated again, through entries that may be stale; PASID
    /// entries, and the same again; context entries last. After an error, the queue goes on only
    /// when `IQT_REG` is written.
    #[default]
    Adverse,
    /// Each as its descriptor is consumed, and no speculation: the tamest hardware there may be.
    InOrder,
    /// Each at a random moment until the wait descriptor, in random order. At random moments
    /// between, on any access to registers and any transaction, entries and translations are
    /// fetched that were of use before; and the queue is consumed bit by bit, as registers are
    /// accessed. The seed decides.
    Random,
}

/// An invalidation that nothing has waited for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pending {
    Iotlb(Flush),
    Pasid(PasidScope),
    Context(ContextScope),
}

impl State {
    /// Takes on an invalidation.
    pub(super) fn push(&mut self, what: Pending) {
        match self.config.order {
            Order::InOrder => self.invalidate(what),
            Order::Adverse | Order::Random => self.pending.push(what),
        }
    }

    pub(super) fn invalidate(&mut self, what: Pending) {
        match what {
            Pending::Iotlb(what) => {
                self.iotlb.invalidate(&what);
                self.claims.release(&what);
                if let Flush::All = what {
                    let [contexts, pasids, _] = self.global.flushed;
                    let scalable = self.global.mode() == 1;
                    self.global.flushed[2] = contexts && (pasids || !scalable);
                }
            }
            Pending::Pasid(scope) => self.invalidate_pasids(scope),
            Pending::Context(scope) => self.invalidate_contexts(scope),
        }
    }

    /// Forgets everything that is cached.
    pub(super) fn flush_all(&mut self) {
        self.pending.clear();
        for what in [
            Pending::Context(ContextScope::All),
            Pending::Pasid(PasidScope::All),
            Pending::Iotlb(Flush::All),
        ] {
            self.invalidate(what);
        }
    }

    /// Completes all invalidations that are pending.
    pub(super) fn drain(&mut self) {
        match self.config.order {
            Order::InOrder => {}
            Order::Adverse => {
                let mut stages = [const { Vec::new() }; 3];
                for what in std::mem::take(&mut self.pending) {
                    let stage = match what {
                        Pending::Iotlb(_) => 0,
                        Pending::Pasid(_) => 1,
                        Pending::Context(_) => 2,
                    };
                    stages[stage].push(what);
                }
                for (stage, all) in stages.into_iter().enumerate() {
                    all.into_iter().for_each(|what| self.invalidate(what));
                    if stage < 2 {
                        self.speculate();
                    }
                }
            }
            Order::Random => {
                while !self.pending.is_empty() {
                    self.random_step();
                }
            }
        }
    }

    /// A moment passes: in random order, anything may happen in it.
    pub(super) fn moment(&mut self) {
        if self.config.order == Order::Random {
            while self.chance.one_in(3) {
                self.random_step();
            }
        }
    }

    fn random_step(&mut self) {
        let pending = self.pending.len();
        if pending != 0 && self.chance.one_in(2) {
            let at = self.chance.below(pending);
            let what = self.pending.swap_remove(at);
            self.invalidate(what);
        } else {
            self.prefetch();
        }
    }

    /// Whether the queue takes a rest before the next descriptor.
    pub(super) fn rests(&mut self) -> bool {
        self.config.order == Order::Random && self.chance.one_in(4)
    }

    /// Notes a page that was asked for, to translate it again speculatively.
    pub(super) fn remember(&mut self, r: &Request) {
        let page = (r.source, r.pasid, r.iova & !0xfff);
        if self.recent.contains(&page) {
            return;
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(page);
    }

    /// Translates again what was asked for lately, as prefetching hardware may at any time. Nothing
    /// is recorded.
    fn speculate(&mut self) {
        for page in self.recent.clone() {
            self.translate_again(page);
        }
    }

    /// Fetches one thing that was of use before.
    pub(super) fn prefetch(&mut self) {
        let at = self.chance.below(self.recent.len());
        if let Some(page) = self.recent.get(at).copied() {
            self.translate_again(page);
        }
    }

    fn translate_again(&mut self, (source, pasid, iova): (u16, Option<u32>, u64)) {
        if !self.global.is_on(TE) || pasid.is_none() && is_interrupt(iova) {
            return;
        }
        for access in [Access::Read, Access::Write] {
            let mut r = Request {
                source,
                pasid,
                iova,
                access,
                silent: false,
            };
            if self.translate(&mut r).is_ok() {
                break;
            }
        }
    }
}
