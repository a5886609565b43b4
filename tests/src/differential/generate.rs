//! Random cases.

use super::case::{
    Case, Config, Entry, Environment, Flaw, Half, Leaf, Stage1, Stage2, Stream, StreamTable,
};
use super::encode::{mask, pte, shift, size_bits, start_level};
use super::image::full_span;
use super::layout::{BASE, HOLE};
use super::leaves::{Output, leaf_level, output, page_or_block, place_near, reached, via};
use super::rng::Rng;
use super::steps::steps;

/// An address worth an access, and what it goes through.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) iova: u64,
    pub(super) via: &'static str,
}

/// Tags that keep the four configurations of a case apart.
#[derive(Clone, Copy)]
struct Tags {
    vmid: u16,
    asid: u16,
    /// VMIDs differ, so that a global entry of one configuration is none of another's business.
    may_be_global: bool,
}

/// The case of this seed and number.
pub(super) fn case(seed: u64, index: u64, environment: Environment) -> Case {
    let mut rng = Rng::new(seed, index);
    let rng = &mut rng;
    let (vmid, asid) = (rng.id(), rng.id());
    // Stage 2 is tagged by VMID alone; without VMIDs, by ASIDs.
    let by_vmid = environment.has_stage2();
    let same_asid = by_vmid && rng.percent(50);
    let tags = |number: u16| Tags {
        vmid: if by_vmid { vmid + number } else { 0 },
        asid: if same_asid { asid } else { asid + number },
        may_be_global: by_vmid,
    };
    let mut targets: [[Vec<Target>; 2]; 2] = Default::default();
    let mut stream = |rng: &mut Rng, s: usize| {
        let number = u16::try_from(s * 2).unwrap_or(0);
        let first = config(rng, environment, tags(number), &mut targets[s][0]);
        let second = config(rng, environment, tags(number + 1), &mut targets[s][1]);
        let start = entry(rng, true);
        Stream {
            configs: [first, second],
            start,
        }
    };
    let streams = [stream(rng, 0), stream(rng, 1)];
    let table = stream_table(rng, environment);
    let steps = steps(rng, environment, &streams, &targets);
    Case {
        environment,
        table,
        streams,
        steps,
    }
}

fn stream_table(rng: &mut Rng, environment: Environment) -> StreamTable {
    let split = rng.pick(&[6, 8, 10]);
    let span = match rng.below(40) {
        0 => 0,
        // Reaches neither stream.
        1 => 1 + rng.small(4),
        2..6 => 6,
        _ => full_span(split),
    };
    let log2_size = match rng.below(40) {
        0 => 4,
        1..20 => 5,
        _ => 6,
    };
    StreamTable {
        log2_size: if environment.two_level && log2_size != 4 {
            log2_size.max(split + 1)
        } else {
            log2_size
        },
        split,
        span,
        missing: rng.percent(1),
    }
}

/// What an entry holds, at the start or later.
pub(super) fn entry(rng: &mut Rng, start: bool) -> Entry {
    match rng.below(if start { 40 } else { 12 }) {
        0 => Entry::Invalid,
        1 => Entry::Abort(u8::try_from(rng.below(4)).unwrap_or(0)),
        2 | 3 => Entry::Bypass,
        n if n % 4 == 0 => Entry::Config(1),
        _ => Entry::Config(0),
    }
}

