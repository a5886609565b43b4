//! The registers and how they may be accessed (10.2, 10.4).

use super::State;
use super::bits::{half, with_half};
use super::faults::Event;

/// What an offset is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A 32-bit register.
    Narrow,
    /// Either half of a 64-bit register that starts at this offset.
    Wide(usize),
    /// Either half of a word of a fault record, by offset from the first record.
    Record(usize),
    /// Either half of `IVA_REG`, or of `IOTLB_REG`.
    Iotlb {
        command: bool,
    },
    Nothing,
}

impl State {
    pub(super) fn place(&self, offset: usize) -> Place {
        // Wherever the capabilities say that the others are, these stay where they are.
        match offset & !7 {
            0x08 | 0x10 | 0x20 | 0x28 | 0x58 | 0x70 | 0x78 | 0x80 | 0x88 | 0x90 | 0xb0 | 0xb8 => {
                return Place::Wide(offset & !7);
            }
            _ => {}
        }
        if let 0x00 | 0x18 | 0x1c | 0x34..=0x44 | 0x64 | 0x68 | 0x6c | 0x9c | 0xa0..=0xac = offset {
            return Place::Narrow;
        }
        let (records, count) = self.config.fault_records();
        let iotlb = self.config.iotlb_registers();
        if (records..records + 16 * count).contains(&offset) {
            Place::Record((offset - records) & !7)
        } else if (iotlb..iotlb + 16).contains(&offset) {
            let command = offset - iotlb >= 8;
            Place::Iotlb { command }
        } else {
            Place::Nothing
        }
    }

    pub(super) fn read32(&mut self, offset: usize) -> u32 {
        self.moment();
        let upper = offset & 4 != 0;
        match self.place(offset) {
            Place::Narrow => self.read_narrow(offset),
            Place::Wide(0x28) => self.read_command(false, upper),
            Place::Wide(start) => half(self.read_wide(start), upper),
            Place::Record(at) => half(self.read_record(at), upper),
            Place::Iotlb { command: true } => self.read_command(true, upper),
            Place::Iotlb { command: false } => half(self.global.iva, upper),
            Place::Nothing => 0,
        }
    }

    pub(super) fn read64(&mut self, offset: usize) -> u64 {
        self.moment();
        let both = |state: &mut Self, iotlb| {
            let low = state.read_command(iotlb, false);
            let register = if iotlb {
                state.global.iotlb
            } else {
                state.global.ccmd
            };
            with_half(register, false, low)
        };
        match self.place(offset) {
            Place::Wide(0x28) => both(self, false),
            Place::Wide(start) => self.read_wide(start),
            Place::Record(at) => self.read_record(at),
            Place::Iotlb { command: true } => both(self, true),
            Place::Iotlb { command: false } => self.global.iva,
            Place::Narrow | Place::Nothing => {
                self.violation(format!(
                    "64 bits were read at {offset:#x}, which is no such register"
                ));
                0
            }
        }
    }

    pub(super) fn write32(&mut self, offset: usize, value: u32) {
        self.moment();
        let upper = offset & 4 != 0;
        let place = self.place(offset);
        let is_upper = upper && !matches!(place, Place::Narrow | Place::Nothing);
        if !self.may_write(offset, u64::from(value) << if is_upper { 32 } else { 0 }) {
            return;
        }
        match place {
            Place::Narrow => self.write_narrow(offset, value),
            Place::Wide(start) => {
                let register = with_half(
                    self.wide(start).map_or(0, |register| *register),
                    upper,
                    value,
                );
                self.write_wide(start, register, [!upper, upper]);
            }
            Place::Record(at) if upper && at & 8 != 0 => {
                self.faults.clear_record(at / 16, u64::from(value) << 32);
            }
            Place::Iotlb { command } => {
                let old = if command {
                    self.global.iotlb
                } else {
                    self.global.iva
                };
                self.write_iotlb(command, with_half(old, upper, value), upper);
            }
            Place::Record(_) | Place::Nothing => {}
        }
    }

