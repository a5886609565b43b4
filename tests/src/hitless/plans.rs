//! Entries that are changed by plans, without a driver, while devices look on.

use arm_smmu_v3::spec::cd::Cd;
use arm_smmu_v3::spec::commands::Command;
use arm_smmu_v3::spec::ste::{Config, Ste};
use iommu_core::entry::{self, Layout, Plan, Rules, Store, Target};
use iommu_core::{Atomicity, DmaMemory, RegisterBank, StreamId};

use super::Reader;
use super::bare::{Bare, Block};
use super::kinds::{Kind, Sight, World};

/// No more faults than this are kept.
const KEPT: usize = 10;

/// How an entry is changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// By the rounds of its plan.
    Planned,
    /// By [`entry::write`].
    AtOnce,
    /// By the rounds of its plan, the last first: which is wrong.
    Backwards,
    /// By the rounds of its plan, and nothing is invalidated: which is wrong.
    Silently,
}

/// What devices saw.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Findings {
    /// The changes that were made.
    pub pairs: usize,
    /// Those that were not, because their plans break.
    pub breaking: usize,
    /// Stores, after each of which the devices read.
    pub stores: usize,
    /// Commands, after each of which the devices read.
    pub commands: usize,
    /// The words that were read.
    pub reads: usize,
    /// The first few sights that were neither the old entry's nor the new one's, and plans that
    /// break where they need not.
    pub faults: Vec<String>,
}

/// What is known of a pair of entries before it is planned.
struct Circumstances {
    rules: Rules,
    /// The plan breaks, whatever is tried.
    breaks: bool,
    /// What is invalidated after each round, besides the entry.
    each_round: Vec<Command>,
    /// What is invalidated before the old entry's translations may be taken for gone.
    at_last: Vec<Command>,
}

/// An entry in memory, and how hardware is told to forget it.
struct Place {
    block: Block,
    /// The number of its first word.
    first: usize,
    forget: Command,
}

/// A bare SMMU, and devices that present one stream.
pub struct Bench<B: RegisterBank> {
    smmu: Bare<B>,
    stream: StreamId,
    readers: Vec<Reader>,
    /// The pages that they read.
    iovas: [u64; 2],
    how: How,
    found: Findings,
}

