//! An SMMU that stops answering, at every point at which the driver waits for it.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::Arc;

use arm_smmu_v3::{ArmSmmuV3, Config, ShutdownPolicy};
use iommu_core::{
    Attached, BasicPlatform, Culprit, DefaultDomain, Device, DeviceInfo, DmaBlock, DomainRef,
    ErrorKind, Iommu, IommuConfig, Iova, MapBlockError, NoControl, PagingConfig, Prot, Rest, Stage,
    StreamId,
};
use mock_hw::smmuv3::{AckRegister, ModelBank, ModelConfig, StreamConfig};
use mock_hw::{MockClock, MockMemory, Outcome};
use tests::machine::Machine;
use tests::model::ModelMachine;

type Smmu = ArmSmmuV3<BasicPlatform<ModelBank, MockMemory, MockClock>>;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const STREAM: u32 = 0x10;

fn machine() -> ModelMachine {
    ModelMachine::new(ModelConfig::default(), 1)
}

fn started(machine: &ModelMachine) -> (Smmu, Iommu) {
    let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).unwrap();
    let config = IommuConfig {
        default_domain: DefaultDomain::Parked,
        ..IommuConfig::default()
    };
    let iommu = Iommu::with_config(smmu.clone(), config).unwrap();
    (smmu, iommu)
}

fn add(iommu: &Iommu) -> Device {
    let info = DeviceInfo::new("nic").streams([STREAM]);
    iommu.add_device(info, Arc::new(NoControl)).unwrap()
}

fn buffer(machine: &ModelMachine) -> DmaBlock<MockMemory> {
    DmaBlock::new(&machine.memory(), 4096, 4096, "a buffer").unwrap()
}

/// Whether a write to `iova` reaches memory.
fn reaches(machine: &ModelMachine, iova: u64) -> bool {
    let outcome = machine
        .model()
        .transact(STREAM, None, iova, mock_hw::Access::Write);
    matches!(outcome, Outcome::Translated(_))
}

fn domain(iommu: &Iommu) -> DomainRef {
    iommu.paging_domain(&PagingConfig::default()).unwrap()
}

#[test]
fn an_smmu_that_does_not_take_an_attribute_change_was_given_no_memory() {
    let machine = machine();
    machine.model().stick_ack(AckRegister::Gbpa, true);
    let dead = ArmSmmuV3::probe(machine.platform(), Config::default()).unwrap_err();
    assert_eq!(dead.kind(), ErrorKind::IommuTimedOut);
    let Culprit::Register { name, .. } = dead.culprit() else {
        panic!("{dead}")
    };
    assert_eq!((*name, machine.memory().allocated()), ("SMMU_GBPA", 0));
}

#[test]
fn an_smmu_that_cannot_be_switched_keeps_what_it_may_be_reading() {
    for (register, name) in [
        (AckRegister::Cr0, "SMMU_CR0ACK"),
        (AckRegister::IrqCtrl, "SMMU_IRQ_CTRLACK"),
    ] {
        let machine = machine();
        machine.model().stick_ack(register, true);
        let config = Config {
            interrupts: true,
            ..Config::default()
        };
        let dead = ArmSmmuV3::probe(machine.platform(), config).unwrap_err();
        assert_eq!(dead.kind(), ErrorKind::IommuTimedOut);
        let Culprit::Register { name: named, .. } = dead.culprit() else {
            panic!("{dead}")
        };
        assert_eq!(*named, name);
        assert!(!reaches(&machine, 0x4030_0000), "nothing is left open");
        assert_eq!(machine.memory().violations(), [""; 0]);
        if register == AckRegister::Cr0 {
            assert!(
                machine.memory().allocated() > 0,
                "it may be reading its tables"
            );
        }
    }
}

