//! RES0 bits and alignment in what software stores for the hardware (5.1 to 5.4, 4.1.5).
//!
//! A bit that is set here does not change what the model does; it is noted, since the next
//! implementation may give it a meaning. Fields that a structure's configuration makes IGNORED may
//! hold anything.

use std::fmt::Write as _;

use super::State;
use super::bits::{address, bit, field, id, mask, span};
use super::config::{Context, Stage1, Tables};
use super::decode::Ste;
use super::settings::ModelConfig;

/// Bits of a structure of `N` words.
struct Bits<const N: usize>([u64; N]);

impl<const N: usize> Bits<N> {
    fn none() -> Self {
        Self([0; N])
    }

    /// Adds the bits `high` to `low`, counted as in the specification; both in one word.
    fn add(mut self, high: u32, low: u32) -> Self {
        if let Some(word) = self.0.get_mut((low / 64) as usize) {
            *word |= mask(high - low + 1) << (low % 64);
        }
        self
    }

    fn add_if(self, condition: bool, high: u32, low: u32) -> Self {
        if condition { self.add(high, low) } else { self }
    }

    fn not(self) -> Self {
        Self(self.0.map(|word| !word))
    }

    /// The numbers of those bits that are set in `words`.
    fn set_in(&self, words: &[u64; N]) -> Option<String> {
        let mut found = String::new();
        for (at, (reserved, word)) in (0u32..).zip(self.0.iter().zip(words)) {
            for low in (0..64).filter(|low| reserved & word & 1 << low != 0) {
                let separator = if found.is_empty() { "" } else { ", " };
                let _ = write!(found, "{separator}{}", at * 64 + low);
            }
        }
        (!found.is_empty()).then_some(found)
    }
}

/// The RES0 bits of a Non-secure stream table entry that lets something pass (5.2).
fn entry_bits(ids: &ModelConfig, ste: &[u64; 8], entry: &Ste) -> Bits<8> {
    let two = entry.stage2.is_some();
    let (types, perms) = (ids.idr1 & 1 << 27 != 0, ids.idr1 & 1 << 26 != 0);
    let no_stage2 = !ids.has_stage2();
    let (no_mpam, no_dpt) = (!ids.idr3_bit(7), !ids.idr3_bit(15));
    let no_indirection = !ids.idr3_bit(18);
    let no_the = !ids.idr3_bit(21);
    Bits::none()
        .add(58, 56)
        .add_if(!ids.has_pri() || ids.substream_bits() == 0, 82, 82)
        .add_if(no_indirection, 88, 88)
        .add_if(!ids.idr3_bit(8), 89, 89)
        .add_if(no_mpam, 90, 90)
        .add_if(!ids.has_stage1(), 91, 91)
        .add_if(!ids.has_stage1() || !ids.has_hyp(), 95, 94)
        .add_if(!types || !bit(ste, 100), 99, 96)
        .add_if(!types, 104, 100)
        .add(107, 105)
        .add_if(!types, 109, 108)
        .add_if(!perms, 115, 112)
        .add_if(no_stage2, 186, 160)
        .add_if(no_stage2 || two && ids.httu() != 3, 187, 187)
        .add_if(no_stage2 || two && !ids.idr3_bit(19), 188, 188)
        .add_if(no_stage2 || two && !ids.idr3_bit(20), 189, 189)
        .add_if(no_dpt || id(ste, 93, 92) != 3, 191, 190)
        .add(193, 192)
        .add_if(two && ids.idr5 & 1 << 7 == 0, 195, 194)
        .add_if(no_stage2, 247, 196)
        // Bits 55:52 of an address are for 128-bit tables only.
        .add_if(two, 247, 244)
        .add(255, 248)
        .add_if(no_mpam, 287, 272)
        .add(319, 288)
        .add_if(no_mpam, 327, 320)
        .add(328, 328)
        .add_if(no_the, 331, 329)
        .add_if(no_mpam, 375, 332)
        .add(383, 376)
        .add(447, 384)
        .add_if(!ids.idr3_bit(20), 511, 448)
}

