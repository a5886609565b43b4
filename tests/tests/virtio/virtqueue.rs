//! A split virtqueue as a device sees it (virtio 1.2, 2.7), through an IOMMU.

use mock_hw::{DmaDevice, Outcome};
use virtio_drivers::PhysAddr;

/// An access at this address was refused.
#[derive(Debug)]
pub(crate) struct Refused(#[expect(dead_code, reason = "for whoever unwraps it")] PhysAddr);

pub(crate) type Result<T = ()> = std::result::Result<T, Refused>;

/// How a device reaches memory.
pub(crate) struct Port {
    dma: DmaDevice,
    seen: Vec<PhysAddr>,
}

impl Port {
    pub(crate) fn new(dma: DmaDevice) -> Self {
        let seen = Vec::new();
        Self { dma, seen }
    }

    /// Every address that it tried.
    pub(crate) fn seen(&self) -> &[PhysAddr] {
        &self.seen
    }

    pub(crate) fn read(&mut self, at: PhysAddr, to: &mut [u8]) -> Result {
        self.seen.push(at);
        check(at, self.dma.read(at, to))
    }

    pub(crate) fn write(&mut self, at: PhysAddr, from: &[u8]) -> Result {
        self.seen.push(at);
        check(at, self.dma.write(at, from))
    }

    pub(crate) fn fetch<const N: usize>(&mut self, at: PhysAddr) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    fn fetch_u16(&mut self, at: PhysAddr) -> Result<u16> {
        Ok(u16::from_le_bytes(self.fetch(at)?))
    }
}

fn check(at: PhysAddr, outcome: Outcome) -> Result {
    match outcome {
        Outcome::Translated(_) => Ok(()),
        _ => Err(Refused(at)),
    }
}

/// A part of a request: one buffer of the driver.
pub(crate) struct Part {
    pub(crate) at: PhysAddr,
    pub(crate) len: u32,
    /// Whether the device writes it; it reads it otherwise.
    pub(crate) is_written: bool,
}

/// What a driver asks for: a chain of descriptors.
pub(crate) struct Request {
    head: u16,
    pub(crate) parts: Vec<Part>,
}

pub(crate) struct Virtqueue {
    size: u16,
    /// Descriptors, driver area, device area.
    areas: [PhysAddr; 3],
    /// How many requests are done, modulo 2^16: they are done in order, one at a time.
    done: u16,
}

impl Virtqueue {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;

    /// A queue with its descriptors, its driver area and its device area at these addresses.
    pub(crate) fn new(size: u16, areas: [PhysAddr; 3]) -> Self {
        let done = 0;
        Self { size, areas, done }
    }

    pub(crate) fn areas(&self) -> [PhysAddr; 3] {
        self.areas
    }

    /// The oldest request that is not done.
    pub(crate) fn next(&self, port: &mut Port) -> Result<Option<Request>> {
        let [descriptors, available, _] = self.areas;
        if port.fetch_u16(available + 2)? == self.done {
            return Ok(None);
        }
        let head = port.fetch_u16(available + 4 + 2 * self.slot())?;
        let parts = chain(port, descriptors, head)?;
        Ok(Some(Request { head, parts }))
    }

    /// Gives a request back to the driver, with `written` bytes in it.
    pub(crate) fn complete(&mut self, port: &mut Port, request: &Request, written: u32) -> Result {
        let [_, _, used] = self.areas;
        let mut element = [0; 8];
        element[..2].copy_from_slice(&request.head.to_le_bytes());
        element[4..].copy_from_slice(&written.to_le_bytes());
        port.write(used + 4 + 8 * self.slot(), &element)?;
        self.done = self.done.wrapping_add(1);
        port.write(used + 2, &self.done.to_le_bytes())
    }

    fn slot(&self) -> u64 {
        u64::from(self.done % self.size)
    }
}

/// The chain of descriptors that begins at `index` of a table.
fn chain(port: &mut Port, table: PhysAddr, mut index: u16) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    loop {
        let at = table + 16 * u64::from(index);
        let addr = u64::from_le_bytes(port.fetch(at)?);
        let flags = port.fetch_u16(at + 12)?;
        if flags & Virtqueue::INDIRECT != 0 {
            return chain(port, addr, 0);
        }
        parts.push(Part {
            at: addr,
            len: u32::from_le_bytes(port.fetch(at + 8)?),
            is_written: flags & Virtqueue::WRITE != 0,
        });
        if flags & Virtqueue::NEXT == 0 {
            return Ok(parts);
        }
        index = port.fetch_u16(at + 14)?;
    }
}
