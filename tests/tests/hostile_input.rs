//! Memory that runs out at any moment, and hardware and firmware that tell nonsense.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arm_smmu_v3::spec::events::{Event, EventKind};
use arm_smmu_v3::{ArmSmmuV3, Config, StreamTableFormat};
use iommu_core::{
    BasicPlatform, Culprit, DeviceInfo, DmaBlock, ErrorKind, FirmwareRegion, Iommu, IommuConfig,
    Iova, NoControl, PagingConfig, PhysAddr, Prot, RegisterBank, ReservedKind, ReservedRegion,
    Result, Stage, StreamId,
};
use mock_hw::smmuv3::{ModelBank, ModelConfig};
use mock_hw::{Access, MockClock, Outcome};
use tests::machine::Machine;
use tests::model::ModelMachine;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const PLAIN: u32 = 0x110;
const PINNED: u32 = 0x220;
const REGION: u64 = 0x4100_0000;
const GBPA: usize = 0x44;
const GBPA_RESET: u32 = 0x1000;

fn reaches(machine: &ModelMachine, stream: u32, iova: u64) -> bool {
    let outcome = machine.model().transact(stream, None, iova, Access::Write);
    matches!(outcome, Outcome::Translated(_))
}

/// A whole life: probe, two devices, a mapping that needs tables, unmap, another domain, release.
fn life(machine: &ModelMachine, format: StreamTableFormat, stage: Stage) -> Result {
    let memory = machine.memory();
    let region = ReservedRegion::new(REGION, 0x3000, ReservedKind::Direct)?;
    let streams = vec![StreamId(PINNED)];
    let config = Config {
        rmrs: vec![FirmwareRegion { streams, region }],
        stream_table: format,
        ..Config::default()
    };
    let smmu = ArmSmmuV3::probe(machine.platform(), config)?;
    let paging = PagingConfig {
        stage,
        ..PagingConfig::default()
    };
    let config = IommuConfig {
        paging,
        ..IommuConfig::default()
    };
    let iommu: Iommu = Iommu::with_config(smmu, config)?;
    assert!(!reaches(machine, PLAIN, REGION) && reaches(machine, PINNED, REGION));
    let nic = iommu.add_device(DeviceInfo::new("nic").streams([PLAIN]), Arc::new(NoControl))?;
    let gpu = iommu.add_device(
        DeviceInfo::new("gpu").streams([PINNED]),
        Arc::new(NoControl),
    )?;
    let domain = nic.domain().expect("a default domain");
    let buffer = DmaBlock::new(&memory, 0x40_0000, 0x20_0000, "a buffer")?;
    let mapped = domain.map_block(Iova(0x1f_f000), buffer, RW)?;
    assert!(reaches(machine, PLAIN, 0x1f_f000));
    mapped.unmap()?;
    gpu.attach(&iommu.paging_domain(&paging)?)?;
    assert!(reaches(machine, PINNED, REGION + 0x2fff));
    nic.release()?;
    gpu.release()?;
    Ok(())
}

