//! `cargo run --example invalidation_cost` shows, on QEMU's SMMUv3, how many pages are
//! worth invalidating one by one where the SMMU takes no ranges.

use std::error::Error;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arm_smmu_v3::spec::registers::{self, QueueBase};
use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    BasicPlatform, Device, DeviceInfo, DmaBlock, DomainRef, Iommu, Iova, MappedBlock, NoControl,
    PagingConfig, Prot, RegisterBank, Result,
};
use mock_hw::MockMemory;
use tests::cases::bank::CorruptingBank;
use tests::cases::setups::s1_by_leaf;
use tests::qemu::{Disk, DiskQueues, Machine, MachineConfig};

const PAGE: u64 = 4096;
/// Where the disk finds its queues, where it reads to, and what is unmapped.
const QUEUES: Iova = Iova(0x1_0000_0000);
const READS: Iova = Iova(0x2_0000_0000);
const OTHERS: Iova = Iova(0x3_0000_0000);
/// The pages that the driver invalidates by a command each, and one more: by tag.
const MOST: u64 = 64;
/// How often each thing is timed.
const ROUNDS: usize = 1000;

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let machine = Machine::start(&MachineConfig {
        edus: 0,
        disk: true,
        ..MachineConfig::default()
    })?;
    let disk = machine.disk().ok_or("a machine with a disk")?;
    let rig = Rig::new(&machine, disk)?;
    println!("While so many pages are in the TLB of QEMU's SMMU, in nanoseconds:\n");
    println!("  pages   a command   a page found again   by tag is as long as");
    // QEMU's TLB holds 256, the queues of the disk among them.
    for live in [64, 128, 192] {
        let Costs {
            command,
            by_tag,
            page,
        } = rig.measure(live)?;
        let even = 1.0 + (by_tag + page * live as f64) / command;
        println!("{live:7} {command:11.0} {page:20.0} {even:13.0} commands");
    }
    Ok(())
}

/// In nanoseconds.
struct Costs {
    /// What one command more takes.
    command: f64,
    /// What one by tag takes more than one for a page.
    by_tag: f64,
    /// What a page takes when its translation is not in the TLB any more.
    page: f64,
}

/// A disk on a domain of its own, behind an SMMU that takes no ranges.
struct Rig {
    disk: DiskQueues,
    domain: DomainRef,
    memory: MockMemory,
    doorbell: Doorbell,
    _device: Device,
}

impl Rig {
    fn new(machine: &Machine, disk: &Disk) -> Result<Self> {
        let BasicPlatform {
            bank,
            memory,
            clock,
        } = CorruptingBank::on(machine.platform(), &s1_by_leaf());
        let doorbell = Doorbell::default();
        let platform = BasicPlatform {
            bank: Watched {
                bank,
                doorbell: doorbell.clone(),
            },
            memory: memory.clone(),
            clock,
        };
        let iommu: Iommu = Iommu::new(ArmSmmuV3::probe(platform, Config::default())?)?;
        let info = DeviceInfo::new("disk").streams([disk.stream_id()]);
        let device = iommu.add_device(info, Arc::new(NoControl))?;
        let domain = iommu.paging_domain(&PagingConfig::default())?;
        device.attach(&domain)?;
        let queues = map(&domain, &memory, QUEUES, DiskQueues::SIZE / PAGE)?;
        Ok(Self {
            disk: disk.start(queues),
            domain,
            memory,
            doorbell,
            _device: device,
        })
    }

    /// What things take while `live` pages are in the TLB.
    fn measure(&self, live: u64) -> Result<Costs> {
        let reads = self.map(READS, live)?;
        let [mut commands, mut tags, mut pages] = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            let read = || {
                let start = Instant::now();
                self.disk.read(reads.iova(), live);
                start.elapsed()
            };
            let (one, most) = (self.unmap(1, 1)?, self.unmap(MOST, MOST)?);
            let all = self.unmap(MOST + 1, 1)?;
            commands.push(nanos(most) - nanos(one));
            tags.push(nanos(all) - nanos(one));
            let (cold, warm) = (read(), read());
            pages.push(nanos(cold) - nanos(warm));
        }
        reads.unmap()?;
        Ok(Costs {
            command: middle(commands) / (MOST - 1) as f64,
            by_tag: middle(tags),
            page: middle(pages) / live as f64,
        })
    }

    /// How long the SMMU takes for what it is told when so many pages are unmapped by one call:
    /// `commands` and a `CMD_SYNC`.
    fn unmap(&self, pages: u64, commands: u64) -> Result<Duration> {
        let others = self.map(OTHERS, pages)?;
        self.doorbell.take();
        others.unmap()?;
        let Rung { time, told } = self.doorbell.take();
        assert_eq!(told, commands + 1, "commands for {pages} pages");
        Ok(time)
    }

    fn map(&self, at: Iova, pages: u64) -> Result<MappedBlock<MockMemory>> {
        map(&self.domain, &self.memory, at, pages)
    }
}

fn map(
    domain: &DomainRef,
    memory: &MockMemory,
    at: Iova,
    pages: u64,
) -> Result<MappedBlock<MockMemory>> {
    let [size, page] = [pages * PAGE, PAGE].map(|size| usize::try_from(size).unwrap_or(usize::MAX));
    let block = DmaBlock::new(memory, size, page, "pages of a disk")?;
    let mapped = domain.map_block(at, block, Prot::READ | Prot::WRITE);
    mapped.map_err(|failed| failed.error)
}

fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// The mean of the middle half: what a busy host does to some of them does not count.
fn middle(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    let quarter = times.len() / 4;
    let half = times.get(quarter..times.len() - quarter).unwrap_or(&times);
    half.iter().sum::<f64>() / half.len() as f64
}

/// Writes of `SMMU_CMDQ_PROD`.
#[derive(Clone, Default)]
struct Doorbell(Arc<Mutex<Rung>>);

#[derive(Default)]
struct Rung {
    /// How long they took: QEMU carries out all commands before such a write ends.
    time: Duration,
    /// How many commands they were about.
    told: u64,
}

impl Doorbell {
    fn add(&self, time: Duration, told: u64) {
        let mut rung = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rung.time += time;
        rung.told += told;
    }

    fn take(&self) -> Rung {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A bank whose doorbell is timed.
struct Watched<B> {
    bank: B,
    doorbell: Doorbell,
}

impl<B: RegisterBank> RegisterBank for Watched<B> {
    fn len(&self) -> usize {
        self.bank.len()
    }
    fn read32(&self, offset: usize) -> u32 {
        self.bank.read32(offset)
    }
    fn write32(&self, offset: usize, value: u32) {
        if offset != registers::offset::CMDQ_PROD {
            return self.bank.write32(offset, value);
        }
        let base = QueueBase::from(self.read64(registers::offset::CMDQ_BASE));
        let before = self.read32(offset);
        let start = Instant::now();
        self.bank.write32(offset, value);
        let told = value.wrapping_sub(before) & ((2 << base.log2size()) - 1);
        self.doorbell.add(start.elapsed(), told.into());
    }
    fn read64(&self, offset: usize) -> u64 {
        self.bank.read64(offset)
    }
    fn write64(&self, offset: usize, value: u64) {
        self.bank.write64(offset, value);
    }
}
