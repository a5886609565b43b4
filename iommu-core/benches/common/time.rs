//! Time per call, and how many times the floor's that is.

use std::env;
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};

use crate::common::{Case, run_on_cpu, warm};

/// What is measured, group after group.
pub(crate) struct Bench {
    criterion: Criterion,
    groups: Vec<Vec<Row>>,
}

/// Rows that are compared to the first of them.
pub(crate) struct Group<'a> {
    criterion: BenchmarkGroup<'a, WallTime>,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    /// The median time of a call, in nanoseconds, where the row was not left out.
    time: Option<f64>,
}

impl Bench {
    pub(crate) fn group(&mut self, name: &str, rows: impl FnOnce(&mut Group<'_>)) {
        let mut group = Group {
            criterion: self.criterion.benchmark_group(name),
            rows: Vec::new(),
        };
        rows(&mut group);
        let Group { criterion, rows } = group;
        criterion.finish();
        self.groups.push(rows);
    }
}

impl Group<'_> {
    /// The time of a call of `case`.
    pub(crate) fn row<C: Case>(&mut self, name: impl ToString, case: C) {
        let case = warm(case);
        self.timed(name.to_string(), |count| run(case, count));
    }

    /// The same for one thread and for two, among which the calls are shared out: the time per call
    /// in all. `cases` makes as many as there are threads, each on a CPU of its own.
    pub(crate) fn rows_of_threads<C: Case + Send>(
        &mut self,
        name: impl ToString,
        cases: impl Fn(usize) -> Vec<C>,
    ) {
        let name = name.to_string();
        for threads in [1, 2] {
            self.row_of_threads(&name, cases(threads));
        }
    }

    fn row_of_threads<C: Case + Send>(&mut self, name: &str, cases: Vec<C>) {
        let mut cases: Vec<_> = cases.into_iter().map(warm).collect();
        let name = format!("{name}, {} threads", cases.len());
        self.timed(name, |count| {
            let share = count.div_ceil(cases.len() as u64);
            let start = Barrier::new(cases.len());
            let spans = thread::scope(|scope| {
                let threads: Vec<_> = cases
                    .iter_mut()
                    .enumerate()
                    .map(|(cpu, case)| {
                        let start = &start;
                        scope.spawn(move || {
                            run_on_cpu(cpu);
                            start.wait();
                            let first = Instant::now();
                            run(*case, share);
                            (first, Instant::now())
                        })
                    })
                    .collect();
                let spans = threads.into_iter().map(|thread| thread.join());
                spans.collect::<Result<Vec<_>, _>>().expect("no panic")
            });
            // One thread may be through before another one runs at all.
            let first = spans.iter().map(|(first, _)| *first).min();
            let last = spans.iter().map(|(_, last)| *last).max();
            first
                .zip(last)
                .map(|(first, last)| last - first)
                .unwrap_or_default()
        });
    }

    /// Times `calls(n)`, which makes `n` calls and says how long they took.
    fn timed(&mut self, name: String, mut calls: impl FnMut(u64) -> Duration) {
        let mut samples = Vec::new();
        self.criterion.bench_function(&name, |bencher| {
            bencher.iter_custom(|count| {
                let time = calls(count);
                samples.push(time.as_nanos() as f64 / count as f64);
                time
            });
        });
        samples.sort_by(f64::total_cmp);
        let time = samples.get(samples.len() / 2).copied();
        self.rows.push(Row { name, time });
    }
}

fn run<C: Case>(case: &mut C, count: u64) -> Duration {
    let mut time = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let some = left.min(case.calls());
        case.reset();
        let start = Instant::now();
        for _ in 0..some {
            black_box(case.call()).expect("it works");
        }
        time += start.elapsed();
        left -= some;
    }
    time
}

/// Measures, and prints what came out.
pub(crate) fn measure(groups: impl FnOnce(&mut Bench)) {
    // Plots take five times as long as what they show.
    let criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .sample_size(30)
        .configure_from_args();
    let mut bench = Bench {
        criterion,
        groups: Vec::new(),
    };
    groups(&mut bench);
    bench.criterion.final_summary();
    let given = |option: &str| env::args().any(|arg| arg == option);
    if !given("--bench") || given("--test") {
        // Nothing was timed.
        return;
    }
    for rows in bench.groups {
        let floor = rows.first().and_then(|row| row.time);
        println!();
        for Row { name, time } in rows {
            if let (Some(time), Some(floor)) = (time, floor) {
                println!("{name:40} {time:8.1} ns   {:6.1} x floor", time / floor);
            }
        }
    }
}
