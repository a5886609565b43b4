//! The hardware stops answering in the middle of an entry write, at every round of every kind of it:
//! the error says which, the device is uncertain, and it reaches nothing but what its old domain or
//! its new one gave.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    Attached, DefaultDomain, Device, DeviceInfo, DmaBlock, DomainRef, ErrorKind, Iommu,
    IommuConfig, Iova, MappedBlock, NoControl, PagingConfig, PhysAddr, Prot, Stage,
};
use mock_hw::smmuv3::{ModelConfig, SmmuModel, StreamConfig};
use mock_hw::{Access, MockMemory, Outcome};
use tests::machine::Machine;
use tests::model::ModelMachine;

const STREAMS: [u32; 2] = [0x10, 0x11];
const OLD: u64 = 0x40_0000;
const NEW: u64 = 0x80_0000;
const SYNC: u64 = 0x46;
const CFGI_ALL: [u64; 2] = [0x04, 31];
const TLBI_S12_VMALL: u64 = 0x28;

struct Setup {
    machine: ModelMachine,
    iommu: Iommu,
    device: Device,
}

impl Setup {
    fn new(streams: usize) -> Self {
        let machine = ModelMachine::new(ModelConfig::default(), 1);
        let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).unwrap();
        let parked = IommuConfig {
            default_domain: DefaultDomain::Parked,
            ..IommuConfig::default()
        };
        let iommu: Iommu = Iommu::with_config(smmu, parked).unwrap();
        let info = DeviceInfo::new("nic").streams(STREAMS.into_iter().take(streams));
        let device = iommu.add_device(info, Arc::new(NoControl)).unwrap();
        Self {
            machine,
            iommu,
            device,
        }
    }

    /// A domain that maps one buffer, or the one that blocks.
    fn domain(
        &self,
        stage: Option<Stage>,
        at: u64,
    ) -> (DomainRef, Option<MappedBlock<MockMemory>>) {
        let Some(stage) = stage else {
            return (self.iommu.blocked_domain(), None);
        };
        let config = PagingConfig {
            stage,
            ..PagingConfig::default()
        };
        let domain = self.iommu.paging_domain(&config).unwrap();
        let buffer = DmaBlock::new(&self.machine.memory(), 4096, 4096, "a buffer").unwrap();
        let mapped = domain.map_block(Iova(at), buffer, Prot::READ | Prot::WRITE);
        (domain, Some(mapped.unwrap()))
    }

    fn reaches(&self, iova: u64) -> bool {
        let model = self.machine.model();
        let outcome = model.transact(STREAMS[0], None, iova, Access::Write);
        matches!(outcome, Outcome::Translated(_))
    }

    /// Lets the SMMU consume so many `CMD_SYNC`s and then nothing.
    fn stops_after(&self, syncs: usize) {
        let model = self.machine.model();
        model.freeze_commands(syncs == 0);
        let left = AtomicUsize::new(syncs);
        let hook = move |model: &SmmuModel, [word0, _]: [u64; 2]| {
            if word0 & 0xff == SYNC && left.fetch_sub(1, Ordering::Relaxed) == 1 {
                model.freeze_commands(true);
            }
        };
        model.set_command_hook(Some(Arc::new(hook)));
    }
}

#[test]
fn a_wait_that_never_ends_says_in_which_round_it_was() {
    let (first, second) = (Some(Stage::First), Some(Stage::Second));
    // From what, to what, in how many rounds, of how many CMD_SYNCs each.
    let moves = [
        (None, first, 1, 1),
        (first, first, 1, 1),
        (first, None, 1, 1),
        (None, second, 2, 1),
        (first, second, 2, 2),
        (second, first, 2, 2),
        (second, second, 3, 1),
    ];
    for (from, to, rounds, syncs) in moves {
        for (streams, round) in (1..=2).flat_map(|n| (1..=rounds).map(move |round| (n, round))) {
            let what = format!("{from:?} to {to:?}, {streams} streams, round {round}");
            let setup = Setup::new(streams);
            let (old, _old) = setup.domain(from, OLD);
            let (new, _new) = setup.domain(to, NEW);
            setup.device.attach(&old).unwrap();
            let model = setup.machine.model();
            setup.stops_after((round - 1) * syncs);
            let error = setup.device.attach(&new).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::IommuTimedOut, "{what}");
            let step = error.step().unwrap();
            assert_eq!(
                (step.round.into(), step.of.into()),
                (round, rounds),
                "{what}"
            );
            let expected = format!("in round {round} of {rounds} of writing entries");
            assert!(error.to_string().ends_with(&expected), "{what}: {error}");

            let Attached::Uncertain {
                old: Some(was),
                new: pending,
            } = setup.device.attached()
            else {
                panic!("{what}: {:?}", setup.device.attached());
            };
            assert!(
                Arc::ptr_eq(&was, &old) && Arc::ptr_eq(&pending, &new),
                "{what}"
            );
            assert!(!setup.reaches(OLD) || from.is_some(), "{what}");
            assert!(!setup.reaches(NEW) || to.is_some(), "{what}");
            assert!(
                !setup.reaches(OLD + 0x1000) && !setup.reaches(NEW + 0x1000),
                "{what}"
            );

            // It answers again.
            model.set_command_hook(None);
            model.freeze_commands(false);
            model.clear_commands();
            setup.device.attach(&new).unwrap();
            // What it still had cached of the entries is forgotten first.
            assert!(model.commands().contains(&CFGI_ALL), "{what}");
            assert_eq!(
                (setup.reaches(OLD), setup.reaches(NEW)),
                (false, to.is_some()),
                "{what}"
            );
            assert_eq!(model.violations(), [""; 0], "{what}");
            assert_eq!(setup.machine.memory().violations(), [""; 0], "{what}");
        }
    }
}

