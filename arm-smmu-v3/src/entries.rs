//! What the driver writes into table entries: one function for each kind, and no I/O.

use iommu_core::PhysAddr;
use iommu_core::pgtable::Stage1;

use crate::features::Features;
use crate::spec::cd::{self, Cd};
use crate::spec::granule::Granule;
use crate::spec::ste::{Config, Ste, Word0, Word1, Word2, Word3};

/// How the hardware accesses tables: like a CPU where it sees the CPUs' caches, past all caches
/// where it does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalkAttributes {
    /// 1 write-back, 0 non-cacheable: as in `SMMU_CR1`, and in STEs and CDs too.
    pub(crate) cacheability: u8,
    /// 3 inner, 2 outer.
    pub(crate) shareability: u8,
}

impl WalkAttributes {
    pub(crate) const fn new(coherent: bool) -> Self {
        if coherent {
            Self {
                cacheability: 1,
                shareability: 3,
            }
        } else {
            Self {
                cacheability: 0,
                shareability: 2,
            }
        }
    }
}

/// An address as the fields of entries have it: without its low bits, and without those above 55.
const fn field(addr: PhysAddr, shift: u32) -> u64 {
    (addr.0 & ((1 << 56) - 1)) >> shift
}

/// Terminates every transaction, without an event.
pub(crate) const fn abort() -> Ste {
    ste(
        Word0::new().with_valid(true).with_config(Config::ABORT),
        Word1::new(),
    )
}

const fn ste(word0: Word0, word1: Word1) -> Ste {
    Ste {
        word0,
        word1,
        word2: Word2::new(),
        word3: Word3::new(),
        rest: [0; 4],
    }
}

/// Memory types come through as the device gives them. The field is reserved where the hardware
/// does not obey it.
const fn incoming_shareability(features: &Features) -> u8 {
    if features.shareability_override { 1 } else { 0 }
}

/// What an entry is before anybody asked for the stream: it aborts, and carries what entries of
/// this SMMU have in word 1 whatever they lead to. An entry that aborts ignores that (5.2), and so
/// do those that pass or translate, each its part of it; so the first attach finds it filled.
pub(crate) const fn unused(features: &Features, walk: WalkAttributes) -> Ste {
    ste(abort().word0, stage1(features, walk, PhysAddr(0)).word1)
}

/// Passes every transaction.
pub(crate) const fn bypass(features: &Features) -> Ste {
    let word0 = Word0::new().with_valid(true).with_config(Config::BYPASS);
    ste(
        word0,
        Word1::new().with_shcfg(incoming_shareability(features)),
    )
}

/// Translates by stage 1, through the one CD at `cd`.
pub(crate) const fn stage1(features: &Features, walk: WalkAttributes, cd: PhysAddr) -> Ste {
    let word0 = Word0::new()
        .with_valid(true)
        .with_config(Config::STAGE1)
        .with_s1_context_ptr(field(cd, 6));
    // The attributes count for nothing here; they are those that entries without stage 1 have, so
    // that one store leads from one to the other.
    let word1 = Word1::new()
        .with_s1_cir(walk.cacheability)
        .with_s1_cor(walk.cacheability)
        .with_s1_csh(walk.shareability)
        .with_s1_stalld(features.stalls)
        .with_shcfg(incoming_shareability(features));
    ste(word0, word1)
}

/// A page table, as CDs and STEs describe one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) root: PhysAddr,
    pub(crate) root_level: u8,
    pub(crate) input_bits: u8,
    pub(crate) granule: Granule,
}

/// The CD for stage 1 over `table`, tagged `asid`. Faults abort the transaction and are recorded.
pub(crate) const fn cd(features: &Features, walk: WalkAttributes, table: Table, asid: u16) -> Cd {
    let word0 = cd::Word0::new()
        .with_t0sz(64 - table.input_bits)
        .with_tg0(table.granule.tg0())
        .with_ir0(walk.cacheability)
        .with_or0(walk.cacheability)
        .with_sh0(walk.shareability)
        .with_epd1(true)
        .with_valid(true)
        .with_ips(features.output_size)
        .with_aa64(true)
        .with_r(true)
        .with_a(true)
        .with_aset(true)
        .with_asid(asid);
    let word1 = cd::Word1::new().with_ttb0(field(table.root, 4));
    Cd {
        word0,
        word1,
        word2: 0,
        mair: Stage1::MAIR,
        rest: [0; 4],
    }
}

/// Translates by stage 2 over `table`, tagged `vmid`. Faults abort and are recorded.
pub(crate) const fn stage2(
    features: &Features,
    walk: WalkAttributes,
    table: Table,
    vmid: u16,
) -> Ste {
    let word0 = Word0::new().with_valid(true).with_config(Config::STAGE2);
    let word1 = Word1::new().with_shcfg(incoming_shareability(features));
    let word2 = Word2::new()
        .with_s2_vmid(vmid)
        .with_s2_t0sz(64 - table.input_bits)
        .with_s2_sl0(table.granule.s2sl0(table.root_level))
        .with_s2_ir0(walk.cacheability)
        .with_s2_or0(walk.cacheability)
        .with_s2_sh0(walk.shareability)
        .with_s2_tg(table.granule.tg0())
        .with_s2_ps(features.output_size)
        .with_s2_aa64(true)
        .with_s2_r(true);
    let word3 = Word3::new().with_s2_ttb(field(table.root, 4));
    Ste {
        word0,
        word1,
        word2,
        word3,
        rest: [0; 4],
    }
}

#[cfg(test)]
#[path = "entries_tests.rs"]
mod tests;
