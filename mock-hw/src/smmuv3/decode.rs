//! Stream table entries and context descriptors as the hardware understands them (5.2, 5.4).

use iommu_core::PhysAddr;

use super::bits::{address, bit, field, id, span};
use super::claims::{Signature, stage2_signature};
use super::config::{Context, Stage1, Stage2, StreamConfig, Tables};
use super::settings::{ModelConfig, size_bits};

/// A valid stream table entry.
pub(super) struct Ste {
    /// Whether anything passes at all.
    pub(super) passes: bool,
    pub(super) stage1: Option<Stage1>,
    pub(super) stage2: Option<Stage2>,
    pub(super) eats: u8,
    /// `PRIVCFG`: whether transactions count as privileged.
    pub(super) privileged: bool,
    /// What stage 2 translations depend on.
    pub(super) signature: Signature,
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
        signature: stage2_signature(ste),
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
    let strw = field(ste, 95, 94);
    let strw_used = one && !two && ids.has_hyp();
    if ids.has_ats() && (one || two) {
        let (eats, stalls) = (id(ste, 93, 92), bit(ste, 185));
        let split = one && two && !stalls && !ids.idr0_bit(11);
        illegal_if(
            eats == 0b10 && !split,
            "EATS is split-stage where that cannot be",
        )?;
        illegal_if(eats == 0b01 && two && stalls, "EATS is 1 with S2S")?;
        let checked = eats == 0b11 && ids.idr3_bit(15);
        illegal_if(checked && two && stalls, "EATS is 3 with S2S")?;
        illegal_if(
            checked && strw_used && strw != 0,
            "EATS is 3 where the regime is not that of guests",
        )?;
        // Reserved, and as 0, without a device permission table.
        let in_force = eats != 0b11 || checked;
        entry.eats = if in_force { eats.to_le_bytes()[0] } else { 0 };
    }
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
    // S1MPAM with MPAM: there is a structure of the virtual machine.
    let vms = one && two && bit(ste, 90) && ids.idr3_bit(7);
    illegal_if(
        vms && address(ste, 375, 332) >> ids.output_bits() != 0,
        "VMSPtr is out of range",
    )?;
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
        permission_indirection: bit(ste, 88),
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
    illegal_if(!ids.has_tables(), "64-bit tables are not supported")?;
    illegal_if(
        (bit(ste, 184) || bit(ste, 183)) && ids.httu() == 0,
        "S2HA or S2HD without HTTU",
    )?;
    illegal_if(
        bit(ste, 183) && ids.httu() == 1,
        "S2HD where HTTU is the access flag only",
    )?;
    illegal_if(
        bit(ste, 187) && !bit(ste, 184) && ids.httu() == 3,
        "S2HAFT without S2HA",
    )?;
    check_overlay(ids, ste)?;
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
    let root = address(ste, 243, 196);
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

/// The stage 2 permission overlay (5.2, S2POE), with 64-bit tables.
fn check_overlay(ids: &ModelConfig, ste: &[u64; 8]) -> Checked {
    if !ids.idr3_bit(20) || !bit(ste, 189) {
        return Ok(());
    }
    illegal_if(!bit(ste, 188), "S2POE without S2PIE")?;
    illegal_if(
        ids.idr3_bit(3) && field(ste, 75, 72) != 0,
        "S2POE with S2HWU",
    )?;
    let reserved = (448..512)
        .step_by(4)
        .any(|low| matches!(span(ste, low + 3, low), 0b0001 | 0b0101));
    illegal_if(reserved, "S2POI is reserved")
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
    illegal_if(!ids.has_tables(), "64-bit tables are not supported")?;
    illegal_if(
        (bit(cd, 43) || bit(cd, 42)) && ids.httu() == 0,
        "HA or HD without HTTU",
    )?;
    illegal_if(
        bit(cd, 42) && ids.httu() == 1,
        "HD where HTTU is the access flag only",
    )?;
    illegal_if(
        bit(cd, 67) && !bit(cd, 43) && ids.httu() == 3,
        "HAFT without HA",
    )?;
    check_indirection(ids, stage1, cd)?;
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
            address(cd, 115, 68),
        )?,
        high: half(
            enabled[1],
            field(cd, 21, 16),
            high_granule(field(cd, 23, 22)),
            address(cd, 179, 132),
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

/// The stage 1 permission indirection (5.4, PIIP and PIIU), with 64-bit tables.
fn check_indirection(ids: &ModelConfig, stage1: &Stage1, cd: &[u64; 8]) -> Checked {
    if !ids.idr3_bit(18) || !stage1.permission_indirection || !bit(cd, 187) {
        return Ok(());
    }
    for at in (0..48u32).step_by(3) {
        let three = |base: u32| span(cd, base + at + 2, base + at);
        let (unprivileged, privileged) = (three(384), three(448));
        let reserved = |value| matches!(value, 0b100 | 0b110);
        illegal_if(reserved(privileged), "PIIP is reserved")?;
        if !stage1.hypervisor {
            illegal_if(reserved(unprivileged), "PIIU is reserved")?;
            illegal_if(
                privileged & 0b010 != 0 && unprivileged & 0b100 != 0,
                "PIIP executes what PIIU writes",
            )?;
        }
    }
    Ok(())
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
