//! Words of a bitmap, a bit for each page or child that is free.

/// The number of bits, as a power of two.
pub(super) const WORD_ORDER: u32 = u64::BITS.ilog2();

/// The first bit of every aligned run of 2^n bits, for each n.
const STARTS: [u64; WORD_ORDER as usize + 1] = [
    u64::MAX,
    0x5555_5555_5555_5555,
    0x1111_1111_1111_1111,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0000_0001_0000_0001,
    1,
];

/// The first bits of all aligned runs of 2^`order` ones in `word`; none where a word is shorter.
pub(super) fn runs(word: u64, order: u32) -> u64 {
    let Some(starts) = STARTS.get(order as usize) else {
        return 0;
    };
    (0..order).fold(word, |runs, half| runs & (runs >> (1 << half))) & starts
}

/// The largest aligned run of ones in `word`: its order plus one, or 0.
pub(super) fn room_in(word: u64) -> u8 {
    let mut room = 0;
    let mut runs = word;
    for (half, starts) in STARTS[1..].iter().enumerate() {
        if runs == 0 {
            return room;
        }
        room += 1;
        runs &= (runs >> (1_u32 << half)) & starts;
    }
    room + u8::from(runs != 0)
}

/// The bits `first..=last`.
pub(super) fn bits(first: u64, last: u64) -> u64 {
    (u64::MAX << first) & (u64::MAX >> (63 - last))
}

/// The positions of the ones in `word`, lowest first.
pub(super) fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lowest = word.trailing_zeros();
        word &= word.checked_sub(1)?;
        Some(lowest as usize)
    })
}
