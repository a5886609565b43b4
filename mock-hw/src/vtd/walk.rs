//! Walks of second-level and first-level tables (3.6, 3.7, 9.7, 9.8).

use iommu_core::PhysAddr;

use super::State;
use super::bits::{bit, mask};
use super::iotlb::{Leaf, Table, Tag};
use super::reason::{self, Reason};
use super::translate::Request;
use crate::device::Access;

/// The bits of a table entry that are an address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits of first-level entries.
const WRITE: u32 = 1;
const USER: u32 = 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// Whether an entry above the last level is a page.
const LARGE: u32 = 7;

/// The number of address bits below what an entry of a level decides.
fn shift(level: u32) -> u32 {
    12 + 9 * (level - 1)
}

/// Where the entry for an address is in a table of a level.
fn entry_at(table: u64, addr: u64, level: u32) -> u64 {
    table.wrapping_add((addr >> shift(level) & 0x1ff) * 8)
}

/// The faults of a second-level walk: those of legacy mode, or those of scalable mode.
struct Reasons {
    beyond: Reason,
    root: Reason,
    access: Reason,
    reserved: Reason,
}

const LEGACY: Reasons = Reasons {
    beyond: reason::BEYOND_WIDTH,
    root: reason::CONTEXT_INVALID,
    access: reason::TABLE_ACCESS,
    reserved: reason::TABLE_RESERVED,
};

const SCALABLE: Reasons = Reasons {
    beyond: reason::SM_BEYOND_WIDTH,
    root: reason::SECOND_ROOT_ACCESS,
    access: reason::SECOND_ACCESS,
    reserved: reason::SECOND_RESERVED,
};

impl State {
    /// The translation of a request's address, as tables say it.
    fn leaf(r: &Request, tag: &Tag, bits: u32, output: u64, [read, write]: [bool; 2]) -> Leaf {
        Leaf {
            source: r.source,
            request: r.pasid,
            tag: *tag,
            base: r.iova & !mask(bits),
            bits,
            output: output & !mask(bits),
            read,
            write,
            fault: None,
            silent: r.silent,
        }
    }

    /// A request that passes untranslated.
    pub(super) fn pass(&self, r: &Request, tag: &Tag) -> Result<Leaf, Reason> {
        if r.iova & self.config.beyond_host() != 0 {
            return Err(match self.global.mode() {
                0 => reason::BEYOND_WIDTH,
                _ => reason::SM_BEYOND_HOST,
            });
        }
        Ok(Self::leaf(r, tag, 12, r.iova, [true; 2]))
    }

    /// Why a second-level translation does not permit an access.
    pub(super) fn second_permission(&self, access: Access) -> Reason {
        match (self.global.mode(), access) {
            (0, Access::Read) => reason::NO_READ,
            (0, Access::Write) => reason::NO_WRITE,
            _ => reason::SECOND_PERMISSION,
        }
    }

    /// Where to begin: at the last table on the way that is known, or at the first one.
    fn start(&mut self, r: &Request, tag: &Tag, root: u64, levels: u32) -> Table {
        if !self.looks_anew()
            && let Some(table) = self.iotlb.table(tag, r.iova)
        {
            return table;
        }
        Table {
            tag: *tag,
            base: 0,
            bits: 64,
            level: levels,
            next: root,
            read: true,
            write: true,
        }
    }

    pub(super) fn walk_second(
        &mut self,
        r: &Request,
        tag: &Tag,
        root: u64,
        levels: u32,
    ) -> Result<Leaf, Reason> {
        let reasons = match self.global.mode() {
            0 => LEGACY,
            _ => SCALABLE,
        };
        let width = shift(levels + 1).min(self.config.max_width());
        if r.iova & !mask(width) != 0 {
            return Err(reasons.beyond);
        }
        let mut table = self.start(r, tag, root, levels);
        loop {
            let level = table.level;
            let entry = self
                .memory
                .read_word(PhysAddr(entry_at(table.next, r.iova, level)));
            let entry = entry.map_err(|_| match level == levels {
                true => reasons.root,
                false => reasons.access,
            })?;
            let permits = |at| bit(entry, at);
            let (read, write) = (table.read && permits(0), table.write && permits(1));
            let wanted = match r.access {
                Access::Read => read,
                Access::Write => write,
            };
            if !wanted {
                return Err(self.second_permission(r.access));
            }
            let is_page = level == 1 || bit(entry, LARGE);
            if entry & self.second_reserved(level, is_page) != 0 {
                return Err(reasons.reserved);
            }
            if is_page {
                let output = entry & ADDRESS;
                return Ok(Self::leaf(r, tag, shift(level), output, [read, write]));
            }
            table = Table {
                base: r.iova & !mask(shift(level)),
                bits: shift(level),
                level: level - 1,
                next: entry & ADDRESS,
                read,
                write,
                ..table
            };
            self.iotlb.insert_table(table);
        }
    }

