//! A register bank over memory-mapped registers.

use core::ptr::NonNull;

use safe_mmio::UniqueMmioPointer;
use safe_mmio::fields::ReadPureWrite;

use crate::platform::RegisterBank;

/// The registers of a real device, mapped as device memory.
///
/// Reads of an IOMMU's registers have no side effects, and any CPU may access any of them at any
/// time, so the bank is shared freely.
#[derive(Debug)]
pub struct MmioBank {
    base: NonNull<u64>,
    len: usize,
}

// SAFETY: `base` came from a `UniqueMmioPointer`, whose maker promised that the registers may be
// accessed from any thread; the bank makes single volatile accesses and never a reference.
unsafe impl Send for MmioBank {}
// SAFETY: as for `Send`.
unsafe impl Sync for MmioBank {}

impl MmioBank {
    /// The bank of the registers that `registers` points to.
    ///
    /// The pointer carries the promise that the mapping exists, stays, and is used by nobody else;
    /// see [`UniqueMmioPointer`] for how to make one.
    #[must_use]
    pub fn new(mut registers: UniqueMmioPointer<'static, [ReadPureWrite<u64>]>) -> Self {
        let len = registers.len() * size_of::<u64>();
        Self {
            base: registers.ptr_nonnull().cast(),
            len,
        }
    }

    fn register<T>(&self, offset: usize) -> UniqueMmioPointer<'_, ReadPureWrite<T>> {
        let size = size_of::<T>();
        assert!(
            offset.is_multiple_of(size) && offset < self.len && self.len - offset >= size,
            "no register of {size} bytes at offset {offset:#x}"
        );
        // SAFETY: the assertion keeps the result inside the bank.
        let register = unsafe { self.base.byte_add(offset) }.cast();
        // SAFETY: the pointer is aligned, and valid for as long as the bank is. It is unique but
        // for accesses by other CPUs through this same bank; each of those is one volatile access
        // too, and which of two comes first is for the hardware to decide.
        unsafe { UniqueMmioPointer::new(register) }
    }
}

impl RegisterBank for MmioBank {
    fn len(&self) -> usize {
        self.len
    }

    fn read32(&self, offset: usize) -> u32 {
        self.register::<u32>(offset).read()
    }

    fn write32(&self, offset: usize, value: u32) {
        self.register::<u32>(offset).write(value);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.register::<u64>(offset).read()
    }

    fn write64(&self, offset: usize, value: u64) {
        self.register::<u64>(offset).write(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;

    type Registers = [ReadPureWrite<u64>; 2];

    /// Gives the registers of a test back at its end.
    struct Lent(*mut Registers);

    impl Drop for Lent {
        fn drop(&mut self) {
            // SAFETY: they are from `bank`, and whoever has that has the bank for no longer.
            drop(unsafe { Box::from_raw(self.0) });
        }
    }

    fn bank() -> (MmioBank, Lent) {
        let lent = Lent(Box::into_raw(Box::new([
            ReadPureWrite(0x1122_3344_5566_7788),
            ReadPureWrite(0),
        ])));
        // SAFETY: they are there until the test is over, and nobody else uses them.
        let registers: &'static mut Registers = unsafe { &mut *lent.0 };
        let registers: &'static mut [ReadPureWrite<u64>] = registers;
        (MmioBank::new(UniqueMmioPointer::from(registers)), lent)
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn halves_and_pairs_are_the_same_registers() {
        let (bank, _lent) = bank();
        assert_eq!((bank.read32(0), bank.read32(4)), (0x5566_7788, 0x1122_3344));
        bank.write32(12, 0xabcd);
        assert_eq!(bank.read64(8), 0xabcd_0000_0000);
    }

    #[test]
    #[should_panic(expected = "no register of 8 bytes at offset 0xc")]
    fn an_access_past_the_end_is_refused() {
        let (bank, _lent) = bank();
        bank.read64(12);
    }
}
