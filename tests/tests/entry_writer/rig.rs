//! One stream's entry, written by plans, before the checker.

use arm_smmu_v3::spec::ste::{Ste, WORDS};
use iommu_core::entry::{Plan, Rules, Store, Target};
use iommu_core::{Atomicity, PhysAddr};
use mock_hw::smmuv3::{EntryChecker, ModelConfig};

use crate::kinds::{self, Kind, Words};

pub(crate) const STREAM: u32 = 5;
const ENTRY: u64 = 0x4001_0140;

pub(crate) const CFGI_STE: [u64; 2] = [0x0005_0000_0003, 1];
pub(crate) const SYNC: [u64; 2] = [0x46, 0];
const TLBI_S12_VMALL: u64 = 0x28;

pub(crate) struct Rig {
    checker: EntryChecker,
    live: Words,
    on: Kind,
    /// The round that nobody waits for.
    skipped: Option<usize>,
}

/// ATS, stalls that software chooses, substreams, all of the attributes.
pub(crate) fn hardware() -> ModelConfig {
    let default = ModelConfig::default();
    ModelConfig {
        idr0: default.idr0 & !(0b11 << 24) | 1 << 10 | 1 << 19,
        idr1: default.idr1 | 10 << 6 | 1 << 27,
        ..default
    }
}

impl Rig {
    pub(crate) fn new(atomicity: Atomicity, on: &Kind) -> Self {
        let mut checker = EntryChecker::new(hardware(), atomicity);
        for table in 0..kinds::TABLES {
            for substream in 0..4 {
                let at = kinds::table(table) + u64::from(substream) * 64;
                checker.set_memory(PhysAddr(at), &kinds::descriptor(table, substream));
            }
        }
        let live = on.words();
        checker.watch(STREAM, PhysAddr(ENTRY), live);
        checker.expect(STREAM, &[on.image()]);
        Self {
            checker,
            live,
            on: *on,
            skipped: None,
        }
    }

    /// Leaves out the wait after this round.
    pub(crate) fn skips(&mut self, round: usize) {
        self.skipped = Some(round);
    }

    /// Writes another entry, and invalidates, and waits as its plan asks.
    pub(crate) fn change(&mut self, to: &Kind, rules: Rules) -> Plan {
        let target: Target<Ste, WORDS> = Target::new(to.words()).expect("a target");
        let plan = Plan::new(&self.live, &target, rules).expect("a plan");
        let mut images = self.on.waypoints(to, rules.retag);
        images.extend(to.waypoints(&self.on, rules.retag));
        if plan.breaks() {
            images.push(Kind::Abort.image());
        }
        self.checker.expect(STREAM, &images);
        let tags = [self.on.vmid(), to.vmid()];
        for (number, round) in plan.rounds().enumerate() {
            let checker = &mut self.checker;
            round.apply(&mut self.live, &target, |store| match store {
                Store::Word { word, value } => {
                    checker.store(PhysAddr(ENTRY + 8 * word as u64), &[value]);
                }
                Store::Pair { pair, values } => {
                    checker.store(PhysAddr(ENTRY + 16 * pair as u64), &values);
                }
            });
            if self.skipped == Some(number) {
                continue;
            }
            self.checker.command(CFGI_STE);
            self.checker.command(SYNC);
            // Who allows a tag to change by itself invalidates it.
            for vmid in tags.into_iter().filter(|vmid| rules.retag && *vmid != 0) {
                self.checker.command([TLBI_S12_VMALL | vmid << 32, 0]);
                self.checker.command(SYNC);
            }
        }
        self.on = *to;
        self.checker.expect(STREAM, &[to.image()]);
        plan
    }

    pub(crate) fn failed(&self) -> bool {
        !self.checker.failures().is_empty()
    }

    pub(crate) fn report(&self) -> String {
        self.checker.failures().join("\n")
    }

    pub(crate) fn is_clean(&self, what: &str) {
        assert!(!self.failed(), "{what}:\n{}", self.report());
    }
}
