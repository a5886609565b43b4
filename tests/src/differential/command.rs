//! Commands (chapter 4), and what each invalidates for sure.

use super::encode::put;

/// What a TLB invalidation by address aims at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Aim {
    pub(super) address: u64,
    /// `None`: one address, all granules and levels.
    pub(super) range: Option<RangeFields>,
    pub(super) leaf: bool,
}

/// The fields of a range invalidation (4.4.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RangeFields {
    pub(super) granule: u32,
    pub(super) num: u32,
    pub(super) scale: u32,
    pub(super) level_hint: u32,
}

impl Aim {
    /// First and last address.
    fn span(&self) -> (u64, u64) {
        let len = match self.range {
            None => 0x1000,
            Some(range) => u64::from(range.num + 1) << (range.scale + range.granule),
        };
        (self.address, self.address.saturating_add(len - 1))
    }

    fn encode(&self, words: &mut [u64; 2]) {
        put(words, 64, 64, u64::from(self.leaf));
        put(words, 127, 76, self.address >> 12);
        if let Some(range) = self.range {
            put(words, 16, 12, u64::from(range.num));
            put(words, 24, 20, u64::from(range.scale));
            put(words, 73, 72, u64::from(range.level_hint));
            put(words, 75, 74, u64::from((range.granule - 10) / 2));
        }
    }

    /// Whether a leaf is sure to be invalidated as far as address, granule and level go.
    fn hits(&self, leaf: &LeafPlace, by: ByAddress) -> bool {
        let (first, last) = self.span();
        let end = leaf.input | super::encode::mask(leaf.size_bits);
        let fits = self.range.is_none_or(|range| {
            range.granule == leaf.granule
                && (range.level_hint == 0 || range.level_hint == leaf.level)
        });
        fits && match by {
            ByAddress::Any => first <= end && leaf.input <= last,
            ByAddress::Whole => first <= leaf.input && end <= last,
            ByAddress::None => false,
        }
    }
}

/// Which leaf of a table was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LeafPlace {
    /// Its first input address.
    pub(super) input: u64,
    /// The number of addresses as a power of two.
    pub(super) size_bits: u32,
    pub(super) granule: u32,
    pub(super) level: u32,
}

/// Which invalidations by address count for a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ByAddress {
    /// Those of any address in it.
    Any,
    /// Those of all its addresses.
    Whole,
    /// None.
    None,
}

/// What must be invalidated before a change of memory is sure to be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    /// A stream table entry.
    Ste { sid: u32 },
    /// The context descriptor of a stream.
    Cd { sid: u32 },
    /// A stage 1 leaf.
    Stage1 {
        vmid: u16,
        asid: u16,
        global: bool,
        by_address: ByAddress,
        leaf: LeafPlace,
    },
    /// A stage 2 leaf; then, where stage 1 is there too, the combined entries of the VMID.
    Stage2 {
        vmid: u16,
        leaf: LeafPlace,
        nested: bool,
    },
    /// The combined entries of a VMID, its intermediate ones being invalidated.
    Combined { vmid: u16 },
}

/// A command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Command {
    CfgiSte { sid: u32, leaf: bool },
    CfgiSteRange { sid: u32, range: u32 },
    CfgiCd { sid: u32, leaf: bool },
    CfgiCdAll { sid: u32 },
    TlbiNhAll { vmid: u16 },
    TlbiNhAsid { vmid: u16, asid: u16 },
    TlbiNhVa { vmid: u16, asid: u16, aim: Aim },
    TlbiNhVaa { vmid: u16, aim: Aim },
    TlbiS12VmAll { vmid: u16 },
    TlbiS2Ipa { vmid: u16, aim: Aim },
    TlbiNsnhAll,
    PrefetchConfig { sid: u32 },
    Sync,
}

impl Command {
    /// The command that invalidates every stream table entry and context descriptor.
    pub(super) const CFGI_ALL: Self = Self::CfgiSteRange { sid: 0, range: 31 };

