//! Instructions as callgrind wrote them down, for benches that count them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// What was counted in one bench.
pub(crate) struct Counts {
    place: PathBuf,
}

impl Counts {
    /// What the bench of this name has counted; `None` where it was not asked to measure all of it.
    pub(crate) fn of(bench: &str) -> Option<Self> {
        if !env::args().skip(1).eq(["--bench"]) {
            return None;
        }
        let home = env::var_os("GUNGRAUN_HOME").map_or_else(
            || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("gungraun"),
            PathBuf::from,
        );
        let place = home
            .join(env!("CARGO_PKG_NAME"))
            .join(bench)
            .join("harness");
        Some(Self { place })
    }

    /// The instructions of a row, its frame among them.
    pub(crate) fn row(&self, group: &str, name: &str) -> Option<i64> {
        let file = format!("{group}/{name}.call/callgrind.{name}.call.out");
        let text = fs::read_to_string(self.place.join(file)).ok()?;
        let totals = text
            .lines()
            .find_map(|line| line.strip_prefix("summary: "))?;
        totals.split_whitespace().next()?.parse().ok()
    }

    /// Prints the rows of each group without their frame, and how many times that is what the
    /// group's first row takes.
    pub(crate) fn print(&self, rows: &[(&str, &[&str])], frame: u64) {
        for (group, names) in rows {
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let count = |name| self.row(group, name).map(|all| all as f64 - frame as f64);
            let floor = names.first().and_then(|name| count(name));
            println!();
            for name in *names {
                let (Some(count), Some(floor)) = (count(name), floor) else {
                    continue;
                };
                let ratio = count / floor.max(1.0);
                println!("{name:32} {count:6}   {ratio:6.1} x floor");
            }
        }
    }
}
