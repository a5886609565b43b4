//! The registers and their handshakes (6.3).

use super::State;
use super::bits::{address, half, mask, part, with_half};
use super::settings::ModelConfig;

pub(super) const CR0_SMMUEN: u32 = 1 << 0;
pub(super) const CR0_EVENTQEN: u32 = 1 << 2;
pub(super) const CR0_CMDQEN: u32 = 1 << 3;
pub(super) const CR0_PRIQEN: u32 = 1 << 1;
pub(super) const CR0_ATSCHK: u32 = 1 << 4;

pub(super) const GERROR_CMDQ: u32 = 1 << 0;
pub(super) const GERROR_EVENTQ_ABT: u32 = 1 << 2;
pub(super) const GERROR_MSI_CMDQ_ABT: u32 = 1 << 4;

pub(super) const GBPA_ABORT: u32 = 1 << 20;
const GBPA_UPDATE: u32 = 1 << 31;

/// A register that confirms what was written to another one, or to itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AckRegister {
    /// `SMMU_CR0ACK`.
    Cr0,
    /// `SMMU_IRQ_CTRLACK`.
    IrqCtrl,
    /// The `Update` bit of `SMMU_GBPA`.
    Gbpa,
}

#[derive(Default)]
pub(super) struct Registers {
    pub(super) cr0: u32,
    pub(super) cr0ack: u32,
    pub(super) cr1: u32,
    pub(super) cr2: u32,
    /// As written, with `Update` until that is done.
    pub(super) gbpa: u32,
    /// As transactions see it.
    pub(super) gbpa_in_force: u32,
    irq_ctrl: u32,
    irq_ctrlack: u32,
    pub(super) gerror: u32,
    pub(super) gerrorn: u32,
    pub(super) strtab_base: u64,
    pub(super) strtab_base_cfg: u32,
    pub(super) cmdq_base: u64,
    pub(super) cmdq_prod: u32,
    pub(super) cmdq_cons: u32,
    pub(super) eventq_base: u64,
    pub(super) eventq_prod: u32,
    pub(super) eventq_cons: u32,
    priq_base: u64,
    priq_prod: u32,
    priq_cons: u32,
    /// The interrupt configurations of GERROR, EVENTQ and PRIQ: `CFG0`, then `CFG1` and `CFG2`.
    irq_cfg: [(u64, [u32; 2]); 3],
    /// Which acknowledgements never come: CR0, IRQ_CTRL, GBPA.
    pub(super) stuck: [bool; 3],
    /// How many reads see nothing of a change, and how many of them are left.
    pub(super) delay: [usize; 3],
    left: [usize; 3],
}

impl Registers {
    pub(super) fn new(config: &ModelConfig) -> Self {
        let (wide, word) = (config.unknown, half(config.unknown, false));
        let gbpa = config.gbpa & !GBPA_UPDATE;
        Self {
            cr1: word & 0xfff,
            cr2: word & 7,
            gbpa,
            gbpa_in_force: gbpa,
            strtab_base: wide,
            strtab_base_cfg: word,
            cmdq_base: wide,
            cmdq_prod: word & 0xf_ffff,
            cmdq_cons: word & 0xf_ffff,
            eventq_base: wide,
            eventq_prod: word & 0x800f_ffff,
            eventq_cons: word & 0x800f_ffff,
            priq_base: wide,
            priq_prod: word,
            priq_cons: word,
            irq_cfg: [(wide, [word; 2]); 3],
            delay: [usize::from(config.slow_acks); 3],
            ..Self::default()
        }
    }

    /// Whether a global error waits for its acknowledgement.
    pub(super) fn is_active(&self, error: u32) -> bool {
        (self.gerror ^ self.gerrorn) & error != 0
    }

    pub(super) fn activate(&mut self, error: u32) {
        if !self.is_active(error) {
            self.gerror ^= error;
        }
    }

    /// Whether a bit of `CR0` is set or was not yet seen to be clear.
    pub(super) fn is_on(&self, bit: u32) -> bool {
        (self.cr0 | self.cr0ack) & bit != 0
    }

    /// The same of `IRQ_CTRL`.
    pub(super) fn signals(&self, bit: u32) -> bool {
        (self.irq_ctrl | self.irq_ctrlack) & bit != 0
    }

    /// The 64-bit register that `offset` is in.
    fn wide(&mut self, offset: usize) -> Option<&mut u64> {
        Some(match offset & !7 {
            0x68 => &mut self.irq_cfg[0].0,
            0x80 => &mut self.strtab_base,
            0x90 => &mut self.cmdq_base,
            0xa0 => &mut self.eventq_base,
            0xb0 => &mut self.irq_cfg[1].0,
            0xc0 => &mut self.priq_base,
            0xd0 => &mut self.irq_cfg[2].0,
            _ => return None,
        })
    }
}

