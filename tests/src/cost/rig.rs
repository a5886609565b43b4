//! A machine with a device on it, and all that the device may be attached to.

use std::collections::BTreeSet;
use std::sync::Arc;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    Atomicity, BasicPlatform, DefaultDomain, Device, DeviceControl, DeviceInfo, DmaBlock,
    DomainRef, Error, Iommu, IommuConfig, Iova, MappedBlock, NoControl, PagingConfig, Prot,
    RegisterBank, Stage, StreamId,
};
use mock_hw::smmuv3::{AtsDevice, ModelBank, ModelConfig};
use mock_hw::{DmaDevice, MockClock, MockMemory};

use super::kinds::Words;
use super::watch::{Seen, Watch, read};
use super::{Counts, Failure};
use crate::machine::Machine;
use crate::model::ModelMachine;

const PAGE: usize = 4096;
/// In `SMMU_IDR0`: the SMMU has ATS.
pub(super) const IDR0_ATS: u32 = 1 << 10;
const CMDQ_PROD: usize = 0x98;
const CMDQ_CONS: usize = 0x9c;
/// The streams of the device from here on, and that of another one.
const STREAM: u32 = 0x100;
const OTHER_STREAM: u32 = 0x400;

/// What a device may be on. Each shows something else at the same address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum On {
    Blocked,
    Identity,
    First,
    OtherFirst,
    Second,
    OtherSecond,
}

impl On {
    /// What a device sees that is on it.
    fn shows(self) -> Seen {
        match self {
            Self::Blocked => Seen::Nothing,
            Self::Identity => Seen::Data(*b"same"),
            Self::First => Seen::Data(*b"one "),
            Self::OtherFirst => Seen::Data(*b"one'"),
            Self::Second => Seen::Data(*b"two "),
            Self::OtherSecond => Seen::Data(*b"two'"),
        }
    }
}

/// What an attach did.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) counts: Counts,
    /// For each round the words that were stored, a bit for each.
    pub(super) rounds: Vec<u8>,
    /// The entry before and after.
    pub(super) entries: [Words; 2],
    /// What the device saw that neither domain shows.
    pub(super) between: BTreeSet<Seen>,
}

/// A machine with a device on it. What a device reaches comes first here, and so goes first.
pub(super) struct Rig {
    device: Device,
    other: Device,
    _mapped: Vec<MappedBlock<MockMemory>>,
    /// In the order of [`On`].
    domains: [DomainRef; 6],
    smmu: ArmSmmuV3<BasicPlatform<ModelBank, MockMemory, MockClock>>,
    /// What identity shows. Its address is where devices read.
    page: DmaBlock<MockMemory>,
    machine: ModelMachine,
    streams: Vec<u32>,
}

impl Rig {
    /// The device has that many streams, and ATS if the SMMU has; it is blocked, and nobody has used
    /// its entries yet.
    pub(super) fn new(
        config: ModelConfig,
        atomicity: Atomicity,
        streams: u32,
    ) -> Result<Self, Failure> {
        let ats = config.idr0 & IDR0_ATS != 0;
        let machine = ModelMachine::new(config, 0);
        let memory = machine.memory();
        memory.set_pairs(atomicity == Atomicity::Pair);
        let smmu = ArmSmmuV3::probe(machine.platform(), Config::default())?;
        let parked = IommuConfig {
            default_domain: DefaultDomain::Parked,
            ..IommuConfig::default()
        };
        let iommu: Iommu = Iommu::with_config(smmu.clone(), parked)?;

        let page = showing(&memory, On::Identity)?;
        let mut mapped = Vec::new();
        let mut paging = |stage, on: On| -> Result<DomainRef, Failure> {
            let config = PagingConfig {
                stage,
                ..PagingConfig::default()
            };
            let domain = iommu.paging_domain(&config)?;
            let block = showing(&memory, on)?;
            let at = Iova(page.addr().0);
            mapped.push(
                domain
                    .map_block(at, block, Prot::READ)
                    .map_err(Error::from)?,
            );
            Ok(domain)
        };
        let domains = [
            iommu.blocked_domain(),
            iommu.identity_domain().ok_or("no identity domain")?,
            paging(Stage::First, On::First)?,
            paging(Stage::First, On::OtherFirst)?,
            paging(Stage::Second, On::Second)?,
            paging(Stage::Second, On::OtherSecond)?,
        ];
        let streams: Vec<u32> = (STREAM..STREAM + streams).collect();
        let info = DeviceInfo::new("nic").streams(streams.iter().copied());
        let control: Arc<dyn DeviceControl> = match ats {
            true => Arc::new(AtsDevice::new(machine.model(), streams.iter().copied())),
            false => Arc::new(NoControl),
        };
        let device = iommu.add_device(info, control)?;
        let info = DeviceInfo::new("another").streams([OTHER_STREAM]);
        let other = iommu.add_device(info, Arc::new(NoControl))?;
        Ok(Self {
            device,
            other,
            _mapped: mapped,
            domains,
            smmu,
            page,
            machine,
            streams,
        })
    }

