//! Stream table entries and context descriptors as the hardware understands them (5.2, 5.4).

use iommu_core::PhysAddr;

use super::bits::{address, bit, field, id, span};
use super::settings::{ModelConfig, size_bits};

/// What an SMMU does with a stream's transactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamConfig {
    /// There is no valid entry: transactions fault.
    Invalid,
    /// Transactions are refused silently.
    Abort,
    /// Transactions pass untranslated.
    Bypass,
    /// Transactions are translated by stage 1.
    Stage1 {
        /// Stage 1.
        stage1: Stage1,
        /// `EATS`: what ATS the stream may do.
        eats: u8,
    },
    /// Transactions are translated by stage 2.
    Stage2 {
        /// Stage 2.
        stage2: Stage2,
        /// `EATS`: what ATS the stream may do.
        eats: u8,
    },
    /// Transactions are translated by stage 1, and the results by stage 2.
    Nested {
        /// Stage 1, with addresses that stage 2 translates.
        stage1: Stage1,
        /// Stage 2.
        stage2: Stage2,
        /// `EATS`: what ATS the stream may do.
        eats: u8,
    },
}

/// A stream's stage 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage1 {
    /// The VMID that tags its TLB entries.
    pub vmid: u16,
    /// `S1ContextPtr`: its context descriptor or a table of them; an intermediate address if nested.
    pub context: PhysAddr,
    /// `S1CDMax`: the power of two that is the number of context descriptors.
    pub context_bits: u32,
    /// `S1Fmt`: how that table is laid out.
    pub format: u8,
    /// `S1DSS`: what becomes of transactions without substream where substreams are in use.
    pub default_substream: u8,
    /// `S1STALLD`: whether stalls are forbidden.
    pub stall_disabled: bool,
    /// Whether TLB entries belong to the hypervisor's own regime (`STRW` is NS-EL2).
    pub hypervisor: bool,
    /// The descriptor of substream 0, if it is there and valid. Not looked up where nested.
    pub descriptor: Option<Context>,
}

/// A context descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// The ASID that tags TLB entries.
    pub asid: u16,
    /// `ASET`: whether the ASID is apart from those of CPUs.
    pub private_asid: bool,
    /// The tables for addresses whose bit 55 is 0, if enabled.
    pub low: Option<Tables>,
    /// The tables for addresses whose bit 55 is 1, if enabled.
    pub high: Option<Tables>,
    /// `TBI0`, `TBI1`: whether the top byte of low and high addresses is ignored.
    pub ignore_top_byte: [bool; 2],
    /// `HAD0`, `HAD1`: whether limits in table descriptors are ignored.
    pub ignore_table_limits: [bool; 2],
    /// `AFFD`: whether the access flag is taken as set.
    pub ignore_access_flag: bool,
    /// `A`: whether a refused transaction sees an error.
    pub abort: bool,
    /// `R`: whether faults are recorded.
    pub record: bool,
    /// `S`: whether faulting transactions stall.
    pub stall: bool,
    /// `MAIR1` and `MAIR0`.
    pub mair: u64,
}

/// A stream's stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2 {
    /// The VMID that tags TLB entries.
    pub vmid: u16,
    /// The tables.
    pub tables: Tables,
    /// `S2AFFD`: whether the access flag is taken as set.
    pub ignore_access_flag: bool,
    /// `S2R`: whether faults are recorded.
    pub record: bool,
    /// `S2S`: whether faulting transactions stall.
    pub stall: bool,
}

/// One tree of translation tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tables {
    /// The first table, aligned to its size; several concatenated ones count as one.
    pub root: PhysAddr,
    /// The number of address bits that are translated.
    pub input_bits: u32,
    /// The number of address bits that may come out.
    pub output_bits: u32,
    /// The size of a page as a power of two.
    pub granule_bits: u32,
    /// The level of the first table, 0 to 3.
    pub start_level: u32,
}

