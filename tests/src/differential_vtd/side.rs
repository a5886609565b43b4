//! One of the two machines, driven by registers and raw words of memory.

use std::collections::BTreeMap;
use std::ops::Range;

use iommu_core::{DmaMemory, PhysAddr, RegisterBank};
use mock_hw::MockMemory;

use super::case::Unit;
use super::descriptor::Descriptor;
use super::device::Device;
use super::encode::{BUSY, PFO, QIE, SRTP, TE, WIDE, fault, reg};
use super::image::Image;
use super::layout;

/// What one access did, as far as a bystander sees it at once: what a read got, the device tells at
/// the end of the case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    /// Words of the data that changed: where, and to what.
    pub(super) changed: Vec<(u64, u64)>,
    pub(super) faults: Vec<[u64; 2]>,
}

/// An access that a device makes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Access {
    pub(super) source: usize,
    pub(super) write: bool,
    pub(super) size: usize,
    pub(super) iova: u64,
    /// What is written, its lowest byte first.
    pub(super) value: u32,
    /// Which word of the device's buffer takes part.
    pub(super) slot: usize,
}

/// A machine under test.
pub(super) struct Side<'a, B> {
    pub(super) name: &'static str,
    bank: B,
    memory: MockMemory,
    devices: Vec<&'a dyn Device>,
    unit: Unit,
    /// Descriptors are of 256 bits.
    wide: bool,
    /// What is in `RTADDR`.
    root: Option<u64>,
    /// What is on of `GCMD`.
    switches: u32,
    /// Of the next descriptor.
    tail: usize,
    waits: u32,
    /// Words of the structures that may not be zero.
    used: Vec<u64>,
    /// Words of the data that are not as at the start of a case.
    written: BTreeMap<u64, u64>,
}

impl<'a, B: RegisterBank> Side<'a, B> {
    /// Sets up the queue of a machine that is as after reset.
    pub(super) fn new(
        name: &'static str,
        bank: B,
        memory: MockMemory,
        devices: Vec<&'a dyn Device>,
        unit: Unit,
    ) -> Self {
        let base = memory.allocate(layout::ARENA, layout::ARENA);
        assert_eq!(
            base,
            Some(PhysAddr(layout::BASE)),
            "{name}: the arena's place"
        );
        let wide = unit.has_scalable_mode();
        let mut side = Self {
            name,
            bank,
            memory,
            devices,
            unit,
            wide,
            root: None,
            switches: 0,
            tail: 0,
            waits: 0,
            used: Vec::new(),
            written: BTreeMap::new(),
        };
        for at in (layout::DATA..layout::DATA + layout::DATA_SIZE).step_by(8) {
            side.write(at, layout::pattern(at));
        }
        if unit.uses_queue() {
            side.bank.write64(reg::IQT, 0);
            let format = if wide { WIDE } else { 0 };
            side.bank.write64(reg::IQA, layout::QUEUE | format);
            side.command(QIE, 0);
        }
        side
    }

    pub(super) fn write(&self, at: u64, word: u64) {
        let done = self.memory.write_word(PhysAddr(at), word);
        assert!(done.is_ok(), "{}: a store to {at:#x}", self.name);
    }

