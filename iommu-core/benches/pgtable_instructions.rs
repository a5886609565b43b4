//! Instructions that mapping takes, as callgrind counts them: through
//! [`Domain`](iommu_core::Domain), in a paging domain of the SMMUv3 driver, on hardware that has done
//! everything by the time anybody looks. Fails where a row takes more than it may.
//!
//! An unmap waits for the command queue. What that takes is a row of its own, `queue`, and taken off
//! where counts are printed: what is left is the page table's share and the gather's.

#[expect(dead_code, unused_imports, reason = "some of it is for other benches")]
mod common;
#[path = "common/counted.rs"]
mod counted;
#[expect(dead_code, reason = "rows are printed in another way here")]
#[path = "../../arm-smmu-v3/benches/common/counts.rs"]
mod counts;

use std::process::ExitCode;

use iommu_core::Result;

use common::{Case, K4, M2, Map, Nothing, Queue, Ranges, Shape, Translate, Unmap, warm};
use counted::{Counted, counted};

macro_rules! rows {
    ($with:ident) => {
        $with! {
            frame, 0, false, Nothing::new(new(0, K4));
            queue, 80, false, Queue::new();
            map_4k, 80, false, Map(new(0, K4).kept());
            unmap_4k, 90, true, Unmap::new(new(0, K4).kept());
            map_4k_512_into_a_table, 2_700, false, Map(new(0, M2).kept());
            map_4k_512_into_a_new_table, 1_700, false, Map(new(0, M2));
            unmap_4k_512, 2_300, true, Unmap::new(new(M2 / 2, M2).kept());
            unmap_4k_512_and_its_table, 2_300, true, Unmap::new(new(0, M2));
            map_2m_64, 480, false, Map(new(1 << 30, M2 * 64).kept());
            translate, 65, false, Translate::new(new(2 * M2, K4).kept());
            map_4k_among_1k, 80, false, Map(new(0, K4).kept().among(1 << 10));
            map_4k_among_1m, 80, false, Map(new(0, K4).kept().among(1 << 20));
            unmap_4k_among_1k, 90, true, Unmap::new(new(0, K4).kept().among(1 << 10));
            unmap_4k_among_1m, 90, true, Unmap::new(new(0, K4).kept().among(1 << 20));
            map_4k_of_4g, 80, false, Map(of_bits(32));
            map_4k_of_512g, 80, false, Map(of_bits(39));
            map_4k_by_cpu, 90, false, Map(by_cpu());
            unmap_4k_by_cpu, 119, true, Unmap::new(by_cpu());
        }
    };
}
rows!(counted);

fn new(offset: u64, len: u64) -> Ranges {
    Ranges::new(Shape::SMALL, offset, len)
}

fn of_bits(bits: u8) -> Ranges {
    let shape = Shape {
        bits,
        ..Shape::SMALL
    };
    Ranges::new(shape, 0, K4).kept()
}

/// Where the driver is told which CPU it runs on, which is another matter for every kernel.
fn by_cpu() -> Ranges {
    let shape = Shape {
        cpus: true,
        ..Shape::SMALL
    };
    Ranges::new(shape, 0, K4).kept()
}

fn main() -> ExitCode {
    harness::run();
    match Counted::of("pgtable_instructions") {
        Some(counted) => counted.hold(ROWS),
        None => ExitCode::SUCCESS,
    }
}
