//! Bring-up (3.11) and shutdown.

use lock_api::Mutex;

use iommu_core::entry::{Plan, Rules, Target};
use iommu_core::{
    Culprit, DmaMemory, Domain, Error, ErrorKind, Ids, Platform, RegisterBank, Result,
};

use crate::ats::Endpoints;
use crate::command_queue::CommandQueue;
use crate::config::{Config, ShutdownPolicy, StreamTableFormat};
use crate::entries::{self, WalkAttributes};
use crate::event_queue::EventQueue;
use crate::features::{Features, IdRegisters};
use crate::hardware::Hardware;
use crate::smmu::{Inner, Power};
use crate::spec::commands::Command;
use crate::spec::registers::{Cr0, Cr1, Cr2, IrqCtrl, SIZE, offset};
use crate::stream_table::StreamTable;

/// Makes an SMMU of a platform: reads what it is, allocates all it needs, then starts it.
pub(crate) fn bring_up<P: Platform>(platform: P, config: Config) -> Result<Inner<P>> {
    let inner = build(platform, config)?;
    // From here on, dropping `inner` shuts the hardware down.
    inner.start()?;
    Ok(inner)
}

fn build<P: Platform>(platform: P, config: Config) -> Result<Inner<P>> {
    let len = platform.bank().len();
    if len < SIZE {
        return Err(
            Error::new(ErrorKind::OutOfRange, "an SMMUv3 has 128 KiB of registers").of(
                Culprit::Register {
                    name: "the last mapped register",
                    value: len as u64,
                },
            ),
        );
    }
    let features = Features::decode(&IdRegisters::read(platform.bank()))?;
    let memory = platform.memory();
    let coherent = memory.is_coherent();
    if coherent != features.coherent {
        log::warn!(
            "the platform says that walks are {}coherent, the SMMU says otherwise: the platform is right",
            if coherent { "" } else { "not " }
        );
    }
    let two_level = match config.stream_table {
        StreamTableFormat::Auto => features.two_level_table,
        StreamTableFormat::Linear => false,
        StreamTableFormat::TwoLevel if features.two_level_table => true,
        StreamTableFormat::TwoLevel => {
            return Err(crate::smmu::unsupported(
                "the SMMU has no 2-level stream table",
            ));
        }
    };
    let output_bits = features.output_bits.into();
    let command_log2 = config
        .command_queue_log2
        .clamp(1, features.command_queue_log2);
    let event_log2 = config.event_queue_log2.min(features.event_queue_log2);
    let commands = CommandQueue::new(memory, command_log2, output_bits)?;
    let events = EventQueue::new(memory, event_log2, output_bits)?;
    let stream_bits = features.stream_bits.min(config.stream_bits.into());
    let walk = WalkAttributes::new(coherent);
    let unused = entries::unused(&features, walk);
    let streams = StreamTable::new(memory, unused, stream_bits, two_level, output_bits)?;
    let timeout = config.timeout;
    let abort = Target::new(entries::abort().to_words())?;
    let bypass = Target::new(entries::bypass(&features).to_words())?;
    let inner = Inner {
        hardware: Hardware::new(platform, timeout),
        features,
        config,
        walk,
        streams,
        commands,
        events,
        // 0 is never handed out: VMID 0 tags the stage-1 entries of all streams, which must share it
        // with no stage-2 table (3.17), and ASID 0 is what a CD of zeros has.
        asids: Ids::new("no ASID is free", 1, features.max_asid),
        vmids: Ids::new("no VMID is free", 1, features.max_vmid),
        blocked: Domain::blocked(),
        identity: Domain::identity(),
        abort,
        bypass,
        endpoints: Endpoints::new(),
        power: Mutex::new(Power::Untouched),
    };
    inner.preset_rmrs()?;
    Ok(inner)
}

