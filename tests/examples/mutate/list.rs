//! The rules that are broken, one at a time.

/// One rule, broken by replacing lines of one file.
pub(crate) struct Mutation {
    /// The rule, as it is when broken.
    pub(crate) name: &'static str,
    /// The file, from the workspace's root.
    pub(crate) file: &'static str,
    /// What stands there, once, and what replaces it.
    pub(crate) edits: &'static [(&'static str, &'static str)],
}

pub(crate) const fn mutation(
    name: &'static str,
    file: &'static str,
    edits: &'static [(&'static str, &'static str)],
) -> Mutation {
    Mutation { name, file, edits }
}

const RESET: &str = "arm-smmu-v3/src/reset.rs";
const SMMU: &str = "arm-smmu-v3/src/smmu.rs";
const ENTRIES: &str = "arm-smmu-v3/src/write.rs";
const DOMAIN: &str = "arm-smmu-v3/src/domain.rs";
const QUEUE: &str = "arm-smmu-v3/src/command_queue.rs";

/// Where a method of the SMMU can be put.
const NOTHING_AT: &str = "    /// Notes where the member is to go.";
/// One that tells the hardware nothing and waits for nothing.
const NOTHING: &str = "    fn nothing<const N: usize>(&self, _: [Command; N]) -> Result {
        Ok(())
    }

    /// Notes where the member is to go.";

