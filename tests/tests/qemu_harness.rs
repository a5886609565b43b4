//! The QEMU harness itself: that it starts, cleans up, and that its devices do what tests of
//! drivers rely on.
#![cfg(feature = "qemu")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use iommu_core::{DmaBlock, RegisterBank, StreamId};
use mock_hw::MockMemory;
use tests::qemu::{Machine, MachineConfig, QemuError, QtestBank, Stage};

const CR0: usize = 0x20;
const CR0ACK: usize = 0x24;
const SMMUEN: u32 = 1 << 0;
const EVENTQEN: u32 = 1 << 2;
const GBPA: usize = 0x44;
const GBPA_ABORT: u32 = 1 << 20;
const GBPA_UPDATE: u32 = 1 << 31;

/// The lowest word of a stream table entry: valid, Config = 0b000 and 0b100 (5.2).
const STE_ABORT: u64 = 0b0001;
const STE_BYPASS: u64 = 0b1001;
const STE_WORDS: usize = 8;

fn start(edus: usize) -> Machine {
    Machine::start(&MachineConfig {
        edus,
        ..MachineConfig::default()
    })
    .expect("QEMU starts")
}

fn block(machine: &Machine, size: usize) -> DmaBlock<MockMemory> {
    DmaBlock::new(machine.memory(), size, size, "a test's block").expect("RAM is large")
}

fn contents<const N: usize>(block: &DmaBlock<MockMemory>, offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    block.read_at(offset, &mut bytes);
    bytes
}

/// A linear stream table for 64 streams, all invalid, that the SMMU is told of.
fn stream_table(machine: &Machine, bank: &QtestBank) -> DmaBlock<MockMemory> {
    let table = block(machine, 64 * STE_WORDS * 8);
    bank.write64(0x80, table.addr().0);
    bank.write32(0x88, 6);
    table
}

fn ste(table: &DmaBlock<MockMemory>, stream: StreamId, value: u64) {
    table.store(stream.0 as usize * STE_WORDS, value);
}

#[test]
fn qemu_id_registers_are_those_of_the_stage() {
    for (stage, idr0, idr3) in [
        (Stage::Nested, 0x0d44_101b, 0x1414),
        (Stage::One, 0x0d44_101a, 0x1404),
        (Stage::Two, 0x0d44_1019, 0x1414),
    ] {
        let machine = Machine::start(&MachineConfig {
            stage,
            ..MachineConfig::default()
        })
        .unwrap();
        let bank = machine.bank();
        let ids = [0x00, 0x04, 0x0c, 0x14, 0x1c].map(|offset| bank.read32(offset));
        assert_eq!(ids, [idr0, 0x0273_0010, idr3, 0x74, 1], "{stage:?}");
        assert_eq!(
            (bank.read32(CR0), bank.read32(GBPA)),
            (0, 0x1000),
            "{stage:?}"
        );
    }
}

#[test]
fn qemu_dma_moves_bytes_while_the_smmu_is_off() {
    let machine = start(1);
    let edu = &machine.edus()[0];
    let buffer = block(&machine, 0x4000);
    let data: Vec<u8> = (0..0x2345_u32).map(|i| i.to_le_bytes()[0] ^ 0x5a).collect();
    let at = buffer.addr().0 + 0x7f1;

    edu.write(at, &data);
    let mut seen = vec![0; data.len()];
    buffer.read_at(0x7f1, &mut seen);
    assert_eq!(seen, data);
    assert_eq!(contents(&buffer, 0x7f0), [0]);
    assert_eq!(contents(&buffer, 0x7f1 + data.len()), [0]);

    seen.fill(0xff);
    edu.read(at, &mut seen);
    assert_eq!(seen, data);

    buffer.write_at(8, b"CPU!");
    assert_eq!(
        edu.read_u32(buffer.addr().0 + 8),
        u32::from_le_bytes(*b"CPU!")
    );
    edu.write_u32(buffer.addr().0 + 12, 0x0403_0201);
    assert_eq!(contents(&buffer, 12), [1, 2, 3, 4]);
}

