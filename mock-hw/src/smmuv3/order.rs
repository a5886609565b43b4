//! When invalidations happen, and what hardware does that nobody asked for (3.21, 4.7.3).

use super::State;
use super::atc::AtcInvalidation;
use super::events::Transaction;
use super::registers::CR0_SMMUEN;
use super::structures::Cfgi;
use super::tlb::Tlbi;
use crate::device::Access;

/// How many pages translated lately, and how many streams, may be looked up again.
const RECENT: usize = 64;

/// In which order, and when, the invalidations between two CMD_SYNC are done. Commands between them
/// have no order, and each is complete only when a CMD_SYNC after it is (4.7.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// As late as possible, and in the order that hurts most: at the CMD_SYNC, the caches of devices
    /// first, which then ask again for all that they used lately; translations; then all that was
    /// translated lately is translated again, through configuration that may be stale;
    /// configuration last, but for the caches of devices whose ATS is off, that may have
    /// transactions under way.
    #[default]
    Adverse,
    /// Each as its command is consumed, and no speculation: the tamest hardware there may be.
    InOrder,
    /// Each at a random moment until the CMD_SYNC, in random order. At random moments between, on
    /// any access to registers and any transaction, configuration and translations are fetched
    /// that were of use before; and the consumer takes its time with commands, so that software
    /// sees the queue move bit by bit. The seed decides.
    Random,
}

/// An invalidation that nothing has waited for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pending {
    Tlbi(Tlbi),
    Cfgi(Cfgi),
    Atc(AtcInvalidation),
}

impl State {
    /// Takes on an invalidation.
    pub(super) fn push(&mut self, what: Pending) {
        if self.commands.ignoring {
            return;
        }
        match self.config.order {
            Order::InOrder => self.invalidate(what),
            Order::Adverse | Order::Random => self.commands.pending.push(what),
        }
    }

    fn invalidate(&mut self, what: Pending) {
        match what {
            Pending::Tlbi(what) => {
                self.tlb.invalidate(&what);
                self.claims.release(&what);
            }
            Pending::Cfgi(what) => self.invalidate_config(what),
            Pending::Atc(what) => self.invalidate_atc(&what),
        }
    }

    /// Completes all invalidations that are pending.
    pub(super) fn drain(&mut self) {
        match self.config.order {
            Order::InOrder => {}
            Order::Adverse => {
                let mut stages = [const { Vec::new() }; 4];
                for what in std::mem::take(&mut self.commands.pending) {
                    let stage = match what {
                        Pending::Atc(of) if self.uses_ats(of.stream) => 0,
                        Pending::Tlbi(_) => 1,
                        Pending::Cfgi(_) => 2,
                        Pending::Atc(_) => 3,
                    };
                    stages[stage].push(what);
                }
                for (stage, all) in stages.into_iter().enumerate() {
                    all.into_iter().for_each(|what| self.invalidate(what));
                    match stage {
                        0 => self.refill(),
                        1 => self.speculate(),
                        _ => {}
                    }
                }
            }
            Order::Random => {
                while !self.commands.pending.is_empty() {
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
        let pending = self.commands.pending.len();
        if pending != 0 && self.chance.one_in(2) {
            let at = self.chance.below(pending);
            let what = self.commands.pending.swap_remove(at);
            self.invalidate(what);
        } else {
            self.prefetch();
        }
    }

    /// Whether the consumer takes a rest before the next command.
    pub(super) fn rests(&mut self) -> bool {
        self.config.order == Order::Random && self.chance.one_in(4)
    }

    /// Notes a page that was translated, to do it again speculatively.
    pub(super) fn remember(&mut self, t: &Transaction) {
        let page = (t.stream, t.substream, t.iova & !0xfff);
        if self.recent.contains(&page) {
            return;
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(page);
    }

    /// Notes a stream that was used, whatever became of it.
    pub(super) fn remember_stream(&mut self, stream: u32) {
        if self.streams.contains(&stream) {
            return;
        }
        if self.streams.len() == RECENT {
            self.streams.pop_front();
        }
        self.streams.push_back(stream);
    }

    /// Translates again what was translated lately, as prefetching hardware may at any time. Nothing
    /// is recorded.
    pub(super) fn speculate(&mut self) {
        for page in self.recent.clone() {
            self.translate_again(page);
        }
    }

    /// Fetches one thing that was of use before: a translation, for the SMMU or once more for a device,
    /// or a stream's entry and its first context descriptor.
    pub(super) fn prefetch(&mut self) {
        let pages = self.recent.len();
        let wanted = self.wanted();
        let at = self.chance.below(pages + self.streams.len() + wanted.len());
        if let Some((stream, key, access)) = at
            .checked_sub(pages + self.streams.len())
            .and_then(|at| wanted.get(at))
        {
            self.evict(*stream, *key);
            self.refill_one(*stream, *key, *access);
        } else if let Some(page) = self.recent.get(at).copied() {
            self.translate_again(page);
        } else if let Some(stream) = self.streams.get(at - pages).copied()
            && self.regs.cr0ack & CR0_SMMUEN != 0
        {
            self.fetch_configuration(stream);
        }
    }

    fn translate_again(&mut self, (stream, substream, iova): (u32, Option<u32>, u64)) {
        if self.regs.cr0ack & CR0_SMMUEN == 0 {
            return;
        }
        let mut t = Transaction::new(stream, substream, iova, Access::Read);
        let _ = self.translate(&mut t);
    }

    fn fetch_configuration(&mut self, stream: u32) {
        let t = Transaction::new(stream, None, 0, Access::Read);
        if let Ok(ste) = self.ste(stream)
            && let Some(stage1) = &ste.stage1
        {
            let _ = self.cd(&t, &ste, stage1, 0);
        }
    }
}
