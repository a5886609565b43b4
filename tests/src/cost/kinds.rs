//! Entries as drivers make them: ten kinds of stream table entry (5.2), and the context descriptors
//! (5.4) of a domain and of a process.

use arm_smmu_v3::spec::cd::{self, Cd};
use arm_smmu_v3::spec::ste::{Config, Ste, Word0, Word1, Word2, Word3};
use iommu_core::pgtable::Stage1;

/// What both kinds of entry consist of.
pub(super) type Words = [u64; 8];

/// An entry with a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) words: Words,
    /// Whether faults may stall.
    pub(super) stalls: bool,
}

/// The name of the kind that aborts.
pub(super) const ABORT: &str = "abort";

/// What is not valid, and all zeros.
pub(super) const INVALID: Kind = Kind {
    name: "invalid",
    words: [0; 8],
    stalls: false,
};

const KEEPS: u8 = 2;
const BYPASSES: u8 = 1;
const TERMINATES: u8 = 0;

/// The ten kinds. All that translate allow ATS, but for those that stall. A prime is another table,
/// of stage 2 under another VMID.
pub(super) fn entries() -> [Kind; 10] {
    let s1 = stage1(KEEPS, 0xf0f0);
    let s2 = stage2(0, 0xdaed);
    let kinds = [
        (ABORT, abort()),
        ("bypass", bypass()),
        ("S1/term", stage1(TERMINATES, 0xf0f0)),
        ("S1/bypass", stage1(BYPASSES, 0xf0f0)),
        ("S1", s1),
        ("S1+stall", stalling(s1)),
        ("S2", s2),
        ("S2+stall", stalling(s2)),
        ("S1'", stage1(KEEPS, 0x4b4b)),
        ("S2'", stage2(5, 0xbeef)),
    ];
    kinds.map(|(name, ste)| Kind {
        name,
        words: ste.to_words(),
        stalls: name.ends_with("+stall"),
    })
}

/// An aborting entry that has nothing else in it.
pub(super) fn abort() -> Ste {
    Ste {
        word0: Word0::new().with_valid(true).with_config(Config::ABORT),
        ..Ste::default()
    }
}

fn bypass() -> Ste {
    let mut ste = abort();
    ste.word0.set_config(Config::BYPASS);
    ste.word1.set_shcfg(1);
    ste
}

/// A table of context descriptors in two levels, write-back and inner shareable. `default` says what
/// becomes of traffic without substream (S1DSS).
fn stage1(default: u8, table: u64) -> Ste {
    let mut ste = abort();
    ste.word0 = ste
        .word0
        .with_config(Config::STAGE1)
        .with_s1_fmt(2)
        .with_s1_context_ptr(table)
        .with_s1_cd_max(0x1f);
    ste.word1 = Word1::new()
        .with_s1_dss(default)
        .with_s1_cir(1)
        .with_s1_cor(1)
        .with_s1_csh(3)
        .with_s1_stalld(true)
        .with_eats(1);
    if default == BYPASSES {
        ste.word1.set_shcfg(1);
    }
    ste
}

fn stage2(vmid: u16, table: u64) -> Ste {
    let mut ste = abort();
    ste.word0.set_config(Config::STAGE2);
    ste.word1 = Word1::new().with_shcfg(1).with_eats(1);
    ste.word2 = Word2::new()
        .with_s2_vmid(vmid)
        .with_s2_t0sz(16)
        .with_s2_sl0(2)
        .with_s2_ir0(1)
        .with_s2_or0(1)
        .with_s2_sh0(3)
        .with_s2_ps(5)
        .with_s2_aa64(true)
        .with_s2_ptw(true)
        .with_s2_r(true);
    ste.word3 = Word3::new().with_s2_ttb(table);
    ste
}

/// Faults stall; ATS, which excludes that, is off (5.2, EATS).
fn stalling(mut ste: Ste) -> Ste {
    ste.word1 = ste.word1.with_s1_stalld(false).with_eats(0);
    ste.word2.set_s2_s(ste.word0.config() == Config::STAGE2);
    ste
}

/// What happens to context descriptors. A domain's has memory types and an ASID of its own, a
/// process' those of the CPUs; one that is released keeps its ASID and walks nothing.
pub(super) fn contexts() -> [(Kind, Kind); 10] {
    let of_domain = context("domain", domain(1, 0x1000));
    let of_process = context("process", process(7, 0x7000));
    let of_nobody = context("released", released(7));
    [
        (INVALID, of_domain),
        (of_domain, INVALID),
        (of_domain, context("other table", domain(1, 0x2000))),
        (of_domain, context("other ASID", domain(2, 0x1000))),
        (of_domain, context("other domain", domain(2, 0x2000))),
        (INVALID, of_process),
        (of_process, INVALID),
        (of_domain, of_process),
        (of_process, of_nobody),
        (of_nobody, of_process),
    ]
}

fn context(name: &'static str, cd: Cd) -> Kind {
    Kind {
        name,
        words: cd.to_words(),
        stalls: false,
    }
}

fn domain(asid: u16, table: u64) -> Cd {
    let word0 = cd::Word0::new()
        .with_t0sz(16)
        .with_ir0(1)
        .with_or0(1)
        .with_sh0(3)
        .with_epd1(true)
        .with_valid(true)
        .with_ips(5)
        .with_aa64(true)
        .with_r(true)
        .with_a(true)
        .with_aset(true)
        .with_asid(asid);
    Cd {
        word0,
        word1: cd::Word1::new().with_ttb0(table),
        mair: Stage1::MAIR,
        ..Cd::default()
    }
}

fn process(asid: u16, table: u64) -> Cd {
    let mut cd = domain(asid, table);
    cd.word0.set_aset(false);
    // Any but the domain's will do: write-back is elsewhere than at index 0.
    cd.mair = Stage1::MAIR.rotate_left(8);
    cd
}

/// The process' memory is gone: nothing is walked, and nothing is reported.
fn released(asid: u16) -> Cd {
    let word0 = process(asid, 0).word0;
    Cd {
        word0: word0
            .with_t0sz(0)
            .with_ir0(0)
            .with_or0(0)
            .with_sh0(0)
            .with_epd0(true)
            .with_r(false),
        ..Cd::default()
    }
}
