//! The SMMU dies, or an answer never comes, at every wait of a whole life: of bring-up, of a group of
//! four devices, of their attaches, mappings and releases, on both stages. And memory runs out at
//! every allocation.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::Arc;
use std::time::Duration;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    Attached, BasicPlatform, Culprit, Device, DeviceInfo, DmaBlock, Error, ErrorKind, Iommu,
    IommuConfig, Iova, MappedBlock, NoControl, PagingConfig, PhysAddr, Prot, Result, Stage,
};
use mock_hw::fault::{Fault, FaultInjector, SMMUV3_POLLED};
use mock_hw::smmuv3::{ModelBank, ModelConfig};
use mock_hw::{Access, MockClock, MockMemory, Outcome};
use tests::machine::Machine;
use tests::model::ModelMachine;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const STREAMS: [u32; 4] = [0x10, 0x210, 0x211, 0x410];
/// Where each of two domains maps its buffer.
const AT: [u64; 2] = [0x40_0000, 0x80_0000];

struct Life<'a> {
    machine: &'a ModelMachine,
    secret: DmaBlock<MockMemory>,
    failed: Option<ErrorKind>,
    /// The SMMU is what it was before the driver came: open.
    untouched: bool,
}

impl Life<'_> {
    /// Notes how a step ended; after the first failure others may follow.
    fn step<T>(&mut self, what: &str, result: Result<T>) -> Option<T> {
        if let Err(error) = &result {
            let gbpa = |culprit: &Culprit| {
                matches!(
                    culprit,
                    Culprit::Register {
                        name: "SMMU_GBPA",
                        ..
                    }
                )
            };
            let before = error.kind() == ErrorKind::OutOfMemory || gbpa(error.culprit());
            self.untouched |= what == "bring-up" && before;
        }
        self.attack(what);
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let expected = matches!(
                    error.kind(),
                    ErrorKind::IommuTimedOut
                        | ErrorKind::Busy
                        | ErrorKind::OutOfMemory
                        | ErrorKind::Hardware
                );
                assert!(expected, "{what}: {error}");
                self.failed.get_or_insert(error.kind());
                None
            }
        }
    }

    /// No device ever reaches what was never mapped for it.
    fn attack(&self, what: &str) {
        let secret = self.secret.addr().0;
        for stream in STREAMS {
            for iova in [secret, 0, 0x1000, AT[0] + 0x1000, AT[1] + 0x1000] {
                let outcome = self
                    .machine
                    .model()
                    .transact(stream, None, iova, Access::Write);
                let reached = matches!(outcome, Outcome::Translated(_));
                assert!(
                    self.untouched || !reached,
                    "{what}: stream {stream:#x} reaches {iova:#x}"
                );
            }
        }
        assert_eq!(self.machine.memory().violations(), [""; 0], "{what}");
    }

    fn reaches(&self, stream: u32, at: u64) -> Option<PhysAddr> {
        match self
            .machine
            .model()
            .transact(stream, None, at, Access::Write)
        {
            Outcome::Translated(phys) => Some(phys),
            _ => None,
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy)]
enum Harm {
    Nothing,
    Fault(Fault),
    /// This allocation of DMA memory fails.
    Allocation(usize),
}

/// How a life went.
struct Ended {
    waits: usize,
    /// How often each register that is polled was read.
    reads: [usize; SMMUV3_POLLED.len()],
    allocations: usize,
    failed: Option<ErrorKind>,
}

fn life(stage: Stage, harm: Harm) -> Ended {
    let machine = ModelMachine::new(ModelConfig::default(), 1);
    let secret = DmaBlock::new(&machine.memory(), 4096, 4096, "a secret").unwrap();
    let BasicPlatform {
        bank,
        memory,
        clock,
    } = machine.platform();
    clock.set_step(Duration::from_millis(50));
    let bank = FaultInjector::new(bank, SMMUV3_POLLED);
    let first = memory.allocations();
    match harm {
        Harm::Nothing => {}
        Harm::Fault(fault) => bank.inject(fault),
        Harm::Allocation(n) => memory.fail_allocation(Some(n)),
    }
    let platform = BasicPlatform {
        bank: bank.clone(),
        memory,
        clock,
    };
    let mut life = Life {
        machine: &machine,
        secret,
        failed: None,
        untouched: false,
    };
    run(&mut life, platform, stage);
    life.attack("at the end");
    let failed = life.failed;
    drop(life);
    if !matches!(harm, Harm::Fault(_)) {
        assert_eq!(machine.memory().allocated(), 0, "{failed:?}");
    }
    assert_eq!(machine.memory().violations(), [""; 0]);
    assert_eq!(machine.model().violations(), [""; 0]);
    Ended {
        waits: bank.waits(),
        reads: SMMUV3_POLLED.map(|offset| bank.reads(offset)),
        allocations: machine.memory().allocations() - first,
        failed,
    }
}

