//! An IOMMU's registers, behind the qtest protocol.

use iommu_core::RegisterBank;

use super::qtest::{Access, Qtest, low};

/// Registers of a machine in QEMU.
///
/// Every access is a round trip to QEMU's process (some 20 to 40 µs). Where QEMU does not answer,
/// the access panics with what QEMU printed, because a register bank cannot return errors; during
/// another panic it reads all ones. Widths are passed on as they are, but for the
/// [pairs](Self::with_pairs): QEMU's SMMU knows 64-bit accesses to `STRTAB_BASE`, `CMDQ_BASE`,
/// `EVENTQ_BASE` and `GERROR_IRQ_CFG0` only, and reads zero elsewhere.
///
/// Clones are the same registers. QEMU runs for as long as one of them is alive.
#[derive(Clone, Debug)]
pub struct QtestBank {
    qtest: Qtest,
    base: u64,
    len: usize,
    pairs: &'static [usize],
}

impl QtestBank {
    /// The `len` bytes of registers at physical address `base`.
    #[must_use]
    pub fn new(qtest: Qtest, base: u64, len: usize) -> Self {
        Self {
            qtest,
            base,
            len,
            pairs: &[],
        }
    }

    /// The same registers, where 64-bit writes to these offsets become two of 32 bits: the lower
    /// half, then the upper one.
    #[must_use]
    pub fn with_pairs(self, pairs: &'static [usize]) -> Self {
        Self { pairs, ..self }
    }

    #[track_caller]
    fn addr(&self, offset: usize, width: usize) -> u64 {
        assert!(
            offset.is_multiple_of(width) && offset < self.len && self.len - offset >= width,
            "no register of {width} bytes at offset {offset:#x}"
        );
        self.base + offset as u64
    }
}

impl RegisterBank for QtestBank {
    fn len(&self) -> usize {
        self.len
    }

    #[track_caller]
    fn read32(&self, offset: usize) -> u32 {
        low(self.qtest.access(Access::ReadL(self.addr(offset, 4))))
    }

    #[track_caller]
    fn write32(&self, offset: usize, value: u32) {
        self.qtest
            .access(Access::WriteL(self.addr(offset, 4), value));
    }

    #[track_caller]
    fn read64(&self, offset: usize) -> u64 {
        self.qtest.access(Access::ReadQ(self.addr(offset, 8)))
    }

    #[track_caller]
    fn write64(&self, offset: usize, value: u64) {
        let addr = self.addr(offset, 8);
        if self.pairs.contains(&offset) {
            self.write32(offset, low(value));
            self.write32(offset + 4, low(value >> 32));
        } else {
            self.qtest.access(Access::WriteQ(addr, value));
        }
    }
}