#[test]
fn memory_that_runs_out_anywhere_leaks_nothing_and_opens_nothing() {
    for format in [StreamTableFormat::Linear, StreamTableFormat::TwoLevel] {
        for stage in [Stage::First, Stage::Second] {
            for n in 0.. {
                let machine = ModelMachine::new(ModelConfig::default(), 1);
                machine.memory().reserve(PhysAddr(REGION), 0x3000);
                machine.memory().fail_allocation(Some(n));
                let result = life(&machine, format, stage);
                let (attempts, left) =
                    (machine.memory().allocations(), machine.memory().allocated());
                assert_eq!(left, 0, "after failure {n} of {attempts}: {result:?}");
                assert_eq!(machine.memory().violations(), [""; 0]);
                assert_eq!(machine.model().violations(), [""; 0]);
                match result {
                    Ok(()) => {
                        assert_eq!(n, attempts, "each of them failed once");
                        assert!(attempts > 12, "{attempts}");
                        break;
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{n}: {error}"),
                }
                // Open as before where the SMMU was not touched yet; else nothing is.
                let untouched = machine.platform().bank.read32(GBPA) == GBPA_RESET;
                assert_eq!(reaches(&machine, PLAIN, REGION), untouched, "{n}");
            }
        }
    }
}

/// A bank that answers some reads with a lie.
#[derive(Clone)]
struct Liar<F> {
    inner: ModelBank,
    lie: F,
}

impl<F: Fn(usize, u32) -> u32 + Send + Sync + 'static> RegisterBank for Liar<F> {
    fn len(&self) -> usize {
        self.inner.len()
    }
    fn read32(&self, offset: usize) -> u32 {
        (self.lie)(offset, self.inner.read32(offset))
    }
    fn write32(&self, offset: usize, value: u32) {
        self.inner.write32(offset, value);
    }
    fn read64(&self, offset: usize) -> u64 {
        self.inner.read64(offset)
    }
    fn write64(&self, offset: usize, value: u64) {
        self.inner.write64(offset, value);
    }
}

fn lying<F>(
    machine: &ModelMachine,
    lie: F,
) -> BasicPlatform<Liar<F>, mock_hw::MockMemory, MockClock>
where
    F: Fn(usize, u32) -> u32 + Send + Sync + 'static,
{
    let BasicPlatform {
        bank: inner,
        memory,
        clock,
    } = machine.platform();
    BasicPlatform {
        bank: Liar { inner, lie },
        memory,
        clock,
    }
}

const CMDQ_CONS: usize = 0x9c;
const EVENTQ_PROD: usize = 0x1_00a8;

#[test]
fn a_consumer_index_that_cannot_be_is_an_error_and_the_queue_is_not_trusted_again() {
    // Beyond what was submitted; backwards; beyond the size of the queue.
    for wrong in [
        |cons: u32| cons + 1,
        |cons: u32| cons.wrapping_sub(3) & 0x1ff,
        |_| 0x8_0000,
    ] {
        let machine = ModelMachine::new(ModelConfig::default(), 1);
        let active = Arc::new(AtomicU64::new(0));
        let now = active.clone();
        let platform = lying(&machine, move |offset, value| {
            let lies = offset == CMDQ_CONS && now.load(Relaxed) != 0;
            if lies { wrong(value) } else { value }
        });
        let smmu = ArmSmmuV3::probe(platform, Config::default()).unwrap();
        let iommu: Iommu = Iommu::new(smmu).unwrap();
        let nic = DeviceInfo::new("nic").streams([PLAIN]);
        let nic = iommu.add_device(nic, Arc::new(NoControl)).unwrap();
        active.store(1, Relaxed);
        let error = nic.attach(&iommu.blocked_domain()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Hardware);
        let named = matches!(
            error.culprit(),
            Culprit::Register {
                name: "SMMU_CMDQ_CONS",
                ..
            }
        );
        assert!(named, "{error}");
        active.store(0, Relaxed);
        assert_eq!(nic.release().unwrap_err().kind(), ErrorKind::IommuTimedOut);
        assert_eq!(machine.memory().violations(), [""; 0]);
    }
}

#[test]
fn a_producer_index_that_cannot_be_is_an_error_and_the_next_event_is_read() {
    let machine = ModelMachine::new(ModelConfig::default(), 1);
    let wrong = Arc::new(AtomicU64::new(0));
    let now = wrong.clone();
    let platform = lying(&machine, move |offset, value| {
        let lie = now.load(Relaxed) as u32;
        if offset == EVENTQ_PROD && lie != 0 {
            lie
        } else {
            value
        }
    });
    let smmu = ArmSmmuV3::probe(platform, Config::default()).unwrap();
    // 128 entries: indexes are 8 bits with the wrap bit.
    for lie in [129, 0x1ff, 0x7fff_ffff] {
        wrong.store(lie, Relaxed);
        let error = smmu.next_event().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Hardware, "{lie:#x}");
        wrong.store(0, Relaxed);
        while smmu.next_event().unwrap_or(None).is_some() {}
    }
    machine
        .model()
        .post_raw_event([0x1234_0000_0010, 0, 0x5678, 0]);
    let event = smmu.next_event().unwrap().unwrap();
    assert_eq!(
        (event.kind(), event.stream()),
        (EventKind::F_TRANSLATION, StreamId(0x1234))
    );
}

