//! Instructions of calls, held against what they may be.
//!
//! Callgrind counts what the bench's own code around a call takes as well: that is the first row of
//! each group, which does nothing. It is taken off, as counted in the same run.

use std::process::ExitCode;

use crate::counts::Counts;

/// A row: its name, the most instructions that it may take on x86-64 besides its frame and, where
/// it waits for one invalidation, besides the row `queue`; whether it waits.
pub(crate) type Row = (&'static str, i64, bool);

/// A group of rows: its name; its frame, its floor, and more.
pub(crate) type Group = (&'static str, &'static [Row]);

/// Makes benches of `rows!`: groups, and a name, a limit, whether it waits, and a case for each row.
macro_rules! counted {
    ($($group:ident: { $($name:ident, $limit:expr, $waits:literal, $make:expr;)+ })+) => {
        const GROUPS: &[$crate::counted::Group] =
            &[$((stringify!($group), &[$((stringify!($name), $limit, $waits)),+])),+];

        #[expect(unreachable_pub, reason = "what gungraun generates")]
        mod harness {
            use gungraun::prelude::*;
            use gungraun::{Callgrind, EventKind};

            use super::*;

            $(
                $(
                    #[library_benchmark(config = instructions())]
                    #[bench::call(warm($make))]
                    fn $name<C: Case>(case: &'static mut C) -> Result {
                        case.call()
                    }
                )+
                library_benchmark_group!(name = $group; benchmarks = $($name),+);
            )+
            gungraun::main!(library_benchmark_groups = $($group),+);

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

/// What was counted, once the frames are taken off.
pub(crate) struct Counted {
    counts: Counts,
    groups: &'static [Group],
}

impl Counted {
    /// What a bench of this name counted; `None` where it was not asked to measure all of it.
    pub(crate) fn of(bench: &str, groups: &'static [Group]) -> Option<Self> {
        let counts = Counts::of(bench)?;
        Some(Self { counts, groups })
    }

    /// The instructions of a row.
    pub(crate) fn row(&self, name: &str) -> i64 {
        let has_row = |(_, rows): &&Group| rows.iter().any(|(row, ..)| *row == name);
        let (group, rows) = self.groups.iter().find(has_row).expect("a row");
        let count = |row| self.counts.row(group, row).expect("it was counted");
        count(name) - count(rows[0].0)
    }

    /// Prints all rows. Fails where one takes more than it may, or more than a tenth more than the
    /// one that it is like.
    pub(crate) fn hold(&self, alike: &[(&str, &[&str])]) -> ExitCode {
        let mut result = ExitCode::SUCCESS;
        let mut fail = |name: &str, than: &str| {
            if cfg!(target_arch = "x86_64") {
                eprintln!("{name} takes more than {than}");
                result = ExitCode::FAILURE;
            }
        };
        let queue = self.row("queue");
        for (_, rows) in self.groups {
            println!(
                "\n{:32} {:>7} {:>8} {:>7}",
                "", "in all", "no queue", "limit"
            );
            for (name, limit, waits) in *rows {
                let all = self.row(name);
                let own = if *waits { all - queue } else { all };
                println!("{name:32} {all:7} {own:8} {limit:7}");
                if own > *limit {
                    fail(name, "it may");
                }
            }
        }
        for (first, others) in alike {
            for other in *others {
                if self.row(other) * 10 > self.row(first) * 11 {
                    fail(other, first);
                }
            }
        }
        result
    }
}
