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
const WAITING: &str = "arm-smmu-v3/src/command_queue/waiting.rs";

/// Where a method of the SMMU can be put.
const NOTHING_AT: &str = "    /// Notes where the member is to go";
/// One that tells the hardware nothing and waits for nothing.
const NOTHING: &str = "    fn nothing(&self, _: impl IntoIterator<Item = Command>) -> Result {
        Ok(())
    }

    /// Notes where the member is to go";

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
                "let commands = iter::once(Command::cfgi_ste(self.stream, true));",
                "let commands = iter::empty();",
            ),
            (
                "Some(stream) => Command::cfgi_ste(stream.entry.id(), true),",
                "Some(_) => Command::sync(),",
            ),
        ],
    ),
    mutation(
        "an attach invalidates the first stream only",
        ENTRIES,
        &[(
            "let entries = (0..count).map(move |_| match stored.next() {",
            "let entries = (0..count.min(1)).map(move |_| match stored.next() {",
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
            "let result = self.invalidate(stored::<P>(members, count, retag));",
            "let result: Result = Ok(drop(stored::<P>(members, count, retag)));",
        )],
    ),
    mutation(
        "unmap leaves out TLBI_NH_VA",
        DOMAIN,
        &[(
            "(Command::tlbi_va(asid, Iova(0)), Command::tlbi_asid(asid))",
            "(Command::tlbi_va(asid, Iova(0x7f_ffff_f000)), Command::tlbi_asid(asid))",
        )],
    ),
    mutation(
        "unmap leaves out TLBI_S2_IPA",
        DOMAIN,
        &[(
            "(Command::tlbi_ipa(vmid, Iova(0)), Command::tlbi_vmid(vmid))",
            "(Command::tlbi_ipa(vmid, Iova(0x7f_ffff_f000)), Command::tlbi_vmid(vmid))",
        )],
    ),
    mutation(
        "a tag is not invalidated before it is used again",
        DOMAIN,
        &[(
            "let commands = [self.scope.by_tag].into_iter();",
            "let commands = [self.scope.by_tag].into_iter().take(0);",
        )],
    ),
    mutation(
        "a long unmap leaves out its TLBI",
        "arm-smmu-v3/src/gather.rs",
        &[(
            "_ => Tlbi::once(self.by_tag),",
            "_ => Tlbi::once(Command::sync()),",
        )],
    ),
    mutation(
        "a range of pages is invalidated but for its end",
        "arm-smmu-v3/src/gather.rs",
        &[(
            "at_start.over(self.granule, pages, level)",
            "at_start.over(self.granule, pages.div_ceil(2), level)",
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
        WAITING,
        &[(
            "CoveredBy::Sync(end) if view.is_past(end) =>",
            "CoveredBy::Sync(end) if view.is_past(end.min(1)) =>",
        )],
    ),
    mutation(
        "the first look at the queue is believed whatever it shows",
        QUEUE,
        &[("cons == self.index(part.end)", "cons < u32::MAX")],
    ),
    mutation(
        "no room is kept for the SYNC",
        "arm-smmu-v3/src/command_queue/slots.rs",
        &[(
            "count < self.room(consumed)",
            "count <= self.room(consumed)",
        )],
    ),
    mutation(
        "a caller is told of the failures of others",
        WAITING,
        &[
            ("> part.first", "> 0"),
            ("part.first..part.end", "0..part.end"),
        ],
    ),
    mutation(
        "a tag returns though the TLB may hold it",
        "arm-smmu-v3/src/domain.rs",
        &[(
            "(Err(_), Tag::Stage1 { cd, .. }) => cd.leak(),",
            "(Err(_), Tag::Stage1 { cd, asid, .. }) => {\n                cd.leak();\n                self.smmu.asids.free(*asid);\n            }",
        )],
    ),
    mutation(
        "tables come back though their invalidation was not confirmed",
        "arm-smmu-v3/src/paging.rs",
        &[(
            "        self.domain.forget(&changed)?;\n        if changed.has_tables() {\n            self.enter().reclaim(changed);\n        }\n        Ok(())",
            "        let result = self.domain.forget(&changed);\n        self.enter().reclaim(changed);\n        result",
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
];
