//! The contracts of the core.

use super::list::{Mutation, mutation};

pub(crate) const MUTATIONS: &[Mutation] = &[
    mutation(
        "release parks nothing",
        "iommu-core/src/lifecycle.rs",
        &[(
            "            |member| member.yields && !member.is_deferred(),\n",
            "            |member| member.yields && member.fences > 9,\n",
        )],
    ),
    mutation(
        "a pinned device is parked where the others are",
        "iommu-core/src/park.rs",
        &[(
            "if require_direct && Arc::ptr_eq(&self.release, &self.blocked) {",
            "if false && require_direct {",
        )],
    ),
    mutation(
        "park compares the release domain by kind, not as an object",
        "iommu-core/src/park.rs",
        &[(
            "if require_direct && Arc::ptr_eq(&self.release, &self.blocked) {",
            "if require_direct && self.release.kind() == self.blocked.kind() {",
        )],
    ),
    mutation(
        "every device is parked on identity",
        "iommu-core/src/park.rs",
        &[(
            "if require_direct && Arc::ptr_eq(&self.release, &self.blocked) {",
            "if Arc::ptr_eq(&self.release, &self.blocked) {",
        )],
    ),
    mutation(
        "blocking a pinned device is not refused",
        "iommu-core/src/transaction.rs",
        &[(
            "member.require_direct() && blocks(new,",
            "false && member.require_direct() && blocks(new,",
        )],
    ),
    mutation(
        "only blocking the first member of a group is refused",
        "iommu-core/src/transaction.rs",
        &[(
            "members.iter().find(pinned)",
            "members.iter().take(1).find(pinned)",
        )],
    ),
    mutation(
        "what blocks is told by kind alone",
        "iommu-core/src/member.rs",
        &[(
            "domain.kind() == DomainKind::Blocked || Arc::ptr_eq(domain, blocked)",
            "domain.kind() == DomainKind::Blocked || (false && Arc::ptr_eq(domain, blocked))",
        )],
    ),
    mutation(
        "what blocks is told by object alone",
        "iommu-core/src/member.rs",
        &[(
            "domain.kind() == DomainKind::Blocked || Arc::ptr_eq(domain, blocked)",
            "(false && domain.kind() == DomainKind::Blocked) || Arc::ptr_eq(domain, blocked)",
        )],
    ),
    mutation(
        "a deferred attach is performed at once",
        "iommu-core/src/transaction.rs",
        &[(
            "let stays = defers && matches!",
            "let stays = false && defers && matches!",
        )],
    ),
    mutation(
        "release touches a device whose attach is deferred",
        "iommu-core/src/lifecycle.rs",
        &[(
            "            |member| member.yields && !member.is_deferred(),\n",
            "            |member| member.yields,\n",
        )],
    ),
    mutation(
        "a mapping does not perform a deferred attach",
        "iommu-core/src/device.rs",
        &[(
            "Context::MayBlock => group.attach_deferred(id),",
            "Context::MayBlock => Ok(()),",
        )],
    ),
    mutation(
        "a failed preparation cancels nothing",
        "iommu-core/src/transaction.rs",
        &[("members[..at]", "members[..0]")],
    ),
    mutation(
        "a failed preparation is committed all the same",
        "iommu-core/src/transaction.rs",
        &[(
            "            return Err(Failure::Prepare(error));\n        }\n    }\n    // All",
            "            let _ = error;\n        }\n    }\n    // All",
        )],
    ),
    mutation(
        "a device that did not land counts as landed",
        "iommu-core/src/member.rs",
        &[(
            "let (now, twice) = was.uncertain(new);",
            "let (now, twice) = (Attached::On(new), None::<DomainRef>);\n            let _ = was;",
        )],
    ),
    mutation(
        "an uncertain device lets go of its old domain",
        "iommu-core/src/attached.rs",
        &[(
            "Self::On(old) => (Some(old), None),",
            "Self::On(_) => (None, None),",
        )],
    ),
    mutation(
        "streams of a device that could not be parked are free",
        "iommu-core/src/registry.rs",
        &[("if clean && !used.lost {", "if clean || !used.lost {")],
    ),
    mutation(
        "the backend forgets a device that could not be parked",
        "iommu-core/src/lifecycle.rs",
        &[(
            "            Err(_) => give_up(member),\n",
            "            Err(_) => member.instance().clone().ops.release(&mut member),\n",
        )],
    ),
    mutation(
        "PASIDs stay attached at a release",
        "iommu-core/src/lifecycle.rs",
        &[(
            "let parked = block_all_pasids(self, &mut state.members, at).and(park(",
            "let parked = Ok(()).and(park(",
        )],
    ),
    mutation(
        "leaving a domain keeps its page faults on",
        "iommu-core/src/transaction.rs",
        &[(
            "        member.drop_faults(old);\n    }\n    if let",
            "        let _ = old;\n    }\n    if let",
        )],
    ),
    mutation(
        "a page request is answered each time",
        "iommu-core/src/fault.rs",
        &[(
            "        if first.is_ok() {",
            "        if first.is_ok() || response == PageResponse::Failure {",
        )],
    ),
    mutation(
        "leaving a domain leaves its page requests unanswered",
        "iommu-core/src/transaction.rs",
        &[(
            "    member.answer_outstanding(slot, PageResponse::Invalid);",
            "    let _ = PageResponse::Invalid;",
        )],
    ),
    mutation(
        "a claim goes ahead beside drivers",
        "iommu-core/src/ownership.rs",
        &[(
            "if !matches!(state.owner, Owner::Nobody | Owner::Drivers(0)) {",
            "if state.owner == Owner::Claimed {",
        )],
    ),
    mutation(
        "a claim leaves the group on its default domain",
        "iommu-core/src/ownership.rs",
        &[(
            "        state.attach(&self.shared, &blocked)?;\n        state.owner",
            "        let _ = blocked;\n        state.owner",
        )],
    ),
    mutation(
        "a pinned device joins a claimed group",
        "iommu-core/src/lifecycle.rs",
        &[(
            "if state.owner == Owner::Claimed && member.require_direct() {",
            "if false && member.require_direct() {",
        )],
    ),
    mutation(
        "others attach a claimed group",
        "iommu-core/src/group.rs",
        &[(
            "            Owner::Claimed => Err(Error::new(",
            "            Owner::Claimed if true => Ok(()),\n            Owner::Claimed => Err(Error::new(",
        )],
    ),
    mutation(
        "a nested fence ends the outer one",
        "iommu-core/src/fence.rs",
        &[("        *fences += 1;", "        *fences = 1;")],
    ),
    mutation(
        "a device that is being reset can be attached",
        "iommu-core/src/group.rs",
        &[(
            "        match self.members.iter().find(|member| member.fences > 0) {",
            "        match self.members.iter().take(0).find(|member| member.fences > 0) {",
        )],
    ),
    mutation(
        "a device stays parked after its reset",
        "iommu-core/src/fence.rs",
        &[(
            "        restore(&self.group.shared, state, at).map_err(Failure::into_error)",
            "        let _ = at;\n        Ok(())",
        )],
    ),
    mutation(
        "a reset leaves the device's ATS on",
        "iommu-core/src/fence.rs",
        &[(
            "member.control().set_ats(false)",
            "member.control().set_ats(true)",
        )],
    ),
    mutation(
        "the first of two devices parks the stream they share",
        "iommu-core/src/transaction.rs",
        &[(
            "        let yields = member.yields;",
            "        let yields = member.yields && member.fences > 9;",
        )],
    ),
    mutation(
        "a PASID is published before all devices have it",
        "iommu-core/src/pasid.rs",
        &[(
            "        if !matches!(&result, Err(Failure::Prepare(_))) {\n            match at",
            "        if true {\n            match at",
        )],
    ),
    mutation(
        "a shared direct mapping goes with the first device",
        "iommu-core/src/direct.rs",
        &[(
            "if entry.users.load(Ordering::Acquire) == 1 {",
            "if entry.users.load(Ordering::Acquire) >= 1 {",
        )],
    ),
    mutation(
        "a pinned range can be unmapped",
        "iommu-core/src/domain.rs",
        &[(
            "if self.direct.holds(range) {",
            "if self.direct.holds(range) && len == 1 {",
        )],
    ),
    mutation(
        "memory comes back though its unmap was not confirmed",
        "iommu-core/src/mapped.rs",
        &[(
            "                self.domain.leak(&block);\n",
            "                let _ = &block;\n",
        )],
    ),
    mutation(
        "an attach moves a stream that a device in reset presents",
        "iommu-core/src/transaction.rs",
        &[("yields || other.fences > 0", "yields || other.fences > 9")],
    ),
];