#[test]
fn a_command_queue_that_never_moves_ends_the_probe_and_names_the_command() {
    let machine = machine();
    machine.model().freeze_commands(true);
    let dead = ArmSmmuV3::probe(machine.platform(), Config::default()).unwrap_err();
    assert_eq!(dead.kind(), ErrorKind::IommuTimedOut);
    let expected = Culprit::Command {
        queue: "command queue",
        command: "CMD_CFGI_STE_RANGE",
        index: 0,
    };
    assert_eq!(*dead.culprit(), expected);
    // It acknowledged that it is off, so everything came back.
    assert_eq!(machine.memory().allocated(), 0);
    assert!(!reaches(&machine, 0x4030_0000));
}

#[test]
fn an_attach_that_is_not_confirmed_leaves_the_device_uncertain_and_reaching_nothing_new() {
    let machine = machine();
    let (smmu, iommu) = started(&machine);
    let device = add(&iommu);
    let domain = domain(&iommu);
    let mapped = domain
        .map_block(Iova(0x1000), buffer(&machine), RW)
        .unwrap();
    machine.model().freeze_commands(true);
    let dead = device.attach(&domain).unwrap_err();
    assert_eq!(dead.kind(), ErrorKind::IommuTimedOut);
    let Attached::Uncertain {
        old: Some(old),
        new,
    } = device.attached()
    else {
        panic!("{:?}", device.attached());
    };
    assert!(Arc::ptr_eq(&old, &iommu.blocked_domain()) && Arc::ptr_eq(&new, &domain));
    drop((old, new));
    assert_eq!(machine.model().stream_config(STREAM), StreamConfig::Abort);
    assert!(!reaches(&machine, 0x1000) && !reaches(&machine, 0x9000));

    // The hardware comes back: so does the device.
    machine.model().freeze_commands(false);
    device.attach(&domain).unwrap();
    assert!(device.attached().is(&domain));
    assert!(reaches(&machine, 0x1000) && !reaches(&machine, 0x9000));
    drop(mapped);
    assert_eq!(device.release().unwrap(), Rest::Blocked);
    drop((iommu, domain, smmu));
    assert_eq!(machine.memory().allocated(), 0);
}

#[test]
fn a_domain_that_cannot_be_left_stays_whole() {
    let machine = machine();
    let (smmu, iommu) = started(&machine);
    let device = add(&iommu);
    let domain = domain(&iommu);
    device.attach(&domain).unwrap();
    let mapped = domain
        .map_block(Iova(0x1000), buffer(&machine), RW)
        .unwrap();
    assert!(reaches(&machine, 0x1000));
    machine.model().freeze_commands(true);
    assert_eq!(
        device.release().unwrap_err().kind(),
        ErrorKind::IommuTimedOut
    );
    // What it has cached it goes on using, and everything it can reach there is still there.
    assert!(reaches(&machine, 0x1000));
    assert!(mapped.unmap().is_err());
    drop(domain);
    assert!(
        reaches(&machine, 0x1000),
        "its table, its tag and the buffer are kept"
    );
    assert_eq!(machine.memory().violations(), [""; 0]);
    // What is read afresh aborts.
    assert_eq!(machine.model().stream_config(STREAM), StreamConfig::Abort);
    let again = iommu.add_device(
        DeviceInfo::new("nic").streams([STREAM]),
        Arc::new(NoControl),
    );
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Busy);
    machine.model().freeze_commands(false);
    drop((iommu, smmu));
    assert_eq!(machine.memory().violations(), [""; 0]);
}

#[test]
fn memory_whose_unmap_is_not_confirmed_is_never_given_back() {
    let machine = machine();
    let (_smmu, iommu) = started(&machine);
    let device = add(&iommu);
    let domain = domain(&iommu);
    device.attach(&domain).unwrap();
    let mapped = domain
        .map_block(Iova(0x20_0000), buffer(&machine), RW)
        .unwrap();
    assert!(reaches(&machine, 0x20_0000));
    let before = machine.memory().allocated();
    machine.model().freeze_commands(true);
    let dead = mapped.unmap().unwrap_err();
    assert_eq!(dead.kind(), ErrorKind::IommuTimedOut);
    assert!(reaches(&machine, 0x20_0000), "the TLB still has it");
    assert_eq!(machine.memory().allocated(), before);
    assert_eq!(domain.leaked_bytes(), 4096);
    machine.model().freeze_commands(false);
    device.release().unwrap();
    drop(domain);
    assert!(machine.memory().allocated() >= 4096);
    assert_eq!(machine.memory().violations(), [""; 0]);
}

