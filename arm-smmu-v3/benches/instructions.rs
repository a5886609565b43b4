//! Instructions per call, as callgrind counts them, and how many times the floor's that is. Fails
//! where a row takes more than it may.

mod common;
#[path = "common/counts.rs"]
mod counts;

macro_rules! names {
    ($($group:ident: { $($name:ident, $limit:expr, $make:expr;)+ })+) => {
        /// The rows of each group.
        const ROWS: &[(&str, &[&str])] = &[$((stringify!($group), &[$(stringify!($name)),+])),+];
    };
}
common::rows!(names);

/// The instructions on x86-64 that calling a case takes by itself: the row `frame`. They are counted
/// with every row, and taken off where counts are printed.
const FRAME: u64 = 8;

#[expect(unreachable_pub, reason = "what gungraun generates")]
mod harness {
    use gungraun::prelude::*;
    use gungraun::{Callgrind, EventKind};
    use iommu_core::Result;

    use crate::common::{
        Attach, Build, Case, Floor, Frame, Invalidate, Kind, Lab, On, Transition, Wrapping,
        Written, rows, warm,
    };

    macro_rules! groups {
        ($($group:ident: { $($name:ident, $limit:expr, $make:expr;)+ })+) => {
            $(
                $(
                    #[library_benchmark(config = at_most(crate::FRAME + $limit))]
                    #[bench::call(warm($make, Lab::new(), 0))]
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
