//! Whether what an access did is among what it may do.

use iommu_core::RegisterBank;

use super::oracle::Expected;
use super::side::{Access, Seen, Side};

/// One of the things that an access may have done.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// Which of what is allowed.
    pub(super) which: usize,
    /// What it read then.
    pub(super) read: Vec<u8>,
    /// By which masks.
    pub(super) masks: Vec<&'static str>,
}

/// What differs from what is expected, and is let pass.
pub(super) struct Leniency {
    /// Takes an expected fault and the one that was seen.
    pub(super) fault: fn(&[u64; 2], &[u64; 2]) -> Option<Vec<&'static str>>,
    /// Takes an expected fault where there was none.
    pub(super) silence: fn(&[u64; 2], &Seen) -> Option<&'static str>,
    /// Takes a fault where none is expected.
    pub(super) noise: fn(&[u64; 2]) -> Option<&'static str>,
}

/// Makes an access on one machine; which of what is allowed it may have done, as far as is known
/// before the device tells what it read. None, and what it did instead, is a divergence.
pub(super) fn explain<B: RegisterBank>(
    side: &mut Side<'_, B>,
    access: &Access,
    allowed: &[Expected],
    leniency: &Leniency,
) -> Result<Vec<Candidate>, Seen> {
    // What was there before.
    let before: Vec<_> = allowed
        .iter()
        .map(|expected| match expected {
            Expected::Reaches(to) => side.data(to & !7),
            _ => 0,
        })
        .collect();
    let seen = side.access(access);
    let untouched = seen.changed.is_empty();
    let silent = seen.faults.is_empty();
    let candidates: Vec<_> = allowed
        .iter()
        .zip(before)
        .enumerate()
        .filter_map(|(which, (expected, before))| {
            let masks = match expected {
                Expected::Reaches(to) => {
                    (silent && reached(access, &seen, *to, before)).then(Vec::new)
                }
                Expected::Nothing => match seen.faults.as_slice() {
                    [] if untouched => Some(Vec::new()),
                    [one] if untouched => (leniency.noise)(one).map(|mask| vec![mask]),
                    _ => None,
                },
                Expected::Elsewhere => None,
                Expected::Fault(expected) => match seen.faults.as_slice() {
                    [one] if untouched => (leniency.fault)(expected, one),
                    [] if untouched => (leniency.silence)(expected, &seen).map(|mask| vec![mask]),
                    _ => None,
                },
            }?;
            let read = match (access.write, expected) {
                (true, _) => Vec::new(),
                (false, Expected::Reaches(to)) => part(before, *to, access.size),
                _ => vec![0; access.size],
            };
            Some(Candidate { which, read, masks })
        })
        .collect();
    if candidates.is_empty() {
        return Err(seen);
    }
    Ok(candidates)
}

/// `size` bytes of a word, from the address `at` on.
fn part(word: u64, at: u64, size: usize) -> Vec<u8> {
    let first = usize::try_from(at & 7).unwrap_or(0);
    word.to_le_bytes()[first..first + size].to_vec()
}

/// Whether a write got to the data at `to`, in the word that was `before`. Of a read, the device tells
/// later.
fn reached(access: &Access, seen: &Seen, to: u64, before: u64) -> bool {
    if !access.write {
        return true;
    }
    let mut bytes = before.to_le_bytes();
    let first = usize::try_from(to & 7).unwrap_or(0);
    bytes[first..first + access.size].copy_from_slice(&access.value.to_le_bytes()[..access.size]);
    let after = u64::from_le_bytes(bytes);
    seen.changed == [(to & !7, after)] || after == before && seen.changed.is_empty()
}
