//! Time of a domain's calls: through [`Domain`](iommu_core::Domain), in a paging domain of the SMMUv3
//! driver, on hardware that has done everything by the time anybody looks where nothing else is said.
//! An unmap waits for the command queue.
//!
//! Rows against size map a page and unmap the one that was mapped longest, in random order: in a
//! window, among pages whose descriptors fit the first cache, or all over what is live.

#[expect(dead_code, unused_imports, reason = "some of it is for other benches")]
mod common;
#[path = "common/time.rs"]
mod time;

use common::{
    K4, Lab, M2, Map, Queue, Ranges, Ring, SYNCS, Shape, Stores, Translate, Turns, Unmap,
};
use time::Bench;

/// How many pages of a window are mapped at a time.
const WINDOW: u64 = 512;
/// How far the windows of two threads are apart.
const APART: usize = 1 << 30;

fn groups(bench: &mut Bench) {
    let small = Shape {
        cpus: true,
        ..Shape::SMALL
    };
    bench.group("pgtable_pages", |group| {
        let pages = || Ranges::new(small, 0, K4).times(WINDOW).kept();
        group.row("floor: a store", Stores::new(1));
        group.row("translate", Translate::new(pages()));
        group.row("map 4K", Map(pages()));
        group.row("unmap 4K", Unmap::new(pages()));
        group.row("an invalidation alone", Queue::new());
    });
    bench.group("pgtable_ranges", |group| {
        let whole = || Ranges::new(small, 0, M2).times(8);
        let across = || Ranges::new(small, M2 / 2, M2).times(8).kept();
        let blocks = || Ranges::new(small, 1 << 30, 64 * M2).kept();
        group.row("floor: 512 stores", Stores::new(512));
        group.row("map 4K x 512 into a table", Map(whole().kept()));
        group.row("map 4K x 512 into a new table", Map(whole()));
        group.row("unmap 4K x 512 with their table", Unmap::new(whole()));
        group.row("unmap 4K x 512 across two tables", Unmap::new(across()));
        group.row("map 2M x 64", Map(blocks()));
        group.row("unmap 2M x 64", Unmap::new(blocks()));
    });
    let window = |shape| Ring::new(Lab::new(shape), shape, 0, WINDOW);
    bench.group("pgtable_live", |group| {
        group.row("floor: a store", Stores::new(1));
        for (live, name) in [(1 << 10, "1k"), (1 << 15, "32k"), (1 << 20, "1M")] {
            let lab = Lab::new(small).among(live);
            let window = Ring::new(lab, small, 0, WINDOW);
            group.row(format!("a window, {name} live"), window);
            let all = Ring::new(Lab::new(small), small, 0, live);
            group.row(format!("all over, {name} live"), all);
        }
    });
    bench.group("pgtable_space", |group| {
        group.row("floor: a store", Stores::new(1));
        // The least that a table has, 4 GiB; 512 GiB; 256 TiB.
        for bits in [32, 39, 48] {
            let shape = Shape { bits, ..small };
            group.row(format!("2^{bits} bytes"), window(shape));
        }
    });
    bench.group("pgtable_threads", |group| {
        group.row("floor: a store", Stores::new(1));
        let each = |shape: Shape, ring: &dyn Fn(&Lab, u64) -> Ring, threads: usize| {
            let lab = Lab::new(shape);
            let offsets = (0..).step_by(APART).take(threads);
            offsets.map(|offset| ring(lab, offset)).collect()
        };
        let pages = |lab: &Lab, offset| Ring::new(lab, small, offset, WINDOW);
        let ranges = |lab: &Lab, offset| Ring::of(M2 / 2, lab, small, offset, 4);
        // Where two threads store no more than one, the machine is not theirs alone.
        group.rows_of_threads("512 stores", |threads| {
            (0..threads).map(|_| Stores::new(512)).collect()
        });
        group.rows_of_threads("a page, the rest left to a flush", |threads| {
            each(small, &|lab, offset| pages(lab, offset).lazily(), threads)
        });
        for (sync, name) in SYNCS {
            let shape = Shape { sync, ..small };
            let page = |threads| each(shape, &pages, threads);
            group.rows_of_threads(format!("a page{name}"), page);
            let range = |threads| each(shape, &ranges, threads);
            group.rows_of_threads(format!("4K x 256{name}"), range);
        }
        // What they meet in: an unmap submits one.
        for (sync, name) in SYNCS {
            if !sync.is_zero() {
                group.rows_of_threads(format!("an invalidation{name}"), |threads| {
                    vec![Queue::timed(sync); threads]
                });
            }
        }
        group.rows_of_threads("an invalidation", |threads| vec![Queue::new(); threads]);
        group.rows_of_threads("two commands and a doorbell under a lock", |threads| {
            vec![Turns::new(); threads]
        });
    });
    bench.group("pgtable_devices", |group| {
        group.row("floor: a store", Stores::new(1));
        for devices in [1, 100, 10_000] {
            let shape = Shape { devices, ..small };
            group.row(format!("{devices} devices"), window(shape));
        }
        for streams in [1, 16] {
            let shape = Shape { streams, ..small };
            group.row(format!("{streams} streams of the device"), window(shape));
        }
    });
}

fn main() {
    time::measure(groups);
}