    pub(super) fn encode(&self) -> [u64; 2] {
        let mut words = [0; 2];
        let opcode = match *self {
            Self::PrefetchConfig { .. } => 0x01,
            Self::CfgiSte { .. } => 0x03,
            Self::CfgiSteRange { .. } => 0x04,
            Self::CfgiCd { .. } => 0x05,
            Self::CfgiCdAll { .. } => 0x06,
            Self::TlbiNhAll { .. } => 0x10,
            Self::TlbiNhAsid { .. } => 0x11,
            Self::TlbiNhVa { .. } => 0x12,
            Self::TlbiNhVaa { .. } => 0x13,
            Self::TlbiS12VmAll { .. } => 0x28,
            Self::TlbiS2Ipa { .. } => 0x2a,
            Self::TlbiNsnhAll => 0x30,
            Self::Sync => 0x46,
        };
        put(&mut words, 7, 0, opcode);
        match *self {
            Self::CfgiSte { sid, leaf } | Self::CfgiCd { sid, leaf } => {
                put(&mut words, 63, 32, u64::from(sid));
                put(&mut words, 64, 64, u64::from(leaf));
            }
            Self::CfgiSteRange { sid, range } => {
                put(&mut words, 63, 32, u64::from(sid));
                put(&mut words, 68, 64, u64::from(range));
            }
            Self::CfgiCdAll { sid } | Self::PrefetchConfig { sid } => {
                put(&mut words, 63, 32, u64::from(sid));
            }
            Self::TlbiNhAll { vmid } | Self::TlbiS12VmAll { vmid } => {
                put(&mut words, 47, 32, u64::from(vmid));
            }
            Self::TlbiNhAsid { vmid, asid } => {
                put(&mut words, 47, 32, u64::from(vmid));
                put(&mut words, 63, 48, u64::from(asid));
            }
            Self::TlbiNhVa { vmid, asid, aim } => {
                put(&mut words, 47, 32, u64::from(vmid));
                put(&mut words, 63, 48, u64::from(asid));
                aim.encode(&mut words);
            }
            Self::TlbiNhVaa { vmid, aim } | Self::TlbiS2Ipa { vmid, aim } => {
                put(&mut words, 47, 32, u64::from(vmid));
                aim.encode(&mut words);
            }
            Self::TlbiNsnhAll | Self::Sync => {}
        }
        words
    }

    /// What is still needed once this command has been waited for; `None` where nothing is.
    ///
    /// Only what the architecture guarantees counts: an implementation may invalidate more.
    pub(super) fn serve(&self, need: Need) -> Option<Need> {
        let served = match (*self, need) {
            (Self::CfgiSte { sid, .. }, Need::Ste { sid: of } | Need::Cd { sid: of })
            | (Self::CfgiCd { sid, .. } | Self::CfgiCdAll { sid }, Need::Cd { sid: of }) => {
                sid == of
            }
            (Self::CfgiSteRange { sid, range }, Need::Ste { sid: of } | Need::Cd { sid: of }) => {
                u64::from(sid) >> (range + 1) == u64::from(of) >> (range + 1)
            }
            (
                Self::TlbiNsnhAll,
                Need::Stage1 { .. } | Need::Stage2 { .. } | Need::Combined { .. },
            ) => true,
            (
                Self::TlbiS12VmAll { vmid },
                Need::Stage1 { vmid: of, .. }
                | Need::Stage2 { vmid: of, .. }
                | Need::Combined { vmid: of },
            )
            | (
                Self::TlbiNhAll { vmid },
                Need::Stage1 { vmid: of, .. } | Need::Combined { vmid: of },
            ) => vmid == of,
            (
                Self::TlbiNhAsid { vmid, asid },
                Need::Stage1 {
                    vmid: in_vmid,
                    asid: in_asid,
                    global,
                    ..
                },
            ) => vmid == in_vmid && asid == in_asid && !global,
            (
                Self::TlbiNhVa { vmid, asid, aim },
                Need::Stage1 {
                    vmid: in_vmid,
                    asid: in_asid,
                    by_address,
                    leaf,
                    ..
                },
            ) => {
                // Mask: QEMU's TLB has no global entries, so that one of another ASID stays, where
                // the architecture has it go (4.4.2).
                vmid == in_vmid && asid == in_asid && aim.hits(&leaf, by_address)
            }
            (
                Self::TlbiNhVaa { vmid, aim },
                Need::Stage1 {
                    vmid: of,
                    by_address,
                    leaf,
                    ..
                },
            ) => vmid == of && aim.hits(&leaf, by_address),
            (
                Self::TlbiS2Ipa { vmid, aim },
                Need::Stage2 {
                    vmid: of,
                    leaf,
                    nested,
                },
            ) if vmid == of && aim.hits(&leaf, ByAddress::Any) => {
                return nested.then_some(Need::Combined { vmid });
            }
            _ => false,
        };
        if served { None } else { Some(need) }
    }
}
