//! Which bits of stream table entries (5.2) and context descriptors (5.4) the hardware uses: what
//! the writer of live entries goes by.
//!
//! Every mask is made of the fields in [`spec`](crate::spec), so that this page can be laid beside
//! the specification. A bit that the driver does not define counts as used wherever anything
//! passes: what it would mean is not known.

use iommu_core::entry::{Detour, Layout, Mixing};

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

const fn word0(word: Word0) -> Words {
    [word.into_bits(), 0, 0, 0, 0, 0, 0, 0]
}

const fn word1(word: Word1) -> Words {
    [0, word.into_bits(), 0, 0, 0, 0, 0, 0]
}

const fn word2(word: Word2) -> Words {
    [0, 0, word.into_bits(), 0, 0, 0, 0, 0]
}

const fn word3(word: Word3) -> Words {
    [0, 0, 0, word.into_bits(), 0, 0, 0, 0]
}

/// Says whether the entry is valid; if not, nothing else counts.
const VALID: Words = word0(Word0::new().with_valid(true));

/// Says what the entry is; if it aborts, nothing else counts.
const SWITCH: Words = word0(Word0::new().with_valid(true).with_config(Config(7)));

/// How events of the stream are reported.
const MERGE: Words = word1(Word1::new().with_mev(true));

/// The attributes of traffic that no stage 1 gives others: of a stream with stage 1, that without
/// substream may be such (5.2, S1DSS).
const ATTRIBUTES: Words = word1(Word1::new().with_shcfg(3));

const ATS: Words = word1(Word1::new().with_eats(3));

const FULL_ATS: u64 = Word1::new().with_eats(Ste::FULL_ATS).into_bits();

const VMID: Words = word2(Word2::new().with_s2_vmid(0xffff));

/// With `EATS` it makes an entry ILLEGAL, in SMMUv3.0 even where stage 2 is off (5.2, EATS).
const STALL2: Words = word2(Word2::new().with_s2_s(true));

/// The layout of the table of context descriptors.
const FORMAT: Words = word0(Word0::new().with_s1_fmt(3));

/// The table itself.
const TABLE: Words = word0(
    Word0::new()
        .with_s1_context_ptr((1 << 50) - 1)
        .with_s1_cd_max(0x1f),
);

/// What becomes of traffic without substream.
const DEFAULT: Words = word1(Word1::new().with_s1_dss(3));

/// Forbids stalls at stage 1.
const STALL1: Words = word1(Word1::new().with_s1_stalld(true));

const STAGE1: Words = any(&[
    FORMAT,
    TABLE,
    DEFAULT,
    STALL1,
    // How the table is read.
    word1(Word1::new().with_s1_cir(3).with_s1_cor(3).with_s1_csh(3)),
    // Translations are tagged with it where stage 2 exists, though it is off.
    VMID,
    STALL2,
    ATS,
    ATTRIBUTES,
]);

/// The translation regime; IGNORED where stage 2 translates, and where nothing does.
const REGIME: Words = word1(Word1::new().with_strw(3));

/// The translation of intermediate addresses.
const SPACE: Words = any(&[
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
            .with_s2_ptw(true),
    ),
    word3(Word3::new().with_s2_ttb((1 << 52) - 1)),
]);

const STAGE2: Words = any(&[
    VMID,
    STALL2,
    ATS,
    ATTRIBUTES,
    SPACE,
    word2(Word2::new().with_s2_r(true)),
]);

const DEFINED: Words = any(&[SWITCH, MERGE, STAGE1, REGIME, STAGE2]);

/// What every entry uses that lets anything pass.
const PASSING: Words = any(&[SWITCH, MERGE, not(DEFINED)]);

/// By `V` and `Config`.
static USED: [Words; 16] = {
    let mut used = [VALID; 16];
    let abort = SWITCH;
    (used[0b0001], used[0b0011], used[0b0101], used[0b0111]) = (abort, abort, abort, abort);
    used[0b1001] = any(&[PASSING, ATTRIBUTES]);
    used[0b1011] = any(&[PASSING, STAGE1, REGIME]);
    used[0b1101] = any(&[PASSING, STAGE2]);
    used[0b1111] = any(&[PASSING, STAGE1, STAGE2]);
    used
};

const DSS_SUBSTREAM0: u8 = 2;

impl Layout<WORDS> for Ste {
    const NAME: &'static str = "a stream table entry";

    const DEFINED: Words = DEFINED;

