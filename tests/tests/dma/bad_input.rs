//! Ranges that cannot be: refused with a kind, and nothing changes.

use iommu_core::{
    DefaultDomain, Device, DomainRef, ErrorKind, Invalidation, Iova, PagingConfig, PhysAddr, Prot,
    Stage,
};

use super::setup::Setup;

const K4: u64 = 1 << 12;
const M2: u64 = 1 << 21;
const RW: Prot = Prot::READ.union(Prot::WRITE);

use ErrorKind::{AlreadyExists, InvalidArgument, NotFound, OutOfRange, Unsupported};

/// A device on a domain with a block of 2 MiB at 2 MiB, and a page at 8 MiB.
struct Case {
    name: String,
    setup: Setup,
    domain: DomainRef,
    _device: Device,
    block: u64,
}

impl Case {
    fn new(setup: Setup, stage: Stage) -> Self {
        let (device, _) = setup.nic();
        let config = PagingConfig {
            stage,
            ..PagingConfig::default()
        };
        let domain = setup.iommu.paging_domain(&config).unwrap();
        device.attach(&domain).unwrap();
        let size = usize::try_from(M2).unwrap();
        let block = setup.block(size, size);
        let case = Self {
            name: format!("{setup:?}, stage {stage:?}"),
            block: block.addr().0,
            domain,
            setup,
            _device: device,
        };
        block.leak();
        case.map(M2, case.block, M2, RW).unwrap();
        case.map(4 * M2, case.block, K4, RW).unwrap();
        case
    }

    /// Each backend with each stage.
    fn all() -> [Self; 4] {
        let [first, second, vtd] =
            [Setup::smmu, Setup::smmu, Setup::vtd].map(|setup| setup(DefaultDomain::Paging));
        [
            Self::new(first, Stage::First),
            Self::new(second, Stage::Second),
            Self::new(vtd, Stage::Second),
            Self::new(Setup::vtd_first_stage(), Stage::First),
        ]
    }

    fn map(&self, iova: u64, phys: u64, len: u64, prot: Prot) -> Result<(), ErrorKind> {
        // SAFETY: the block is kept, and nobody relies on what is in it.
        let mapped = unsafe { self.domain.map(Iova(iova), PhysAddr(phys), len, prot) };
        mapped.map_err(|error| error.kind())
    }

    fn unmap(&self, iova: u64, len: u64) -> Result<(), ErrorKind> {
        let unmapped = self.domain.unmap(Iova(iova), len);
        unmapped.map_err(|error| error.kind())
    }

    fn unmap_lazily(&self, iova: u64, len: u64) -> Result<(), ErrorKind> {
        let unmapped = self.domain.unmap_lazily(Iova(iova), len);
        unmapped.map(drop).map_err(|error| error.kind())
    }

    fn protect(&self, iova: u64, len: u64, prot: Prot) -> Result<(), ErrorKind> {
        // SAFETY: as above.
        let changed = unsafe { self.domain.protect(Iova(iova), len, prot) };
        changed.map_err(|error| error.kind())
    }

    fn merge(&self, iova: u64, size: u64) -> Result<(), ErrorKind> {
        // SAFETY: nobody else uses the domain.
        let merged = unsafe { self.domain.merge(Iova(iova), size) };
        merged.map_err(|error| error.kind())
    }

    fn split(&self, iova: u64) -> Result<(), ErrorKind> {
        self.domain.split(Iova(iova)).map_err(|error| error.kind())
    }

    /// All is as it was made, to a device and to the domain.
    fn check(&self, when: &str) {
        let expected = [
            (0, None),
            (M2 - K4, None),
            (M2, Some(self.block)),
            (2 * M2 - K4, Some(self.block + M2 - K4)),
            (2 * M2, None),
            (4 * M2 - K4, None),
            (4 * M2, Some(self.block)),
            (4 * M2 + K4, None),
        ];
        for (iova, phys) in expected {
            let there = self.domain.translate(Iova(iova)).map(|phys| phys.0);
            assert_eq!(there, phys, "{}: {iova:#x} after {when}", self.name);
            let reached = self.setup.write(Iova(iova), b"there");
            assert_eq!(reached, phys.is_some(), "{}: {iova:#x}, {when}", self.name);
        }
        self.setup.check();
    }
}

#[test]
fn ranges_that_cannot_be_are_refused_and_nothing_changes() {
    for case in Case::all() {
        let last = case.domain.geometry().unwrap().aperture.last();
        let ranges = [
            ("no bytes", 0, 0, InvalidArgument),
            ("no bytes of what is mapped", M2, 0, InvalidArgument),
            (
                "wrapping around",
                u64::MAX - K4 + 1,
                2 * K4,
                InvalidArgument,
            ),
            ("all but everything", K4, u64::MAX - K4 + 1, OutOfRange),
            ("an address inside a page", 8, K4, InvalidArgument),
            ("half a page", 0, K4 + 8, InvalidArgument),
            ("beyond the aperture", last + 1, K4, OutOfRange),
            ("across its end", last + 1 - K4, 2 * K4, OutOfRange),
        ];
        // Once before anything is known to be in order, and again after.
        for (round, policy) in [Invalidation::Strict, Invalidation::Lazy]
            .into_iter()
            .enumerate()
        {
            case.domain.set_invalidation(policy);
            for (what, iova, len, kind) in ranges {
                let what = format!("{}, {what}, round {round}", case.name);
                assert_eq!(case.map(iova, case.block, len, RW), Err(kind), "{what}");
                assert_eq!(case.unmap(iova, len), Err(kind), "{what}");
                assert_eq!(case.unmap_lazily(iova, len), Err(kind), "{what}");
                assert_eq!(case.protect(iova, len, RW), Err(kind), "{what}");
            }
            case.check("ranges that cannot be");
        }
    }
}

