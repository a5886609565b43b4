//! A model of a virtio block device (virtio 1.2, 5.2).

use virtio_drivers::transport::DeviceType;

use crate::device::Model;
use crate::virtqueue::{Part, Port, Request, Result, Virtqueue};

const SECTOR: usize = 512;
/// `VIRTIO_BLK_T_IN` and `VIRTIO_BLK_T_OUT`.
const READ: u32 = 0;
const WRITE: u32 = 1;
/// `VIRTIO_BLK_S_OK` and `VIRTIO_BLK_S_IOERR`.
const DONE: u8 = 0;
const FAILED: u8 = 1;

pub(crate) struct Disk {
    bytes: Vec<u8>,
}

impl Disk {
    pub(crate) fn new(sectors: usize) -> Self {
        let bytes = vec![0; sectors * SECTOR];
        Self { bytes }
    }

    /// One request (virtio 1.2, 5.2.6): a header, data, a status. Returns how many bytes it wrote.
    fn request(&mut self, port: &mut Port, request: &Request) -> Result<u32> {
        let [header, data @ .., status] = &request.parts[..] else {
            panic!("a request has a header and a status");
        };
        let kind = u32::from_le_bytes(port.fetch(header.at)?);
        let sector = u64::from_le_bytes(port.fetch(header.at + 8)?);
        let start = usize::try_from(sector).unwrap() * SECTOR;
        // The request fails where data is refused; a disk that cannot even say so gives up.
        let (written, outcome) = match self.transfer(port, kind, start, data) {
            Ok(written) => (written, DONE),
            Err(_) => (0, FAILED),
        };
        port.write(status.at, &[outcome])?;
        Ok(written + 1)
    }

    fn transfer(&mut self, port: &mut Port, kind: u32, start: usize, data: &[Part]) -> Result<u32> {
        let (mut at, mut written) = (start, 0);
        for part in data {
            let len = usize::try_from(part.len).unwrap();
            let bytes = &mut self.bytes[at..at + len];
            match (kind, part.is_written) {
                (READ, true) => {
                    port.write(part.at, bytes)?;
                    written += part.len;
                }
                (WRITE, false) => port.read(part.at, bytes)?,
                _ => panic!("there are no requests of type {kind}"),
            }
            at += len;
        }
        Ok(written)
    }
}

impl Model for Disk {
    const TYPE: DeviceType = DeviceType::Block;

    fn config(&self) -> Vec<u8> {
        // The capacity, in sectors, is all there is (virtio 1.2, 5.2.4).
        let sectors = self.bytes.len() / SECTOR;
        let mut config = (sectors as u64).to_le_bytes().to_vec();
        config.resize(64, 0);
        config
    }

    fn serve(&mut self, port: &mut Port, queues: &mut [Option<Virtqueue>]) -> Result {
        let Some(queue) = &mut queues[0] else {
            return Ok(());
        };
        while let Some(request) = queue.next(port)? {
            let written = self.request(port, &request)?;
            queue.complete(port, &request, written)?;
        }
        Ok(())
    }
}
