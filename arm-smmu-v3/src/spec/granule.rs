//! The sizes of pages and tables, in the encodings that fields have for them.

use iommu_core::pgtable::LAST_LEVEL;

/// The size of a page, and of a table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Granule {
    /// 4 KiB.
    K4,
    /// 16 KiB.
    K16,
    /// 64 KiB.
    K64,
}

impl Granule {
    /// All of them, from the smallest up.
    pub const ALL: [Self; 3] = [Self::K4, Self::K16, Self::K64];

    /// log2 of its bytes.
    #[must_use]
    pub const fn shift(self) -> u32 {
        match self {
            Self::K4 => 12,
            Self::K16 => 14,
            Self::K64 => 16,
        }
    }

    /// Its bytes.
    #[must_use]
    pub const fn size(self) -> u64 {
        1 << self.shift()
    }

    /// The level of leaves of `size` bytes.
    #[must_use]
    pub const fn level(self, size: u64) -> u8 {
        let index_bits = self.shift() - 3;
        let above = (size.trailing_zeros().saturating_sub(self.shift())) / index_bits;
        match above {
            0 => LAST_LEVEL,
            1 => 2,
            2 => 1,
            _ => 0,
        }
    }

    /// `CD.TG0` (5.4) and `STE.S2TG` (5.2).
    #[must_use]
    pub const fn tg0(self) -> u8 {
        match self {
            Self::K4 => 0,
            Self::K64 => 1,
            Self::K16 => 2,
        }
    }

    /// `TG` of commands that invalidate ranges (4.4.1.1).
    #[must_use]
    pub const fn command_tg(self) -> u8 {
        match self {
            Self::K4 => 1,
            Self::K16 => 2,
            Self::K64 => 3,
        }
    }

    /// `STE.S2SL0` for walks that begin at `level`, 0 to 2, or 1 to 3 with larger granules than 4 KiB
    /// (5.2; as `VTCR_EL2.SL0`, Arm DDI 0487).
    #[must_use]
    pub const fn s2sl0(self, level: u8) -> u8 {
        match self {
            Self::K4 => 2_u8.saturating_sub(level),
            Self::K16 | Self::K64 => 3_u8.saturating_sub(level),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_of_each_size_have_a_level() {
        let levels = |granule: Granule, bits: [u32; 3]| bits.map(|bit| granule.level(1 << bit));
        assert_eq!(levels(Granule::K4, [12, 21, 30]), [3, 2, 1]);
        assert_eq!(levels(Granule::K16, [14, 25, 36]), [3, 2, 1]);
        assert_eq!(levels(Granule::K64, [16, 29, 42]), [3, 2, 1]);
        assert_eq!(Granule::K4.level(1 << 39), 0);
    }

    /// By hand, from the tables of 5.2, 5.4 and 4.4.1.1.
    #[test]
    fn fields_have_encodings_of_their_own() {
        assert_eq!(Granule::ALL.map(Granule::shift), [12, 14, 16]);
        assert_eq!(Granule::ALL.map(Granule::tg0), [0b00, 0b10, 0b01]);
        assert_eq!(Granule::ALL.map(Granule::command_tg), [0b01, 0b10, 0b11]);
        assert_eq!(Granule::ALL.map(|granule| granule.s2sl0(2)), [0, 1, 1]);
        assert_eq!(Granule::ALL.map(|granule| granule.s2sl0(1)), [1, 2, 2]);
    }
}
