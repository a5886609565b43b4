//! The command queue (chapter 4).

use std::collections::HashSet;

use iommu_core::PhysAddr;

use super::State;
use super::atc::AtcInvalidation;
use super::bits::{address, bit, field, id, mask, span};
use super::order::Pending;
use super::registers::{CR0_SMMUEN, GERROR_MSI_CMDQ_ABT};
use super::structures::Cfgi;
use super::tlb::{Space, Tlbi};

/// Decides by its opcode whether a command is executed without effect.
pub(super) type Ignore = Box<dyn Fn(u8) -> bool + Send>;

/// What `SMMU_CMDQ_CONS.ERR` says (7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CommandError {
    Illegal = 1,
    Abort = 2,
    AtcTimeout = 3,
}

/// The consumer's state, and what tests want to know and to break.
#[derive(Default)]
pub(super) struct Commands {
    pub(super) log: Vec<[u64; 2]>,
    pub(super) syncs: usize,
    pub(super) max_batch: usize,
    pub(super) frozen: bool,
    /// PROD made no sense: nothing is consumed until the queue was disabled.
    pub(super) confused: bool,
    pub(super) fail_in: Option<usize>,
    pub(super) ignore: Option<Ignore>,
    /// Whether it picked the command at hand.
    pub(super) ignoring: bool,
    /// How often CMDQ_CONS has to be read until commands are consumed.
    pub(super) lag: usize,
    /// Somebody consumes commands right now.
    pub(super) consuming: bool,
    pub(super) dead_atcs: HashSet<u32>,
    /// Invalidations that nothing has waited for.
    pub(super) pending: Vec<Pending>,
    /// What devices were asked to invalidate since the last CMD_SYNC.
    atcs: Vec<AtcInvalidation>,
}

impl State {
    pub(super) fn take_command(&mut self, command: &[u64; 2]) -> Result<(), CommandError> {
        if let Some(left) = &mut self.commands.fail_in {
            if *left == 0 {
                self.commands.fail_in = None;
                return Err(CommandError::Illegal);
            }
            *left -= 1;
        }
        let opcode = command[0].to_le_bytes()[0];
        let ignore = self.commands.ignore.as_ref();
        self.commands.ignoring = ignore.is_some_and(|ignore| ignore(opcode));
        self.execute(command)?;
        self.check_command(command);
        self.commands.log.push(*command);
        Ok(())
    }

    fn execute(&mut self, command: &[u64; 2]) -> Result<(), CommandError> {
        let ids = &self.config;
        let (one, two) = (ids.has_stage1(), ids.has_stage2());
        let not_secure = !bit(command, 10);
        let legal = |condition| {
            if condition {
                Ok(())
            } else {
                Err(CommandError::Illegal)
            }
        };
        let opcode = field(command, 7, 0);
        match opcode {
            0x01 | 0x02 => legal(not_secure),
            0x03 | 0x04 => {
                legal(not_secure).map(|()| self.push(Pending::Cfgi(streams(opcode, command))))
            }
            0x05 | 0x06 => {
                legal(not_secure && one)?;
                let (stream, substream) = (field(command, 63, 32), field(command, 31, 12));
                let level1 = !bit(command, 64);
                let one = Cfgi::Context {
                    stream,
                    substream,
                    level1,
                };
                let what = if opcode == 5 {
                    one
                } else {
                    Cfgi::Contexts { stream }
                };
                self.push(Pending::Cfgi(what));
                Ok(())
            }
            0x07 => legal(not_secure && ids.idr3_bit(7)),
            0x10..=0x13 => legal(one).and_then(|()| self.tlbi(opcode, command)),
            0x20..=0x23 => legal(one && ids.has_hyp()).and_then(|()| self.tlbi(opcode, command)),
            0x28 | 0x2a => legal(two).and_then(|()| self.tlbi(opcode, command)),
            0x30 => self.tlbi(opcode, command),
            0x40 => {
                legal(ids.has_ats() && field(command, 69, 64) <= 52)?;
                self.atc_invalidation(command);
                Ok(())
            }
            0x41 => legal(ids.has_pri() && field(command, 77, 76) != 3),
            0x44 => {
                legal(not_secure && ids.stall_model() != 1)?;
                self.resume(
                    field(command, 63, 32),
                    id(command, 79, 64),
                    bit(command, 12),
                );
                Ok(())
            }
            0x45 => {
                legal(not_secure && ids.stall_model() != 1)?;
                self.stalls.terminate(field(command, 63, 32));
                Ok(())
            }
            0x46 => {
                legal(field(command, 13, 12) != 3)?;
                self.sync(command)
            }
            _ => Err(CommandError::Illegal),
        }
    }

