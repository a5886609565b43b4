//! A mocked backend that records every call.

use std::sync::{Arc, Mutex};

use iommu_core::{
    Attached, DefaultDomain, DeviceInfo, Domain, DomainRef, Iommu, IommuConfig, Member, NoControl,
    Probed, ReservedKind, ReservedRegion,
};
use mock_hw::MockIommuOps;

/// The fixed domains of a mocked backend, and what it was asked to do.
pub(crate) struct Backend {
    pub(crate) blocked: DomainRef,
    pub(crate) identity: Option<DomainRef>,
    pub(crate) release: Option<DomainRef>,
    /// What a probed device is on.
    pub(crate) found: Attached,
    pub(crate) log: Log,
}

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn push(&self, entry: String) {
        self.0.lock().unwrap().push(entry);
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Backend {
    pub(crate) fn new() -> Self {
        let blocked = Domain::blocked();
        let found = Attached::On(blocked.clone());
        let identity = Some(Domain::identity());
        Self {
            release: Some(blocked.clone()),
            blocked,
            identity,
            found,
            log: Log::default(),
        }
    }

    /// A name for a domain in the log.
    pub(crate) fn namer(&self) -> impl Fn(&DomainRef) -> String + Send + 'static {
        let fixed = [
            ("blocked", Some(self.blocked.clone())),
            ("identity", self.identity.clone()),
            ("release", self.release.clone()),
        ];
        move |domain| {
            let same = |fixed: &Option<DomainRef>| {
                fixed
                    .as_ref()
                    .is_some_and(|fixed| Arc::ptr_eq(fixed, domain))
            };
            let name = fixed
                .iter()
                .find(|(_, fixed)| same(fixed))
                .map(|(name, _)| *name);
            name.map_or_else(|| format!("{:?}", domain.kind()), Into::into)
        }
    }

    /// A mock that has the fixed domains and answers probes; attaches are for the test to expect.
    pub(crate) fn mock(&self) -> MockIommuOps {
        let mut ops = MockIommuOps::new();
        ops.expect_blocked_domain()
            .return_const(Some(self.blocked.clone()));
        ops.expect_identity_domain()
            .return_const(self.identity.clone());
        ops.expect_release_domain()
            .return_const(self.release.clone());
        let found = self.found.clone();
        ops.expect_probe().returning(move |_, _| {
            Ok(Probed {
                state: Box::new(()),
                reserved: Vec::new(),
                attached: found.clone(),
                max_pasids: 0,
            })
        });
        ops
    }

    /// A mock on which every attach succeeds; all of it is logged.
    pub(crate) fn obedient(&self) -> MockIommuOps {
        let mut ops = self.mock();
        let (log, name) = (self.log.clone(), self.namer());
        ops.expect_prepare().returning(move |member, _| {
            log.push(format!(
                "prepare {} for {}",
                member.name(),
                name(member.pending().unwrap())
            ));
            Ok(())
        });
        let log = self.log.clone();
        ops.expect_cancel()
            .returning(move |member, _| log.push(format!("cancel {}", member.name())));
        let (log, name) = (self.log.clone(), self.namer());
        ops.expect_commit().returning(move |members, _| {
            log.push(format!("commit {}", moves(members, &name)));
            members.iter_mut().for_each(Member::landed);
            Ok(())
        });
        let (log, name) = (self.log.clone(), self.namer());
        ops.expect_release().returning(move |member| {
            let on = member
                .attached()
                .domain()
                .map_or("nothing known".into(), &name);
            log.push(format!("release {} on {on}", member.name()));
        });
        ops
    }

    pub(crate) fn core(&self, ops: MockIommuOps) -> Iommu {
        let config = IommuConfig {
            default_domain: DefaultDomain::Parked,
            ..IommuConfig::default()
        };
        Iommu::with_config(ops, config).unwrap()
    }
}

pub(crate) fn moves(members: &[Member], name: &impl Fn(&DomainRef) -> String) -> String {
    let moves = members.iter().filter_map(|member| {
        let new = member.pending()?;
        let old = member.attached().domain().map_or("?".into(), name);
        Some(format!("{}: {old} -> {}", member.name(), name(new)))
    });
    moves.collect::<Vec<_>>().join(", ")
}

pub(crate) fn plain(name: &str, stream: u32) -> DeviceInfo {
    DeviceInfo::new(name).streams([stream])
}

pub(crate) fn pinned(name: &str, stream: u32) -> DeviceInfo {
    plain(name, stream)
        .reserved(ReservedRegion::new(0x8000_0000, 0x10_0000, ReservedKind::Direct).unwrap())
}

pub(crate) fn control() -> Arc<NoControl> {
    Arc::new(NoControl)
}
