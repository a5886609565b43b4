//! QEMU's `edu` device as a DMA master that a test commands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use iommu_core::{Iova, StreamId};

use super::error::QemuError;
use super::machine::SMMU_BASE;
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

const CR0: u64 = SMMU_BASE + 0x20;
const CR0_SMMUEN: u32 = 1 << 0;
const GBPA: u64 = SMMU_BASE + 0x44;
const GBPA_ABORT: u32 = 1 << 20;
const GBPA_UPDATE: u32 = 1 << 31;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    FromMemory,
    ToMemory,
}

/// A device that reads and writes memory through the SMMU when told to.
///
/// The device has no error status. A write that the SMMU does not let through changes nothing; such
/// a read returns zeros. Both leave an event for each 4 bytes of the transfer where the SMMU records
/// events: [`write_u32`](Self::write_u32) and [`read_u32`](Self::read_u32) leave exactly one.
///
/// # How bytes get into the device and out of it
///
/// The device has a buffer of 4 KiB that can be reached by its own DMA only. To fill or to read it,
/// the harness lets the device access a page of its own with the SMMU switched off for that moment:
/// it clears `CR0.SMMUEN` and `GBPA.ABORT`, and restores both. Nobody else accesses the machine's
/// registers meanwhile (the harness holds its connection), the caches of QEMU's SMMU stay as they
/// are, and no event is recorded, so a driver cannot tell. The transfer that was asked for goes
/// through the SMMU as the driver set it up.
///
/// All methods panic where QEMU does not answer or the device does not finish.
#[derive(Clone, Debug)]
pub struct Edu {
    qtest: Qtest,
    ram: Arc<GuestRam>,
    bar: u64,
    stream: StreamId,
}

impl Edu {
    pub(super) fn enable(
        qtest: &Qtest,
        ram: &Arc<GuestRam>,
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
            bar,
            stream,
        })
    }

    /// The StreamID of the device's transactions.
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

    /// Lets the device write one little-endian word: one transaction, so at most one event.
    ///
    /// # Panics
    ///
    /// Where QEMU does not answer, or `iova` is not a multiple of 4.
    #[track_caller]
    pub fn write_u32(&self, iova: impl Into<Iova>, value: u32) {
        self.write(aligned(iova.into()), &value.to_le_bytes());
    }

    /// Lets the device read one little-endian word: one transaction, so at most one event.
    ///
    /// # Panics
    ///
    /// Where QEMU does not answer, or `iova` is not a multiple of 4.
    #[must_use = "a read for its effect on the SMMU is a `let _`"]
    #[track_caller]
    pub fn read_u32(&self, iova: impl Into<Iova>) -> u32 {
        let mut bytes = [0; 4];
        self.read(aligned(iova.into()), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write_chunk(
        &self,
        session: &mut Session<'_>,
        iova: u64,
        bytes: &[u8],
    ) -> Result<(), QemuError> {
        self.ram.stage(bytes);
        self.untranslated(session, Direction::FromMemory, bytes.len())?;
        self.transfer(session, Direction::ToMemory, iova, bytes.len())
    }

    fn read_chunk(
        &self,
        session: &mut Session<'_>,
        iova: u64,
        bytes: &mut [u8],
    ) -> Result<(), QemuError> {
        self.transfer(session, Direction::FromMemory, iova, bytes.len())?;
        self.untranslated(session, Direction::ToMemory, bytes.len())?;
        self.ram.unstage(bytes);
        Ok(())
    }

    /// A transfer between the device's buffer and the staging page, past the SMMU.
    fn untranslated(
        &self,
        session: &mut Session<'_>,
        direction: Direction,
        len: usize,
    ) -> Result<(), QemuError> {
        let [cr0, gbpa] = session
            .batch([Access::ReadL(CR0), Access::ReadL(GBPA)])?
            .map(low);
        session.batch([
            Access::WriteL(CR0, cr0 & !CR0_SMMUEN),
            Access::WriteL(GBPA, gbpa & !GBPA_ABORT | GBPA_UPDATE),
        ])?;
        let done = self.transfer(session, direction, self.ram.staging_addr(), len);
        session.batch([
            Access::WriteL(GBPA, gbpa | GBPA_UPDATE),
            Access::WriteL(CR0, cr0),
        ])?;
        done
    }

    /// A transfer between the start of the device's buffer and `addr`, as the SMMU lets it.
    fn transfer(
        &self,
        session: &mut Session<'_>,
        direction: Direction,
        addr: u64,
        len: usize,
    ) -> Result<(), QemuError> {
        let (source, destination, command) = match direction {
            Direction::FromMemory => (addr, BUFFER, DMA_RUN),
            Direction::ToMemory => (BUFFER, addr, DMA_RUN | DMA_TO_MEMORY),
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
