//! What every case works with: a machine, a driver on it, and an outsider who looks.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    BasicPlatform, Device, DeviceInfo, DmaBlock, DomainRef, Iommu, IommuConfig, Iova, MappedBlock,
    NoControl, PagingConfig, Prot, Result, Stage, StreamId,
};
use mock_hw::MockMemory;

use super::bank::CorruptingBank;
use super::outsider::{Outsider, Record};
use super::setups::Setup;
use crate::machine::{Machine, Master};

/// A page, the unit of mappings.
pub const PAGE: u64 = 4096;
/// What most mappings allow.
pub const RW: Prot = Prot::READ.union(Prot::WRITE);

/// A driver's platform on a machine.
pub type LabPlatform<M> =
    BasicPlatform<CorruptingBank<<M as Machine>::Bank>, MockMemory, <M as Machine>::Clock>;
/// A driver on a machine.
pub type Smmu<M> = ArmSmmuV3<LabPlatform<M>>;
/// A block that the lab keeps until the case is over.
pub type Block = Arc<DmaBlock<MockMemory>>;
/// A block that is mapped.
pub type Mapped = MappedBlock<MockMemory>;

/// Whose hardware it is. A case that asks says what one of them does otherwise than the
/// specification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hardware {
    /// QEMU's model.
    Qemu,
    /// This workspace's model.
    Model,
}

/// A machine for cases.
pub trait Stand: Machine + Sized {
    /// Whose hardware it is.
    const HARDWARE: Hardware;
    /// Starts it, as after reset.
    fn start(setup: &Setup) -> Self;
    /// What the driver did that the architecture does not allow, as far as the hardware noticed.
    fn violations(&self) -> Vec<String>;
}

/// A machine, what a case needs on it, and the books that have to balance at the end.
pub struct Lab<M: Machine> {
    machine: M,
    setup: Setup,
    hardware: Hardware,
    bank: CorruptingBank<M::Bank>,
    blocks: RefCell<Vec<Block>>,
    leaked: Cell<usize>,
    last: Cell<u32>,
}

/// Runs a case on a machine of its own, and checks its books: all memory was given back, nobody
/// misused it, and the hardware has nothing to complain of.
///
/// # Panics
///
/// Where the case does, or the books do not balance.
pub fn run<M: Stand>(setup: Setup, case: impl FnOnce(&Lab<M>)) {
    let lab = Lab::<M>::start(setup);
    case(&lab);
    lab.close();
}

impl<M: Stand> Lab<M> {
    fn start(setup: Setup) -> Self {
        let machine = M::start(&setup);
        let bank = CorruptingBank::new(machine.platform().bank, machine.memory());
        bank.claim(&setup);
        Self {
            machine,
            setup,
            hardware: M::HARDWARE,
            bank,
            blocks: RefCell::default(),
            leaked: Cell::new(0),
            last: Cell::new(0x5eed_0000),
        }
    }

    fn close(self) {
        self.blocks.borrow_mut().clear();
        let memory = self.memory();
        assert_eq!(
            memory.allocated(),
            self.leaked.get(),
            "bytes that were never given back"
        );
        assert_eq!(memory.violations(), [""; 0], "misuse of memory");
        assert_eq!(self.machine.violations(), [""; 0], "misuse of the hardware");
    }
}

impl<M: Machine> Lab<M> {
    /// Whose hardware it is.
    #[must_use]
    pub fn hardware(&self) -> Hardware {
        self.hardware
    }

    /// Whether paging domains use stage 2.
    #[must_use]
    pub fn is_stage2(&self) -> bool {
        self.setup.stages == super::setups::Stages::Two || self.setup.stage == Stage::Second
    }

    /// The machine's memory.
    #[must_use]
    pub fn memory(&self) -> MockMemory {
        self.machine.memory()
    }

    /// The registers, as the driver has them.
    #[must_use]
    pub fn bank(&self) -> &CorruptingBank<M::Bank> {
        &self.bank
    }

    /// Somebody who reads tables with the specification at hand.
    #[must_use]
    pub fn outsider(&self) -> Outsider<M::Bank> {
        Outsider::new(self.bank.inner().clone(), self.memory())
    }

    /// Says that this many bytes are never given back, on purpose.
    pub fn expect_leak(&self, bytes: usize) {
        self.leaked.set(self.leaked.get() + bytes);
    }

