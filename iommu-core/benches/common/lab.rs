//! Devices behind an SMMU that has done everything by the time anybody looks.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::dma::{Dma, DmaPlatform};
use iommu_core::{
    BasicPlatform, DefaultDomain, Device, DeviceInfo, DomainRef, Iommu, IommuConfig, Iova,
    NoControl, PagingConfig, PhysAddr, Platform, Prot, RegisterBank, SpinLock,
};

use super::K4;
use super::platform::{Heap, Registers, Still};
use super::pool::Pool;
use super::timed::Timed;

/// What mappings allow.
pub(crate) const RW: Prot = Prot::READ.union(Prot::WRITE);

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// This thread is on the CPU of this number from here on: as far as the drivers know, and in fact
/// where the system lets it.
pub(crate) fn run_on_cpu(number: usize) {
    CPU.set(number);
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if let Some(core) = cores.get(number) {
        core_affinity::set_for_current(*core);
    }
}

/// What the SMMU's driver runs on: each thread is a CPU of its own.
struct Machine<B>(OneCpu<B>);

/// The same with one CPU.
pub(crate) type OneCpu<B> = BasicPlatform<B, Pool, Still>;

impl<B: RegisterBank> Platform for Machine<B> {
    type Bank = B;
    type Memory = Pool;
    type Clock = Still;
    type BlockingLock = SpinLock;
    type IrqLock = SpinLock;

    #[inline(always)]
    fn bank(&self) -> &B {
        &self.0.bank
    }
    #[inline(always)]
    fn memory(&self) -> &Pool {
        &self.0.memory
    }
    #[inline(always)]
    fn clock(&self) -> &Still {
        &self.0.clock
    }
    #[inline(always)]
    fn current_cpu(&self) -> usize {
        CPU.get()
    }
}

/// Hardware with this memory, and one CPU.
pub(crate) fn one_cpu<B>(bank: B, memory: &Pool) -> OneCpu<B> {
    BasicPlatform {
        bank,
        memory: memory.clone(),
        clock: Still,
    }
}

/// What drivers map with: buffers from the heap, caches of IOVAs for two CPUs.
pub(crate) struct Drivers;

impl DmaPlatform for Drivers {
    type Memory = Heap;
    type IrqLock = SpinLock;

    #[inline(always)]
    fn memory(&self) -> &Heap {
        &Heap
    }
    fn cpus(&self) -> usize {
        2
    }
    #[inline(always)]
    fn current_cpu(&self) -> usize {
        CPU.get()
    }
}

/// How large things are.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Bits of an IOVA.
    pub(crate) bits: u8,
    /// Whether the SMMU's driver is told which CPU it runs on.
    pub(crate) cpus: bool,
    /// What a `CMD_SYNC` takes.
    pub(crate) sync: Duration,
    /// Devices of the IOMMU, each in a group and on a domain of its own.
    pub(crate) devices: u32,
    /// Streams of the device that is mapped for.
    pub(crate) streams: u32,
    /// What devices are on.
    pub(crate) domain: DefaultDomain,
}

impl Shape {
    /// One device with one stream, on a paging domain of 48 bits.
    pub(crate) const SMALL: Self = Self {
        bits: 48,
        cpus: false,
        sync: Duration::ZERO,
        devices: 1,
        streams: 1,
        domain: DefaultDomain::Paging,
    };
}

/// Devices behind an SMMU.
pub(crate) struct Lab {
    pub(crate) memory: Pool,
    /// What the first device is on.
    pub(crate) domain: DomainRef,
    devices: Vec<Device>,
}

impl Lab {
    /// A lab that stays for good.
    pub(crate) fn new(shape: Shape) -> &'static Self {
        let memory = Pool::new();
        let config = IommuConfig {
            default_domain: shape.domain,
            paging: PagingConfig {
                input_bits: Some(shape.bits),
                ..PagingConfig::default()
            },
        };
        let iommu = match (shape.cpus, shape.sync) {
            (false, Duration::ZERO) => core(one_cpu(Registers::new(), &memory), config),
            (true, Duration::ZERO) => core(Machine(one_cpu(Registers::new(), &memory)), config),
            (_, sync) => core(Machine(one_cpu(Timed::new(sync), &memory)), config),
        };
        let mut free = 0_u32..;
        let devices: Vec<_> = (0..shape.devices)
            .map(|device| {
                let count = if device == 0 { shape.streams } else { 1 };
                let info = DeviceInfo::new("a device").streams(free.by_ref().take(count as usize));
                iommu
                    .add_device(info, Arc::new(NoControl))
                    .expect("a device")
            })
            .collect();
        let domain = devices[0].domain().expect("a default domain");
        Box::leak(Box::new(Self {
            memory,
            domain,
            devices,
        }))
    }

    /// With so many pages mapped, from address 0 on.
    pub(crate) fn among(&'static self, pages: u64) -> &'static Self {
        (0..pages).for_each(|page| self.map(page * K4, PhysAddr(K4), K4));
        self
    }

    /// What maps for the first device.
    pub(crate) fn dma(&self) -> Dma<Drivers> {
        self.devices[0].dma(Drivers).expect("it maps")
    }

    pub(crate) fn map(&self, at: u64, phys: PhysAddr, len: u64) {
        // SAFETY: there are no devices behind these registers.
        unsafe { self.domain.map(Iova(at), phys, len, RW) }.expect("it works");
    }

    pub(crate) fn unmap(&self, at: u64, len: u64) {
        self.domain.unmap(Iova(at), len).expect("it works");
    }
}

fn core(platform: impl Platform, config: IommuConfig) -> Iommu {
    let smmu = ArmSmmuV3::probe(platform, Config::default()).expect("an SMMU");
    Iommu::with_config(smmu, config).expect("an IOMMU")
}
