//! The machine's RAM, shared between QEMU and this process.

use std::fs::OpenOptions;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use iommu_core::PhysAddr;
use memmap2::MmapRaw;
use mock_hw::MockMemory;

use super::error::QemuError;

/// The number of bytes of RAM.
pub const RAM_SIZE: u64 = 256 << 20;
/// What of the start of RAM is kept out of [`MockMemory`]: QEMU puts the device tree there, a PC has
/// holes in its first mebibyte, and the last page is the staging page of the devices.
pub(super) const RESERVED: u64 = 2 << 20;
/// A page that only the harness uses, by its offset in RAM.
const STAGING: u64 = RESERVED - STAGING_SIZE as u64;
/// The number of bytes in that page.
pub(super) const STAGING_SIZE: usize = 4096;
/// Addresses in this process equal physical ones modulo this: the largest queue that QEMU's IOMMUs
/// have is 16 MiB.
const CONGRUENCE: u64 = 16 << 20;

/// A file that QEMU uses as RAM, mapped here too.
#[derive(Debug)]
pub(super) struct GuestRam {
    map: MmapRaw,
    /// Where RAM begins in the file and so in the mapping.
    offset: u64,
    /// Where RAM begins in the machine.
    base: u64,
}

impl GuestRam {
    /// Creates the file. It is a little larger than RAM, so that RAM can begin in it where the
    /// mapping has the alignment that DMA memory promises; what is never written takes no space.
    pub(super) fn create(path: &Path, base: u64) -> Result<Self, QemuError> {
        const DOING: &str = "creating the machine's RAM";
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(QemuError::host(DOING))?;
        file.set_len(RAM_SIZE + CONGRUENCE)
            .map_err(QemuError::host(DOING))?;
        let map = MmapRaw::map_raw(&file).map_err(QemuError::host(DOING))?;
        let start = map.as_ptr().addr() as u64;
        let offset = start.next_multiple_of(CONGRUENCE) - start;
        Ok(Self { map, offset, base })
    }

    /// Where RAM begins in the file.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Where this process finds the byte at `offset` in RAM.
    fn at(&self, offset: u64) -> NonNull<u8> {
        let offset = usize::try_from(self.offset + offset).ok();
        let byte = offset.filter(|&offset| offset < self.map.len());
        byte.and_then(|byte| NonNull::new(self.map.as_mut_ptr().wrapping_add(byte)))
            .expect("offsets in RAM are in the mapping")
    }

    /// RAM without its reserved start, as memory for drivers and devices. `coherent` is what the
    /// IOMMU says about itself.
    pub(super) fn memory(self: &Arc<Self>, coherent: bool) -> MockMemory {
        let size = usize::try_from(RAM_SIZE - RESERVED).expect("RAM fits the address space");
        let keep = Box::new(Arc::clone(self));
        let base = PhysAddr(self.base + RESERVED);
        // SAFETY: the mapping goes on for `RAM_SIZE` bytes from where RAM begins, is readable and
        // writable, and is kept by `keep`. The reserved start is not handed out; nothing else in
        // this process uses the rest.
        let memory = unsafe { MockMemory::over(base, self.at(RESERVED), size, keep) };
        memory.set_coherent(coherent);
        memory
    }

    /// The physical address of the staging page.
    pub(super) fn staging_addr(&self) -> u64 {
        self.base + STAGING
    }

    fn staging(&self) -> &[AtomicU8] {
        let page = self.at(STAGING).cast::<AtomicU8>();
        // SAFETY: the page is in the mapping, which lives as long as `self`, and is accessed
        // atomically only.
        unsafe { std::slice::from_raw_parts(page.as_ptr(), STAGING_SIZE) }
    }

    /// Copies to the start of the staging page.
    pub(super) fn stage(&self, bytes: &[u8]) {
        for (to, from) in self.staging()[..bytes.len()].iter().zip(bytes) {
            to.store(*from, Ordering::Relaxed);
        }
    }

    /// Copies from the start of the staging page.
    pub(super) fn unstage(&self, bytes: &mut [u8]) {
        let len = bytes.len();
        for (to, from) in bytes.iter_mut().zip(&self.staging()[..len]) {
            *to = from.load(Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iommu_core::DmaMemory;

    const BASE: u64 = 0x4000_0000;

    #[test]
    fn blocks_are_aligned_here_as_they_are_in_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let ram = Arc::new(GuestRam::create(&dir.path().join("ram"), BASE).unwrap());
        let memory = ram.memory(true);
        let size = 8 << 20;
        let block = memory.allocate(size, size).unwrap();
        assert!(block.is_aligned(size as u64));
        assert_eq!(memory.pointer(block).addr().get() % size, 0);
        assert!(block.0 >= BASE + RESERVED);
        // SAFETY: allocated above, used by nobody.
        unsafe { memory.free(block, size, size) };
    }

    #[test]
    fn what_was_staged_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let ram = GuestRam::create(&dir.path().join("ram"), BASE).unwrap();
        ram.stage(b"abc");
        let mut back = [0; 4];
        ram.unstage(&mut back);
        assert_eq!(&back, b"abc\0");
    }
}
