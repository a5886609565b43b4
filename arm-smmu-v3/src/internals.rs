//! Parts of the driver for this crate's own benches. Not part of the API: no promise is made about
//! any of it.

use iommu_core::{Platform, Result};

use crate::smmu::ArmSmmuV3;
use crate::spec::commands::Command;

/// Runs `commands` through the command queue, a `CMD_SYNC` behind them, and waits for that.
///
/// # Errors
///
/// As the queue's.
pub fn run<P: Platform>(
    smmu: &ArmSmmuV3<P>,
    commands: impl IntoIterator<Item = Command>,
) -> Result {
    smmu.inner.commands.run(&smmu.inner.hardware, commands)
}
