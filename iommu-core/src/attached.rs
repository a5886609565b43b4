//! What a device's traffic is on: what is known, not what was meant.

use alloc::sync::Arc;

use crate::domain::DomainRef;

/// What a device's traffic is really on.
#[derive(Clone, Debug)]
pub enum Attached {
    /// What firmware or a crashed kernel left behind, which goes on working until the device is
    /// first used.
    Deferred,
    /// This domain, and nothing else.
    On(DomainRef),
    /// The hardware did not confirm a change: one of the two, or something in between. Both domains
    /// are kept alive.
    Uncertain {
        /// What it was on, where that is known.
        old: Option<DomainRef>,
        /// What it was to be on.
        new: DomainRef,
    },
    /// As `Uncertain`, but from here on the hardware reads an aborting entry, and the device was
    /// told to keep its own translations to itself. What was cached before may go on being used.
    Quarantined {
        /// What it was on, where that is known.
        old: Option<DomainRef>,
        /// What it was to be on, where that is another domain.
        new: Option<DomainRef>,
    },
}

impl Attached {
    /// The one domain it is on, where that is certain.
    #[must_use]
    pub fn domain(&self) -> Option<&DomainRef> {
        match self {
            Self::On(domain) => Some(domain),
            Self::Deferred | Self::Uncertain { .. } | Self::Quarantined { .. } => None,
        }
    }

    /// Whether it is on `domain` and nothing else.
    #[must_use]
    pub fn is(&self, domain: &DomainRef) -> bool {
        self.domain().is_some_and(|on| Arc::ptr_eq(on, domain))
    }

    /// Every domain that the hardware may be using.
    pub fn domains(&self) -> impl Iterator<Item = &DomainRef> {
        let (first, second) = match self {
            Self::Deferred => (None, None),
            Self::On(domain) => (Some(domain), None),
            Self::Uncertain { old, new } => (old.as_ref(), Some(new)),
            Self::Quarantined { old, new } => (old.as_ref(), new.as_ref()),
        };
        first.into_iter().chain(second)
    }

    /// What becomes of it where a move to `new` was not confirmed, and a domain that is held once
    /// more than that says.
    pub(crate) fn uncertain(self, new: DomainRef) -> (Self, Option<DomainRef>) {
        let (old, earlier) = match self {
            Self::Deferred => (None, None),
            Self::On(old) => (Some(old), None),
            Self::Uncertain { old, new: earlier } => (old, Some(earlier)),
            Self::Quarantined { old, new: earlier } => (old, earlier),
        };
        if let Some(earlier) = &earlier
            && !Arc::ptr_eq(earlier, &new)
        {
            keep_for_good(earlier.clone());
        }
        (Self::Uncertain { old, new }, earlier)
    }

    pub(crate) fn quarantined(self) -> Self {
        match self {
            Self::Deferred => Self::Quarantined {
                old: None,
                new: None,
            },
            Self::On(old) => Self::Quarantined {
                old: Some(old),
                new: None,
            },
            Self::Uncertain { old, new } => Self::Quarantined {
                old,
                new: Some(new),
            },
            Self::Quarantined { .. } => self,
        }
    }
}

/// The hardware may be on any of three domains, and there is room for two: this one is never freed.
fn keep_for_good(domain: DomainRef) {
    core::mem::forget(domain);
}