#[test]
fn a_tag_that_the_tlb_may_still_hold_is_never_used_again() {
    // 255 ASIDs: the second round would reuse the first.
    let config = ModelConfig {
        idr0: ModelConfig::default().idr0 & !(1 << 12),
        ..ModelConfig::default()
    };
    let machine = ModelMachine::new(config, 1);
    let (_smmu, iommu) = started(&machine);
    machine.model().freeze_commands(true);
    drop(domain(&iommu));
    machine.model().freeze_commands(false);
    let kept: Vec<_> = (0..254).map(|_| domain(&iommu)).collect();
    let none = iommu.paging_domain(&PagingConfig::default()).unwrap_err();
    assert_eq!(
        none.kind(),
        ErrorKind::NoSpace,
        "one of 255 is lost, 254 are in use"
    );
    drop(kept);
    let _again: Vec<_> = (0..254).map(|_| domain(&iommu)).collect();
}

#[test]
fn a_refused_command_fails_the_attach_that_sent_it_and_nothing_else() {
    // From which stage, if any, to which, and how many commands that takes: each round is a
    // CFGI_STE and a SYNC; between the stages, a TLBI and its SYNC follow.
    let moves = [
        (None, Stage::First, 2),
        (None, Stage::Second, 4),
        (Some(Stage::First), Stage::Second, 8),
        (Some(Stage::Second), Stage::First, 8),
    ];
    for (from, to, expected) in moves {
        let sent = (0..).take_while(|nth| refused_at(*nth, from, to)).count();
        assert_eq!(sent, expected, "{from:?} to {to:?}");
    }
}

/// Lets the `nth` command of an attach be refused; returns whether there is one.
fn refused_at(nth: usize, from: Option<Stage>, to: Stage) -> bool {
    let machine = machine();
    let (smmu, iommu) = started(&machine);
    let device = add(&iommu);
    let paging = |stage| {
        let config = PagingConfig {
            stage,
            ..PagingConfig::default()
        };
        iommu.paging_domain(&config).unwrap()
    };
    let old = from.map(paging);
    if let Some(old) = &old {
        device.attach(old).unwrap();
    }
    let domain = paging(to);
    let mapped = domain
        .map_block(Iova(0x1000), buffer(&machine), RW)
        .unwrap();
    machine.model().clear_commands();
    machine.model().fail_command(nth);
    let Err(refused) = device.attach(&domain) else {
        let sent = machine.model().commands().len();
        assert!(nth >= sent, "command {nth} of {sent} failed unnoticed");
        return false;
    };
    assert_eq!(refused.kind(), ErrorKind::Hardware, "{refused}");
    assert!(
        matches!(refused.culprit(), Culprit::Command { .. }),
        "{refused}"
    );
    let step = refused.step().expect("a step");
    assert!((1..=step.of).contains(&step.round), "{refused}");
    assert_eq!(machine.model().stream_config(STREAM), StreamConfig::Abort);
    assert!(!reaches(&machine, 0x9000), "more than old and new together");
    device.attach(&domain).unwrap();
    assert!(reaches(&machine, 0x1000));
    assert_eq!(mapped.unmap().unwrap().size(), 4096);
    assert!(!reaches(&machine, 0x1000));
    assert!(smmu.handle_global_errors().is_empty(), "acknowledged");
    device.release().unwrap();
    assert_eq!(machine.model().violations(), [""; 0]);
    true
}

