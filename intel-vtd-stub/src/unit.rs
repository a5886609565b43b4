//! One remapping unit's registers: commands, invalidations, and a bound on every wait.

use core::time::Duration;

use iommu_core::{Clock, Culprit, DmaMemory, Error, ErrorKind, PhysAddr, Platform};
use iommu_core::{RegisterBank, Result};

use crate::spec::{self, AddressWidth, Cap, Ccmd, Ecap, Fsts, Gcmd, Granularity, Gsts};
use crate::spec::{Iotlb, Pmen, Rtaddr, Ver};

/// The bits of GSTS that are switches in GCMD.
const SWITCHES: u32 = Gcmd::new()
    .with_te(true)
    .with_eafl(true)
    .with_qie(true)
    .with_ire(true)
    .with_cfi(true)
    .into_bits();

/// The last major version that still has register-based invalidation.
const LAST_MAJOR: u8 = 5;

/// A unit that this crate can drive.
pub(crate) struct Unit<P> {
    platform: P,
    timeout: Duration,
    cap: Cap,
    ecap: Ecap,
    /// The offset of IOTLB_REG.
    iotlb: usize,
}

impl<P: Platform> Unit<P> {
    /// Reads the identification registers and refuses what cannot work. Writes nothing.
    pub(crate) fn identify(platform: P, timeout: Duration) -> Result<Self> {
        let bank = platform.bank();
        if bank.len() < spec::FIXED_END {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "the register bank is too small for a remapping unit",
            ));
        }
        let ver = Ver::from_bits(bank.read32(spec::VER));
        let cap = Cap::from_bits(bank.read64(spec::CAP));
        let ecap = Ecap::from_bits(bank.read64(spec::ECAP));
        let iva = usize::from(ecap.iro()) * 16;
        let iotlb = iva + spec::IOTLB_OFFSET;
        let refused = |kind, reason, name, value| {
            Err(Error::new(kind, reason).of(Culprit::Register { name, value }))
        };
        if ver.major() == 0 || ver.major() > LAST_MAJOR {
            return refused(
                ErrorKind::Unsupported,
                "not a version with register-based invalidation",
                "VER_REG",
                u64::from(ver.into_bits()),
            );
        }
        if cap.nd() == 7 {
            return refused(
                ErrorKind::Hardware,
                "the number of domain ids is a reserved encoding",
                "CAP_REG",
                cap.into_bits(),
            );
        }
        if iva < spec::FIXED_END {
            return refused(
                ErrorKind::Hardware,
                "the IOTLB registers lie on top of other registers",
                "ECAP_REG",
                ecap.into_bits(),
            );
        }
        if iotlb + size_of::<Iotlb>() > bank.len() {
            return refused(
                ErrorKind::InvalidArgument,
                "the IOTLB registers lie beyond the end of the register bank",
                "ECAP_REG",
                ecap.into_bits(),
            );
        }
        if !ecap.c() && platform.memory().is_coherent() {
            return refused(
                ErrorKind::InvalidArgument,
                "table walks do not see the CPU's caches, but the platform's memory says they do",
                "ECAP_REG",
                ecap.into_bits(),
            );
        }
        Ok(Self {
            platform,
            timeout,
            cap,
            ecap,
            iotlb,
        })
    }

    pub(crate) fn memory(&self) -> &P::Memory {
        self.platform.memory()
    }

    /// The address width of pass-through entries, or `None` where there can be no such entries.
    pub(crate) fn pass_through(&self) -> Option<AddressWidth> {
        let widths = [
            (1 << 3, AddressWidth::BITS_57),
            (1 << 2, AddressWidth::BITS_48),
            (1 << 1, AddressWidth::BITS_39),
        ];
        widths
            .into_iter()
            .find(|(bit, _)| self.ecap.pt() && self.cap.sagaw() & bit != 0)
            .map(|(_, width)| width)
    }

    fn wait(
        &self,
        register: &'static str,
        reason: &'static str,
        read: impl Fn(&P::Bank) -> u64,
        done: impl Fn(u64) -> bool,
    ) -> Result<u64> {
        let mut value = 0;
        let seen = self.platform.clock().poll(self.timeout, || {
            value = read(self.platform.bank());
            done(value).then_some(value)
        });
        seen.ok_or(
            Error::new(ErrorKind::IommuTimedOut, reason).of(Culprit::Register {
                name: register,
                value,
            }),
        )
    }

    pub(crate) fn status(&self) -> Gsts {
        Gsts::from_bits(self.platform.bank().read32(spec::GSTS))
    }

    /// Whether the fault status register reports a fault.
    pub(crate) fn fault_pending(&self) -> bool {
        let faults = Fsts::from_bits(self.platform.bank().read32(spec::FSTS));
        faults.ppf() || faults.pfo()
    }

    /// The switches as they stand. Every later write to GCMD repeats them.
    pub(crate) fn switches(&self) -> Gcmd {
        Gcmd::from_bits(self.status().into_bits() & SWITCHES)
    }

    /// Writes one command and waits for its status: the hardware takes one at a time.
    fn command(
        &self,
        command: Gcmd,
        reason: &'static str,
        done: impl Fn(Gsts) -> bool,
    ) -> Result<()> {
        self.platform
            .bank()
            .write32(spec::GCMD, command.into_bits());
        self.wait(
            "GSTS_REG",
            reason,
            |bank| u64::from(bank.read32(spec::GSTS)),
            |value| u32::try_from(value).is_ok_and(|value| done(Gsts::from_bits(value))),
        )?;
        Ok(())
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

    /// Switches off the invalidation queue that firmware left on: while it is on, the registers
    /// must not be used for invalidations (6.5).
    pub(crate) fn retire_queue(&self, switches: &mut Gcmd) -> Result {
        if !switches.qie() {
            return Ok(());
        }
        self.wait(
            "IQH_REG",
            "the invalidation queue that firmware left on was not worked off",
            |bank| bank.read64(spec::IQH) ^ bank.read64(spec::IQT),
            |distance| distance & 0x7_fff0 == 0,
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

    /// Flushes the write buffers where the hardware has any. An invalidation of the context cache
    /// does that too, so it is needed only for changes that no invalidation follows.
    pub(crate) fn flush_write_buffers(&self, switches: Gcmd) -> Result {
        if !self.cap.rwbf() {
            return Ok(());
        }
        self.command(
            switches.with_wbf(true),
            "the write buffers were not flushed",
            |status| !status.wbfs(),
        )
    }

    /// Whether the root table in use is one of legacy mode.
    pub(crate) fn is_legacy(&self) -> bool {
        Rtaddr::from_bits(self.platform.bank().read64(spec::RTADDR)).ttm() == 0
    }

    /// Makes the hardware take over the root table at `root`, of legacy mode.
    pub(crate) fn set_root(&self, switches: Gcmd, root: PhysAddr) -> Result {
        let address = Rtaddr::new().with_rta(root.0 >> 12);
        self.platform
            .bank()
            .write64(spec::RTADDR, address.into_bits());
        self.command(
            switches.with_srtp(true),
            "the root table's address was not taken over",
            |status| status.rtps(),
        )
    }

    /// Makes the hardware forget every context entry, then every translation made with one. When
    /// this returns `Ok`, every change in memory before the call counts, and requests let through
    /// earlier have ended, as far as the hardware can drain them.
    pub(crate) fn invalidate(&self) -> Result {
        self.platform.memory().write_barrier();
        let bank = self.platform.bank();
        // Nobody else asks for invalidations; one can be under way if an earlier wait ran out.
        self.context_done()?;
        self.iotlb_done()?;
        let contexts = Ccmd::new().with_icc(true).with_cirg(Granularity::GLOBAL);
        bank.write64(spec::CCMD, contexts.into_bits());
        self.context_done()?;
        let translations = Iotlb::new()
            .with_ivt(true)
            .with_iirg(Granularity::GLOBAL)
            .with_dr(self.cap.drd())
            .with_dw(self.cap.dwd());
        bank.write64(self.iotlb, translations.into_bits());
        let answer = self.iotlb_done()?;
        if answer.iaig() == Granularity::NONE {
            return Err(Error::new(
                ErrorKind::Hardware,
                "the hardware ignored an invalidation of the IOTLB",
            )
            .of(Culprit::Register {
                name: "IOTLB_REG",
                value: answer.into_bits(),
            }));
        }
        Ok(())
    }

    fn context_done(&self) -> Result {
        self.wait(
            "CCMD_REG",
            "an invalidation of the context cache did not end",
            |bank| bank.read64(spec::CCMD),
            |value| !Ccmd::from_bits(value).icc(),
        )?;
        Ok(())
    }

    fn iotlb_done(&self) -> Result<Iotlb> {
        let answer = self.wait(
            "IOTLB_REG",
            "an invalidation of the IOTLB did not end",
            |bank| bank.read64(self.iotlb),
            |value| !Iotlb::from_bits(value).ivt(),
        )?;
        Ok(Iotlb::from_bits(answer))
    }

    /// Ends firmware's protected memory regions, which keep out even devices that pass through.
    pub(crate) fn unprotect(&self) -> Result {
        if !self.cap.plmr() && !self.cap.phmr() {
            return Ok(());
        }
        let bank = self.platform.bank();
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
        )?;
        Ok(())
    }
}
