//! Whose turn it is to put commands into the queue.
//!
//! The lock is only ever tried, so that no wait for it is longer than the bound: whoever holds it
//! may be a CPU that its hypervisor has stopped. Whoever finds it taken looks again for a while, and
//! then joins a line, which those who come later let go first. So the lock may pass to whoever is
//! quickest, which is what costs the least, but nobody waits for long because of others who come
//! again and again, whatever kind of lock the platform has.
//!
//! Those who wait for the hardware want the lock when it has got somewhere. They join the line too,
//! and leave it when there is nothing for them to see.
//!
//! The line is a courtesy: nobody depends on it. Where it stands still, somebody in it is not there
//! (this very CPU, maybe, interrupted), and whoever waits tries the lock all the same.

use iommu_core::{DmaMemory, Error, ErrorKind, Platform, RawLock, Result};
use lock_api::MutexGuard;

use super::{CommandQueue, State};
use crate::hardware::Hardware;
use crate::sync::{AtomicU32, Ordering, spin_loop};

/// How often the lock is looked at between two looks at the clock.
const LOOKS: u32 = if cfg!(loom) { 1 } else { 64 };
/// After how many looks a caller joins the line.
const PATIENCE: u32 = if cfg!(loom) { 1 } else { 16 };
/// After how many looks at a line that does not move it is ignored.
const STANDSTILL: u32 = if cfg!(loom) { 1 } else { 256 };

/// Those who have waited for long: tickets, and how many of them were handed in.
pub(super) struct Line {
    pub(super) joined: AtomicU32,
    pub(super) left: AtomicU32,
}

impl Line {
    pub(super) fn new() -> Self {
        let [joined, left] = [0, 0].map(AtomicU32::new);
        Self { joined, left }
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.joined.load(Ordering::Relaxed) == self.left.load(Ordering::Relaxed)
    }
}

/// One caller who waits.
pub(super) struct Turn<'a> {
    line: &'a Line,
    ticket: Option<u32>,
    /// How many had left the line when that last changed.
    left: u32,
    /// How often it was looked at since.
    looks: u32,
}

impl<'a> Turn<'a> {
    pub(super) fn new(line: &'a Line) -> Self {
        Self {
            line,
            ticket: None,
            left: 0,
            looks: 0,
        }
    }

    /// Whether this caller may try the lock.
    pub(super) fn has_come(&mut self) -> bool {
        self.looks += 1;
        let Some(ticket) = self.ticket else {
            if self.looks > PATIENCE {
                self.ticket = Some(self.line.joined.fetch_add(1, Ordering::Relaxed));
                self.looks = 0;
            }
            return self.line.is_empty();
        };
        let left = self.line.left.load(Ordering::Relaxed);
        if left != self.left {
            (self.left, self.looks) = (left, 0);
        }
        // Whoever gave up behind this caller counts as well: it may be early, never late.
        left.wrapping_sub(ticket).cast_signed() >= 0 || self.looks > STANDSTILL
    }
}

impl Turn<'_> {
    /// Waits for something else from here on.
    pub(super) fn give_up(&mut self) {
        *self = Self::new(self.line);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            self.line.left.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<M: DmaMemory, L: RawLock> CommandQueue<M, L> {
    /// The queue, for this caller alone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::IommuTimedOut`]: another caller did not let go of it within the bound.
    #[inline(always)]
    pub(super) fn enter<P>(&self, hardware: &Hardware<P>) -> Result<MutexGuard<'_, L, State>>
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        // The lock first: looking at the line before would fetch its memory twice, to read and to
        // write.
        if let Some(state) = self.state.try_lock()
            && self.line.is_empty()
        {
            return Ok(state);
        }
        self.enter_in_turn(hardware)
    }

    #[cold]
    #[inline(never)]
    fn enter_in_turn<P>(&self, hardware: &Hardware<P>) -> Result<MutexGuard<'_, L, State>>
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let mut turn = Turn::new(&self.line);
        let entered = hardware.poll(|| {
            (0..LOOKS).find_map(|_| {
                let state = turn.has_come().then(|| self.state.try_lock()).flatten();
                if state.is_none() {
                    spin_loop();
                }
                state
            })
        });
        entered.ok_or_else(taken)
    }
}

/// Another caller is in the middle of submitting, and does not go on.
pub(super) fn taken() -> Error {
    Error::new(
        ErrorKind::IommuTimedOut,
        "another caller does not let go of the command queue",
    )
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Looks until `turn` is in the line.
    fn join<'a>(line: &'a Line) -> Turn<'a> {
        let mut turn = Turn::new(line);
        while turn.ticket.is_none() {
            turn.has_come();
        }
        turn
    }

    #[test]
    fn whoever_has_waited_for_long_goes_first_and_in_turn() {
        let line = Line::new();
        assert!(Turn::new(&line).has_come(), "nobody is in the line");
        let (mut first, mut second) = (join(&line), join(&line));
        assert!(!line.is_empty() && !Turn::new(&line).has_come());
        assert!(!second.has_come() && first.has_come());
        drop(first);
        assert!(second.has_come() && !Turn::new(&line).has_come());
        drop(second);
        assert!(line.is_empty() && Turn::new(&line).has_come());
    }

    #[test]
    fn a_line_that_does_not_move_stops_nobody() {
        let line = Line::new();
        let away = join(&line);
        let mut other = Turn::new(&line);
        let looks = (1..).find(|_| other.has_come()).expect("at some time");
        assert!(looks > PATIENCE + STANDSTILL, "after {looks} looks");
        // Whoever gives up behind others does not leave a gap.
        let (last, mut next) = (join(&line), join(&line));
        drop((last, other, away));
        assert!(next.has_come());
    }
}