    fn tlbi(&mut self, opcode: u32, command: &[u64; 2]) -> Result<(), CommandError> {
        let e2h = self.regs.cr2 & 1 != 0;
        let mut what = Tlbi::all((0x20..=0x23).contains(&opcode));
        let by_address = matches!(opcode, 0x12 | 0x13 | 0x22 | 0x23 | 0x2a);
        if matches!(opcode, 0x10..=0x13 | 0x28 | 0x2a) {
            what.vmid = Some(id(command, 47, 32));
        }
        if matches!(opcode, 0x11 | 0x12) || matches!(opcode, 0x21 | 0x22) && e2h {
            what.asid = Some(id(command, 63, 48));
        }
        what.globals = by_address;
        what.space = match opcode {
            0x28 | 0x30 => None,
            0x2a => Some(Space::Intermediate),
            _ => Some(Space::Virtual),
        };
        if by_address {
            what.leaf_only = bit(command, 64);
            if !self.aim(opcode, command, &mut what)? {
                return Ok(());
            }
        }
        self.push(Pending::Tlbi(what));
        Ok(())
    }

    /// Reads the range of an invalidation (4.4.1.1); whether it invalidates anything for sure.
    fn aim(
        &mut self,
        opcode: u32,
        command: &[u64; 2],
        what: &mut Tlbi,
    ) -> Result<bool, CommandError> {
        let top = if opcode == 0x2a { 119 } else { 127 };
        let first = address(command, top, 76);
        let granule = match field(command, 75, 74) {
            _ if !self.config.has_range_invalidation() => 0,
            0 => 0,
            tg => 10 + 2 * tg,
        };
        if granule == 0 {
            what.range = Some((first, first | 0xfff));
            return Ok(true);
        }
        let (num, scale) = (span(command, 16, 12), field(command, 24, 20));
        let mut level = field(command, 73, 72);
        if granule == 14 && level == 1 {
            level = 0;
        }
        if num == 0 && scale == 0 && level == 0 {
            return Err(CommandError::Illegal);
        }
        let depth = if level == 0 { 0 } else { 3 - level };
        let aligned = granule + depth * (granule - 3);
        if first & mask(aligned) != 0 {
            self.violation(format!(
                "a range invalidation starts at {first:#x}, not at a multiple of 2^{aligned}"
            ));
            return Ok(false);
        }
        // At most 32 << 31 granules of 2^16 bytes: less than 2^53.
        let bytes = (num + 1) << scale << granule;
        what.range = Some((first, first.saturating_add(bytes - 1)));
        what.granule_bits = Some(granule);
        what.level = (level != 0).then_some(level);
        Ok(true)
    }

    /// Takes on CMD_ATC_INV (4.5.1). Without translation there is nothing to ask a device for.
    fn atc_invalidation(&mut self, command: &[u64; 2]) {
        let with_pasid = bit(command, 11);
        if with_pasid && self.config.substream_bits() == 0 {
            self.violation("CMD_ATC_INV has SSV set, where there are no substreams".into());
            return;
        }
        if self.regs.cr0ack & CR0_SMMUEN == 0 || self.commands.ignoring {
            return;
        }
        let (address, span) = (address(command, 127, 76), mask(12 + field(command, 69, 64)));
        let what = AtcInvalidation {
            stream: field(command, 63, 32),
            pasid: with_pasid.then(|| (field(command, 31, 12), bit(command, 9))),
            first: address & !span,
            last: address | span,
        };
        self.commands.atcs.push(what);
        self.push(Pending::Atc(what));
    }

    /// Completes all that was asked for.
    fn sync(&mut self, command: &[u64; 2]) -> Result<(), CommandError> {
        let atcs = std::mem::take(&mut self.commands.atcs);
        let dead = |stream: &u32| self.commands.dead_atcs.contains(stream);
        let dead: Vec<u32> = atcs.iter().map(|of| of.stream).filter(dead).collect();
        if !dead.is_empty() {
            dead.into_iter().for_each(|stream| self.atc_failed(stream));
            // Which of them were done is unknown; none of the others will be (4.7.3).
            let pending = &mut self.commands.pending;
            pending.retain(|what| !matches!(what, Pending::Atc(_)));
            return Err(CommandError::AtcTimeout);
        }
        self.drain();
        self.check_endpoints(&atcs);
        self.commands.syncs += 1;
        if let Some(to) = self.message(command) {
            let data = field(command, 63, 32).to_le_bytes();
            if self.memory.dma_write(PhysAddr(to), &data).is_err() {
                self.regs.activate(GERROR_MSI_CMDQ_ABT);
            }
            self.waits.message();
        }
        Ok(())
    }
}

fn streams(opcode: u32, command: &[u64; 2]) -> Cfgi {
    let stream = field(command, 63, 32);
    if opcode == 3 {
        return Cfgi::Streams {
            first: stream,
            last: stream,
            level1: !bit(command, 64),
        };
    }
    let low = u32::try_from(mask(field(command, 68, 64) + 1)).unwrap_or(u32::MAX);
    Cfgi::Streams {
        first: stream & !low,
        last: stream | low,
        level1: true,
    }
}
