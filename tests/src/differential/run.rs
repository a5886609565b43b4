//! One case on both machines.

use iommu_core::RegisterBank;

use super::case::{Case, Config, ContextEdit, Entry, Flaw, Invalidation, LeafEdit, Step};
use super::command::{ByAddress, Command, Need};
use super::counts::Counts;
use super::edit::{edited, is_cacheable, mode};
use super::encode::{cd, pte, put};
use super::explain::{Explained, explain};
use super::image::Image;
use super::layout;
use super::masks::{self, Circumstances};
use super::oracle::{Expected, MOST_PENDING, Oracle};
use super::remedy::{right, wrong};
use super::side::{Access, Seen, Side};

/// The two machines of a run, and the one that decides.
pub(super) struct Bench<'a, M, O> {
    pub(super) model: Side<'a, M>,
    pub(super) other: Side<'a, O>,
    pub(super) oracle: Oracle,
    /// Makes what devices write different each time.
    pub(super) serial: u32,
}

/// A case in the middle of its steps.
struct Running<'b, 'a, M, O> {
    bench: &'b mut Bench<'a, M, O>,
    case: &'b Case,
    image: Image,
    entries: [Entry; 2],
    counts: &'b mut Counts,
    moved: bool,
}

impl<M: RegisterBank, O: RegisterBank> Bench<'_, M, O> {
    /// Runs a case and counts what it showed; `Err` tells about the first divergence.
    pub(super) fn run(&mut self, case: &Case, counts: &mut Counts) -> Result<(), String> {
        let image = Image::new(case);
        self.model.start(&image);
        self.other.start(&image);
        self.oracle
            .start((image.strtab_base, image.strtab_base_cfg));
        let mut running = Running {
            bench: self,
            case,
            image,
            entries: [case.streams[0].start, case.streams[1].start],
            counts,
            moved: false,
        };
        for (number, step) in case.steps.iter().enumerate() {
            running
                .step(step)
                .map_err(|what| format!("at step {number}, {step:x?}:\n{what}"))?;
        }
        let moved = running.moved;
        counts.case(moved);
        let errors = (self.model.global_errors(), self.other.global_errors());
        if errors != (0, 0) {
            return Err(format!("global errors at the end: {errors:x?}"));
        }
        Ok(())
    }

    /// Looks for bytes of the data that changed though no access was to change them.
    pub(super) fn damage(&self) -> Result<(), String> {
        let damage = (self.model.damage(), self.other.damage());
        if damage.0.is_empty() && damage.1.is_empty() {
            Ok(())
        } else {
            Err(format!("data that nobody wrote changed: {damage:x?}"))
        }
    }
}

