//! One case on both machines.

use iommu_core::RegisterBank;

use super::case::{Case, Config, Entry, Invalidation, LeafEdit, Step, Unit};
use super::counts::Counts;
use super::descriptor::{Descriptor, Need};
use super::device::SLOTS;
use super::edit::{edited, is_present, mode};
use super::encode::{PRESENT, SCALABLE};
use super::explain::{Candidate, Leniency, explain};
use super::image::Image;
use super::layout;
use super::masks;
use super::oracle::{Expected, MOST_PENDING, Oracle};
use super::remedy::{right, wrong};
use super::side::{Access, Side};

/// The two machines of a run, and the one that decides.
pub(super) struct Bench<'a, M, O> {
    pub(super) model: Side<'a, M>,
    pub(super) other: Side<'a, O>,
    pub(super) oracle: Oracle,
    /// Makes what devices write different each time.
    pub(super) serial: u32,
    /// What the devices' buffers were filled with, and how much of that was used.
    pub(super) values: Vec<u32>,
    pub(super) used: usize,
    /// Cases whose reads were not looked at, by number.
    pub(super) waiting: Vec<(u64, Vec<Made>)>,
}

/// The number of a case that diverged, and how.
pub(super) type Divergence = (u64, String);

/// A case in the middle of its steps.
struct Running<'b, 'a, M, O> {
    bench: &'b mut Bench<'a, M, O>,
    case: &'b Case,
    image: Image,
    entries: [Entry; 2],
    /// The slot of the first step.
    slot: usize,
    accesses: Vec<Made>,
    counts: &'b mut Counts,
}

/// An access that was made, and what it may have done on each machine.
pub(super) struct Made {
    step: usize,
    access: Access,
    allowed: Vec<Expected>,
    model: Vec<Candidate>,
    other: Vec<Candidate>,
    mode: &'static str,
    via: &'static str,
}

const STRICT: Leniency = Leniency {
    fault: |expected, seen| (expected == seen).then(Vec::new),
    silence: |_, _| None,
    noise: |_| None,
};
const MASKED: Leniency = Leniency {
    fault: masks::fault,
    silence: masks::silence,
    noise: masks::noise,
};