/// A valid stream table entry.
pub(super) struct Ste {
    /// Whether anything passes at all.
    pub(super) passes: bool,
    pub(super) stage1: Option<Stage1>,
    pub(super) stage2: Option<Stage2>,
    pub(super) eats: u8,
    /// `PRIVCFG`: whether transactions count as privileged.
    pub(super) privileged: bool,
}

impl Ste {
    pub(super) fn stream_config(&self) -> StreamConfig {
        let eats = self.eats;
        match (self.passes, self.stage1, self.stage2) {
            (false, ..) => StreamConfig::Abort,
            (true, None, None) => StreamConfig::Bypass,
            (true, Some(stage1), None) => StreamConfig::Stage1 { stage1, eats },
            (true, None, Some(stage2)) => StreamConfig::Stage2 { stage2, eats },
            (true, Some(stage1), Some(stage2)) => StreamConfig::Nested {
                stage1,
                stage2,
                eats,
            },
        }
    }
}

type Checked<T = ()> = Result<T, &'static str>;

fn illegal_if(condition: bool, reason: &'static str) -> Checked {
    if condition { Err(reason) } else { Ok(()) }
}

/// Decodes a stream table entry, or says why it is ILLEGAL (5.2.2).
pub(super) fn stream_table_entry(ids: &ModelConfig, ste: &[u64; 8]) -> Checked<Ste> {
    illegal_if(!bit(ste, 0), "V is 0")?;
    let config = field(ste, 3, 1);
    let (one, two) = (config & 1 != 0, config & 2 != 0);
    let mut entry = Ste {
        passes: config & 4 != 0,
        stage1: None,
        stage2: None,
        eats: 0,
        privileged: false,
    };
    if !entry.passes {
        return Ok(entry);
    }
    illegal_if(
        one && !ids.has_stage1(),
        "Config enables stage 1, which is not there",
    )?;
    illegal_if(
        two && !ids.has_stage2(),
        "Config enables stage 2, which is not there",
    )?;
    if ids.has_ats() && (one || two) {
        let (eats, stalls) = (id(ste, 93, 92), bit(ste, 185));
        let split = one && two && !stalls && !ids.idr0_bit(11);
        illegal_if(
            eats == 0b10 && !split,
            "EATS is split-stage where that cannot be",
        )?;
        illegal_if(eats == 0b01 && two && stalls, "EATS is 1 with S2S")?;
        entry.eats = eats.to_le_bytes()[0];
    }
    let strw = field(ste, 95, 94);
    let strw_used = one && !two && ids.has_hyp();
    illegal_if(strw_used && strw & 1 != 0, "STRW is reserved")?;
    let hypervisor = strw_used && strw == 0b10;
    let mut vmid = 0;
    if (one || two) && ids.has_stage2() && !hypervisor {
        vmid = id(ste, 143, 128);
        illegal_if(
            vmid > 0xff && !ids.idr0_bit(18),
            "S2VMID has more than 8 bits",
        )?;
    }
    // ATTR_PERMS_OVR: without it PRIVCFG is not looked at, and incoming DMA is unprivileged.
    entry.privileged = ids.idr1 & 1 << 26 != 0 && field(ste, 113, 112) == 0b11;
    if one {
        entry.stage1 = Some(stage1(ids, ste, two, vmid, hypervisor)?);
    }
    if two {
        entry.stage2 = Some(stage2(ids, ste, vmid)?);
    }
    Ok(entry)
}

