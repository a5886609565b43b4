//! An IOMMU switched off for a moment, so that the harness reaches a device's buffer.

use super::error::QemuError;
use super::qtest::{Access, Session, low};

const SMMU_CR0: u64 = super::SMMU_BASE + 0x20;
const SMMU_CR0_SMMUEN: u32 = 1 << 0;
const SMMU_GBPA: u64 = super::SMMU_BASE + 0x44;
const SMMU_GBPA_ABORT: u32 = 1 << 20;
const SMMU_GBPA_UPDATE: u32 = 1 << 31;

const VTD_GCMD: u64 = super::VTD_BASE + 0x18;
const VTD_GSTS: u64 = super::VTD_BASE + 0x1c;
const VTD_TRANSLATION: u32 = 1 << 31;
/// What `GSTS` shows that is a switch of `GCMD`, and no command done once.
const VTD_SWITCHES: u32 = 0x9680_0000;

/// How an IOMMU is passed by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bypass {
    /// `CR0.SMMUEN` and `GBPA.ABORT` cleared. The caches of QEMU's SMMU stay as they are.
    Smmu,
    /// `GCMD.TE` cleared. The caches of QEMU's VT-d are empty afterwards.
    Vtd,
}

impl Bypass {
    /// Does `what` while nothing is translated or refused; the registers are as before then.
    pub(super) fn with<'a, T>(
        self,
        session: &mut Session<'a>,
        what: impl FnOnce(&mut Session<'a>) -> Result<T, QemuError>,
    ) -> Result<T, QemuError> {
        match self {
            Self::Smmu => {
                let [cr0, gbpa] = session
                    .batch([Access::ReadL(SMMU_CR0), Access::ReadL(SMMU_GBPA)])?
                    .map(low);
                session.batch([
                    Access::WriteL(SMMU_CR0, cr0 & !SMMU_CR0_SMMUEN),
                    Access::WriteL(SMMU_GBPA, gbpa & !SMMU_GBPA_ABORT | SMMU_GBPA_UPDATE),
                ])?;
                let done = what(session);
                session.batch([
                    Access::WriteL(SMMU_GBPA, gbpa | SMMU_GBPA_UPDATE),
                    Access::WriteL(SMMU_CR0, cr0),
                ])?;
                done
            }
            Self::Vtd => {
                let on = low(session.access(Access::ReadL(VTD_GSTS))?) & VTD_SWITCHES;
                if on & VTD_TRANSLATION == 0 {
                    return what(session);
                }
                session.access(Access::WriteL(VTD_GCMD, on & !VTD_TRANSLATION))?;
                let done = what(session);
                session.access(Access::WriteL(VTD_GCMD, on))?;
                done
            }
        }
    }
}
