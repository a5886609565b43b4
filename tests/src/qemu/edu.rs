//! QEMU's `edu` device as a DMA master that a test commands.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use iommu_core::{Iova, StreamId};

use super::bypass::Bypass;
use super::error::QemuError;
use super::pci::{AddressSpace, Function};
use super::qtest::{Access, Qtest, Session, low, or_panic};
use super::ram::{GuestRam, STAGING_SIZE};

/// Device 0x11e8 of vendor 0x1234.
pub(super) const EDU_ID: u32 = 0x11e8_1234;

/// What the device's first register says: version 1.0, and who it is.
const IDENTITY: u32 = 0x0100_00ed;

const DMA_SOURCE: u64 = 0x80;
const DMA_DESTINATION: u64 = 0x88;
const DMA_COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;
const DMA_RUN: u64 = 1 << 0;
/// In the command: from the device to memory, else from memory to the device.
const DMA_TO_MEMORY: u64 = 1 << 1;
/// The device's buffer, in its own addresses.
const BUFFER: u64 = 0x4_0000;
/// The number of bytes in it; QEMU does not check that a transfer stays within.
const BUFFER_SIZE: usize = 4096;
const _: () = assert!(BUFFER_SIZE <= STAGING_SIZE);

/// Where a chunk of a transfer ends: no chunk crosses such a boundary.
const PAGE: u64 = 4096;

/// A transfer takes well under a millisecond; this is for a host that is busy otherwise.
const DMA_BOUND: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    FromMemory,
    ToMemory,
}

/// A device that reads and writes memory through the IOMMU when told to.
///
/// The device has no error status. A write that the IOMMU does not let through changes nothing; such
/// a read returns zeros. An SMMU that records events does so for each 4 bytes of both:
/// [`write_u32`](Self::write_u32) and [`read_u32`](Self::read_u32) leave exactly one.
///
/// # How bytes get into the device and out of it
///
/// The device has a buffer of 4 KiB that can be reached by its own DMA only. To fill or to read it,
/// the harness lets the device access a page of its own with the IOMMU switched off for that moment;
/// nobody else accesses the machine's registers meanwhile (the harness holds its connection), and no
/// fault is recorded. The transfer that was asked for goes through the IOMMU as the driver set it up.
///
/// An SMMU's caches stay as they are then, so a driver cannot tell. **The caches of QEMU's VT-d are
/// empty after that**: after each read, and before a write, unless it writes what the last write did,
/// which is in the buffer still. What a driver forgets to invalidate shows in such a second write.
/// Where more is needed, the buffer is filled and looked at while translation is off
/// ([`fill`](Self::fill), [`fetch`](Self::fetch)), and [`send`](Self::send) and
/// [`receive`](Self::receive) make the bare transfers.
///
/// All methods panic where QEMU does not answer or the device does not finish.
#[derive(Clone, Debug)]
pub struct Edu {
    qtest: Qtest,
    ram: Arc<GuestRam>,
    bypass: Bypass,
    bar: u64,
    stream: StreamId,
    /// What is known to be at the start of the buffer.
    staged: Arc<Mutex<Vec<u8>>>,
}

impl Edu {
    pub(super) fn enable(
        qtest: &Qtest,
        ram: &Arc<GuestRam>,
        bypass: Bypass,
        function: Function,
        space: &mut AddressSpace,
    ) -> Result<Self, QemuError> {
        let mut session = qtest.session();
        let bar = function.enable(&mut session, space)?;
        let identity = low(session.access(Access::ReadL(bar))?);
        if identity != IDENTITY {
            let problem = format!("the edu device at {bar:#x} says it is {identity:#x}");
            return Err(QemuError::Device { problem });
        }
        drop(session);
        let stream = StreamId(function.bdf());
        Ok(Self {
            qtest: qtest.clone(),
            ram: Arc::clone(ram),
            bypass,
            bar,
            stream,
            staged: Arc::default(),
        })
    }

    /// The StreamID, or the source id, of the device's transactions.
    #[must_use]
    pub fn stream_id(&self) -> StreamId {
        self.stream
    }

    /// Lets the device write `bytes` to memory at `iova`, in chunks that end at 4 KiB boundaries.
    ///
    /// # Panics
    ///
    /// Where QEMU does not answer, or the range wraps around.
    #[track_caller]
    pub fn write(&self, iova: impl Into<Iova>, bytes: &[u8]) {
        let mut session = self.qtest.session();
        for (iova, range) in chunks(iova.into(), bytes.len()) {
            let chunk = &bytes[range];
            or_panic(self.write_chunk(&mut session, iova, chunk));
        }
    }

