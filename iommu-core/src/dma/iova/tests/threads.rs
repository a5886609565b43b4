//! Several CPUs at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::vec::Vec;

use super::{ANYWHERE, PAGE, allocator, exhaust};
use crate::dma::iova::IovaRange;

/// Who owns which page.
struct Owned(Vec<AtomicBool>);

impl Owned {
    fn each(&self, range: &IovaRange, owned: bool) {
        let first = usize::try_from(range.iova().0 / PAGE).unwrap();
        let count = usize::try_from(range.size() / PAGE).unwrap();
        for page in &self.0[first..][..count] {
            assert_ne!(page.swap(owned, Ordering::AcqRel), owned, "{range:?}");
        }
    }
}

#[test]
fn no_page_is_ever_two_threads() {
    let space = 1 << if cfg!(miri) { 7 } else { 12 };
    let rounds = if cfg!(miri) { 60 } else { 100_000_u64 };
    let iovas = allocator(0, space * PAGE);
    let owned = Owned((0..space).map(|_| AtomicBool::new(false)).collect());
    // Each frees what the other has allocated, with CPU numbers that are right and wrong. Space
    // runs out, so magazines are emptied under the other's feet.
    let (to_a, from_b) = mpsc::channel();
    let (to_b, from_a) = mpsc::channel();
    thread::scope(|scope| {
        for (me, to, from) in [(0, to_b, from_b), (1, to_a, from_a)] {
            let (iovas, owned) = (&iovas, &owned);
            scope.spawn(move || {
                let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ me;
                for _ in 0..rounds {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let cpu = if state & 0x700 == 0 { 1 - me } else { me };
                    let cpu = usize::try_from(cpu).unwrap();
                    let size = PAGE << (state % 5);
                    if let Ok(range) = iovas.allocate(cpu, size, &ANYWHERE) {
                        owned.each(&range, true);
                        // The other may be done.
                        if let Err(mpsc::SendError(range)) = to.send(range) {
                            owned.each(&range, false);
                            iovas.free(cpu, range);
                        }
                    }
                    for range in from.try_iter().take(usize::try_from(state >> 62).unwrap()) {
                        owned.each(&range, false);
                        iovas.free(cpu, range);
                    }
                }
                drop(to);
                for range in from {
                    owned.each(&range, false);
                    iovas.free(0, range);
                }
            });
        }
    });
    assert_eq!(exhaust(&iovas).len() as u64, space);
}
