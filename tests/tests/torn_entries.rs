//! The driver's live entries, at every store, before a reader that is as adverse as SMMUv3 3.21.3
//! allows: each is seen as what its stream was on, or as what it is moved to. Only where no single
//! store can lead from one to the other is it seen to abort, and only between the stages to have a
//! tag that is neither's.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::{Arc, Mutex};

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    Atomicity, BasicPlatform, DefaultDomain, Device, DeviceInfo, DmaMemory, DomainRef, Iommu,
    IommuConfig, NoControl, PagingConfig, PhysAddr, Stage, StreamId, has_pairs,
};
use mock_hw::smmuv3::{EntryChecker, Image, ModelBank, ModelConfig, SmmuModel};
use mock_hw::{MockClock, MockMemory};
use tests::machine::Machine;
use tests::model::ModelMachine;

type Words = [u64; 8];

const STREAMS: [u32; 3] = [0x10, 0x11, 0x180];
const ABORT: Words = [1, 0, 0, 0, 0, 0, 0, 0];

/// One domain, by what the entry of a stream on it says, and the context descriptor it points to.
#[derive(Clone)]
struct Known {
    domain: DomainRef,
    entry: Words,
    context: Option<Words>,
}

impl Known {
    fn config(&self) -> u64 {
        self.entry[0] >> 1 & 0b111
    }

    fn with_words(&self, entry: Words) -> Image {
        let image = Image::new(entry);
        match self.context {
            Some(context) => image.context(0, context),
            None => image,
        }
    }

    fn image(&self) -> Image {
        self.with_words(self.entry)
    }

    /// Stage 1 with the VMID of stage 2.
    fn tagged_as(&self, other: &Self) -> Option<Image> {
        let mut entry = self.entry;
        entry[2] = entry[2] & !0xffff | other.entry[2] & 0xffff;
        (self.config() == 0b101 && other.config() == 0b110).then(|| self.with_words(entry))
    }
}

fn words_at(machine: &ModelMachine, at: PhysAddr) -> Words {
    std::array::from_fn(|word| {
        let at = PhysAddr(at.0 + 8 * word as u64);
        machine.memory().read_word(at).unwrap()
    })
}

struct Setup {
    machine: ModelMachine,
    model: SmmuModel,
    smmu: ArmSmmuV3<BasicPlatform<ModelBank, MockMemory, MockClock>>,
    iommu: Iommu,
    devices: Vec<Device>,
}

impl Setup {
    fn new(atomicity: Atomicity) -> Self {
        let machine = ModelMachine::new(ModelConfig::default(), 1);
        machine.memory().set_pairs(atomicity == Atomicity::Pair);
        let model = machine.model().clone();
        let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).unwrap();
        let parked = IommuConfig {
            default_domain: DefaultDomain::Parked,
            ..IommuConfig::default()
        };
        let iommu: Iommu = Iommu::with_config(smmu.clone(), parked).unwrap();
        let devices = [&STREAMS[..2], &STREAMS[2..]].map(|streams| {
            let streams = streams.iter().map(|stream| StreamId(*stream));
            let info = DeviceInfo::new("nic").streams(streams).group("all");
            iommu.add_device(info, Arc::new(NoControl)).unwrap()
        });
        Self {
            machine,
            model,
            smmu,
            iommu,
            devices: devices.into(),
        }
    }

    fn paging(&self, stage: Stage) -> DomainRef {
        let config = PagingConfig {
            stage,
            ..PagingConfig::default()
        };
        self.iommu.paging_domain(&config).unwrap()
    }

    fn attach(&self, known: &DomainRef) {
        self.devices[0].group().attach(known).unwrap();
    }

    fn entry(&self) -> Words {
        self.smmu
            .stream_entry(StreamId(STREAMS[0]))
            .unwrap()
            .to_words()
    }

    /// Learns what entries look like on each domain.
    fn domains(&self) -> Vec<Known> {
        let domains = [
            self.iommu.blocked_domain(),
            self.iommu.identity_domain().unwrap(),
            self.paging(Stage::First),
            self.paging(Stage::First),
            self.paging(Stage::Second),
            self.paging(Stage::Second),
        ];
        let learn = |domain: &DomainRef| {
            self.attach(domain);
            let entry = self.entry();
            let context = PhysAddr(entry[0] & 0x00ff_ffff_ffff_ffc0);
            Known {
                domain: domain.clone(),
                entry,
                context: (entry[0] >> 1 & 0b111 == 0b101).then(|| words_at(&self.machine, context)),
            }
        };
        domains.iter().map(learn).collect()
    }

    /// A reader that knows the entries, and the descriptors, as they are.
    fn watched(&self, domains: &[Known]) -> Arc<Mutex<EntryChecker>> {
        let atomicity = self.machine.memory().atomicity();
        let mut checker = EntryChecker::new(ModelConfig::default(), atomicity);
        for known in domains {
            if let Some(context) = known.context {
                let at = PhysAddr(known.entry[0] & 0x00ff_ffff_ffff_ffc0);
                checker.set_memory(at, &context);
            }
        }
        for stream in STREAMS {
            let at = self.model.stream_entry(stream).unwrap();
            checker.watch(stream, at, words_at(&self.machine, at));
        }
        let checker = Arc::new(Mutex::new(checker));
        let reader = checker.clone();
        let stores = move |at: PhysAddr, words: &[u64]| reader.lock().unwrap().store(at, words);
        self.machine.memory().set_store_hook(Some(Arc::new(stores)));
        let reader = checker.clone();
        let commands = move |_: &SmmuModel, words| reader.lock().unwrap().command(words);
        self.model.set_command_hook(Some(Arc::new(commands)));
        checker
    }
}

