//! Runs sequences, and looks.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use iommu_core::{
    Device, DmaBlock, DomainRef, Error, Iommu, Iova, PagingConfig, PhysAddr, Prot, Stage,
};
use mock_hw::MockMemory;

use super::leaves::Leaves;
use super::ops::{self, Op, Target};
use super::probe::Prober;
use super::{G1, K4, M2};
use crate::differential::rng::Rng;

/// So many bytes are mapped to.
const TARGET: usize = 8 << 20;
/// Every so many sequences, a new domain takes the place of the old one, and all of memory is looked
/// at.
const DOMAIN: u64 = 32;
/// What a page begins with, beside its address.
const TAG: u64 = 0x7061_6765_0000_0001;

/// How often what happened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// How often `what` happened.
    #[must_use]
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    fn add(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(what, count)| write!(f, "\n{count:8} {what}"))
    }
}

/// A device, and what it takes to run sequences on its domain.
pub struct Rig<P> {
    iommu: Iommu,
    device: Device,
    stage: Stage,
    /// Whether hardware copes with leaves that are split and merged.
    resizable: bool,
    prober: P,
    memory: MockMemory,
    block: DmaBlock<MockMemory>,
    /// What the second word of each page should be.
    written: Vec<u64>,
}

impl<P> fmt::Debug for Rig<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rig({:?}, stage {:?})", self.device, self.stage)
    }
}

/// One domain, and what should be in it.
struct Scene {
    domain: DomainRef,
    leaves: Leaves,
    /// The memory in use where nothing was mapped but the prober's own pages.
    baseline: usize,
    /// Which pages the device found where, last of all.
    last: BTreeMap<u64, usize>,
}

impl<P: Prober> Rig<P> {
    /// A rig of a device that [`Prober`] commands. Paging domains are of `stage`, and are to split
    /// and merge leaves where the hardware is `resizable`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfMemory`](iommu_core::ErrorKind::OutOfMemory).
    pub fn new(
        iommu: Iommu,
        device: Device,
        stage: Stage,
        resizable: bool,
        prober: P,
        memory: &MockMemory,
    ) -> Result<Self, Error> {
        let align = usize::try_from(M2).unwrap_or(usize::MAX);
        let block = DmaBlock::new(memory, TARGET, align, "what is mapped to")?;
        let pages = TARGET / 4096;
        let rig = Self {
            iommu,
            device,
            stage,
            resizable,
            prober,
            memory: memory.clone(),
            block,
            written: vec![0; pages],
        };
        for page in 0..pages {
            rig.block.store(page * 512, rig.tag(page));
        }
        Ok(rig)
    }

    /// Runs those sequences of `seed`.
    ///
    /// # Errors
    ///
    /// What was wrong first: with the seed, the sequence's number, and its operations.
    pub fn run(&mut self, seed: u64, sequences: Range<u64>) -> Result<Counts, String> {
        let mut counts = Counts::default();
        let mut scene = None;
        for index in sequences {
            if index % DOMAIN == 0 {
                drop(scene.take());
                self.check_memory()?;
            }
            let scene = match &mut scene {
                Some(scene) => scene,
                none => none.insert(self.scene().map_err(|error| error.to_string())?),
            };
            let mut run = Run {
                rig: self,
                scene,
                rng: Rng::new(seed, index),
                counts: &mut counts,
                done: Vec::new(),
                looks: Vec::new(),
            };
            run.sequence().map_err(|what| {
                let done = run.done.iter().map(|op| format!("\n    {op:x?}"));
                let done: String = done.collect();
                format!("seed {seed:#x}, sequence {index}: {what}, after{done}")
            })?;
        }
        drop(scene);
        self.check_memory()?;
        Ok(counts)
    }

    fn scene(&self) -> Result<Scene, Error> {
        let config = PagingConfig {
            stage: self.stage,
            ..PagingConfig::default()
        };
        let domain = self.iommu.paging_domain(&config)?;
        self.device.attach(&domain)?;
        // The table above those of blocks of 1 GiB is there from here on.
        let (page, phys) = (Iova(K4), self.block.addr());
        // SAFETY: devices are told to reach the rig's own pages alone, and nobody else uses those.
        unsafe { domain.map(page, phys, K4, Prot::READ) }?;
        self.prober.attached(&domain)?;
        let sizes = domain.geometry().map_or(0, |geometry| geometry.page_sizes);
        Ok(Scene {
            leaves: Leaves::new(sizes, self.resizable),
            baseline: self.memory.allocated(),
            last: BTreeMap::new(),
            domain,
        })
    }

