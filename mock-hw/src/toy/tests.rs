use iommu_core::{DmaBlock, RegisterBank};

use super::*;
use crate::device::DmaDevice;

struct Rig {
    memory: MockMemory,
    toy: ToyIommu,
    contexts: DmaBlock<MockMemory>,
    table: DmaBlock<MockMemory>,
    page: DmaBlock<MockMemory>,
}

/// Stream 1 is translated; page 2 is mapped.
fn rig() -> Rig {
    let memory = MockMemory::new(PhysAddr(0x10_0000), 0x1_0000);
    let block = || DmaBlock::new(&memory, 4096, 4096, "a page").unwrap();
    let (contexts, table, page) = (block(), block(), block());
    let toy = ToyIommu::new(memory.clone());
    contexts.store(8, table.addr().0 | 2);
    table.store(2, page.addr().0 | 3);
    toy.write64(CONTEXTS, contexts.addr().0);
    toy.write32(CONTROL, 1);
    Rig {
        memory,
        toy,
        contexts,
        table,
        page,
    }
}

impl Rig {
    fn write(&self, iova: u64) -> Outcome {
        DmaDevice::new(&self.toy, 1).write(iova, &[1])
    }

    fn command(&self, command: u64) {
        let done = self.toy.read32(STATUS);
        self.toy.write64(COMMAND, command);
        assert_eq!(self.toy.read32(STATUS), done, "as late as can be");
        assert_eq!(self.toy.read32(STATUS), done + 1);
    }

    fn hit(&self) -> Outcome {
        Outcome::Translated(self.page.addr())
    }
}

#[test]
fn a_context_stays_until_it_is_forgotten() {
    let rig = rig();
    assert_eq!(rig.write(0x2000), rig.hit());
    rig.contexts.store(8, 0);
    assert_eq!(rig.write(0x2000), rig.hit());
    rig.command(FORGET_CONTEXT | 8 << 16);
    assert_eq!(rig.write(0x2000), Outcome::Aborted);
    rig.contexts.store(8, 1);
    assert_eq!(rig.write(0x2000), Outcome::Aborted, "a refusal stays too");
    assert_eq!(rig.toy.violations(), [""; 0]);
}

#[test]
fn a_translation_stays_until_it_is_forgotten() {
    for command in [FORGET_TABLE, FORGET_PAGE | 2 << 3] {
        let rig = rig();
        assert_eq!(rig.write(0x2000), rig.hit());
        rig.table.store(2, 0);
        assert_eq!(rig.write(0x2000), rig.hit());
        rig.command(command | rig.table.addr().0);
        assert_eq!(rig.write(0x2000), Outcome::Faulted);
        rig.table.store(2, rig.page.addr().0 | 3);
        assert_eq!(rig.write(0x2000), Outcome::Faulted, "so does its absence");
    }
}

#[test]
fn a_fault_names_its_context_and_page() {
    let rig = rig();
    assert_eq!(rig.toy.read64(FAULT), 0);
    assert_eq!(rig.write(0x3456), Outcome::Faulted);
    assert_eq!(rig.toy.read64(FAULT), 1 << 63 | 3 << 16 | 8);
    rig.toy.write64(FAULT, 0);
    assert_eq!(rig.toy.read64(FAULT), 0);
}

#[test]
fn what_is_not_a_command_or_a_table_is_noted() {
    let rig = rig();
    rig.command(7);
    drop(rig.table);
    rig.toy.transact(1, None, 0x2000, Access::Read);
    let noted = rig.toy.violations();
    assert_eq!(noted[0], "0x7 is no command");
    assert!(noted[1].starts_with("a table is read: "), "{noted:?}");
    assert_eq!(rig.memory.violations().len(), 1);
}
