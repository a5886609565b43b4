//! Devices in scalable mode: PASID tables, PASIDs, and both stages.

use std::sync::Arc;
use std::sync::Mutex;
use std::vec;
use std::vec::Vec;

use iommu_core::{
    Device, DeviceControl, DeviceInfo, DmaBlock, ErrorKind, Iommu, Iova, PagingConfig, Pasid, Prot,
    Rest, Result, Stage,
};

use super::fakes::{Event, Machine};
use super::registers::Registers;
use super::{Vtd, config, core, rmrr, start_with, told};
use crate::{Config, Mode};

/// Both stages, 16-bit PASIDs, pass-through, coherent walks.
const ECAP: u64 = 0x0001_c978_8000_0f43;

fn machine() -> Machine {
    Machine::new(Registers {
        ecap: ECAP,
        ..Registers::default()
    })
}

fn start(machine: &Machine, rmrrs: &[u32]) -> Vtd {
    let rmrrs = if rmrrs.is_empty() {
        vec![]
    } else {
        vec![rmrr(rmrrs)]
    };
    let config = Config {
        mode: Mode::Scalable,
        ..config(rmrrs)
    };
    start_with(machine, config)
}

/// A device with PASIDs up to 100, and what became of its switch.
#[derive(Default)]
struct Control(Mutex<Vec<bool>>);

impl DeviceControl for Control {
    fn max_pasid(&self) -> u32 {
        100
    }
    fn set_pasid(&self, on: bool) -> Result {
        self.0.lock().unwrap().push(on);
        Ok(())
    }
}

fn add(iommu: &Iommu, source: u32) -> (Device, Arc<Control>) {
    let control = Arc::new(Control::default());
    let info = DeviceInfo::new("nic").streams([source]);
    (iommu.add_device(info, control.clone()).unwrap(), control)
}

fn pasid(value: u32) -> Pasid {
    Pasid::new(value).unwrap()
}

fn paging(iommu: &Iommu, stage: Stage) -> iommu_core::DomainRef {
    let config = PagingConfig {
        stage,
        ..PagingConfig::default()
    };
    iommu.paging_domain(&config).unwrap()
}

/// What the hardware was told, without stores.
fn told_since(machine: &Machine) -> Vec<Event> {
    let story = machine.story().into_iter();
    let told = story.filter(|event| !matches!(event, Event::Store(..)));
    told.collect()
}

#[test]
fn an_rmrr_device_passes_by_pasid_0() {
    let machine = machine();
    let vtd = start(&machine, &[0x90]);
    let through = [0x0000_0109, 0x0080_0001, 0];
    assert_eq!(machine.pasid_entry(0x90, 0), Some(through));
    // Of its neighbours nothing is there.
    assert_eq!(machine.pasid_entry(0x10, 0), None);
    assert_eq!(machine.pasid_entry(0x91, 0), None);
    let iommu = core(&vtd);
    let (gpu, _) = add(&iommu, 0x90);
    assert!(gpu.attached().is(&iommu.identity_domain().unwrap()));
    machine.events();
    assert_eq!(gpu.release().unwrap(), Rest::Identity);
    assert_eq!(machine.story(), []);
}

#[test]
fn entries_and_what_is_forgotten_are_those_of_each_kind() {
    let machine = machine();
    let iommu = core(&start(&machine, &[]));
    let (nic, control) = add(&iommu, 0x0010);
    assert_eq!(machine.pasid_entry(0x10, 0), Some([0; 3]));
    let identity = iommu.identity_domain().unwrap();
    let (first, second) = (paging(&iommu, Stage::First), paging(&iommu, Stage::Second));
    // The page tables came last: each is one page.
    let table = |entry: [u64; 3]| (entry[0] & !0xfff).max(entry[2]);
    machine.events();

    nic.attach(&second).unwrap();
    let entry = machine.pasid_entry(0x10, 0).unwrap();
    assert_eq!([entry[0] & 0xfff, entry[1], entry[2]], [0x89, 0x80_0003, 0]);
    assert_eq!(told_since(&machine), []);

    let second_table = table(entry);
    nic.attach(&first).unwrap();
    let entry = machine.pasid_entry(0x10, 0).unwrap();
    assert_eq!([entry[0], entry[1], entry[2] & 0xfff], [0x49, 0x80_0002, 0]);
    assert_ne!(table(entry), second_table);
    // The second stage is forgotten by domain, the first stage and pass-through by PASID.
    let forgotten = [
        told(0x17 | 3 << 16),
        Event::Fence,
        told(0xe2 | 3 << 16),
        Event::Done,
    ];
    assert_eq!(told_since(&machine), forgotten);

    nic.attach(&identity).unwrap();
    let forgotten = [
        told(0x17 | 2 << 16),
        Event::Fence,
        told(0x26 | 2 << 16),
        Event::Done,
    ];
    assert_eq!(told_since(&machine), forgotten);
    assert_eq!(machine.pasid_entry(0x10, 0).unwrap()[0], 0x109);

    // That the device passed is forgotten with its context entry too.
    assert_eq!(nic.release().unwrap(), Rest::Blocked);
    let forgotten = [
        told(0x31 | 0x10 << 32),
        told(0x17 | 1 << 16),
        Event::Fence,
        told(0x26 | 1 << 16),
        Event::Done,
    ];
    assert_eq!(told_since(&machine), forgotten);
    assert_eq!(*control.0.lock().unwrap(), [true, false]);
}

