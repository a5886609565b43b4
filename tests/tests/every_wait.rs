//! The SMMU dies, or an answer never comes, at every wait of a whole life: of bring-up, of a group of
//! four devices, of their attaches, mappings and releases, on both stages, without ATS and with. And
//! memory runs out at every allocation, and a device's translation cache falls silent after every
//! command.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    Attached, BasicPlatform, Culprit, Device, DeviceControl, DeviceInfo, DmaBlock, Error,
    ErrorKind, Iommu, IommuConfig, Iova, MappedBlock, NoControl, PagingConfig, PhysAddr, Prot,
    Result, Stage,
};
use mock_hw::fault::{Fault, FaultInjector, SMMUV3_POLLED};
use mock_hw::smmuv3::{AtsDevice, ModelBank, ModelConfig, SmmuModel};
use mock_hw::{Access, MockClock, MockMemory, Outcome, Translate};
use tests::machine::Machine;
use tests::model::ModelMachine;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const STREAMS: [u32; 4] = [0x10, 0x210, 0x211, 0x410];
/// The one that falls silent.
const SILENT: u32 = STREAMS[1];
const SILENT_NAME: &str = "one of four";
const IDR0_ATS: u32 = 1 << 10;
const UNDER_WAY: &str = "had ended what was under way when ATS was switched off";
/// Where each of two domains maps its buffer.
const AT: [u64; 2] = [0x40_0000, 0x80_0000];

/// What a life is about.
#[derive(Clone, Copy)]
struct Setup {
    stage: Stage,
    ats: bool,
}

const STAGE1: Setup = Setup {
    stage: Stage::First,
    ats: false,
};
const STAGE2: Setup = Setup {
    stage: Stage::Second,
    ats: false,
};
const STAGE1_ATS: Setup = Setup {
    ats: true,
    ..STAGE1
};
const STAGE2_ATS: Setup = Setup {
    ats: true,
    ..STAGE2
};

struct Life<'a> {
    machine: &'a ModelMachine,
    /// Through one of these, any device does DMA.
    endpoints: Vec<AtsDevice>,
    secret: DmaBlock<MockMemory>,
    /// What failed, in its order.
    failures: Vec<(&'static str, ErrorKind)>,
    /// The SMMU is what it was before the driver came: open.
    untouched: bool,
}

