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
            "words = &table.words[first..=last];\n        let (blocks, rest) = words.as_chunks::<BLOCK>();\n        blocks",
            "words = &table.words[first..last.max(first + 1)];\n        let (blocks, rest) = words.as_chunks::<BLOCK>();\n        blocks",
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
    mutation(
        "mapping: a flush invalidates nothing",
        "arm-smmu-v3/src/domain.rs",
        &[(
            "self.end_translations([self.scope.by_tag], AddrRange::EVERYTHING)",
            "Ok(())",
        )],
    ),
    mutation(
        "mapping: a flush leaves devices' caches alone",
        "arm-smmu-v3/src/domain.rs",
        &[(
            "self.end_translations([self.scope.by_tag], AddrRange::EVERYTHING)",
            "self.end_translations([self.scope.by_tag], AddrRange::page(0, 4096))",
        )],
    ),
    mutation(
        "mapping: a flush covers what is unmapped after it",
        "iommu-core/src/flush.rs",
        &[(
            "let flush = self.begun.load(Ordering::Relaxed) + 1;",
            "let flush = self.begun.load(Ordering::Relaxed);",
        )],
    ),
    mutation(
        "mapping: a retired buffer comes back without a flush",
        SPACE,
        &[("            self.domain.flush()?;\n", "")],
    ),
    mutation(
        "mapping: granules are mixed up in entries",
        "arm-smmu-v3/src/spec/granule.rs",
        &[(
            "Self::K64 => 1,\n            Self::K16 => 2,",
            "Self::K64 => 2,\n            Self::K16 => 1,",
        )],
    ),
    mutation(
        "mapping: granules are mixed up in invalidations",
        "arm-smmu-v3/src/spec/granule.rs",
        &[(
            "Self::K16 => 2,\n            Self::K64 => 3,",
            "Self::K16 => 3,\n            Self::K64 => 2,",
        )],
    ),
];
