//! VMSAv8-64 translation tables: one descriptor at a time.

use super::bits::mask;
use super::config::Tables;
use super::events::Kind;

/// What a descriptor leads to.
#[derive(Clone, Copy)]
pub(super) enum Step {
    /// The next level's table.
    Table(u64),
    /// A block or page at this address.
    Leaf(u64),
}

/// What descriptors of tables take away from all pages below (APTable).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    pub(super) no_write: bool,
    pub(super) no_unprivileged: bool,
}

/// What a page allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Permissions {
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Permissions {
    pub(super) const ALL: Self = Self {
        read: true,
        write: true,
    };

    /// S2AP, bits 7:6 of a stage 2 leaf.
    pub(super) fn of_stage2(descriptor: u64) -> Self {
        Self {
            read: descriptor & 1 << 6 != 0,
            write: descriptor & 1 << 7 != 0,
        }
    }
}

/// AP, bits 7:6 of a stage 1 leaf, with the limits of the tables above it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stage1Permissions {
    pub(super) write: bool,
    pub(super) unprivileged: bool,
}

impl Stage1Permissions {
    pub(super) const ALL: Self = Self {
        write: true,
        unprivileged: true,
    };

    pub(super) fn of(descriptor: u64, limits: Limits) -> Self {
        Self {
            write: descriptor & 1 << 7 == 0 && !limits.no_write,
            unprivileged: descriptor & 1 << 6 != 0 && !limits.no_unprivileged,
        }
    }
}

impl Limits {
    /// These limits and those in bits 62:61 of a table descriptor.
    pub(super) fn and(self, descriptor: u64) -> Self {
        Self {
            no_write: self.no_write || descriptor & 1 << 62 != 0,
            no_unprivileged: self.no_unprivileged || descriptor & 1 << 61 != 0,
        }
    }
}

impl Tables {
    /// The hardware takes the bits below the first table's size as zero.
    pub(super) fn with_root_aligned(mut self) -> Self {
        let entries = self.input_bits.saturating_sub(self.shift(self.start_level));
        self.root.0 &= !mask(entries + 3);
        self
    }

    /// The lowest address bit that a table at `level` resolves.
    pub(super) fn shift(&self, level: u32) -> u32 {
        self.granule_bits + (3 - level.min(3)) * (self.granule_bits - 3)
    }

    /// Where the descriptor for `input` is in a table at `level`.
    pub(super) fn descriptor(&self, table: u64, level: u32, input: u64) -> u64 {
        let shift = self.shift(level);
        let bits = if level == self.start_level {
            self.input_bits.saturating_sub(shift)
        } else {
            self.granule_bits - 3
        };
        let index = (input & mask(self.input_bits)) >> shift.min(63) & mask(bits);
        table.wrapping_add(index * 8)
    }

    /// What a descriptor at `level` leads to.
    pub(super) fn decode(&self, level: u32, descriptor: u64) -> Result<Step, Kind> {
        let block_allowed = match self.granule_bits {
            12 => level == 1 || level == 2,
            _ => level == 2,
        };
        let (kind, low) = match (level, descriptor & 3) {
            (3, 3) => (Step::Leaf as fn(u64) -> Step, self.granule_bits),
            (0..=2, 3) => (Step::Table as fn(u64) -> Step, self.granule_bits),
            (0..=2, 1) if block_allowed => (Step::Leaf as fn(u64) -> Step, self.shift(level)),
            _ => return Err(Kind::Translation),
        };
        let output = descriptor & mask(48) & !mask(low);
        if output >> self.output_bits.min(63) != 0 {
            return Err(Kind::AddressSize);
        }
        Ok(kind(output))
    }
}
