//! Live entries, at every store, as a reader may see them that fetches words one by one, at any
//! time, and keeps each until it is told to forget it (SMMUv3 3.21.3).

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]
#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use std::sync::{Arc, Mutex};

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    BasicPlatform, DefaultDomain, DeviceInfo, DomainRef, Iommu, IommuConfig, NoControl,
    PagingConfig, RegisterBank, Stage, StreamId,
};
use mock_hw::smmuv3::{ModelBank, ModelConfig, SmmuModel, StreamConfig};
use tests::machine::Machine;
use tests::model::ModelMachine;

const STREAM: u32 = 0x10;
const CMDQ_PROD: usize = 0x98;
const CFGI_STE: u64 = 0x03;
const CFGI_ALL: u64 = 0x04;
const SYNC: u64 = 0x46;

/// What a reader may hold of one entry: for each word, every value since it was last told to forget
/// the entry.
#[derive(Clone, Default)]
struct Reader {
    entry: u64,
    words: [Vec<u64>; 8],
    /// What a transaction may be subject to.
    allowed: Vec<StreamConfig>,
    stores: usize,
}

impl Reader {
    fn store(&mut self, addr: u64, value: u64) {
        let Some(word) = addr.checked_sub(self.entry).filter(|at| *at < 64) else {
            return;
        };
        self.words[word as usize / 8].push(value);
        self.stores += 1;
        self.judge();
    }

    fn forget(&mut self) {
        for word in &mut self.words {
            word.drain(..word.len().saturating_sub(1));
        }
    }

    /// Puts an entry together from every choice of words, and looks at what the hardware would do.
    fn judge(&mut self) {
        let choices: usize = self.words.iter().map(Vec::len).product();
        assert!(choices < 100_000, "too many to look at");
        for choice in 0..choices {
            let mut rest = choice;
            let entry = self.words.each_ref().map(|values| {
                let value = values[rest % values.len()];
                rest /= values.len();
                value
            });
            match ModelConfig::default().decode_stream(&entry) {
                Ok(config) => {
                    let allowed = self.allowed.contains(&config);
                    assert!(allowed, "{entry:x?} is {config:?}");
                }
                Err(why) => panic!("{entry:x?} is illegal: {why}"),
            }
        }
    }
}

/// The model's registers; tells the reader to forget what the commands name, once a `CMD_SYNC` says
/// that they are done.
#[derive(Clone)]
struct Watched {
    bank: ModelBank,
    model: SmmuModel,
    reader: Arc<Mutex<Reader>>,
}

impl RegisterBank for Watched {
    fn len(&self) -> usize {
        self.bank.len()
    }
    fn read32(&self, offset: usize) -> u32 {
        self.bank.read32(offset)
    }
    fn write32(&self, offset: usize, value: u32) {
        self.bank.write32(offset, value);
        if offset != CMDQ_PROD {
            return;
        }
        let mut named = false;
        for [word0, _] in self.model.commands() {
            match word0 & 0xff {
                CFGI_STE => named |= word0 >> 32 == u64::from(STREAM),
                CFGI_ALL => named = true,
                SYNC if named => {
                    self.reader.lock().unwrap().forget();
                    named = false;
                }
                _ => {}
            }
        }
        self.model.clear_commands();
    }
    fn read64(&self, offset: usize) -> u64 {
        self.bank.read64(offset)
    }
    fn write64(&self, offset: usize, value: u64) {
        self.bank.write64(offset, value);
    }
}

/// The old one, the new one, and one that aborts; between the stages, stage 1 with the other's tag.
fn allowed(old: StreamConfig, new: StreamConfig) -> Vec<StreamConfig> {
    let mut allowed = vec![old, StreamConfig::Abort, new];
    for (one, two) in [(old, new), (new, old)] {
        if let (StreamConfig::Stage1 { mut stage1, eats }, StreamConfig::Stage2 { stage2, .. }) =
            (one, two)
        {
            stage1.vmid = stage2.vmid;
            allowed.push(StreamConfig::Stage1 { stage1, eats });
        }
    }
    allowed
}

#[test]
fn between_any_two_stores_an_entry_is_the_old_one_the_new_one_or_aborts() {
    let machine = ModelMachine::new(ModelConfig::default(), 1);
    let reader = Arc::new(Mutex::new(Reader::default()));
    let BasicPlatform {
        bank,
        memory,
        clock,
    } = machine.platform();
    let model = machine.model().clone();
    let bank = Watched {
        bank,
        model: model.clone(),
        reader: reader.clone(),
    };
    let platform = BasicPlatform {
        bank,
        memory,
        clock,
    };
    let smmu = ArmSmmuV3::probe(platform, Config::default()).unwrap();
    let parked = IommuConfig {
        default_domain: DefaultDomain::Parked,
        ..IommuConfig::default()
    };
    let iommu: Iommu = Iommu::with_config(smmu.clone(), parked).unwrap();
    let info = DeviceInfo::new("nic").streams([STREAM]);
    let device = iommu.add_device(info, Arc::new(NoControl)).unwrap();

    let paging = |stage| {
        iommu
            .paging_domain(&PagingConfig {
                stage,
                ..Default::default()
            })
            .unwrap()
    };
    let domains: Vec<DomainRef> = vec![
        iommu.blocked_domain(),
        iommu.identity_domain().unwrap(),
        paging(Stage::First),
        paging(Stage::First),
        paging(Stage::Second),
        paging(Stage::Second),
    ];
    let words = |domain: &DomainRef| {
        device.attach(domain).unwrap();
        smmu.stream_entry(StreamId(STREAM)).unwrap().to_words()
    };
    let entries: Vec<[u64; 8]> = domains.iter().map(words).collect();

    let watching = reader.clone();
    let hook = move |addr: iommu_core::PhysAddr, values: &[u64]| {
        for (at, value) in (addr.0..).step_by(8).zip(values) {
            watching.lock().unwrap().store(at, *value);
        }
    };
    machine.memory().set_store_hook(Some(Arc::new(hook)));
    let decode = |entry: &[u64; 8]| ModelConfig::default().decode_stream(entry).unwrap();
    for (from, old) in domains.iter().zip(&entries) {
        for (to, new) in domains.iter().zip(&entries) {
            // Quietly to where it starts.
            reader.lock().unwrap().entry = u64::MAX;
            device.attach(from).unwrap();
            let live = smmu.stream_entry(StreamId(STREAM)).unwrap().to_words();
            *reader.lock().unwrap() = Reader {
                entry: model.stream_entry(STREAM).unwrap().0,
                words: live.map(|word| vec![word]),
                allowed: allowed(decode(old), decode(new)),
                ..Reader::default()
            };
            device.attach(to).unwrap();
            let mut reader = reader.lock().unwrap();
            assert!(
                reader.words.iter().all(|word| word.len() == 1),
                "all of it is confirmed"
            );
            reader.judge();
            let last = reader.words.each_ref().map(|word| word[0]);
            assert_eq!(decode(&last), decode(new));
            let still = Arc::ptr_eq(from, to);
            assert!(
                reader.stores > 0 || still,
                "{from:?} to {to:?} stored nothing"
            );
        }
    }
    machine.memory().set_store_hook(None);
}