/// A change in progress.
struct Change<'a, B: RegisterBank> {
    bench: &'a mut Bench<B>,
    place: &'a Place,
    /// From what to what.
    pair: [&'a Kind; 2],
    /// What the entry may be for the hardware at this moment.
    may_be: [&'a Kind; 2],
    each_round: &'a [Command],
    /// Stores and commands so far.
    steps: [usize; 2],
}

impl<B: RegisterBank> Bench<B> {
    /// Devices that do DMA as `readers` say, on `stream`, through an SMMU that is as after reset.
    #[must_use]
    pub fn new(bank: B, world: &World, stream: StreamId, readers: Vec<Reader>, how: How) -> Self {
        Self {
            smmu: Bare::start(bank, world.memory()),
            stream,
            readers,
            iovas: world.iovas,
            how,
            found: Findings::default(),
        }
    }

    /// Changes the stream's entry from one kind into another, where that is hitless.
    pub fn entry(&mut self, from: &Kind, to: &Kind, atomicity: Atomicity) {
        let place = self.entry_place();
        let known = entries(&from.words, &to.words, atomicity);
        self.pair::<Ste>(&place, from, to, &known);
    }

    /// Changes the stream's entry from each of `kinds` into each other, where that is hitless.
    pub fn entries(&mut self, kinds: &[Kind], atomicity: Atomicity) {
        pairs(kinds).for_each(|(from, to)| self.entry(from, to, atomicity));
    }

    /// Changes a context descriptor, through which the stream's entry leads, from each of `kinds`
    /// into each other, where that is hitless.
    pub fn descriptors(&mut self, world: &mut World, kinds: &[Kind], atomicity: Atomicity) {
        let block = world.contexts(&[Cd::default()]);
        let entry = self.entry_place();
        self.put(&entry, &World::stage1(&block).to_words());
        // CMD_CFGI_CD (4.3.3) of SubstreamID 0, Leaf set.
        let forget = Command([0x05 | u64::from(self.stream.0) << 32, 1]);
        let place = Place {
            block,
            first: 0,
            forget,
        };
        for (from, to) in pairs(kinds) {
            let known = descriptors(&from.words, &to.words, atomicity);
            self.pair::<Cd>(&place, from, to, &known);
        }
    }

    /// What was found. The SMMU is off.
    #[must_use]
    pub fn finish(self) -> Findings {
        self.found
    }

    fn entry_place(&self) -> Place {
        Place {
            block: self.smmu.streams().clone(),
            first: self.stream.0 as usize * 8,
            forget: Command::cfgi_ste(self.stream, true),
        }
    }

    fn pair<F: Layout<8>>(&mut self, place: &Place, from: &Kind, to: &Kind, known: &Circumstances) {
        let target: Target<F, 8> = Target::new(to.words).unwrap();
        let plan = Plan::new(&from.words, &target, known.rules).unwrap();
        if plan.breaks() || plan.is_empty() {
            self.found.breaking += 1;
            if !known.breaks {
                self.fault(format!("{} to {}: {plan}", from.name, to.name));
            }
            return;
        }
        self.found.pairs += 1;
        self.put(place, &from.words);
        let mut change = Change {
            bench: self,
            place,
            pair: [from, to],
            may_be: [from, from],
            each_round: &known.each_round,
            steps: [0; 2],
        };
        change.look();
        change.may_be = [from, to];
        change.make(&target, &plan, known.rules);
        for command in &known.at_last {
            change.submit(*command);
        }
        change.may_be = [to, to];
        change.look();
    }

    /// Puts an entry where it belongs, by the longest way: it is invalid in between, and hardware
    /// keeps nothing of what was before.
    fn put(&mut self, place: &Place, words: &[u64; 8]) {
        let forget = [Command::cfgi_ste(self.stream, true), place.forget];
        place.block.store(place.first, 0);
        self.confirm(place, &forget);
        self.confirm(place, &[Command::tlbi_nsnh_all()]);
        for (word, value) in words.iter().enumerate().skip(1) {
            place.block.store(place.first + word, *value);
        }
        self.confirm(place, &forget);
        place.block.store(place.first, words[0]);
        self.confirm(place, &forget);
    }

    fn confirm(&mut self, place: &Place, commands: &[Command]) {
        place.block.memory().write_barrier();
        for command in commands {
            self.smmu.submit(*command);
        }
        self.smmu.submit(Command::sync());
    }

    fn sight(&mut self, device: usize, page: usize) -> Sight {
        let word = self.readers[device](self.iovas[page]);
        let events = self.smmu.events();
        assert!(events.len() < 2, "one read has these events: {events:x?}");
        self.found.reads += 1;
        Sight {
            word,
            event: events.first().copied(),
        }
    }

    fn fault(&mut self, what: String) {
        if self.found.faults.len() < KEPT {
            self.found.faults.push(what);
        }
    }
}

impl<B: RegisterBank> Change<'_, B> {
    fn make<F: Layout<8>>(&mut self, target: &Target<F, 8>, plan: &Plan, rules: Rules) {
        let mut live = self.pair[0].words;
        if self.bench.how == How::AtOnce {
            let Ok(()) = entry::write(&mut live, target, rules, self) else {
                unreachable!("it was planned, and every command is consumed");
            };
            return;
        }
        let mut rounds: Vec<_> = plan.rounds().collect();
        if self.bench.how == How::Backwards {
            rounds.reverse();
        }
        for round in rounds {
            round.apply(&mut live, target, |store| {
                entry::Device::store(self, store);
            });
            let Ok(()) = entry::Device::confirm(self);
        }
    }

    fn submit(&mut self, command: Command) {
        self.bench.smmu.submit(command);
        self.bench.found.commands += 1;
        self.steps[1] += 1;
        self.look();
    }

    /// Lets all devices read all pages.
    fn look(&mut self) {
        for device in 0..self.bench.readers.len() {
            for page in 0..self.bench.iovas.len() {
                let sight = self.bench.sight(device, page);
                let fits = |kind: &&Kind| kind.sights[device][page] == sight;
                if self.may_be.iter().any(fits) {
                    continue;
                }
                let [from, to] = self.pair.map(|kind| kind.name);
                let [stores, commands] = self.steps;
                self.bench.fault(format!(
                    "{from} to {to}, after {stores} stores and {commands} commands: device \
                     {device} saw {sight:x?} of page {page}"
                ));
            }
        }
    }
}