/// What an entry may be seen as while it is moved.
fn images(from: &Known, to: &Known, atomicity: Atomicity) -> Vec<Image> {
    let mut images = vec![from.image(), to.image()];
    images.extend(from.tagged_as(to));
    images.extend(to.tagged_as(from));
    // VMID and table are in different words.
    if from.config() == 0b110 && to.config() == 0b110 && atomicity == Atomicity::Word {
        images.push(Image::new(ABORT));
    }
    images
}

#[test]
fn between_any_two_stores_an_entry_is_what_it_was_or_what_it_is_to_be() {
    let atomicities = [Atomicity::Word, Atomicity::Pair];
    for atomicity in atomicities
        .into_iter()
        .take(if has_pairs() { 2 } else { 1 })
    {
        let setup = Setup::new(atomicity);
        let domains = setup.domains();
        for from in &domains {
            for to in &domains {
                setup.attach(&from.domain);
                let checker = setup.watched(&domains);
                let expect = |images: &[Image]| {
                    let mut checker = checker.lock().unwrap();
                    STREAMS
                        .iter()
                        .for_each(|stream| checker.expect(*stream, images));
                };
                expect(&images(from, to, atomicity));
                setup.attach(&to.domain);
                // Everything else is forgotten by now.
                expect(&[to.image()]);
                let failures = checker.lock().unwrap().failures().join("\n");
                let what = format!("{:?} to {:?}, {atomicity:?}", from.domain, to.domain);
                assert_eq!(failures, "", "{what}");
                setup.machine.memory().set_store_hook(None);
                setup.model.set_command_hook(None);
            }
        }
        assert_eq!(setup.model.violations(), [""; 0]);
    }
}

/// Whether DMA would break off is known before an attach.
#[test]
fn what_an_attach_would_take_is_known_before() {
    let setup = Setup::new(Atomicity::Word);
    for from in setup.domains() {
        for to in setup.domains() {
            setup.attach(&from.domain);
            let plan = setup.smmu.plan(StreamId(STREAMS[0]), &to.domain).unwrap();
            let still = Arc::ptr_eq(&from.domain, &to.domain);
            assert_eq!(plan.is_empty(), still, "{plan}");
            // Another stage, or another stage 2, has another VMID.
            let stages = [from.config(), to.config()];
            let breaks = !still && matches!(stages, [0b101, 0b110] | [0b110, 0b101 | 0b110]);
            assert_eq!(plan.breaks(), breaks, "{plan}");
        }
    }
}