#[test]
fn qemu_each_device_has_a_stream_and_a_buffer_of_its_own() {
    let machine = start(3);
    let streams: Vec<_> = machine.edus().iter().map(|edu| edu.stream_id().0).collect();
    assert_eq!(streams, [0x10, 0x18, 0x20]);
    let bank = machine.bank();
    let table = stream_table(&machine, &bank);
    ste(&table, StreamId(0x10), STE_ABORT);
    ste(&table, StreamId(0x18), STE_BYPASS);
    ste(&table, StreamId(0x20), STE_ABORT);
    bank.write32(CR0, SMMUEN);

    let buffer = block(&machine, 64);
    for (edu, value) in machine.edus().iter().zip(1..) {
        edu.write_u32(buffer.addr().0 + 4 * u64::from(value), value);
    }
    assert_eq!(contents(&buffer, 4), [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn qemu_gbpa_abort_stops_dma_and_stays_set() {
    let machine = start(1);
    let (bank, edu) = (machine.bank(), &machine.edus()[0]);
    let buffer = block(&machine, 64);
    buffer.write_at(0, b"secret");
    bank.write32(GBPA, bank.read32(GBPA) | GBPA_ABORT | GBPA_UPDATE);

    edu.write(buffer.addr().0 + 16, b"intrusion");
    assert_eq!(contents(&buffer, 16), [0; 9]);
    let mut seen = [0xff; 6];
    edu.read(buffer.addr().0, &mut seen);
    assert_eq!(seen, [0; 6]);
    assert_eq!(bank.read32(GBPA), 0x1000 | GBPA_ABORT);
}

#[test]
fn qemu_staging_leaves_the_smmus_state_and_caches_alone() {
    let machine = start(1);
    let (bank, edu) = (machine.bank(), &machine.edus()[0]);
    let table = stream_table(&machine, &bank);
    let buffer = block(&machine, 64);
    ste(&table, edu.stream_id(), STE_BYPASS);
    bank.write32(GBPA, bank.read32(GBPA) | GBPA_ABORT | GBPA_UPDATE);
    bank.write32(CR0, SMMUEN);

    edu.write(buffer.addr().0, b"first");
    assert_eq!(&contents::<5>(&buffer, 0), b"first");
    // Nobody told the SMMU: it goes on with the entry that it cached, staging or not.
    ste(&table, edu.stream_id(), STE_ABORT);
    edu.write(buffer.addr().0, b"again");
    assert_eq!(&contents::<5>(&buffer, 0), b"again");
    let mut seen = [0; 5];
    edu.read(buffer.addr().0, &mut seen);
    assert_eq!(&seen, b"again");

    assert_eq!((bank.read32(CR0), bank.read32(CR0ACK)), (SMMUEN, SMMUEN));
    assert_eq!(bank.read32(GBPA), 0x1000 | GBPA_ABORT);
}

#[test]
fn qemu_a_word_that_is_refused_leaves_one_event() {
    const C_BAD_STE: u64 = 0x04;
    let machine = start(1);
    let (bank, edu) = (machine.bank(), &machine.edus()[0]);
    let _table = stream_table(&machine, &bank);
    let events = block(&machine, 32 << 5);
    bank.write64(0xa0, events.addr().0 | 5);
    bank.write32(CR0, SMMUEN | EVENTQEN);

    edu.write_u32(0x8000_1234, 1);
    assert_eq!(bank.read32(0x100a8), 1);
    assert_eq!(
        events.load(0),
        C_BAD_STE | u64::from(edu.stream_id().0) << 32
    );
    assert_eq!(edu.read_u32(0x8000_1234), 0);
    assert_eq!(bank.read32(0x100a8), 2);
}

#[test]
fn qemu_leaves_nothing_behind_when_dropped() {
    let machine = start(1);
    let traces = Traces::of(&machine);
    let bank = machine.bank();
    traces.assert_there();
    drop(machine);
    // Somebody still holds the registers: a driver that outlives the machine's value.
    assert_eq!(bank.read32(CR0), 0);
    drop(bank);
    traces.assert_gone();
}

#[test]
fn qemu_leaves_nothing_behind_after_a_panic() {
    let mut traces = None;
    let result = catch_unwind(AssertUnwindSafe(|| {
        let machine = start(1);
        traces = Some(Traces::of(&machine));
        panic!("a test failed");
    }));
    assert!(result.is_err());
    traces.unwrap().assert_gone();
}

#[test]
fn qemu_that_died_is_a_clear_panic() {
    let machine = start(1);
    let pid = machine.qtest().process().id();
    assert!(
        Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
    let bank = machine.bank();
    let panic = catch_unwind(AssertUnwindSafe(|| bank.read32(CR0))).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(
        text.starts_with("QEMU failed at `readl 0x9050020`"),
        "{text}"
    );
}

/// The test process ends without dropping anything: a copy of it starts a machine and aborts.
#[test]
fn qemu_leaves_nothing_behind_after_an_abort() {
    const ROLE: &str = "QEMU_HARNESS_ABORTS";
    if std::env::var_os(ROLE).is_some() {
        let machine = start(1);
        let process = machine.qtest().process();
        println!("\n{ROLE} {} {}", process.id(), process.dir().display());
        std::process::abort();
    }
    let copy = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "qemu_leaves_nothing_behind_after_an_abort",
            "--nocapture",
        ])
        .env(ROLE, "1")
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert!(!copy.status.success());
    let output = String::from_utf8(copy.stdout).unwrap();
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix(ROLE))
        .unwrap();
    let (pid, dir) = line.trim().split_once(' ').unwrap();
    let traces = Traces {
        pid: pid.parse().unwrap(),
        dir: dir.into(),
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while (traces.runs() || traces.dir.exists()) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    traces.assert_gone();
}

#[test]
fn qemu_that_is_missing_is_an_error_that_helps() {
    let config = MachineConfig {
        binary: "qemu-system-nowhere".into(),
        ..MachineConfig::default()
    };
    let error = Machine::start(&config).unwrap_err();
    assert!(matches!(error, QemuError::Missing { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("no qemu-system-nowhere") && text.contains("apt-get install"),
        "{text}"
    );
}

#[test]
fn qemu_that_refuses_its_options_says_why() {
    let error = Machine::start(&MachineConfig {
        edus: 31,
        ..MachineConfig::default()
    })
    .unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, QemuError::Start { .. }) && text.contains("addr"),
        "{text}"
    );
}

/// What a machine leaves on the host if nobody cleans up.
struct Traces {
    pid: u32,
    dir: PathBuf,
}

impl Traces {
    fn of(machine: &Machine) -> Self {
        let process = machine.qtest().process();
        Self {
            pid: process.id(),
            dir: process.dir().to_owned(),
        }
    }

    fn runs(&self) -> bool {
        // Empty for a process that ended and that its parent did not ask about.
        std::fs::read(
            Path::new("/proc")
                .join(self.pid.to_string())
                .join("cmdline"),
        )
        .is_ok_and(|line| !line.is_empty())
    }

    fn assert_there(&self) {
        assert!(self.runs());
        assert!(self.dir.join("ram").exists());
    }

    fn assert_gone(&self) {
        assert!(!self.runs(), "QEMU still runs");
        assert!(!self.dir.exists(), "{} still exists", self.dir.display());
    }
}
