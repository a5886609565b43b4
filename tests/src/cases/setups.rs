//! The machines that cases run on, and how the driver is told to use them.

use arm_smmu_v3::StreamTableFormat;
use arm_smmu_v3::spec::granule::Granule;
use iommu_core::Stage;

/// The stages of translation that a machine's SMMU has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stages {
    /// Stage 1.
    One,
    /// Stage 2.
    Two,
    /// Both.
    Both,
}

/// A machine, and how the driver is told to use it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setup {
    /// The stages of translation that the SMMU has.
    pub stages: Stages,
    /// The number of DMA masters. Their StreamIDs are 0x10, 0x18, 0x20 and so on.
    pub masters: usize,
    /// Whether the driver finds ASIDs and VMIDs of 8 bits, so that they are soon used up; 16 bits
    /// otherwise.
    pub narrow_ids: bool,
    /// Whether the driver finds that ranges can be invalidated by one command; by leaf, or by tag,
    /// otherwise.
    pub range_invalidation: bool,
    /// The one granule that the driver finds; `None` for those that there are.
    pub granule: Option<Granule>,
    /// The stage that paging domains use.
    pub stage: Stage,
    /// The stream table's layout.
    pub table: StreamTableFormat,
}

/// Stage-1 paging domains on an SMMU with both stages, a stream table of two levels, two masters.
#[must_use]
pub fn s1() -> Setup {
    Setup {
        stages: Stages::Both,
        masters: 2,
        narrow_ids: false,
        range_invalidation: true,
        granule: None,
        stage: Stage::First,
        table: StreamTableFormat::TwoLevel,
    }
}

/// [`s1`] with paging domains of stage 2.
#[must_use]
pub fn s2() -> Setup {
    Setup {
        stage: Stage::Second,
        ..s1()
    }
}

/// [`s1`] with a linear stream table.
#[must_use]
pub fn s1_linear() -> Setup {
    Setup {
        table: StreamTableFormat::Linear,
        ..s1()
    }
}

/// [`s2`] with a linear stream table.
#[must_use]
pub fn s2_linear() -> Setup {
    Setup {
        table: StreamTableFormat::Linear,
        ..s2()
    }
}

/// [`s1`] where the SMMU has stage 1 only, and the backend chooses.
#[must_use]
pub fn only_s1() -> Setup {
    Setup {
        stages: Stages::One,
        stage: Stage::Any,
        ..s1()
    }
}

/// [`s2`] where the SMMU has stage 2 only, and the backend chooses.
#[must_use]
pub fn only_s2() -> Setup {
    Setup {
        stages: Stages::Two,
        stage: Stage::Any,
        ..s2()
    }
}

/// Where stages do not matter: a stream table of two levels.
#[must_use]
pub fn two_level() -> Setup {
    s1()
}

/// Where stages do not matter: a linear stream table.
#[must_use]
pub fn linear() -> Setup {
    s1_linear()
}

/// [`s1`] with 8-bit ASIDs.
#[must_use]
pub fn s1_narrow() -> Setup {
    Setup {
        narrow_ids: true,
        ..s1()
    }
}

/// [`s2`] with 8-bit VMIDs.
#[must_use]
pub fn s2_narrow() -> Setup {
    Setup {
        narrow_ids: true,
        ..s2()
    }
}

/// [`s1`] without range invalidation.
#[must_use]
pub fn s1_by_leaf() -> Setup {
    Setup {
        range_invalidation: false,
        ..s1()
    }
}

/// [`s2`] without range invalidation.
#[must_use]
pub fn s2_by_leaf() -> Setup {
    Setup {
        range_invalidation: false,
        ..s2()
    }
}

/// [`s1`] where pages have 64 KiB.
#[must_use]
pub fn s1_64k() -> Setup {
    Setup {
        granule: Some(Granule::K64),
        ..s1()
    }
}

/// [`only_s1`] where pages have 64 KiB.
#[must_use]
pub fn only_s1_64k() -> Setup {
    Setup {
        granule: Some(Granule::K64),
        ..only_s1()
    }
}

/// [`s1`] where pages have 16 KiB.
#[must_use]
pub fn s1_16k() -> Setup {
    Setup {
        granule: Some(Granule::K16),
        ..s1()
    }
}

/// [`s2`] where pages have 64 KiB.
#[must_use]
pub fn s2_64k() -> Setup {
    Setup {
        granule: Some(Granule::K64),
        ..s2()
    }
}

/// [`s2`] where pages have 16 KiB.
#[must_use]
pub fn s2_16k() -> Setup {
    Setup {
        granule: Some(Granule::K16),
        ..s2()
    }
}