impl<M: RegisterBank, O: RegisterBank> Bench<'_, M, O> {
    /// Runs a case, but for what its reads got: that is looked at by [`settle`](Self::settle), here
    /// for earlier cases where the devices' buffers are used up.
    pub(super) fn run(
        &mut self,
        index: u64,
        case: &Case,
        counts: &mut Counts,
    ) -> Result<(), Divergence> {
        let image = Image::new(case);
        let root = image.root | if case.scalable { SCALABLE } else { 0 };
        let count = case.steps.len();
        if self.used + count > self.values.len() {
            self.settle(counts)?;
            self.refill();
        }
        let slot = self.used;
        self.used += count;
        self.model.start(&image, root);
        self.other.start(&image, root);
        self.oracle.start(root, image.flags.clone());
        let mut running = Running {
            bench: self,
            case,
            image,
            entries: [case.sources[0].start, case.sources[1].start],
            slot,
            accesses: Vec::new(),
            counts,
        };
        for (number, step) in case.steps.iter().enumerate() {
            running
                .step(number, step)
                .map_err(|what| (index, format!("at step {number}, {step:x?}:\n{what}")))?;
        }
        let accesses = running.accesses;
        self.waiting.push((index, accesses));
        Ok(())
    }

    /// Fills the devices' buffers with what they will write; translation is off.
    fn refill(&mut self) {
        self.values = (0..SLOTS).map(|_| self.value()).collect();
        self.model.tell(&(0..0), [false; 2]);
        self.other.tell(&(0..0), [false; 2]);
        self.model.fill(&self.values);
        self.other.fill(&self.values);
        self.used = 0;
    }

    /// Looks at what the reads of the cases got that ran since the last time, and counts what those
    /// cases showed.
    pub(super) fn settle(&mut self, counts: &mut Counts) -> Result<(), Divergence> {
        let waiting = std::mem::take(&mut self.waiting);
        let slots = 0..self.used;
        let reads = [0, 1].map(|source| {
            let all = waiting.iter().flat_map(|(_, accesses)| accesses);
            let mut all = all.map(|made| made.access);
            all.any(|access| access.source == source && !access.write)
        });
        let model = self.model.tell(&slots, reads);
        let other = self.other.tell(&slots, reads);
        for (index, accesses) in waiting {
            let mut moved = false;
            for made in accesses {
                let what = self.look_at(made, [&model, &other], counts);
                moved |= what.map_err(|what| (index, what))?;
            }
            counts.case(moved);
        }
        Ok(())
    }

    fn value(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        let n = self.serial;
        let spread = n & 0x7f | (n & 0x3f80) << 1 | (n & 0x1f_c000) << 2 | (n & 0xfe0_0000) << 3;
        spread | 0x8080_8080
    }

    /// Compares what a read got, now that the devices tell, and counts the access. Whether it moved
    /// data.
    fn look_at(
        &self,
        made: Made,
        buffers: [&[Vec<u8>; 2]; 2],
        counts: &mut Counts,
    ) -> Result<bool, String> {
        let Made {
            access, allowed, ..
        } = &made;
        let [model, other] = buffers.map(|buffers| match access.write {
            true => Vec::new(),
            false => buffers[access.source][access.slot * 4..][..access.size].to_vec(),
        });
        let fit = |candidates: &[Candidate], read: &[u8]| {
            let fit = candidates.iter().filter(|one| one.read == read);
            fit.min_by_key(|one| one.masks.len()).cloned()
        };
        let (Some(model), Some(other)) = (fit(&made.model, &model), fit(&made.other, &other))
        else {
            return Err(format!(
                "at step {}, {access:x?}\nallowed: {allowed:x?}\nmodel: read {model:x?}, of {:x?}\n\
                 {}: read {other:x?}, of {:x?}",
                made.step, made.model, self.other.name, made.other
            ));
        };
        for mask in other.masks {
            counts.add(format!("mask: {mask}"));
        }
        counts.access(allowed[0], made.mode, made.via, access.write);
        if allowed.len() > 1 {
            counts.stale(model.which != 0, other.which != 0);
        }
        Ok(matches!(allowed[other.which], Expected::Reaches(_)))
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
    fn step(&mut self, number: usize, step: &Step) -> Result<(), String> {
        match *step {
            Step::Access {
                source,
                write,
                size,
                iova,
                via,
            } => {
                let access = Access {
                    source,
                    write,
                    size,
                    iova,
                    value: self.bench.values[self.slot + number],
                    slot: self.slot + number,
                };
                self.access(number, access, via)?;
            }
            Step::EditLeaf {
                source,
                config,
                leaf,
                how,
            } => self.edit_leaf(source, config, leaf, how),
            Step::EditEntry { source, to } => self.edit_entry(source, to),
            Step::TogglePath { source } => self.toggle_path(source),
            Step::Invalidate(what) => self.invalidate(what),
            Step::IllegalDescriptor(_) if !self.case.unit.uses_queue() => {}
            Step::IllegalDescriptor(word) => {
                let model = self.bench.model.illegal_descriptor(word);
                let other = self.bench.other.illegal_descriptor(word);
                if model != other || model.is_err() {
                    return Err(format!(
                        "model: {model:?}\n{}: {other:?}",
                        self.bench.other.name
                    ));
                }
                self.counts.add("illegal descriptor, and recovery");
            }
        }
        Ok(())
    }

    fn access(&mut self, step: usize, access: Access, via: &'static str) -> Result<(), String> {
        let configs = &self.case.sources[access.source].configs;
        let may_pass = configs.iter().any(|config| config.tree.is_none());
        if may_pass && access.iova >> self.case.unit.bits() != 0 {
            // Mask: QEMU passes addresses that no host has.
            self.counts.add("access left out: it could pass");
            return Ok(());
        }
        let allowed = self.bench.oracle.allowed(&access);
        if allowed.contains(&Expected::Elsewhere) {
            self.counts.add("access left out: it could reach tables");
            return Ok(());
        }
        let model = explain(&mut self.bench.model, &access, &allowed, &STRICT);
        let other = explain(&mut self.bench.other, &access, &allowed, &MASKED);
        let (model, other) = match (model, other) {
            (Ok(model), Ok(other)) => (model, other),
            (model, other) => {
                let tell = |result: Result<Vec<Candidate>, _>| match result {
                    Ok(_) => "as allowed".to_owned(),
                    Err(seen) => format!("NOT ALLOWED: {seen:x?}"),
                };
                let (model, other) = (tell(model), tell(other));
                return Err(format!(
                    "{access:x?}\nallowed: {allowed:x?}\nmodel: {model}\n{}: {other}",
                    self.bench.other.name
                ));
            }
        };
        if self.accesses.is_empty() && matches!(allowed[0], Expected::Reaches(_)) {
            self.flags()?;
        }
        let mode = match self.entries[access.source] {
            Entry::Config(which) => mode(&self.case.sources[access.source].configs[which]),
            Entry::Absent(_) => "an absent entry",
        };
        self.accesses.push(Made {
            step,
            access,
            allowed,
            model,
            other,
            mode,
            via,
        });
        Ok(())
    }

    /// After an access that found all caches empty, both machines set the same flags.
    fn flags(&mut self) -> Result<(), String> {
        for &at in &self.image.flags {
            let both = (self.bench.model.read(at), self.bench.other.read(at));
            if both.0 != both.1 {
                return Err(format!("flags of the entry at {at:#x} differ: {both:x?}"));
            }
            if both.0 != self.image.words[&at] {
                self.counts.add("flags set in an entry");
            }
        }
        Ok(())
    }

    /// Stores words on both machines; what changed may be hidden until `need` is met.
    fn change(&mut self, at: u64, words: &[u64], need: Option<Need>) {
        // The sets of what is allowed grow with each change: at some point all is invalidated.
        if self.bench.oracle.pending() == MOST_PENDING {
            self.invalidate(Invalidation::All);
        }
        let mut stores = Vec::new();
        for (at, &new) in (at..).step_by(8).zip(words) {
            let old = self.bench.oracle.word(at);
            if old != new {
                stores.push((at, old, new));
                self.bench.model.write(at, new);
                self.bench.other.write(at, new);
            }
        }
        match need {
            _ if stores.is_empty() => {}
            Some(need) => self.bench.oracle.changed(stores, need),
            None => self.counts.add("entry made present, seen at once"),
        }
    }

    fn edit_leaf(&mut self, source: usize, config: usize, leaf: usize, how: LeafEdit) {
        let compiled = &self.image.configs[source][config];
        let (places, tag) = (&compiled.leaves, compiled.tag);
        let Some(place) = places.get(leaf % places.len().max(1)).copied() else {
            return;
        };
        let Some(tree) = &self.case.sources[source].configs[config].tree else {
            return;
        };
        let old = self.bench.oracle.word(place.at);
        let new = edited(&place, tree, old, self.image.words[&place.at], how);
        let may_be_cached = is_present(tree, old)
            || self.case.unit == Unit::Caching
            || self.bench.oracle.is_pending(place.at);
        let leaf = place.leaf;
        let need = may_be_cached.then_some(Need::Leaf { tag, leaf });
        self.change(place.at, &[new], need);
    }

    /// Nothing but the newest state of an entry may be cached when it changes again: its tags differ.
    fn settle_entry(&mut self, at: u64) {
        if self.bench.oracle.is_pending(at) || self.bench.oracle.is_pending(at + 8) {
            self.invalidate(Invalidation::All);
        }
    }

    fn edit_entry(&mut self, source: usize, to: Entry) {
        let at = self.image.entries[source];
        self.settle_entry(at);
        let was = self.entries[source];
        let (Entry::Config(old) | Entry::Absent(old)) = was;
        let Config { flaw, tree, .. } = &self.case.sources[source].configs[old];
        // What makes no sense is cached as what is not there.
        let makes_sense = matches!(was, Entry::Config(_)) && flaw.is_of_tables();
        let tag = self.image.configs[source][old].tag;
        let number = layout::SOURCES[source];
        let need = match (makes_sense, self.case.scalable) {
            // Mask: QEMU has a device pass until its context entry is invalidated.
            (true, true) if tree.is_none() => Some(Need::Path { source: number }),
            (true, true) => Some(Need::Pasid {
                pasid: self.case.sources[source].path.rid_pasid,
                tag,
            }),
            (true, false) => Some(Need::Context {
                source: number,
                tag,
            }),
            (false, _) => {
                (self.case.unit == Unit::Caching).then_some(Need::Absent { source: number })
            }
        };
        self.entries[source] = to;
        let words = self.image.entry(source, to);
        self.change(at, &words, need);
    }

    fn toggle_path(&mut self, source: usize) {
        let at = self.image.context(source);
        self.settle_entry(at);
        let old = self.bench.oracle.word(at);
        let need = (old & PRESENT != 0).then_some(Need::Path {
            source: layout::SOURCES[source],
        });
        self.change(at, &[old ^ PRESENT], need);
    }

    fn invalidate(&mut self, what: Invalidation) {
        let all = [
            Some(Descriptor::ContextGlobal),
            self.case
                .unit
                .has_scalable_mode()
                .then_some(Descriptor::PasidGlobal),
            Some(Descriptor::IotlbGlobal),
        ];
        match what {
            Invalidation::All => {
                for descriptor in all.into_iter().flatten() {
                    self.send(descriptor);
                }
            }
            Invalidation::Wrong(variant) => {
                if let Some(need) = self.bench.oracle.oldest_need() {
                    self.send(right(wrong(need), variant));
                }
            }
            Invalidation::Right(variant) => {
                // Each descriptor is waited for, and leaves less to do.
                for _ in 0..3 {
                    let Some(need) = self.bench.oracle.oldest_need() else {
                        return;
                    };
                    let before = self.bench.oracle.pending();
                    self.send(right(need, variant));
                    if self.bench.oracle.pending() < before {
                        return;
                    }
                }
            }
        }
    }

    fn send(&mut self, descriptor: Descriptor) {
        self.bench.model.invalidate(descriptor);
        self.bench.other.invalidate(descriptor);
        let served = self.bench.oracle.waited_for(descriptor);
        self.counts.invalidation(descriptor, served);
    }
}