    #[inline(always)]
    fn used(entry: &Words) -> &'static Words {
        &USED[(entry[0] & 0xf) as usize]
    }

    #[inline(always)]
    fn refuses(entry: &Words) -> bool {
        const MUST_PASS: u64 = 0b1001;
        entry[0] & MUST_PASS != MUST_PASS
    }

    /// Terminates silently (5.2, Config).
    fn refusing(_target: &Words) -> u64 {
        crate::entries::abort().word0.into_bits()
    }

    const ENTANGLED: Words = FORMAT;

    /// Context descriptors and their first levels are cached by stream and substream, whichever
    /// table they came from (4.3.3), until the entry is invalidated.
    fn mixing(live: &Words, target: &Words) -> Mixing {
        let config = |words: &Words| Word0::from_bits(words[0]).config();
        let (old, new) = (config(live), config(target));
        if !old.has_stage1() || !new.has_stage1() {
            return Mixing::Harmless;
        }
        let differs =
            |mask: Words| (0..WORDS).any(|word| (live[word] ^ target[word]) & mask[word] != 0);
        // Addresses in them are those of one stage 2, or of none; and first levels are laid out by
        // the format.
        let other_stage2 = old.has_stage2() && differs(SPACE);
        if old != new || other_stage2 || differs(FORMAT) {
            return Mixing::Harmful;
        }
        let splits = differs(any(&[DEFAULT, STALL1]));
        if splits && differs(TABLE) {
            return Mixing::Apart;
        }
        Mixing::Harmless
    }

    const MOVABLE: Words = any(&[ATS, MERGE, ATTRIBUTES, DEFAULT, STALL1, STALL2, VMID]);

    const TAG: Words = VMID;

    fn detour(live: &Words, target: &Words) -> Detour<WORDS> {
        let config = |words: &Words| Word0::from_bits(words[0]).config();
        let (old, new) = (config(live), config(target));
        let when = |condition, mask| if condition { mask } else { 0 };

        // The device's ATS is off while EATS changes (3.9.2), so no transaction depends on it; what
        // matters is that no mixture is ILLEGAL. Its bits may be cleared early and set late. They
        // may be set early where full ATS is what they say, and there is no stall.
        let (was, becomes) = (live[1] & ATS[1], target[1] & ATS[1]);
        let late = becomes & !was;
        let stalls = (live[2] | target[2]) & STALL2[2] != 0;
        let full = becomes == FULL_ATS && !stalls;
        let early = was & !becomes | when(full, late);

        // A stage 2 that is in use may lose its stall bit; one that is not may get it too, as long
        // as EATS is 0. A new one may get it late.
        let stalls_soon = target[2] & STALL2[2] != 0;
        let stall_ahead = !stalls_soon || was == 0 && !old.has_stage2();
        let stall_behind = stalls_soon && new.has_stage2();

        // Traffic without substream is terminated, bypasses, or uses the table: it must not meet the
        // table of the other entry. Traffic with a substream is not concerned, but for substream 0:
        // that is no PASID's, and may meet the other table.
        let default = |words: &Words| Word1::from_bits(words[1]).s1_dss();
        let leaves_table = old == new && default(target) != DSS_SUBSTREAM0;
        let enters_table = old == new && !leaves_table && default(live) != DSS_SUBSTREAM0;

        // A descriptor that stalls is ILLEGAL where stalls are forbidden: they are allowed as long
        // as either table is in use.
        let forbids = target[1] & STALL1[1] != 0;

        let ahead1 = early
            | MERGE[1]
            | ATTRIBUTES[1]
            | when(leaves_table, DEFAULT[1])
            | when(!forbids, STALL1[1]);
        let behind1 = late
            | MERGE[1]
            | ATTRIBUTES[1]
            | when(enters_table, DEFAULT[1])
            | when(forbids, STALL1[1]);
        let ahead2 = when(stall_ahead, STALL2[2]) | when(old == Config::STAGE1, VMID[2]);
        let behind2 = when(stall_behind, STALL2[2]) | when(new == Config::STAGE1, VMID[2]);
        Detour {
            ahead: [0, ahead1, ahead2, 0, 0, 0, 0, 0],
            behind: [0, behind1, behind2, 0, 0, 0, 0, 0],
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

    #[inline(always)]
    fn refuses(entry: &Words) -> bool {
        !core::ptr::eq(Self::used(entry), &context::TRANSLATING)
    }

    /// Walks nothing, and aborts what misses the TLB without an event (5.4, R): an invalid
    /// descriptor would be reported. ASID 0 is nobody's, so that it hits nothing either.
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
            .with_asid(0)
            .into_bits()
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
