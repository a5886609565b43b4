//! The `q35` machine of the QEMU harness: its VT-d is the one that was asked for, and its devices do
//! what tests of drivers rely on. Tables are words here; no driver takes part.
#![cfg(feature = "qemu")]

use iommu_core::{DmaBlock, DmaMemory, RegisterBank, StreamId};
use mock_hw::MockMemory;
use tests::machine::Machine;
use tests::qemu::{Q35, Q35Config, QemuError, QtestBank};

const GCMD: usize = 0x18;
const GSTS: usize = 0x1c;
const RTADDR: usize = 0x20;
const CCMD: usize = 0x28;
const FSTS: usize = 0x34;
const FECTL: usize = 0x38;
const FEDATA: usize = 0x3c;
const IECTL: usize = 0xa0;
const IEDATA: usize = 0xa4;
const IOTLB: usize = 0xf8;
const FAULT: usize = 0x220;

const TE: u32 = 1 << 31;
const SRTP: u32 = 1 << 30;
/// `CCMD`: invalidate all of the context cache; `IOTLB`: all of the IOTLB.
const CONTEXT_GLOBAL: u64 = 1 << 63 | 1 << 61;
const IOTLB_GLOBAL: u64 = 1 << 63 | 1 << 60;
const FAULT_F: u64 = 1 << 63;
/// In a fault record: a read.
const FAULT_T: u64 = 1 << 62;
/// In a fault record: the PASID, which means nothing without the PASID-present bit. QEMU writes ones.
const FAULT_PASID: u64 = 0xf_ffff << 40;

const PRESENT: u64 = 1 << 0;
const READ_WRITE: u64 = 0b11;
/// In the upper word of a context entry: 48-bit second-level tables of domain 5.
const FOUR_LEVELS_DOMAIN_5: u64 = 2 | 5 << 8;

const SOURCE: u16 = 0x10;
const IOVA: u64 = 0x7f12_3456_7000;

fn start(config: Q35Config) -> Q35 {
    Q35::start(&config).expect("QEMU starts")
}

fn block(machine: &Q35, size: usize) -> DmaBlock<MockMemory> {
    DmaBlock::new(machine.memory(), size, 4096, "a test's block").expect("RAM is large")
}

fn contents<const N: usize>(block: &DmaBlock<MockMemory>, offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    block.read_at(offset, &mut bytes);
    bytes
}

/// Legacy tables under which one device reaches one page.
struct Tables {
    blocks: Vec<DmaBlock<MockMemory>>,
}

impl Tables {
    /// Maps `IOVA` to `to` for `SOURCE`, and switches translation on.
    fn enable(machine: &Q35, bank: &QtestBank, to: u64) -> Self {
        let blocks: Vec<_> = (0..6).map(|_| block(machine, 4096)).collect();
        let tables = Self { blocks };
        let at = |n: usize| tables.blocks[n].addr().0;
        tables.blocks[0].store(0, at(1) | PRESENT);
        tables.blocks[1].store(usize::from(SOURCE) * 2, at(2) | PRESENT);
        tables.blocks[1].store(usize::from(SOURCE) * 2 + 1, FOUR_LEVELS_DOMAIN_5);
        for (n, shift) in [(2, 39), (3, 30), (4, 21)] {
            tables.blocks[n].store(Self::index(shift), at(n + 1) | READ_WRITE);
        }
        tables.point_to(to | READ_WRITE);
        bank.write64(RTADDR, at(0));
        bank.write32(GCMD, SRTP);
        bank.write32(GCMD, TE);
        tables
    }

    fn index(shift: u32) -> usize {
        usize::try_from(IOVA >> shift & 0x1ff).expect("nine bits")
    }

    /// Changes the one leaf, and tells nobody.
    fn point_to(&self, leaf: u64) {
        self.blocks[5].store(Self::index(12), leaf);
    }
}

#[test]
fn q35_id_registers_are_those_of_the_options() {
    let plain = Q35Config::default;
    let table = [
        (plain(), 0xd2_008c_222f_0606, 0xf42),
        (
            Q35Config {
                caching_mode: true,
                ..plain()
            },
            0xd2_008c_222f_0686,
            0xf42,
        ),
        (
            Q35Config {
                aw_bits: 39,
                ..plain()
            },
            0xd2_008c_2226_0206,
            0xf42,
        ),
        (
            Q35Config {
                pass_through: false,
                ..plain()
            },
            0xd2_008c_222f_0606,
            0xf02,
        ),
        (
            Q35Config {
                scalable: true,
                ..plain()
            },
            0xd2_008c_222f_0606,
            0x4800_8000_0f42,
        ),
        (
            Q35Config {
                scalable: true,
                pasid: true,
                ..plain()
            },
            0xd2_008c_222f_0606,
            0x4900_8000_0f42,
        ),
        (
            Q35Config {
                scalable: true,
                first_level: true,
                ..plain()
            },
            0x1d2_008c_222f_0606,
            0x8800_0000_0f42,
        ),
    ];
    for (config, cap, ecap) in table {
        let bank = start(config.clone()).bank();
        assert_eq!(bank.read32(0), 0x10, "{config:?}");
        let ids = (bank.read64(0x08), bank.read64(0x10));
        assert_eq!(ids, (cap, ecap), "{config:?}: {ids:#x?}");
        assert_eq!((bank.read32(GSTS), bank.read32(FSTS)), (0, 0), "{config:?}");
    }
}

