//! Instructions of calls, held against what they may be.
//!
//! Callgrind counts what the bench's own code around a call takes as well: that is the row `frame`,
//! which does nothing. It is taken off, as counted in the same run.

use std::process::ExitCode;

use crate::counts::Counts;

/// A row: its name, the most instructions that it may take on x86-64 besides its frame and, where
/// it waits for one invalidation, besides the row `queue`; whether it waits.
pub(crate) type Row = (&'static str, i64, bool);

/// Makes benches of `rows!`: a name, a limit, whether it waits, and a case for each row.
macro_rules! counted {
    ($($name:ident, $limit:expr, $waits:literal, $make:expr;)+) => {
        const ROWS: &[$crate::counted::Row] = &[$((stringify!($name), $limit, $waits)),+];

        #[expect(unreachable_pub, reason = "what gungraun generates")]
        mod harness {
            use gungraun::prelude::*;
            use gungraun::{Callgrind, EventKind};

            use super::*;

            $(
                #[library_benchmark(config = instructions())]
                #[bench::call(warm($make))]
                fn $name<C: Case>(case: &'static mut C) -> Result {
                    case.call()
                }
            )+
            library_benchmark_group!(name = calls; benchmarks = $($name),+);
            gungraun::main!(library_benchmark_groups = calls);

            fn instructions() -> LibraryBenchmarkConfig {
                let mut callgrind = Callgrind::default();
                callgrind.format([EventKind::Ir]);
                let mut config = LibraryBenchmarkConfig::default();
                config.tool(callgrind);
                config
            }

            /// Runs the benches, or the one that the runner asks this process for.
            pub(super) fn run() {
                main();
            }
        }
    };
}
pub(crate) use counted;

/// What was counted, once the frame is taken off.
pub(crate) struct Counted {
    counts: Counts,
    frame: i64,
    queue: i64,
}

impl Counted {
    /// What a bench of this name counted; `None` where it was not asked to measure all of it.
    pub(crate) fn of(bench: &str) -> Option<Self> {
        let counts = Counts::of(bench)?;
        let row = |name| counts.row("calls", name).expect("it was counted");
        let frame = row("frame");
        let queue = row("queue") - frame;
        Some(Self {
            counts,
            frame,
            queue,
        })
    }

    /// The instructions of a row.
    pub(crate) fn row(&self, name: &str) -> i64 {
        let all = self.counts.row("calls", name);
        all.expect("it was counted") - self.frame
    }

    /// Prints all rows. Fails where one takes more than it may.
    pub(crate) fn hold(&self, rows: &[Row]) -> ExitCode {
        println!(
            "\n{:32} {:>6} {:>8} {:>7}",
            "", "in all", "no queue", "limit"
        );
        let mut result = ExitCode::SUCCESS;
        for (name, limit, waits) in rows {
            let all = self.row(name);
            let own = if *waits { all - self.queue } else { all };
            println!("{name:32} {all:6} {own:8} {limit:7}");
            if cfg!(target_arch = "x86_64") && own > *limit {
                eprintln!("{name} takes more than it may");
                result = ExitCode::FAILURE;
            }
        }
        result
    }
}