#[test]
fn events_of_any_bits_are_read_and_printed() {
    let machine = ModelMachine::new(ModelConfig::default(), 1);
    let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).unwrap();
    let mut seed = 7_u64;
    let mut word = || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        seed ^ seed >> 29
    };
    for kind in (0..=255).cycle().take(5_000) {
        let raw = [word() & !0xff | kind, word(), word(), word()];
        machine.model().post_raw_event(raw);
        let event = smmu.next_event().unwrap().unwrap();
        assert_eq!(event, Event(raw));
        assert!(
            event
                .to_string()
                .contains(&format!("{:#06x}", raw[0] >> 32))
        );
    }
}

#[test]
fn registers_full_of_noise_are_refused_without_a_panic_or_a_leak() {
    for seed in 1..=100_u64 {
        let machine = ModelMachine::new(ModelConfig::default(), 1);
        let state = AtomicU64::new(seed);
        // From a different register on in each run, so that the noise begins at every depth.
        let reads = AtomicU64::new(0);
        let platform = lying(&machine, move |_, value| {
            let next = state
                .load(Relaxed)
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(seed);
            state.store(next, Relaxed);
            if reads.fetch_add(1, Relaxed) < seed % 40 {
                value
            } else {
                (next >> 32) as u32
            }
        });
        if let Ok(smmu) = ArmSmmuV3::probe(platform, Config::default()) {
            let _ = smmu.next_event();
            let _ = smmu.handle_global_errors();
        }
        assert_eq!(machine.memory().violations(), [""; 0], "seed {seed}");
        let untouched = machine.platform().bank.read32(GBPA) == GBPA_RESET;
        assert!(
            !reaches(&machine, PLAIN, REGION) || untouched,
            "seed {seed}"
        );
    }
}