#[test]
fn q35_dma_moves_bytes_while_translation_is_off() {
    let machine = start(Q35Config::default());
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
}

#[test]
fn q35_memory_is_not_coherent_and_starts_at_2_mib() {
    let machine = start(Q35Config::default());
    let memory = machine.memory();
    assert_eq!((memory.base().0, memory.size()), (2 << 20, 254 << 20));
    assert!(!memory.is_coherent());
}

#[test]
fn q35_a_hand_made_table_translates() {
    let machine = start(Q35Config {
        edus: 2,
        ..Q35Config::default()
    });
    let (bank, edus) = (machine.bank(), machine.edus());
    assert_eq!(edus[0].stream_id(), StreamId(u32::from(SOURCE)));
    assert_eq!(edus[1].stream_id(), StreamId(0x18));
    let page = block(&machine, 4096);
    let _tables = Tables::enable(&machine, &bank, page.addr().0);
    page.write_at(0x10, b"CPU!");

    edus[0].write_u32(IOVA + 0xffc, 0x0403_0201);
    assert_eq!(contents(&page, 0xffc), [1, 2, 3, 4]);
    assert_eq!(edus[0].read_u32(IOVA + 0x10), u32::from_le_bytes(*b"CPU!"));
    // Moving bytes into the device and out of it switched translation off and on again.
    assert_eq!(bank.read32(GSTS), TE | SRTP);
    assert_eq!(bank.read32(FSTS), 0);

    // Nor did it set the root table that a driver has only named so far.
    let root = bank.read64(RTADDR);
    bank.write64(RTADDR, page.addr().0);
    edus[0].write(IOVA, b"still the old root");
    assert_eq!(&contents::<18>(&page, 0), b"still the old root");
    bank.write64(RTADDR, root);
    page.write_at(0, &[0; 4]);

    // The other device has no context entry, and no way around that.
    edus[1].write_u32(page.addr().0, 0xffff_ffff);
    assert_eq!(contents(&page, 0), [0; 4]);
    assert_eq!(
        bank.read64(FAULT + 8),
        FAULT_F | 2 << 32 | 0x18,
        "the context entry is not present"
    );
}

#[test]
fn q35_a_word_that_is_refused_leaves_one_fault() {
    let machine = start(Q35Config::default());
    let (bank, edu) = (machine.bank(), &machine.edus()[0]);
    let page = block(&machine, 4096);
    let _tables = Tables::enable(&machine, &bank, page.addr().0);

    for (reason, access) in [(5, 0), (6, FAULT_T)] {
        if access == 0 {
            edu.write_u32(IOVA + 0x5ff8, 1);
        } else {
            assert_eq!(edu.read_u32(IOVA + 0x5ff8), 0);
        }
        assert_eq!(bank.read32(FSTS), 0b10, "one record, no overflow");
        let record = [bank.read64(FAULT), bank.read64(FAULT + 8) & !FAULT_PASID];
        let upper = FAULT_F | access | reason << 32 | u64::from(SOURCE);
        assert_eq!(record, [IOVA + 0x5000, upper], "{record:#x?}");
        bank.write64(FAULT + 8, FAULT_F);
        assert_eq!(bank.read32(FSTS), 0);
    }
}

#[test]
fn q35_a_bare_transfer_meets_the_caches_as_they_are() {
    let machine = start(Q35Config::default());
    let (bank, edu) = (machine.bank(), &machine.edus()[0]);
    let (old, new) = (block(&machine, 4096), block(&machine, 4096));
    old.write_at(0, b"old!");
    new.write_at(0, b"new!");
    edu.fill(0x100, b"dataDATA");
    let tables = Tables::enable(&machine, &bank, old.addr().0);

    edu.receive(0, 4, IOVA);
    tables.point_to(new.addr().0 | READ_WRITE);
    edu.receive(4, 4, IOVA);
    edu.send(0x104, 4, IOVA + 8);
    assert_eq!(&contents::<4>(&old, 8), b"DATA", "the IOTLB has the page");

    bank.write64(IOTLB, IOTLB_GLOBAL);
    assert_eq!(bank.read64(IOTLB) >> 63, 0, "done");
    edu.receive(8, 4, IOVA);
    edu.send(0x100, 4, IOVA + 12);
    assert_eq!(&contents::<4>(&new, 12), b"data");
    assert_eq!(contents(&old, 12), [0; 4]);

    let mut seen = [0; 12];
    edu.fetch(0, &mut seen);
    assert_eq!(&seen, b"old!old!new!");
}