impl Life<'_> {
    /// Notes how a step ended; after the first failure others may follow.
    fn step<T>(&mut self, what: &'static str, result: Result<T>) -> Option<T> {
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
                        | ErrorKind::DeviceTimedOut
                        | ErrorKind::Busy
                        | ErrorKind::OutOfMemory
                        | ErrorKind::Hardware
                );
                assert!(expected, "{what}: {error}");
                self.failures.push((what, error.kind()));
                None
            }
        }
    }

    /// No device ever reaches what was never mapped for it.
    fn attack(&self, what: &str) {
        let secret = self.secret.addr().0;
        for stream in STREAMS {
            for iova in [secret, 0, 0x1000, AT[0] + 0x1000, AT[1] + 0x1000] {
                let reached = self.reaches(stream, iova).is_some();
                assert!(
                    self.untouched || !reached,
                    "{what}: stream {stream:#x} reaches {iova:#x}"
                );
            }
            // A device with ATS keeps what it gets.
            for at in AT {
                self.reaches(stream, at);
            }
        }
        assert_eq!(self.machine.memory().violations(), [""; 0], "{what}");
    }

    fn control(&self, stream: u32) -> Arc<dyn DeviceControl> {
        let devices = STREAMS.iter().zip(&self.endpoints);
        match devices.into_iter().find(|(of, _)| **of == stream) {
            Some((_, endpoint)) => Arc::new(endpoint.clone()),
            None => Arc::new(NoControl),
        }
    }

    fn reaches(&self, stream: u32, at: u64) -> Option<PhysAddr> {
        let outcome = match self.endpoints.first() {
            Some(any) => any.transact(stream, None, at, Access::Write),
            None => {
                let model = self.machine.model();
                model.transact(stream, None, at, Access::Write)
            }
        };
        match outcome {
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
    /// One device's translation cache answers nothing any more from this command on.
    Silence(usize),
}

/// How a life went.
struct Ended {
    waits: usize,
    /// How often each register that is polled was read.
    reads: [usize; SMMUV3_POLLED.len()],
    commands: usize,
    allocations: usize,
    /// The first failure.
    failed: Option<ErrorKind>,
    failures: Vec<(&'static str, ErrorKind)>,
}

fn life(setup: Setup, harm: Harm) -> Ended {
    let mut config = ModelConfig::default();
    config.idr0 |= IDR0_ATS * u32::from(setup.ats);
    let machine = ModelMachine::new(config, 1);
    let streams = STREAMS.iter().filter(|_| setup.ats);
    let endpoints = streams.map(|stream| AtsDevice::new(machine.model(), [*stream]));
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
        Harm::Silence(n) => {
            let left = AtomicUsize::new(n);
            let hook = move |model: &SmmuModel, _: [u64; 2]| {
                if left.fetch_sub(1, Ordering::Relaxed) == 0 {
                    model.kill_atc(SILENT, true);
                }
            };
            machine.model().set_command_hook(Some(Arc::new(hook)));
        }
    }
    let platform = BasicPlatform {
        bank: bank.clone(),
        memory,
        clock,
    };
    let mut life = Life {
        machine: &machine,
        endpoints: endpoints.collect(),
        secret,
        failures: Vec::new(),
        untouched: false,
    };
    run(&mut life, platform, setup.stage);
    life.attack("at the end");
    let failures = std::mem::take(&mut life.failures);
    drop(life);
    if !matches!(harm, Harm::Fault(_)) {
        // What was not unmapped for certain is not given back.
        let kept = failures.iter().filter(|(what, _)| *what == "unmap").count();
        assert_eq!(machine.memory().allocated(), kept * 4096, "{failures:?}");
    }
    let failed = failures.first().map(|(_, kind)| *kind);
    assert_eq!(machine.memory().violations(), [""; 0]);
    let mut violations = machine.model().violations();
    // A device with ATS that may be on two domains is refused at once, in the middle of what it does.
    violations.retain(|what| failed != Some(ErrorKind::IommuTimedOut) || !what.contains(UNDER_WAY));
    assert_eq!(violations, [""; 0]);
    Ended {
        waits: bank.waits(),
        reads: SMMUV3_POLLED.map(|offset| bank.reads(offset)),
        commands: machine.model().commands().len(),
        allocations: machine.memory().allocations() - first,
        failed,
        failures,
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
        let name = if stream == SILENT {
            SILENT_NAME
        } else {
            "another of four"
        };
        let info = DeviceInfo::new(name).streams([stream]).group("four");
        let device = iommu.add_device(info, life.control(stream));
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
        let failed = life.failures.last().filter(|_| !attached);
        let alone = failed.is_some_and(|(_, kind)| *kind == ErrorKind::DeviceTimedOut);
        for device in &devices {
            let moves = attached || alone && device.name() != SILENT_NAME;
            match &device.attached() {
                Attached::On(on) => assert!(!moves || Arc::ptr_eq(on, &domain)),
                Attached::Uncertain { .. } => assert!(!moves, "an attach that succeeded"),
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
fn every_wait(setup: Setup, fault: fn(usize) -> Fault) {
    let Ended { waits, failed, .. } = life(setup, Harm::Nothing);
    assert!(failed.is_none() && waits > 20, "{waits} waits");
    let reported = |at: &usize| life(setup, Harm::Fault(fault(*at))).failed.is_some();
    let reported = (0..waits).filter(reported).count();
    // Those that cannot be: three domains and the SMMU itself end in destructors, which log, with
    // six waits; and what stays as it was is acknowledged by that.
    assert!(
        reported + 10 >= waits,
        "{reported} of {waits} failures were reported"
    );
}

/// Lets every allocation fail.
fn every_allocation(setup: Setup) {
    let Ended { allocations, .. } = life(setup, Harm::Nothing);
    // The test's own two buffers are among them.
    assert!(allocations > 15, "{allocations} allocations");
    for at in 0..allocations {
        let failed = life(setup, Harm::Allocation(at)).failed;
        assert_eq!(failed, Some(ErrorKind::OutOfMemory), "allocation {at}");
    }
}

/// Lets every read of every register that is polled give a word of nonsense, once.
fn every_read(setup: Setup) {
    let Ended { reads, .. } = life(setup, Harm::Nothing);
    for (offset, reads) in SMMUV3_POLLED.into_iter().zip(reads) {
        assert!(reads > 0, "{offset:#x} is polled");
        for nth in 0..reads {
            for value in [u64::MAX, 0xdead_beef] {
                let garbage = Fault::GarbageRead { offset, nth, value };
                let failed = life(setup, Harm::Fault(garbage)).failed;
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
    every_read(STAGE1);
}

#[test]
fn a_word_may_read_as_garbage_at_any_read_of_stage_2() {
    every_read(STAGE2);
}

#[test]
fn memory_may_run_out_at_any_allocation_of_stage_1() {
    every_allocation(STAGE1);
}

#[test]
fn memory_may_run_out_at_any_allocation_of_stage_2() {
    every_allocation(STAGE2);
}

#[test]
fn an_smmu_may_die_at_any_wait_of_stage_1() {
    every_wait(STAGE1, Fault::DeadFromWait);
}

#[test]
fn an_smmu_may_die_at_any_wait_of_stage_2() {
    every_wait(STAGE2, Fault::DeadFromWait);
}

#[test]
fn an_answer_may_never_come_at_any_wait_of_stage_1() {
    every_wait(STAGE1, Fault::StuckWait);
}

#[test]
fn an_answer_may_never_come_at_any_wait_of_stage_2() {
    every_wait(STAGE2, Fault::StuckWait);
}

#[test]
fn an_smmu_may_die_at_any_wait_with_ats() {
    every_wait(STAGE1_ATS, Fault::DeadFromWait);
    every_wait(STAGE2_ATS, Fault::DeadFromWait);
}

#[test]
fn an_answer_may_never_come_at_any_wait_with_ats() {
    every_wait(STAGE1_ATS, Fault::StuckWait);
    every_wait(STAGE2_ATS, Fault::StuckWait);
}

/// The SMMU works on, and so do all other devices. Nothing fails but what ends translations that the
/// silent one may have; parking it never does.
#[test]
fn a_device_may_fall_silent_after_any_command() {
    let (mut attaches, mut unmaps) = (0, 0);
    for setup in [STAGE1_ATS, STAGE2_ATS] {
        let Ended { commands, .. } = life(setup, Harm::Nothing);
        for at in 0..commands {
            for failure in life(setup, Harm::Silence(at)).failures {
                match failure {
                    ("attach", ErrorKind::DeviceTimedOut) => attaches += 1,
                    ("unmap", ErrorKind::DeviceTimedOut) => unmaps += 1,
                    other => panic!("after command {at}: {other:?}"),
                }
            }
        }
    }
    // One stage 2 is left for another through abort, with ATS off: there nothing is lost.
    assert!(attaches > 0 && unmaps > 0, "{attaches} and {unmaps}");
}
