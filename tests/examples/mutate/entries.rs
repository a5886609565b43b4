//! The rules of writing live entries.

use super::list::{Mutation, mutation};

const PLAN: &str = "iommu-core/src/entry/plan.rs";
const WRITE: &str = "iommu-core/src/entry/write.rs";
const LAYOUT: &str = "arm-smmu-v3/src/layout.rs";
const ENTRIES: &str = "arm-smmu-v3/src/write.rs";
const ATTACH: &str = "arm-smmu-v3/src/attach.rs";
const DOMAIN: &str = "arm-smmu-v3/src/domain.rs";

pub(crate) const MUTATIONS: &[Mutation] = &[
    mutation(
        "a plan fills and swings in one round",
        PLAN,
        &[
            ("plan.rounds[0].words = fill;", "let fill = fill | swing;"),
            (
                "plan.rounds[1] = Round::new(RoundKind::Swing, swing, rules);",
                "plan.rounds[1] = Round::new(RoundKind::Swing, fill, rules);",
            ),
        ],
    ),
    mutation(
        "a plan that breaks fills before it refuses",
        PLAN,
        &[
            (
                "plan.rounds[0] = Round::new(RoundKind::Refuse, first, rules);",
                "plan.rounds[1] = Round::new(RoundKind::Refuse, first, rules);",
            ),
            (
                "plan.rounds[1] = Round::new(RoundKind::Swing, needed & !first, rules);",
                "plan.rounds[0] = Round::new(RoundKind::Swing, needed & !first, rules);",
            ),
        ],
    ),
    mutation(
        "what stays behind is not filled before the swing",
        PLAN,
        &[("free & (last | either);", "free & either;")],
    ),
    mutation(
        "what was cached by way of the old entry is not thought of",
        PLAN,
        &[(
            "let mixing = F::mixing(live, &target.words);",
            "let mixing = Mixing::Harmless;",
        )],
    ),
    mutation(
        "a tag may always change by itself",
        "iommu-core/src/entry/round.rs",
        &[(
            "let kept = if rules.retag { 0 } else { F::TAG[word] };",
            "let kept = if rules.retag { 0 } else { F::TAG[word] & 0 };",
        )],
    ),
    mutation(
        "one entry alone: the fill is not waited for",
        WRITE,
        &[(
            "        confirm(device, 1, 2)?;\n        return swing_first",
            "        return swing_first",
        )],
    ),
    mutation(
        "an entry with bits that nobody defined is changed all the same",
        PLAN,
        &[(
            "            if bits != 0 {\n                let entry = F::NAME;",
            "            if bits == 1 {\n                let entry = F::NAME;",
        )],
    ),
    mutation(
        "a target may set bits that it does not use",
        "iommu-core/src/entry/mod.rs",
        &[(
            "let bits = bits & !(used[word] & F::DEFINED[word]);",
            "let bits = bits & !(used[word] | F::DEFINED[word]);",
        )],
    ),
    mutation(
        "stage 1 does not use the VMID",
        LAYOUT,
        &[(
            "    // Translations are tagged with it where stage 2 exists, though it is off.\n    VMID,\n",
            "",
        )],
    ),
    mutation(
        "stage 2 does not use its walk's shape",
        LAYOUT,
        &[("            .with_s2_t0sz(0x3f)\n", "")],
    ),
    mutation(
        "ATS is allowed early though faults still stall",
        LAYOUT,
        &[(
            "let full = becomes == FULL_ATS && !stalls;",
            "let full = becomes == FULL_ATS;",
        )],
    ),
    mutation(
        "a stage 2 in use may start to stall while ATS is allowed",
        LAYOUT,
        &[(
            "!stalls_soon || was == 0 && !old.has_stage2();",
            "!stalls_soon || !old.has_stage2() || was != 0;",
        )],
    ),
    mutation(
        "traffic without substream may meet the other table",
        LAYOUT,
        &[(
            "if splits && differs(TABLE) {",
            "if splits && !differs(TABLE) {",
        )],
    ),
    mutation(
        "descriptors of one stage 2 are used with another",
        LAYOUT,
        &[(
            "if old != new || other_stage2 || differs(FORMAT) {",
            "if old != new || other_stage2 && false || differs(FORMAT) {",
        )],
    ),
    mutation(
        "a descriptor that breaks is invalid, not silent",
        LAYOUT,
        &[(
            "        word0\n            .with_valid(true)\n            .with_epd0(true)",
            "        word0\n            .with_valid(false)\n            .with_epd0(true)",
        )],
    ),
    mutation(
        "a tag is borrowed though others use it",
        ATTACH,
        &[("if *users != count || ", "if *users < count || ")],
    ),
    mutation(
        "what is cached under a borrowed tag stays",
        ENTRIES,
        &[(
            "Command::tlbi_vmid(vmid)]",
            "Command::tlbi_vmid(vmid ^ 0x80)]",
        )],
    ),
    mutation(
        "an unmap forgets the borrowed tag",
        DOMAIN,
        &[(
            "vmid => Some(Command::tlbi_vmid(vmid)),",
            "vmid => Some(Command::tlbi_vmid(vmid ^ 0x80)),",
        )],
    ),
    mutation(
        "after a wait that failed nothing is settled",
        ENTRIES,
        &[("        self.commands.doubt();\n", "")],
    ),
    mutation(
        "what nobody waited for is taken for done",
        ENTRIES,
        &[(
            "Some(unsettled) => self.settle_what(unsettled),",
            "Some(_) => Ok(()),",
        )],
    ),
    mutation(
        "an entry that is not blocked is emptied",
        "arm-smmu-v3/src/tidy.rs",
        &[
            (
                "live[2..] == unused[2..] || !self.abort.is(&live)",
                "live[2..] == unused[2..]",
            ),
            (
                "member.attached().is(&self.blocked)",
                "member.attached().domain().is_some()",
            ),
        ],
    ),
    mutation(
        "what a stage 2 left in a blocked entry stays",
        "arm-smmu-v3/src/tidy.rs",
        &[(
            "        self.commands.post(&self.hardware, invalidations);\n",
            "        drop(invalidations);\n",
        )],
    ),
    mutation(
        "a blocked entry is emptied and the hardware is not told",
        "arm-smmu-v3/src/tidy.rs",
        &[(
            "        self.commands.post(&self.hardware, invalidations);\n",
            "        invalidations.for_each(drop);\n",
        )],
    ),
    mutation(
        "a wait that failed for one device ends the translations of its whole group",
        ENTRIES,
        &[(
            "let moving = members.iter_mut().filter_map(moving_mut);",
            "let moving = members.iter_mut().filter_map(Member::state_and_streams);",
        )],
    ),
    mutation(
        "after a wait that failed entries stay as they are",
        ENTRIES,
        &[(
            "            self.refuse(moving);\n",
            "            self.refuse(moving.take(0));\n",
        )],
    ),
];
