//! Fields of words, by the bit numbers that the specification gives them.

/// The bits `high` to `low` of a word, moved down.
pub(super) fn bits(word: u64, high: u32, low: u32) -> u64 {
    word >> low & mask(high - low + 1)
}

/// As [`bits`], of at most 32 bits.
pub(super) fn field(word: u64, high: u32, low: u32) -> u32 {
    u32::try_from(bits(word, high, low)).unwrap_or(u32::MAX)
}

/// As [`bits`], of at most 16 bits.
pub(super) fn id(word: u64, high: u32, low: u32) -> u16 {
    u16::try_from(bits(word, high, low)).unwrap_or(u16::MAX)
}

/// One bit of a word.
pub(super) fn bit(word: u64, at: u32) -> bool {
    word >> at & 1 == 1
}

/// The bits 63 to 12 of a word at their place: the address of a page.
pub(super) fn page(word: u64) -> u64 {
    word & !0xfff
}

/// The lowest `count` bits.
pub(super) fn mask(count: u32) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

/// One half of a 64-bit register.
pub(super) fn half(register: u64, upper: bool) -> u32 {
    field(register >> if upper { 32 } else { 0 }, 31, 0)
}

/// A 64-bit register with one half replaced.
pub(super) fn with_half(register: u64, upper: bool, value: u32) -> u64 {
    if upper {
        register & mask(32) | u64::from(value) << 32
    } else {
        register & !mask(32) | u64::from(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_cut_out_by_bit_number() {
        let word = 0x8123_4567_89ab_cdef;
        assert_eq!((bits(word, 63, 60), field(word, 31, 0)), (8, 0x89ab_cdef));
        assert_eq!((id(word, 15, 0), bit(word, 63)), (0xcdef, true));
        assert_eq!((page(word), mask(0)), (0x8123_4567_89ab_c000, 0));
        assert_eq!((half(word, true), mask(64)), (0x8123_4567, u64::MAX));
        assert_eq!(with_half(word, true, 1), 0x1_89ab_cdef);
        assert_eq!(with_half(word, false, 1), 0x8123_4567_0000_0001);
    }
}