#[test]
fn global_errors_are_found_and_acknowledged() {
    let machine = machine();
    let (smmu, iommu) = started(&machine);
    assert!(smmu.handle_global_errors().is_empty());
    machine.model().set_gerror(1 << 2 | 1 << 8);
    let errors = smmu.handle_global_errors();
    assert!(errors.service_failure());
    assert_eq!(
        errors.to_string(),
        "event queue write aborted, service failure mode"
    );
    assert!(smmu.handle_global_errors().is_empty());
    // A refused command is acknowledged by the recovery of the queue, from here too.
    let device = add(&iommu);
    machine.model().fail_command(0);
    assert!(device.attach(&iommu.identity_domain().unwrap()).is_err());
    assert!(smmu.handle_global_errors().is_empty());
    drop(device);
    assert_eq!(machine.model().violations(), [""; 0]);
}

#[test]
fn a_shutdown_that_is_not_acknowledged_gives_nothing_back() {
    let machine = machine();
    let (smmu, iommu) = started(&machine);
    let running = machine.memory().allocated();
    machine.model().stick_ack(AckRegister::Cr0, true);
    let dead = smmu.shutdown(ShutdownPolicy::Bypass).unwrap_err();
    assert_eq!(dead.kind(), ErrorKind::IommuTimedOut);
    drop((iommu, smmu));
    assert_eq!(machine.memory().allocated(), running);
    assert_eq!(machine.memory().violations(), [""; 0]);
}

#[test]
fn a_queue_of_two_commands_serves_a_group_of_many_streams() {
    let machine = machine();
    let config = Config {
        command_queue_log2: 1,
        ..Config::default()
    };
    let smmu = ArmSmmuV3::probe(machine.platform(), config).unwrap();
    let iommu: Iommu = Iommu::new(smmu).unwrap();
    let streams = (0..40).map(|n| StreamId(STREAM + n * 100));
    let info = DeviceInfo::new("switch").streams(streams);
    let device = iommu.add_device(info, Arc::new(NoControl)).unwrap();
    let mapped = device
        .domain()
        .unwrap()
        .map_block(Iova(0), buffer(&machine), RW)
        .unwrap();
    let reached = |n: u32| {
        let stream = STREAM + n * 100;
        let outcome = machine
            .model()
            .transact(stream, None, 0, mock_hw::Access::Read);
        matches!(outcome, Outcome::Translated(_))
    };
    assert!((0..40).all(reached));
    drop(mapped);
    device.release().unwrap();
    assert!(!(0..40).any(reached));
    assert_eq!(machine.model().violations(), [""; 0]);
}

