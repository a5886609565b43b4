//! Instructions per call, as callgrind counts them. Fails where a row takes more than it may.
//!
//! Mapping goes through [`Domain`](iommu_core::Domain), and lending through
//! [`Dma`](iommu_core::dma::Dma), in a paging domain of the SMMUv3 driver, on hardware that has done
//! everything by the time anybody looks. An unmap waits for the command queue. What that takes is a
//! row of its own, `queue`, and taken off where counts are printed.
//!
//! Whoever lends is on one of several CPUs; whoever maps is not, where nothing else is said.

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
    Case, Churn, Floor, Flush, Hot, K4, Keep, Large, Lend, M2, Map, Nothing, Queue, Ranges, Retire,
    Shape, Stores, Translate, Unmap, Unused, block, list, warm,
};
use counted::{Counted, counted};

macro_rules! rows {
    ($with:ident) => {
        $with! {
            iovas: {
                iova_frame, 0, false, Unused::new();
                iova_floor, 45, false, Floor::new();
                iova_1_page, 75, false, Hot::new(1);
                iova_8_pages, 75, false, Hot::new(8);
                iova_64_pages, 75, false, Hot::new(64);
                iova_512_pages, 75, false, Hot::new(512);
                iova_1024_pages, 75, false, Hot::new(1024);
                iova_2048_pages, 3_600, false, Large::new(2048);
                iova_512_of_each_1_page, 130_000, false, Churn::counted(0..=0);
                iova_512_of_each_8_pages, 130_000, false, Churn::counted(3..=3);
                iova_512_of_each_64_pages, 130_000, false, Churn::counted(6..=6);
                iova_512_of_each_mixed, 130_000, false, Churn::counted(0..=10);
            }
            mapping: {
                frame, 0, false, Nothing::new(at(0, K4));
                floor_1_store, 25, false, Stores::new(1);
                floor_512_stores, 2_100, false, Stores::new(512);
                queue, 80, false, Queue::new();
                map_4k, 80, false, Map(at(0, K4).kept());
                unmap_4k, 90, true, Unmap::new(at(0, K4).kept());
                map_4k_512_into_a_table, 2_700, false, Map(at(0, M2).kept());
                map_4k_512_into_a_new_table, 1_700, false, Map(at(0, M2));
                unmap_4k_512, 2_300, true, Unmap::new(at(M2 / 2, M2).kept());
                unmap_4k_512_and_its_table, 2_300, true, Unmap::new(at(0, M2));
                map_2m_64, 480, false, Map(at(1 << 30, M2 * 64).kept());
                translate, 65, false, Translate::new(at(2 * M2, K4).kept());
                map_4k_among_1k, 80, false, Map(at(0, K4).kept().among(1 << 10));
                map_4k_among_1m, 80, false, Map(at(0, K4).kept().among(1 << 20));
                unmap_4k_among_1k, 90, true, Unmap::new(at(0, K4).kept().among(1 << 10));
                unmap_4k_among_1m, 90, true, Unmap::new(at(0, K4).kept().among(1 << 20));
                map_4k_of_4g, 80, false, Map(of_bits(32));
                map_4k_of_512g, 80, false, Map(of_bits(39));
                map_4k_by_cpu, 75, false, Map(by_cpu());
                unmap_4k_by_cpu, 93, true, Unmap::new(by_cpu());
                unmap_4k_lazily, 90, false, Unmap::new(by_cpu()).lazily();
                flush, 122, false, Flush::new(CPUS);
            }
            lending: {
                lend_frame, 0, false, Nothing::new(by_cpu());
                move_buffer, 15, false, Keep::new(block(4096));
                lend_4k, 605, true, Lend::new(CPUS, block(4096));
                lend_4k_lazily, 825, false, Retire::new(CPUS, 1);
                lend_64k, 1_360, true, Lend::new(CPUS, block(16 << 12));
                lend_list_of_16, 2_920, true, Lend::new(CPUS, list(16));
                lend_1k_bounced, 6_450, true, Lend::new(CPUS, block(1024));
                lend_4k_untranslated, 331, false, identity(block(4096));
                lend_among_1k, 605, true, Lend::new(CPUS, block(4096)).among(1 << 10);
                lend_among_1m, 605, true, Lend::new(CPUS, block(4096)).among(1 << 20);
                lend_below_1g, 605, true, of(CPUS).below_bits(30);
                lend_of_4g, 605, true, of(Shape { bits: 32, ..CPUS });
                lend_of_512g, 605, true, of(Shape { bits: 39, ..CPUS });
                lend_of_100_devices, 605, true, of(Shape { devices: 100, ..CPUS });
                lend_of_10000_devices, 605, true, of(Shape { devices: 10_000, ..CPUS });
                lend_of_16_streams, 605, true, of(Shape { streams: 16, ..CPUS });
            }
        }
    };
}
rows!(counted);