/// A device that may be half way between the stages has translations of its stage-1 domain under the
/// VMID of the other: whoever unmaps invalidates those too.
#[test]
fn an_unmap_reaches_translations_under_a_borrowed_tag() {
    let setup = Setup::new(1);
    let (one, mapped) = setup.domain(Some(Stage::First), OLD);
    let (two, _two) = setup.domain(Some(Stage::Second), NEW);
    setup.device.attach(&one).unwrap();
    setup.stops_after(2);
    setup.device.attach(&two).unwrap_err();
    let model = setup.machine.model();
    model.set_command_hook(None);
    model.freeze_commands(false);
    // What is still in the queue is done with the next command.
    drop(setup.domain(Some(Stage::First), NEW));
    model.clear_commands();
    mapped.unwrap().unmap().unwrap();
    let sent = model.commands();
    let tags: Vec<_> = sent
        .iter()
        .filter(|[word0, _]| word0 & 0xff == TLBI_S12_VMALL)
        .map(|[word0, _]| word0 >> 32 & 0xffff)
        .collect();
    drop(one);
    setup.device.attach(&two).unwrap();
    assert!(setup.reaches(NEW));
    let StreamConfig::Stage2 { stage2, .. } = model.stream_config(STREAMS[0]) else {
        panic!("{:?}", model.stream_config(STREAMS[0]));
    };
    assert_eq!(tags, [stage2.vmid.into()], "{sent:x?}");
}

/// What a stage 2 left in an entry that is blocked is cleared, and nobody waits for that but the
/// next attach: until it is done, the hardware may hold both the old tag and the new entry.
#[test]
fn what_is_cleared_in_a_blocked_entry_is_done_before_the_entry_is_used() {
    for streams in 1..=2 {
        let setup = Setup::new(streams);
        let model = setup.machine.model();
        let (one, _one) = setup.domain(Some(Stage::First), NEW);
        let (two, _two) = setup.domain(Some(Stage::Second), OLD);
        setup.device.attach(&two).unwrap();
        setup.stops_after(1);
        setup.device.attach(&setup.iommu.blocked_domain()).unwrap();
        let entry = model.stream_entry(STREAMS[0]).unwrap();
        assert_eq!(words(&setup, entry)[2..], [0; 6], "neither tag nor table");
        let error = setup.device.attach(&one).unwrap_err();
        assert_eq!(
            (error.kind(), error.step()),
            (ErrorKind::IommuTimedOut, None)
        );
        assert!(!setup.reaches(OLD) && !setup.reaches(NEW));
        model.set_command_hook(None);
        model.freeze_commands(false);
        setup.device.attach(&one).unwrap();
        assert!(!setup.reaches(OLD) && setup.reaches(NEW));
        assert_eq!(model.violations(), [""; 0]);
    }
}

/// Bits that this driver has no meaning for: what the hardware makes of the entry is not known, so
/// it goes nowhere but out of use.
#[test]
fn an_entry_that_is_not_understood_is_only_ever_blocked() {
    let setup = Setup::new(1);
    let (one, _one) = setup.domain(Some(Stage::First), OLD);
    setup.device.attach(&one).unwrap();
    let model = setup.machine.model();
    let entry = model.stream_entry(STREAMS[0]).unwrap();
    // S2FWB (5.2, bit 89).
    let (word1, fwb) = (PhysAddr(entry.0 + 8), 1 << 25);
    setup.machine.memory().corrupt_word(word1, fwb);
    let before: Vec<_> = words(&setup, entry);
    model.clear_commands();
    let identity = setup.iommu.identity_domain().unwrap();
    let error = setup.device.attach(&identity).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(setup.device.attached().is(&one), "it is where it was");
    assert_eq!(words(&setup, entry), before);
    assert_eq!(model.commands(), [[0; 2]; 0]);
    let blocked = setup.iommu.blocked_domain();
    setup.device.attach(&blocked).unwrap();
    assert!(!setup.reaches(OLD));
    // Where nothing passes, the bit counts for nothing, and goes with the next attach.
    setup.device.attach(&one).unwrap();
    assert!(setup.reaches(OLD));
    assert_eq!(words(&setup, entry)[1] & fwb, 0);
}

fn words(setup: &Setup, entry: PhysAddr) -> Vec<u64> {
    let word = |at| setup.machine.memory().read_word(PhysAddr(entry.0 + at));
    (0..64).step_by(8).map(|at| word(at).unwrap()).collect()
}
