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

const fn mutation(
    name: &'static str,
    file: &'static str,
    edits: &'static [(&'static str, &'static str)],
) -> Mutation {
    Mutation { name, file, edits }
}

const RESET: &str = "arm-smmu-v3/src/reset.rs";
const SMMU: &str = "arm-smmu-v3/src/smmu.rs";
const ATTACH: &str = "arm-smmu-v3/src/attach.rs";
const DOMAIN: &str = "arm-smmu-v3/src/domain.rs";
const QUEUE: &str = "arm-smmu-v3/src/command_queue.rs";

/// Where a method can be put before `step`.
const STEP: &str = "    /// [`store`](Self::store), and waits until";
/// A step that tells the hardware nothing and waits for nothing.
const UNCONFIRMED: &str = "
    fn unconfirmed(
        &self,
        members: &[Member],
        words: Range<usize>,
        choose: impl Fn(Ste, Ste, bool) -> Option<Ste>,
    ) -> Result {
        self.store(members, words, choose);
        Ok(())
    }

    /// [`store`](Self::store), and waits until";

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
        "an attach leaves out the CFGI of every step",
        ATTACH,
        &[(
            "self.invalidate(streams.map(|stream| Command::cfgi_ste(*stream, true)))",
            "{ let _ = streams; self.invalidate([]) }",
        )],
    ),
    mutation(
        "an attach invalidates the first stream only",
        ATTACH,
        &[(
            "self.invalidate(streams.map(|stream| Command::cfgi_ste(*stream, true)))",
            "self.invalidate(streams.take(1).map(|stream| Command::cfgi_ste(*stream, true)))",
        )],
    ),
    mutation(
        "an attach waits for nothing",
        ATTACH,
        &[(
            "self.invalidate(streams.map(|stream| Command::cfgi_ste(*stream, true)))",
            "{ let _ = streams; Ok(()) }",
        )],
    ),
    mutation(
        "an attach leaves out CFGI and SYNC after the abort",
        ATTACH,
        &[
            (
                "self.step(members, FIRST, |now, target, confirmed| {",
                "self.unconfirmed(members, FIRST, |now, target, confirmed| {",
            ),
            (STEP, UNCONFIRMED),
        ],
    ),
    mutation(
        "an attach leaves out CFGI and SYNC after filling the entry",
        ATTACH,
        &[
            (
                "self.step(members, REST, |now, target, _| {",
                "self.unconfirmed(members, REST, |now, target, _| {",
            ),
            (STEP, UNCONFIRMED),
        ],
    ),
    mutation(
        "an attach leaves out CFGI and SYNC after the last store",
        ATTACH,
        &[
            (
                "self.step(members, FIRST, |now, target, _| {",
                "self.unconfirmed(members, FIRST, |now, target, _| {",
            ),
            (STEP, UNCONFIRMED),
        ],
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
            ".run(&self.smmu.hardware, [self.invalidate_tag()])",
            ".run(&self.smmu.hardware, [])",
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
        &[(".chain([Command::sync()])", ".chain([])")],
    ),
    mutation(
        "nobody waits for the SYNC",
        QUEUE,
        &[(
            "self.wait(hardware, |state| state.consumed >= end)?",
            "self.wait(hardware, |state| state.consumed >= end.min(1))?",
        )],
    ),
];
