//! ATS as the SMMU sees it: translation requests, and transactions that the device has translated
//! already (3.9.1, 13.6, 13.7).

use iommu_core::PhysAddr;

use super::State;
use super::decode::Ste;
use super::events::{Fault, Transaction};
use super::registers::{CR0_ATSCHK, CR0_SMMUEN};
use super::tlb::Leaf;
use super::translate::Stop;
use crate::device::{Access, Outcome};

/// How an SMMU completes a translation request for one page of 4 KiB (3.9.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completion {
    /// Success. Without any permission, the address means nothing.
    Success {
        /// Where the page is: a physical address, or an intermediate one with split-stage ATS.
        page: PhysAddr,
        /// Whether it may be read.
        read: bool,
        /// Whether it may be written; never where that was not asked for.
        write: bool,
    },
    /// Completer Abort (CA): the stream's configuration is wrong, or cannot be read.
    CompleterAbort,
    /// Unsupported Request (UR): the stream is not allowed to ask.
    UnsupportedRequest,
}

/// A translation request that does not succeed, with the event that the SMMU has for it.
struct Refused(Completion, Option<Fault>);

impl Refused {
    fn unsupported(fault: Option<Fault>) -> Self {
        Self(Completion::UnsupportedRequest, fault)
    }
}

impl State {
    /// Completes a translation request. Events are recorded, apart from `quietly`.
    pub(super) fn translation_request(
        &mut self,
        t: &Transaction,
        write: bool,
        quietly: bool,
    ) -> Completion {
        match self.complete(*t, write) {
            Ok(completion) => completion,
            Err(Refused(completion, fault)) => {
                if let (Some(fault), false) = (fault, quietly) {
                    self.record(fault.record(t));
                }
                completion
            }
        }
    }

    fn complete(&mut self, mut t: Transaction, write: bool) -> Result<Completion, Refused> {
        if !self.config.has_ats() {
            return Err(Refused::unsupported(None));
        }
        if self.regs.cr0ack & CR0_SMMUEN == 0 {
            return Err(Refused::unsupported(Some(Fault::BadAtsRequest)));
        }
        self.remember_stream(t.stream);
        let ste = self
            .ste(t.stream)
            .map_err(|stop| self.misconfigured(stop))?;
        if !ste.passes {
            return Err(Refused::unsupported(None));
        }
        if self.ats_in_force(&ste) == 0 {
            return Err(Refused::unsupported(Some(Fault::BadAtsRequest)));
        }
        t.privileged = ste.privileged;
        let for_read = self.grant(&ste, &t, Access::Read)?;
        let for_write = if write {
            self.grant(&ste, &t, Access::Write)?
        } else {
            None
        };
        let address = for_read.or(for_write).map_or(0, |leaf| {
            if self.ats_in_force(&ste) == 2 {
                leaf.intermediate
            } else {
                leaf.output
            }
        });
        Ok(Completion::Success {
            page: PhysAddr(address & !0xfff),
            read: for_read.is_some(),
            write: for_write.is_some(),
        })
    }

    /// The translation, if it allows this kind of access: a fault of the translation itself is no
    /// error, and is not recorded.
    fn grant(
        &mut self,
        ste: &Ste,
        t: &Transaction,
        access: Access,
    ) -> Result<Option<Leaf>, Refused> {
        match self.translate_by(ste, &Transaction { access, ..*t }) {
            Ok(leaf) => Ok(Some(leaf)),
            Err(stop @ Stop::Record(fault)) if !fault.is_configurable() => {
                Err(self.misconfigured(stop))
            }
            Err(_) => Ok(None),
        }
    }

    fn misconfigured(&self, stop: Stop) -> Refused {
        let recorded = match stop {
            Stop::Record(fault) if self.records_ats() => Some(fault),
            _ => None,
        };
        Refused(Completion::CompleterAbort, recorded)
    }

    /// `REC_CFG_ATS`: whether errors of configuration that ATS meets are recorded.
    fn records_ats(&self) -> bool {
        self.config.idr0_bit(23) && self.regs.cr2 & 1 << 3 != 0
    }

    /// `EATS` as it counts (5.2): what needs the check of translated transactions is nothing
    /// without it.
    fn ats_in_force(&self, ste: &Ste) -> u8 {
        match ste.eats {
            2 | 3 if self.regs.cr0ack & CR0_ATSCHK == 0 => 0,
            eats => eats,
        }
    }

    /// Sends a transaction whose address the device has translated.
    pub(super) fn transact_translated(&mut self, t: &Transaction) -> Outcome {
        match self.check_translated(t) {
            Ok(addr) => Outcome::Translated(PhysAddr(addr)),
            Err(stop) => self.refuse(t, stop),
        }
    }

    /// Where a translated transaction goes (3.9.1.3).
    pub(super) fn check_translated(&mut self, t: &Transaction) -> Result<u64, Stop> {
        if !self.config.has_ats() {
            return Err(Stop::Silent);
        }
        if self.regs.cr0ack & CR0_SMMUEN == 0 {
            return Err(Fault::TranslatedForbidden.into());
        }
        if self.regs.cr0ack & CR0_ATSCHK == 0 {
            return self.as_physical(t.iova);
        }
        self.remember_stream(t.stream);
        let ste = self.ste(t.stream).map_err(|stop| match stop {
            Stop::Record(fault) if self.records_ats() => fault.into(),
            // Whether that is recorded does not depend on `RECINVSID`.
            Stop::Silent if self.records_ats() => Fault::BadStreamId.into(),
            _ => Stop::Silent,
        })?;
        if !ste.passes {
            return Err(Stop::Silent);
        }
        match ste.eats {
            1 => self.as_physical(t.iova),
            2 => {
                let t = Transaction {
                    privileged: ste.privileged,
                    ..*t
                };
                self.without_stage1(&ste, &t).map(|leaf| leaf.output)
            }
            // 3: walks of the device permission table are never enabled here (3.24).
            _ => Err(Fault::TranslatedForbidden.into()),
        }
    }

    /// An address that the device gives as physical (3.9.1.1).
    fn as_physical(&self, addr: u64) -> Result<u64, Stop> {
        if addr >> self.config.output_bits() == 0 {
            Ok(addr)
        } else {
            Err(Stop::Silent)
        }
    }
}