    pub(super) fn write64(&mut self, offset: usize, value: u64) {
        self.moment();
        let place = self.place(offset);
        if matches!(place, Place::Narrow | Place::Nothing) {
            return self.violation(format!(
                "64 bits were written at {offset:#x}, which is no such register"
            ));
        }
        if !self.may_write(offset, value) {
            return;
        }
        match place {
            Place::Wide(start) => self.write_wide(start, value, [true; 2]),
            Place::Record(at) if at & 8 != 0 => self.faults.clear_record(at / 16, value),
            Place::Iotlb { command } => self.write_iotlb(command, value, true),
            _ => {}
        }
    }

    fn write_iotlb(&mut self, command: bool, value: u64, upper: bool) {
        if !command {
            self.global.iva = value;
            return;
        }
        self.check_under_way(true);
        self.global.iotlb = value;
        if upper {
            self.iotlb_command();
        }
    }

    fn event(&mut self, offset: usize) -> &mut Event {
        match offset {
            0x38..0x48 => &mut self.faults.fault_event,
            _ => &mut self.faults.queue_event,
        }
    }

    fn read_narrow(&mut self, offset: usize) -> u32 {
        match offset {
            0x00 => self.config.version,
            0x1c => self.read_gsts(),
            0x34 => {
                let seen = self.faults.status();
                self.look_at_queue();
                seen
            }
            0x38 | 0xa0 => self.event(offset).control,
            0x3c | 0xa4 => self.event(offset).data,
            0x40 | 0xa8 => self.event(offset).address[0],
            0x44 | 0xac => self.event(offset).address[1],
            0x64 => self.read_pmen(),
            0x68 | 0x6c => self.protected.low[usize::from(offset == 0x6c)],
            0x9c => self.faults.wait_complete.into(),
            _ => 0,
        }
    }

    fn write_narrow(&mut self, offset: usize, value: u32) {
        match offset {
            0x18 => self.write_gcmd(value),
            0x34 => self.write_fsts(value),
            0x38 | 0xa0 => self.faults.write_control(offset == 0xa0, value),
            0x3c | 0xa4 => self.event(offset).data = value,
            0x40 | 0xa8 => self.event(offset).address[0] = value,
            0x44 | 0xac => self.event(offset).address[1] = value,
            0x64 => self.write_pmen(value),
            0x68 | 0x6c => self.protected.low[usize::from(offset == 0x6c)] = value,
            0x9c if value & 1 != 0 => {
                self.faults.wait_complete = false;
                self.faults.queue_event.control &= !super::faults::WAITING;
            }
            _ => {}
        }
    }

    /// A 64-bit register that holds what was written.
    fn wide(&mut self, start: usize) -> Option<&mut u64> {
        Some(match start {
            0x20 => &mut self.global.rtaddr,
            0x28 => &mut self.global.ccmd,
            0x70 => &mut self.protected.high[0],
            0x78 => &mut self.protected.high[1],
            0x88 => &mut self.queue.tail,
            0x90 => &mut self.queue.address,
            0xb8 => &mut self.interrupt_table,
            _ => return None,
        })
    }

    fn read_wide(&mut self, start: usize) -> u64 {
        match start {
            0x08 => self.config.cap,
            0x10 => self.config.ecap,
            0x80 => {
                let seen = self.queue.head;
                self.look_at_queue();
                seen
            }
            0xb0 if self.config.error_record => self.queue.error,
            _ => self.wide(start).map_or(0, |register| *register),
        }
    }

    /// Writes a register of which the lower, the upper or both halves were accessed.
    fn write_wide(&mut self, start: usize, value: u64, [lower, upper]: [bool; 2]) {
        match start {
            0x28 => {
                self.check_under_way(false);
                self.global.ccmd = value;
                if upper {
                    self.context_command();
                }
            }
            0x88 if lower => self.write_tail(value),
            0x88 => {}
            0x90 => self.write_queue_address(value, lower),
            _ => {
                if let Some(register) = self.wide(start) {
                    *register = value;
                }
            }
        }
    }
}
