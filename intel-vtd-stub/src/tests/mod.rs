//! The driver over a small machine.

mod attach;
mod bring_up;
mod fakes;

use std::time::Duration;
use std::vec::Vec;

use iommu_core::{FirmwareRegion, ReservedKind, ReservedRegion, StreamId};

use crate::{Config, IntelVtd};
use fakes::{Machine, TestPlatform};

type Vtd = IntelVtd<TestPlatform>;

fn region(kind: ReservedKind) -> ReservedRegion {
    ReservedRegion::new(0x8000_0000, 0x1000, kind).unwrap()
}

/// An RMRR of these source ids.
fn rmrr(streams: &[u32]) -> FirmwareRegion {
    FirmwareRegion {
        streams: streams.iter().copied().map(StreamId).collect(),
        region: region(ReservedKind::Direct),
    }
}

fn config(rmrrs: Vec<FirmwareRegion>) -> Config {
    Config {
        timeout: Duration::from_millis(5),
        rmrrs,
    }
}

fn start(machine: &Machine, rmrrs: Vec<FirmwareRegion>) -> Vtd {
    let vtd = IntelVtd::probe(machine.platform(), config(rmrrs)).unwrap();
    machine.events();
    vtd
}
