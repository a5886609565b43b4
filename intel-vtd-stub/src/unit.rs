//! One remapping unit's registers: commands, and a bound on every wait.

use core::time::Duration;

use iommu_core::{Clock, Culprit, DmaMemory, Error, ErrorKind, PhysAddr, Platform};
use iommu_core::{RegisterBank, Result};

use crate::spec::{self, Fsts, Gcmd, Gsts, Iqa, Pmen, Rtaddr};

/// The bits of GSTS that are switches in GCMD.
const SWITCHES: u32 = Gcmd::new()
    .with_te(true)
    .with_eafl(true)
    .with_qie(true)
    .with_ire(true)
    .with_cfi(true)
    .into_bits();

/// The bits of IQH and IQT that count.
const QUEUE_BITS: u64 = 0x7_fff0;

/// A platform, and the bound of every wait for its unit.
pub(crate) struct Unit<P> {
    platform: P,
    timeout: Duration,
}

impl<P: Platform> Unit<P> {
    pub(crate) fn new(platform: P, timeout: Duration) -> Self {
        Self { platform, timeout }
    }

    pub(crate) fn memory(&self) -> &P::Memory {
        self.platform.memory()
    }

    pub(crate) fn current_cpu(&self) -> usize {
        self.platform.current_cpu()
    }

    pub(crate) fn bank(&self) -> &P::Bank {
        self.platform.bank()
    }

    /// Looks until `look` returns something or the bound has passed.
    pub(crate) fn poll<T>(&self, look: impl FnMut() -> Option<T>) -> Option<T> {
        self.platform.clock().poll(self.timeout, look)
    }

    fn wait(
        &self,
        register: &'static str,
        reason: &'static str,
        read: impl Fn(&P::Bank) -> u64,
        done: impl Fn(u64) -> bool,
    ) -> Result {
        let mut value = 0;
        let seen = self.poll(|| {
            value = read(self.bank());
            done(value).then_some(())
        });
        seen.ok_or(
            Error::new(ErrorKind::IommuTimedOut, reason).of(Culprit::Register {
                name: register,
                value,
            }),
        )
    }

    /// The switches as they stand. Every later write to GCMD repeats them.
    pub(crate) fn switches(&self) -> Gcmd {
        Gcmd::from_bits(self.bank().read32(spec::GSTS) & SWITCHES)
    }

    /// Writes one command and waits for its status: the hardware takes one at a time (6.9).
    fn command(&self, command: Gcmd, reason: &'static str, done: impl Fn(Gsts) -> bool) -> Result {
        self.bank().write32(spec::GCMD, command.into_bits());
        self.wait(
            "GSTS_REG",
            reason,
            |bank| u64::from(bank.read32(spec::GSTS)),
            |value| u32::try_from(value).is_ok_and(|value| done(Gsts::from_bits(value))),
        )
    }

    /// Switches translation.
    pub(crate) fn translate(&self, switches: &mut Gcmd, on: bool) -> Result {
        if switches.te() == on {
            return Ok(());
        }
        let next = switches.with_te(on);
        let reason = if on {
            "translation was not switched on"
        } else {
            "translation was not switched off"
        };
        self.command(next, reason, |status| status.tes() == on)?;
        *switches = next;
        Ok(())
    }

    /// Switches the invalidation queue off, once it is worked off (6.5.2).
    pub(crate) fn retire_queue(&self, switches: &mut Gcmd) -> Result {
        if !switches.qie() {
            return Ok(());
        }
        self.wait(
            "IQH_REG",
            "the invalidation queue was not worked off",
            |bank| bank.read64(spec::IQH) ^ bank.read64(spec::IQT),
            |distance| distance & QUEUE_BITS == 0,
        )?;
        let next = switches.with_qie(false);
        self.command(
            next,
            "the invalidation queue was not switched off",
            |status| !status.qies(),
        )?;
        *switches = next;
        Ok(())
    }

    /// Switches the invalidation queue on, empty; errors of an earlier one are forgotten.
    pub(crate) fn start_queue(&self, switches: &mut Gcmd, address: Iqa) -> Result {
        let bank = self.bank();
        let stale = Fsts::from_bits(bank.read32(spec::FSTS));
        let errors = Fsts::new()
            .with_iqe(stale.iqe())
            .with_ice(stale.ice())
            .with_ite(stale.ite());
        if errors.into_bits() != 0 {
            bank.write32(spec::FSTS, errors.into_bits());
        }
        bank.write64(spec::IQT, 0);
        bank.write64(spec::IQA, address.into_bits());
        let next = switches.with_qie(true);
        self.command(
            next,
            "the invalidation queue was not switched on",
            |status| status.qies(),
        )?;
        *switches = next;
        Ok(())
    }

    /// Flushes the write buffers that the hardware has. An invalidation does that too (6.8), so it
    /// is needed only for changes that none follows.
    pub(crate) fn flush_write_buffers(&self, switches: Gcmd) -> Result {
        self.command(
            switches.with_wbf(true),
            "the write buffers were not flushed",
            |status| !status.wbfs(),
        )
    }

    /// Whether the root table in use is one of this mode.
    pub(crate) fn is_in_mode(&self, scalable: bool) -> bool {
        let mode = Rtaddr::from_bits(self.bank().read64(spec::RTADDR)).ttm();
        mode == u8::from(scalable)
    }

    /// Makes the hardware take over the root table at `root`.
    pub(crate) fn set_root(&self, switches: Gcmd, root: PhysAddr, scalable: bool) -> Result {
        let address = Rtaddr::new()
            .with_ttm(u8::from(scalable))
            .with_rta(root.0 >> 12);
        self.bank().write64(spec::RTADDR, address.into_bits());
        self.command(
            switches.with_srtp(true),
            "the root table's address was not taken over",
            |status| status.rtps(),
        )
    }

    /// Ends firmware's protected memory regions, which keep out even devices that pass through.
    pub(crate) fn unprotect(&self) -> Result {
        let bank = self.bank();
        let pmen = Pmen::from_bits(bank.read32(spec::PMEN));
        if !pmen.epm() && !pmen.prs() {
            return Ok(());
        }
        bank.write32(spec::PMEN, pmen.with_epm(false).into_bits());
        self.wait(
            "PMEN_REG",
            "the protected memory regions were not switched off",
            |bank| u64::from(bank.read32(spec::PMEN)),
            |value| value & u64::from(Pmen::new().with_prs(true).into_bits()) == 0,
        )
    }

    /// Orders every earlier store before whatever the hardware is told next.
    pub(crate) fn publish(&self) {
        self.memory().write_barrier();
    }
}
