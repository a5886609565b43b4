//! Instructions per call, as callgrind counts them, and how many times the floor's that is. Fails
//! where a row takes more than it may.

mod common;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

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
        Attach, Build, Case, Floor, Frame, Invalidate, Kind, Lab, On, Transition, Written, rows,
        warm,
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
    let everything_measured = env::args().skip(1).eq(["--bench"]);
    if !everything_measured {
        return;
    }
    let home = env::var_os("GUNGRAUN_HOME").map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("gungraun"),
        PathBuf::from,
    );
    for (group, names) in ROWS {
        let count = |name| counted(&home, group, name).map(|count| count - FRAME as f64);
        let floor = names.first().and_then(|name| count(name));
        println!();
        for name in *names {
            let (Some(count), Some(floor)) = (count(name), floor) else {
                continue;
            };
            println!(
                "{name:32} {count:6}   {:6.1} x floor",
                count / floor.max(1.0)
            );
        }
    }
}

/// What callgrind wrote down about a row.
fn counted(home: &Path, group: &str, name: &str) -> Option<f64> {
    let place = format!("instructions/harness/{group}/{name}.call/callgrind.{name}.call.out");
    let path = home.join(env!("CARGO_PKG_NAME")).join(place);
    let text = fs::read_to_string(path).ok()?;
    let totals = text
        .lines()
        .find_map(|line| line.strip_prefix("summary: "))?;
    totals.split_whitespace().next()?.parse().ok()
}