    fn target(&self) -> Target {
        Target {
            base: self.block.addr().0,
            len: self.block.size() as u64,
        }
    }

    fn tag(&self, page: usize) -> u64 {
        TAG + self.block.addr().0 + page as u64 * K4
    }

    /// The number of the page at `phys`, where it is one that devices have.
    fn page(&self, phys: u64) -> Option<usize> {
        let offset = phys.checked_sub(self.block.addr().0)?;
        let page = usize::try_from(offset / K4).ok()?;
        (page < self.written.len()).then_some(page)
    }

    /// The first two words of a page.
    fn words(&self, page: usize) -> [u64; 2] {
        [0, 1].map(|word| {
            let at = self.block.addr().0 + page as u64 * K4 + word * 8;
            self.memory.read_word(PhysAddr(at)).unwrap_or(!0)
        })
    }

    /// No page has what nobody wrote there.
    fn check_memory(&self) -> Result<(), String> {
        for (page, written) in self.written.iter().enumerate() {
            if self.words(page) != [self.tag(page), *written] {
                return Err(format!("page {page:#x} has {:x?}", self.words(page)));
            }
        }
        match self.memory.violations() {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{some:?}")),
        }
    }
}

/// One sequence.
struct Run<'a, P> {
    rig: &'a mut Rig<P>,
    scene: &'a mut Scene,
    rng: Rng,
    counts: &'a mut Counts,
    done: Vec<Op>,
    looks: Vec<Look>,
}

/// What a read that the device was told to make should find.
struct Look {
    at: u64,
    page: Option<u64>,
    /// After how many operations.
    done: usize,
}

