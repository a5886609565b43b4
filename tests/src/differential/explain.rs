//! Whether what an access did is among what it may do.

use iommu_core::RegisterBank;

use super::oracle::Expected;
use super::side::{Access, Seen, Side};

/// Which of what is allowed an access did, and by which masks; or what else it did.
pub(super) type Explained = Result<(usize, Vec<&'static str>), Seen>;

/// Makes an access on one machine; which of what is allowed it did, and by which masks.
pub(super) fn explain<B: RegisterBank>(
    side: &mut Side<'_, B>,
    access: &Access,
    allowed: &[Expected],
    event: impl Fn(&[u64; 4], &[u64; 4]) -> Option<Vec<&'static str>>,
) -> Explained {
    // What was there before.
    let before: Vec<_> = allowed
        .iter()
        .map(|expected| match expected {
            Expected::Reaches(to) => side.data(to & !7),
            _ => 0,
        })
        .collect();
    let seen = side.access(access);
    let untouched = seen.changed.is_empty() && seen.read.iter().all(|byte| *byte == 0);
    let silent = seen.events.is_empty();
    let fits = |expected: &Expected, before: u64| {
        let fits = match expected {
            Expected::Reaches(to) => silent && reached(access, &seen, *to, before),
            Expected::Nothing => silent && untouched,
            Expected::Elsewhere => false,
            Expected::Event(expected) => match seen.events.as_slice() {
                [one] if untouched => return event(expected, one),
                _ => false,
            },
        };
        fits.then(Vec::new)
    };
    let both = allowed.iter().zip(before).enumerate();
    both.into_iter()
        .find_map(|(n, (expected, before))| Some((n, fits(expected, before)?)))
        .ok_or(seen)
}

/// Whether an access got to the data at `to`, in the word that was `before`.
fn reached(access: &Access, seen: &Seen, to: u64, before: u64) -> bool {
    let mut bytes = before.to_le_bytes();
    let first = usize::try_from(to & 7).unwrap_or(0);
    let part = &mut bytes[first..first + access.size];
    if !access.write {
        return seen.read == part;
    }
    part.copy_from_slice(&access.value.to_le_bytes()[..access.size]);
    let after = u64::from_le_bytes(bytes);
    seen.changed == [(to & !7, after)] || after == before && seen.changed.is_empty()
}
