//! The registers of a unit, and how it works off its queue.

use std::vec::Vec;

use super::fakes::{Event, Log, TestMemory};

/// What the hardware never does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stuck {
    OldQueue,
    QueueOff,
    QueueOn,
    TranslationOff,
    WriteBuffers,
    Root,
    /// It takes descriptors, and is never done.
    Waits,
    /// It takes no descriptor.
    Fetch,
    /// It says that it took descriptors nobody gave it.
    Head,
    TranslationOn,
    Unprotect,
}

/// What goes wrong with a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Upset {
    /// It is refused.
    Refuse,
    /// A device does not answer: all waits that are pending are dropped.
    Silence,
    /// A device answers wrongly.
    Nonsense,
}

const QIE: u32 = 1 << 26;

/// The registers of a unit.
#[derive(Clone)]
pub(crate) struct Registers {
    pub(crate) ver: u32,
    pub(crate) cap: u64,
    pub(crate) ecap: u64,
    pub(crate) gsts: u32,
    pub(crate) rtaddr: u64,
    pub(crate) fsts: u32,
    pub(crate) pmen: u32,
    pub(crate) iqa: u64,
    pub(crate) iqh: u64,
    pub(crate) iqt: u64,
    pub(crate) iqercd: u64,
    pub(crate) records: Vec<(u64, u64)>,
    pub(crate) len: usize,
    pub(crate) stuck: Option<Stuck>,
    /// What happens to the next descriptors: `None` for nothing special.
    pub(crate) upsets: Vec<Option<Upset>>,
}

impl Default for Registers {
    /// QEMU's unit without options, but with coherent table walks.
    fn default() -> Self {
        Self {
            ver: 0x10,
            cap: 0x00d2_008c_222f_0606,
            ecap: 0xf43,
            gsts: 0,
            rtaddr: 0,
            fsts: 0,
            pmen: 0,
            iqa: 0,
            iqh: 0,
            iqt: 0,
            iqercd: 0,
            records: [(0, 0)].into(),
            len: 0x230,
            stuck: None,
            upsets: Vec::new(),
        }
    }
}

impl Registers {
    fn does(&self, what: Stuck) -> bool {
        self.stuck != Some(what)
    }

    fn command(&mut self, gcmd: u32) {
        for (bit, on, off) in [
            (31, Stuck::TranslationOn, Stuck::TranslationOff),
            (26, Stuck::QueueOn, Stuck::QueueOff),
        ] {
            let wanted = gcmd & 1 << bit;
            if self.does(if wanted != 0 { on } else { off }) {
                self.gsts = self.gsts & !(1 << bit) | wanted;
            }
        }
        if self.gsts & QIE == 0 {
            self.iqh = 0;
        }
        if gcmd & 1 << 30 != 0 {
            self.gsts &= !(1 << 30);
            if self.does(Stuck::Root) {
                self.gsts |= 1 << 30;
            }
        }
        if gcmd & 1 << 27 != 0 && !self.does(Stuck::WriteBuffers) {
            self.gsts |= 1 << 27;
        }
        self.gsts = self.gsts & !(0b101 << 23) | gcmd & 0b101 << 23;
    }

    /// Works the queue off.
    pub(crate) fn work(&mut self, memory: &TestMemory, log: &Log) {
        let wide = self.iqa & 1 << 11 != 0;
        let size = if wide { 32 } else { 16 };
        let end = 4096 << (self.iqa & 7);
        let mut pending = true;
        while self.gsts & QIE != 0
            && self.fsts & 0x50 == 0
            && self.iqh != self.iqt
            && self.does(Stuck::Fetch)
            && self.does(Stuck::Head)
        {
            let at = (self.iqa & !0xfff) + self.iqh;
            let (low, high) = (memory.word(at), memory.word(at + 8));
            let upset = if self.upsets.is_empty() {
                None
            } else {
                self.upsets.remove(0)
            };
            match upset {
                Some(Upset::Refuse) => {
                    self.fsts |= 0x10;
                    return;
                }
                Some(Upset::Silence) => {
                    self.fsts |= 0x40;
                    pending = false;
                }
                Some(Upset::Nonsense) => self.fsts |= 0x20,
                None => {}
            }
            self.iqh = (self.iqh + size) % end;
            if low & 0xf != 5 {
                log.lock().unwrap().push(Event::Descriptor(low, high));
            } else if pending && self.does(Stuck::Waits) {
                assert_eq!(low & 0x30, 0x20, "a status write and no interrupt");
                memory.write32(high, u32::try_from(low >> 32).unwrap());
                let fence = low & 0x40 != 0;
                let event = if fence { Event::Fence } else { Event::Done };
                log.lock().unwrap().push(event);
            }
        }
    }

    pub(crate) fn read32(&self, offset: usize) -> u32 {
        match offset {
            0x00 => self.ver,
            0x1c => self.gsts,
            0x34 => {
                let pending = self.records.iter().any(|(_, high)| high & 1 << 63 != 0);
                self.fsts | u32::from(pending) << 1
            }
            0x64 => self.pmen,
            _ => panic!("32 bits read at {offset:#x}"),
        }
    }

    pub(crate) fn write32(&mut self, offset: usize, value: u32) {
        match offset {
            0x18 => self.command(value),
            0x34 => self.fsts &= !(value & 0x71),
            0x64 if self.does(Stuck::Unprotect) => self.pmen = value & !1,
            0x64 => {}
            _ => panic!("32 bits written at {offset:#x}"),
        }
    }

    pub(crate) fn read64(&self, offset: usize) -> u64 {
        match offset {
            0x08 => self.cap,
            0x10 => self.ecap,
            0x20 => self.rtaddr,
            0x80 if !self.does(Stuck::OldQueue) => self.iqt ^ 0x10,
            0x80 if !self.does(Stuck::Head) => self.iqt + 0x10,
            0x80 => self.iqh,
            0x88 => self.iqt,
            0xb0 => self.iqercd,
            0x220.. => {
                let record = self.records[(offset - 0x220) / 16];
                if offset.is_multiple_of(16) {
                    record.0
                } else {
                    record.1
                }
            }
            _ => panic!("64 bits read at {offset:#x}"),
        }
    }

    pub(crate) fn write64(&mut self, offset: usize, value: u64) {
        match offset {
            0x20 => self.rtaddr = value,
            0x88 => self.iqt = value,
            0x90 => self.iqa = value,
            0x228.. if offset % 16 == 8 && value == 1 << 63 => {
                self.records[(offset - 0x220) / 16].1 &= !(1 << 63);
            }
            _ => panic!("64 bits written at {offset:#x}"),
        }
    }
}
