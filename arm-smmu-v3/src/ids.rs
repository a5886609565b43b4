//! Numbers that tag TLB entries: ASIDs and VMIDs.

use alloc::vec;
use alloc::vec::Vec;

use iommu_core::{Error, ErrorKind, RawLock, Result};
use lock_api::Mutex;

/// Hands out numbers from 1 up. A number comes back only when nothing in the TLB carries it any
/// more; one for which that is not known never does.
pub(crate) struct Ids<L: RawLock> {
    what: &'static str,
    max: u16,
    used: Mutex<L, Used>,
}

struct Used {
    /// A bit for each number.
    bits: Vec<u64>,
    /// Where to look first.
    next: u16,
}

impl<L: RawLock> Ids<L> {
    /// Numbers from 1 to `max`. 0 is never handed out: VMID 0 tags the stage-1 entries of all
    /// streams, which must share it with no stage-2 table (3.17), and ASID 0 is what a CD of zeros
    /// has.
    pub(crate) fn new(what: &'static str, max: u16) -> Self {
        let mut bits = vec![0; usize::from(max) / 64 + 1];
        bits[0] = 1;
        Self {
            what,
            max,
            used: Mutex::new(Used { bits, next: 1 }),
        }
    }

    pub(crate) fn allocate(&self) -> Result<u16> {
        let used = &mut *self.used.lock();
        let candidates = (used.next..=self.max).chain(1..used.next);
        for id in candidates {
            let (word, bit) = (usize::from(id) / 64, 1 << (id % 64));
            if used.bits[word] & bit == 0 {
                used.bits[word] |= bit;
                used.next = if id == self.max { 1 } else { id + 1 };
                return Ok(id);
            }
        }
        Err(Error::new(ErrorKind::NoSpace, self.what))
    }

    /// Takes back a number that nothing in the TLB carries.
    pub(crate) fn free(&self, id: u16) {
        self.used.lock().bits[usize::from(id) / 64] &= !(1 << (id % 64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iommu_core::SpinLock;

    #[test]
    fn every_number_but_zero_is_handed_out_once() {
        let ids = Ids::<SpinLock>::new("ids", 0xff);
        let mut all: Vec<u16> = (0..255).map(|_| ids.allocate().unwrap()).collect();
        all.sort_unstable();
        assert!(all.iter().copied().eq(1..=255));
        assert_eq!(ids.allocate().unwrap_err().kind(), ErrorKind::NoSpace);
        ids.free(77);
        assert_eq!(ids.allocate().unwrap(), 77);
    }
}