    /// Lets the device read memory at `iova` into its buffer, and shows what it got; in chunks that
    /// end at 4 KiB boundaries.
    ///
    /// # Panics
    ///
    /// Where QEMU does not answer, or the range wraps around.
    #[track_caller]
    pub fn read(&self, iova: impl Into<Iova>, to: &mut [u8]) {
        let mut session = self.qtest.session();
        for (iova, range) in chunks(iova.into(), to.len()) {
            let chunk = &mut to[range];
            or_panic(self.read_chunk(&mut session, iova, chunk));
        }
    }

    /// Lets the device write one little-endian word: one transaction, so at most one fault.
    ///
    /// # Panics
    ///
    /// Where QEMU does not answer, or `iova` is not a multiple of 4.
    #[track_caller]
    pub fn write_u32(&self, iova: impl Into<Iova>, value: u32) {
        self.write(aligned(iova.into()), &value.to_le_bytes());
    }

    /// Lets the device read one little-endian word: one transaction, so at most one fault.
    ///
    /// # Panics
    ///
    /// Where QEMU does not answer, or `iova` is not a multiple of 4.
    #[must_use = "a read for its effect on the IOMMU is a `let _`"]
    #[track_caller]
    pub fn read_u32(&self, iova: impl Into<Iova>) -> u32 {
        let mut bytes = [0; 4];
        self.read(aligned(iova.into()), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Copies `bytes` to the device's buffer, from the byte `at` on.
    ///
    /// # Panics
    ///
    /// Where QEMU does not answer, or the buffer of 4 KiB ends before `bytes` do.
    #[track_caller]
    pub fn fill(&self, at: usize, bytes: &[u8]) {
        check_buffer(at, bytes.len());
        let mut session = self.qtest.session();
        self.overwrite(at);
        self.ram.stage(bytes);
        or_panic(self.untranslated(&mut session, Direction::FromMemory, at, bytes.len()));
    }

    /// Copies from the device's buffer, from the byte `at` on.
    ///
    /// # Panics
    ///
    /// Where QEMU does not answer, or the buffer of 4 KiB ends before `to` does.
    #[track_caller]
    pub fn fetch(&self, at: usize, to: &mut [u8]) {
        check_buffer(at, to.len());
        let mut session = self.qtest.session();
        or_panic(self.untranslated(&mut session, Direction::ToMemory, at, to.len()));
        self.ram.unstage(to);
    }

    /// Lets the device write `len` bytes of its buffer, from the byte `at` on, to memory at `iova`.
    ///
    /// # Panics
    ///
    /// Where QEMU does not answer, or the buffer of 4 KiB ends before.
    #[track_caller]
    pub fn send(&self, at: usize, len: usize, iova: impl Into<Iova>) {
        check_buffer(at, len);
        let mut session = self.qtest.session();
        or_panic(self.transfer(&mut session, Direction::ToMemory, at, iova.into().0, len));
    }

    /// Lets the device read `len` bytes of memory at `iova` into its buffer, from the byte `at` on.
    ///
    /// # Panics
    ///
    /// Where QEMU does not answer, or the buffer of 4 KiB ends before.
    #[track_caller]
    pub fn receive(&self, at: usize, len: usize, iova: impl Into<Iova>) {
        check_buffer(at, len);
        let mut session = self.qtest.session();
        self.overwrite(at);
        or_panic(self.transfer(&mut session, Direction::FromMemory, at, iova.into().0, len));
    }

    fn write_chunk(
        &self,
        session: &mut Session<'_>,
        iova: u64,
        bytes: &[u8],
    ) -> Result<(), QemuError> {
        if !self.staged().starts_with(bytes) {
            self.overwrite(0);
            self.ram.stage(bytes);
            self.untranslated(session, Direction::FromMemory, 0, bytes.len())?;
            self.staged().extend_from_slice(bytes);
        }
        self.transfer(session, Direction::ToMemory, 0, iova, bytes.len())
    }

    fn read_chunk(
        &self,
        session: &mut Session<'_>,
        iova: u64,
        bytes: &mut [u8],
    ) -> Result<(), QemuError> {
        // Away from what was staged, if there is room.
        let at = BUFFER_SIZE - bytes.len();
        self.overwrite(at);
        self.transfer(session, Direction::FromMemory, at, iova, bytes.len())?;
        self.untranslated(session, Direction::ToMemory, at, bytes.len())?;
        self.ram.unstage(bytes);
        Ok(())
    }

    fn staged(&self) -> MutexGuard<'_, Vec<u8>> {
        // It says at any moment what is there for sure.
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the buffer will have something else from the byte `at` on.
    fn overwrite(&self, at: usize) {
        self.staged().truncate(at);
    }

    /// A transfer between the device's buffer and the staging page, past the IOMMU.
    fn untranslated(
        &self,
        session: &mut Session<'_>,
        direction: Direction,
        at: usize,
        len: usize,
    ) -> Result<(), QemuError> {
        let staging = self.ram.staging_addr();
        self.bypass.with(session, |session| {
            self.transfer(session, direction, at, staging, len)
        })
    }

    /// A transfer between the byte `at` of the device's buffer and `addr`, as the IOMMU lets it.
    fn transfer(
        &self,
        session: &mut Session<'_>,
        direction: Direction,
        at: usize,
        addr: u64,
        len: usize,
    ) -> Result<(), QemuError> {
        let buffer = BUFFER + at as u64;
        let (source, destination, command) = match direction {
            Direction::FromMemory => (addr, buffer, DMA_RUN),
            Direction::ToMemory => (buffer, addr, DMA_RUN | DMA_TO_MEMORY),
        };
        session.batch([
            Access::WriteQ(self.bar + DMA_SOURCE, source),
            Access::WriteQ(self.bar + DMA_DESTINATION, destination),
            Access::WriteQ(self.bar + DMA_COUNT, len as u64),
            Access::WriteQ(self.bar + DMA_COMMAND, command),
        ])?;
        // Each look is a message of its own: the device's timer runs between messages.
        let deadline = Instant::now() + DMA_BOUND;
        while session.access(Access::ReadQ(self.bar + DMA_COMMAND))? & DMA_RUN != 0 {
            if Instant::now() >= deadline {
                let problem = format!("a DMA at {addr:#x} did not end within {DMA_BOUND:?}");
                return Err(QemuError::Device { problem });
            }
        }
        Ok(())
    }
}

impl crate::machine::Master for Edu {
    fn stream(&self) -> StreamId {
        self.stream_id()
    }

    fn write(&self, iova: Iova, bytes: &[u8]) {
        Self::write(self, iova, bytes);
    }

    fn read(&self, iova: Iova, to: &mut [u8]) {
        Self::read(self, iova, to);
    }
}

#[track_caller]
fn check_buffer(at: usize, len: usize) {
    assert!(
        at <= BUFFER_SIZE && len <= BUFFER_SIZE - at,
        "{len:#x} bytes from {at:#x} on are not in the device's buffer"
    );
}

#[track_caller]
fn aligned(iova: Iova) -> Iova {
    assert!(
        iova.is_aligned(4),
        "IOVA {iova} is not a multiple of 4: it could leave two events"
    );
    iova
}

/// Cuts `len` bytes at `iova` at 4 KiB boundaries: each chunk's address, and its place in the whole.
#[track_caller]
fn chunks(iova: Iova, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    assert!(
        len == 0 || iova.checked_add(len as u64 - 1).is_some(),
        "{len:#x} bytes at IOVA {iova} wrap around"
    );
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = iova.0.wrapping_add(done as u64);
        let to_boundary = usize::try_from(PAGE - at % PAGE).unwrap_or(BUFFER_SIZE);
        let chunk = to_boundary.min(len - done);
        let range = done..done + chunk;
        done += chunk;
        (chunk != 0).then_some((at, range))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_chunk_crosses_a_page() {
        let cut = |iova: u64, len| chunks(Iova(iova), len).collect::<Vec<_>>();
        assert_eq!(
            cut(0x1ff0, 0x1020),
            [
                (0x1ff0, 0..0x10),
                (0x2000, 0x10..0x1010),
                (0x3000, 0x1010..0x1020)
            ]
        );
        assert_eq!(cut(0x1000, 0x1000), [(0x1000, 0..0x1000)]);
        assert_eq!(cut(u64::MAX, 1), [(u64::MAX, 0..1)]);
        assert_eq!(cut(5, 0), []);
    }

    #[test]
    #[should_panic(expected = "wrap around")]
    fn a_range_does_not_wrap() {
        let _ = chunks(Iova(u64::MAX), 2).count();
    }
}
