//! What a case is: plain data that prints.

/// A VT-d unit. A QEMU has one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unit {
    /// Legacy mode, as plain as it gets.
    Plain,
    /// Legacy mode with `CAP.CM`.
    Caching,
    /// Legacy mode with addresses of 39 bits; invalidated by registers, not by the queue.
    Narrow,
    /// Scalable mode with second-level tables.
    Second,
    /// Scalable mode with first-level tables.
    First,
}

impl Unit {
    /// The number of bits of an address, a device's or a physical one.
    pub(super) fn bits(self) -> u32 {
        if self == Self::Narrow { 39 } else { 48 }
    }

    pub(super) fn uses_queue(self) -> bool {
        self != Self::Narrow
    }

    pub(super) fn has_scalable_mode(self) -> bool {
        matches!(self, Self::Second | Self::First)
    }
}

/// One case.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) unit: Unit,
    /// Scalable-mode tables, else legacy ones.
    pub(super) scalable: bool,
    pub(super) root: Root,
    pub(super) sources: [Source; 2],
    pub(super) steps: Vec<Step>,
}

/// The root entry of bus 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Root {
    Good,
    NotPresent,
    /// One reserved bit is set.
    Reserved(u32),
    /// The context table is where no memory is.
    ContextHole,
    /// The root table itself is where no memory is.
    Hole,
}

/// A device: two configurations that its entry can hold, each with tables and a tag of its own.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) configs: [Config; 2],
    /// Of scalable mode only.
    pub(super) path: Path,
    pub(super) start: Entry,
}

/// What leads to a PASID entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Path {
    pub(super) rid_pasid: u16,
    /// `FPD` of the context entry and of the directory entry.
    pub(super) faults_off: [bool; 2],
    pub(super) flaw: PathFlaw,
}

impl Path {
    /// Whether no fault of a PASID entry is recorded.
    pub(super) fn is_silent(&self) -> bool {
        self.faults_off.contains(&true)
    }
}

/// What is wrong with what leads to a PASID entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PathFlaw {
    None,
    ContextNotPresent,
    /// A reserved bit of the context entry, counted from its first word.
    ContextReserved(u32),
    DirectoryHole,
    DirectoryNotPresent,
    TableHole,
}

/// What the entry of a source holds: a legacy context entry, or a PASID entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// One of the source's configurations.
    Config(usize),
    /// The same, not present. A context entry has all else; a PASID entry has `FPD` alone.
    Absent(usize),
}

/// A configuration.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) did: u16,
    /// `FPD`.
    pub(super) faults_off: bool,
    /// `None` passes requests through.
    pub(super) tree: Option<Tree>,
    /// The number of levels that tables of the unit have at most.
    pub(super) most_levels: u32,
    pub(super) flaw: Flaw,
}

/// What is wrong with an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flaw {
    None,
    /// `TT` or `PGTT` is reserved, or of something that there is not.
    Kind(u8),
    /// `AW` or `FLPM` of tables that there are not.
    Width(u8),
    /// A reserved bit, counted from the first word. Legacy only.
    Reserved(u32),
    /// The first table is where no memory is.
    RootHole,
}

impl Flaw {
    /// Whether the entry itself makes sense.
    pub(super) fn is_of_tables(self) -> bool {
        matches!(self, Self::None | Self::RootHole)
    }
}

/// Tables.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) first_level: bool,
    pub(super) levels: u32,
    /// Accessed and dirty flags are clear at the start. First level only.
    pub(super) clear_flags: bool,
    pub(super) leaves: Vec<Leaf>,
}

/// An entry at the end of a walk, good or bad.
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
        source: usize,
        write: bool,
        size: usize,
        iova: u64,
        via: &'static str,
    },
    /// A leaf is changed in place: the one of this number, modulo how many there are.
    EditLeaf {
        source: usize,
        config: usize,
        leaf: usize,
        how: LeafEdit,
    },
    /// The entry of a source is changed.
    EditEntry { source: usize, to: Entry },
    /// `P` of a scalable-mode context entry is flipped.
    TogglePath { source: usize },
    /// Something is invalidated and waited for.
    Invalidate(Invalidation),
    /// A descriptor that does not exist is sent, with a valid one behind it, and recovered from.
    IllegalDescriptor(u64),
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
    ToggleRead,
}

/// What is invalidated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Invalidation {
    /// What the oldest change that is not yet sure to be seen needs, by one of several descriptors.
    Right(u8),
    /// The same with another tag, address or source.
    Wrong(u8),
    /// Everything.
    All,
}

impl Case {
    /// The leaves of each tree of tables.
    pub(super) fn leaves(&mut self) -> Vec<&mut Vec<Leaf>> {
        let configs = self
            .sources
            .iter_mut()
            .flat_map(|source| &mut source.configs);
        configs
            .flat_map(|config| &mut config.tree)
            .map(|tree| &mut tree.leaves)
            .collect()
    }
}
