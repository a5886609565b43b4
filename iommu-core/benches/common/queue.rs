//! The command queue by itself.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arm_smmu_v3::spec::commands::Command;
use arm_smmu_v3::spec::granule::Granule;
use arm_smmu_v3::{ArmSmmuV3, Config, internals};
use iommu_core::{Iova, RegisterBank, Result, SpinLock};
use lock_api::Mutex;

use super::lab::{OneCpu, one_cpu};
use super::platform::Registers;
use super::pool::Pool;
use super::ranges::AT;
use super::timed::Timed;
use super::{Apart, Case};

/// What a `CMD_SYNC` takes, and how a row says so. A server's SMMUv3 takes 550 ns with its queue in
/// the memory of another node, and 240 ns with it in its own (iommu mailing list, 2020, "support
/// per-numa CMA for ARM server"). No hardware takes nothing: what is left then is the CPUs' part.
pub(crate) const SYNCS: [(Duration, &str); 3] = [
    (Duration::from_nanos(550), ", SYNC of 550 ns"),
    (Duration::from_nanos(240), ", SYNC of 240 ns"),
    (Duration::ZERO, ""),
];

/// One invalidation and its wait, without a mapping. A clone is for another thread.
#[derive(Clone)]
pub(crate) struct Queue<B: RegisterBank>(ArmSmmuV3<OneCpu<B>>);

impl Queue<Registers> {
    pub(crate) fn new() -> Self {
        Self::of(Registers::new())
    }
}

impl Queue<Timed> {
    /// Of hardware that takes so long for a `CMD_SYNC`.
    pub(crate) fn timed(sync: Duration) -> Self {
        Self::of(Timed::new(sync))
    }
}

impl<B: RegisterBank> Queue<B> {
    fn of(bank: B) -> Self {
        let platform = one_cpu(bank, &Pool::new());
        Self(ArmSmmuV3::probe(platform, Config::default()).expect("an SMMU"))
    }
}

impl<B: RegisterBank> Case for Queue<B> {
    #[inline(always)]
    fn call(&mut self) -> Result {
        invalidate(&self.0, Iova(AT))
    }
}

#[inline(never)]
fn invalidate<B: RegisterBank>(smmu: &ArmSmmuV3<OneCpu<B>>, page: Iova) -> Result {
    internals::run(smmu, [Command::tlbi_va(1, page).over(Granule::K4, 1, 3)])
}

/// The least that a queue takes which several share: a lock, two commands, a doorbell, and a look. A
/// clone is for another thread.
#[derive(Clone)]
pub(crate) struct Turns(Arc<Shared>);

/// Each in cache lines of its own.
struct Shared {
    told: Apart<Mutex<SpinLock, u32>>,
    doorbell: Apart<AtomicU32>,
    slots: [Apart<[AtomicU64; 16]>; 32],
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            told: Apart(Mutex::new(0)),
            doorbell: Apart(AtomicU32::new(0)),
            slots: Default::default(),
        }))
    }
}

impl Case for Turns {
    #[inline(always)]
    fn call(&mut self) -> Result {
        take_turn(&self.0);
        Ok(())
    }
}

#[inline(never)]
fn take_turn(shared: &Shared) {
    let Shared {
        told: Apart(told),
        doorbell: Apart(doorbell),
        slots,
    } = shared;
    let mut told = told.lock();
    // Four turns to a line.
    let slot = *told as usize / 4 % slots.len();
    let words = &slots[slot].0;
    let first = *told as usize % 4 * 4;
    for word in &words[first..first + 4] {
        word.store(black_box(1), Ordering::Relaxed);
    }
    *told = told.wrapping_add(1);
    let end = *told;
    doorbell.store(end, Ordering::Release);
    drop(told);
    while end
        .wrapping_sub(doorbell.load(Ordering::Acquire))
        .cast_signed()
        > 0
    {}
}
