//! What streams reach at every register write of bring-up: nothing is open by accident, and nothing
//! that firmware asked for is closed.

use std::sync::{Arc, Mutex};

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    BasicPlatform, FirmwareRegion, PhysAddr, RegisterBank, ReservedKind, ReservedRegion, StreamId,
};
use mock_hw::smmuv3::{ModelBank, ModelConfig, SmmuModel};
use mock_hw::{Access, Outcome};
use tests::machine::Machine;
use tests::model::ModelMachine;

const PLAIN: u32 = 0x10;
const PINNED: u32 = 0x220;
const REGION: u64 = 0x4100_0000;
const GBPA: usize = 0x44;
const ABORT: u32 = 1 << 20;

/// What the two streams reached after one register write: the plain one, the pinned one.
type Reached = (bool, bool);

/// The model's registers, with a look at what streams reach after every write.
#[derive(Clone)]
struct Watched {
    bank: ModelBank,
    model: SmmuModel,
    seen: Arc<Mutex<Vec<Reached>>>,
}

impl Watched {
    fn look(&self) {
        let reaches = |stream| {
            let outcome = self.model.transact(stream, None, REGION, Access::Read);
            matches!(outcome, Outcome::Translated(_))
        };
        let reached = (reaches(PLAIN), reaches(PINNED));
        self.seen.lock().expect("one thread").push(reached);
    }
}

impl RegisterBank for Watched {
    fn len(&self) -> usize {
        self.bank.len()
    }
    fn read32(&self, offset: usize) -> u32 {
        let value = self.bank.read32(offset);
        // What is acknowledged slowly changes with a read.
        self.look();
        value
    }
    fn write32(&self, offset: usize, value: u32) {
        self.bank.write32(offset, value);
        self.look();
    }
    fn read64(&self, offset: usize) -> u64 {
        self.bank.read64(offset)
    }
    fn write64(&self, offset: usize, value: u64) {
        self.bank.write64(offset, value);
        self.look();
    }
}

/// Brings an SMMU up; returns what was reached on the way, and whether it aborts when it is off.
fn bring_up(gbpa: u32, pinned: bool) -> (Vec<Reached>, bool) {
    let config = ModelConfig {
        gbpa,
        ..ModelConfig::default()
    };
    let machine = ModelMachine::new(config, 1);
    machine.memory().reserve(PhysAddr(REGION), 0x1000);
    let seen = Arc::default();
    let BasicPlatform {
        bank,
        memory,
        clock,
    } = machine.platform();
    let bank = Watched {
        bank,
        model: machine.model().clone(),
        seen: Arc::clone(&seen),
    };
    let platform = BasicPlatform {
        bank,
        memory,
        clock,
    };
    let region = ReservedRegion::new(REGION, 0x1000, ReservedKind::Direct).expect("a region");
    let rmr = FirmwareRegion {
        streams: vec![StreamId(PINNED)],
        region,
    };
    let config = Config {
        rmrs: pinned.then_some(rmr).into_iter().collect(),
        ..Config::default()
    };
    let smmu = ArmSmmuV3::probe(platform, config).expect("an SMMU");
    let seen = std::mem::take(&mut *seen.lock().expect("one thread"));
    let aborts = machine.platform().bank.read32(GBPA) & ABORT != 0;
    drop(smmu);
    assert_eq!(machine.model().violations(), [""; 0]);
    (seen, aborts)
}

/// From the first time that a stream is refused on, it is refused.
fn closes_for_good(reached: impl Iterator<Item = bool>) -> bool {
    let reached: Vec<bool> = reached.collect();
    let first = reached.iter().position(|reached| !reached);
    first.is_some_and(|first| reached[first..].iter().all(|reached| !reached))
}

#[test]
fn dma_that_firmware_started_never_breaks_off() {
    let (seen, aborts) = bring_up(0x1000, true);
    assert!(seen.len() > 30, "{} looks", seen.len());
    assert!(seen.iter().all(|(_, pinned)| *pinned));
    // The rest is closed by the stream table, and stays closed should translation ever end.
    assert!(closes_for_good(seen.iter().map(|(plain, _)| *plain)));
    assert!(aborts);
}

#[test]
fn without_firmwares_streams_everything_aborts_first() {
    let (seen, aborts) = bring_up(0x1000, false);
    for stream in [|seen: &Reached| seen.0, |seen: &Reached| seen.1] {
        assert!(closes_for_good(seen.iter().map(stream)));
    }
    // Long before the first command: what is on the way is what was read to find out what it is.
    let open = seen.iter().filter(|(plain, _)| *plain).count();
    assert!(open < 15, "{open} of {} looks", seen.len());
    assert!(aborts);
}

#[test]
fn what_was_closed_stays_closed_but_for_firmwares_streams() {
    let (seen, aborts) = bring_up(0x1000 | ABORT, true);
    assert!(seen.iter().all(|(plain, _)| !plain));
    assert!(seen.last().is_some_and(|(_, pinned)| *pinned));
    assert!(aborts);
}
