//! What software must not write to registers (10.4): while they are in use, and into bits that mean
//! nothing.

use super::State;
use super::bits::mask;
use super::global::{QIE, SRTP, TE};
use super::registers::Place;

/// `GSTS.RTPS`: a root table pointer was set.
const RTPS: u32 = SRTP;

impl State {
    /// The bits that a write must leave 0, of the 64 bits from `offset & !7` on for a register of
    /// that size, else of 32; `None` where software writes none.
    fn reserved(&self, offset: usize) -> Option<u64> {
        let ids = &self.config;
        let unless = |there: bool, bits: u64| if there { 0 } else { bits };
        let address = ids.beyond_host();
        match self.place(offset) {
            Place::Record(_) => return Some(0),
            Place::Iotlb { command: false } => return Some(0xf80),
            Place::Iotlb { command: true } => return Some(mask(32) | 0x49fc << 48),
            Place::Nothing => return None,
            Place::Narrow | Place::Wide(_) => {}
        }
        let (queued, interrupts) = (ids.ecap_bit(1), ids.ecap_bit(3));
        Some(match offset & !7 {
            0x20 => 0x3ff | address | unless(ids.has_scalable_mode() || ids.ecap_bit(52), 0xc00),
            0x28 => mask(59) & !mask(34),
            0x58 => unless(ids.cap_bit(3), !0),
            0x70 | 0x78 => unless(ids.cap_bit(6), !0),
            0x88 => unless(queued, !0) | 0xf | !mask(19),
            0x90 => unless(queued, !0) | 0x7f8 | address | unless(ids.has_scalable_mode(), 1 << 11),
            0xb8 => unless(interrupts, !0) | 0x7f0 | address,
            _ => match offset {
                // What GCMD may ask for is looked at when it does.
                0x18 => 0,
                0x34 => 0xffff_0080,
                0x38 | 0xa0 => 0x3fff_ffff,
                0x3c | 0xa4 => 0xffff_0000,
                0x40 | 0xa8 => 3,
                0x44 | 0xac => 0,
                0x64 => unless(self.has_protected_regions(), !0) | 0x7fff_fffe,
                0x68 | 0x6c => unless(ids.cap_bit(5), !0),
                0x9c => !1,
                _ => return None,
            },
        })
    }

    /// Whether a write of a register counts; notes what is wrong with it. `value` is at its place
    /// in a 64-bit register, where it is one.
    pub(super) fn may_write(&mut self, offset: usize, value: u64) -> bool {
        // Status bits that software writes back as it read them are no mistake.
        let written_back = match offset {
            0x34 => u64::from(self.faults.status()),
            0x38 | 0xa0 => u64::from(super::faults::WAITING),
            _ => 0,
        };
        let Some(reserved) = self.reserved(offset) else {
            if value != 0 || matches!(offset & !7, 0x00 | 0x08 | 0x10 | 0x80) || offset == 0x1c {
                self.violation(format!(
                    "{value:#x} was written at {offset:#x}, where no register takes it"
                ));
            }
            return false;
        };
        let wrong = value & reserved & !written_back;
        if wrong != 0 {
            self.violation(format!(
                "reserved bits {wrong:#x} of the register at {offset:#x} were set"
            ));
        }
        let in_use = match offset & !7 {
            0x68 | 0x70 | 0x78 => self.protected.is_on(),
            0x90 => self.global.is_on(QIE),
            _ => false,
        };
        if in_use {
            self.violation(format!(
                "the register at {offset:#x} was written while what it describes is enabled"
            ));
        }
        true
    }

    /// Looks at what GCMD asks for.
    pub(super) fn check_commanded(&mut self, asked: u32, value: u32) {
        if asked & value & TE != 0 {
            self.check_enabled();
        }
        if asked & QIE != 0 {
            let (head, tail) = (self.queue.head, self.queue.tail);
            match value & QIE != 0 {
                true if tail != 0 => self.violation(format!(
                    "the queue is enabled with IQT at {tail:#x}, not at 0"
                )),
                false if head != tail => self.violation(format!(
                    "the queue is disabled with IQH at {head:#x} and IQT at {tail:#x}"
                )),
                _ => {}
            }
        }
    }

    fn check_enabled(&mut self) {
        let global = &self.global;
        if !global.is_on(RTPS) {
            return self.violation("translation is enabled and no root table was set".into());
        }
        if global.rtaddr != global.root {
            let (new, old) = (global.rtaddr, global.root);
            self.violation(format!(
                "RTADDR is {new:#x}, but the root table that was set is {old:#x}"
            ));
        }
        let [contexts, pasids, translations] = self.global.flushed;
        let scalable = self.global.mode() == 1;
        if !contexts || scalable && !pasids || !translations {
            self.violation(
                "translation is enabled before all caches were invalidated for the new root table, \
                 context entries first, translations last"
                    .into(),
            );
        }
    }

    /// Looks at the root table that is about to be used.
    pub(super) fn check_root(&mut self) {
        let (new, old) = (self.global.rtaddr, self.global.root);
        let mode = new >> 10 & 3;
        let there = match mode {
            0 => true,
            1 => self.config.has_scalable_mode(),
            3 => self.config.ecap_bit(52),
            _ => false,
        };
        if !there {
            self.violation(format!("RTADDR names the mode {mode}, which there is not"));
        }
        if self.global.is_on(TE) && (new ^ old) & 0xc00 != 0 {
            self.violation("the mode of the root table was changed while it is in use".into());
        }
    }
}