#[test]
fn a_mapping_that_fails_half_way_and_cannot_be_undone_keeps_its_block() {
    let machine = machine();
    let (_smmu, iommu) = started(&machine);
    let domain = domain(&iommu);
    let block = DmaBlock::new(&machine.memory(), 0x2000, 0x1000, "a buffer").unwrap();
    // One page fits the table that is there; the next one needs another.
    let kept = domain
        .map_block(Iova(0x1f_e000), buffer(&machine), RW)
        .unwrap();
    machine.memory().fail_allocation(Some(0));
    machine.model().freeze_commands(true);
    let MapBlockError { error, block } = domain.map_block(Iova(0x1f_f000), block, RW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IommuTimedOut);
    assert!(block.is_none() && domain.leaked_bytes() == 0x2000);
    machine.model().freeze_commands(false);
    drop(kept);

    let block = DmaBlock::new(&machine.memory(), 0x2000, 0x1000, "a buffer").unwrap();
    machine.memory().fail_allocation(Some(0));
    let MapBlockError { error, block } = domain.map_block(Iova(0x3f_f000), block, RW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert_eq!(block.unwrap().size(), 0x2000);
}

#[test]
fn shutdown_says_what_is_so() {
    let machine = machine();
    let (smmu, _iommu) = started(&machine);
    smmu.shutdown(ShutdownPolicy::Abort).unwrap();
    assert!(!reaches(&machine, 0x4030_0000));
    smmu.shutdown(ShutdownPolicy::Bypass).unwrap();
    assert!(reaches(&machine, 0x4030_0000), "the later policy counts");
    smmu.shutdown(ShutdownPolicy::Abort).unwrap();
    assert!(!reaches(&machine, 0x4030_0000));

    let machine = ModelMachine::new(ModelConfig::default(), 1);
    let (smmu, _iommu) = started(&machine);
    machine.model().stick_ack(AckRegister::Gbpa, true);
    assert!(smmu.shutdown(ShutdownPolicy::Abort).is_err());
    assert!(
        !reaches(&machine, 0x4030_0000),
        "not off before everything aborts"
    );
    machine.model().stick_ack(AckRegister::Gbpa, false);
    assert!(
        smmu.shutdown(ShutdownPolicy::Abort).is_err(),
        "what failed once stays in doubt"
    );
}

#[test]
fn memory_beyond_what_the_smmu_can_address_is_refused() {
    // 32 bits of physical address, and memory above them.
    let config = ModelConfig {
        idr5: 0x70,
        ..ModelConfig::default()
    };
    let memory = MockMemory::new(iommu_core::PhysAddr(1 << 32), 16 << 20);
    let model = mock_hw::smmuv3::SmmuModel::new(memory.clone(), config);
    let platform = BasicPlatform {
        bank: model.bank(),
        memory: memory.clone(),
        clock: MockClock::new(),
    };
    let refused = ArmSmmuV3::probe(platform, Config::default()).unwrap_err();
    assert_eq!(
        (refused.kind(), memory.allocated()),
        (ErrorKind::OutOfRange, 0)
    );
}

#[test]
fn translated_traffic_is_checked_where_there_is_ats() {
    let idr0 = ModelConfig::default().idr0 | 1 << 10;
    let machine = ModelMachine::new(
        ModelConfig {
            idr0,
            ..ModelConfig::default()
        },
        1,
    );
    let (_smmu, _iommu) = started(&machine);
    let cr0 = iommu_core::RegisterBank::read32(&machine.platform().bank, 0x24);
    // SMMUEN, EVENTQEN, CMDQEN and ATSCHK.
    assert_eq!(cr0, 0b1_1101);
}

#[test]
fn bring_up_invalidates_all_that_the_caches_may_hold_and_el2_too_where_it_exists() {
    for (hyp, expected) in [
        // CFGI_ALL, SYNC, TLBI_NSNH_ALL, SYNC; with EL2, TLBI_EL2_ALL as well.
        (0, &[0x04, 0x46, 0x30, 0x46][..]),
        (1 << 9, &[0x04, 0x46, 0x20, 0x30, 0x46]),
    ] {
        let idr0 = ModelConfig::default().idr0 | hyp;
        let machine = ModelMachine::new(
            ModelConfig {
                idr0,
                ..ModelConfig::default()
            },
            1,
        );
        let _running = started(&machine);
        let commands = machine.model().commands();
        let opcodes: Vec<u64> = commands.iter().map(|[word0, _]| word0 & 0xff).collect();
        assert_eq!(opcodes, expected);
    }
}

#[test]
fn a_table_whose_unlinking_is_not_confirmed_is_never_given_back() {
    let machine = machine();
    let (_smmu, iommu) = started(&machine);
    let device = add(&iommu);
    let domain = domain(&iommu);
    device.attach(&domain).unwrap();
    // 2 MiB of pages, in one table of their own: memory that is not aligned to 2 MiB.
    let memory = machine.memory();
    let first = DmaBlock::new(&memory, 0x1000, 0x20_0000, "to misalign").unwrap();
    let block = DmaBlock::new(&memory, 0x20_0000, 0x1000, "a buffer").unwrap();
    assert_ne!(block.addr().0 % 0x20_0000, 0);
    let mapped = domain.map_block(Iova(0x20_0000), block, RW).unwrap();
    assert!(reaches(&machine, 0x20_1000));
    let before = memory.allocated();
    machine.model().freeze_commands(true);
    assert!(mapped.unmap().is_err());
    assert_eq!(memory.allocated(), before, "the buffer, and the table");
    // What the SMMU has cached leads through the table.
    for page in 0..512 {
        reaches(&machine, 0x20_0000 + page * 0x1000);
    }
    assert_eq!(memory.violations(), [""; 0]);
    machine.model().freeze_commands(false);
    drop(first);
}
