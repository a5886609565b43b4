//! Numbers that tag cached translations: ASIDs, VMIDs, domain ids.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use lock_api::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::platform::RawLock;

/// Hands out the numbers of a range, each to one owner at a time. A number comes back only when no
/// cache carries it any more; one for which that is not known never does.
pub struct Ids<L: RawLock> {
    what: &'static str,
    first: u16,
    last: u16,
    used: Mutex<L, Used>,
}

struct Used {
    /// A bit for each number.
    bits: Vec<u64>,
    /// Where to look first.
    next: u16,
}

impl<L: RawLock> Ids<L> {
    /// Numbers from `first` to `last`, none where that is below `first`. `what` is the reason in the
    /// error where there are no more.
    #[must_use]
    pub fn new(what: &'static str, first: u16, last: u16) -> Self {
        let bits = vec![0; usize::from(last) / 64 + 1];
        Self {
            what,
            first,
            last,
            used: Mutex::new(Used { bits, next: first }),
        }
    }

    /// A number that nobody has. Those that came back last are handed out last.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSpace`].
    pub fn allocate(&self) -> Result<u16> {
        let used = &mut *self.used.lock();
        let candidates = (used.next..=self.last).chain(self.first..used.next);
        for id in candidates {
            let (word, bit) = (usize::from(id) / 64, 1 << (id % 64));
            if used.bits[word] & bit == 0 {
                used.bits[word] |= bit;
                used.next = if id == self.last { self.first } else { id + 1 };
                return Ok(id);
            }
        }
        Err(Error::new(ErrorKind::NoSpace, self.what))
    }

    /// Takes back a number that no cache carries.
    pub fn free(&self, id: u16) {
        if let Some(word) = self.used.lock().bits.get_mut(usize::from(id) / 64) {
            *word &= !(1 << (id % 64));
        }
    }
}

impl<L: RawLock> fmt::Debug for Ids<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ids({}..={})", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::SpinLock;

    #[test]
    fn every_number_of_the_range_is_handed_out_once() {
        let ids = Ids::<SpinLock>::new("ids", 2, 0xff);
        let mut all: Vec<u16> = (2..256).map(|_| ids.allocate().unwrap()).collect();
        all.sort_unstable();
        assert!(all.iter().copied().eq(2..=255));
        assert_eq!(ids.allocate().unwrap_err().kind(), ErrorKind::NoSpace);
        ids.free(77);
        assert_eq!(ids.allocate().unwrap(), 77);
    }

    #[test]
    fn a_range_may_be_empty() {
        let ids = Ids::<SpinLock>::new("ids", 2, 1);
        assert_eq!(ids.allocate().unwrap_err().kind(), ErrorKind::NoSpace);
    }
}