    /// The bits that are reserved in an entry of a second-level table (9.8).
    fn second_reserved(&self, level: u32, is_page: bool) -> u64 {
        let unless = |there: bool, bits: u64| if there { 0 } else { bits };
        let large = level > 1 && is_page;
        let low = if large {
            mask(shift(level)) & ADDRESS
        } else {
            0
        };
        let snoop = unless(is_page && self.config.ecap_bit(7), 1 << 11);
        let transient = unless(is_page && self.config.has_device_tlbs(), 1 << 62);
        let size = unless(!large || self.config.has_large_page(level), 1 << LARGE);
        self.config.beyond_host() & ADDRESS | low | snoop | transient | size
    }

    pub(super) fn walk_first(
        &mut self,
        r: &Request,
        tag: &Tag,
        (root, levels, snooped): (u64, u32, bool),
    ) -> Result<Leaf, Reason> {
        let width = shift(levels + 1);
        let sign = r.iova >> (width - 1);
        if sign != 0 && sign != mask(64 - width + 1) {
            return Err(reason::NOT_CANONICAL);
        }
        let mut table = self.start(r, tag, root, levels);
        loop {
            let level = table.level;
            let at = PhysAddr(entry_at(table.next, r.iova, level));
            let entry = self
                .memory
                .read_word(at)
                .map_err(|_| match level == levels {
                    true => reason::FIRST_ROOT_ACCESS,
                    false => reason::FIRST_ACCESS,
                })?;
            let writes = r.access == Access::Write;
            let write = table.write && bit(entry, WRITE);
            if !bit(entry, 0) {
                return Err(reason::FIRST_NOT_PRESENT);
            } else if !bit(entry, USER) {
                return Err(reason::FIRST_PRIVILEGE);
            } else if writes && !write {
                return Err(reason::FIRST_NO_WRITE);
            }
            let is_page = level == 1 || bit(entry, LARGE);
            if entry & self.first_reserved(level, is_page) != 0 {
                return Err(reason::FIRST_RESERVED);
            }
            let flags = ACCESSED | if is_page && writes { DIRTY } else { 0 };
            if entry & flags != flags {
                if !snooped {
                    return Err(reason::FIRST_FLAGS);
                }
                // As one access, that leaves alone what software stores meanwhile.
                self.memory.corrupt_word(at, flags & !entry);
            }
            if is_page {
                let output = entry & ADDRESS;
                // What was not written to yet is looked up again to be marked as dirty.
                let dirty = (entry | flags) & DIRTY != 0;
                return Ok(Self::leaf(
                    r,
                    tag,
                    shift(level),
                    output,
                    [true, write && dirty],
                ));
            }
            table = Table {
                base: r.iova & !mask(shift(level)),
                bits: shift(level),
                level: level - 1,
                next: entry & ADDRESS,
                write,
                ..table
            };
            self.iotlb.insert_table(table);
        }
    }

    /// The bits that are reserved in an entry of a first-level table (9.7).
    fn first_reserved(&self, level: u32, is_page: bool) -> u64 {
        let large = level > 1 && is_page;
        // Bit 12 of a large page is an attribute.
        let low = if large {
            mask(shift(level)) & ADDRESS & !(1 << 12)
        } else {
            0
        };
        let size = match (large, level) {
            (false, _) | (true, 2) => 0,
            (true, 3) if self.config.cap_bit(56) => 0,
            _ => 1 << LARGE,
        };
        self.config.beyond_host() & ADDRESS | low | size
    }
}
