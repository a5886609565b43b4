//! The tour's driver of a VT-d.

use intel_vtd_stub::{Config, IntelVtd, ShutdownPolicy};
use iommu_core::{BasicPlatform, FirmwareRegion, IommuOps, Result, StreamId};
use mock_hw::MockMemory;

use super::{Driver, Refusal};
use crate::machine::Machine;

/// A VT-d in legacy mode.
#[derive(Debug)]
pub struct Vtd<M: Machine>(IntelVtd<BasicPlatform<M::Bank, MockMemory, M::Clock>>);

impl<M: Machine> Driver for Vtd<M> {
    type Machine = M;

    const UNIT: &'static str = "VT-d";
    const ENTRY: &'static str = "entry";
    const FRAMEBUFFER: u64 = 0x0180_0000;
    const BLOCKED: Option<&'static str> = Some("the context entry is not present");
    const STRANGER: &'static str = "the context entry is not present";
    const UNMAPPED: &'static str = "writing is not allowed";

    fn bring_up(machine: &M, firmware: FirmwareRegion) -> Result<Self> {
        let config = Config {
            rmrrs: vec![firmware],
            ..Config::default()
        };
        IntelVtd::probe(machine.platform(), config).map(Self)
    }

    fn features(&self) -> String {
        let features = self.0.features();
        let second_stage = features.second_stage;
        format!(
            "{} mode, second stage of {} bits, {} bits of physical address",
            if features.scalable {
                "scalable"
            } else {
                "legacy"
            },
            second_stage.map_or(0, |stage| stage.input_bits),
            features.output_bits
        )
    }

    fn ops(&self) -> impl IommuOps {
        self.0.clone()
    }

    fn entry(&self, stream: StreamId) -> String {
        let entry = self.0.source_entry(stream);
        entry.map_or("none".into(), |entry| entry.to_string())
    }

    fn next_refusal(&self) -> Result<Option<Refusal>> {
        Ok(self.0.next_fault().map(|fault| Refusal {
            reason: fault.reason_name(),
            text: fault.to_string(),
        }))
    }

    fn shut_down(self) -> Result {
        self.0.shutdown(ShutdownPolicy::PassThrough)
    }
}
