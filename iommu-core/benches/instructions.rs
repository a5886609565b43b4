//! Instructions per call, as callgrind counts them, and how many times the floor's that is. Fails
//! where a row takes more than it may.

#[expect(dead_code, unused_imports, reason = "some of it is for other benches")]
mod common;
#[path = "../../arm-smmu-v3/benches/common/counts.rs"]
mod counts;

use std::hint::black_box;

use common::Case;
use iommu_core::Result;

/// Every row: its name, the most instructions that it may take on x86-64 besides its frame, and its
/// case. The first row of a group is its floor, which the others are compared to.
macro_rules! rows {
    ($with:ident) => {
        $with! {
            nothing: {
                frame, 0, Frame(0);
            }
            iova: {
                iova_floor, 45, Floor::new();
                iova_1_page, 75, Hot::new(1);
                iova_8_pages, 75, Hot::new(8);
                iova_64_pages, 75, Hot::new(64);
                iova_512_pages, 75, Hot::new(512);
                iova_1024_pages, 75, Hot::new(1024);
                iova_2048_pages, 3600, Large::new(2048);
                iova_512_of_each_1_page, 130_000, Churn::counted(0..=0);
                iova_512_of_each_8_pages, 130_000, Churn::counted(3..=3);
                iova_512_of_each_64_pages, 130_000, Churn::counted(6..=6);
                iova_512_of_each_mixed, 130_000, Churn::counted(0..=10);
            }
        }
    };
}

macro_rules! names {
    ($($group:ident: { $($name:ident, $limit:expr, $make:expr;)+ })+) => {
        /// The rows of each group.
        const ROWS: &[(&str, &[&str])] = &[$((stringify!($group), &[$(stringify!($name)),+])),+];
    };
}
rows!(names);

/// A call of a function that does nothing.
struct Frame(u64);

impl Case for Frame {
    #[inline(always)]
    fn call(&mut self) -> Result {
        nothing(&mut self.0);
        Ok(())
    }
}

#[inline(never)]
fn nothing(_: &mut u64) {
    black_box(());
}

/// The instructions on x86-64 that calling a case takes by itself: the row `frame`. They are counted
/// with every row, and taken off where counts are printed.
const FRAME: u64 = 9;

#[expect(unreachable_pub, reason = "what gungraun generates")]
mod harness {
    use gungraun::prelude::*;
    use gungraun::{Callgrind, EventKind};
    use iommu_core::Result;

    use crate::Frame;
    use crate::common::{Case, Churn, Floor, Hot, Large, warm};

    macro_rules! groups {
        ($($group:ident: { $($name:ident, $limit:expr, $make:expr;)+ })+) => {
            $(
                $(
                    #[library_benchmark(config = at_most(crate::FRAME + $limit))]
                    #[bench::call(warm($make))]
                    fn $name<C: Case>(case: &'static mut C) -> Result {
                        case.call()
                    }
                )+
                library_benchmark_group!(name = $group; benchmarks = $($name),+);
            )+
            gungraun::main!(library_benchmark_groups = $($group),+);
        };
    }
    rows!(groups);

    fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
        let mut callgrind = Callgrind::default();
        callgrind.format([EventKind::Ir]);
        if cfg!(target_arch = "x86_64") {
            callgrind.hard_limits([(EventKind::Ir, instructions)]);
        }
        let mut config = LibraryBenchmarkConfig::default();
        config.tool(callgrind);
        config
    }

    /// Runs the benches, or the one that the runner asks this process for. Where one takes more
    /// than it may, does not return.
    pub(super) fn run() {
        main();
    }
}

fn main() {
    harness::run();
    if let Some(counts) = counts::Counts::of("instructions") {
        counts.print(ROWS, FRAME);
    }
}