/// Rows whose cost does not grow with what they differ in.
const ALIKE: &[(&str, &[&str])] = &[
    (
        "iova_1_page",
        &[
            "iova_8_pages",
            "iova_64_pages",
            "iova_512_pages",
            "iova_1024_pages",
        ],
    ),
    ("map_4k_among_1k", &["map_4k_among_1m"]),
    ("unmap_4k_among_1k", &["unmap_4k_among_1m"]),
    (
        "map_4k",
        &["map_4k_of_4g", "map_4k_of_512g", "map_4k_by_cpu"],
    ),
    ("lend_among_1k", &["lend_among_1m"]),
    (
        "lend_4k",
        &[
            "lend_below_1g",
            "lend_of_4g",
            "lend_of_512g",
            "lend_of_100_devices",
            "lend_of_10000_devices",
            "lend_of_16_streams",
        ],
    ),
];

/// On one of several CPUs, which is told to drivers and to the SMMU's.
const CPUS: Shape = Shape {
    cpus: true,
    ..Shape::SMALL
};

fn at(offset: u64, len: u64) -> Ranges {
    Ranges::new(Shape::SMALL, offset, len)
}

fn of_bits(bits: u8) -> Ranges {
    let shape = Shape {
        bits,
        ..Shape::SMALL
    };
    Ranges::new(shape, 0, K4).kept()
}

fn by_cpu() -> Ranges {
    Ranges::new(CPUS, 0, K4).kept()
}

fn of(shape: Shape) -> Lend<impl DmaBuffer> {
    Lend::new(shape, block(4096))
}

fn identity<B: DmaBuffer>(buffer: B) -> Lend<B> {
    let domain = DefaultDomain::Identity;
    Lend::new(Shape { domain, ..CPUS }, buffer)
}

/// What is left of `whole` when each of the layers below has its part.
fn take_apart(whole: (&str, i64), layers: &[(&str, i64)]) {
    let (name, mut left) = whole;
    println!("\n{name:40} {left:6}");
    for (layer, count) in layers {
        println!("  {layer:38} {count:6}");
        left -= count;
    }
    println!("  {:38} {left:6}", "left for the handle");
}

fn main() -> ExitCode {
    harness::run();
    let Some(counted) = Counted::of("instructions", GROUPS) else {
        return ExitCode::SUCCESS;
    };
    let result = counted.hold(ALIKE);
    let row = |name| counted.row(name);
    let (iova, queue) = (
        ("IOVAs, allocate and free", row("iova_1_page")),
        ("the command queue", row("queue")),
    );
    let moving = ("moving the buffer", row("move_buffer"));
    take_apart(
        ("map and unmap of 4 KiB", row("lend_4k")),
        &[
            iova,
            ("the domain's map", row("map_4k_by_cpu")),
            ("the domain's unmap", row("unmap_4k_by_cpu") - queue.1),
            queue,
            moving,
        ],
    );
    take_apart(
        (
            "map, retire and reclaim of 4 KiB, lazily",
            row("lend_4k_lazily"),
        ),
        &[
            iova,
            ("the domain's map", row("map_4k_by_cpu")),
            ("the domain's lazy unmap", row("unmap_4k_lazily")),
            moving,
        ],
    );
    println!("{:40} {:6}", "a flush, for all until then", row("flush"));
    result
}