#[test]
fn registers_that_are_too_few_are_refused() {
    struct Short;
    impl RegisterBank for Short {
        fn len(&self) -> usize {
            0x1_0000
        }
        fn read32(&self, _: usize) -> u32 {
            panic!("not to be touched")
        }
        fn write32(&self, _: usize, _: u32) {
            panic!("not to be touched")
        }
        fn read64(&self, _: usize) -> u64 {
            panic!("not to be touched")
        }
        fn write64(&self, _: usize, _: u64) {
            panic!("not to be touched")
        }
    }
    let machine = ModelMachine::new(ModelConfig::default(), 1);
    let BasicPlatform { memory, clock, .. } = machine.platform();
    let platform = BasicPlatform {
        bank: Short,
        memory,
        clock,
    };
    let error = ArmSmmuV3::probe(platform, Config::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
}

#[test]
fn streams_out_of_range_are_refused_and_keep_nothing() {
    let machine = ModelMachine::new(ModelConfig::default(), 1);
    let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).unwrap();
    let iommu: Iommu = Iommu::new(smmu).unwrap();
    let before = machine.memory().allocated();
    for streams in [vec![0x1_0000], vec![u32::MAX], vec![1, 0x1_0000]] {
        let info = DeviceInfo::new("far").streams(streams);
        let error = iommu.add_device(info, Arc::new(NoControl)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
        assert!(matches!(error.culprit(), Culprit::Stream(_)));
    }
    let near = iommu.add_device(
        DeviceInfo::new("near").streams([1_u32]),
        Arc::new(NoControl),
    );
    near.unwrap().release().unwrap();
    let table = 256 * 64;
    assert_eq!(
        machine.memory().allocated(),
        before + table,
        "a second-level table, kept for reuse"
    );
}

#[test]
fn firmware_that_pins_streams_nobody_can_have_does_not_stop_the_machine() {
    let machine = ModelMachine::new(ModelConfig::default(), 1);
    machine.memory().reserve(PhysAddr(REGION), 0x3000);
    let region = |start, len| ReservedRegion::new(start, len, ReservedKind::Direct).unwrap();
    let rmr = |streams: &[u32], region| FirmwareRegion {
        streams: streams.iter().map(|&stream| StreamId(stream)).collect(),
        region,
    };
    let config = Config {
        rmrs: vec![
            rmr(&[u32::MAX], region(REGION, 0x1000)),
            rmr(&[PINNED, 0x1_0000], region(REGION + 0x10, 0x1fe0)),
            rmr(&[PINNED, PINNED], region(REGION + 0x1800, 0x1000)),
            rmr(&[PINNED], region(REGION + 0x10, 0x1fe0)),
        ],
        ..Config::default()
    };
    let smmu = ArmSmmuV3::probe(machine.platform(), config).unwrap();
    let iommu: Iommu = Iommu::new(smmu).unwrap();
    assert!(reaches(&machine, PINNED, REGION));
    let gpu = DeviceInfo::new("gpu").streams([PINNED]);
    let gpu = iommu.add_device(gpu, Arc::new(NoControl)).unwrap();
    // Whole pages around what was asked for, and nothing beside them.
    for (at, mapped) in [(0, true), (0x1fff, true), (0x2fff, true), (0x3000, false)] {
        assert_eq!(reaches(&machine, PINNED, REGION + at), mapped, "{at:#x}");
    }
    assert!(!reaches(&machine, PINNED, REGION - 1));
    gpu.release().unwrap();
    assert!(reaches(&machine, PINNED, REGION));
}

#[test]
fn a_region_that_a_domain_cannot_take_up_refuses_the_domain() {
    let machine = ModelMachine::new(ModelConfig::default(), 1);
    let smmu = ArmSmmuV3::probe(machine.platform(), Config::default()).unwrap();
    let iommu: Iommu = Iommu::new(smmu).unwrap();
    let beyond = ReservedRegion::new(1 << 44, 0x1000, ReservedKind::Direct).unwrap();
    let info = DeviceInfo::new("far").streams([PINNED]).reserved(beyond);
    let error = iommu.add_device(info, Arc::new(NoControl)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
    assert!(!reaches(&machine, PINNED, 0x4100_0000));

    let region = ReservedRegion::new(REGION, 0x2000, ReservedKind::Direct).unwrap();
    machine.memory().reserve(PhysAddr(REGION), 0x3000);
    let info = DeviceInfo::new("gpu").streams([PINNED]).reserved(region);
    let gpu = iommu.add_device(info, Arc::new(NoControl)).unwrap();
    let taken = iommu.paging_domain(&PagingConfig::default()).unwrap();
    let buffer = DmaBlock::new(&machine.memory(), 4096, 4096, "a buffer").unwrap();
    let mapped = taken.map_block(Iova(REGION + 0x1000), buffer, RW).unwrap();
    let error = gpu.attach(&taken).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(reaches(&machine, PINNED, REGION), "it is where it was");
    assert_eq!(
        taken.translate(Iova(REGION)),
        None,
        "and nothing of it was left in the domain"
    );
    mapped.unmap().unwrap();
    gpu.attach(&taken).unwrap();
    assert!(reaches(&machine, PINNED, REGION));
}

#[test]
fn an_acknowledgement_of_something_never_asked_is_none() {
    const CR0ACK: usize = 0x24;
    let machine = ModelMachine::new(ModelConfig::default(), 1);
    let platform = lying(&machine, |offset, value| {
        // PRIQEN, which nobody sets.
        if offset == CR0ACK {
            value | 1 << 1
        } else {
            value
        }
    });
    let error = ArmSmmuV3::probe(platform, Config::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IommuTimedOut);
    assert!(!reaches(&machine, PLAIN, REGION));
    assert_eq!(machine.memory().violations(), [""; 0]);
}