    /// Says that all that is allocated at this moment, but for the lab's own blocks, is never given
    /// back, on purpose. Returns how much that is.
    pub fn expect_leak_of_everything(&self) -> usize {
        let blocks = self.blocks.borrow();
        let own: usize = blocks.iter().map(|block| block.size()).sum();
        self.leaked.set(self.memory().allocated() - own);
        self.leaked.get()
    }

    /// The default configuration, with the setup's stream table.
    #[must_use]
    pub fn config(&self) -> Config {
        Config {
            stream_table: self.setup.table,
            ..Config::default()
        }
    }

    /// A driver with this configuration.
    pub fn probe(&self, config: Config) -> Result<Smmu<M>> {
        let platform = self.machine.platform();
        ArmSmmuV3::probe(
            BasicPlatform {
                bank: self.bank.clone(),
                memory: platform.memory,
                clock: platform.clock,
            },
            config,
        )
    }

    /// A driver with the default configuration, and the core on it.
    #[must_use]
    #[track_caller]
    pub fn rig(&self) -> Rig<'_, M> {
        self.rig_with(self.config())
    }

    /// A driver with this configuration, and the core on it.
    #[must_use]
    #[track_caller]
    pub fn rig_with(&self, config: Config) -> Rig<'_, M> {
        let smmu = self.probe(config).unwrap();
        let config = IommuConfig {
            paging: self.paging(),
            ..IommuConfig::default()
        };
        let iommu = Iommu::with_config(smmu.clone(), config).unwrap();
        Rig {
            lab: self,
            smmu,
            iommu,
        }
    }

    /// Paging domains of the setup's stage.
    #[must_use]
    pub fn paging(&self) -> PagingConfig {
        PagingConfig {
            stage: self.setup.stage,
            ..PagingConfig::default()
        }
    }

    /// A block of zeros that is kept until the case is over.
    #[must_use]
    pub fn block(&self, size: u64) -> Block {
        self.block_aligned(size, PAGE)
    }

    /// As [`block`](Self::block), aligned.
    #[must_use]
    pub fn block_aligned(&self, size: u64, align: u64) -> Block {
        let [size, align] = [size, align].map(|n| usize::try_from(n).unwrap());
        let block = DmaBlock::new(&self.memory(), size, align, "a case's block").unwrap();
        let block = Arc::new(block);
        self.blocks.borrow_mut().push(block.clone());
        block
    }

    /// Maps `len` bytes of a block from its byte `at` on.
    pub fn map(&self, domain: &DomainRef, iova: u64, block: &Block, at: u64, len: u64) -> Result {
        self.map_as(domain, iova, block, at, len, RW)
    }

    /// As [`map`](Self::map), with this access.
    pub fn map_as(
        &self,
        domain: &DomainRef,
        iova: u64,
        block: &Block,
        at: u64,
        len: u64,
        prot: Prot,
    ) -> Result {
        assert!(
            self.blocks
                .borrow()
                .iter()
                .any(|kept| Arc::ptr_eq(kept, block)),
            "not a block of this lab"
        );
        assert!(at + len <= block.size() as u64, "beyond the block");
        let phys = block.addr().checked_add(at).unwrap();
        // SAFETY: the lab keeps the block until the case is over, and with it every domain and
        // every device of it; nobody takes the bytes for unchanging.
        unsafe { domain.map(Iova(iova), phys, len, prot) }
    }

    /// Maps a page of its own.
    #[track_caller]
    pub fn page(&self, domain: &DomainRef, iova: u64) -> Mapped {
        let block = DmaBlock::new(&self.memory(), 4096, 4096, "a case's page").unwrap();
        domain
            .map_block(Iova(iova), block, RW)
            .map_err(iommu_core::Error::from)
            .unwrap()
    }

    /// A master's StreamID.
    #[must_use]
    pub fn stream(&self, master: usize) -> StreamId {
        self.master(master).stream()
    }

    fn master(&self, master: usize) -> &dyn Master {
        self.machine.masters()[master]
    }

    /// Lets a master write.
    pub fn put(&self, master: usize, iova: u64, bytes: &[u8]) {
        self.master(master).write(Iova(iova), bytes);
    }

    /// Lets a master read; what is refused is zero.
    #[must_use]
    pub fn get<const N: usize>(&self, master: usize, iova: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.master(master).read(Iova(iova), &mut bytes);
        bytes
    }

    /// Four bytes that no test has used before, none of them zero.
    #[must_use]
    pub fn fresh(&self) -> [u8; 4] {
        loop {
            self.last.set(
                self.last
                    .get()
                    .wrapping_mul(1_664_525)
                    .wrapping_add(1_013_904_223),
            );
            let bytes = self.last.get().to_le_bytes();
            if !bytes.contains(&0) {
                return bytes;
            }
        }
    }

    /// Checks that a master reads and writes the bytes of `block` from `at` on through `iova`.
    #[track_caller]
    pub fn reaches(&self, master: usize, iova: u64, block: &DmaBlock<MockMemory>, at: u64) {
        self.writes(master, iova, block, at);
        self.reads(master, iova, block, at);
    }

    /// Checks that a write through `iova` arrives in `block`.
    #[track_caller]
    pub fn writes(&self, master: usize, iova: u64, block: &DmaBlock<MockMemory>, at: u64) {
        let sent = self.fresh();
        self.put(master, iova, &sent);
        assert_eq!(contents(block, at), sent, "a write to {iova:#x} arrives");
    }

    /// Checks that a read through `iova` comes from `block`.
    #[track_caller]
    pub fn reads(&self, master: usize, iova: u64, block: &DmaBlock<MockMemory>, at: u64) {
        let kept = self.fresh();
        block.write_at(index(at), &kept);
        assert_eq!(self.get(master, iova), kept, "a read of {iova:#x} is true");
    }

    /// Checks that a master can neither read nor write the bytes of `block` from `at` on through
    /// `iova`, wherever that goes instead.
    #[track_caller]
    pub fn misses(&self, master: usize, iova: u64, block: &DmaBlock<MockMemory>, at: u64) {
        let secret = self.fresh();
        block.write_at(index(at), &secret);
        self.put(master, iova, &self.fresh());
        assert_eq!(contents(block, at), secret, "a write to {iova:#x} arrived");
        assert_ne!(self.get(master, iova), secret, "{iova:#x} could be read");
    }

    /// Checks that a master gets nothing through `iova`, and `block` from `at` on stays as it is.
    #[track_caller]
    pub fn refused(&self, master: usize, iova: u64, block: &DmaBlock<MockMemory>, at: u64) {
        self.misses(master, iova, block, at);
        assert_eq!(
            self.get(master, iova),
            [0; 4],
            "a read of {iova:#x} is refused"
        );
    }
}

