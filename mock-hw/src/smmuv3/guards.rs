//! What software must not write to registers (6.3): while they are in use, and into bits that mean
//! nothing.

use super::State;
use super::bits::{address, half, mask, part};
use super::registers::{CR0_ATSCHK, CR0_CMDQEN, CR0_EVENTQEN, CR0_PRIQEN, CR0_SMMUEN};

impl State {
    /// The bits of `CR0` that there are.
    pub(super) fn cr0_fields(&self) -> u32 {
        let mut known = CR0_SMMUEN | CR0_EVENTQEN | CR0_CMDQEN;
        for (there, bits) in [
            (self.config.has_pri(), CR0_PRIQEN),
            (self.config.has_ats(), CR0_ATSCHK),
            (self.config.idr0_bit(17), 0b111 << 6),
        ] {
            if there {
                known |= bits;
            }
        }
        known
    }

    /// The RES0 bits of the 32-bit register at an offset; `None` where software writes none.
    fn reserved(&self, offset: usize) -> Option<u32> {
        let ids = &self.config;
        let unless = |there: bool, bits: u32| if there { 0 } else { bits };
        // Indexes have as many bits as the queue asks for, and one to tell wrapping.
        let index = |bits: u32| 0x000f_ffff & !half(mask(bits + 1), false);
        let messages = unless(ids.idr0_bit(13), !0);
        let requests = unless(ids.has_pri(), !0);
        Some(match offset {
            0x20 => !self.cr0_fields(),
            0x28 => 0xffff_f000,
            0x2c => {
                let (ptm, ats) = (unless(ids.idr0_bit(5), 4), unless(ids.idr0_bit(23), 8));
                0xffff_fff0 | ptm | ats | unless(ids.has_hyp(), 1)
            }
            0x44 => 0x7fe0_c0e0,
            0x48 => 0,
            0x50 => 0xffff_fff8 | unless(ids.has_pri(), 2),
            0x64 => 0xffff_f802,
            0x70 | 0xb8 => messages,
            0x74 | 0xbc => messages | 0xffff_ffc0,
            0xd8 => messages | requests,
            // `LO`, bit 31: one message for the last of a group.
            0xdc => messages | requests | 0x7fff_ffc0,
            0x88 => 0xfffc_f800 | unless(ids.two_level_streams(), 0x3_07c0),
            0x98 => 0xfff0_0000 | index(self.command_queue().1),
            0x9c => 0x80f0_0000 | index(self.command_queue().1),
            0x1_00a8 | 0x1_00ac => 0x7ff0_0000 | index(self.event_queue().1),
            0x1_00c8 | 0x1_00cc => requests,
            _ => return None,
        })
    }

    /// Whether a write of a 32-bit register counts; notes why not, and what is wrong with it if it
    /// does.
    pub(super) fn may_write(&mut self, offset: usize, value: u32) -> bool {
        let Some(reserved) = self.reserved(offset) else {
            if value != 0 || matches!(offset, 0..0x20 | 0x24 | 0x40 | 0x54 | 0x60) {
                self.violation(format!(
                    "{value:#x} was written at {offset:#x}, where no register takes it"
                ));
            }
            return false;
        };
        if value & reserved != 0 {
            self.violation(format!(
                "reserved bits {:#x} of the register at {offset:#x} were set",
                value & reserved
            ));
        }
        let guard = match offset {
            0x28 => return self.may_write_cr1(value),
            0x2c if value & 0xf == self.regs.cr2 => None,
            0x2c => self.guard(CR0_SMMUEN, "CR2 was changed", "SMMUEN"),
            0x88 => self.guard(CR0_SMMUEN, "STRTAB_BASE_CFG was written", "SMMUEN"),
            0x9c => self.guard(CR0_CMDQEN, "CMDQ_CONS was written", "CMDQEN"),
            0x1_00a8 => self.guard(CR0_EVENTQEN, "EVENTQ_PROD was written", "EVENTQEN"),
            0x1_00c8 => self.guard(CR0_PRIQEN, "PRIQ_PROD was written", "PRIQEN"),
            _ => self.irq_guard(offset),
        };
        self.allow(guard)
    }

    /// The same of a 64-bit register.
    pub(super) fn may_write_wide(&mut self, offset: usize, value: u64) -> bool {
        let messages = self.config.idr0_bit(13);
        let beyond = mask(56) & !mask(self.config.output_bits());
        let (is_there, fields) = match offset {
            0x68 | 0xb0 => (messages, mask(56) & !3),
            0xd0 => (messages && self.config.has_pri(), mask(56) & !3),
            0x80 => (true, 1 << 62 | mask(56) & !mask(6)),
            0xc0 => (self.config.has_pri(), 1 << 62 | mask(56)),
            _ => (true, 1 << 62 | mask(56)),
        };
        let reserved = if is_there { !fields | beyond } else { !0 };
        if value & reserved != 0 {
            self.violation(format!(
                "reserved bits {:#x} of the register at {offset:#x} were set",
                value & reserved
            ));
        }
        let guard = match offset {
            0x80 => self.guard(CR0_SMMUEN, "STRTAB_BASE was written", "SMMUEN"),
            0x90 => self.guard(CR0_CMDQEN, "CMDQ_BASE was written", "CMDQEN"),
            0xa0 => self.guard(CR0_EVENTQEN, "EVENTQ_BASE was written", "EVENTQEN"),
            0xc0 => self.guard(CR0_PRIQEN, "PRIQ_BASE was written", "PRIQEN"),
            _ => self.irq_guard(offset),
        };
        self.allow(guard)
    }

