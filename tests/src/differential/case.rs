//! What a case is: plain data that prints.

/// How many stages the SMMU has, and how its stream table is laid out. A QEMU runs one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Environment {
    pub(super) stage: crate::qemu::Stage,
    pub(super) two_level: bool,
}

impl Environment {
    pub(super) fn has_stage1(self) -> bool {
        self.stage != crate::qemu::Stage::Two
    }

    pub(super) fn has_stage2(self) -> bool {
        self.stage != crate::qemu::Stage::One
    }
}

/// One case.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) environment: Environment,
    pub(super) table: StreamTable,
    pub(super) streams: [Stream; 2],
    pub(super) steps: Vec<Step>,
}

/// The shape of the stream table.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamTable {
    pub(super) log2_size: u32,
    /// `SPLIT`, where there are two levels.
    pub(super) split: u32,
    /// `Span` of the level 1 descriptor of our streams; 0 where it is not there.
    pub(super) span: u32,
    /// Whether entries are where no memory is.
    pub(super) missing: bool,
}

/// A stream: two configurations that its entry can hold, each with tables and tags of its own.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) configs: [Config; 2],
    pub(super) start: Entry,
}

/// What a stream table entry holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// One of the stream's configurations.
    Config(usize),
    /// V = 0.
    Invalid,
    /// `Config` = 0b0xx, with these two bits for xx.
    Abort(u8),
    Bypass,
}

/// A configuration that translates.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) vmid: u16,
    pub(super) stage1: Option<Stage1>,
    pub(super) stage2: Option<Stage2>,
    pub(super) flaw: Flaw,
    /// Random bits for fields that change nothing that is compared: cacheability, shareability.
    pub(super) noise: u64,
}

/// What is wrong with a configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flaw {
    None,
    /// `S1STALLD` where stalls are not supported.
    SteStallDisabled,
    /// `S2S` where stalls are not supported.
    SteStall,
    /// `S2TG` is reserved.
    SteGranule,
    /// `S2T0SZ` is out of range.
    SteSize(u8),
    /// `S2SL0` is 3 without small tables.
    SteLevel,
    /// `S2TTB` is beyond `S2PS`.
    SteRoot,
    /// `S2ENDI`.
    SteEndian,
    /// The context descriptor is where no memory is; not where nested.
    CdHole,
    /// Stage 2 does not map the context descriptor.
    CdUnmapped,
    /// Stage 2 does not map one of the tables of stage 1.
    ///
    /// Mask: QEMU takes the fault for one of stage 1 and looks at CD.R, so both stages have R = 1.
    TableUnmapped,
    CdInvalid,
    /// `A` = 0.
    CdNoAbort,
    /// `S` where stalls are not supported.
    CdStall,
    /// `HA` where it is not supported.
    CdAccessFlagUpdate,
    /// `AA64` = 0.
    CdFormat,
    /// `T0SZ` is out of range.
    CdSize(u8),
    /// `TG0` is reserved.
    CdGranule,
    /// `ENDI`.
    CdEndian,
    /// `TTB0` is beyond `IPS`.
    CdRoot,
}

/// Stage 1, as its context descriptor tells it.
#[derive(Clone, Debug)]
pub(super) struct Stage1 {
    pub(super) asid: u16,
    pub(super) ips: u8,
    pub(super) ignore_access_flag: bool,
    pub(super) record: bool,
    /// `TBI0` and `TBI1`.
    ///
    /// Mask: QEMU takes `TBI0` for both, so both are the same.
    pub(super) ignore_top_byte: bool,
    /// `HAD0` and `HAD1`; table descriptors have random `APTable` then.
    pub(super) ignore_table_limits: [bool; 2],
    /// Below TTB0 and TTB1.
    pub(super) halves: [Option<Half>; 2],
}

/// What is below one of the roots of stage 1.
#[derive(Clone, Debug)]
pub(super) struct Half {
    pub(super) granule: u32,
    pub(super) input_bits: u32,
    pub(super) leaves: Vec<Leaf>,
}

/// Stage 2, as the stream table entry tells it.
#[derive(Clone, Debug)]
pub(super) struct Stage2 {
    pub(super) granule: u32,
    pub(super) input_bits: u32,
    pub(super) start_level: u32,
    pub(super) ps: u8,
    pub(super) ignore_access_flag: bool,
    pub(super) record: bool,
    /// The intermediate address of the arena's first byte, where nested.
    pub(super) structures: u64,
    pub(super) leaves: Vec<Leaf>,
}

/// A descriptor at the end of a walk, good or bad.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf {
    /// The first address that it translates.
    pub(super) input: u64,
    pub(super) level: u32,
    pub(super) word: u64,
}

/// A step of a case.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// A device accesses `size` bytes (1, 2 or 4) at a multiple of that.
    Access {
        stream: usize,
        write: bool,
        size: usize,
        iova: u64,
        via: &'static str,
    },
    /// A leaf of a table is changed in place: the one of this number, modulo how many there are.
    EditLeaf {
        stream: usize,
        config: usize,
        leaf: usize,
        how: LeafEdit,
    },
    /// A stream table entry is changed.
    EditEntry { stream: usize, to: Entry },
    /// A context descriptor is changed.
    EditContext {
        stream: usize,
        config: usize,
        how: ContextEdit,
    },
    /// Something is invalidated and waited for.
    Invalidate(Invalidation),
    /// A command that does not exist is sent, with a valid one behind it, and recovered from.
    IllegalCommand([u64; 2]),
}

/// How a leaf is changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LeafEdit {
    Invalidate,
    /// As it was at the start of the case.
    Restore,
    /// Its output moves by this many of its own size, within the data, where it is a page.
    Move(u64),
    ToggleWrite,
    ToggleAccessFlag,
}

/// How a context descriptor is changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ContextEdit {
    Invalidate,
    Restore,
    ToggleRecord,
}

/// What is invalidated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Invalidation {
    /// What the oldest change that is not yet sure to be seen needs, by one of several commands.
    Right(u8),
    /// The same with another tag, address or stream.
    Wrong(u8),
    /// Everything.
    All,
}

impl Case {
    /// The leaves of each tree of tables.
    pub(super) fn leaves(&mut self) -> Vec<&mut Vec<Leaf>> {
        let configs = self
            .streams
            .iter_mut()
            .flat_map(|stream| &mut stream.configs);
        let trees = configs.flat_map(|config| {
            let halves = config
                .stage1
                .iter_mut()
                .flat_map(|stage1| &mut stage1.halves);
            let stage1 = halves.flatten().map(|half| &mut half.leaves);
            let stage2 = config.stage2.iter_mut().map(|stage2| &mut stage2.leaves);
            stage1.chain(stage2)
        });
        trees.collect()
    }
}
