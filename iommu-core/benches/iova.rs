//! Time per call of the IOVA allocator, and how many times the floor's that is.

#[expect(dead_code, reason = "some of it is for instructions only")]
mod common;

use std::env;
use std::hint::black_box;
use std::ops::RangeInclusive;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};

use common::{Case, Churn, Floor, Hot, LIVE, Large, warm};

struct Row {
    name: String,
    /// The median time of a call, in nanoseconds, where the row was not left out.
    time: Option<f64>,
}

/// Times `calls(n)`, which makes `n` calls and says how long they took.
fn timed(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: String,
    mut calls: impl FnMut(u64) -> Duration,
) -> Row {
    let mut samples = Vec::new();
    group.bench_function(&name, |bencher| {
        bencher.iter_custom(|count| {
            let time = calls(count);
            samples.push(time.as_nanos() as f64 / count as f64);
            time
        });
    });
    samples.sort_by(f64::total_cmp);
    let time = samples.get(samples.len() / 2).copied();
    Row { name, time }
}

fn row<C: Case>(group: &mut BenchmarkGroup<'_, WallTime>, name: impl ToString, case: C) -> Row {
    let case = warm(case);
    timed(group, name.to_string(), |count| run(case, count))
}

fn run<C: Case>(case: &mut C, count: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..count {
        black_box(case.call()).expect("it works");
    }
    start.elapsed()
}

/// The same calls, shared out among `cases`, one for each thread: the time per call in all.
fn row_of_threads<C: Case + Send>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    cases: Vec<C>,
) -> Row {
    let mut cases: Vec<_> = cases.into_iter().map(warm).collect();
    let name = format!("{name}, {} threads", cases.len());
    timed(group, name, |count| {
        let share = count.div_ceil(cases.len() as u64);
        let start = Barrier::new(cases.len());
        let times = thread::scope(|scope| {
            let threads: Vec<_> = cases
                .iter_mut()
                .map(|case| {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        run(*case, share)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .max()
        });
        times.unwrap_or_default()
    })
}

/// The sizes that are mixed: 1 page to 64.
const MIX: RangeInclusive<u32> = 0..=6;

fn measure(criterion: &mut Criterion) -> Vec<Vec<Row>> {
    let mut groups = Vec::new();

    let mut group = criterion.benchmark_group("iova_sizes");
    let mut rows = vec![row(&mut group, "floor", Floor::new())];
    for pages in [1, 8, 64, 512, 1024] {
        rows.push(row(&mut group, format!("{pages} pages"), Hot::new(pages)));
    }
    rows.push(row(
        &mut group,
        "2048 pages, from the tree",
        Large::new(2048),
    ));
    group.finish();
    groups.push(rows);

    let mut group = criterion.benchmark_group("iova_churn");
    let mut rows = vec![row(&mut group, "floor", Floor::new())];
    for order in [0, 3, 6, 9] {
        let name = format!("{} pages", 1 << order);
        rows.push(row(&mut group, name, Churn::new(48, LIVE, order..=order)));
    }
    rows.push(row(
        &mut group,
        "1 to 1024 pages",
        Churn::new(48, LIVE, 0..=10),
    ));
    group.finish();
    groups.push(rows);

    let mut group = criterion.benchmark_group("iova_live");
    let mut rows = vec![row(&mut group, "floor", Floor::new())];
    for live in [1 << 10, 1 << 12, 1 << 16, 1 << 20] {
        let hot = Hot::among(1, 48, live);
        rows.push(row(&mut group, format!("1 page, {live} live"), hot));
        let churn = Churn::new(48, live, MIX);
        rows.push(row(&mut group, format!("churn, {live} live"), churn));
    }
    group.finish();
    groups.push(rows);

    let mut group = criterion.benchmark_group("iova_space");
    let mut rows = vec![row(&mut group, "floor", Floor::new())];
    for bits in [30, 36, 42, 48] {
        let hot = Hot::among(1, bits, LIVE);
        rows.push(row(&mut group, format!("1 page, 2^{bits} bytes"), hot));
        let churn = Churn::new(bits, LIVE, MIX);
        rows.push(row(&mut group, format!("churn, 2^{bits} bytes"), churn));
    }
    group.finish();
    groups.push(rows);

    let mut group = criterion.benchmark_group("iova_threads");
    let mut rows = vec![row(&mut group, "floor", Floor::new())];
    for threads in [1, 2] {
        for pages in [1, 64] {
            let name = format!("{pages} pages");
            let hot = Hot::on_cpus(threads, pages);
            rows.push(row_of_threads(&mut group, &name, hot));
        }
        let churn = Churn::on_cpus(threads, MIX);
        rows.push(row_of_threads(&mut group, "churn", churn));
    }
    group.finish();
    groups.push(rows);
    groups
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .sample_size(30)
        .configure_from_args();
    let groups = measure(&mut criterion);
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
