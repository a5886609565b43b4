//! Instructions that mapping takes, as callgrind counts them: through [`Domain`], in a paging domain
//! of the SMMUv3 driver, on hardware that has done everything by the time anybody looks. Fails where
//! a row takes more than it may.
//!
//! An unmap waits for the command queue. What that takes is a row of its own, `queue`, and taken off
//! where counts are printed: what is left is the page table's share and the gather's.

#[expect(dead_code, reason = "rows are printed in another way here")]
#[path = "../../arm-smmu-v3/benches/common/counts.rs"]
mod counts;
#[expect(dead_code, reason = "its memory is not what is measured here")]
#[path = "../../arm-smmu-v3/benches/common/platform.rs"]
mod platform;
#[path = "common/pool.rs"]
mod pool;

use std::process::ExitCode;

use arm_smmu_v3::spec::commands::Command;
use arm_smmu_v3::spec::granule::Granule;
use arm_smmu_v3::{ArmSmmuV3, Config, internals};
use iommu_core::{BasicPlatform, DomainRef, IommuOps, Iova, PagingConfig, PhysAddr, Prot, Result};

use counts::Counts;
use platform::{Registers, Still};
use pool::Pool;

type Platform = BasicPlatform<Registers, Pool, Still>;

const K4: u64 = 1 << 12;
const M2: u64 = 1 << 21;
const RW: Prot = Prot::READ.union(Prot::WRITE);
/// Where rows map.
const AT: u64 = 0x12_4000_0000;

/// Every row: its name, the most instructions on x86-64 that it may take besides its frame and,
/// where it waits, the queue's share; whether it waits; and its case.
macro_rules! rows {
    ($with:ident) => {
        $with! {
            frame, 4, false, Case::new(48, Call::Nothing(AT, K4));
            queue, 80, false, Case::new(48, Call::Queue);
            map_4k, 80, false, Case::beside(48, Call::Map(AT, K4));
            unmap_4k, 90, true, Case::beside(48, Call::Unmap(AT, K4));
            map_4k_512_into_a_table, 2_700, false, Case::beside(48, Call::Map(AT, M2));
            map_4k_512_into_a_new_table, 1_700, false, Case::new(48, Call::Map(AT, M2));
            unmap_4k_512, 2_300, true, Case::beside(48, Call::Unmap(AT + M2 / 2, M2));
            unmap_4k_512_and_its_table, 2_300, true, Case::new(48, Call::Unmap(AT, M2));
            map_2m_64, 480, false, Case::beside(48, Call::Map(AT + (1 << 30), M2 * 64));
            translate, 65, false, Case::beside(48, Call::Translate(AT + 2 * M2));
            map_4k_among_1k, 80, false, Case::among(1 << 10, Call::Map(AT, K4));
            map_4k_among_1m, 80, false, Case::among(1 << 20, Call::Map(AT, K4));
            unmap_4k_among_1k, 90, true, Case::among(1 << 10, Call::Unmap(AT, K4));
            unmap_4k_among_1m, 90, true, Case::among(1 << 20, Call::Unmap(AT, K4));
            map_4k_of_4g, 80, false, Case::beside(32, Call::Map(AT & 0xffff_ffff, K4));
            map_4k_of_512g, 80, false, Case::beside(39, Call::Map(AT, K4));
        }
    };
}

/// What is measured.
#[derive(Clone, Copy)]
enum Call {
    Nothing(u64, u64),
    Queue,
    Map(u64, u64),
    Unmap(u64, u64),
    Translate(u64),
}

/// A domain, and what is done with it.
struct Case {
    smmu: ArmSmmuV3<Platform>,
    memory: Pool,
    domain: DomainRef,
    call: Call,
    /// Where mappings lead, less aligned than larger pages where there are to be none.
    phys: PhysAddr,
    /// Whether all tables are there and stay.
    kept: bool,
}

impl Case {
    fn new(bits: u8, call: Call) -> Self {
        let memory = Pool::new();
        let platform = BasicPlatform {
            bank: Registers::new(),
            memory: memory.clone(),
            clock: Still,
        };
        let smmu = ArmSmmuV3::probe(platform, Config::default()).expect("an SMMU");
        let config = PagingConfig {
            input_bits: Some(bits),
            ..PagingConfig::default()
        };
        let domain = smmu.paging_domain(&config).expect("a domain");
        Self {
            smmu,
            memory,
            domain,
            call,
            phys: PhysAddr(match call {
                Call::Map(_, len) if len > M2 => 0,
                _ => K4,
            }),
            kept: false,
        }
    }

    /// With pages on both sides, so that all tables are there and stay.
    fn beside(bits: u8, call: Call) -> Self {
        let mut case = Self::new(bits, call);
        case.kept = true;
        if let Call::Map(at, len) | Call::Unmap(at, len) = call {
            case.map(at - K4, K4);
            case.map(at + len, K4);
            case.map(at, K4);
            case.unmap(at, K4);
        }
        case
    }

