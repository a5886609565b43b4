//! A platform that costs next to nothing: what is measured on it is the driver.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

use arm_smmu_v3::spec::registers::{SIZE, offset};
use iommu_core::{BasicPlatform, Clock, DmaMemory, PhysAddr, RegisterBank};

pub(crate) type Platform = BasicPlatform<Registers, Heap, Still>;

pub(crate) fn platform() -> Platform {
    BasicPlatform {
        bank: Registers::new(),
        memory: Heap,
        clock: Still,
    }
}

/// An SMMU that has done everything it is told by the time anybody looks: each register is a word
/// of memory, each access one plain load or store.
#[derive(Clone)]
pub(crate) struct Registers(Arc<[AtomicU32; SIZE / 4]>);

impl Registers {
    pub(crate) fn new() -> Self {
        let registers: Arc<[AtomicU32]> = (0..SIZE / 4).map(|_| AtomicU32::new(0)).collect();
        let registers = registers.try_into().expect("that many registers");
        let bank = Self(registers);
        // Both stages, 2-level tables, 16-bit ids, 16-bit StreamIDs, 48-bit addresses, coherent.
        let ids = [
            (offset::IDR0, 0x0d44_101b),
            (offset::IDR1, 0x0273_0010),
            (offset::IDR3, 0x1414),
            (offset::IDR5, 0x75),
            (offset::AIDR, 1),
        ];
        for (offset, value) in ids {
            bank.word(offset).store(value, Ordering::Relaxed);
        }
        bank
    }

    #[inline(always)]
    fn word(&self, offset: usize) -> &AtomicU32 {
        // An acknowledgement is what is acknowledged.
        let offset = match offset {
            offset::CR0ACK => offset::CR0,
            offset::IRQ_CTRLACK => offset::IRQ_CTRL,
            offset::CMDQ_CONS => offset::CMDQ_PROD,
            other => other,
        };
        &self.0[offset / 4]
    }
}

/// `SMMU_GBPA.Update` (6.3.14.1): the SMMU clears it when the change is in effect.
const UPDATE: u32 = 1 << 31;

impl RegisterBank for Registers {
    #[inline(always)]
    fn len(&self) -> usize {
        SIZE
    }
    #[inline(always)]
    fn read32(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }
    #[inline(always)]
    fn write32(&self, offset: usize, value: u32) {
        let value = match offset {
            offset::GBPA => value & !UPDATE,
            _ => value,
        };
        self.word(offset).store(value, Ordering::Release);
    }
    fn read64(&self, offset: usize) -> u64 {
        u64::from(self.read32(offset)) | u64::from(self.read32(offset + 4)) << 32
    }
    #[expect(clippy::cast_possible_truncation, reason = "one half each")]
    fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }
}

/// The heap as DMA memory: physical addresses are the CPU's.
#[derive(Clone)]
pub(crate) struct Heap;

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Heap")
    }
}

// SAFETY: blocks are the global allocator's, zeroed, of the layout asked for, and theirs alone until
// they are freed; both kinds of address are the same.
unsafe impl DmaMemory for Heap {
    fn allocate(&self, size: usize, align: usize) -> Option<PhysAddr> {
        let layout = Layout::from_size_align(size.max(1), align).ok()?;
        // SAFETY: the layout is not of size 0.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(PhysAddr(block.as_ptr().expose_provenance() as u64))
    }

    unsafe fn free(&self, addr: PhysAddr, size: usize, align: usize) {
        let layout = Layout::from_size_align(size.max(1), align).expect("it was allocated");
        // SAFETY: the caller says that this is what `allocate` was asked for and returned.
        unsafe { dealloc(self.pointer(addr).as_ptr(), layout) }
    }

    #[inline(always)]
    fn pointer(&self, addr: PhysAddr) -> NonNull<u8> {
        #[expect(clippy::cast_possible_truncation, reason = "it came from a pointer")]
        let pointer = std::ptr::with_exposed_provenance_mut(addr.0 as usize);
        NonNull::new(pointer).unwrap_or(NonNull::dangling())
    }

    #[inline(always)]
    fn is_coherent(&self) -> bool {
        true
    }
    fn clean(&self, _: PhysAddr, _: usize) {}
    #[inline(always)]
    fn write_barrier(&self) {
        fence(Ordering::Release);
    }
    #[inline(always)]
    fn read_barrier(&self) {
        fence(Ordering::Acquire);
    }
}

/// No wait here is longer than one look.
pub(crate) struct Still;

impl Clock for Still {
    #[inline(always)]
    fn now(&self) -> Duration {
        Duration::ZERO
    }
}