impl<M: Machine> std::fmt::Debug for Lab<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lab({:?} on {:?})", self.setup, self.hardware)
    }
}

/// Bytes of a block, as the CPU sees them.
#[must_use]
pub fn contents<const N: usize>(block: &DmaBlock<MockMemory>, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    block.read_at(index(at), &mut bytes);
    bytes
}

fn index(at: u64) -> usize {
    usize::try_from(at).expect("blocks are smaller than the address space")
}

/// A driver at work, and the core on it.
pub struct Rig<'a, M: Machine> {
    lab: &'a Lab<M>,
    /// The driver.
    pub smmu: Smmu<M>,
    /// The core.
    pub iommu: Iommu,
}

impl<M: Machine> Rig<'_, M> {
    /// What is known of a master.
    #[must_use]
    pub fn info(&self, master: usize) -> DeviceInfo {
        DeviceInfo::new(&format!("master{master}")).streams([self.lab.stream(master)])
    }

    /// Adds a master; it is on a paging domain of its own.
    #[track_caller]
    pub fn add(&self, master: usize) -> Device {
        self.add_as(self.info(master)).unwrap()
    }

    /// Adds a device.
    pub fn add_as(&self, info: DeviceInfo) -> Result<Device> {
        self.iommu.add_device(info, Arc::new(NoControl))
    }

    /// A new paging domain of the setup's stage.
    #[must_use]
    #[track_caller]
    pub fn domain(&self) -> DomainRef {
        self.iommu.paging_domain(&self.lab.paging()).unwrap()
    }

    /// Takes all events that were recorded.
    #[track_caller]
    pub fn events(&self) -> Vec<Record> {
        std::iter::from_fn(|| self.smmu.next_event().unwrap())
            .map(|event| Record(event.0))
            .collect()
    }

    /// Takes the only event that was recorded.
    #[track_caller]
    pub fn event(&self) -> Record {
        let events = self.events();
        let [event] = events[..] else {
            panic!("not one event: {events:#?}");
        };
        event
    }

    /// Checks that no event was recorded.
    #[track_caller]
    pub fn silent(&self) {
        assert_eq!(self.events(), []);
    }
}

impl<M: Machine> std::fmt::Debug for Rig<'_, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rig({:?})", self.smmu)
    }
}
