//! Where QEMU (10.0.2) differs from the architecture, and why that is let pass.
//!
//! Below is what is let pass in faults. Inputs that are not generated, because what they do to QEMU
//! goes beyond one fault:
//!
//! - accesses that are not 1, 2 or 4 bytes at a multiple of that: QEMU cuts a transfer into pieces, and
//!   faults once for each;
//! - addresses of interrupts: QEMU delivers what is written there, and aborts where it cannot;
//! - addresses wider than the host's from devices that may pass untranslated: QEMU passes them;
//! - leaves near the addresses of interrupts: QEMU refuses a large page for what none asked for;
//! - entries with reserved bits and without rights: QEMU looks at rights first;
//! - reserved bits of PASID directory entries and PASID entries: QEMU looks at none;
//! - the snoop bit of second-level entries in a unit with scalable mode but without `ECAP.SC`: QEMU
//!   takes it;
//! - PASID entries that are good but for P = 0: QEMU uses them while it has the context entry cached;
//! - bad PASID entries below a context or directory entry with FPD: QEMU uses what is in them while it
//!   has the context entry cached;
//! - ends of pass-through in scalable mode with no invalidation of the context entry: QEMU takes no
//!   notice of PASID-cache invalidations, and lets the device pass;
//! - `RID_PASID` beyond the directory's size: QEMU does not look at the size;
//! - first-level tables with `AW` other than four levels: QEMU has their addresses end there;
//! - first-level tables that are not snooped (`ECAP.C` = 0 without `PWSNP`) and have flags to be set: a
//!   fault by the architecture, and QEMU sets them, so the model of it has `ECAP.C` = 1;
//! - tables of all ones: QEMU takes an entry of all ones for one that cannot be read;
//! - wait descriptors that both write a status and interrupt: QEMU aborts.

use super::encode::fault;
use super::side::Seen;

/// A difference that is let pass.
struct Mask {
    /// What is let pass.
    name: &'static str,
    /// Takes the difference out of what is expected and what was seen.
    equalise: fn(&mut [u64; 2], &mut [u64; 2]),
}

const MASKS: [Mask; 5] = [
    Mask {
        name: "a PASID means nothing where there is none; QEMU writes ones",
        equalise: |_, seen| {
            if seen[1] & fault::PASID_PRESENT == 0 {
                seen[1] &= !fault::PASID;
            }
        },
    },
    Mask {
        name: "requests without PASID have none; QEMU says RID_PASID once it walks tables",
        equalise: |expected, seen| {
            if expected[1] & fault::PASID_PRESENT == 0 {
                seen[1] &= !(fault::PASID_PRESENT | fault::PASID);
            }
        },
    },
    Mask {
        name: "scalable mode has reasons of its own for root and context entries; QEMU has legacy's",
        equalise: |expected, seen| {
            rename(
                expected,
                seen,
                &[
                    (0x38, 0x08),
                    (0x39, 0x01),
                    (0x3a, 0x0a),
                    (0x40, 0x09),
                    (0x41, 0x02),
                    (0x42, 0x0b),
                ],
            );
        },
    },
    Mask {
        name: "scalable mode has reasons of its own for second-level tables; QEMU has legacy's",
        equalise: |expected, seen| {
            rename(
                expected,
                seen,
                &[
                    (0x78, 0x07),
                    (0x79, 0x05),
                    (0x79, 0x06),
                    (0x7a, 0x0c),
                    (0x7b, 0x03),
                    (0x84, 0x04),
                ],
            );
        },
    },
    Mask {
        name: "a PASID entry that is not present says nothing else; QEMU looks at PGTT and AW first",
        equalise: |expected, seen| rename(expected, seen, &[(0x59, 0x5b)]),
    },
];

/// Makes the reasons the same where they are one of these pairs.
fn rename(expected: &[u64; 2], seen: &mut [u64; 2], pairs: &[(u64, u64)]) {
    if pairs.contains(&(fault::reason(expected), fault::reason(seen))) {
        seen[1] = seen[1] & !fault::REASON | expected[1] & fault::REASON;
    }
}

/// Whether the fault that QEMU recorded is the one that the architecture asks for, and by which
/// masks; `None` where it is not.
pub(super) fn fault(expected: &[u64; 2], seen: &[u64; 2]) -> Option<Vec<&'static str>> {
    let (mut expected, mut seen) = (*expected, *seen);
    let mut used = Vec::new();
    for mask in &MASKS {
        let before = differences(&expected, &seen);
        (mask.equalise)(&mut expected, &mut seen);
        if differences(&expected, &seen) < before {
            used.push(mask.name);
        }
    }
    (expected == seen).then_some(used)
}

fn differences(a: &[u64; 2], b: &[u64; 2]) -> u32 {
    a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum()
}

/// The mask by which QEMU's silence passes for a fault, if one does.
pub(super) fn silence(expected: &[u64; 2], seen: &Seen) -> Option<&'static str> {
    let rights = [0x05, 0x06, 0x79, 0x85].contains(&fault::reason(expected));
    (rights && seen.faults.is_empty())
        .then_some("what lacks rights faults; QEMU's IOTLB refuses it and tells nobody")
}

/// The mask by which a fault that QEMU recorded passes where nobody is to be told, if one does.
pub(super) fn noise(seen: &[u64; 2]) -> Option<&'static str> {
    match fault::reason(seen) {
        0x0b => {
            Some("FPD silences reserved bits of a context entry; QEMU tells of them all the same")
        }
        0x51 | 0x59 | 0x5b => Some(
            "FPD of PASID directory entries and PASID entries silences what is wrong with a PASID \
             entry; QEMU looks at the context entry's alone then",
        ),
        _ => None,
    }
}