/// What [`tests::qemu::Edu`] promises, and what it warns of.
#[test]
fn q35_only_other_bytes_empty_the_caches() {
    let machine = start(Q35Config::default());
    let (bank, edu) = (machine.bank(), &machine.edus()[0]);
    let pages: Vec<_> = (0..3).map(|_| block(&machine, 4096)).collect();
    let tables = Tables::enable(&machine, &bank, pages[0].addr().0);

    edu.write(IOVA, b"one");
    tables.point_to(pages[1].addr().0 | READ_WRITE);
    edu.write(IOVA + 0x10, b"one");
    edu.write(IOVA + 0x20, b"on");
    assert_eq!(&contents::<3>(&pages[0], 0x10), b"one");
    assert_eq!(&contents::<3>(&pages[0], 0x20), b"on\0");

    edu.write(IOVA, b"two");
    assert_eq!(&contents::<3>(&pages[0], 0), b"one");
    assert_eq!(&contents::<3>(&pages[1], 0), b"two");
    tables.point_to(pages[2].addr().0 | READ_WRITE);
    let mut seen = [0; 3];
    edu.read(IOVA, &mut seen);
    assert_eq!(&seen, b"two");
    edu.write(IOVA, b"two");
    assert_eq!(&contents::<3>(&pages[2], 0), b"two");
}

/// Reads of any size leave the device with what it will write.
#[test]
fn q35_what_is_staged_is_what_is_written() {
    let machine = start(Q35Config::default());
    let edu = &machine.edus()[0];
    let buffer = block(&machine, 0x3000);
    let data = [0x5a; 4096];
    for len in [1, 2000, 4095, 4096] {
        edu.write(buffer.addr().0, &data);
        let mut seen = vec![0; len];
        edu.read(buffer.addr().0 + 0x1000, &mut seen);
        edu.write(buffer.addr().0 + 0x2000, &data);
        let written: [u8; 4096] = contents(&buffer, 0x2000);
        assert!(written == data, "after a read of {len} bytes");
        buffer.write_at(0x2000, &[0; 4096]);
    }
    edu.write(buffer.addr().0, b"abc");
    edu.fill(1, b"x");
    edu.write(buffer.addr().0, b"abc");
    assert_eq!(&contents::<3>(&buffer, 0), b"abc");
}

#[test]
fn q35_a_context_entry_stays_cached() {
    let machine = start(Q35Config::default());
    let (bank, edu) = (machine.bank(), &machine.edus()[0]);
    let page = block(&machine, 4096);
    edu.fill(0, b"12345678");
    let tables = Tables::enable(&machine, &bank, page.addr().0);
    edu.send(0, 4, IOVA);
    tables.blocks[1].store(usize::from(SOURCE) * 2, 0);
    bank.write64(IOTLB, IOTLB_GLOBAL);
    edu.send(4, 4, IOVA);
    assert_eq!(&contents::<4>(&page, 0), b"5678");
    bank.write64(CCMD, CONTEXT_GLOBAL);
    bank.write64(IOTLB, IOTLB_GLOBAL);
    edu.send(0, 4, IOVA);
    assert_eq!(&contents::<4>(&page, 0), b"5678");
    assert_eq!(bank.read64(FAULT + 8), FAULT_F | 2 << 32 | 0x10);
}

#[test]
fn q35_wide_writes_to_narrow_registers_are_two() {
    let machine = start(Q35Config::default());
    let bank = machine.bank();
    bank.write64(FECTL, 0x1234_0000_0000);
    assert_eq!((bank.read32(FECTL), bank.read32(FEDATA)), (0, 0x1234));
    bank.write64(IECTL, 0x4321_8000_0000);
    assert_eq!((bank.read32(IECTL), bank.read32(IEDATA)), (TE, 0x4321));
}

#[test]
fn q35_is_a_machine_with_masters() {
    let machine = start(Q35Config::default());
    let masters = Machine::masters(&machine);
    let streams: Vec<_> = masters.iter().map(|master| master.stream()).collect();
    assert_eq!(streams, [StreamId(0x10)]);
    let buffer = block(&machine, 64);
    masters[0].write(buffer.addr().0.into(), b"through the trait");
    assert_eq!(&contents::<17>(&buffer, 0), b"through the trait");
}

#[test]
fn q35_that_is_missing_or_refuses_is_an_error_that_helps() {
    let missing = Q35::start(&Q35Config {
        binary: "nowhere-x86_64".into(),
        ..Q35Config::default()
    });
    let text = missing.unwrap_err().to_string();
    assert!(text.contains("apt-get install qemu-system-x86"), "{text}");

    let refused = Q35::start(&Q35Config {
        first_level: true,
        ..Q35Config::default()
    });
    let error = refused.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, QemuError::Start { .. }) && text.contains("scalable mode"),
        "{text}"
    );
}
