//! The driver over a small machine.

mod attach;
mod bring_up;
mod fakes;
mod faults;
mod features;
mod queue;
mod registers;
mod scalable;
mod shutdown;

use std::sync::Arc;
use std::time::Duration;
use std::vec::Vec;

use iommu_core::{
    DefaultDomain, Device, DeviceInfo, FirmwareRegion, Iommu, IommuConfig, NoControl,
};
use iommu_core::{ReservedKind, ReservedRegion, StreamId};

use crate::{Config, IntelVtd};
use fakes::{Event, Machine, TestPlatform};

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
        ..Config::default()
    }
}

fn start(machine: &Machine, rmrrs: Vec<FirmwareRegion>) -> Vtd {
    start_with(machine, config(rmrrs))
}

fn start_with(machine: &Machine, config: Config) -> Vtd {
    let vtd = IntelVtd::probe(machine.platform(), config).unwrap();
    machine.events();
    vtd
}

/// Devices rest where they are parked unless something is attached.
fn core(vtd: &Vtd) -> Iommu {
    let config = IommuConfig {
        default_domain: DefaultDomain::Parked,
        ..IommuConfig::default()
    };
    Iommu::with_config(vtd.clone(), config).unwrap()
}

fn add(iommu: &Iommu, name: &str, streams: &[u32]) -> Device {
    let info = DeviceInfo::new(name).streams(streams.iter().copied());
    iommu.add_device(info, Arc::new(NoControl)).unwrap()
}

/// A descriptor without a second word.
const fn told(low: u64) -> Event {
    Event::Descriptor(low, 0)
}
