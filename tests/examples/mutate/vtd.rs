//! The rules of VT-d.

use super::list::{Mutation, mutation};

const BRING_UP: &str = "intel-vtd-stub/src/bring_up.rs";
const DOMAIN: &str = "intel-vtd-stub/src/domain.rs";
const LAYOUT: &str = "intel-vtd-stub/src/layout.rs";
const TABLES: &str = "intel-vtd-stub/src/tables.rs";
const WRITE: &str = "intel-vtd-stub/src/write.rs";

pub(crate) const MUTATIONS: &[Mutation] = &[
    mutation(
        "VT-d: a present entry becomes another one at once",
        LAYOUT,
        &[("        Mixing::Harmful\n", "        Mixing::Harmless\n")],
    ),
    mutation(
        "VT-d: an entry that changes leaves its translations",
        WRITE,
        &[(
            "contexts.chain(entries).chain(fence).chain(translations)",
            "{ drop((fence, translations)); contexts.chain(entries) }",
        )],
    ),
    mutation(
        "VT-d: translations may be forgotten before the entry that makes them",
        WRITE,
        &[(
            "contexts.chain(entries).chain(fence).chain(translations)",
            "{ drop(fence); contexts.chain(entries).chain(translations) }",
        )],
    ),
    mutation(
        "VT-d: an entry that appears is not told of in caching mode",
        WRITE,
        &[(
            "} if features.invalidates_fresh() => (0, Some(tag)),",
            "} if false && features.invalidates_fresh() => (0, Some(tag)),",
        )],
    ),
    mutation(
        "VT-d: a mapping that appears is not told of in caching mode",
        DOMAIN,
        &[(
            "features.write_buffers || features.caching_mode && second",
            "features.write_buffers && second",
        )],
    ),
    mutation(
        "VT-d: an unmap forgets the wrong pages",
        DOMAIN,
        &[(
            "Descriptor::iotlb_pages(self.did, pages, features.drain)",
            "Descriptor::iotlb_pages(self.did ^ 1, pages, features.drain)",
        )],
    ),
    mutation(
        "VT-d: a first-stage domain under several PASIDs is unmapped under one",
        DOMAIN,
        &[(
            "(0, _) | (_, true) => self.everything(),",
            "(0, _) => self.everything(),",
        )],
    ),
    mutation(
        "VT-d: an id is used again before it is forgotten",
        DOMAIN,
        &[(
            "let stale = [entries, queue.fence(), self.everything()];",
            "let stale = [entries];",
        )],
    ),
    mutation(
        "VT-d: RMRR devices are refused until somebody attaches them",
        BRING_UP,
        &[("    inner.preset_rmrrs()?;\n", "")],
    ),
    mutation(
        "VT-d: what was cached before is not forgotten at the start",
        BRING_UP,
        &[(
            "    inner.forget_everything()?;\n    inner.state.get_mut().walked = true;\n",
            "    inner.state.get_mut().walked = true;\n",
        )],
    ),
    mutation(
        "VT-d: a directory points to a table that is not there yet",
        TABLES,
        &[(
            "        self.tables.lock().insert(number, new.clone());\n        Ok(Site { table: new, index })",
            "        Ok(Site { table: new, index })",
        )],
    ),
    mutation(
        "VT-d: after a wait that failed entries stay as they are",
        WRITE,
        &[(
            "                entry.revoke();\n",
            "                let _ = entry;\n",
        )],
    ),
    mutation(
        "VT-d: after a wait that failed nothing is settled",
        WRITE,
        &[("            self.doubt();\n", "")],
    ),
];