impl State {
    /// The command queue's base address, aligned to its size, and its size in entries as a power of
    /// two.
    pub(super) fn command_queue(&self) -> (u64, u32) {
        let base = self.regs.cmdq_base;
        let bits = part(half(base, false), 4, 0).min(self.config.command_queue_bits());
        (address(&[base], 55, 5) & !mask((bits + 4).max(5)), bits)
    }

    /// The same of the event queue.
    pub(super) fn event_queue(&self) -> (u64, u32) {
        let base = self.regs.eventq_base;
        let bits = part(half(base, false), 4, 0).min(self.config.event_queue_bits());
        (address(&[base], 55, 5) & !mask(bits + 5), bits)
    }

    pub(super) fn read32(&mut self, offset: usize) -> u32 {
        self.moment();
        if let Some(register) = self.regs.wide(offset) {
            return half(*register, offset & 4 != 0);
        }
        let ids = &self.config;
        match offset {
            0x00 => ids.idr0,
            0x04 => ids.idr1,
            0x08 => ids.idr2,
            0x0c => ids.idr3,
            0x10 => ids.idr4,
            0x14 => ids.idr5,
            0x18 => ids.iidr,
            0x1c => ids.aidr,
            0x20 => self.regs.cr0,
            0x24 => {
                let seen = self.regs.cr0ack;
                self.look(AckRegister::Cr0);
                seen
            }
            0x28 => self.regs.cr1,
            0x2c => self.regs.cr2,
            0x44 => {
                let seen = self.regs.gbpa;
                self.look(AckRegister::Gbpa);
                seen
            }
            0x50 => self.regs.irq_ctrl,
            0x54 => {
                let seen = self.regs.irq_ctrlack;
                self.look(AckRegister::IrqCtrl);
                seen
            }
            0x60 => self.regs.gerror,
            0x64 => self.regs.gerrorn,
            0x70 | 0x74 => self.regs.irq_cfg[0].1[usize::from(offset == 0x74)],
            0x88 => self.regs.strtab_base_cfg,
            0x98 => self.regs.cmdq_prod,
            0x9c => self.read_cmdq_cons(),
            0xb8 | 0xbc => self.regs.irq_cfg[1].1[usize::from(offset == 0xbc)],
            0xd8 | 0xdc => self.regs.irq_cfg[2].1[usize::from(offset == 0xdc)],
            0x1_00a8 => self.regs.eventq_prod,
            0x1_00ac => self.regs.eventq_cons,
            0x1_00c8 => self.regs.priq_prod,
            0x1_00cc => self.regs.priq_cons,
            0xa8 | 0xac | 0xc8 | 0xcc if self.page0_alias(offset) => self.read32(offset + 0x1_0000),
            _ => 0,
        }
    }

    pub(super) fn write32(&mut self, offset: usize, value: u32) {
        if let Some(register) = self.regs.wide(offset).map(|register| *register) {
            return self.write_wide(offset & !7, with_half(register, offset & 4 != 0, value));
        }
        let aliased = matches!(offset, 0xa8 | 0xac | 0xc8 | 0xcc);
        if aliased && self.page0_alias(offset) {
            return self.write32(offset + 0x1_0000, value);
        }
        self.moment();
        self.waits.interrupt();
        if aliased || !self.may_write(offset, value) {
            return;
        }
        match offset {
            0x20 => self.write_cr0(value),
            0x28 => self.regs.cr1 = value & 0xfff,
            0x2c => self.regs.cr2 = value & 0xf,
            0x44 => self.write_gbpa(value),
            0x50 => self.write_irq_ctrl(value),
            0x64 => self.write_gerrorn(value),
            0x70 | 0x74 => self.regs.irq_cfg[0].1[usize::from(offset == 0x74)] = value,
            0x88 => self.regs.strtab_base_cfg = value & 0x3_07ff,
            0x98 => self.write_cmdq_prod(value),
            0x9c => self.regs.cmdq_cons = value & 0xf_ffff,
            0xb8 | 0xbc => self.regs.irq_cfg[1].1[usize::from(offset == 0xbc)] = value,
            0xd8 | 0xdc => self.regs.irq_cfg[2].1[usize::from(offset == 0xdc)] = value,
            0x1_00a8 => self.regs.eventq_prod = value & 0x800f_ffff,
            0x1_00ac => self.write_eventq_cons(value),
            0x1_00c8 => self.regs.priq_prod = value & 0x800f_ffff,
            0x1_00cc => self.regs.priq_cons = value & 0x800f_ffff,
            _ => {}
        }
    }

