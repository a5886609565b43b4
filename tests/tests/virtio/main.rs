//! Drivers of the `virtio-drivers` crate behind an IOMMU: the same binary driver code that runs
//! without one.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod disk;
mod hal;

use std::ptr::NonNull;
use std::sync::Arc;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{Device, DeviceInfo, Iommu, NoControl};
use mock_hw::smmuv3::ModelConfig;
use mock_hw::{DmaDevice, MockMemory, Outcome};
use tests::machine::Machine;
use tests::model::ModelMachine;
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::{BufferDirection, Hal};

use disk::Disk;
use hal::DeviceHal;

struct Setup {
    memory: MockMemory,
    device: Device,
    hardware: DmaDevice,
}

impl Setup {
    fn new<const SLOT: usize>() -> Self {
        let machine = ModelMachine::new(ModelConfig::default(), 0);
        let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).unwrap();
        let iommu: Iommu = Iommu::new(smmu).unwrap();
        let info = DeviceInfo::new("disk").streams([0x10]);
        let device = iommu.add_device(info, Arc::new(NoControl)).unwrap();
        let memory = machine.memory();
        DeviceHal::<SLOT>::install(device.dma(memory.clone()).unwrap(), 16).unwrap();
        Self {
            memory,
            device,
            hardware: DmaDevice::new(machine.model(), 0x10),
        }
    }

    fn reaches(&self, iova: u64) -> bool {
        let outcome = self.hardware.read(iova, &mut [0; 8]);
        matches!(outcome, Outcome::Translated(_))
    }
}

#[test]
fn a_disk_is_read_and_written_and_reaches_nothing_when_its_driver_is_gone() {
    type OwnHal = DeviceHal<0>;
    let setup = Setup::new::<0>();
    let disk = Disk::new(setup.hardware.clone(), 64);
    let mut driver = VirtIOBlk::<OwnHal, _>::new(disk.clone()).unwrap();
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
    OwnHal::remove();
    let seen = disk.seen();
    assert!(seen.len() > 100);
    for iova in seen {
        assert!(!setup.reaches(iova), "{iova:#x}");
    }
    setup.device.release().unwrap();
    assert_eq!(setup.memory.violations(), [""; 0]);
}

#[test]
fn what_cannot_be_shared_is_at_an_address_that_reaches_nothing() {
    type OwnHal = DeviceHal<1>;
    let setup = Setup::new::<1>();
    let mut bytes = vec![1_u8; 3 * 4096];
    let buffer = NonNull::from(&mut bytes[..]);
    setup.memory.fail_allocation(Some(0));
    // SAFETY: the buffer is this test's alone.
    let at = unsafe { OwnHal::share(buffer, BufferDirection::Both) };
    setup.memory.fail_allocation(None);
    assert_eq!(at, 0);
    assert!(!setup.reaches(at));
    // SAFETY: as above, and it is the address that came of it.
    unsafe { OwnHal::unshare(at, buffer, BufferDirection::Both) };
    assert_eq!(bytes, [1; 3 * 4096]);
    OwnHal::remove();
}

#[test]
fn small_buffers_are_shared_without_memory_and_come_back_as_the_device_left_them() {
    type OwnHal = DeviceHal<2>;
    let setup = Setup::new::<2>();
    setup.memory.fail_allocation(Some(0));
    let mut bytes = [1_u8; 24];
    for _ in 0..100 {
        let buffer = NonNull::from(&mut bytes[..]);
        // SAFETY: the buffer is this test's alone.
        let at = unsafe { OwnHal::share(buffer, BufferDirection::DeviceToDriver) };
        assert_ne!(at, 0);
        setup.hardware.write(at, &[2; 8]);
        // SAFETY: as above, and it is the address that came of it.
        unsafe { OwnHal::unshare(at, buffer, BufferDirection::DeviceToDriver) };
        assert_eq!(
            (bytes[..8].to_vec(), bytes[8..].to_vec()),
            (vec![2; 8], vec![1; 16])
        );
    }
    setup.memory.fail_allocation(None);
    OwnHal::remove();
}