/// The RES0 bits of a valid context descriptor that a Non-secure entry points to (5.4).
fn context_bits(ids: &ModelConfig, cd: &[u64; 8], stage1: &Stage1) -> Bits<8> {
    let el2 = stage1.hypervisor;
    let (low, high) = (el2 || !bit(cd, 14), !el2 && !bit(cd, 30));
    let (no_e0pd, no_mpam) = (el2 || !ids.idr3_bit(13), !ids.idr3_bit(7));
    let direct = !(ids.idr3_bit(18) && stage1.permission_indirection);
    Bits::none()
        .add_if(el2, 29, 16)
        .add_if(el2, 39, 39)
        .add_if(no_e0pd, 66, 66)
        .add_if(ids.httu() != 3, 67, 67)
        // Bits 55:52 of an address are for 128-bit tables only.
        .add_if(low, 119, 116)
        .add(121, 120)
        .add_if(!ids.idr3_bit(21), 122, 122)
        .add_if(!ids.idr3_bit(17), 123, 123)
        .add_if(el2, 129, 128)
        .add_if(no_e0pd, 130, 130)
        .add_if(!ids.idr3_bit(23), 131, 131)
        .add_if(el2, 183, 132)
        .add_if(high, 183, 180)
        .add(185, 184)
        .add_if(ids.idr5 & 1 << 7 == 0, 186, 186)
        .add_if(direct, 187, 187)
        .add_if(no_mpam, 375, 352)
        .add(383, 376)
        .add_if(direct || el2, 431, 384)
        .add(447, 432)
        .add_if(direct, 495, 448)
        .add(511, 496)
}

/// The bits of a command that mean something on the Non-secure queue (4.2 to 4.7).
fn command_fields(ids: &ModelConfig, command: &[u64; 2]) -> Bits<2> {
    let opcode = field(command, 7, 0);
    let bits = Bits::none().add(7, 0);
    let stream = |bits: Bits<2>| bits.add(10, 10).add(63, 32);
    let vmid = if ids.idr0_bit(18) { 47 } else { 39 };
    let asid = if ids.idr0_bit(12) { 63 } else { 55 };
    // The VMID of a stage 1 invalidation is RES0 without stage 2 (4.4.2).
    let stage1_vmid = ids.has_stage2();
    let ranged = ids.has_range_invalidation() && field(command, 75, 74) != 0;
    let by_address = |bits: Bits<2>| {
        bits.add(64, 64)
            .add_if(ids.has_range_invalidation(), 75, 74)
            .add_if(ranged, 73, 72)
            .add_if(ranged, 16, 12)
            .add_if(ranged, 24, 20)
            .add(if opcode == 0x2a { 115 } else { 127 }, 76)
    };
    match opcode {
        0x01 => stream(bits).add(11, 11).add(31, 12),
        0x02 => stream(bits)
            .add(11, 11)
            .add(31, 12)
            .add(73, 64)
            .add(127, 76),
        0x03 => stream(bits).add(64, 64),
        0x04 => stream(bits).add(68, 64),
        0x05 => stream(bits).add(31, 12).add(64, 64),
        0x06 | 0x45 => stream(bits),
        0x07 => bits.add(10, 10).add(vmid, 32),
        0x10 => bits.add_if(stage1_vmid, vmid, 32),
        0x11 => bits.add_if(stage1_vmid, vmid, 32).add(asid, 48),
        0x12 => by_address(bits).add_if(stage1_vmid, vmid, 32).add(asid, 48),
        0x13 => by_address(bits).add_if(stage1_vmid, vmid, 32),
        0x21 => bits.add(asid, 48),
        0x22 => by_address(bits).add(asid, 48),
        0x23 => by_address(bits),
        0x28 => bits.add(vmid, 32),
        0x2a => by_address(bits).add(vmid, 32),
        0x40 => bits
            .add(9, 9)
            .add(31, 11)
            .add(63, 32)
            .add(69, 64)
            .add(127, 76),
        0x41 => bits.add(31, 11).add(63, 32).add(72, 64).add(77, 76),
        0x44 => stream(bits).add(13, 12).add(79, 64),
        // A message's parameters are IGNORED unless one is asked for, and so is nothing else.
        0x46 => bits.add(13, 12).add(27, 22).add(63, 32).add(115, 66),
        _ => bits,
    }
}