impl<P: Platform> Inner<P> {
    /// Opens the streams that firmware asked to keep open. The hardware does not see the table yet.
    ///
    /// A stream that cannot be is firmware's mistake and is logged; running out of memory is not.
    fn preset_rmrs(&self) -> Result {
        let rules = Rules {
            atomicity: self.hardware.platform.memory().atomicity(),
            ..Rules::default()
        };
        for rmr in &self.config.rmrs {
            for &stream in &rmr.streams {
                match self.streams.reach(stream) {
                    Ok((entry, _)) => {
                        let mut live = entry.read();
                        for round in Plan::new(&live, &self.bypass, rules)?.rounds() {
                            round.apply(&mut live, &self.bypass, |store| entry.store(store));
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::OutOfRange => {
                        log::error!("firmware asks for {}: {error}", rmr.region);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn start(&self) -> Result {
        let hardware = &self.hardware;
        let was_on = Cr0::from(hardware.read32(offset::CR0)).smmuen()
            || Cr0::from(hardware.read32(offset::CR0ACK)).smmuen();
        // DMA that firmware started, a framebuffer's say, must not break off before its stream is
        // open. Where it passes at this moment, it goes on passing until the table is in force.
        let stays_open = !was_on && !hardware.gbpa().abort() && !self.config.rmrs.is_empty();
        if !stays_open {
            hardware.set_gbpa_abort(true)?;
        }
        *self.power.lock() = Power::On;
        hardware.set_cr0(Cr0::new())?;
        hardware.set_irq_ctrl(IrqCtrl::new())?;
        self.program();

        // Without the check a device could pass its own addresses off as translated (3.9.1.3). It
        // may be cached, so it comes before the invalidation.
        let mut cr0 = Cr0::new().with_cmdqen(true).with_atschk(self.features.ats);
        hardware.set_cr0(cr0)?;
        self.commands.open();
        // What the caches hold at this moment is anybody's guess (3.11). Configuration first: an
        // old entry could refill the TLB.
        self.invalidate([Command::cfgi_all()])?;
        let el2 = self.features.el2.then_some(Command::tlbi_el2_all());
        self.invalidate(el2.into_iter().chain([Command::tlbi_nsnh_all()]))?;

        cr0.set_eventqen(true);
        hardware.set_cr0(cr0)?;
        self.events.open();
        if self.config.interrupts {
            hardware.set_irq_ctrl(IrqCtrl::new().with_gerror(true).with_eventq(true))?;
        }
        cr0.set_smmuen(true);
        hardware.set_cr0(cr0)?;
        if stays_open {
            hardware.set_gbpa_abort(true)?;
        }
        Ok(())
    }

    /// Writes the registers that must not change while something is enabled.
    fn program(&self) {
        let Self {
            hardware,
            streams,
            commands,
            events,
            walk,
            ..
        } = self;
        let (cache, share) = (walk.cacheability, walk.shareability);
        let cr1 = Cr1::new()
            .with_table_ic(cache)
            .with_table_oc(cache)
            .with_table_sh(share)
            .with_queue_ic(cache)
            .with_queue_oc(cache)
            .with_queue_sh(share);
        hardware.write32(offset::CR1, cr1.into());
        // Streams beyond the table are recorded. No part in broadcast invalidation by CPUs, where
        // there is any: the ASIDs and VMIDs here are the driver's own.
        let cr2 = Cr2::new()
            .with_ptm(self.features.broadcast)
            .with_recinvsid(true);
        hardware.write32(offset::CR2, cr2.into());

        hardware.platform.memory().write_barrier();
        hardware.write64(offset::STRTAB_BASE, streams.base().into());
        hardware.write32(offset::STRTAB_BASE_CFG, streams.base_cfg().into());

        hardware.write64(offset::CMDQ_BASE, commands.base().into());
        hardware.write32(offset::CMDQ_PROD, 0);
        hardware.write32(offset::CMDQ_CONS, 0);

        hardware.write64(offset::EVENTQ_BASE, events.base().into());
        hardware.write32(offset::EVENTQ_PROD, 0);
        hardware.write32(offset::EVENTQ_CONS, 0);

        // An address of zero selects the wired interrupt (6.3.18).
        if self.features.msi {
            hardware.write64(offset::GERROR_IRQ_CFG0, 0);
            hardware.write64(offset::EVENTQ_IRQ_CFG0, 0);
        }
        // Errors from before are nobody's any more.
        hardware.write32(offset::GERRORN, hardware.read32(offset::GERROR));
    }

    /// Turns translation off, so that DMA does what `policy` says.
    pub(crate) fn shutdown(&self, policy: ShutdownPolicy) -> Result {
        let mut power = self.power.lock();
        match *power {
            Power::On | Power::Off => {}
            Power::Untouched => return Ok(()),
            Power::Stuck => return Err(crate::hardware::doubtful(0)),
        }
        let off = self.turn_off(policy);
        match off {
            Ok(()) => {
                *power = Power::Off;
                self.events.close();
                self.commands.close();
            }
            Err(_) => *power = Power::Stuck,
        }
        off
    }

    fn turn_off(&self, policy: ShutdownPolicy) -> Result {
        let hardware = &self.hardware;
        self.end_all_ats();
        // First: from the moment translation ends, this is all that counts.
        hardware.set_gbpa_abort(policy == ShutdownPolicy::Abort)?;
        hardware.set_cr0(Cr0::new())?;
        hardware.set_irq_ctrl(IrqCtrl::new())?;
        hardware.check_switches()
    }
}
