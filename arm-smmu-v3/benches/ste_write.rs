//! Time per call, and how many times the floor's that is.

mod common;

use std::env;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};

use common::{
    Attach, Build, Case, Floor, Frame, Invalidate, Kind, Lab, On, Transition, Wrapping, Written,
    rows, warm,
};

/// How many calls in a row are timed together, each on a case of its own.
const AT_ONCE: u32 = 64;

struct Row {
    name: &'static str,
    /// The median time of a call, in nanoseconds, where the row was not left out.
    time: Option<f64>,
}

fn row<C: Case>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &'static str,
    make: impl Fn(&'static Lab, u32) -> C,
) -> Row {
    let lab = Lab::new();
    let mut cases: Vec<_> = (0..AT_ONCE).map(|n| warm(&make, lab, n)).collect();
    let mut samples = Vec::new();
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|calls| {
            let mut time = Duration::ZERO;
            let mut left = usize::try_from(calls).unwrap_or(usize::MAX);
            while left > 0 {
                let count = left.min(cases.len());
                let some = &mut cases[..count];
                some.iter_mut().for_each(|case| case.reset());
                let start = Instant::now();
                for case in &mut *some {
                    black_box(case.call()).expect("it works");
                }
                time += start.elapsed();
                left -= some.len();
            }
            samples.push(time.as_nanos() as f64 / calls as f64);
            time
        });
    });
    samples.sort_by(f64::total_cmp);
    let time = samples.get(samples.len() / 2).copied();
    Row { name, time }
}

macro_rules! groups {
    ($($group:ident: { $($name:ident, $limit:expr, $make:expr;)+ })+) => {
        fn measure(criterion: &mut Criterion) -> Vec<Vec<Row>> {
            vec![$({
                let mut group = criterion.benchmark_group(stringify!($group));
                vec![$(row(&mut group, stringify!($name), $make)),+]
            }),+]
        }
    };
}
rows!(groups);

const KINDS: [(&str, Kind); 10] = [
    ("abort", Kind::Abort),
    ("bypass", Kind::Bypass),
    ("s1_term", Kind::S1Term),
    ("s1_bypass", Kind::S1Bypass),
    ("s1", Kind::S1),
    ("s1_stall", Kind::S1Stall),
    ("s2", Kind::S2),
    ("s2_stall", Kind::S2Stall),
    ("s1_prime", Kind::S1Prime),
    ("s2_prime", Kind::S2Prime),
];

/// Every transition between two kinds of entry, and the floor of all. There are too many for plots.
fn transitions() -> Vec<Row> {
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(20))
        .measurement_time(Duration::from_millis(100))
        .configure_from_args();
    let mut group = criterion.benchmark_group("transition");
    let mut rows = vec![row(&mut group, "build_and_store", Build::new)];
    for (from, old) in KINDS {
        for (to, new) in KINDS {
            if from != to {
                let name = format!("{from}_to_{to}").leak();
                rows.push(row(&mut group, name, Transition::between(old, new)));
            }
        }
    }
    rows
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut groups = measure(&mut criterion);
    groups.push(transitions());
    criterion.final_summary();
    let given = |option: &str| env::args().any(|arg| arg == option);
    if !given("--bench") || given("--test") {
        // Nothing was timed.
        return;
    }
    for rows in groups {
        let floor = rows[0].time;
        println!();
        for Row { name, time } in rows {
            if let (Some(time), Some(floor)) = (time, floor) {
                println!("{name:32} {time:8.1} ns   {:6.1} x floor", time / floor);
            }
        }
    }
}
