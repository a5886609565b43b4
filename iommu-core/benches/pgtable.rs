//! Time of a domain's calls: through [`Domain`](iommu_core::Domain), in a paging domain of the SMMUv3
//! driver, on hardware that has done everything by the time anybody looks. An unmap waits for the
//! command queue.
//!
//! Rows against size map a page and unmap the one that was mapped longest, in random order: in a
//! window, among pages whose descriptors fit the first cache, or all over what is live.

#[expect(dead_code, unused_imports, reason = "some of it is for other benches")]
mod common;
#[path = "common/time.rs"]
mod time;

use common::{K4, Lab, M2, Map, Queue, Ranges, Ring, Shape, Stores, Translate, Unmap};
use time::Bench;

/// How many pages of a window are mapped at a time.
const WINDOW: u64 = 512;
/// How far the windows of two threads are apart.
const APART: u64 = 1 << 30;

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
        // The least that a format has, 4 GiB; 512 GiB; 256 TiB.
        for bits in [32, 39, 48] {
            let shape = Shape { bits, ..small };
            group.row(format!("2^{bits} bytes"), window(shape));
        }
    });
    bench.group("pgtable_threads", |group| {
        group.row("floor: a store", Stores::new(1));
        for threads in [1, 2] {
            let lab = Lab::new(small);
            let pages = |nth| Ring::new(lab, small, nth * APART, WINDOW);
            let ranges = |nth| Ring::of(M2 / 2, lab, small, nth * APART + APART / 2, 4);
            // Where two threads store no more than one, the machine is not theirs alone.
            let stores = (0..threads).map(|_| Stores::new(512));
            // What they meet in: an unmap submits one.
            let queue = Queue::new();
            group.row_of_threads("512 stores each", stores.collect());
            group.row_of_threads("a window each", (0..threads).map(pages).collect());
            group.row_of_threads("4K x 256 each", (0..threads).map(ranges).collect());
            let queues = (0..threads).map(|_| queue.clone());
            group.row_of_threads("an invalidation each", queues.collect());
        }
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
