//! The kinds of entries that this workspace's model alone implements.
//!
//! QEMU 10.0.2 has none of what tells them apart:
//!
//! - tables of several context descriptors, and with them `S1DSS`: its `SSIDSIZE` is 0, so that
//!   `S1DSS` is IGNORED, and it takes every `S1CDMax` but 0 for ILLEGAL;
//! - stalls, `S1STALLD` and `S2S`: its `STALL_MODEL` is 1, which makes both ILLEGAL;
//! - ATS, `EATS`: it has none, and does not look at the field;
//! - overridden attributes, `SHCFG`: it has none, and moves the same bytes whatever they are.
//!
//! The device presents its stream without a substream, and with substream 1.

use arm_smmu_v3::spec::ste::Ste;
use mock_hw::DmaDevice;
use mock_hw::smmuv3::ModelConfig;

use super::kinds::{Kind, PASSES, Sight, Sights, World, abort, bypass, through};
use super::{Reader, reader};
use crate::model::ModelMachine;

/// `F_STREAM_DISABLED` (7.3.7).
const DISABLED: Sight = Sight::event(0x06);
/// `C_BAD_SUBSTREAMID` (7.3.9).
const BAD_SUBSTREAM: Sight = Sight::event(0x08);

/// What becomes of traffic without substream: `S1DSS` (5.2).
const TERMINATE: u8 = 0;
const BYPASS: u8 = 1;
const SUBSTREAM_0: u8 = 2;

/// `IDR0`: ATS, and stalls of software's choice.
const ATS: u32 = 1 << 10;
const STALL_MODEL: u32 = 0b11 << 24;
/// `IDR1`: 16 substreams, and attributes that entries override.
const SUBSTREAM_BITS: u32 = 4 << 6;
const ATTRIBUTES: u32 = 1 << 27;

/// An SMMU that has all of it, otherwise as `config` says.
#[must_use]
pub fn hardware(config: ModelConfig) -> ModelConfig {
    ModelConfig {
        idr0: config.idr0 & !STALL_MODEL | ATS,
        idr1: config.idr1 | SUBSTREAM_BITS | ATTRIBUTES,
        ..config
    }
}

/// Two devices that present `stream`: without a substream, and with substream 1.
#[must_use]
pub fn readers(machine: &ModelMachine, stream: u32) -> Vec<Reader> {
    let device = DmaDevice::new(machine.model(), stream);
    [None, Some(1)]
        .map(|substream| reader(device.with_substream(substream)))
        .into()
}

/// An entry that has no use for substreams, and what those without see of it.
fn plain(name: &'static str, entry: Ste, sights: Sights) -> Kind {
    Kind {
        name,
        words: entry.to_words(),
        sights: vec![sights, [BAD_SUBSTREAM; 2]],
    }
}

/// The ten kinds that Linux' writer knows, and one more: traffic without substream bypasses another
/// table. All but those that stall allow ATS.
pub fn entries(world: &mut World) -> Vec<Kind> {
    let tables = [1, 3].map(|asid| {
        let cds = [asid, asid + 1].map(|asid| world.context(asid, 0x5100 + u32::from(asid)));
        world.contexts(&cds)
    });
    let [one, other] = tables.each_ref().map(|table| {
        let mut entry = World::stage1(table);
        entry.word0.set_s1_cd_max(1);
        entry.word1.set_s1_stalld(true);
        entry.word1.set_eats(1);
        entry
    });
    let [two, last] = [(5, 0x5205), (6, 0x5206)].map(|(vmid, word)| {
        let mut entry = world.stage2(vmid, word);
        entry.word1.set_shcfg(1);
        entry.word1.set_eats(1);
        entry
    });
    let mut passing = bypass();
    passing.word1.set_shcfg(1);
    let mut kinds = vec![
        Kind {
            name: "abort",
            words: abort().to_words(),
            sights: vec![[Sight::REFUSED; 2]; 2],
        },
        plain("bypass", passing, PASSES),
    ];
    for (name, entry, default, sights) in [
        ("s1, terminating", one, TERMINATE, [DISABLED; 2]),
        ("s1, bypassing", one, BYPASS, PASSES),
        ("s1", one, SUBSTREAM_0, through(0x5101)),
        ("s1, stalling", stalling(one), SUBSTREAM_0, through(0x5101)),
        ("s1'", other, SUBSTREAM_0, through(0x5103)),
        ("s1', bypassing", other, BYPASS, PASSES),
    ] {
        let mut entry = entry;
        entry.word1.set_s1_dss(default);
        entry.word1.set_shcfg(u8::from(default == BYPASS));
        let of_table = entry.word0.s1_context_ptr() == one.word0.s1_context_ptr();
        let with_substream = through(if of_table { 0x5102 } else { 0x5104 });
        kinds.push(Kind {
            name,
            words: entry.to_words(),
            sights: vec![sights, with_substream],
        });
    }
    kinds.extend([
        plain("s2", two, through(0x5205)),
        plain("s2, stalling", stalling(two), through(0x5205)),
        plain("s2'", last, through(0x5206)),
    ]);
    kinds
}

/// The same entry without ATS, its stage allowed to stall.
fn stalling(mut entry: Ste) -> Ste {
    entry.word1.set_eats(0);
    entry.word1.set_s1_stalld(false);
    entry.word2.set_s2_s(entry.word0.config().has_stage2());
    entry
}
