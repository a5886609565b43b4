//! The global commands and their acknowledgement (10.4.4, 10.4.5), and register-based invalidation
//! (10.4.7, 10.4.8).

use super::State;
use super::bits::{bit, bits, field, half, id, page};
use super::cache::ContextScope;
use super::iotlb::Flush;
use super::order::Pending;

pub(super) const TE: u32 = 1 << 31;
pub(super) const SRTP: u32 = 1 << 30;
const SFL: u32 = 1 << 29;
const EAFL: u32 = 1 << 28;
const WBF: u32 = 1 << 27;
pub(super) const QIE: u32 = 1 << 26;
const IRE: u32 = 1 << 25;
const SIRTP: u32 = 1 << 24;
const CFI: u32 = 1 << 23;

/// The commands that stay until they are taken back.
const SWITCHES: u32 = TE | EAFL | QIE | IRE | CFI;
/// Those that happen once.
const ONCE: u32 = SRTP | SFL | WBF | SIRTP;

/// Something that software commands and hardware acknowledges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handshake {
    /// `GCMD.TE`: translation is enabled or disabled.
    Translation,
    /// `GCMD.SRTP`: the root table pointer is set.
    RootTable,
    /// `GCMD.WBF`: write buffers are flushed.
    WriteBuffer,
    /// `GCMD.QIE`: the invalidation queue is enabled or disabled.
    Queue,
    /// `CCMD.ICC`: context entries are invalidated by register.
    ContextCache,
    /// `IOTLB.IVT`: translations are invalidated by register.
    Iotlb,
    /// `PMEN.EPM`: the protected memory regions are enabled or disabled.
    ProtectedMemory,
}

/// What was commanded, and what of it is in force.
#[derive(Default)]
pub(super) struct Global {
    /// `GSTS_REG`: what is in force.
    pub(super) status: u32,
    /// The commands under way, and what the switches among them will be.
    pending: u32,
    target: u32,
    /// How often the status has to be read until they are acknowledged.
    left: usize,
    pub(super) rtaddr: u64,
    /// The root table in use, with its mode.
    pub(super) root: u64,
    pub(super) ccmd: u64,
    ccmd_left: usize,
    pub(super) iva: u64,
    pub(super) iotlb: u64,
    iotlb_left: usize,
    /// The commands that are never acknowledged.
    pub(super) stuck: Vec<Handshake>,
    /// What was invalidated as a whole since the root table pointer was set: context entries, PASID
    /// entries, translations.
    pub(super) flushed: [bool; 3],
}

impl Global {
    fn is_stuck(&self, command: u32) -> bool {
        let which = match command {
            TE => Handshake::Translation,
            SRTP => Handshake::RootTable,
            WBF => Handshake::WriteBuffer,
            QIE => Handshake::Queue,
            _ => return false,
        };
        self.stuck.contains(&which)
    }

    pub(super) fn is_on(&self, switch: u32) -> bool {
        self.status & switch != 0
    }

    /// `TTM`, the mode of the root table in use (10.4.6).
    pub(super) fn mode(&self) -> u64 {
        bits(self.root, 11, 10)
    }
}

fn each(commands: u32) -> impl Iterator<Item = u32> {
    (0..32)
        .map(|at| 1 << at)
        .filter(move |one| commands & one != 0)
}

impl State {
    /// The commands that there are.
    fn commands(&self) -> u32 {
        let mut known = TE | SRTP;
        for (there, commands) in [
            (self.config.cap_bit(3), SFL | EAFL),
            (self.config.cap_bit(4), WBF),
            (self.config.ecap_bit(1), QIE),
            (self.config.ecap_bit(3), IRE | SIRTP | CFI),
        ] {
            if there {
                known |= commands;
            }
        }
        known
    }

    pub(super) fn write_gcmd(&mut self, value: u32) {
        let known = self.commands();
        if value & !known != 0 {
            self.violation(format!(
                "GCMD was written with bits {:#x}, which this unit has not",
                value & !known
            ));
        }
        let value = value & known;
        let global = &self.global;
        let (under_way, heading) = (
            global.pending,
            global.status & !global.pending | global.target,
        );
        let asked = (value ^ heading) & SWITCHES | value & ONCE;
        if each(under_way).any(|one| !global.is_stuck(one)) && asked != 0 {
            self.violation(format!(
                "GCMD was written with {value:#x} before GSTS showed the last command"
            ));
        }
        if asked.count_ones() > 1 {
            self.violation(format!(
                "GCMD asked for {asked:#x}: more than one command at once"
            ));
        }
        self.check_commanded(asked, value);
        let global = &mut self.global;
        global.pending |= asked;
        global.target = global.target & !asked | value & asked & SWITCHES;
        // The status of what happens once is clear until it has happened; that of the write buffer
        // the other way round.
        global.status = global.status & !(asked & (SRTP | SFL | SIRTP)) | asked & WBF;
        global.left = self.config.ack_reads;
        if global.left == 0 {
            self.acknowledge();
        }
    }

    /// `GSTS_REG`, as software sees it.
    pub(super) fn read_gsts(&mut self) -> u32 {
        let seen = self.global.status;
        if self.global.pending != 0 {
            self.global.left = self.global.left.saturating_sub(1);
            if self.global.left == 0 {
                self.acknowledge();
            }
        }
        seen
    }

