//! What the TLB may hold of a range whose mappings changed, in as few commands as can be.
//!
//! With range invalidation (`SMMU_IDR3.RIL`) that is one command, whatever the size. Without, it is
//! one for each leaf, or one for everything with the domain's tag where there are more than
//! [`MAX_COMMANDS`]. They are waited for once.
//!
//! Where tables went, hardware is to forget those on the way too, and the level of the leaves must
//! not be hinted at (4.4.1.1). Where none went, it may keep them.

use iommu_core::pgtable::{LAST_LEVEL, Unmapped};
use iommu_core::{AddrRange, Iova};

use crate::spec::commands::Command;
use crate::spec::granule::Granule;

/// More leaves than this are invalidated by tag.
///
/// The example `invalidation_cost` measures it on QEMU's SMMU: with 64 to 192 pages of a domain in
/// the TLB, one command for everything of theirs, and finding them again, takes as long as 50 to 95
/// commands (a command 0.3 to 1.4 µs, a page 0.4 to 0.5 µs). Of hardware in silicon that says little;
/// there both are memory accesses, a few each. The driver's own part is small, 6 instructions a
/// command. It leaves room for three such in a queue of the default 256 commands.
pub(crate) const MAX_COMMANDS: u64 = 64;

/// How a domain's translations are named.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope {
    /// The invalidation of address 0.
    by_address: Command,
    /// The same of a page there, and no more.
    by_page: Command,
    /// That of everything.
    pub(crate) by_tag: Command,
    granule: Granule,
    /// Whether the hardware takes ranges.
    ranges: bool,
}

impl Scope {
    /// From the invalidation of address 0 and that of everything, for tables of `granule` and
    /// hardware that takes ranges and levels or not.
    pub(crate) const fn new(
        by_address: Command,
        by_tag: Command,
        granule: Granule,
        ranges: bool,
    ) -> Self {
        let page = by_address.of_leaves();
        Self {
            by_address,
            by_page: if ranges {
                page.over(granule, 1, LAST_LEVEL)
            } else {
                page
            },
            by_tag,
            granule,
            ranges,
        }
    }

    /// The command for one page, mapped as one.
    #[inline(always)]
    pub(crate) fn page(&self, iova: Iova) -> Command {
        let Command([first, second]) = self.by_page;
        Command([first, second | iova.0])
    }

    /// The commands for what was changed.
    #[inline(always)]
    pub(crate) fn of(&self, changed: &Unmapped) -> Tlbi {
        self.commands(changed.range(), changed.sizes(), changed.has_tables())
    }

    /// For `range`, with leaves of `sizes`: a bit for each, zero for any. Whether tables went.
    #[inline(always)]
    fn commands(&self, range: AddrRange, sizes: u64, tables: bool) -> Tlbi {
        let any = sizes == 0;
        let Command([first, second]) = self.by_address;
        let at_start = Command([first, second | range.start()]);
        let at_start = if tables || any {
            at_start
        } else {
            at_start.of_leaves()
        };
        // No range is all of the address space.
        let len = range.len_minus_one() + 1;
        if self.ranges {
            let level = if tables || !sizes.is_power_of_two() {
                0
            } else {
                self.granule.level(sizes)
            };
            let pages = len >> self.granule.shift();
            return Tlbi::once(at_start.over(self.granule, pages, level));
        }
        let step = if any {
            self.granule.shift()
        } else {
            sizes.trailing_zeros()
        };
        match len >> step {
            count if count <= MAX_COMMANDS => Tlbi {
                command: at_start,
                step: 1 << step,
                count,
            },
            _ => Tlbi::once(self.by_tag),
        }
    }
}

/// Commands that differ in their addresses alone.
#[derive(Clone, Debug)]
pub(crate) struct Tlbi {
    command: Command,
    step: u64,
    count: u64,
}

impl Tlbi {
    const fn once(command: Command) -> Self {
        Self {
            command,
            step: 0,
            count: 1,
        }
    }
}

impl Iterator for Tlbi {
    type Item = Command;

    #[inline(always)]
    fn next(&mut self) -> Option<Command> {
        self.count = self.count.checked_sub(1)?;
        let command = self.command;
        self.command.0[1] = command.0[1].wrapping_add(self.step);
        Some(command)
    }