#[test]
fn targets_that_cannot_be_are_refused_and_nothing_changes() {
    for case in Case::all() {
        let last = case.domain.geometry().unwrap().physical.last();
        for _ in 0..2 {
            let map = |phys, len, prot| case.map(0, phys, len, prot);
            assert_eq!(map(8, K4, RW), Err(InvalidArgument), "inside a page");
            assert_eq!(map(last + 1, K4, RW), Err(OutOfRange), "beyond");
            assert_eq!(map(last + 1 - K4, 2 * K4, RW), Err(OutOfRange), "across");
            let wraps = u64::MAX - K4 + 1;
            assert_eq!(map(wraps, 2 * K4, RW), Err(InvalidArgument), "around");
            for none in [Prot::empty(), Prot::NO_EXECUTE, Prot::DEVICE] {
                assert_eq!(map(case.block, K4, none), Err(InvalidArgument));
                assert_eq!(case.protect(M2, M2, none), Err(InvalidArgument));
            }
            case.check("targets that cannot be");
        }
    }
}

#[test]
fn what_is_mapped_is_not_mapped_over() {
    for case in Case::all() {
        let overlaps = [
            ("the same page", 4 * M2, K4),
            ("a page of the block", M2 + K4, K4),
            ("the same block", M2, M2),
            ("up to the block", M2 - K4, 2 * K4),
            ("from the block's end", 2 * M2 - K4, 2 * K4),
            ("around the block", M2 - K4, M2 + 2 * K4),
            ("around the page", 4 * M2 - K4, 3 * K4),
            ("a block around the page", 4 * M2, M2),
            ("all of it", 0, 8 * M2),
        ];
        for (what, iova, len) in overlaps {
            let refused = case.map(iova, 0, len, RW);
            assert_eq!(refused, Err(AlreadyExists), "{}: {what}", case.name);
            case.check(what);
        }
    }
}

#[test]
fn what_is_not_mapped_as_a_whole_is_neither_unmapped_nor_changed() {
    for case in Case::all() {
        let parts = [
            ("nothing", 0, K4, NotFound),
            ("a hole beside the page", 4 * M2 + K4, K4, NotFound),
            ("the page and a hole", 4 * M2, 2 * K4, NotFound),
            ("a hole and the page", 4 * M2 - K4, 2 * K4, NotFound),
            ("the block and a hole", M2, M2 + K4, NotFound),
            ("all of it, and holes", M2, 4 * M2, NotFound),
            ("the block's first page", M2, K4, InvalidArgument),
            ("a page inside the block", M2 + K4, K4, InvalidArgument),
            ("the block but for a page", M2, M2 - K4, InvalidArgument),
            ("the block's end", M2 + K4, M2 - K4, InvalidArgument),
        ];
        for (what, iova, len, kind) in parts {
            let name = &case.name;
            assert_eq!(case.unmap(iova, len), Err(kind), "{name}: {what}");
            let lazily = case.unmap_lazily(iova, len);
            assert_eq!(lazily, Err(kind), "{name}: {what}");
            let changed = case.protect(iova, len, Prot::READ);
            assert_eq!(changed, Err(kind), "{name}: {what}");
            case.check(what);
        }
        // Once is enough.
        for (iova, len) in [(M2, M2), (4 * M2, K4)] {
            case.unmap(iova, len).unwrap();
            assert_eq!(case.unmap(iova, len), Err(NotFound));
            assert_eq!(case.unmap_lazily(iova, len), Err(NotFound));
            assert!(!case.setup.write(Iova(iova), b"late"), "{}", case.name);
        }
        case.setup.check();
    }
}

#[test]
fn what_was_unmapped_lazily_is_not_there_to_be_unmapped_or_changed() {
    for case in Case::all() {
        let name = &case.name;
        for (iova, len) in [(M2, M2), (4 * M2, K4)] {
            case.unmap_lazily(iova, len).unwrap();
            for _ in 0..2 {
                assert_eq!(case.unmap_lazily(iova, len), Err(NotFound), "{name}");
                assert_eq!(case.unmap(iova, len), Err(NotFound), "{name}");
                let changed = case.protect(iova, len, Prot::READ);
                assert_eq!(changed, Err(NotFound), "{name}");
                case.domain.flush().unwrap();
            }
            assert!(!case.setup.write(Iova(iova), b"late"), "{name}");
            case.map(iova, case.block, len, RW).unwrap();
        }
        case.check("what was unmapped is mapped again");
    }
}

#[test]
fn blocks_and_pages_that_cannot_be_split_or_merged_stay_as_they_are() {
    for case in Case::all() {
        let last = case.domain.geometry().unwrap().aperture.last();
        assert_eq!(case.split(0), Err(NotFound));
        assert_eq!(case.split(4 * M2 + 5), Err(InvalidArgument), "a page");
        assert_eq!(case.split(last + 1), Err(OutOfRange));
        assert_eq!(case.split(u64::MAX), Err(OutOfRange));
        assert_eq!(case.merge(M2, M2), Err(NotFound), "a block");
        assert_eq!(case.merge(16 * M2, M2), Err(NotFound), "nothing");
        assert_eq!(case.merge(4 * M2, M2), Err(InvalidArgument), "a page");
        assert_eq!(case.merge(M2 + K4, M2), Err(InvalidArgument));
        assert_eq!(case.merge(M2, 2 * M2), Err(Unsupported), "no such block");
        assert_eq!(case.merge(M2, 0), Err(InvalidArgument));
        assert_eq!(case.merge(M2, 8), Err(InvalidArgument));
        assert_eq!(case.merge(last + 1, M2), Err(OutOfRange));
        case.check("splits and merges that cannot be");
    }
}
