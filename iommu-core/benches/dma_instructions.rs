//! Instructions of lending an owned buffer to a device and taking it back, as callgrind counts them:
//! `dma().map` and `unmap`, and lazily `retire` and `reclaim`, through a paging domain of the SMMUv3
//! driver, on hardware that has done everything by the time anybody looks. Fails where a row takes
//! more than it may.
//!
//! Drivers and the SMMU's are told which CPU they run on. What the layers below take by themselves
//! are rows of their own; what is left of the whole is the handle's.

#[expect(dead_code, unused_imports, reason = "some of it is for other benches")]
mod common;
#[path = "common/counted.rs"]
mod counted;
#[expect(dead_code, reason = "rows are printed in another way here")]
#[path = "../../arm-smmu-v3/benches/common/counts.rs"]
mod counts;

use std::process::ExitCode;

use iommu_core::dma::DmaBuffer;
use iommu_core::{DefaultDomain, Result};

use common::{
    Case, Flush, Hot, K4, Keep, Lend, Map, Nothing, Queue, Ranges, Retire, Shape, Unmap, block,
    list, warm,
};
use counted::{Counted, counted};

macro_rules! rows {
    ($with:ident) => {
        $with! {
            frame, 0, false, Nothing::new(page());
            queue, 80, false, Queue::new();
            move_buffer, 15, false, Keep::new(block(4096));
            iova, 75, false, Hot::new(1);
            domain_map, 75, false, Map(page());
            domain_unmap, 93, true, Unmap::new(page());
            lend_4k, 605, true, Lend::new(SMALL, block(4096));
            lend_4k_lazily, 825, false, Retire::new(SMALL, 1);
            flush, 122, false, Flush::new(SMALL);
            lend_64k, 1_360, true, Lend::new(SMALL, block(16 << 12));
            lend_list_of_16, 2_920, true, Lend::new(SMALL, list(16));
            lend_1k_bounced, 6_450, true, Lend::new(SMALL, block(1024));
            lend_4k_untranslated, 331, false, identity(block(4096));
            among_1k, 605, true, Lend::new(SMALL, block(4096)).among(1 << 10);
            among_1m, 605, true, Lend::new(SMALL, block(4096)).among(1 << 20);
            of_4g, 605, true, of(Shape { bits: 32, ..SMALL });
            of_512g, 605, true, of(Shape { bits: 39, ..SMALL });
            devices_100, 605, true, of(Shape { devices: 100, ..SMALL });
            devices_10000, 605, true, of(Shape { devices: 10_000, ..SMALL });
            streams_16, 605, true, of(Shape { streams: 16, ..SMALL });
        }
    };
}
rows!(counted);

const SMALL: Shape = Shape {
    cpus: true,
    ..Shape::SMALL
};

fn page() -> Ranges {
    Ranges::new(SMALL, 0, K4).kept()
}

fn of(shape: Shape) -> Lend<impl DmaBuffer> {
    Lend::new(shape, block(4096))
}

fn identity<B: DmaBuffer>(buffer: B) -> Lend<B> {
    let domain = DefaultDomain::Identity;
    Lend::new(Shape { domain, ..SMALL }, buffer)
}

fn main() -> ExitCode {
    harness::run();
    let Some(counted) = Counted::of("dma_instructions") else {
        return ExitCode::SUCCESS;
    };
    let result = counted.hold(ROWS);
    let whole = counted.row("lend_4k");
    let queue = counted.row("queue");
    let layers = [
        ("IOVAs, allocate and free", counted.row("iova")),
        ("domain, map", counted.row("domain_map")),
        (
            "domain, unmap without queue",
            counted.row("domain_unmap") - queue,
        ),
        ("queue", queue),
        ("moving the buffer", counted.row("move_buffer")),
    ];
    let below: i64 = layers.iter().map(|(_, count)| count).sum();
    println!("\n{:32} {whole:6}", "dma().map and unmap of 4 KiB");
    for (layer, count) in layers {
        println!("  {layer:30} {count:6}");
    }
    println!("  {:30} {:6}", "left for the handle", whole - below);
    let (lazily, flush) = (counted.row("lend_4k_lazily"), counted.row("flush"));
    println!("{:32} {lazily:6}", "the same lazily, without flush");
    println!("{:32} {flush:6}", "a flush, for all until then");
    result
}