    /// With so many more pages mapped.
    fn among(pages: u64, call: Call) -> Self {
        let case = Self::beside(48, call);
        (0..pages).for_each(|page| case.map(page * K4, K4));
        case
    }

    fn map(&self, at: u64, len: u64) {
        // SAFETY: no device is attached to the domain.
        unsafe { self.domain.map(Iova(at), self.phys, len, RW) }.expect("it works");
    }

    fn unmap(&self, at: u64, len: u64) {
        self.domain.unmap(Iova(at), len).expect("it works");
    }

    /// Brings everything back to where a call starts from. What is `kept` is unmapped by halves,
    /// none of them all that a table spans.
    fn reset(&self) {
        match self.call {
            Call::Map(at, len) if self.kept && len > K4 => {
                self.unmap(at, len / 2);
                self.unmap(at + len / 2, len / 2);
            }
            Call::Map(at, len) => self.unmap(at, len),
            Call::Unmap(at, len) => self.map(at, len),
            Call::Nothing(..) | Call::Queue | Call::Translate(_) => {}
        }
        self.memory.tidy();
    }

    /// A case that was called before: whatever happens once only has happened.
    fn warm(self) -> &'static Self {
        if let Call::Unmap(at, len) = self.call {
            self.map(at, len);
        }
        if let Call::Translate(at) = self.call {
            self.map(at, K4);
        }
        self.memory.tidy();
        measure(&self).expect("it works");
        self.reset();
        Box::leak(Box::new(self))
    }
}

/// A call of a function with such arguments that does nothing.
#[inline(never)]
fn nothing(domain: &DomainRef, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> Result {
    let _ = (domain, iova, phys, len, prot);
    std::hint::black_box(());
    Ok(())
}

/// What all rows do, so that none knows its own arguments in advance.
#[inline(always)]
fn measure(case: &Case) -> Result {
    match case.call {
        Call::Nothing(at, len) => nothing(&case.domain, Iova(at), case.phys, len, RW),
        Call::Queue => internals::run(
            &case.smmu,
            [Command::tlbi_va(1, Iova(AT)).over(Granule::K4, 1, 3)],
        ),
        Call::Map(at, len) => {
            // SAFETY: no device is attached to the domain.
            unsafe { case.domain.map(Iova(at), case.phys, len, RW) }
        }
        Call::Unmap(at, len) => case.domain.unmap(Iova(at), len),
        Call::Translate(at) => {
            std::hint::black_box(case.domain.translate(Iova(at)));
            Ok(())
        }
    }
}

#[expect(unreachable_pub, reason = "what gungraun generates")]
mod harness {
    use gungraun::prelude::*;
    use gungraun::{Callgrind, EventKind};
    use iommu_core::Result;

    use crate::{AT, Call, Case, K4, M2, measure};

    macro_rules! benches {
        ($($name:ident, $limit:expr, $waits:literal, $make:expr;)+) => {
            $(
                #[library_benchmark(config = counted())]
                #[bench::call($make.warm())]
                fn $name(case: &'static Case) -> Result {
                    measure(case)
                }
            )+
            library_benchmark_group!(name = pgtable; benchmarks = $($name),+);
            gungraun::main!(library_benchmark_groups = pgtable);
        };
    }
    rows!(benches);

    fn counted() -> LibraryBenchmarkConfig {
        let mut callgrind = Callgrind::default();
        callgrind.format([EventKind::Ir]);
        let mut config = LibraryBenchmarkConfig::default();
        config.tool(callgrind);
        config
    }

    /// Runs the benches, or the one that the runner asks this process for.
    pub(super) fn run() {
        main();
    }
}

macro_rules! names {
    ($($name:ident, $limit:expr, $waits:literal, $make:expr;)+) => {
        /// Every row: its name, its limit, and whether it waits.
        const ROWS: &[(&str, i64, bool)] = &[$((stringify!($name), $limit, $waits)),+];
    };
}
rows!(names);

fn main() -> ExitCode {
    harness::run();
    let Some(counts) = Counts::of("pgtable_instructions") else {
        return ExitCode::SUCCESS;
    };
    let Some((frame, queue)) = counts
        .row("pgtable", "frame")
        .zip(counts.row("pgtable", "queue"))
    else {
        eprintln!("nothing was counted");
        return ExitCode::FAILURE;
    };
    println!(
        "\n{:32} {:>6} {:>8} {:>7}",
        "", "in all", "no queue", "limit"
    );
    let mut result = ExitCode::SUCCESS;
    for (name, limit, waits) in ROWS {
        let all = counts.row("pgtable", name).unwrap_or(i64::MAX) - frame;
        let own = if *waits { all - (queue - frame) } else { all };
        println!("{name:32} {all:6} {own:8} {limit:7}");
        if cfg!(target_arch = "x86_64") && own > *limit {
            eprintln!("{name} takes more than it may");
            result = ExitCode::FAILURE;
        }
    }
    result
}
