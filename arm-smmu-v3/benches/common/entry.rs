//! Stream table entries: the writer alone, and through the command queue.

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::atomic::Ordering;

use arm_smmu_v3::internals;
use arm_smmu_v3::spec::ste::{Config, Ste, WORDS, Word0, Word1, Word2, Word3};
use iommu_core::entry::{Device, Rules, Store, Target, write};
use iommu_core::{Result, StreamId};

use super::platform::Platform;
use super::{Case, Lab};

/// The ten kinds of entry: all but those that stall allow ATS; a prime has another table, and
/// another VMID.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Abort,
    Bypass,
    /// Traffic without substream is terminated, bypasses, uses descriptor 0.
    S1Term,
    S1Bypass,
    S1,
    S1Stall,
    S2,
    S2Stall,
    S1Prime,
    S2Prime,
}

impl Kind {
    fn entry(self) -> Ste {
        match self {
            Self::Abort => Ste {
                word0: Word0::new().with_valid(true),
                ..Ste::default()
            },
            Self::Bypass => Ste {
                word0: Word0::new().with_valid(true).with_config(Config::BYPASS),
                word1: Word1::new().with_shcfg(1),
                ..Ste::default()
            },
            Self::S1Term => stage1(0, 0x1_0000, true),
            Self::S1Bypass => stage1(1, 0x1_0000, true),
            Self::S1 => stage1(2, 0x1_0000, true),
            Self::S1Stall => stage1(2, 0x1_0000, false),
            Self::S1Prime => stage1(2, 0x2_0000, true),
            Self::S2 => stage2(0, 0x3_0000, false),
            Self::S2Stall => stage2(0, 0x3_0000, true),
            Self::S2Prime => stage2(5, 0x4_0000, false),
        }
    }
}

/// A table of 1024 descriptors in two levels.
fn stage1(default: u8, table: u64, ats: bool) -> Ste {
    let word0 = Word0::new().with_valid(true).with_config(Config::STAGE1);
    let word1 = Word1::new().with_s1_dss(default).with_eats(ats.into());
    Ste {
        word0: word0
            .with_s1_fmt(1)
            .with_s1_context_ptr(table)
            .with_s1_cd_max(10),
        word1: word1
            .with_s1_cir(1)
            .with_s1_cor(1)
            .with_s1_csh(3)
            .with_s1_stalld(ats)
            .with_shcfg(1),
        ..Ste::default()
    }
}

fn stage2(vmid: u16, table: u64, stalls: bool) -> Ste {
    let word2 = Word2::new()
        .with_s2_vmid(vmid)
        .with_s2_t0sz(16)
        .with_s2_sl0(2);
    Ste {
        word0: Word0::new().with_valid(true).with_config(Config::STAGE2),
        word1: Word1::new().with_shcfg(1).with_eats((!stalls).into()),
        word2: word2
            .with_s2_ir0(1)
            .with_s2_or0(1)
            .with_s2_sh0(3)
            .with_s2_ps(5)
            .with_s2_aa64(true)
            .with_s2_s(stalls)
            .with_s2_r(true),
        word3: Word3::new().with_s2_ttb(table),
        ..Ste::default()
    }
}

/// A call of a function that does nothing.
pub(crate) struct Frame(u64);

impl Frame {
    pub(crate) fn new(_: &'static Lab, n: u32) -> Self {
        Self(n.into())
    }
}

impl Case for Frame {
    #[inline(always)]
    fn call(&mut self) -> Result {
        nothing(&mut self.0);
        Ok(())
    }
}

#[inline(never)]
fn nothing(_: &mut u64) {
    black_box(());
}

/// The least that a change takes: building the target, and storing its words.
pub(crate) struct Build(&'static Lab);

impl Build {
    pub(crate) fn new(lab: &'static Lab, _: u32) -> Self {
        Self(lab)
    }
}

impl Case for Build {
    #[inline(always)]
    fn call(&mut self) -> Result {
        // All but the table is the same for every stream.
        const ENTRY: [u64; WORDS] = [0xb | 1 << 4 | 10 << 59, 0x1000_1800_00d6, 0, 0, 0, 0, 0, 0];
        let mut words = ENTRY;
        words[0] |= black_box(0x1_0000) << 6;
        for (slot, word) in self.0.slots.iter().zip(words) {
            slot.store(word, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Nothing hears of the stores, and everything is confirmed at once.
struct Nowhere;

impl Device for Nowhere {
    type Error = Infallible;
    #[inline(always)]
    fn store(&mut self, _: Store) {}
    #[inline(always)]
    fn confirm(&mut self) -> core::result::Result<(), Infallible> {
        Ok(())
    }
}

/// An entry is changed: the plan and its stores.
pub(crate) struct Transition {
    from: [u64; WORDS],
    live: [u64; WORDS],
    target: Target<Ste, WORDS>,
}

impl Transition {
    pub(crate) fn between(from: Kind, to: Kind) -> impl Fn(&'static Lab, u32) -> Self {
        move |_, _| Self {
            from: from.entry().to_words(),
            live: from.entry().to_words(),
            target: Target::new(to.entry().to_words()).expect("a target"),
        }
    }
}

impl Case for Transition {
    #[inline(always)]
    fn call(&mut self) -> Result {
        let Self { live, target, .. } = self;
        // That it works is seen where it is measured through the queue.
        let _ = write(live, target, Rules::default(), &mut Nowhere);
        Ok(())
    }

    fn reset(&mut self) {
        self.live = self.from;
    }
}

/// The same of an entry in a stream table, with its invalidations and waits.
pub(crate) struct Written {
    lab: &'static Lab,
    entry: internals::Entry<Platform>,
    from: Target<Ste, WORDS>,
    to: Target<Ste, WORDS>,
}

impl Written {
    pub(crate) fn between(from: Kind, to: Kind) -> impl Fn(&'static Lab, u32) -> Self {
        let target = |kind: Kind| Target::new(kind.entry().to_words()).expect("a target");
        move |lab, n| Self {
            lab,
            entry: internals::entry(&lab.smmu, StreamId(0x4000 + n)).expect("an entry"),
            from: target(from),
            to: target(to),
        }
    }
}

impl Case for Written {
    #[inline(always)]
    fn call(&mut self) -> Result {
        internals::write_entry(&self.lab.smmu, &self.entry, &self.to)
    }

    fn reset(&mut self) {
        internals::clear_entry(&self.entry);
        internals::write_entry(&self.lab.smmu, &self.entry, &self.from).expect("it works");
    }
}
