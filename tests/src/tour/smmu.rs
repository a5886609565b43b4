//! The tour's driver of an SMMUv3.

use arm_smmu_v3::{ArmSmmuV3, Config, ShutdownPolicy};
use iommu_core::{BasicPlatform, FirmwareRegion, IommuOps, Result, StreamId};
use mock_hw::MockMemory;

use super::{Driver, Refusal};
use crate::machine::Machine;

/// The stream table covers the first 32 streams: the third master's is not among them.
const STREAM_BITS: u8 = 5;

/// An SMMUv3.
#[derive(Debug)]
pub struct Smmu<M: Machine>(ArmSmmuV3<BasicPlatform<M::Bank, MockMemory, M::Clock>>);

impl<M: Machine> Driver for Smmu<M> {
    type Machine = M;

    const UNIT: &'static str = "SMMU";
    const ENTRY: &'static str = "STE";
    const FRAMEBUFFER: u64 = 0x4180_0000;
    const BLOCKED: Option<&'static str> = None;
    const STRANGER: &'static str = "C_BAD_STREAMID";
    const UNMAPPED: &'static str = "F_TRANSLATION";

    fn bring_up(machine: &M, firmware: FirmwareRegion) -> Result<Self> {
        let config = Config {
            rmrs: vec![firmware],
            stream_bits: STREAM_BITS,
            ..Config::default()
        };
        ArmSmmuV3::probe(machine.platform(), config).map(Self)
    }

    fn features(&self) -> String {
        let features = self.0.features();
        format!(
            "stages {}{}, {} stream bits of which {STREAM_BITS} are used, {} bits of physical address",
            if features.stage1 { "1 " } else { "" },
            if features.stage2 { "2" } else { "" },
            features.stream_bits,
            features.output_bits
        )
    }

    fn ops(&self) -> impl IommuOps {
        self.0.clone()
    }

    fn entry(&self, stream: StreamId) -> String {
        let entry = self.0.stream_entry(stream);
        entry.map_or("none".into(), |entry| entry.to_string())
    }

    fn next_refusal(&self) -> Result<Option<Refusal>> {
        let event = self.0.next_event()?;
        Ok(event.map(|event| Refusal {
            reason: event.kind().name(),
            text: event.to_string(),
        }))
    }

    fn shut_down(self) -> Result {
        self.0.shutdown(ShutdownPolicy::Abort)
    }
}