    #[inline(always)]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = usize::try_from(self.count).unwrap_or(usize::MAX);
        (count, Some(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const K4: u64 = 1 << 12;
    const M2: u64 = 1 << 21;
    const G1: u64 = 1 << 30;

    fn scope_of(granule: Granule, ranges: bool) -> Scope {
        let by_address = Command::tlbi_va(7, Iova(0));
        Scope::new(by_address, Command::tlbi_asid(7), granule, ranges)
    }

    fn scope(ranges: bool) -> Scope {
        scope_of(Granule::K4, ranges)
    }

    fn range(start: u64, len: u64) -> AddrRange {
        AddrRange::new(start, len).unwrap()
    }

    #[test]
    fn a_range_is_one_command_where_the_hardware_takes_ranges() {
        let scope = scope(true);
        let one = |range, sizes, tables| {
            let mut all = scope.commands(range, sizes, tables);
            assert_eq!(all.size_hint(), (1, Some(1)));
            all.next().unwrap().0
        };
        // By hand: TG 1, TTL 3, Leaf; NUM 0, SCALE 0.
        let va = 7 << 48 | 0x12;
        assert_eq!(one(range(0x5000, K4), K4, false), [va, 0x5000 | 0x701]);
        assert_eq!(scope.page(Iova(0x5000)).0, [va, 0x5000 | 0x701]);
        // NUM 2.
        assert_eq!(
            one(range(0x5000, 3 * K4), K4, false),
            [va | 2 << 12, 0x5701]
        );
        // 512 pages are 32 << 4: NUM 31, SCALE 4. Tables went: TTL 0, not only leaves.
        let all = va | 31 << 12 | 4 << 20;
        assert_eq!(one(range(M2, M2), K4, true), [all, M2 | 0x400]);
        // Blocks of level 2, and leaves of two sizes.
        assert_eq!(one(range(M2, M2), M2, false), [all, M2 | 0x601]);
        assert_eq!(one(range(0, M2), M2 | K4, false), [all, 0x401]);
        // One page, of no size that is known: no TG.
        assert_eq!(one(range(0x5000, K4), K4, true), [va, 0x5000]);
        assert_eq!(one(range(0x5000, K4), 0, false), [va, 0x5000]);
    }

    #[test]
    fn ranges_are_counted_in_granules() {
        // Three pages: NUM 2. TG 2 and 3; TTL 3, Leaf.
        let va = 7 << 48 | 0x12;
        for (granule, tg, size) in [(Granule::K16, 2, 1 << 14), (Granule::K64, 3, 1 << 16)] {
            let scope = scope_of(granule, true);
            let mut all = scope.commands(range(G1, 3 * size), size, false);
            let command = [va | 2 << 12, G1 | tg << 10 | 0x301];
            assert_eq!(all.next(), Some(Command(command)));
            assert_eq!(scope.page(Iova(G1)).0, [va, G1 | tg << 10 | 0x301]);
            // A block, of level 2.
            let block = 1 << (2 * granule.shift() - 3);
            let mut all = scope.commands(range(0, block), block, false);
            let [_, second] = all.next().unwrap().0;
            assert_eq!(second, tg << 10 | 0x201);
            // Without ranges: one for each page.
            let all: Vec<_> = scope_of(granule, false)
                .commands(range(G1, 2 * size), size, false)
                .collect();
            let each = [0, size].map(|at| Command::tlbi_va(7, Iova(G1 + at)).of_leaves());
            assert_eq!(all, each);
        }
    }

    /// What hardware makes of the fields (4.4.1.1) covers the range, and at most 1/16 more.
    #[test]
    fn num_and_scale_cover_every_length_and_little_more() {
        let lengths = (1..100).chain((7..=36).flat_map(|bits| {
            let power = 1_u64 << bits;
            [power - 1, power, (power + 1).min(1 << 36)]
        }));
        for pages in lengths {
            let [first, second] = Command::tlbi_va(1, Iova(0)).over(Granule::K4, pages, 0).0;
            let (num, scale) = (first >> 12 & 31, first >> 20 & 31);
            assert_eq!(
                first & !(31 << 12 | 31 << 20),
                Command::tlbi_va(1, Iova(0)).0[0]
            );
            let covered = (num + 1) << scale;
            assert!(covered >= pages && covered - pages <= pages / 16, "{pages}");
            assert!(
                second == 0x400 || pages == 1 && second == 0,
                "never TG alone"
            );
        }
    }

    #[test]
    fn without_ranges_each_leaf_has_a_command_up_to_a_limit() {
        let scope = scope(false);
        let all: Vec<_> = scope.commands(range(G1, 3 * M2), M2, false).collect();
        let each = [0, M2, 2 * M2].map(|at| Command::tlbi_va(7, Iova(G1 + at)).of_leaves());
        assert_eq!(all, each);
        let most = scope.commands(range(0, 64 * K4), K4, true);
        assert_eq!(most.size_hint(), (64, Some(64)));
        let more: Vec<_> = scope.commands(range(0, 65 * K4), K4, true).collect();
        assert_eq!(more, [Command::tlbi_asid(7)]);
        let any: Vec<_> = scope.commands(range(0, M2), 0, false).collect();
        assert_eq!(any, [Command::tlbi_asid(7)], "all sizes are possible");
    }
}
