//! Fields of structures, by the bit numbers that the specification gives them.

/// The bits `high` to `low` of a structure of 64-bit words, counted from bit 0 of its first word.
/// Both are in the same word.
pub(super) fn span(words: &[u64], high: u32, low: u32) -> u64 {
    let word = words.get((low / 64) as usize).copied().unwrap_or(0);
    word >> (low % 64) & mask(high - low + 1)
}

/// As [`span`], of at most 32 bits.
pub(super) fn field(words: &[u64], high: u32, low: u32) -> u32 {
    u32::try_from(span(words, high, low)).unwrap_or(u32::MAX)
}

/// As [`span`], of at most 16 bits.
pub(super) fn id(words: &[u64], high: u32, low: u32) -> u16 {
    u16::try_from(span(words, high, low)).unwrap_or(u16::MAX)
}

/// One bit of a structure.
pub(super) fn bit(words: &[u64], at: u32) -> bool {
    span(words, at, at) == 1
}

/// The bits `high` to `low` as an address: at their place in their word, all others zero.
pub(super) fn address(words: &[u64], high: u32, low: u32) -> u64 {
    span(words, high, low) << (low % 64)
}

/// The lowest `count` bits.
pub(super) fn mask(count: u32) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

/// A word with the bits `high` to `low` of a 32-bit register.
pub(super) fn part(register: u32, high: u32, low: u32) -> u32 {
    field(&[u64::from(register)], high, low)
}

/// One half of a 64-bit register replaced.
pub(super) fn with_half(register: u64, upper: bool, value: u32) -> u64 {
    if upper {
        register & mask(32) | u64::from(value) << 32
    } else {
        register & !mask(32) | u64::from(value)
    }
}

/// One half of a 64-bit register.
pub(super) fn half(register: u64, upper: bool) -> u32 {
    if upper {
        field(&[register], 63, 32)
    } else {
        field(&[register], 31, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_counted_over_the_whole_structure() {
        let words = [0x8000_0000_0000_0001, 0x0123_4567_89ab_cdef];
        assert_eq!(
            (span(&words, 127, 64), bit(&words, 63), bit(&words, 64)),
            (words[1], true, true)
        );
        assert_eq!(address(&words, 119, 68), 0x0023_4567_89ab_cde0);
        assert_eq!((field(&words, 67, 64), id(&words, 79, 64)), (0xf, 0xcdef));
        assert_eq!((mask(0), mask(12), mask(64)), (0, 0xfff, u64::MAX));
    }

    #[test]
    fn halves_make_a_register() {
        assert_eq!(
            with_half(0x1111_1111_2222_2222, true, 0xabcd),
            0x0000_abcd_2222_2222
        );
        assert_eq!(half(0x1111_1111_2222_2222, false), 0x2222_2222);
    }
}