    fn allow(&mut self, guard: Option<String>) -> bool {
        match guard {
            Some(what) => {
                self.violation(what);
                false
            }
            None => true,
        }
    }

    fn guard(&self, enable: u32, what: &str, name: &str) -> Option<String> {
        let closed = self.regs.is_on(enable);
        closed.then(|| format!("{what} while {name} is set"))
    }

    /// Where messages go changes only while none are sent (6.3.16).
    fn irq_guard(&self, offset: usize) -> Option<String> {
        let (enable, name) = match offset {
            0x68..0x78 => (1, "GERROR"),
            0xb0..0xc0 => (4, "EVENTQ"),
            0xd0..0xe0 => (2, "PRIQ"),
            _ => return None,
        };
        let closed = self.config.idr0_bit(13) && self.regs.signals(enable);
        closed.then(|| format!("{name}_IRQ_CFG was written while {name}_IRQEN is set"))
    }

    /// The table attributes are guarded by SMMUEN, those of queues by any queue's enable.
    fn may_write_cr1(&mut self, value: u32) -> bool {
        let changed = (value ^ self.regs.cr1) & 0xfff;
        let guarded = if changed & 0xfc0 != 0 { CR0_SMMUEN } else { 0 }
            | if changed & 0x3f != 0 {
                CR0_CMDQEN | CR0_EVENTQEN | CR0_PRIQEN
            } else {
                0
            };
        let closed = self.regs.is_on(guarded);
        self.allow(closed.then(|| "CR1 was changed while what it describes is enabled".into()))
    }

    /// Software took records out of the event queue (3.21.2).
    pub(super) fn write_eventq_cons(&mut self, value: u32) {
        let wrap = half(mask(self.event_queue().1 + 1), false);
        let prod = self.regs.eventq_prod;
        let left = |cons: u32| prod.wrapping_sub(cons) & wrap;
        if self.regs.is_on(CR0_EVENTQEN) {
            if left(value) > left(self.regs.eventq_cons) {
                self.violation(format!(
                    "EVENTQ_CONS was moved to {value:#x}, past PROD or back"
                ));
            }
            let acknowledges = (value ^ self.regs.eventq_cons) & 1 << 31 != 0;
            if acknowledges && (value ^ prod) & 1 << 31 != 0 {
                self.violation("EVENTQ_CONS acknowledges an overflow that was not".into());
            }
        }
        self.regs.eventq_cons = value & 0x800f_ffff;
        self.record_stalls();
    }

    /// Looks at what is about to be used.
    pub(super) fn check_enabled(&mut self, risen: u32) {
        if risen & CR0_SMMUEN != 0 {
            let cfg = self.regs.strtab_base_cfg;
            let two_level = self.config.two_level_streams() && part(cfg, 17, 16) == 1;
            if self.config.two_level_streams() && part(cfg, 17, 16) > 1
                || two_level && !matches!(part(cfg, 10, 6), 6 | 8 | 10)
            {
                self.violation(format!("STRTAB_BASE_CFG is {cfg:#x}, which is reserved"));
            }
            let bits = self.stream_table().size_bits;
            self.check_base(
                "STRTAB_BASE",
                address(&[self.regs.strtab_base], 55, 6),
                bits,
            );
        }
        if risen & CR0_EVENTQEN != 0 {
            let bits = self.event_queue().1;
            self.check_queue("EVENTQ_BASE", self.regs.eventq_base, bits, 5);
            let wrap = half(mask(bits + 1), false);
            let used = self.regs.eventq_prod.wrapping_sub(self.regs.eventq_cons) & wrap;
            self.check_indexes("event", u64::from(used), 1 << bits);
        }
        if risen & CR0_CMDQEN != 0 {
            let bits = self.command_queue().1;
            self.check_queue("CMDQ_BASE", self.regs.cmdq_base, bits, 4);
            let (used, room) = self.commands_queued();
            self.check_indexes("command", used, room);
            self.commands.confused |= used > room;
        }
    }

    fn check_indexes(&mut self, name: &str, used: u64, room: u64) {
        if used > room {
            self.violation(format!(
                "the {name} queue was enabled with {used} entries in use, but has only {room}"
            ));
        }
    }

    fn check_base(&mut self, name: &str, base: u64, bits: u32) {
        if base & mask(bits) != 0 {
            self.violation(format!(
                "{name} is {base:#x}, not aligned to its size of 2^{bits} bytes"
            ));
        }
    }

    fn check_queue(&mut self, name: &str, base: u64, bits: u32, entry_bits: u32) {
        if u64::from(bits) != base & 0x1f {
            self.violation(format!("{name} has more entries than the queue may have"));
        }
        self.check_base(name, address(&[base], 55, 5), (bits + entry_bits).max(5));
    }
}
