//! Faults: records, their ring, and what is lost.

use std::string::ToString;
use std::vec;
use std::vec::Vec;

use super::fakes::{Event, Machine};
use super::registers::Registers;
use super::start;

const F: u64 = 1 << 63;
const READ: u64 = 1 << 62;

/// A write of this source id that lacked permission.
fn fault(source: u64) -> (u64, u64) {
    (0x12_3000, F | 5 << 32 | source)
}

fn machine(records: Vec<(u64, u64)>, fri: u32) -> Machine {
    Machine::new(Registers {
        cap: 0x00d2_008c_222f_0606 | (records.len() as u64 - 1) << 40,
        len: 0x220 + 16 * records.len(),
        records,
        fsts: fri << 8,
        ..Registers::default()
    })
}

#[test]
fn faults_come_in_the_order_of_the_ring() {
    let machine = machine(vec![fault(3), (0, 0), fault(1), fault(2)], 2);
    let vtd = start(&machine, vec![]);
    let source = || vtd.next_fault().map(|fault| fault.source().0);
    assert_eq!(source(), Some(1));
    // Those that come in between are behind those that are there, all the way round.
    machine.with(|registers| {
        registers.records[1] = fault(4);
        registers.records[2] = fault(5);
    });
    assert_eq!((source(), source(), source()), (Some(2), Some(3), Some(4)));
    assert_eq!(source(), Some(5));
    assert_eq!(source(), None);
    // A new ring begins where the hardware says.
    machine.with(|registers| {
        registers.records = vec![(0, 0), (0, 0), (0, 0), fault(6)];
        registers.fsts = 3 << 8;
    });
    assert_eq!((source(), source()), (Some(6), None));
    assert_eq!(vtd.fault_overflows(), 0);
}

#[test]
fn an_overflow_is_acknowledged_once_all_records_are_empty() {
    let machine = machine(vec![fault(1), fault(2)], 0);
    let vtd = start(&machine, vec![]);
    machine.with(|registers| registers.fsts = 1);
    assert!(vtd.next_fault().is_some() && vtd.next_fault().is_some());
    assert_eq!(machine.with(|registers| registers.fsts), 1);
    assert!(vtd.next_fault().is_none());
    assert_eq!(machine.with(|registers| registers.fsts), 0);
    assert_eq!(vtd.fault_overflows(), 1);
}

#[test]
fn an_index_that_cannot_be_is_no_harm() {
    let machine = machine(vec![fault(7)], 0xff);
    let vtd = start(&machine, vec![]);
    assert_eq!(vtd.next_fault().unwrap().source().0, 7);
    // A pending fault that is in no record ends the search.
    machine.with(|registers| registers.fsts = 2);
    machine.events();
    assert!(vtd.next_fault().is_none());
    assert_eq!(machine.events(), []);
}

#[test]
fn a_record_is_emptied_by_one_write() {
    let machine = machine(vec![fault(7)], 0);
    let vtd = start(&machine, vec![]);
    vtd.next_fault().unwrap();
    assert_eq!(machine.events(), [Event::Write64(0x228, F)]);
}

#[test]
fn faults_can_be_printed() {
    let cases = [
        (
            fault(0x10),
            "source 0x0010, write of 0x123000: writing is not allowed (0x05)",
        ),
        (
            (0x5000, F | READ | 0x59 << 32 | 7 << 40 | 1 << 31 | 0x100),
            "source 0x0100, PASID 0x7, read of 0x5000: the PASID table entry is not present (0x59)",
        ),
        (
            (3 << 48, F | 0x22 << 32 | 0x18),
            "source 0x0018, interrupt 0x3: the interrupt remapping entry is not present (0x22)",
        ),
        (
            (0, F | READ | 1 << 28 | 1 << 29 | 0xee << 32),
            "source 0x0000, privileged atomic access of 0x0: for an unknown reason (0xee)",
        ),
    ];
    for ((low, high), text) in cases {
        let machine = machine(vec![(low, high)], 0);
        let vtd = start(&machine, vec![]);
        assert_eq!(vtd.next_fault().unwrap().to_string(), text);
    }
}
