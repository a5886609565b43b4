//! The rules of page tables, of what is invalidated after they changed, and of lending.

use super::list::{Mutation, mutation};

const CHANGE: &str = "iommu-core/src/pgtable/change.rs";
const GATHER: &str = "arm-smmu-v3/src/gather.rs";
const HANDLE: &str = "iommu-core/src/dma/handle.rs";
const MAP: &str = "iommu-core/src/pgtable/map.rs";
const PAGING: &str = "iommu-core/src/paging.rs";
const RECLAIM: &str = "iommu-core/src/pgtable/reclaim.rs";
const SPACE: &str = "iommu-core/src/dma/space.rs";
const UNMAP: &str = "iommu-core/src/pgtable/unmap.rs";

pub(crate) const MUTATIONS: &[Mutation] = &[
    mutation(
        "mapping: pages take the place of others",
        MAP,
        &[(
            "            if seen != 0 {\n",
            "            if seen == 1 {\n",
        )],
    ),
    mutation(
        "mapping: a new table is linked before hardware can see what is in it",
        MAP,
        &[("        self.clean(&table, 0, table.words.len());\n", "")],
    ),
    mutation(
        "mapping: the table of a mapping that failed is lost",
        MAP,
        &[(
            "                Err(error) => {\n                    self.free(phys);\n",
            "                Err(error) => {\n",
        )],
    ),
    mutation(
        "mapping: what failed half way stays",
        PAGING,
        &[(
            "Err(MapError { mapped, error }) => Err(undone(error, iova, self.unmap(iova, mapped))),",
            "Err(MapError { mapped, error }) => Err(undone(error, iova, Ok(drop(mapped)))),",
        )],
    ),
    mutation(
        "mapping: what is unmapped in part goes as a whole",
        UNMAP,
        &[(
            "let whole = first & below == 0 && last <= self.last;",
            "let whole = first & below == 0;",
        )],
    ),
    mutation(
        "mapping: the last page of an unmap stays",
        UNMAP,
        &[(
            "            let last = table.index::<F>(part.last, level);\n            let words = &table.words[first..=last];",
            "            let last = table.index::<F>(part.last, level);\n            let words = &table.words[first..last.max(first + 1)];",
        )],
    ),
    mutation(
        "mapping: a table is freed while somebody is inside",
        RECLAIM,
        &[(
            "if self.present.is_alone() {\n            self.table.free_with_below",
            "if self.present.is_alone() || true {\n            self.table.free_with_below",
        )],
    ),
    mutation(
        "mapping: a block is split into one page, again and again",
        CHANGE,
        &[(
            "            leaf += span::<F>(below);\n",
            "            leaf += 0;\n",
        )],
    ),
    mutation(
        "mapping: leaves that allow different things are merged",
        CHANGE,
        &[(
            "u64::from_le(word.load(Ordering::Relaxed)) == leaf",
            "(u64::from_le(word.load(Ordering::Relaxed)) ^ leaf) & F::ADDRESS == 0",
        )],
    ),
    mutation(
        "mapping: what was split is invalidated as pages",
        CHANGE,
        &[("        sizes: 0,\n", "        sizes: 1 << 12,\n")],
    ),
    mutation(
        "mapping: where tables went, the level of leaves is hinted at",
        GATHER,
        &[(
            "if tables || !sizes.is_power_of_two() {",
            "if !sizes.is_power_of_two() {",
        )],
    ),
    mutation(
        "mapping: the addresses of what failed are lost",
        SPACE,
        &[(
            "                iovas.free(cpu, range);\n                return",
            "                let _ = cpu;\n                return",
        )],
    ),
    mutation(
        "mapping: a buffer is lent with its neighbours",
        HANDLE,
        &[(
            "return pieces.all(|piece| piece.is_whole_pages(page));",
            "return pieces.all(|piece| piece.addr.is_aligned(8)) || page == 0;",
        )],
    ),
];