fn run(
    life: &mut Life<'_>,
    platform: BasicPlatform<FaultInjector<ModelBank>, MockMemory, MockClock>,
    stage: Stage,
) {
    let memory = platform.memory.clone();
    let smmu = ArmSmmuV3::probe(platform, Config::default());
    let Some(smmu) = life.step("bring-up", smmu) else {
        return;
    };
    let paging = PagingConfig {
        stage,
        ..PagingConfig::default()
    };
    let config = IommuConfig {
        paging,
        ..IommuConfig::default()
    };
    let iommu: Iommu = Iommu::with_config(smmu, config).unwrap();
    let mut devices: Vec<Device> = Vec::new();
    for stream in STREAMS {
        let info = DeviceInfo::new("one of four")
            .streams([stream])
            .group("four");
        let device = iommu.add_device(info, Arc::new(NoControl));
        devices.extend(life.step("add", device));
    }
    let Some(first) = devices.first() else { return };
    let group = first.group().clone();
    let mut mapped: Vec<MappedBlock<MockMemory>> = Vec::new();
    for at in AT {
        let domain = iommu.paging_domain(&paging);
        let Some(domain) = life.step("domain", domain) else {
            continue;
        };
        let block = DmaBlock::new(&memory, 4096, 4096, "a buffer");
        let Some(block) = life.step("buffer", block) else {
            continue;
        };
        let result = domain.map_block(Iova(at), block, RW).map_err(Error::from);
        mapped.extend(life.step("map", result));
        let attached = life.step("attach", group.attach(&domain)).is_some();
        for device in &devices {
            let on = device.attached();
            match &on {
                Attached::On(on) => assert!(!attached || Arc::ptr_eq(on, &domain)),
                Attached::Uncertain { .. } => assert!(!attached, "an attach that succeeded"),
                other => panic!("{other:?}"),
            }
        }
    }
    // What a device reaches is what it was given, by one domain or the other.
    for stream in STREAMS {
        for (at, mapped) in AT.iter().zip(&mapped) {
            let reached = life.reaches(stream, *at);
            assert!(reached.is_none_or(|phys| phys == mapped.block().addr()));
        }
    }
    for mapped in mapped {
        let (at, addr) = (mapped.iova().0, mapped.block().addr());
        let block = life.step("unmap", mapped.unmap());
        for stream in STREAMS {
            let reached = life.reaches(stream, at);
            assert!(
                block.is_none() || reached.is_none(),
                "given back, and reached"
            );
            assert!(reached.is_none_or(|phys| phys == addr));
        }
    }
    for device in devices {
        life.step("release", device.release());
    }
}

/// Tries the fault at every wait.
fn every_wait(stage: Stage, fault: fn(usize) -> Fault) {
    let Ended { waits, failed, .. } = life(stage, Harm::Nothing);
    assert!(failed.is_none() && waits > 20, "{waits} waits");
    let reported = |at: &usize| life(stage, Harm::Fault(fault(*at))).failed.is_some();
    let reported = (0..waits).filter(reported).count();
    // Those that cannot be: three domains and the SMMU itself end in destructors, which log, with
    // six waits; and what stays as it was is acknowledged by that.
    assert!(
        reported + 10 >= waits,
        "{reported} of {waits} failures were reported"
    );
}

/// Lets every allocation fail.
fn every_allocation(stage: Stage) {
    let Ended { allocations, .. } = life(stage, Harm::Nothing);
    // The test's own two buffers are among them.
    assert!(allocations > 15, "{allocations} allocations");
    for at in 0..allocations {
        let failed = life(stage, Harm::Allocation(at)).failed;
        assert_eq!(failed, Some(ErrorKind::OutOfMemory), "allocation {at}");
    }
}

/// Lets every read of every register that is polled give a word of nonsense, once.
fn every_read(stage: Stage) {
    let Ended { reads, .. } = life(stage, Harm::Nothing);
    for (offset, reads) in SMMUV3_POLLED.into_iter().zip(reads) {
        assert!(reads > 0, "{offset:#x} is polled");
        for nth in 0..reads {
            for value in [u64::MAX, 0xdead_beef] {
                let garbage = Fault::GarbageRead { offset, nth, value };
                let failed = life(stage, Harm::Fault(garbage)).failed;
                // A destructor may have been the first to see it: the queue is not trusted after.
                let expected = matches!(
                    failed,
                    None | Some(ErrorKind::Hardware | ErrorKind::IommuTimedOut)
                );
                assert!(expected, "{garbage:?}: {failed:?}");
            }
        }
    }
}

#[test]
fn a_word_may_read_as_garbage_at_any_read_of_stage_1() {
    every_read(Stage::First);
}

#[test]
fn a_word_may_read_as_garbage_at_any_read_of_stage_2() {
    every_read(Stage::Second);
}

#[test]
fn memory_may_run_out_at_any_allocation_of_stage_1() {
    every_allocation(Stage::First);
}

#[test]
fn memory_may_run_out_at_any_allocation_of_stage_2() {
    every_allocation(Stage::Second);
}

#[test]
fn an_smmu_may_die_at_any_wait_of_stage_1() {
    every_wait(Stage::First, Fault::DeadFromWait);
}

#[test]
fn an_smmu_may_die_at_any_wait_of_stage_2() {
    every_wait(Stage::Second, Fault::DeadFromWait);
}

#[test]
fn an_answer_may_never_come_at_any_wait_of_stage_1() {
    every_wait(Stage::First, Fault::StuckWait);
}

#[test]
fn an_answer_may_never_come_at_any_wait_of_stage_2() {
    every_wait(Stage::Second, Fault::StuckWait);
}
