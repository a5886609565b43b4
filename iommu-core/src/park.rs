//! Where a device rests when no driver owns it.

use alloc::sync::Arc;

use crate::domain::DomainRef;
use crate::error::{Error, ErrorKind, Result};
use crate::ops::IommuOps;

/// A backend's fixed domains, asked for once: a park allocates nothing and asks nobody.
#[derive(Clone, Debug)]
pub(crate) struct FixedDomains {
    pub(crate) blocked: DomainRef,
    pub(crate) identity: Option<DomainRef>,
    release: DomainRef,
}

impl FixedDomains {
    pub(crate) fn of(ops: &dyn IommuOps) -> Result<Self> {
        let blocked = ops.blocked_domain().ok_or(Error::new(
            ErrorKind::InvalidArgument,
            "the backend has no blocked domain, so nothing could ever be taken from a device",
        ))?;
        let identity = ops.identity_domain();
        let release = ops.release_domain().unwrap_or_else(|| blocked.clone());
        Ok(Self {
            blocked,
            identity,
            release,
        })
    }

    /// Whether `domain` is one of them. The core maps nothing into these, not even what firmware
    /// pinned: they are the backend's, whatever their kind.
    pub(crate) fn contains(&self, domain: &DomainRef) -> bool {
        let fixed = [
            Some(&self.blocked),
            self.identity.as_ref(),
            Some(&self.release),
        ];
        fixed
            .into_iter()
            .flatten()
            .any(|fixed| Arc::ptr_eq(fixed, domain))
    }

    /// Where a device rests whose traffic leaves its domain without a new one: at its release, and
    /// where its group has no default domain.
    ///
    /// The release domain, except that a device with `require_direct` is not parked on the blocked
    /// domain if there is an identity domain: blocking would cut the 1:1 mappings that firmware
    /// asked for. Compared as objects: a release domain that happens to block but is not *the*
    /// blocked domain is the backend's own decision and stands.
    pub(crate) fn park_target(&self, require_direct: bool) -> &DomainRef {
        if require_direct && Arc::ptr_eq(&self.release, &self.blocked) {
            self.identity.as_ref().unwrap_or(&self.release)
        } else {
            &self.release
        }
    }
}
