//! Time of lending an owned buffer to a device and taking it back: `dma().map` and `unmap`, and lazily
//! `retire` and `reclaim`, through a paging domain of the SMMUv3 driver, on hardware that has done
//! everything by the time anybody looks where nothing else is said.

#[expect(dead_code, unused_imports, reason = "some of it is for other benches")]
mod common;
#[path = "common/time.rs"]
mod time;

use common::{Hot, Keep, Lab, Lend, Relend, Retire, Ring, SYNCS, Shape, block, list};
use iommu_core::DefaultDomain;
use time::{Bench, Group};

fn groups(bench: &mut Bench) {
    let small = Shape {
        cpus: true,
        ..Shape::SMALL
    };
    let identity = Shape {
        domain: DefaultDomain::Identity,
        ..small
    };
    let floor = |group: &mut Group<'_>| {
        let pages = Ring::new(Lab::new(small), small, 0, 1);
        group.row("floor: the domain's map and unmap", pages);
    };
    bench.group("dma_layers", |group| {
        floor(group);
        group.row("floor: IOVAs alone", Hot::new(1));
        group.row("moving the buffer alone", Keep::new(block(4096)));
        group.row("4 KiB", Lend::new(small, block(4096)));
        group.row(
            "4 KiB, nothing translates",
            Lend::new(identity, block(4096)),
        );
    });
    bench.group("dma_lazily", |group| {
        floor(group);
        group.row("4 KiB, strictly", Lend::new(small, block(4096)));
        for slots in [1, 16, 256] {
            let name = format!("4 KiB, lazily, a ring of {slots}");
            group.row(name, Retire::new(small, slots));
        }
    });
    bench.group("dma_sizes", |group| {
        floor(group);
        group.row("4 KiB", Lend::new(small, block(4096)));
        group.row("64 KiB", Lend::new(small, block(16 * 4096)));
        group.row("a list of 16 x 4 KiB", Lend::new(small, list(16)));
        group.row("1 KiB, bounced", Lend::new(small, block(1024)));
    });
    bench.group("dma_live", |group| {
        floor(group);
        for (live, name) in [(1 << 10, "1k"), (1 << 15, "32k"), (1 << 20, "1M")] {
            let same = Lend::new(small, block(4096)).among(live);
            group.row(format!("the same page, {name} live"), same);
            let all = Relend::new(small, live);
            group.row(format!("all over, {name} live"), all);
        }
    });
    bench.group("dma_space", |group| {
        floor(group);
        let masked = Lend::new(small, block(4096)).below_bits(30);
        group.row("2^30 bytes, by the device's mask", masked);
        // The least that a table has, 4 GiB; 512 GiB; 256 TiB.
        for bits in [32, 39, 48] {
            let shape = Shape { bits, ..small };
            group.row(format!("2^{bits} bytes"), Lend::new(shape, block(4096)));
        }
    });
    bench.group("dma_threads", |group| {
        floor(group);
        for (sync, name) in SYNCS {
            let shape = Shape { sync, ..small };
            group.rows_of_threads(format!("4 KiB{name}"), |threads| {
                Lend::for_threads(threads, shape)
            });
            // Each ring flushes once around.
            group.rows_of_threads(format!("4 KiB, lazily{name}"), |threads| {
                Retire::for_threads(threads, shape, 256)
            });
        }
    });
    bench.group("dma_devices", |group| {
        floor(group);
        for devices in [1, 100, 10_000] {
            let shape = Shape { devices, ..small };
            group.row(format!("{devices} devices"), Lend::new(shape, block(4096)));
        }
        for streams in [1, 16] {
            let shape = Shape { streams, ..small };
            let name = format!("{streams} streams of the device");
            group.row(name, Lend::new(shape, block(4096)));
        }
    });
}

fn main() {
    time::measure(groups);
}
