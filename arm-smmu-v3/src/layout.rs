//! Which bits of stream table entries (5.2) and context descriptors (5.4) the hardware uses: what
//! the writer of live entries goes by.
//!
//! Every mask is made of the fields in [`spec`](crate::spec), so that this page can be laid beside
//! the specification. A bit that the driver does not define counts as used wherever anything
//! passes: what it would mean is not known.

use iommu_core::entry::{Detour, Layout};

use crate::spec::cd::{self, Cd};
use crate::spec::ste::{Config, Ste, WORDS, Word0, Word1, Word2, Word3};

type Words = [u64; WORDS];

const NONE: Words = [0; WORDS];

const fn any(all: &[Words]) -> Words {
    let mut union = NONE;
    let mut mask = 0;
    while mask < all.len() {
        let mut word = 0;
        while word < WORDS {
            union[word] |= all[mask][word];
            word += 1;
        }
        mask += 1;
    }
    union
}

const fn not(mut mask: Words) -> Words {
    let mut word = 0;
    while word < WORDS {
        mask[word] = !mask[word];
        word += 1;
    }
    mask
}

const fn word1(word: Word1) -> Words {
    [0, word.into_bits(), 0, 0, 0, 0, 0, 0]
}

const fn word2(word: Word2) -> Words {
    [0, 0, word.into_bits(), 0, 0, 0, 0, 0]
}

/// Says whether the entry is valid; if not, nothing else counts.
const VALID: Words = [
    Word0::new().with_valid(true).into_bits(),
    0,
    0,
    0,
    0,
    0,
    0,
    0,
];

/// Says what the entry is; if it aborts, nothing else counts.
const SWITCH: Words = [
    Word0::new()
        .with_valid(true)
        .with_config(Config(7))
        .into_bits(),
    0,
    0,
    0,
    0,
    0,
    0,
    0,
];

/// How events of the stream are reported.
const MERGE: Words = word1(Word1::new().with_mev(true));

/// The attributes of traffic that no stage 1 gives others.
const ATTRIBUTES: Words = word1(Word1::new().with_shcfg(3));

const ATS: Words = word1(Word1::new().with_eats(3));

const VMID: Words = word2(Word2::new().with_s2_vmid(0xffff));

/// With `EATS` it makes an entry ILLEGAL, in SMMUv3.0 even where stage 2 is off (5.2, EATS).
const STALL2: Words = word2(Word2::new().with_s2_s(true));

const STAGE1: Words = any(&[
    [
        Word0::new()
            .with_s1_fmt(3)
            .with_s1_context_ptr((1 << 50) - 1)
            .with_s1_cd_max(0x1f)
            .into_bits(),
        Word1::new()
            .with_s1_dss(3)
            .with_s1_cir(3)
            .with_s1_cor(3)
            .with_s1_csh(3)
            .with_s1_stalld(true)
            .into_bits(),
        0,
        0,
        0,
        0,
        0,
        0,
    ],
    // Translations are tagged with it where stage 2 exists, though it is off.
    VMID,
    STALL2,
    ATS,
]);

/// The translation regime; IGNORED where stage 2 translates, and where nothing does.
const REGIME: Words = word1(Word1::new().with_strw(3));

const STAGE2: Words = any(&[
    VMID,
    STALL2,
    ATS,
    ATTRIBUTES,
    word2(
        Word2::new()
            .with_s2_t0sz(0x3f)
            .with_s2_sl0(3)
            .with_s2_ir0(3)
            .with_s2_or0(3)
            .with_s2_sh0(3)
            .with_s2_tg(3)
            .with_s2_ps(7)
            .with_s2_aa64(true)
            .with_s2_endi(true)
            .with_s2_affd(true)
            .with_s2_ptw(true)
            .with_s2_r(true),
    ),
    [
        0,
        0,
        0,
        Word3::new().with_s2_ttb((1 << 52) - 1).into_bits(),
        0,
        0,
        0,
        0,
    ],
]);

const DEFINED: Words = any(&[SWITCH, MERGE, STAGE1, REGIME, STAGE2]);

/// What every entry uses that lets anything pass.
const PASSING: Words = any(&[SWITCH, MERGE, not(DEFINED)]);

static USED: [Words; 6] = [
    VALID,
    SWITCH,
    any(&[PASSING, ATTRIBUTES]),
    any(&[PASSING, STAGE1, REGIME]),
    any(&[PASSING, STAGE2]),
    any(&[PASSING, STAGE1, STAGE2]),
];

/// Stage 1 that traffic without substream bypasses.
static STAGE1_OR_BYPASS: Words = any(&[PASSING, STAGE1, REGIME, ATTRIBUTES]);

/// By `V` and `Config`: which of [`USED`].
const KIND: [u8; 16] = [0, 1, 0, 1, 0, 1, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5];

const DSS_BYPASS: u8 = 1;
const DSS_SUBSTREAM0: u8 = 2;

/// What becomes of traffic without substream.
const DEFAULT: Words = word1(Word1::new().with_s1_dss(3));

/// Forbids stalls at stage 1.
const STALL1: Words = word1(Word1::new().with_s1_stalld(true));

impl Layout<WORDS> for Ste {
    const NAME: &'static str = "a stream table entry";

    const DEFINED: Words = DEFINED;