fn stage1(
    ids: &ModelConfig,
    ste: &[u64; 8],
    nested: bool,
    vmid: u16,
    hypervisor: bool,
) -> Checked<Stage1> {
    let stall_disabled = bit(ste, 91);
    illegal_if(
        stall_disabled && ids.stall_model() != 0,
        "S1STALLD where stalls are not a choice",
    )?;
    let (mut context_bits, mut format) = (field(ste, 63, 59), field(ste, 5, 4));
    if ids.substream_bits() == 0 {
        context_bits = 0;
    }
    illegal_if(
        context_bits > ids.substream_bits(),
        "S1CDMax is larger than SSIDSIZE",
    )?;
    if context_bits == 0 || format == 0b11 {
        format = 0;
    }
    illegal_if(
        format != 0 && !ids.idr0_bit(19),
        "S1Fmt has two levels without CD2L",
    )?;
    let context = address(ste, 55, 6);
    let bits = if nested {
        ids.intermediate_bits()
    } else {
        ids.output_bits()
    };
    illegal_if(context >> bits != 0, "S1ContextPtr is out of range")?;
    Ok(Stage1 {
        vmid,
        context: PhysAddr(context),
        context_bits,
        format: format.to_le_bytes()[0],
        default_substream: field(ste, 65, 64).to_le_bytes()[0],
        stall_disabled,
        hypervisor,
        descriptor: None,
    })
}

fn stage2(ids: &ModelConfig, ste: &[u64; 8], vmid: u16) -> Checked<Stage2> {
    let stall = bit(ste, 185);
    illegal_if(stall && ids.stall_model() == 1, "S2S without stalls")?;
    illegal_if(
        !stall && ids.stall_model() == 2,
        "no S2S where stalls are forced",
    )?;
    illegal_if(!bit(ste, 179), "S2AA64 is 0; that format is not modelled")?;
    illegal_if(
        (bit(ste, 184) || bit(ste, 183)) && ids.httu() == 0,
        "S2HA or S2HD without HTTU",
    )?;
    illegal_if(
        bit(ste, 183) && ids.httu() == 1,
        "S2HD where HTTU is the access flag only",
    )?;
    check_endian(ids, bit(ste, 180))?;
    let granule = low_granule(field(ste, 175, 174));
    illegal_if(!ids.has_granule(granule), "S2TG is not supported")?;
    let size = field(ste, 165, 160);
    let smallest = 16.max(64 - ids.intermediate_bits());
    illegal_if(
        size < smallest || size > ids.max_size_field(granule),
        "S2T0SZ is out of range",
    )?;
    let output_bits = size_bits(field(ste, 178, 176)).min(ids.output_bits());
    let start_level = stage2_start(ids, field(ste, 167, 166), granule, 64 - size)?;
    let root = address(ste, 247, 196);
    illegal_if(root >> output_bits != 0, "S2TTB is out of range")?;
    let root = PhysAddr(root);
    let tables = Tables {
        root,
        input_bits: 64 - size,
        output_bits,
        granule_bits: granule,
        start_level,
    };
    Ok(Stage2 {
        vmid,
        tables: tables.with_root_aligned(),
        ignore_access_flag: bit(ste, 181),
        record: bit(ste, 186),
        stall,
    })
}

/// The start level that SL0 selects, where the table there resolves at least one bit and at most four
/// more than one table does (sixteen concatenated tables).
fn stage2_start(ids: &ModelConfig, sl0: u32, granule: u32, input_bits: u32) -> Checked<u32> {
    let level = match (granule, sl0) {
        (12, 0..=2) => 2 - sl0,
        (12, 3) if ids.idr3_bit(9) => 3,
        (14 | 16, 0..=2) => 3 - sl0,
        _ => return Err("S2SL0 is reserved"),
    };
    let most_bits = match (granule, level) {
        (12, 0) | (16, 1) => 42,
        (14, 1) => 40,
        _ => 0,
    };
    illegal_if(
        ids.output_bits() <= most_bits,
        "S2SL0 starts higher than addresses reach",
    )?;
    let stride = granule - 3;
    let below = (3 - level) * stride + granule;
    let fits = input_bits > below && input_bits - below <= stride + 4;
    illegal_if(!fits, "S2SL0 and S2T0SZ do not fit each other")?;
    Ok(level)
}

fn check_endian(ids: &ModelConfig, big: bool) -> Checked {
    illegal_if(
        big && ids.table_endian() == 0b10,
        "big-endian tables are not supported",
    )?;
    illegal_if(
        !big && ids.table_endian() == 0b11,
        "little-endian tables are not supported",
    )?;
    illegal_if(big, "big-endian tables are not modelled")
}

