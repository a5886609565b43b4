//! Time per call of the IOVA allocator, and how many times the floor's that is.

#[expect(dead_code, unused_imports, reason = "some of it is for other benches")]
mod common;

#[path = "common/time.rs"]
mod time;

use std::ops::RangeInclusive;

use common::{Churn, Floor, Hot, LIVE, Large};
use time::Bench;

/// The sizes that are mixed: 1 page to 64.
const MIX: RangeInclusive<u32> = 0..=6;

fn groups(bench: &mut Bench) {
    bench.group("iova_sizes", |group| {
        group.row("floor", Floor::new());
        for pages in [1, 8, 64, 512, 1024] {
            group.row(format!("{pages} pages"), Hot::new(pages));
        }
        group.row("2048 pages, from the tree", Large::new(2048));
    });
    bench.group("iova_churn", |group| {
        group.row("floor", Floor::new());
        for order in [0, 3, 6, 9] {
            let name = format!("{} pages", 1 << order);
            group.row(name, Churn::new(48, LIVE, order..=order));
        }
        group.row("1 to 1024 pages", Churn::new(48, LIVE, 0..=10));
    });
    bench.group("iova_live", |group| {
        group.row("floor", Floor::new());
        for live in [1 << 10, 1 << 12, 1 << 16, 1 << 20] {
            group.row(format!("1 page, {live} live"), Hot::among(1, 48, live));
            group.row(format!("churn, {live} live"), Churn::new(48, live, MIX));
        }
    });
    bench.group("iova_space", |group| {
        group.row("floor", Floor::new());
        for bits in [30, 36, 42, 48] {
            let hot = Hot::among(1, bits, LIVE);
            group.row(format!("1 page, 2^{bits} bytes"), hot);
            let churn = Churn::new(bits, LIVE, MIX);
            group.row(format!("churn, 2^{bits} bytes"), churn);
        }
    });
    bench.group("iova_threads", |group| {
        group.row("floor", Floor::new());
        for pages in [1, 64] {
            let hot = |threads| Hot::on_cpus(threads, pages);
            group.rows_of_threads(format!("{pages} pages"), hot);
        }
        group.rows_of_threads("churn", |threads| Churn::on_cpus(threads, MIX));
    });
}

fn main() {
    time::measure(groups);
}
