//! Tables and events as somebody finds them who has the specification and nothing of the driver.

use iommu_core::{PhysAddr, RegisterBank, StreamId};
use mock_hw::MockMemory;

const STRTAB_BASE: usize = 0x80;
const STRTAB_BASE_CFG: usize = 0x88;

/// Bits `high:low` of `word`.
const fn bits(word: u64, high: u32, low: u32) -> u64 {
    word << (63 - high) >> (63 - high + low)
}

/// Bits `high:low` of `word`, in their place: an address.
const fn address(word: u64, high: u32, low: u32) -> u64 {
    bits(word, high, low) << low
}

/// A word of memory that was changed behind the driver's back; the end of this value restores it.
#[must_use = "the word is restored at the end of this value"]
#[derive(Debug)]
pub struct Altered {
    memory: MockMemory,
    at: PhysAddr,
    was: u64,
}

impl Drop for Altered {
    fn drop(&mut self) {
        let restored = self.memory.write_word(self.at, self.was);
        debug_assert!(restored.is_ok(), "the word at {} is gone", self.at);
    }
}

/// The end of a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// Where the descriptor is.
    pub at: PhysAddr,
    /// The descriptor.
    pub descriptor: u64,
    /// Its level: 3 for a page, 2 for a block of 2 MiB, 1 for one of 1 GiB.
    pub level: u32,
    /// Where the descriptor of the level above is, if there is one.
    pub above: Option<PhysAddr>,
}

/// Reads an SMMU's tables through its registers and memory.
#[derive(Debug)]
pub struct Outsider<B> {
    bank: B,
    memory: MockMemory,
}

impl<B: RegisterBank> Outsider<B> {
    /// Of the SMMU with these registers.
    #[must_use]
    pub fn new(bank: B, memory: MockMemory) -> Self {
        Self { bank, memory }
    }

    /// The word at `at`.
    #[must_use]
    pub fn word(&self, at: PhysAddr) -> u64 {
        self.memory.read_word(at).unwrap()
    }

    /// Changes the word at `at` for good.
    pub fn set(&self, at: PhysAddr, value: u64) {
        self.memory.write_word(at, value).unwrap();
    }

    /// Changes the word at `at` for as long as the result lives.
    pub fn alter(&self, at: PhysAddr, value: u64) -> Altered {
        let was = self.word(at);
        self.set(at, value);
        Altered {
            memory: self.memory.clone(),
            at,
            was,
        }
    }

    /// The level-1 descriptor of `stream` (5.1), where the stream table has two levels.
    #[must_use]
    pub fn level1(&self, stream: StreamId) -> Option<PhysAddr> {
        let cfg = u64::from(self.bank.read32(STRTAB_BASE_CFG));
        let base = address(self.bank.read64(STRTAB_BASE), 55, 6);
        let index = u64::from(stream.0) >> bits(cfg, 10, 6);
        (bits(cfg, 17, 16) == 1).then_some(PhysAddr(base + index * 8))
    }

    /// The entry of `stream` (5.2): where its word `word` is.
    #[must_use]
    pub fn ste(&self, stream: StreamId, word: u64) -> PhysAddr {
        let cfg = u64::from(self.bank.read32(STRTAB_BASE_CFG));
        let base = address(self.bank.read64(STRTAB_BASE), 55, 6);
        let (table, index) = match self.level1(stream) {
            None => (base, u64::from(stream.0)),
            Some(level1) => {
                let below = bits(
                    u64::from(stream.0),
                    u32::try_from(bits(cfg, 10, 6)).unwrap() - 1,
                    0,
                );
                (address(self.word(level1), 55, 6), below)
            }
        };
        PhysAddr(table + index * 64 + word * 8)
    }

    /// The context descriptor of `stream` (5.4): where its word `word` is. Stage 1 only.
    #[must_use]
    pub fn cd(&self, stream: StreamId, word: u64) -> PhysAddr {
        let ste = self.word(self.ste(stream, 0));
        assert_eq!(bits(ste, 3, 1), 0b101, "stream {stream} is not on stage 1");
        PhysAddr(address(ste, 55, 6) + word * 8)
    }

    /// Walks the table that `stream` is on, of either stage (Arm DDI 0487, D8.3).
    ///
    /// The end of the walk is a leaf, or an invalid descriptor with bit 0 clear.
    #[must_use]
    pub fn walk(&self, stream: StreamId, input: u64) -> Leaf {
        let config = bits(self.word(self.ste(stream, 0)), 3, 1);
        let (size, mut table, mut level) = if config == 0b110 {
            let [w2, w3] = [2, 3].map(|word| self.word(self.ste(stream, word)));
            let start = match bits(w2, 39, 38) {
                0 => 2,
                1 => 1,
                _ => 0,
            };
            (64 - bits(w2, 37, 32), address(w3, 51, 4), start)
        } else {
            let [w0, w1] = [0, 1].map(|word| self.word(self.cd(stream, word)));
            let size = 64 - bits(w0, 5, 0);
            let start = match size {
                40.. => 0,
                31.. => 1,
                _ => 2,
            };
            (size, address(w1, 51, 4), start)
        };
        let mut high = u32::try_from(size).unwrap() - 1;
        let mut above = None;
        loop {
            let low = 12 + 9 * (3 - level);
            let at = PhysAddr(table + bits(input, high, low) * 8);
            let descriptor = self.word(at);
            if level == 3 || descriptor & 0b11 != 0b11 {
                return Leaf {
                    at,
                    descriptor,
                    level,
                    above,
                };
            }
            table = address(descriptor, 47, 12);
            above = Some(at);
            (level, high) = (level + 1, low - 1);
        }
    }
}

/// The events (7.3) that cases provoke, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "each is the event of that name in section 7.3")]
pub enum Kind {
    BadStreamId = 0x02,
    SteFetch = 0x03,
    BadSte = 0x04,
    CdFetch = 0x09,
    BadCd = 0x0a,
    WalkExternalAbort = 0x0b,
    Translation = 0x10,
    AddressSize = 0x11,
    Access = 0x12,
    Permission = 0x13,
}

/// A record of the event queue, read bit by bit (7.3).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Record(pub [u64; 4]);

impl Record {
    /// The event's number.
    #[must_use]
    pub fn number(&self) -> u64 {
        bits(self.0[0], 7, 0)
    }

    /// Whether it is an event of this kind.
    #[must_use]
    pub fn is(&self, kind: Kind) -> bool {
        self.number() == kind as u64
    }

    /// `StreamID`.
    #[must_use]
    pub fn stream(&self) -> u64 {
        bits(self.0[0], 63, 32)
    }

    /// `RnW`.
    #[must_use]
    pub fn is_read(&self) -> bool {
        bits(self.0[1], 35, 35) == 1
    }

    /// 1 or 2, by `S2`.
    #[must_use]
    pub fn stage(&self) -> u8 {
        1 + u8::from(bits(self.0[1], 39, 39) == 1)
    }

    /// `CLASS`: 0 CD, 1 table, 2 input.
    #[must_use]
    pub fn class(&self) -> u64 {
        bits(self.0[1], 41, 40)
    }

    /// `InputAddr`.
    #[must_use]
    pub fn input(&self) -> u64 {
        self.0[2]
    }

    /// `IPA` or `FetchAddr`, as it stands.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.0[3]
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "event {:#04x}: stream {:#x}, {}, stage {}, class {}, input {:#x}, address {:#x}",
            self.number(),
            self.stream(),
            if self.is_read() { "read" } else { "write" },
            self.stage(),
            self.class(),
            self.input(),
            self.address()
        )
    }
}
