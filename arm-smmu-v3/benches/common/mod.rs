//! What both benches measure: `instructions` counts, `ste_write` times.

mod attach;
mod entry;
mod platform;
mod queue;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arm_smmu_v3::{ArmSmmuV3, Config};
use iommu_core::{
    DefaultDomain, DeviceInfo, DomainRef, Iommu, IommuConfig, NoControl, PagingConfig, Result,
    Stage, StreamId,
};

pub(crate) use attach::{Attach, On};
pub(crate) use entry::{Build, Frame, Kind, Transition, Written};
use platform::{Platform, Registers, platform};
pub(crate) use queue::{Floor, Invalidate, Wrapping};

/// One thing to measure.
pub(crate) trait Case: 'static {
    /// What is measured.
    fn call(&mut self) -> Result;

    /// Brings everything back to where [`call`](Self::call) starts from.
    fn reset(&mut self) {}
}

/// Every row: its name, the most instructions that it may take on x86-64 besides its frame, and its
/// case. The first row of a group is its floor, which the others are compared to.
///
/// A case is made by a function of a [`Lab`] and of a number, its own among several of its kind.
macro_rules! rows {
    ($with:ident) => {
        $with! {
            nothing: {
                frame, 1, Frame::new;
            }
            entry: {
                build_and_store, 20, Build::new;
                abort_to_stage1, 75, Transition::between(Kind::Abort, Kind::S1);
                stage2_to_abort, 75, Transition::between(Kind::S2, Kind::Abort);
                stage1_to_bypass, 140, Transition::between(Kind::S1, Kind::Bypass);
                stage1_to_stage2, 140, Transition::between(Kind::S1, Kind::S2);
                stage1_to_other_table, 85, Transition::between(Kind::S1, Kind::S1Prime);
                stage1_to_terminate, 85, Transition::between(Kind::S1, Kind::S1Term);
                stage1_to_itself, 45, Transition::between(Kind::S1, Kind::S1);
                stage2_to_other_table, 220, Transition::between(Kind::S2, Kind::S2Prime);
                stage1_to_s1dss_bypass, 85, Transition::between(Kind::S1, Kind::S1Bypass);
                detour_by_attributes, 1300, Transition::between(Kind::S1Stall, Kind::S2Stall);
            }
            queue: {
                store_and_doorbell, 18, Floor::new;
                cfgi_ste_and_sync, 60, Invalidate::ste;
                tlbi_64_pages_and_sync, 480, Invalidate::pages::<64>;
                tlbi_64_pages_that_wrap, 800, Wrapping::pages::<64>;
                written_abort_to_stage1, 220, Written::between(Kind::Abort, Kind::S1);
                written_stage1_to_abort, 150, Written::between(Kind::S1, Kind::Abort);
                written_stage1_to_other_table, 200, Written::between(Kind::S1, Kind::S1Prime);
            }
            attach: {
                attach_floor, 18, Floor::new;
                attach_blocked_to_stage1, 1700, Attach::between(On::Blocked, On::Stage1);
                attach_stage1_to_stage1, 1800, Attach::between(On::Stage1, On::OtherStage1);
                attach_stage1_to_blocked, 1700, Attach::between(On::Stage1, On::Blocked);
                attach_stage1_to_stage2, 4100, Attach::between(On::Stage1, On::Stage2);
            }
        }
    };
}
pub(crate) use rows;

/// An SMMU, and domains on it.
pub(crate) struct Lab {
    smmu: ArmSmmuV3<Platform>,
    iommu: Iommu,
    /// In the order of [`On`].
    domains: [DomainRef; 4],
    /// Memory and registers that are nobody's, for floors.
    slots: [AtomicU64; 8],
    registers: Registers,
}

impl Lab {
    /// A lab that stays for good.
    pub(crate) fn new() -> &'static Self {
        let smmu = ArmSmmuV3::probe(platform(), Config::default()).expect("an SMMU");
        let config = IommuConfig {
            default_domain: DefaultDomain::Parked,
            ..IommuConfig::default()
        };
        let iommu = Iommu::with_config(smmu.clone(), config).expect("an IOMMU");
        let paging = |stage| {
            let config = PagingConfig {
                stage,
                ..PagingConfig::default()
            };
            iommu.paging_domain(&config).expect("a domain")
        };
        let domains = [
            iommu.blocked_domain(),
            paging(Stage::First),
            paging(Stage::First),
            paging(Stage::Second),
        ];
        Box::leak(Box::new(Self {
            smmu,
            iommu,
            domains,
            slots: Default::default(),
            registers: Registers::new(),
        }))
    }

    /// A device with one stream.
    fn device(&self, stream: StreamId) -> iommu_core::Device {
        let info = DeviceInfo::new("a device").streams([stream]);
        self.iommu
            .add_device(info, Arc::new(NoControl))
            .expect("a device")
    }
}

/// A case that has been called before: whatever happens once only has happened.
pub(crate) fn warm<C: Case>(
    make: impl Fn(&'static Lab, u32) -> C,
    lab: &'static Lab,
    n: u32,
) -> &'static mut C {
    let case = Box::leak(Box::new(make(lab, n)));
    case.reset();
    case.call().expect("it works");
    case.reset();
    case
}