impl<P: Prober> Run<'_, P> {
    /// 4 to 12 operations, and the end of all that they left.
    fn sequence(&mut self) -> Result<(), String> {
        for _ in 0..4 + self.rng.below(9) {
            let op = ops::next(&mut self.rng, &self.scene.leaves, self.rig.target());
            self.step(op)?;
        }
        while let Some((at, _)) = self.scene.leaves.nth(0) {
            let run = self.scene.leaves.run(at).unwrap_or(at..at);
            let len = run.end - run.start;
            self.step(Op::Unmap { iova: at, len })?;
        }
        self.counts.add("sequence");
        self.check_looks()
    }

    /// Makes one call, and lets the device look at what came of it.
    fn step(&mut self, op: Op) -> Result<(), String> {
        let [inside, beside] = self.places(op);
        if !matches!(op, Op::Map { .. }) {
            self.look(&inside);
        }
        self.done.push(op);
        let expected = self.scene.leaves.apply(op);
        let result = call(&self.scene.domain, op).map_err(|error| error.kind());
        if result != expected {
            return Err(format!("it was {result:?}, not {expected:?}"));
        }
        match result {
            Ok(()) => self.counts.add(op.name()),
            Err(kind) => self.counts.add(format!("{} refused: {kind:?}", op.name())),
        }
        let tables = self.rig.memory.allocated() - self.scene.baseline;
        if tables != 4096 * self.scene.leaves.tables() {
            let expected = self.scene.leaves.tables();
            return Err(format!("{tables:#x} bytes of {expected} tables"));
        }
        if result.is_err() {
            self.look(&inside);
            return Ok(());
        }
        self.look(&inside);
        self.look(&beside);
        match self.rng.percent(50) {
            true => self.write(&inside),
            false => Ok(()),
        }
    }

    /// Pages of what an operation is about, its ends among them; and others: one next to it, and one
    /// that was mapped at some time.
    fn places(&mut self, op: Op) -> [Vec<u64>; 2] {
        let (iova, len) = match op {
            // All of the block.
            Op::Split { iova } => match self.scene.leaves.find(iova) {
                Some((at, leaf)) => (at, leaf.size),
                None => (iova, K4),
            },
            op => op.range(),
        };
        let target = self.rig.target();
        let mut inside = vec![iova, iova + len - K4, iova + self.rng.below(len / K4) * K4];
        if len >= G1 {
            // Where a block of 1 GiB leads to pages that devices have.
            let at = (iova & !(G1 - 1)) + target.in_its_gib();
            inside.extend([at, at + self.rng.below(target.len / K4) * K4]);
        }
        let mut beside = vec![self.rng.pick(&[iova - K4, iova + len])];
        let old = self.rng.index(self.scene.last.len().max(1));
        beside.extend(self.scene.last.keys().nth(old));
        // Devices keep to what is theirs.
        let ours = |at: &u64| match (op, self.scene.leaves.translate(*at)) {
            (_, Some((phys, _))) => self.rig.page(phys).is_some(),
            (Op::Map { iova, phys, .. }, None) if (iova..iova + len).contains(at) => {
                self.rig.page(phys + (at - iova)).is_some()
            }
            _ => true,
        };
        [inside, beside].map(|mut places| {
            places.retain(ours);
            places.sort_unstable();
            places.dedup();
            places
        })
    }

    /// Reads at all of these.
    fn look(&mut self, places: &[u64]) {
        for &at in places {
            self.rig.prober.read(at);
            let page = self.page(at).map(|(page, _)| page);
            let done = self.done.len();
            let tag = page.map(|page| self.rig.tag(page));
            self.looks.push(Look {
                at,
                page: tag,
                done,
            });
            match page {
                Some(page) => {
                    self.scene.last.insert(at, page);
                    self.counts.add("page read");
                }
                None => self.counts.add("read refused"),
            }
        }
    }

    /// The reads found what they should have.
    fn check_looks(&mut self) -> Result<(), String> {
        for (look, seen) in self.looks.iter().zip(self.rig.prober.seen()) {
            if seen != look.page {
                return Err(format!(
                    "after {} operations the device reads {seen:x?} at {:#x}, not {:x?}",
                    look.done, look.at, look.page
                ));
            }
        }
        Ok(())
    }

    /// Writes at one of these.
    fn write(&mut self, places: &[u64]) -> Result<(), String> {
        let Some(at) = places.get(self.rng.index(places.len().max(1))) else {
            return Ok(());
        };
        let word = self.rig.prober.write(at + 8);
        let there = self.page(*at);
        match there {
            Some((page, prot)) if prot.contains(Prot::WRITE) => {
                self.rig.written[page] = word;
                self.counts.add("page written");
            }
            Some(_) => self.counts.add("write refused: read only"),
            None => self.counts.add("write refused: unmapped"),
        }
        let pages = [
            there.map(|(page, _)| page),
            self.scene.last.get(at).copied(),
        ];
        for page in pages.into_iter().flatten() {
            let words = self.rig.words(page);
            let expected = [self.rig.tag(page), self.rig.written[page]];
            if words != expected {
                return Err(format!(
                    "a write at {at:#x} leaves {words:x?} in page {page:#x}, not {expected:x?}"
                ));
            }
        }
        Ok(())
    }

    /// The page that `iova` should lead to, and what devices may do there.
    fn page(&self, iova: u64) -> Option<(usize, Prot)> {
        let (phys, prot) = self.scene.leaves.translate(iova)?;
        Some((self.rig.page(phys)?, prot))
    }
}

fn call(domain: &DomainRef, op: Op) -> Result<(), Error> {
    match op {
        Op::Map {
            iova,
            phys,
            len,
            prot,
        } => {
            // SAFETY: devices are told to reach the rig's own pages alone, and nobody else uses
            // those.
            unsafe { domain.map(Iova(iova), PhysAddr(phys), len, prot) }
        }
        Op::Unmap { iova, len } => domain.unmap(Iova(iova), len),
        Op::Protect { iova, len, prot } => {
            // SAFETY: as above.
            unsafe { domain.protect(Iova(iova), len, prot) }
        }
        Op::Split { iova } => domain.split(Iova(iova)),
        Op::Merge { iova, size } => {
            // SAFETY: nobody else uses the domain.
            unsafe { domain.merge(Iova(iova), size) }
        }
    }
}
