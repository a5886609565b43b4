//! Drivers of the `virtio-drivers` crate behind an IOMMU: the same binary driver code that runs
//! without one.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod console;
mod device;
mod disk;
mod hal;
mod translated;
mod virtqueue;

use std::ptr::NonNull;
use std::sync::Arc;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    AddrRange, DefaultDomain, Device, DeviceInfo, DmaBlock, ErrorKind, Iommu, IommuConfig,
    NoControl, ReservedKind, ReservedRegion,
};
use mock_hw::smmuv3::ModelConfig;
use mock_hw::{DmaDevice, MockMemory, Outcome};
use tests::machine::Machine;
use tests::model::ModelMachine;
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::device::console::VirtIOConsole;
use virtio_drivers::transport::{DeviceStatus, Transport};
use virtio_drivers::{BufferDirection, Error, Hal};

use console::Console;
use device::VirtioDevice;
use disk::Disk;
use hal::DeviceHal;
use translated::Translated;

struct Setup {
    memory: MockMemory,
    device: Device,
    hardware: DmaDevice,
}

impl Setup {
    /// A device in the slot, with 16 pages to share buffers by.
    fn new<const SLOT: usize>() -> Self {
        let info = DeviceInfo::new("virtio").streams([0x10]);
        let setup = Self::without_hal(DefaultDomain::Paging, info);
        setup.install::<SLOT>().unwrap();
        setup
    }

    fn without_hal(default_domain: DefaultDomain, info: DeviceInfo) -> Self {
        let machine = ModelMachine::new(ModelConfig::default(), 0);
        let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).unwrap();
        let config = IommuConfig {
            default_domain,
            ..IommuConfig::default()
        };
        let iommu: Iommu = Iommu::with_config(smmu, config).unwrap();
        Self {
            memory: machine.memory(),
            device: iommu.add_device(info, Arc::new(NoControl)).unwrap(),
            hardware: DmaDevice::new(machine.model(), 0x10),
        }
    }

    fn install<const SLOT: usize>(&self) -> iommu_core::Result {
        DeviceHal::<SLOT>::install(&self.device, self.memory.clone(), 16)
    }

    /// Takes all memory there is.
    fn exhaust(&self) -> Vec<DmaBlock<MockMemory>> {
        let page = || DmaBlock::new(&self.memory, 4096, 4096, "all memory").ok();
        std::iter::from_fn(page).collect()
    }

    fn reaches(&self, iova: u64) -> bool {
        let outcome = self.hardware.read(iova, &mut [0; 8]);
        matches!(outcome, Outcome::Translated(_))
    }

    /// The device is given up: it reaches nothing where it ever did DMA.
    fn end<const SLOT: usize>(self, seen: &[u64]) {
        DeviceHal::<SLOT>::remove();
        assert!(seen.len() > 100);
        for &iova in seen {
            assert!(!self.reaches(iova), "{iova:#x}");
        }
        self.device.release().unwrap();
        assert_eq!(self.memory.violations(), [""; 0]);
    }
}

#[test]
fn a_disk_is_read_and_written_and_reaches_nothing_when_its_driver_is_gone() {
    type OwnHal = DeviceHal<0>;
    let setup = Setup::new::<0>();
    let disk = VirtioDevice::new(setup.hardware.clone(), Disk::new(64));
    let transport = Translated::new(disk.clone()).unwrap();
    let mut driver = VirtIOBlk::<OwnHal, _>::new(transport).unwrap();
    assert_eq!(driver.capacity(), 64);
    for round in 0..50_usize {
        // From the stack, in a different place of the disk each time.
        let written: [u8; 1024] =
            std::array::from_fn(|at| u8::try_from((at ^ round) % 256).unwrap());
        driver.write_blocks(round % 60, &written).unwrap();
        let mut read = [0; 1024];
        driver.read_blocks(round % 60, &mut read).unwrap();
        assert_eq!(read, written);
    }
    // Larger than a page of the pool.
    let written = vec![0x5a; 32 * 512];
    driver.write_blocks(32, &written).unwrap();
    let mut read = vec![0; 32 * 512];
    driver.read_blocks(32, &mut read).unwrap();
    assert_eq!(read, written);
    assert_eq!(OwnHal::in_use(), (0, 2), "the queue is all that is left");
    drop(driver);
    assert_eq!(OwnHal::in_use(), (0, 0));
    setup.end::<0>(&disk.seen());
}

