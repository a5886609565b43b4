//! Random numbers that are the same on every run with the same seed.

/// The SplitMix64 generator.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The generator of case number `index` of a run.
    pub(crate) fn new(seed: u64, index: u64) -> Self {
        let mut rng = Self(seed);
        let start = rng.next();
        Self(start ^ index.wrapping_mul(0xd134_2543_de82_ef95))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number less than `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A number of at most `count` bits.
    pub(crate) fn bits(&mut self, count: u32) -> u64 {
        if count == 0 {
            0
        } else {
            self.next() >> (64 - count)
        }
    }

    /// True this many times out of a hundred.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// An index into something of this many elements.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// A number that fits 32 bits, less than `bound`.
    pub(crate) fn small(&mut self, bound: u32) -> u32 {
        u32::try_from(self.below(u64::from(bound))).unwrap_or(0)
    }

    /// A number of 16 bits that is not zero.
    pub(crate) fn id(&mut self) -> u16 {
        u16::try_from(1 + self.below(0xfff0)).unwrap_or(1)
    }
}
