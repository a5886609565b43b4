//! Why a plan breaks: which fields are in conflict, and that no store covers them.

use arm_smmu_v3::spec::cd::{self, Cd};
use arm_smmu_v3::spec::ste::{Config, Ste, Word0, Word1, Word2, Word3};
use iommu_core::Atomicity;
use iommu_core::entry::{Layout, Rules};

use super::kinds::Words;

/// A field: its name in the specification, its word, and its bits there.
pub(super) type Field = (&'static str, usize, u64);

/// An entry of which the fields have names.
pub(super) trait Named: Layout<8> {
    /// All that the driver defines.
    const FIELDS: &'static [Field];
}

impl Named for Ste {
    const FIELDS: &'static [Field] = &[
        ("V", 0, Word0::new().with_valid(true).into_bits()),
        ("Config", 0, Word0::new().with_config(Config(7)).into_bits()),
        ("S1Fmt", 0, Word0::new().with_s1_fmt(3).into_bits()),
        ("S1ContextPtr", 0, {
            let pointer = Word0::new().with_s1_context_ptr((1 << 50) - 1);
            pointer.into_bits()
        }),
        ("S1CDMax", 0, Word0::new().with_s1_cd_max(0x1f).into_bits()),
        ("S1DSS", 1, Word1::new().with_s1_dss(3).into_bits()),
        ("S1CIR", 1, Word1::new().with_s1_cir(3).into_bits()),
        ("S1COR", 1, Word1::new().with_s1_cor(3).into_bits()),
        ("S1CSH", 1, Word1::new().with_s1_csh(3).into_bits()),
        ("MEV", 1, Word1::new().with_mev(true).into_bits()),
        ("S1STALLD", 1, Word1::new().with_s1_stalld(true).into_bits()),
        ("EATS", 1, Word1::new().with_eats(3).into_bits()),
        ("STRW", 1, Word1::new().with_strw(3).into_bits()),
        ("SHCFG", 1, Word1::new().with_shcfg(3).into_bits()),
        ("S2VMID", 2, Word2::new().with_s2_vmid(0xffff).into_bits()),
        ("S2T0SZ", 2, Word2::new().with_s2_t0sz(0x3f).into_bits()),
        ("S2SL0", 2, Word2::new().with_s2_sl0(3).into_bits()),
        ("S2IR0", 2, Word2::new().with_s2_ir0(3).into_bits()),
        ("S2OR0", 2, Word2::new().with_s2_or0(3).into_bits()),
        ("S2SH0", 2, Word2::new().with_s2_sh0(3).into_bits()),
        ("S2TG", 2, Word2::new().with_s2_tg(3).into_bits()),
        ("S2PS", 2, Word2::new().with_s2_ps(7).into_bits()),
        ("S2AA64", 2, Word2::new().with_s2_aa64(true).into_bits()),
        ("S2ENDI", 2, Word2::new().with_s2_endi(true).into_bits()),
        ("S2AFFD", 2, Word2::new().with_s2_affd(true).into_bits()),
        ("S2PTW", 2, Word2::new().with_s2_ptw(true).into_bits()),
        ("S2S", 2, Word2::new().with_s2_s(true).into_bits()),
        ("S2R", 2, Word2::new().with_s2_r(true).into_bits()),
        ("S2TTB", 3, {
            let table = Word3::new().with_s2_ttb((1 << 52) - 1);
            table.into_bits()
        }),
    ];
}

impl Named for Cd {
    const FIELDS: &'static [Field] = &[
        ("T0SZ", 0, cd::Word0::new().with_t0sz(0x3f).into_bits()),
        ("TG0", 0, cd::Word0::new().with_tg0(3).into_bits()),
        ("IR0", 0, cd::Word0::new().with_ir0(3).into_bits()),
        ("OR0", 0, cd::Word0::new().with_or0(3).into_bits()),
        ("SH0", 0, cd::Word0::new().with_sh0(3).into_bits()),
        ("EPD0", 0, cd::Word0::new().with_epd0(true).into_bits()),
        ("ENDI", 0, cd::Word0::new().with_endi(true).into_bits()),
        ("EPD1", 0, cd::Word0::new().with_epd1(true).into_bits()),
        ("V", 0, cd::Word0::new().with_valid(true).into_bits()),
        ("IPS", 0, cd::Word0::new().with_ips(7).into_bits()),
        ("AFFD", 0, cd::Word0::new().with_affd(true).into_bits()),
        ("AA64", 0, cd::Word0::new().with_aa64(true).into_bits()),
        ("S", 0, cd::Word0::new().with_s(true).into_bits()),
        ("R", 0, cd::Word0::new().with_r(true).into_bits()),
        ("A", 0, cd::Word0::new().with_a(true).into_bits()),
        ("ASET", 0, cd::Word0::new().with_aset(true).into_bits()),
        ("ASID", 0, cd::Word0::new().with_asid(0xffff).into_bits()),
        ("TTB0", 1, {
            let table = cd::Word1::new().with_ttb0((1 << 52) - 1);
            table.into_bits()
        }),
        ("MAIR", 3, u64::MAX),
    ];
}

/// The bits of each word that both entries use, that differ, and that may not change by themselves,
/// neither ahead of the rest nor after it.
fn conflict<F: Layout<8>>(live: &Words, target: &Words, retag: bool) -> Words {
    let differing = |live: &Words| -> Words {
        let (before, after) = (F::used(live), F::used(target));
        core::array::from_fn(|word| (live[word] ^ target[word]) & before[word] & after[word])
    };
    let movable = |mask: Words| -> Words {
        core::array::from_fn(|word| {
            let kept = if retag { 0 } else { F::TAG[word] };
            mask[word] & F::MOVABLE[word] & !kept
        })
    };
    let mut live = *live;
    loop {
        let stuck = differing(&live);
        let detour = F::detour(&live, target);
        let (ahead, behind) = (movable(detour.ahead), movable(detour.behind));
        let moves: Words = core::array::from_fn(|word| stuck[word] & ahead[word]);
        if moves == [0; 8] {
            return core::array::from_fn(|word| stuck[word] & !behind[word]);
        }
        // What moved may let other bits move.
        for (live, moves) in live.iter_mut().zip(moves) {
            *live ^= moves;
        }
    }
}

/// Whether one store covers all that is in conflict.
fn is_one_store(conflict: &Words, atomicity: Atomicity) -> bool {
    let words = match atomicity {
        Atomicity::Word => 1,
        Atomicity::Pair => 2,
    };
    let units = conflict.chunks(words);
    units
        .filter(|unit| unit.iter().any(|bits| *bits != 0))
        .count()
        <= 1
}

/// Why `live` cannot become `target` without a device noticing; `None` where nothing is in the way.
pub(super) fn why<F: Named>(live: &Words, target: &Words, rules: Rules) -> Option<String> {
    let stuck = conflict::<F>(live, target, rules.retag);
    if is_one_store(&stuck, rules.atomicity) {
        return None;
    }
    let words = stuck.iter().enumerate().filter(|(_, bits)| **bits != 0);
    let words = words.map(|(word, bits)| {
        let fields = F::FIELDS.iter();
        let here = fields.filter(|(_, at, mask)| *at == word && mask & bits != 0);
        let names: Vec<&str> = here.map(|(name, ..)| *name).collect();
        format!("word {word} ({})", names.join(" "))
    });
    let words = words.collect::<Vec<_>>().join(" + ");
    let free = conflict::<F>(live, target, true);
    let because = match !rules.retag && is_one_store(&free, rules.atomicity) {
        true => "; others use the VMID",
        false => "",
    };
    Some(format!("no one store covers {words}{because}"))
}