fn config(
    rng: &mut Rng,
    environment: Environment,
    tags: Tags,
    targets: &mut Vec<Target>,
) -> Config {
    let which = match (environment.has_stage1(), environment.has_stage2()) {
        (true, true) => rng.below(3),
        (true, false) => 0,
        _ => 1,
    };
    let mut flaw = flaw(rng, which);
    let noise = rng.next();
    let mut stage2 = (which >= 1).then(|| stage2(rng, which == 2));
    if let Some(stage2) = &mut stage2 {
        let mut found = Vec::new();
        stage2_leaves(rng, stage2, &mut found);
        if which == 1 {
            stage2_probes(rng, stage2, &mut found);
        }
        *targets = found;
    }
    let inputs = std::mem::take(targets);
    let stage1 = (which != 1).then(|| {
        let stage2 = stage2.as_ref();
        stage1(rng, tags, stage2, &inputs, targets)
    });
    if which == 1 {
        *targets = inputs;
    }
    let mut stage1 = stage1;
    if let (Flaw::TableUnmapped, Some(stage1), Some(stage2)) = (flaw, &mut stage1, &mut stage2) {
        (stage1.record, stage2.record) = (true, true);
    }
    if stage1.as_ref().is_some_and(|s| s.halves[0].is_none()) && flaw_is_of_low_half(flaw) {
        flaw = Flaw::None;
    }
    Config {
        vmid: tags.vmid,
        stage1,
        stage2,
        flaw,
        noise,
    }
}

fn flaw_is_of_low_half(flaw: Flaw) -> bool {
    matches!(flaw, Flaw::CdSize(_) | Flaw::CdGranule | Flaw::CdRoot)
}

fn flaw(rng: &mut Rng, which: u64) -> Flaw {
    if !rng.percent(14) {
        return Flaw::None;
    }
    let stage1 = [
        Flaw::SteStallDisabled,
        Flaw::CdInvalid,
        Flaw::CdNoAbort,
        Flaw::CdStall,
        Flaw::CdAccessFlagUpdate,
        Flaw::CdFormat,
        Flaw::CdSize(rng.pick(&[0, 15, 40, 48, 63])),
        Flaw::CdGranule,
        Flaw::CdEndian,
        Flaw::CdRoot,
    ];
    let stage2 = [
        Flaw::SteStall,
        Flaw::SteGranule,
        Flaw::SteSize(rng.pick(&[0, 15, 40, 48, 63])),
        Flaw::SteLevel,
        Flaw::SteRoot,
        Flaw::SteEndian,
    ];
    match which {
        0 if rng.percent(15) => Flaw::CdHole,
        0 => rng.pick(&stage1),
        1 => rng.pick(&stage2),
        _ => match rng.below(4) {
            0 => rng.pick(&stage1),
            1 => rng.pick(&stage2),
            2 => Flaw::CdUnmapped,
            _ => Flaw::TableUnmapped,
        },
    }
}

/// A stage 2 without leaves.
fn stage2(rng: &mut Rng, nested: bool) -> Stage2 {
    let granule = rng.pick(&[12, 12, 12, 14, 16]);
    let ps = rng.pick(&[0, 1, 2, 3, 4, 5, 5]);
    // Mask: QEMU takes 64 - S2PS as the least S2T0SZ, where 5.2 says 64 - IAS.
    let most = size_bits(ps).min(44);
    let least = if nested { 30 } else { 25 };
    let input_bits = rng
        .pick(&[25, 28, 30, 31, 32, 36, 39, 40, 42, 44])
        .clamp(least, most);
    // Levels where one table is enough, and for small granules also where up to 16 in a row are.
    let stride = granule - 3;
    let top = if granule == 12 { 0 } else { 1 };
    let fits = |level: u32, more: u32| {
        let below = shift(granule, level);
        input_bits > below && input_bits - below <= stride + more
    };
    let plain: Vec<u32> = (top..4).filter(|level| fits(*level, 0)).collect();
    let rows: Vec<u32> = (top..4).filter(|level| fits(*level, 4)).collect();
    let levels = if granule != 16 && rng.percent(10) {
        rows
    } else {
        plain
    };
    // Level 3 of 4 KiB takes SL0 = 3 and small tables.
    let levels: Vec<u32> = levels
        .into_iter()
        .filter(|level| !(granule == 12 && *level == 3))
        .collect();
    Stage2 {
        granule,
        input_bits,
        start_level: rng.pick(&levels),
        ps,
        ignore_access_flag: rng.percent(10),
        record: rng.percent(90),
        structures: rng.pick(&[0, 0x100_0000, 0x2000_0000, BASE & mask(30)]),
        leaves: Vec::new(),
    }
}