/// The encoding of TG0 and S2TG; 0 where reserved.
fn low_granule(field: u32) -> u32 {
    [12, 16, 14, 0].get(field as usize).copied().unwrap_or(0)
}

/// The encoding of TG1; 0 where reserved.
fn high_granule(field: u32) -> u32 {
    [0, 14, 12, 16].get(field as usize).copied().unwrap_or(0)
}

/// Decodes a context descriptor, or says why it is ILLEGAL for this stream (5.4.2).
pub(super) fn context(ids: &ModelConfig, stage1: &Stage1, cd: &[u64; 8]) -> Checked<Context> {
    illegal_if(!bit(cd, 31), "V is 0")?;
    let (stall, abort) = (bit(cd, 44), bit(cd, 46));
    illegal_if(
        stage1.stall_disabled && stall,
        "S where the stream forbids stalls",
    )?;
    illegal_if(
        ids.idr0_bit(26) && !abort,
        "A is 0 where refused transactions always abort",
    )?;
    illegal_if(stall && ids.stall_model() == 1, "S without stalls")?;
    illegal_if(
        !stall && ids.stall_model() == 2,
        "no S where stalls are forced",
    )?;
    illegal_if(!bit(cd, 41), "AA64 is 0; that format is not modelled")?;
    illegal_if(
        (bit(cd, 43) || bit(cd, 42)) && ids.httu() == 0,
        "HA or HD without HTTU",
    )?;
    illegal_if(
        bit(cd, 42) && ids.httu() == 1,
        "HD where HTTU is the access flag only",
    )?;
    let asid = id(cd, 63, 48);
    let wide = asid > 0xff && !ids.idr0_bit(12) && !stage1.hypervisor;
    illegal_if(wide, "ASID has more than 8 bits")?;
    let output_bits = size_bits(field(cd, 34, 32)).min(ids.output_bits());
    let enabled = if stage1.hypervisor {
        [true, false]
    } else {
        [!bit(cd, 14), !bit(cd, 30)]
    };
    if enabled != [false, false] {
        check_endian(ids, bit(cd, 15))?;
    }
    let half = |enabled: bool, size, granule, root| {
        enabled
            .then(|| stage1_tables(ids, size, granule, root, output_bits))
            .transpose()
    };
    let had = ids.idr3_bit(2);
    Ok(Context {
        asid,
        private_asid: bit(cd, 47),
        low: half(
            enabled[0],
            field(cd, 5, 0),
            low_granule(field(cd, 7, 6)),
            address(cd, 119, 68),
        )?,
        high: half(
            enabled[1],
            field(cd, 21, 16),
            high_granule(field(cd, 23, 22)),
            address(cd, 183, 132),
        )?,
        ignore_top_byte: [bit(cd, 38), bit(cd, 39)],
        ignore_table_limits: [had && bit(cd, 65), had && bit(cd, 129)],
        ignore_access_flag: bit(cd, 35),
        abort,
        record: bit(cd, 45),
        stall,
        mair: span(cd, 255, 192),
    })
}

fn stage1_tables(
    ids: &ModelConfig,
    size: u32,
    granule: u32,
    root: u64,
    output_bits: u32,
) -> Checked<Tables> {
    illegal_if(!ids.has_granule(granule), "TG is not supported")?;
    illegal_if(
        size < 16 || size > ids.max_size_field(granule),
        "TSZ is out of range",
    )?;
    illegal_if(root >> output_bits != 0, "TTB is out of range")?;
    let (input_bits, stride) = (64 - size, granule - 3);
    let start_level = 4u32
        .saturating_sub((input_bits - granule).div_ceil(stride))
        .min(3);
    let root = PhysAddr(root);
    let tables = Tables {
        root,
        input_bits,
        output_bits,
        granule_bits: granule,
        start_level,
    };
    Ok(tables.with_root_aligned())
}