impl State {
    /// Notes RES0 bits of a stream table entry that was fetched and is legal, and pointers in it that
    /// are not aligned.
    pub(super) fn check_entry(&mut self, stream: u32, words: &[u64; 8], entry: &Ste) {
        if !entry.passes {
            return;
        }
        if let Some(bits) = entry_bits(&self.config, words, entry).set_in(words) {
            self.violation_once(format!("STE {stream:#x} has reserved bits set: {bits}"));
        }
        if let Some(stage1) = &entry.stage1 {
            let align = match (stage1.format, stage1.context_bits) {
                (0, bits) => bits + 6,
                (1, bits) => (bits.max(9) - 6 + 3).max(6),
                (_, bits) => (bits.max(13) - 10 + 3).max(6),
            };
            self.check_pointer(
                &format!("S1ContextPtr of STE {stream:#x}"),
                stage1.context.0,
                align,
            );
        }
        if let Some(stage2) = &entry.stage2 {
            let name = format!("S2TTB of STE {stream:#x}");
            self.check_root(&name, address(words, 243, 196), &stage2.tables);
        }
    }

    /// The same of a context descriptor.
    pub(super) fn check_context(
        &mut self,
        (stream, index): (u32, u32),
        words: &[u64; 8],
        stage1: &Stage1,
        context: &Context,
    ) {
        let name = format!("CD {index:#x} of stream {stream:#x}");
        if let Some(bits) = context_bits(&self.config, words, stage1).set_in(words) {
            self.violation_once(format!("{name} has reserved bits set: {bits}"));
        }
        if let Some(tables) = &context.low {
            self.check_root(&format!("TTB0 of {name}"), address(words, 115, 68), tables);
        }
        if let Some(tables) = &context.high {
            self.check_root(&format!("TTB1 of {name}"), address(words, 179, 132), tables);
        }
    }

    /// A first-level descriptor of the stream table, with a Span that is in use.
    pub(super) fn check_l1std(&mut self, index: u32, level1: u64) {
        let reserved = Bits::none()
            .add(5, 5)
            .add(63, self.config.output_bits().min(56));
        if let Some(bits) = reserved.set_in(&[level1]) {
            self.violation_once(format!("L1STD {index:#x} has reserved bits set: {bits}"));
        }
        let span = field(&[level1], 4, 0);
        self.check_pointer(
            &format!("L2Ptr of L1STD {index:#x}"),
            address(&[level1], 55, 6),
            5 + span,
        );
    }

    /// A valid first-level descriptor of a table of context descriptors.
    pub(super) fn check_l1cd(&mut self, stream: u32, index: u32, level1: u64, stage1: &Stage1) {
        let name = format!("L1CD {index:#x} of stream {stream:#x}");
        let reserved = Bits::none()
            .add(11, 1)
            .add_if(stage1.format == 2, 15, 12)
            .add(63, 56);
        if let Some(bits) = reserved.set_in(&[level1]) {
            self.violation_once(format!("{name} has reserved bits set: {bits}"));
        }
    }

    fn check_pointer(&mut self, name: &str, pointer: u64, align: u32) {
        if pointer & mask(align) != 0 {
            self.violation_once(format!(
                "{name} is {pointer:#x}, not aligned to its size of 2^{align} bytes"
            ));
        }
    }

    fn check_root(&mut self, name: &str, root: u64, tables: &Tables) {
        if root != tables.root.0 {
            self.violation_once(format!(
                "{name} is {root:#x}, not aligned to the size of its table"
            ));
        }
    }

    /// Notes RES0 bits of a legal command, and parameters that are out of range (4.1.5, 4.1.7).
    pub(super) fn check_command(&mut self, command: &[u64; 2]) {
        let [low, high] = *command;
        if let Some(bits) = command_fields(&self.config, command).not().set_in(command) {
            self.violation(format!(
                "the command {low:#x} {high:#x} has reserved bits set: {bits}"
            ));
        }
        let opcode = field(command, 7, 0);
        let every = opcode == 0x04 && field(command, 68, 64) == 31;
        let named = matches!(opcode, 0x01..=0x06 | 0x40 | 0x41 | 0x44 | 0x45) && !every;
        let stream = if named { span(command, 63, 32) } else { 0 };
        // CMD_CFGI_CD has a SubstreamID always, others as SSV says.
        let valid =
            opcode == 0x05 || matches!(opcode, 0x01 | 0x02 | 0x40 | 0x41) && bit(command, 11);
        let substream = if valid { span(command, 31, 12) } else { 0 };
        if stream >> self.config.stream_bits() != 0
            || substream >> self.config.substream_bits() != 0
        {
            self.violation(format!(
                "the command {low:#x} {high:#x} names a stream or substream out of range"
            ));
        }
    }
}
