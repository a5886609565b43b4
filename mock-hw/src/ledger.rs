//! Who owns which bytes of an arena.

use std::collections::{BTreeMap, BTreeSet};

/// A first-fit allocator's books. Blocks start and end at multiples of 8.
pub(crate) struct Ledger {
    start: u64,
    end: u64,
    /// Free ranges, start to end; no two touch.
    free: BTreeMap<u64, u64>,
    owned: BTreeMap<u64, Owned>,
    /// Where blocks were freed, to tell a double free from a wild one.
    freed: BTreeSet<u64>,
    allocated: u64,
    blocks: usize,
    attempts: usize,
    fail_at: Option<usize>,
    violations: Vec<String>,
}

struct Owned {
    end: u64,
    /// As asked for; `None` for a reserved range.
    asked: Option<(u64, u64)>,
}

impl Ledger {
    pub(crate) fn new(start: u64, size: u64) -> Self {
        let end = start
            .checked_add(size)
            .expect("an arena does not wrap around");
        Self {
            start,
            end,
            free: BTreeMap::from([(start, end)]),
            owned: BTreeMap::new(),
            freed: BTreeSet::new(),
            allocated: 0,
            blocks: 0,
            attempts: 0,
            fail_at: None,
            violations: Vec::new(),
        }
    }

    pub(crate) fn allocated(&self) -> usize {
        usize::try_from(self.allocated).unwrap_or(usize::MAX)
    }

    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(crate) fn allocations(&self) -> usize {
        self.attempts
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.clone()
    }

    pub(crate) fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    pub(crate) fn fail_allocation(&mut self, n: Option<usize>) {
        self.fail_at = n.and_then(|n| self.attempts.checked_add(n));
    }

    /// The address and the size, rounded up, of a fresh block.
    pub(crate) fn allocate(&mut self, size: u64, align: u64) -> Option<(u64, u64)> {
        let attempt = self.attempts;
        self.attempts += 1;
        if self.fail_at == Some(attempt) {
            self.fail_at = None;
            return None;
        }
        if size == 0 || !align.is_power_of_two() {
            self.violation(format!(
                "{size:#x} bytes aligned to {align:#x} were asked for"
            ));
            return None;
        }
        let (rounded, rounded_align) = (size.checked_next_multiple_of(8)?, align.max(8));
        let (hole, addr) = self.free.iter().find_map(|(&start, &end)| {
            let addr = start.checked_next_multiple_of(rounded_align)?;
            (addr.checked_add(rounded)? <= end).then_some((start, addr))
        })?;
        self.take(hole, addr, addr + rounded);
        self.owned.insert(
            addr,
            Owned {
                end: addr + rounded,
                asked: Some((size, align)),
            },
        );
        self.freed.remove(&addr);
        self.allocated += rounded;
        self.blocks += 1;
        Some((addr, rounded))
    }

    /// The size, rounded up, of the block that was freed; `None` where nothing was.
    pub(crate) fn free(&mut self, addr: u64, size: u64, align: u64) -> Option<u64> {
        let what = match self.owned.get(&addr) {
            Some(Owned {
                asked: Some(asked), ..
            }) if *asked == (size, align) => {
                let block = self.owned.remove(&addr)?;
                let rounded = block.end - addr;
                self.give_back(addr, block.end);
                self.freed.insert(addr);
                self.allocated -= rounded;
                self.blocks -= 1;
                return Some(rounded);
            }
            Some(Owned {
                asked: Some((was, of)),
                ..
            }) => {
                format!("allocated as {was:#x} bytes aligned to {of:#x}")
            }
            Some(Owned { asked: None, .. }) => "reserved".into(),
            None if self.freed.contains(&addr) => "freed already".into(),
            None => "never allocated".into(),
        };
        self.violation(format!(
            "the block at {addr:#x} was freed as {size:#x} bytes aligned to {align:#x}, but is {what}"
        ));
        None
    }

    pub(crate) fn reserve(&mut self, addr: u64, size: u64) {
        let hole = self
            .free
            .range(..=addr)
            .next_back()
            .map(|(&start, &end)| (start, end));
        match (hole, addr.checked_add(size)) {
            (Some((hole, hole_end)), Some(end)) if size != 0 && end <= hole_end => {
                self.take(hole, addr, end);
                self.owned.insert(addr, Owned { end, asked: None });
            }
            _ => self.violation(format!(
                "{size:#x} bytes at {addr:#x} were reserved, but are not free"
            )),
        }
    }

    /// Whether somebody owns all of a range; the first address that is nobody's otherwise.
    pub(crate) fn check(&mut self, addr: u64, len: u64, verb: &str) -> Result<(), u64> {
        let end = addr.checked_add(len).ok_or(addr)?;
        if addr < self.start || end > self.end {
            return Err(if addr < self.start {
                addr
            } else {
                addr.max(self.end)
            });
        }
        let mut at = addr;
        while at < end {
            match self.owned.range(..=at).next_back() {
                Some((_, block)) if block.end > at => at = block.end,
                _ => {
                    self.violation(format!(
                        "{len:#x} bytes at {addr:#x} were {verb} by hardware, but {at:#x} was freed \
                         or never allocated"
                    ));
                    return Err(at);
                }
            }
        }
        Ok(())
    }

    /// Cuts `start..end` out of the free range at `hole`.
    fn take(&mut self, hole: u64, start: u64, end: u64) {
        let Some(hole_end) = self.free.remove(&hole) else {
            return;
        };
        if hole < start {
            self.free.insert(hole, start);
        }
        if end < hole_end {
            self.free.insert(end, hole_end);
        }
    }

    fn give_back(&mut self, mut start: u64, mut end: u64) {
        if let Some((&before, &before_end)) = self.free.range(..start).next_back()
            && before_end == start
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(after_end) = self.free.remove(&end) {
            end = after_end;
        }
        self.free.insert(start, end);
    }
}
