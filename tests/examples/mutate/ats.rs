//! The rules of ATS.

use super::list::{Mutation, mutation};

const ATS: &str = "arm-smmu-v3/src/ats.rs";
const DEVICE: &str = "arm-smmu-v3/src/ats/device.rs";
const SWITCH: &str = "arm-smmu-v3/src/ats/switch.rs";

pub(crate) const MUTATIONS: &[Mutation] = &[
    mutation(
        "entries change while a device that leaves its domain has ATS on",
        SWITCH,
        &[(
            "if self.end_ats(members)? {",
            "if false && self.end_ats(members)? {",
        )],
    ),
    mutation(
        "a device that was switched off does not invalidate",
        SWITCH,
        &[(
            "self.ask(leaving.flat_map(Ats::flush))?.is_none()",
            "{ drop(leaving); true }",
        )],
    ),
    mutation(
        "a device keeps ATS on while its entry aborts on the way",
        DEVICE,
        &[(
            "(!self.is_wanted() || breaks)",
            "(!self.is_wanted() || false && breaks)",
        )],
    ),
    mutation(
        "a device is switched on with what its cache had",
        SWITCH,
        &[(
            "self.ask(entries.chain(flush::<P>(members)))",
            "self.ask(entries)",
        )],
    ),
    mutation(
        "an attach leaves out the SYNC before CMD_ATC_INV",
        SWITCH,
        &[("[Command::sync()].into_iter().chain(flushes)", "flushes")],
    ),
    mutation(
        "an unmap leaves out CMD_ATC_INV",
        ATS,
        &[(
            "return self.invalidate(atcs.unmap(tlbi, range));",
            "return self.invalidate(tlbi);",
        )],
    ),
    mutation(
        "an unmap leaves out the SYNC between the TLB and the devices",
        ATS,
        &[("first.then(Command::sync)", "first.then_some(command)")],
    ),
    mutation(
        "a device stays in the sets of domains that it left",
        DEVICE,
        &[(
            "self.unlist(usize::from(self.is_wanted()));",
            "let _ = self.is_wanted();",
        )],
    ),
    mutation(
        "a device that does not answer keeps entries that let it pass",
        SWITCH,
        &[("        self.cut_off(member)?;\n", "")],
    ),
    mutation(
        "a cache that did not answer is believed to be empty",
        DEVICE,
        &[(
            "if leaves || self.is_wanted() && self.stale {",
            "if leaves {",
        )],
    ),
    mutation(
        "translation is turned off while devices have ATS on",
        "arm-smmu-v3/src/reset.rs",
        &[("        self.end_all_ats();\n", "")],
    ),
];