#[test]
fn the_stage_is_the_second_unless_the_owner_says_otherwise() {
    for (preferred, pgtt) in [
        (Stage::Any, 0x80),
        (Stage::First, 0x40),
        (Stage::Second, 0x80),
    ] {
        let machine = machine();
        let config = Config {
            mode: Mode::Scalable,
            stage: preferred,
            ..config(vec![])
        };
        let iommu = core(&start_with(&machine, config));
        let (nic, _) = add(&iommu, 0x0010);
        nic.attach(&paging(&iommu, Stage::Any)).unwrap();
        assert_eq!(machine.pasid_entry(0x10, 0).unwrap()[0] & 0x1c0, pgtt);
        nic.release().unwrap();
    }
}

#[test]
fn a_pasid_has_an_entry_of_its_own() {
    let machine = machine();
    let iommu = core(&start(&machine, &[]));
    let (nic, _) = add(&iommu, 0x0010);
    let domain = paging(&iommu, Stage::First);
    machine.events();
    assert_eq!(machine.pasid_entry(0x10, 70), None);
    nic.group().attach_pasid(pasid(70), &domain).unwrap();
    let entry = machine.pasid_entry(0x10, 70).unwrap();
    assert_eq!([entry[0], entry[1]], [0x49, 0x80_0002]);
    // Traffic without PASID is still refused.
    assert_eq!(machine.pasid_entry(0x10, 0), Some([0; 3]));

    // Its mappings are forgotten under its number.
    let page = DmaBlock::new(&machine.memory, 4096, 4096, "a page").unwrap();
    let mapped = domain.map_block(Iova(0x5000), page, Prot::READ).unwrap();
    machine.events();
    mapped.unmap().unwrap();
    let pages = Event::Descriptor(0x36 | 2 << 16 | 70 << 32, 0x5000);
    assert_eq!(told_since(&machine), [pages, Event::Done]);

    // Under two numbers, by domain.
    nic.attach(&domain).unwrap();
    let page = DmaBlock::new(&machine.memory, 4096, 4096, "a page").unwrap();
    let mapped = domain.map_block(Iova(0x5000), page, Prot::READ).unwrap();
    machine.events();
    mapped.unmap().unwrap();
    assert_eq!(told_since(&machine), [told(0xe2 | 2 << 16), Event::Done]);

    // Ending it allocates nothing, and asks for no memory that is not there.
    machine.memory.limit(0);
    nic.group().detach_pasid(pasid(70)).unwrap();
    let forgotten = [
        told(0x17 | 2 << 16 | 70 << 32),
        Event::Fence,
        told(0x26 | 2 << 16 | 70 << 32),
        Event::Done,
    ];
    assert_eq!(told_since(&machine), forgotten);
    assert_eq!(machine.pasid_entry(0x10, 70).unwrap()[0], 0);
    nic.release().unwrap();
}

#[test]
fn pasids_are_those_that_device_and_unit_have() {
    let machine = machine();
    let iommu = core(&start(&machine, &[]));
    let (nic, _) = add(&iommu, 0x0010);
    let domain = paging(&iommu, Stage::First);
    let attach = |value| nic.group().attach_pasid(pasid(value), &domain);
    attach(100).unwrap();
    assert_eq!(attach(101).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(nic.release().unwrap(), Rest::Blocked);
    // No memory for the table: nothing has changed.
    let (nic, _) = add(&iommu, 0x0011);
    machine.events();
    machine.memory.limit(0);
    let error = nic.group().attach_pasid(pasid(64), &domain).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert_eq!(machine.events(), []);
}

#[test]
fn a_device_comes_back_to_its_tables() {
    let machine = machine();
    let iommu = core(&start(&machine, &[]));
    let (nic, _) = add(&iommu, 0x0010);
    nic.release().unwrap();
    let live = machine.memory.live();
    machine.memory.limit(0);
    let (nic, _) = add(&iommu, 0x0010);
    assert_eq!(machine.memory.live(), live);
    nic.release().unwrap();
}

#[test]
fn with_caching_mode_entries_appear_after_what_was_cached_is_gone() {
    let machine = Machine::new(Registers {
        cap: 0x00d2_008c_222f_0686,
        ecap: ECAP,
        ..Registers::default()
    });
    let iommu = core(&start(&machine, &[]));
    let (nic, _) = add(&iommu, 0x0010);
    let second = paging(&iommu, Stage::Second);
    machine.events();
    nic.attach(&second).unwrap();
    let forgotten = [
        told(0x17),
        Event::Done,
        told(0x17),
        Event::Fence,
        told(0xe2 | 2 << 16),
        Event::Done,
    ];
    assert_eq!(told_since(&machine), forgotten);
    // The first stage is not subject to it.
    let first = paging(&iommu, Stage::First);
    nic.attach(&first).unwrap();
    machine.events();
    let page = DmaBlock::new(&machine.memory, 4096, 4096, "a page").unwrap();
    let mapped = first.map_block(Iova(0x5000), page, Prot::READ).unwrap();
    assert_eq!(told_since(&machine), []);
    mapped.unmap().unwrap();
    nic.release().unwrap();
}