/// How many bits the addresses have that one table at the start level translates.
///
/// Mask: QEMU uses the first of several concatenated tables for all addresses.
fn stage2_reach(stage2: &Stage2) -> u32 {
    let one = shift(stage2.granule, stage2.start_level) + stage2.granule - 3;
    stage2.input_bits.min(one)
}

fn stage2_leaves(rng: &mut Rng, stage2: &mut Stage2, targets: &mut Vec<Target>) {
    let reach = stage2_reach(stage2);
    let out_bits = size_bits(stage2.ps).min(44);
    let mut near = rng.bits(reach);
    for n in 0..1 + rng.below(4) {
        let level = leaf_level(rng, stage2.granule, stage2.start_level, reach);
        let size = shift(stage2.granule, level);
        near = place_near(rng, near, reach, stage2.granule);
        let input = near & !mask(size);
        // The intermediate addresses of tables are theirs.
        if input <= stage2.structures + 0xff_ffff && stage2.structures <= input | mask(size) {
            continue;
        }
        let good = n == 0;
        let (output, kind) = output(rng, stage2.granule, level, out_bits, good);
        // Mask: QEMU looks at the size of an address after access flag and permissions.
        let plain = kind == Output::TooLarge;
        let mut word = output | page_or_block(level) | rng.bits(2) << 8 | rng.bits(4) << 55;
        word |= rng.pick(&[0b0000, 0b0101, 0b1111]) << 2 | rng.bits(2) << 53;
        if plain || good || !rng.percent(8) {
            word |= pte::AF;
        }
        word |= match rng.below(20) {
            _ if good || plain => pte::S2AP_READ | pte::S2AP_WRITE,
            0..4 => pte::S2AP_READ,
            // Mask: QEMU's TLB refuses no read, which can be told where there has to be an event.
            4 | 5 if stage2.record => pte::S2AP_WRITE,
            6 => 0,
            _ => pte::S2AP_READ | pte::S2AP_WRITE,
        };
        if !good && rng.percent(6) {
            word &= !pte::VALID;
        } else if !good && level < 3 && rng.percent(15) {
            word = HOLE | pte::VALID | pte::TABLE_OR_PAGE;
        }
        stage2.leaves.push(Leaf { input, level, word });
        for _ in 0..3 {
            let iova = input + reached(rng, output, size, kind);
            targets.push(Target {
                iova,
                via: via(stage2.granule, level),
            });
        }
    }
    if targets.is_empty() {
        targets.push(Target {
            iova: rng.bits(reach),
            via: "nothing",
        });
    }
}

/// Addresses that stage 2 alone has no translation for.
fn stage2_probes(rng: &mut Rng, stage2: &Stage2, targets: &mut Vec<Target>) {
    let bits = stage2.input_bits;
    targets.push(Target {
        iova: rng.bits(stage2_reach(stage2)),
        via: "nothing",
    });
    if bits < 44 {
        targets.push(Target {
            iova: 1 << bits | rng.bits(bits),
            via: "nothing",
        });
    }
}

fn stage1(
    rng: &mut Rng,
    tags: Tags,
    stage2: Option<&Stage2>,
    inputs: &[Target],
    targets: &mut Vec<Target>,
) -> Stage1 {
    let ips = match stage2 {
        // The tables' intermediate addresses have 30 bits or so.
        Some(stage2) => rng.pick(&[0, 1, 2, 3, 4, 5, 5]).max(stage2.ps.min(5)),
        None => rng.pick(&[0, 1, 2, 3, 4, 5, 5]),
    };
    let mut stage1 = Stage1 {
        asid: tags.asid,
        ips,
        ignore_access_flag: rng.percent(10),
        record: rng.percent(90),
        ignore_top_byte: rng.percent(15),
        ignore_table_limits: [rng.percent(30), rng.percent(30)],
        halves: [None, None],
    };
    let which = match rng.below(10) {
        0 => [false, true],
        1..4 => [true, true],
        _ => [true, false],
    };
    for (high, there) in which.into_iter().enumerate() {
        if there {
            let half = half(rng, high == 1, tags, ips, stage2, inputs, targets);
            stage1.halves[high] = Some(half);
        } else if rng.percent(30) {
            // Walks below this root are switched off.
            let low = rng.bits(30);
            targets.push(Target {
                iova: if high == 1 { !low & !7 } else { low },
                via: "nothing",
            });
        }
    }
    if stage1.ignore_top_byte {
        for target in targets.iter_mut() {
            if rng.percent(40) {
                target.iova = target.iova & mask(56) | rng.bits(8) << 56;
            }
        }
    }
    stage1
}