    pub(super) fn read(&self, at: u64) -> u64 {
        let word = self.memory.read_word(PhysAddr(at));
        word.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Has switches of `GCMD` turned on or off, or a command done.
    fn command(&mut self, set: u32, clear: u32) {
        let command = self.switches & !clear | set;
        self.switches = command & !SRTP;
        self.bank.write32(reg::GCMD, command);
        let done = (0..8).any(|_| self.bank.read32(reg::GSTS) & (set | clear) == set);
        assert!(done, "{}: GCMD {command:#x} is not acknowledged", self.name);
    }

    /// Fills the devices' buffers, with translation off.
    pub(super) fn fill(&self, values: &[u32]) {
        for device in &self.devices {
            device.fill(values);
        }
    }

    /// Starts a case: memory as `image` says, nothing cached, no fault.
    ///
    /// Translation stays on from case to case where it can: QEMU takes milliseconds to switch it. The
    /// root entry is not present while all else changes.
    pub(super) fn start(&mut self, image: &Image, root: u64) {
        if self.root != Some(root) {
            self.command(0, TE);
        }
        self.write(layout::ROOT, 0);
        self.everything();
        for at in self.used.drain(..).collect::<Vec<_>>() {
            self.write(at, 0);
        }
        for (at, _) in std::mem::take(&mut self.written) {
            self.write(at, layout::pattern(at));
        }
        for (&at, &word) in image.words.iter().rev() {
            self.write(at, word);
        }
        self.used.extend(image.words.keys());
        let is_new = self.root.replace(root) != Some(root);
        if is_new {
            self.bank.write64(reg::RTADDR, root);
            self.command(SRTP, 0);
        }
        // Caching mode remembers that there was no root entry.
        if is_new || self.unit == Unit::Caching {
            self.everything();
        }
        self.faults();
        if self.switches & TE == 0 {
            self.command(TE, 0);
        }
    }

    /// What is in these slots of the buffers of devices that read. Leaves translation off.
    pub(super) fn tell(&mut self, slots: &Range<usize>, reads: [bool; 2]) -> [Vec<u8>; 2] {
        self.command(0, TE);
        let status = self.bank.read32(reg::FSTS);
        assert_eq!(status & PFO, 0, "{}: faults were lost", self.name);
        [0, 1].map(|source| match reads[source] {
            true => self.devices[source].tell(slots.clone()),
            false => Vec::new(),
        })
    }

    /// Invalidates everything.
    fn everything(&mut self) {
        self.invalidate(Descriptor::ContextGlobal);
        if self.wide {
            self.invalidate(Descriptor::PasidGlobal);
        }
        self.invalidate(Descriptor::IotlbGlobal);
    }

    /// Sends a descriptor and waits for it.
    pub(super) fn invalidate(&mut self, descriptor: Descriptor) {
        if self.unit.uses_queue() {
            self.push(descriptor.encode());
            self.wait(descriptor);
            return;
        }
        for (register, value) in descriptor.registers() {
            self.bank.write64(register, value);
            if value & BUSY != 0 {
                let done = (0..8).any(|_| self.bank.read64(register) & BUSY == 0);
                assert!(done, "{}: {descriptor:x?} is not complete", self.name);
            }
        }
    }

    fn wait(&mut self, whatever: Descriptor) {
        self.waits = self.waits.wrapping_add(1);
        self.push(Descriptor::Wait(self.waits).encode());
        self.ring();
        assert!(
            self.is_complete(),
            "{}: {whatever:x?} is not complete: FSTS {:#x}",
            self.name,
            self.bank.read32(reg::FSTS)
        );
    }

    fn is_complete(&self) -> bool {
        (0..64).any(|_| {
            let done = self.read(layout::STATUS) & 0xffff_ffff == u64::from(self.waits);
            // Looking at the head is what lets a model's time go on.
            done || self.bank.read64(reg::IQH) == u64::MAX
        })
    }

    fn size(&self) -> usize {
        if self.wide { 32 } else { 16 }
    }

    fn push(&mut self, words: [u64; 4]) {
        let at = layout::QUEUE + self.tail as u64;
        for (at, word) in (at..).step_by(8).zip(&words[..self.size() / 8]) {
            self.write(at, *word);
        }
        self.tail = (self.tail + self.size()) % 0x1000;
    }

    fn ring(&self) {
        self.bank.write64(reg::IQT, self.tail as u64);
    }

    /// Sends a descriptor that there is not, and a good one. Tells what the unit made of them, then
    /// recovers; `Err` where that fails.
    pub(super) fn illegal_descriptor(&mut self, word: u64) -> Result<String, String> {
        const QUEUE_ERROR: u32 = 1 << 4;
        let at = self.tail;
        self.push([word, 0, 0, 0]);
        self.waits = self.waits.wrapping_add(1);
        let wait = Descriptor::Wait(self.waits).encode();
        self.push(wait);
        self.ring();
        let head = (0..8).map(|_| self.bank.read64(reg::IQH)).last();
        let errors = self.bank.read32(reg::FSTS) & 0xff;
        let stopped = head == Some(at as u64);
        let story = format!("stopped there: {stopped}, FSTS {errors:#x}");
        if !stopped || errors != QUEUE_ERROR {
            return Err(story);
        }
        let slot = layout::QUEUE + at as u64;
        for (at, word) in (slot..).step_by(8).zip(&wait[..2]) {
            self.write(at, *word);
        }
        self.bank.write32(reg::FSTS, QUEUE_ERROR);
        // Whether the queue goes on by itself or with the next tail is the same to software.
        self.ring();
        if self.is_complete() && self.bank.read32(reg::FSTS) & 0xff == 0 {
            Ok(story)
        } else {
            Err(format!("{story}; did not recover"))
        }
    }

    /// Lets a device make an access.
    pub(super) fn access(&mut self, access: &Access) -> Seen {
        let device = self.devices[access.source];
        let mut changed = Vec::new();
        if access.write {
            device.write(access.slot, access.size, access.iova);
            // A translation keeps the lowest 12 bits, so only these words can be hit.
            let first = layout::DATA + (access.iova & 0xff8);
            for at in (first..layout::DATA + layout::DATA_SIZE).step_by(0x1000) {
                let word = self.read(at);
                if word != self.data(at) {
                    changed.push((at, word));
                    self.written.insert(at, word);
                }
            }
        } else {
            device.read(access.slot, access.size, access.iova);
        }
        let faults = self.faults();
        Seen { changed, faults }
    }

    /// What a word of the data is supposed to be.
    pub(super) fn data(&self, at: u64) -> u64 {
        self.written
            .get(&at)
            .copied()
            .unwrap_or_else(|| layout::pattern(at))
    }

    /// Takes the fault out of its record.
    fn faults(&mut self) -> Vec<[u64; 2]> {
        let high = self.bank.read64(reg::FAULT + 8);
        if high & fault::F == 0 {
            return Vec::new();
        }
        let low = self.bank.read64(reg::FAULT);
        self.bank.write64(reg::FAULT + 8, fault::F);
        vec![[low, high]]
    }

    /// Words of the data that are not what the accesses left there.
    pub(super) fn damage(&self) -> Vec<u64> {
        (layout::DATA..layout::DATA + layout::DATA_SIZE)
            .step_by(8)
            .filter(|at| self.read(*at) != self.data(*at))
            .collect()
    }
}
