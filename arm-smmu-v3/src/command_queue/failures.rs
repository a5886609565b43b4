//! Which commands failed, and how.

use core::ops::Range;

use iommu_core::{Error, ErrorKind, Result};

/// How many failed commands are remembered by position.
const REMEMBERED: usize = 16;

/// The latest failed commands, and from where on they are known.
pub(super) struct Failures {
    latest: [Option<(u64, Error)>; REMEMBERED],
    next: usize,
    /// Failures at positions below this may have been forgotten.
    known_from: u64,
}

impl Failures {
    pub(super) const fn new() -> Self {
        Self {
            latest: [const { None }; REMEMBERED],
            next: 0,
            known_from: 0,
        }
    }

    /// Remembers that the command at `position` failed. Positions never go back.
    pub(super) fn push(&mut self, position: u64, error: Error) {
        let forgotten = self.latest[self.next].replace((position, error));
        if let Some((position, _)) = forgotten {
            self.known_from = position + 1;
        }
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// The gravest failure at these positions.
    pub(super) fn within(&self, positions: Range<u64>) -> Result {
        if positions.start < self.known_from {
            return Err(Error::new(
                ErrorKind::Hardware,
                "more commands failed than could be kept apart; one of these may be among them",
            ));
        }
        let mut gravest = Ok(());
        for (at, error) in self.latest.iter().flatten() {
            if positions.contains(at) {
                gravest = graver(gravest, Err(error.clone()));
            }
        }
        gravest
    }
}

/// The graver of two results. Where a device did not answer, invalidations of devices' caches may
/// have come to nothing, that device's or another's, and all the rest was done (4.7.3). So any other
/// error is graver.
pub(super) fn graver(first: Result, second: Result) -> Result {
    match (&first, &second) {
        (Ok(()), _) => second,
        (Err(error), Err(_)) if error.kind() == ErrorKind::DeviceTimedOut => second,
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, "a failure")
    }

    fn kind(result: Result) -> Option<ErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[test]
    fn a_failure_is_told_to_whoever_owns_its_position_only() {
        let mut failures = Failures::new();
        failures.push(7, error(ErrorKind::Hardware));
        assert_eq!(kind(failures.within(5..7)), None);
        assert_eq!(kind(failures.within(7..8)), Some(ErrorKind::Hardware));
        assert_eq!(kind(failures.within(8..20)), None);
    }

    #[test]
    fn a_device_that_does_not_answer_never_hides_a_refused_command() {
        for kinds in [
            [ErrorKind::DeviceTimedOut, ErrorKind::Hardware],
            [ErrorKind::Hardware, ErrorKind::DeviceTimedOut],
        ] {
            let mut failures = Failures::new();
            for (at, of) in kinds.into_iter().enumerate() {
                failures.push(at as u64, error(of));
            }
            assert_eq!(kind(failures.within(0..2)), Some(ErrorKind::Hardware));
        }
        let silent = || Err(error(ErrorKind::DeviceTimedOut));
        assert_eq!(
            kind(graver(silent(), Ok(()))),
            Some(ErrorKind::DeviceTimedOut)
        );
        assert_eq!(
            kind(graver(Ok(()), silent())),
            Some(ErrorKind::DeviceTimedOut)
        );
    }

    #[test]
    fn a_failure_that_was_forgotten_may_be_anybodys_before_it() {
        let mut failures = Failures::new();
        for position in 0..=REMEMBERED as u64 {
            failures.push(position * 10, error(ErrorKind::DeviceTimedOut));
        }
        // Position 0 was forgotten.
        assert_eq!(kind(failures.within(0..1)), Some(ErrorKind::Hardware));
        assert_eq!(kind(failures.within(1..10)), None);
        assert_eq!(
            kind(failures.within(1..11)),
            Some(ErrorKind::DeviceTimedOut)
        );
    }
}