#[test]
fn a_console_receives_into_posted_buffers_and_reaches_none_that_its_driver_took_back() {
    type OwnHal = DeviceHal<3>;
    let setup = Setup::new::<3>();
    let console = VirtioDevice::new(setup.hardware.clone(), Console::default());
    let transport = Translated::new(console.clone()).unwrap();
    let mut driver = VirtIOConsole::<OwnHal, _>::new(transport).unwrap();
    assert_eq!(driver.recv(true), Ok(None));
    assert_eq!(OwnHal::in_use(), (1, 4), "a posted buffer and two queues");
    for round in 0..50 {
        driver.send_bytes(b"login: ").unwrap();
        let name = format!("guest{round}");
        // The device writes while the driver does something else.
        console.happens(|console| console.type_in(&name));
        assert_eq!(driver.recv(false), Ok(Some(b'g')));
        // The driver has its buffer back; what the device writes now gets nowhere near it.
        let posted = console.inspect(Console::received_at);
        setup.hardware.write(posted, b"evil");
        let received = std::iter::from_fn(|| driver.recv(true).unwrap());
        let received: Vec<u8> = received.take(name.len()).collect();
        assert_eq!(String::from_utf8(received).unwrap(), name);
    }
    assert_eq!(console.inspect(Console::shown), "login: ".repeat(50));
    let queues = console.queues();
    drop(driver);
    // The driver frees the buffer that is posted without a word; the device has only ever had a
    // copy.
    assert_eq!(OwnHal::in_use(), (1, 0));
    for area in queues {
        assert!(!setup.reaches(area), "{area:#x}");
    }
    setup.end::<3>(&console.seen());
}

/// The drivers of `virtio-drivers` 0.13 support a fixed set of features that `ACCESS_PLATFORM` is not
/// in; their `Hal` translates all the same. By itself such a driver gets no work out of a device that
/// insists, as QEMU's do, and one that does not insist may take its addresses for physical ones. A
/// driver that accepts the feature needs no [`Translated`] any more, and this test says so.
#[test]
#[should_panic(expected = "VIRTIO_F_ACCESS_PLATFORM was not accepted")]
fn a_driver_by_itself_does_not_accept_that_addresses_are_translated() {
    let setup = Setup::new::<4>();
    let console = VirtioDevice::new(setup.hardware, Console::default());
    drop(VirtIOConsole::<DeviceHal<4>, _>::new(console));
}

#[test]
fn a_device_that_takes_addresses_for_physical_ones_gets_none() {
    let setup = Setup::new::<5>();
    let disk = VirtioDevice::taking_physical_addresses(setup.hardware, Disk::new(64));
    let refused = Translated::new(disk.clone()).err();
    assert_eq!(refused, Some(Error::Unsupported));
    assert_eq!(disk.get_status(), DeviceStatus::FAILED);
    assert_eq!(DeviceHal::<5>::in_use(), (0, 0));
}

#[test]
fn without_memory_long_transfers_fail_and_short_ones_go_on() {
    type OwnHal = DeviceHal<1>;
    const LONG: usize = 32 * 512;
    let setup = Setup::new::<1>();
    let disk = VirtioDevice::new(setup.hardware.clone(), Disk::new(64));
    let transport = Translated::new(disk.clone()).unwrap();
    let mut driver = VirtIOBlk::<OwnHal, _>::new(transport).unwrap();
    let before = (setup.memory.allocated(), OwnHal::in_use());
    driver.write_blocks(0, &[1; LONG]).unwrap();

    let all = setup.exhaust();
    let full = setup.memory.allocated();
    for _ in 0..100 {
        assert_eq!(driver.write_blocks(0, &[2; LONG]), Err(Error::IoError));
        let mut read = [3; LONG];
        assert_eq!(driver.read_blocks(0, &mut read), Err(Error::IoError));
        assert_eq!(read, [3; LONG]);
        driver.write_blocks(40, &[4; 512]).unwrap();
    }
    assert_eq!(setup.memory.allocated(), full);
    drop(all);

    assert_eq!((setup.memory.allocated(), OwnHal::in_use()), before);
    let mut read = [0; LONG];
    driver.read_blocks(0, &mut read).unwrap();
    assert_eq!(read, [1; LONG], "what failed has written nothing");
    drop(driver);
    setup.end::<1>(&disk.seen());
}