    pub(super) fn read64(&mut self, offset: usize) -> u64 {
        match self.regs.wide(offset) {
            Some(register) if offset & 7 == 0 => *register,
            _ => {
                self.violation(format!(
                    "64 bits were read at {offset:#x}, which is no such register"
                ));
                0
            }
        }
    }

    pub(super) fn write64(&mut self, offset: usize, value: u64) {
        if offset & 7 == 0 && self.regs.wide(offset).is_some() {
            self.write_wide(offset, value);
        } else {
            self.violation(format!(
                "64 bits were written at {offset:#x}, which is no such register"
            ));
        }
    }

    fn write_wide(&mut self, offset: usize, value: u64) {
        self.moment();
        self.waits.interrupt();
        if self.may_write_wide(offset, value)
            && let Some(register) = self.regs.wide(offset)
        {
            *register = value;
        }
    }

    fn page0_alias(&mut self, offset: usize) -> bool {
        if !self.config.page0_alias {
            self.violation(format!(
                "the register of page 1 was looked for at {offset:#x} in page 0"
            ));
        }
        self.config.page0_alias
    }

    fn write_cr0(&mut self, value: u32) {
        let value = value & self.cr0_fields();
        let changed_twice = (value ^ self.regs.cr0) & (self.regs.cr0 ^ self.regs.cr0ack);
        if changed_twice != 0 && !self.regs.stuck[AckRegister::Cr0 as usize] {
            self.violation("CR0 was changed again before CR0ACK showed the change".into());
        }
        self.regs.cr0 = value;
        self.begin(AckRegister::Cr0);
    }

    fn write_gerrorn(&mut self, value: u32) {
        let value = value & 0x7fd;
        let regs = &mut self.regs;
        let untrue = (value ^ regs.gerrorn) & !(regs.gerror ^ regs.gerrorn);
        regs.gerrorn = value;
        if untrue != 0 {
            self.violation(format!(
                "GERRORN acknowledged errors {untrue:#x}, which are not active"
            ));
        }
        self.record_stalls();
    }

    fn write_irq_ctrl(&mut self, value: u32) {
        let value = value & 7;
        let regs = &mut self.regs;
        let twice = (value ^ regs.irq_ctrl) & (regs.irq_ctrl ^ regs.irq_ctrlack);
        regs.irq_ctrl = value;
        if twice != 0 && !regs.stuck[AckRegister::IrqCtrl as usize] {
            self.violation(
                "IRQ_CTRL was changed again before IRQ_CTRLACK showed the change".into(),
            );
        }
        self.begin(AckRegister::IrqCtrl);
    }

    fn write_gbpa(&mut self, value: u32) {
        if self.regs.gbpa & GBPA_UPDATE != 0 {
            self.violation("GBPA was written while its Update is under way".into());
        } else if value & GBPA_UPDATE == 0 {
            self.violation("GBPA was written without Update, which has no effect".into());
        } else {
            self.regs.gbpa = value & 0x801f_3f1f;
            self.begin(AckRegister::Gbpa);
        }
    }

    /// A change was written; it is acknowledged at once, or after some reads.
    fn begin(&mut self, register: AckRegister) {
        let at = register as usize;
        self.regs.left[at] = self.regs.delay[at];
        if self.regs.left[at] == 0 {
            self.acknowledge(register);
        }
    }

    /// An acknowledgement was looked for.
    fn look(&mut self, register: AckRegister) {
        let left = &mut self.regs.left[register as usize];
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.acknowledge(register);
        }
    }

    /// Lets what was written take effect.
    pub(super) fn acknowledge(&mut self, register: AckRegister) {
        if self.regs.stuck[register as usize] {
            return;
        }
        let regs = &mut self.regs;
        match register {
            AckRegister::IrqCtrl => regs.irq_ctrlack = regs.irq_ctrl,
            AckRegister::Gbpa => {
                regs.gbpa &= !GBPA_UPDATE;
                regs.gbpa_in_force = regs.gbpa;
            }
            AckRegister::Cr0 => {
                let risen = regs.cr0 & !regs.cr0ack;
                let fallen = regs.cr0ack & !regs.cr0;
                regs.cr0ack = regs.cr0;
                self.enabled(risen, fallen);
            }
        }
    }

    fn enabled(&mut self, risen: u32, fallen: u32) {
        if fallen & CR0_CMDQEN != 0 {
            self.commands.confused = false;
        }
        if fallen & CR0_SMMUEN != 0 {
            self.stalls.terminate_all();
            self.check_ats_is_off();
        }
        self.check_enabled(risen);
        self.record_stalls();
    }
}
