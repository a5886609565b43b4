//! Register banks without hardware: mocked, recording, and plain storage.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use iommu_core::{DeviceControl, RegisterBank, Result};
use mockall::mock;

mock! {
    /// A register bank with expectations; see the `mockall` crate.
    #[derive(Debug)]
    pub RegisterBank {}

    impl RegisterBank for RegisterBank {
        fn len(&self) -> usize;
        fn read32(&self, offset: usize) -> u32;
        fn write32(&self, offset: usize, value: u32);
        fn read64(&self, offset: usize) -> u64;
        fn write64(&self, offset: usize, value: u64);
    }
}

mock! {
    /// A device's own switches with expectations; see the `mockall` crate.
    #[derive(Debug)]
    pub DeviceControl {}

    impl DeviceControl for DeviceControl {
        fn is_reachable(&self) -> bool;
        fn has_ats(&self) -> bool;
        fn set_ats(&self, on: bool) -> Result;
        fn set_pasid(&self, on: bool) -> Result;
        fn set_pri(&self, on: bool) -> Result;
        fn quiesce(&self) -> Result;
    }
}

/// One access to a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(
    missing_docs,
    reason = "every variant has the offset in bytes and the value"
)]
pub enum Access {
    Read32 { offset: usize, value: u32 },
    Write32 { offset: usize, value: u32 },
    Read64 { offset: usize, value: u64 },
    Write64 { offset: usize, value: u64 },
}

impl Access {
    /// Whether it is a write.
    #[must_use]
    pub fn is_write(self) -> bool {
        matches!(self, Self::Write32 { .. } | Self::Write64 { .. })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bank that notes every access to another one, in the order in which they happen.
#[derive(Debug, Default)]
pub struct RecordingBank<B> {
    bank: B,
    log: Mutex<Vec<Access>>,
}

impl<B: RegisterBank> RecordingBank<B> {
    /// Records what is done to `bank`.
    #[must_use]
    pub fn new(bank: B) -> Self {
        Self {
            bank,
            log: Mutex::default(),
        }
    }

    /// The bank underneath; what is done to it directly is not recorded.
    #[must_use]
    pub fn inner(&self) -> &B {
        &self.bank
    }

    /// All accesses since the last [`clear`](Self::clear).
    #[must_use]
    pub fn log(&self) -> Vec<Access> {
        locked(&self.log).clone()
    }

    /// The writes among them.
    #[must_use]
    pub fn writes(&self) -> Vec<Access> {
        self.log()
            .into_iter()
            .filter(|access| access.is_write())
            .collect()
    }

    /// Forgets all accesses.
    pub fn clear(&self) {
        locked(&self.log).clear();
    }
}

impl<B: RegisterBank> RegisterBank for RecordingBank<B> {
    fn len(&self) -> usize {
        self.bank.len()
    }

    fn read32(&self, offset: usize) -> u32 {
        let mut log = locked(&self.log);
        let value = self.bank.read32(offset);
        log.push(Access::Read32 { offset, value });
        value
    }

    fn write32(&self, offset: usize, value: u32) {
        let mut log = locked(&self.log);
        self.bank.write32(offset, value);
        log.push(Access::Write32 { offset, value });
    }

    fn read64(&self, offset: usize) -> u64 {
        let mut log = locked(&self.log);
        let value = self.bank.read64(offset);
        log.push(Access::Read64 { offset, value });
        value
    }

    fn write64(&self, offset: usize, value: u64) {
        let mut log = locked(&self.log);
        self.bank.write64(offset, value);
        log.push(Access::Write64 { offset, value });
    }
}

/// Registers that hold what was written to them, and do nothing else.
#[derive(Debug)]
pub struct RegisterFile {
    len: usize,
    /// The words that are not zero.
    words: Mutex<BTreeMap<usize, u32>>,
}

impl RegisterFile {
    /// `len` bytes of registers, all zero.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self {
            len,
            words: Mutex::default(),
        }
    }

    /// The same registers, with 32 bits at `offset` set to `value`.
    #[must_use]
    pub fn with32(self, offset: usize, value: u32) -> Self {
        self.write32(offset, value);
        self
    }

    /// The same registers, with 64 bits at `offset` set to `value`.
    #[must_use]
    pub fn with64(self, offset: usize, value: u64) -> Self {
        self.write64(offset, value);
        self
    }

    fn check(&self, offset: usize, size: usize) {
        assert!(
            offset.is_multiple_of(size) && offset < self.len && self.len - offset >= size,
            "no register of {size} bytes at offset {offset:#x}"
        );
    }
}

impl RegisterBank for RegisterFile {
    fn len(&self) -> usize {
        self.len
    }

    fn read32(&self, offset: usize) -> u32 {
        self.check(offset, 4);
        locked(&self.words).get(&offset).copied().unwrap_or(0)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.check(offset, 4);
        locked(&self.words).insert(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.check(offset, 8);
        let words = locked(&self.words);
        let word = |at| u64::from(words.get(&at).copied().unwrap_or(0));
        word(offset + 4) << 32 | word(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.check(offset, 8);
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        let mut words = locked(&self.words);
        words.insert(offset, u32::from_le_bytes([a, b, c, d]));
        words.insert(offset + 4, u32::from_le_bytes([e, f, g, h]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_file_is_halves_and_pairs_of_the_same_words() {
        let file = RegisterFile::new(16)
            .with32(4, 0x1122_3344)
            .with64(8, 0x5566_7788_99aa_bbcc);
        assert_eq!(file.read64(0), 0x1122_3344_0000_0000);
        assert_eq!(
            (file.read32(8), file.read32(12)),
            (0x99aa_bbcc, 0x5566_7788)
        );
    }

    #[test]
    #[should_panic(expected = "no register of 8 bytes at offset 0xc")]
    fn an_access_past_the_end_is_refused() {
        RegisterFile::new(16).read64(12);
    }

    #[test]
    fn the_log_keeps_the_order() {
        let bank = RecordingBank::new(RegisterFile::new(16));
        bank.write32(4, 7);
        bank.read32(4);
        bank.write64(8, 9);
        let (first, last) = (
            Access::Write32 {
                offset: 4,
                value: 7,
            },
            Access::Write64 {
                offset: 8,
                value: 9,
            },
        );
        assert_eq!(
            bank.log(),
            [
                first,
                Access::Read32 {
                    offset: 4,
                    value: 7
                },
                last
            ]
        );
        assert_eq!(bank.writes(), [first, last]);
        bank.clear();
        bank.read64(8);
        assert_eq!(
            bank.log(),
            [Access::Read64 {
                offset: 8,
                value: 9
            }]
        );
    }

    #[test]
    fn mocks_meet_their_traits() {
        let mut bank = MockRegisterBank::new();
        bank.expect_read32()
            .withf(|offset| *offset == 0x24)
            .return_const(1u32);
        assert_eq!(RegisterBank::read32(&bank, 0x24), 1);
        let mut control = MockDeviceControl::new();
        control.expect_set_ats().times(1).returning(|_| Ok(()));
        assert_eq!(control.set_ats(true), Ok(()));
    }
}