    fn domain(&self, on: On) -> &DomainRef {
        &self.domains[on as usize]
    }

    /// Moves the device.
    pub(super) fn attach(&self, on: On) -> Result<(), Failure> {
        Ok(self.device.attach(self.domain(on))?)
    }

    /// Puts another device there.
    pub(super) fn share(&self, on: On) -> Result<(), Failure> {
        Ok(self.other.attach(self.domain(on))?)
    }

    fn entry(&self) -> Result<Words, Failure> {
        let entry = self.smmu.stream_entry(StreamId(STREAM));
        Ok(entry.ok_or("no entry")?.to_words())
    }

    /// Time passes: the hardware gets to the end of what nobody waits for.
    fn catch_up(&self) {
        let bank = self.machine.model().bank();
        while bank.read32(CMDQ_CONS) != bank.read32(CMDQ_PROD) {}
    }

    /// Moves the device, while it reads all the time.
    pub(super) fn watch(self, old: On, new: On) -> Result<Outcome, Failure> {
        let model = self.machine.model();
        let iova = self.page.addr().0;
        let devices = || {
            self.streams
                .iter()
                .map(|stream| DmaDevice::new(model, *stream))
        };
        let shown = |on: On| devices().all(|device| read(&device, iova) == on.shows());
        if !shown(old) {
            return Err("the device does not see what it is on".into());
        }
        let before = self.entry()?;
        self.catch_up();
        model.clear_commands();
        model.clear_waits();
        let watch = Watch::new(model, &self.machine.memory(), &self.streams, iova)?;
        self.attach(new)?;
        let waits = model.waits();
        self.catch_up();
        let record = watch.end();
        let counts = Counts {
            rounds: record.rounds.len(),
            stores: record.stores,
            commands: model.commands().len(),
            waits,
        };
        let after = self.entry()?;
        if !shown(new) {
            return Err("the device does not see what it was attached to".into());
        }
        if let Some(event) = self.smmu.next_event()? {
            return Err(format!("there was an event: {event}").into());
        }
        let complaints = [model.violations(), self.machine.memory().violations()].concat();
        if !complaints.is_empty() {
            return Err(complaints.join("; ").into());
        }
        let mut between = record.seen;
        between.retain(|seen| *seen != old.shows() && *seen != new.shows());
        Ok(Outcome {
            counts,
            rounds: record.rounds,
            entries: [before, after],
            between,
        })
    }
}

/// A page with what a device sees that is on this.
fn showing(memory: &MockMemory, on: On) -> Result<DmaBlock<MockMemory>, Failure> {
    let page = DmaBlock::new(memory, PAGE, PAGE, "a page to look at")?;
    if let Seen::Data(bytes) = on.shows() {
        page.write_at(0, &bytes);
    }
    Ok(page)
}