fn half(
    rng: &mut Rng,
    high: bool,
    tags: Tags,
    ips: u8,
    stage2: Option<&Stage2>,
    inputs: &[Target],
    targets: &mut Vec<Target>,
) -> Half {
    let granule = rng.pick(&[12, 12, 12, 14, 16]);
    let input_bits = rng.pick(&[25, 28, 31, 32, 36, 38, 39, 40, 42, 44, 47, 48]);
    let sign = if high { !mask(input_bits) } else { 0 };
    let mut leaves = Vec::new();
    let mut near = rng.bits(input_bits);
    let start = start_level(granule, input_bits);
    for n in 0..1 + rng.below(4) {
        let level = leaf_level(rng, granule, start, input_bits);
        let size = shift(granule, level);
        near = place_near(rng, near, input_bits, granule);
        let input = near & !mask(size) | sign;
        let good = n == 0;
        let out_bits = size_bits(ips).min(44);
        let (output, kind, aimed) = match stage2 {
            None => {
                let (output, kind) = output(rng, granule, level, out_bits, good);
                (output, kind, None)
            }
            // What stage 2 translates, or a random intermediate address.
            Some(_) if good || rng.percent(85) => {
                let target = rng.pick(inputs).iova;
                (target & !mask(size), Output::Data, Some(target))
            }
            Some(stage2) => {
                let bits = stage2_reach(stage2).min(out_bits);
                (rng.bits(bits) & !mask(size), Output::Hole, None)
            }
        };
        let plain = kind == Output::TooLarge;
        let mut word = output | page_or_block(level) | rng.bits(2) << 8 | rng.bits(4) << 55;
        word |= rng.bits(4) << 2 | rng.bits(2) << 53;
        // Mask: QEMU lets unprivileged reads through where AP[1] = 0.
        word |= pte::AP_UNPRIVILEGED;
        if !tags.may_be_global || rng.percent(75) {
            word |= pte::NOT_GLOBAL;
        }
        if plain || good || !rng.percent(8) {
            word |= pte::AF;
        }
        if !plain && rng.percent(if good { 5 } else { 25 }) {
            word |= pte::AP_READ_ONLY;
        }
        if !good && rng.percent(6) {
            word &= !pte::VALID;
        } else if !good && level < 3 && stage2.is_none() && rng.percent(15) {
            word = HOLE | pte::VALID | pte::TABLE_OR_PAGE;
        } else if !good && level == 3 && rng.percent(3) {
            // A block where no block can be.
            word &= !pte::TABLE_OR_PAGE;
        }
        leaves.push(Leaf { input, level, word });
        for _ in 0..3 {
            let within = match aimed {
                Some(target) => target - output,
                None => reached(rng, output, size, kind),
            };
            targets.push(Target {
                iova: input + within,
                via: via(granule, level),
            });
        }
    }
    if rng.percent(25) {
        targets.push(Target {
            iova: rng.bits(input_bits) | sign,
            via: "nothing",
        });
    }
    if rng.percent(10) && input_bits < 55 {
        // Out of range, but in this half.
        targets.push(Target {
            iova: rng.bits(input_bits) | (sign ^ 1 << input_bits),
            via: "nothing",
        });
    }
    Half {
        granule,
        input_bits,
        leaves,
    }
}