pub(crate) const MUTATIONS: &[Mutation] = &[
    mutation(
        "reset leaves out CFGI_ALL",
        RESET,
        &[(
            "self.invalidate([Command::cfgi_all()])?;",
            "self.invalidate([])?;",
        )],
    ),
    mutation(
        "reset leaves out TLBI_NSNH_ALL",
        RESET,
        &[(".chain([Command::tlbi_nsnh_all()])", ".chain([])")],
    ),
    mutation(
        "reset leaves out TLBI_EL2_ALL",
        RESET,
        &[(
            "self.features.el2.then_some(Command::tlbi_el2_all())",
            "false.then_some(Command::tlbi_el2_all())",
        )],
    ),
    mutation(
        "reset leaves out the SYNC between CFGI_ALL and the TLBIs",
        RESET,
        &[(
            "self.invalidate([Command::cfgi_all()])?;\n",
            "let first = [Command::cfgi_all()];\n",
        )],
    ),
    mutation(
        "a new second-level table leaves out its CFGI",
        SMMU,
        &[(
            "self.invalidate([Command::cfgi_ste(stream, false)])?;",
            "self.invalidate([])?;",
        )],
    ),
    mutation(
        "a new second-level table invalidates the entry alone",
        SMMU,
        &[(
            "Command::cfgi_ste(stream, false)",
            "Command::cfgi_ste(stream, true)",
        )],
    ),
    mutation(
        "an attach leaves out the CFGI of every round",
        ENTRIES,
        &[
            (
                "let commands = [Command::cfgi_ste(self.stream, true)];",
                "let commands = [];",
            ),
            (
                "let entries = stored.map(|stream| Command::cfgi_ste(stream.entry.id(), true));",
                "let entries = stored.map(|stream| Command::cfgi_ste(stream.entry.id(), true)).take(0);",
            ),
        ],
    ),
    mutation(
        "an attach invalidates the first stream only",
        ENTRIES,
        &[(
            "let entries = stored.map(|stream| Command::cfgi_ste(stream.entry.id(), true));",
            "let entries = stored.map(|stream| Command::cfgi_ste(stream.entry.id(), true)).take(1);",
        )],
    ),
    mutation(
        "an attach of one stream waits for nothing",
        ENTRIES,
        &[
            (
                "            .invalidate(commands)\n",
                "            .nothing(commands)\n",
            ),
            (NOTHING_AT, NOTHING),
        ],
    ),
    mutation(
        "an attach waits for nothing after its rounds",
        ENTRIES,
        &[(
            "self.invalidate(entries.chain(tag.into_iter().flatten()))",
            "{ let _ = entries.chain(tag.into_iter().flatten()); Ok(()) }",
        )],
    ),
    mutation(
        "unmap leaves out TLBI_NH_VA",
        DOMAIN,
        &[(
            "Tables::Stage1 { asid, .. } => Command::tlbi_va(asid, iova),",
            "Tables::Stage1 { asid, .. } => Command::tlbi_va(asid, Iova(0x7f_ffff_f000)),",
        )],
    ),
    mutation(
        "unmap leaves out TLBI_S2_IPA",
        DOMAIN,
        &[(
            "Tables::Stage2 { vmid, .. } => Command::tlbi_ipa(vmid, iova),",
            "Tables::Stage2 { vmid, .. } => Command::tlbi_ipa(vmid, Iova(0x7f_ffff_f000)),",
        )],
    ),
    mutation(
        "a tag is not invalidated before it is used again",
        DOMAIN,
        &[(
            "let commands = [self.invalidate_tag()].into_iter();",
            "let commands = [self.invalidate_tag()].into_iter().take(0);",
        )],
    ),
    mutation(
        "a long unmap leaves out its TLBI",
        DOMAIN,
        &[(
            "let everything = (count == 0).then(|| self.invalidate_tag());",
            "let everything = (count > 1 << 60).then(|| self.invalidate_tag());",
        )],
    ),
    mutation(
        "no command is followed by a SYNC",
        QUEUE,
        &[
            (
                "self.store(sync, Command::sync());",
                "self.store(sync, Command::tlbi_asid(0));",
            ),
            (
                "self.put(part.end - 1, Command::sync());",
                "self.put(part.end - 1, Command::tlbi_asid(0));",
            ),
        ],
    ),
    mutation(
        "nobody waits for the SYNC",
        QUEUE,
        &[(
            "self.wait(hardware, |state| state.consumed >= part.end)?",
            "self.wait(hardware, |state| state.consumed >= part.end.min(1))?",
        )],
    ),
    mutation(
        "the first look at the queue is believed whatever it shows",
        QUEUE,
        &[(
            "hardware.read32(offset::CMDQ_CONS) == self.prod",
            "hardware.read32(offset::CMDQ_CONS) < u32::MAX",
        )],
    ),
    mutation(
        "no room is kept for the SYNC",
        QUEUE,
        &[("count < self.room(state)", "count <= self.room(state)")],
    ),
    mutation(
        "a caller is told of the failures of others",
        QUEUE,
        &[("part.first..part.end", "0..part.end")],
    ),
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
            "                Context::MayBlock => self.attach_now(),",
            "                Context::MayBlock => Ok(()),",
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
        "a tag returns though the TLB may hold it",
        "arm-smmu-v3/src/domain.rs",
        &[(
            "                    Tables::Stage1 { table, cd, .. } => {\n",
            "                    Tables::Stage1 { table, cd, asid } => {\n                        self.smmu.asids.free(*asid);\n",
        )],
    ),
    mutation(
        "tables come back though their invalidation was not confirmed",
        "arm-smmu-v3/src/domain.rs",
        &[(
            "                unlinked.leak();\n",
            "                drop(unlinked);\n",
        )],
    ),
    mutation(
        "the SMMU aborts before firmware's streams are open",
        "arm-smmu-v3/src/reset.rs",
        &[("        if !stays_open {\n", "        if true {\n")],
    ),
    mutation(
        "the SMMU passes everything when translation is off",
        "arm-smmu-v3/src/reset.rs",
        &[(
            "        if stays_open {\n            hardware.set_gbpa_abort(true)?;\n        }",
            "        let _ = stays_open;",
        )],
    ),
    mutation(
        "firmware's streams are not opened",
        RESET,
        &[(
            "for round in Plan::new(&live, &self.bypass, rules)?.rounds() {",
            "for round in Plan::new(&live, &self.bypass, rules)?.rounds().take(0) {",
        )],
    ),
    mutation(
        "translated traffic is not checked",
        "arm-smmu-v3/src/reset.rs",
        &[(".with_atschk(self.features.ats)", ".with_atschk(false)")],
    ),
    mutation(
        "memory of a stuck SMMU comes back",
        "arm-smmu-v3/src/smmu.rs",
        &[(
            "            self.leak();\n        }\n    }",
            "        }\n    }",
        )],
    ),
    mutation(
        "an attach moves a stream that a device in reset presents",
        "iommu-core/src/transaction.rs",
        &[("yields || other.fences > 0", "yields || other.fences > 9")],
    ),
];