impl<M: RegisterBank, O: RegisterBank> Running<'_, '_, M, O> {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        match *step {
            Step::Access {
                stream,
                write,
                size,
                iova,
                via,
            } => {
                let value = self.value();
                let access = Access {
                    stream,
                    write,
                    size,
                    iova,
                    value,
                };
                self.access(&access, via)?;
            }
            Step::EditLeaf {
                stream,
                config,
                leaf,
                how,
            } => self.edit_leaf(stream, config, leaf, how),
            Step::EditEntry { stream, to } => {
                self.entries[stream] = to;
                let words = self.image.entry(stream, to);
                let sid = layout::STREAMS[stream];
                self.change(self.image.entries[stream], &words, Need::Ste { sid });
            }
            Step::EditContext {
                stream,
                config,
                how,
            } => self.edit_context(stream, config, how),
            Step::Invalidate(what) => self.invalidate(what),
            Step::IllegalCommand(command) => {
                let model = self.bench.model.illegal_command(command);
                let other = self.bench.other.illegal_command(command);
                if model != other || model.is_err() {
                    return Err(format!(
                        "model: {model:?}\n{}: {other:?}",
                        self.bench.other.name
                    ));
                }
                // The command behind it was a CMD_SYNC, which alone invalidates nothing.
                self.counts.add("illegal command, and recovery");
            }
        }
        Ok(())
    }

    fn value(&mut self) -> u32 {
        self.bench.serial = self.bench.serial.wrapping_add(1);
        let n = self.bench.serial;
        let spread = n & 0x7f | (n & 0x3f80) << 1 | (n & 0x1f_c000) << 2 | (n & 0xfe0_0000) << 3;
        spread | 0x8080_8080
    }

    fn access(&mut self, access: &Access, via: &'static str) -> Result<(), String> {
        let allowed = self.bench.oracle.allowed(access);
        if allowed.contains(&Expected::Elsewhere) {
            self.counts.add("access left out: it could reach tables");
            return Ok(());
        }
        let exact = |expected: &[u64; 4], seen: &[u64; 4]| (expected == seen).then(Vec::new);
        let model = explain(&mut self.bench.model, access, &allowed, exact);
        let other = explain(&mut self.bench.other, access, &allowed, masks::event)
            .or_else(|seen| self.silence(access, &allowed, seen));
        let (model, other) = match (model, other) {
            (Ok((model, _)), Ok((other, used))) => {
                for mask in used {
                    self.counts.add(format!("mask: {mask}"));
                }
                (model, other)
            }
            (model, other) => {
                let tell = |result: Result<(usize, _), Seen>| match result {
                    Ok((which, _)) => format!("as allowed: {:x?}", allowed[which]),
                    Err(seen) => format!("NOT ALLOWED: {seen:x?}"),
                };
                let (model, other) = (tell(model), tell(other));
                return Err(format!(
                    "{access:x?}\nallowed: {allowed:x?}\nmodel: {model}\n{}: {other}",
                    self.bench.other.name
                ));
            }
        };
        let entry = self.entries[access.stream];
        let mode = match entry {
            Entry::Config(which) => mode(&self.case.streams[access.stream].configs[which]),
            Entry::Invalid => "an invalid entry",
            Entry::Abort(_) => "abort",
            Entry::Bypass => "bypass",
        };
        let newest = allowed[0];
        self.counts.access(newest, mode, via, access.write);
        self.moved |= matches!(allowed[other], Expected::Reaches(_));
        if allowed.len() > 1 {
            self.counts.stale(model != 0, other != 0);
        }
        Ok(())
    }

    /// Whether QEMU's silence passes for an event.
    fn silence(&self, access: &Access, allowed: &[Expected], seen: Seen) -> Explained {
        let bench = &self.bench;
        let write = Access {
            write: true,
            ..*access
        };
        let found = |expected: &Expected| match expected {
            Expected::Reaches(to) => {
                let first = usize::try_from(to & 7).unwrap_or(0);
                let word = bench.other.data(to & !7).to_le_bytes();
                Some(word[first..first + access.size].to_vec())
            }
            _ => None,
        };
        let if_written: Vec<_> = bench
            .oracle
            .allowed(&write)
            .iter()
            .filter_map(found)
            .collect();
        let circumstances = Circumstances {
            access,
            without_stage1: self.may_bypass_stage1(access.stream),
            if_written: &if_written,
        };
        let masked = |(n, expected): (usize, &Expected)| match expected {
            Expected::Event(event) => {
                let mask = masks::silence(event, &seen, &circumstances)?;
                Some((n, vec![mask]))
            }
            _ => None,
        };
        allowed.iter().enumerate().find_map(masked).ok_or(seen)
    }

    fn may_bypass_stage1(&self, stream: usize) -> bool {
        let bypasses = |entry| match entry {
            Entry::Config(which) => self.case.streams[stream].configs[which].stage1.is_none(),
            _ => true,
        };
        bypasses(self.entries[stream]) || self.bench.oracle.is_pending(self.image.entries[stream])
    }

    /// Stores words on both machines; what changed may be hidden until `need` is met.
    fn change(&mut self, at: u64, words: &[u64], need: Need) {
        self.make_room();
        let mut stores = Vec::new();
        for (at, &new) in (at..).step_by(8).zip(words) {
            let old = self.bench.oracle.word(at);
            if old != new {
                stores.push((at, old, new));
                self.bench.model.write(at, new);
                self.bench.other.write(at, new);
            }
        }
        if !stores.is_empty() {
            self.bench.oracle.changed(stores, need);
        }
    }

    /// The sets of what is allowed grow with each change: at some point all is invalidated.
    fn make_room(&mut self) {
        if self.bench.oracle.pending() == MOST_PENDING {
            self.invalidate(Invalidation::All);
        }
    }

    fn edit_leaf(&mut self, stream: usize, config: usize, leaf: usize, how: LeafEdit) {
        let places = &self.image.configs[stream][config].leaves;
        let Some(place) = places.get(leaf % places.len().max(1)).copied() else {
            return;
        };
        let config = &self.case.streams[stream].configs[config];
        let old = self.bench.oracle.word(place.at);
        let new = edited(&place, config, old, self.image.words[&place.at], how);
        if new == old {
            return;
        }
        if !is_cacheable(&place, config, old) && !self.bench.oracle.is_pending(place.at) {
            // What leads to a Translation, Access flag or Address size fault is in no TLB, so the
            // change is seen at once (3.17, Arm ARM D8.13).
            self.bench.model.write(place.at, new);
            self.bench.other.write(place.at, new);
            self.counts.add("leaf made valid, seen at once");
            return;
        }
        let need = match (&config.stage1, place.stage2) {
            (Some(stage1), false) => Need::Stage1 {
                vmid: config.vmid,
                asid: stage1.asid,
                global: (old & new) & pte::NOT_GLOBAL == 0,
                by_address: match (stage1.ignore_top_byte, &config.stage2) {
                    // Mask: QEMU's TLB keeps the top byte that it ignores (3.4.1), and an
                    // invalidation by address misses it.
                    (true, _) => ByAddress::None,
                    (_, None) => ByAddress::Any,
                    // Mask: QEMU's TLB holds what both stages make of a leaf of stage 1 in parts as
                    // large as stage 2's, and drops those parts only that have the address (4.4.2).
                    (_, Some(_)) => ByAddress::Whole,
                },
                leaf: place.leaf,
            },
            (stage1, _) => Need::Stage2 {
                vmid: config.vmid,
                leaf: place.leaf,
                nested: stage1.is_some(),
            },
        };
        self.change(place.at, &[new], need);
    }

    fn edit_context(&mut self, stream: usize, config: usize, how: ContextEdit) {
        let Config { stage1, flaw, .. } = &self.case.streams[stream].configs[config];
        // Mask: see `Flaw::TableUnmapped`.
        let keep = *flaw == Flaw::TableUnmapped && how == ContextEdit::ToggleRecord;
        if stage1.is_none() || keep {
            return;
        }
        let at = self.image.configs[stream][config].context;
        let mut words = [self.bench.oracle.word(at)];
        match how {
            ContextEdit::Invalidate => put(&mut words, cd::V.0, cd::V.1, 0),
            ContextEdit::Restore => words[0] = self.image.words[&at],
            ContextEdit::ToggleRecord => words[0] ^= 1 << cd::R.0,
        }
        let sid = layout::STREAMS[stream];
        self.change(at, &words, Need::Cd { sid });
    }

    fn invalidate(&mut self, what: Invalidation) {
        let environment = self.case.environment;
        let groups = match (what, self.bench.oracle.oldest_need()) {
            (Invalidation::All, _) => vec![vec![Command::CFGI_ALL], vec![Command::TlbiNsnhAll]],
            (_, None) => return,
            (Invalidation::Right(variant), Some(need)) => right(environment, need, variant),
            (Invalidation::Wrong(variant), Some(need)) => right(environment, wrong(need), variant),
        };
        for mut group in groups {
            group.push(Command::Sync);
            self.bench.model.commands(&group);
            self.bench.other.commands(&group);
            let served = self.bench.oracle.waited_for(&group);
            self.counts.invalidation(&group, served);
        }
    }
}