    /// Lets what was commanded take effect, but for what is stuck.
    pub(super) fn acknowledge(&mut self) {
        for one in each(self.global.pending) {
            if self.global.is_stuck(one) {
                continue;
            }
            let on = self.global.target & one != 0;
            self.global.pending &= !one;
            self.global.target &= !one;
            match one {
                WBF => self.global.status &= !WBF,
                _ if one & ONCE != 0 || on => self.global.status |= one,
                _ => self.global.status &= !one,
            }
            match one {
                SRTP => self.set_root(),
                TE if !on => self.forget_places(),
                QIE => self.queue_switched(on),
                _ => {}
            }
        }
    }

    fn set_root(&mut self) {
        self.check_root();
        self.forget_places();
        self.global.root = self.global.rtaddr;
        self.global.flushed = [self.config.cap_bit(63); 3];
        if self.config.cap_bit(63) {
            self.flush_all();
        }
    }

    /// Software has written the upper half of `CCMD`.
    pub(super) fn context_command(&mut self) {
        let command = self.global.ccmd;
        if !bit(command, 63) {
            return;
        }
        self.global.ccmd &= !(3 << 59);
        let scope = match bits(command, 62, 61) {
            1 => ContextScope::All,
            2 => ContextScope::Domain(id(command, 15, 0)),
            3 => ContextScope::Source {
                source: id(command, 31, 16),
                functions: function_mask(field(command, 33, 32)),
                did: id(command, 15, 0),
            },
            _ => {
                self.violation("CCMD was written with granularity 0".into());
                self.global.ccmd &= !(1 << 63);
                return;
            }
        };
        if !self.may_invalidate_by_register("CCMD") {
            self.global.ccmd &= !(1 << 63);
            return;
        }
        self.push(Pending::Context(scope));
        self.global.ccmd_left = self.config.ack_reads;
        self.complete_registers();
    }

    /// Software has written the upper half of `IOTLB`.
    pub(super) fn iotlb_command(&mut self) {
        let command = self.global.iotlb;
        if !bit(command, 63) {
            return;
        }
        self.global.iotlb &= !(3 << 57);
        let did = id(command, 47, 32);
        let flush = match bits(command, 61, 60) {
            1 => Flush::All,
            2 => Flush::Domain(did),
            3 => {
                let iva = self.global.iva;
                self.pages(did, page(iva), bits(iva, 5, 0), bit(iva, 6))
            }
            _ => {
                self.violation("IOTLB was written with granularity 0".into());
                self.global.iotlb &= !(1 << 63);
                return;
            }
        };
        if !self.may_invalidate_by_register("IOTLB") {
            self.global.iotlb &= !(1 << 63);
            return;
        }
        self.push(Pending::Iotlb(flush));
        self.global.iotlb_left = self.config.ack_reads;
        self.complete_registers();
    }

    /// Software writes `CCMD` or `IOTLB`, whose request is under way.
    pub(super) fn check_under_way(&mut self, iotlb: bool) {
        let (name, register) = match iotlb {
            false => ("CCMD", self.global.ccmd),
            true => ("IOTLB", self.global.iotlb),
        };
        if bit(register, 63) {
            self.violation(format!(
                "{name} was written while an invalidation is under way"
            ));
        }
    }

    /// Registers invalidate only while the queue does not, and only in legacy mode.
    fn may_invalidate_by_register(&mut self, name: &str) -> bool {
        let queued = self.global.is_on(QIE);
        if queued {
            self.violation(format!("{name} was used while the queue is enabled"));
        }
        let legacy = self.global.mode() == 0;
        if !legacy {
            self.violation(format!("{name} was used in scalable mode"));
        }
        !queued && legacy
    }

    /// A half of `CCMD` or `IOTLB`, as software sees it.
    pub(super) fn read_command(&mut self, iotlb: bool, upper: bool) -> u32 {
        let global = &mut self.global;
        let (register, left) = match iotlb {
            false => (global.ccmd, &mut global.ccmd_left),
            true => (global.iotlb, &mut global.iotlb_left),
        };
        *left = left.saturating_sub(1);
        self.complete_registers();
        half(register, upper)
    }

    /// Completes invalidations by register, as far as their time has come.
    pub(super) fn complete_registers(&mut self) {
        let stuck = |global: &Global, which| global.stuck.contains(&which);
        let global = &self.global;
        let context = bit(global.ccmd, 63)
            && global.ccmd_left == 0
            && !stuck(global, Handshake::ContextCache);
        let iotlb =
            bit(global.iotlb, 63) && global.iotlb_left == 0 && !stuck(global, Handshake::Iotlb);
        if context || iotlb {
            self.drain();
        }
        let global = &mut self.global;
        if context {
            global.ccmd = global.ccmd & !(1 << 63 | 3 << 59) | bits(global.ccmd, 62, 61) << 59;
        }
        if iotlb {
            global.iotlb = global.iotlb & !(1 << 63 | 3 << 57) | bits(global.iotlb, 61, 60) << 57;
        }
    }
}

/// The bits of a source id that an invalidation does not look at, for its `FM` field (6.5.1.1).
pub(super) fn function_mask(field: u32) -> u16 {
    [0, 0b100, 0b110, 0b111][usize::try_from(field & 3).unwrap_or(0)]
}
