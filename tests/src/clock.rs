//! The clock of the host.

use std::thread;
use std::time::{Duration, Instant};

use iommu_core::Clock;

/// The host's monotonic clock. Its time starts where it was made; copies share that moment.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock that starts at zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Lets other threads run: what is waited for may be one of them.
    fn relax(&self) {
        thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_after_its_bound() {
        let clock = SystemClock::new();
        let bound = Duration::from_millis(2);
        assert_eq!(clock.poll(bound, || None::<()>), None);
        assert!(clock.now() >= bound);
    }
}
