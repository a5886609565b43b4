//! A virtio block device whose DMA goes through a model of an IOMMU, and the transport to it.

use std::sync::{Arc, Mutex};

use mock_hw::{DmaDevice, Outcome};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const SECTOR: usize = 512;
/// `VIRTIO_F_INDIRECT_DESC`, `VIRTIO_F_VERSION_1` and `VIRTIO_F_ACCESS_PLATFORM` (virtio 6).
const FEATURES: u64 = 1 << 28 | 1 << 32 | 1 << 33;

/// The disk. A clone is the same one.
#[derive(Clone)]
pub(crate) struct Disk {
    dma: DmaDevice,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    status: DeviceStatus,
    /// Descriptors, driver area, device area.
    queue: Option<[PhysAddr; 3]>,
    size: u16,
    used: u16,
    /// Where buffers were.
    seen: Vec<PhysAddr>,
}

struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
}

impl Disk {
    pub(crate) fn new(dma: DmaDevice, sectors: usize) -> Self {
        let state = State {
            bytes: vec![0; sectors * SECTOR],
            ..State::default()
        };
        Self {
            dma,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Every address that a driver gave it.
    pub(crate) fn seen(&self) -> Vec<PhysAddr> {
        self.state.lock().unwrap().seen.clone()
    }

    fn read<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        matches!(self.dma.read(at, &mut bytes), Outcome::Translated(_)).then_some(bytes)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Option<()> {
        matches!(self.dma.write(at, bytes), Outcome::Translated(_)).then_some(())
    }

    fn descriptor(&self, table: u64, index: u16) -> Option<Descriptor> {
        let raw: [u8; 16] = self.read(table + 16 * u64::from(index))?;
        Some(Descriptor {
            addr: u64::from_le_bytes(raw[..8].try_into().ok()?),
            len: u32::from_le_bytes(raw[8..12].try_into().ok()?),
            flags: u16::from_le_bytes(raw[12..14].try_into().ok()?),
            next: u16::from_le_bytes(raw[14..].try_into().ok()?),
        })
    }

    fn chain(&self, table: u64, head: u16) -> Option<Vec<Descriptor>> {
        let first = self.descriptor(table, head)?;
        if first.flags & Descriptor::INDIRECT != 0 {
            return self.chain(first.addr, 0);
        }
        let mut chain = vec![first];
        while let Some(last) = chain.last()
            && last.flags & Descriptor::NEXT != 0
        {
            chain.push(self.descriptor(table, last.next)?);
        }
        Some(chain)
    }

    /// Serves what is in the queue; `None` where it was refused its own DMA, and gave up.
    fn serve(&self, state: &mut State) -> Option<()> {
        let [table, driver, device] = state.queue?;
        while u16::from_le_bytes(self.read(driver + 2)?) != state.used {
            let slot = u64::from(state.used % state.size);
            let head = u16::from_le_bytes(self.read(driver + 4 + 2 * slot)?);
            let written = self.request(state, &self.chain(table, head)?)?;
            let mut element = [0; 8];
            element[..2].copy_from_slice(&head.to_le_bytes());
            element[4..].copy_from_slice(&written.to_le_bytes());
            self.write(device + 4 + 8 * slot, &element)?;
            state.used = state.used.wrapping_add(1);
            self.write(device + 2, &state.used.to_le_bytes())?;
        }
        Some(())
    }

    /// One request (virtio 5.2.6): a header, data, a status. Returns how many bytes it wrote.
    fn request(&self, state: &mut State, chain: &[Descriptor]) -> Option<u32> {
        let [header, data @ .., status] = chain else {
            return None;
        };
        state.seen.extend(chain.iter().map(|part| part.addr));
        let raw: [u8; 16] = self.read(header.addr)?;
        let kind = u32::from_le_bytes(raw[..4].try_into().ok()?);
        let sector = u64::from_le_bytes(raw[8..].try_into().ok()?);
        let mut at = usize::try_from(sector).ok()? * SECTOR;
        let mut written = 1;
        for part in data {
            let len = usize::try_from(part.len).ok()?;
            let bytes = state.bytes.get_mut(at..at + len)?;
            match (kind, part.flags & Descriptor::WRITE) {
                (0, Descriptor::WRITE) => {
                    self.write(part.addr, bytes)?;
                    written += part.len;
                }
                (1, 0) => {
                    let outcome = self.dma.read(part.addr, bytes);
                    matches!(outcome, Outcome::Translated(_)).then_some(())?;
                }
                _ => return None,
            }
            at += len;
        }
        self.write(status.addr, &[0])?;
        Some(written)
    }
}

impl Transport for Disk {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }
    fn read_device_features(&mut self) -> u64 {
        FEATURES
    }
    fn write_driver_features(&mut self, _: u64) {}
    fn max_queue_size(&mut self, _: u16) -> u32 {
        16
    }
    fn notify(&mut self, _: u16) {
        let state = &mut *self.state.lock().unwrap();
        self.serve(state).expect("nothing it needs is refused");
    }
    fn get_status(&self) -> DeviceStatus {
        self.state.lock().unwrap().status
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.state.lock().unwrap().status = status;
    }
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, _: u16, size: u32, table: u64, driver: u64, device: u64) {
        let mut state = self.state.lock().unwrap();
        state.queue = Some([table, driver, device]);
        state.seen.extend([table, driver, device]);
        state.size = u16::try_from(size).unwrap();
        state.used = 0;
    }
    fn queue_unset(&mut self, _: u16) {
        self.state.lock().unwrap().queue = None;
    }
    fn queue_used(&mut self, _: u16) -> bool {
        self.state.lock().unwrap().queue.is_some()
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        // The capacity, in sectors, is all there is (virtio 5.2.4).
        let sectors = self.state.lock().unwrap().bytes.len() / SECTOR;
        let mut config = [0; 64];
        config[..8].copy_from_slice(&(sectors as u64).to_le_bytes());
        let field = config.get(offset..).ok_or(Error::InvalidParam)?;
        let (field, _) = T::read_from_prefix(field).map_err(|_| Error::InvalidParam)?;
        Ok(field)
    }
    fn write_config_space<T: IntoBytes + Immutable>(&mut self, _: usize, _: T) -> Result<()> {
        Err(Error::Unsupported)
    }
}
