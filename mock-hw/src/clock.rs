//! Time that passes only when somebody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use iommu_core::Clock;

/// A clock that starts at zero and moves on by a fixed step each time it is asked to
/// [`relax`](Clock::relax), so that waits for hardware that never answers end at once.
///
/// A clone is a handle to the same clock.
#[derive(Clone, Debug)]
pub struct MockClock {
    time: Arc<Time>,
}

#[derive(Debug)]
struct Time {
    nanoseconds: AtomicU64,
    step: AtomicU64,
}

impl MockClock {
    /// A clock at zero with a step of one millisecond.
    #[must_use]
    pub fn new() -> Self {
        let (nanoseconds, step) = (AtomicU64::new(0), AtomicU64::new(1_000_000));
        Self {
            time: Arc::new(Time { nanoseconds, step }),
        }
    }

    /// Sets by how much each [`relax`](Clock::relax) moves the clock on.
    pub fn set_step(&self, step: Duration) {
        self.time.step.store(nanoseconds(step), Ordering::Relaxed);
    }

    /// Lets `duration` pass.
    pub fn advance(&self, duration: Duration) {
        self.time
            .nanoseconds
            .fetch_add(nanoseconds(duration), Ordering::Relaxed);
    }
}

/// As a number; about 584 years at most.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Default for MockClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MockClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.time.nanoseconds.load(Ordering::Relaxed))
    }

    fn relax(&self) {
        let step = self.time.step.load(Ordering::Relaxed);
        self.time.nanoseconds.fetch_add(step, Ordering::Relaxed);
        // Hardware may be modelled by another thread; let it run.
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_without_an_answer_ends() {
        let clock = MockClock::new();
        let handle = clock.clone();
        assert_eq!(clock.poll(Duration::from_secs(1), || None::<()>), None);
        assert_eq!(handle.now(), Duration::from_secs(1));
        handle.set_step(Duration::from_secs(5));
        handle.relax();
        handle.advance(Duration::from_secs(4));
        assert_eq!(clock.now(), Duration::from_secs(10));
    }
}