impl<B: RegisterBank> entry::Device for Change<'_, B> {
    type Error = std::convert::Infallible;

    fn store(&mut self, store: Store) {
        let Place { block, first, .. } = self.place;
        match store {
            Store::Word { word, value } => block.store(first + word, value),
            Store::Pair { pair, values } => block.store_pair(first / 2 + pair, values),
        }
        self.bench.found.stores += 1;
        self.steps[0] += 1;
        self.look();
    }

    fn confirm(&mut self) -> Result<(), Self::Error> {
        self.place.block.memory().write_barrier();
        if self.bench.how == How::Silently {
            return Ok(());
        }
        self.submit(self.place.forget);
        self.submit(Command::sync());
        for command in self.each_round {
            self.submit(*command);
        }
        Ok(())
    }
}

/// Every two of them, in both orders.
fn pairs(kinds: &[Kind]) -> impl Iterator<Item = (&Kind, &Kind)> {
    let all = kinds
        .iter()
        .flat_map(|from| kinds.iter().map(move |to| (from, to)));
    all.filter(|(from, to)| from.name != to.name)
}

/// Two stream table entries. No other stream is there to share a tag with, so a tag may change by
/// itself, except between stage 1 alone and both stages: what one has cached under a VMID and ASID
/// must not meet the other's lookups (3.17).
fn entries(from: &[u64; 8], to: &[u64; 8], atomicity: Atomicity) -> Circumstances {
    let [old, new] = [from, to].map(|words| Ste::from_words(*words));
    let configs = [old, new].map(|ste| ste.word0.config());
    let one_then_both = configs == [Config::STAGE1, Config::NESTED];
    let both_then_one = configs == [Config::NESTED, Config::STAGE1];
    let keeps_tag = one_then_both || both_then_one;
    let two_tables = configs.iter().all(|config| config.has_stage2()) && old.word3 != new.word3;
    let one_unit = atomicity == Atomicity::Pair && configs == [Config::STAGE2; 2];
    let translates = configs.iter().all(|config| config.0 > Config::BYPASS.0);
    let mut each_round = Vec::new();
    if translates && !keeps_tag {
        for ste in [old, new] {
            each_round.extend([Command::tlbi_vmid(ste.word2.s2_vmid()), Command::sync()]);
        }
    }
    Circumstances {
        rules: Rules {
            atomicity,
            retag: !keeps_tag,
        },
        breaks: keeps_tag || two_tables && !one_unit,
        each_round,
        at_last: Vec::new(),
    }
}

/// Two context descriptors. One that walks nothing lets what is cached pass until that is
/// invalidated (5.4).
fn descriptors(from: &[u64; 8], to: &[u64; 8], atomicity: Atomicity) -> Circumstances {
    let [old, new] = [from, to].map(|words| Cd::from_words(*words));
    let walks = |cd: Cd| cd.word0.valid() && !cd.word0.epd0();
    let at_last = vec![Command::tlbi_asid(old.word0.asid()), Command::sync()];
    Circumstances {
        rules: Rules {
            atomicity,
            retag: false,
        },
        breaks: atomicity == Atomicity::Word && walks(old) && walks(new),
        each_round: Vec::new(),
        at_last,
    }
}

impl<B: RegisterBank> std::fmt::Debug for Bench<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bench({:?})", self.found)
    }
}
