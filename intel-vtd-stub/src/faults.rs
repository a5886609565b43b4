//! What the hardware refused: the ring of fault recording registers (7.2.1).

use core::sync::atomic::{AtomicU64, Ordering};

use iommu_core::{Platform, RawLock, RegisterBank};
use lock_api::Mutex;

use crate::features::Features;
use crate::spec::{self, F, Fault, Fsts};
use crate::unit::Unit;

pub(crate) struct FaultRecords<L: RawLock> {
    first: usize,
    count: usize,
    /// Which record to look at next, while there are some.
    next: Mutex<L, Option<usize>>,
    overflows: AtomicU64,
}

impl<L: RawLock> FaultRecords<L> {
    pub(crate) fn new(features: &Features) -> Self {
        Self {
            first: features.fault_records,
            count: features.fault_record_count,
            next: Mutex::new(None),
            overflows: AtomicU64::new(0),
        }
    }

    /// How often the hardware has said that it had to drop faults.
    pub(crate) fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }

    /// Takes the oldest fault out of its record. Looks at each record once at most.
    pub(crate) fn next<P: Platform>(&self, unit: &Unit<P>) -> Option<Fault> {
        let mut next = self.next.lock();
        let bank = unit.bank();
        let status = Fsts::from_bits(bank.read32(spec::FSTS));
        if status.ppf() {
            let start = next.unwrap_or(status.fri().into());
            for record in (start..start + self.count).map(|record| record % self.count) {
                let at = self.first + record * spec::FRCD_SIZE;
                let high = bank.read64(at + 8);
                if high & F != 0 {
                    let fault = Fault::from_words(bank.read64(at), high);
                    bank.write64(at + 8, F);
                    *next = Some((record + 1) % self.count);
                    return Some(fault);
                }
            }
        }
        *next = None;
        if status.pfo() {
            // Every record is empty: from here on faults are recorded again.
            self.overflows.fetch_add(1, Ordering::Relaxed);
            log::warn!("the fault records overflowed: faults are lost");
            bank.write32(spec::FSTS, Fsts::new().with_pfo(true).into_bits());
        }
        None
    }
}