    #[inline(always)]
    fn used(entry: &Words) -> &'static Words {
        let kind = KIND[(entry[0] & 0xf) as usize];
        if kind == 3 && Word1::from_bits(entry[1]).s1_dss() == DSS_BYPASS {
            return &STAGE1_OR_BYPASS;
        }
        &USED[usize::from(kind)]
    }

    /// Terminates silently (5.2, Config).
    fn refusing(_target: &Words) -> u64 {
        crate::entries::abort().word0.into_bits()
    }

    fn detour(live: &Words, target: &Words, retag: bool) -> Detour<WORDS> {
        let (old, new) = (Ste::from_words(*live), Ste::from_words(*target));
        let same = old.word0.config() == new.word0.config();
        let stage1_only = |ste: &Ste| ste.word0.config() == Config::STAGE1;
        let stage2 = |ste: &Ste| ste.word0.config().0 & 0b010 != 0;
        let (was, becomes) = (old.word1.eats(), new.word1.eats());
        let stalls = old.word2.s2_s() || new.word2.s2_s();

        // The device's ATS is off while EATS changes (3.9.2), so no transaction depends on it; what
        // matters is that no mixture is ILLEGAL. Clearing its bits never is. Setting them is where
        // full ATS is what they say, and there is no stall.
        let (mut early, mut late) = (was & !becomes, becomes & !was);
        if becomes == 1 && !stalls {
            (early, late) = (early | late, 0);
        }
        let ats = |bits| word1(Word1::new().with_eats(bits));

        // A stage 2 that is not in use may have its stall bit set or cleared, as long as EATS is 0;
        // one that is in use may lose it.
        let stall = if new.word2.s2_s() {
            was == 0 && !stage2(&old)
        } else {
            true
        };
        // Traffic without substream is terminated, bypasses, or uses the table: it must not meet the
        // table of the other entry. Traffic with a substream is not concerned.
        let leaves_table = same && new.word1.s1_dss() != DSS_SUBSTREAM0;
        let enters_table = same && !leaves_table && old.word1.s1_dss() != DSS_SUBSTREAM0;

        // A descriptor that stalls is ILLEGAL where stalls are forbidden: they are allowed as long
        // as either table is in use.
        let forbids = new.word1.s1_stalld();

        let when = |condition, mask| if condition { mask } else { NONE };
        Detour {
            ahead: any(&[
                ats(early),
                when(stall, STALL2),
                MERGE,
                ATTRIBUTES,
                when(leaves_table, DEFAULT),
                when(!forbids, STALL1),
                when(retag && stage1_only(&old), VMID),
            ]),
            behind: any(&[
                ats(late),
                when(enters_table, DEFAULT),
                when(forbids, STALL1),
                when(retag && stage1_only(&new), VMID),
            ]),
        }
    }
}

/// Context descriptors. With both walks disabled nothing is translated, so no field counts that says
/// how (5.4, EPD0); word 0 is still checked.
mod context {
    use super::{NONE, Words, any, cd, not};

    /// How TTB0 is walked.
    const WALK0: Words = {
        let mut words = NONE;
        words[0] = cd::Word0::new()
            .with_t0sz(0x3f)
            .with_tg0(3)
            .with_ir0(3)
            .with_or0(3)
            .with_sh0(3)
            .into_bits();
        words[1] = cd::Word1::new().with_ttb0((1 << 52) - 1).into_bits();
        words
    };

    pub(super) const WALKS_OFF: u64 = cd::Word0::new()
        .with_valid(true)
        .with_epd0(true)
        .with_epd1(true)
        .into_bits();

    const WORD0: u64 = cd::Word0::new()
        .with_endi(true)
        .with_ips(7)
        .with_affd(true)
        .with_aa64(true)
        .with_s(true)
        .with_r(true)
        .with_a(true)
        .with_aset(true)
        .with_asid(0xffff)
        .into_bits()
        | WALKS_OFF;

    pub(super) const DEFINED: Words = any(&[WALK0, [WORD0, 0, 0, u64::MAX, 0, 0, 0, 0]]);

    pub(super) static INVALID: Words = [
        cd::Word0::new().with_valid(true).into_bits(),
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    pub(super) static REFUSING: Words = [WORD0, 0, 0, 0, 0, 0, 0, 0];
    pub(super) static TRANSLATING: Words = any(&[DEFINED, not(DEFINED)]);
}

impl Layout<8> for Cd {
    const NAME: &'static str = "a context descriptor";

    const DEFINED: Words = context::DEFINED;

    #[inline(always)]
    fn used(entry: &Words) -> &'static Words {
        if entry[0] & context::INVALID[0] == 0 {
            &context::INVALID
        } else if entry[0] & context::WALKS_OFF == context::WALKS_OFF {
            &context::REFUSING
        } else {
            &context::TRANSLATING
        }
    }

    /// Walks nothing, and aborts what misses the TLB without an event (5.4, R): an invalid
    /// descriptor would be reported.
    fn refusing(target: &Words) -> u64 {
        let word0 = Cd::from_words(*target).word0;
        word0
            .with_valid(true)
            .with_epd0(true)
            .with_epd1(true)
            .with_aa64(true)
            .with_a(true)
            .with_r(false)
            .with_s(false)
            .into_bits()
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