#[test]
fn what_cannot_be_shared_is_where_the_device_reaches_nothing_for_all_its_length() {
    type OwnHal = DeviceHal<6>;
    let setup = Setup::new::<6>();
    let mut bytes = vec![1_u8; 16 << 12];
    let buffer = NonNull::from(&mut bytes[..]);
    let before = setup.memory.allocated();
    // Of its allocations, one after the other fails.
    for fails in 0.. {
        setup.memory.fail_allocation(Some(fails));
        // SAFETY: the buffer is this test's alone.
        let at = unsafe { OwnHal::share(buffer, BufferDirection::Both) };
        setup.memory.fail_allocation(None);
        let failed = at == hal::NOWHERE;
        for page in (at..).step_by(1 << 12).take(16) {
            let wrote = setup.hardware.write(page, &[2; 8]);
            let reached = matches!(wrote, Outcome::Translated(_)) || setup.reaches(page);
            assert_eq!(reached, !failed, "{page:#x}");
        }
        // SAFETY: as above, and it is the address that came of it.
        unsafe { OwnHal::unshare(at, buffer, BufferDirection::Both) };
        assert!(!setup.reaches(at));
        assert_eq!(bytes[0], if failed { 1 } else { 2 });
        assert_eq!(setup.memory.allocated(), before);
        assert_eq!(OwnHal::in_use(), (0, 0));
        if !failed {
            assert!(fails > 0, "it took memory");
            break;
        }
    }
    OwnHal::remove();
}

#[test]
fn nothing_is_lent_where_nothing_has_to_be() {
    type OwnHal = DeviceHal<7>;
    let info = DeviceInfo::new("virtio").streams([0x10]);
    let setup = Setup::without_hal(DefaultDomain::Paging, info);
    // The next free addresses are there.
    let below = AddrRange::page(0, hal::NOWHERE);
    let dma = setup.device.dma(setup.memory.clone()).unwrap();
    dma.reserve(below).unwrap();
    setup.install::<7>().unwrap();
    let (at, _) = OwnHal::dma_alloc(1, BufferDirection::Both);
    assert_eq!(at, 2 * hal::NOWHERE + (16 << 12), "after the pool");
    assert!(!setup.reaches(hal::NOWHERE));
    OwnHal::remove();
}

#[test]
fn a_device_that_would_reach_what_was_not_shared_is_not_taken() {
    let info = || DeviceInfo::new("virtio").streams([0x10]);
    let open = Setup::without_hal(DefaultDomain::Identity, info());
    let refused = open.install::<8>().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);

    let pinned = ReservedRegion::new(hal::NOWHERE + 0x5000, 0x1000, ReservedKind::Direct);
    let info = info().reserved(pinned.unwrap());
    let pinned = Setup::without_hal(DefaultDomain::Paging, info);
    let refused = pinned.install::<8>().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
}

#[test]
fn small_buffers_are_shared_without_memory_and_come_back_as_the_device_left_them() {
    type OwnHal = DeviceHal<2>;
    let setup = Setup::new::<2>();
    let all = setup.exhaust();
    let mut bytes = [1_u8; 24];
    for _ in 0..100 {
        let buffer = NonNull::from(&mut bytes[..]);
        // SAFETY: the buffer is this test's alone.
        let at = unsafe { OwnHal::share(buffer, BufferDirection::DeviceToDriver) };
        assert_ne!(at, hal::NOWHERE);
        setup.hardware.write(at, &[2; 8]);
        // SAFETY: as above, and it is the address that came of it.
        unsafe { OwnHal::unshare(at, buffer, BufferDirection::DeviceToDriver) };
        assert_eq!(
            (bytes[..8].to_vec(), bytes[8..].to_vec()),
            (vec![2; 8], vec![1; 16])
        );
    }
    drop(all);
    OwnHal::remove();
}
