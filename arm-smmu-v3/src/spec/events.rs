//! Event records (7.3).

use core::fmt;

use bitfield_struct::bitfield;
use static_assertions::const_assert_eq;

use iommu_core::{Iova, PhysAddr, StreamId};

/// The bytes of a record.
pub const SIZE: usize = 32;

/// What a record says that happened. Values that are not named are reserved or implementation
/// defined; software treats them as not fatal (7.3.21).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EventKind(pub u8);

#[expect(missing_docs, reason = "each is the event of that name in section 7.3")]
impl EventKind {
    pub const F_UUT: Self = Self(0x01);
    pub const C_BAD_STREAMID: Self = Self(0x02);
    pub const F_STE_FETCH: Self = Self(0x03);
    pub const C_BAD_STE: Self = Self(0x04);
    pub const F_BAD_ATS_TREQ: Self = Self(0x05);
    pub const F_STREAM_DISABLED: Self = Self(0x06);
    pub const F_TRANSL_FORBIDDEN: Self = Self(0x07);
    pub const C_BAD_SUBSTREAMID: Self = Self(0x08);
    pub const F_CD_FETCH: Self = Self(0x09);
    pub const C_BAD_CD: Self = Self(0x0a);
    pub const F_WALK_EABT: Self = Self(0x0b);
    pub const F_TRANSLATION: Self = Self(0x10);
    pub const F_ADDR_SIZE: Self = Self(0x11);
    pub const F_ACCESS: Self = Self(0x12);
    pub const F_PERMISSION: Self = Self(0x13);
    pub const F_TLB_CONFLICT: Self = Self(0x20);
    pub const F_CFG_CONFLICT: Self = Self(0x21);
    pub const E_PAGE_REQUEST: Self = Self(0x24);
    pub const F_VMS_FETCH: Self = Self(0x25);

    /// The name in the specification.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::F_UUT => "F_UUT",
            Self::C_BAD_STREAMID => "C_BAD_STREAMID",
            Self::F_STE_FETCH => "F_STE_FETCH",
            Self::C_BAD_STE => "C_BAD_STE",
            Self::F_BAD_ATS_TREQ => "F_BAD_ATS_TREQ",
            Self::F_STREAM_DISABLED => "F_STREAM_DISABLED",
            Self::F_TRANSL_FORBIDDEN => "F_TRANSL_FORBIDDEN",
            Self::C_BAD_SUBSTREAMID => "C_BAD_SUBSTREAMID",
            Self::F_CD_FETCH => "F_CD_FETCH",
            Self::C_BAD_CD => "C_BAD_CD",
            Self::F_WALK_EABT => "F_WALK_EABT",
            Self::F_TRANSLATION => "F_TRANSLATION",
            Self::F_ADDR_SIZE => "F_ADDR_SIZE",
            Self::F_ACCESS => "F_ACCESS",
            Self::F_PERMISSION => "F_PERMISSION",
            Self::F_TLB_CONFLICT => "F_TLB_CONFLICT",
            Self::F_CFG_CONFLICT => "F_CFG_CONFLICT",
            Self::E_PAGE_REQUEST => "E_PAGE_REQUEST",
            Self::F_VMS_FETCH => "F_VMS_FETCH",
            _ => return None,
        })
    }

    /// Whether the record tells the direction of the transaction.
    const fn has_direction(self) -> bool {
        self.has_stage() || matches!(self, Self::F_UUT | Self::F_TRANSL_FORBIDDEN)
    }

    /// Whether the record tells the address of a structure that could not be fetched.
    const fn has_fetch(self) -> bool {
        matches!(
            self,
            Self::F_STE_FETCH | Self::F_CD_FETCH | Self::F_WALK_EABT | Self::F_VMS_FETCH
        )
    }

    /// Whether the record tells the stage of translation.
    const fn has_stage(self) -> bool {
        self.has_class() || matches!(self, Self::F_TLB_CONFLICT)
    }

    /// Whether the record tells what was being accessed.
    const fn has_class(self) -> bool {
        self.can_stall() || matches!(self, Self::F_WALK_EABT)
    }

    /// Whether the transaction may be waiting for software.
    const fn can_stall(self) -> bool {
        matches!(
            self,
            Self::F_TRANSLATION | Self::F_ADDR_SIZE | Self::F_ACCESS | Self::F_PERMISSION
        )
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "event {:#04x}", self.0),
        }
    }
}

#[bitfield(u64)]
struct Word0 {
    kind: u8,
    #[bits(3)]
    __: u8,
    ssv: bool,
    #[bits(20)]
    substream: u32,
    stream: u32,
}

#[bitfield(u64)]
struct Word1 {
    stag: u16,
    #[bits(15)]
    __: u16,
    stall: bool,
    __: bool,
    pnu: bool,
    ind: bool,
    rnw: bool,
    #[bits(3)]
    __: u8,
    s2: bool,
    #[bits(2)]
    class: u8,
    #[bits(22)]
    __: u32,
}

/// A record, as it stood in the queue. Any bits make one: fields that its kind does not have are
/// absent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Event(pub [u64; 4]);
const_assert_eq!(size_of::<Event>(), SIZE);

/// What an access was doing when a translation fault happened (7.3, `CLASS`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FaultClass {
    /// Fetching a context descriptor.
    Cd,
    /// Walking a stage-1 table.
    Table,
    /// Translating the input address.
    Input,
    /// A reserved value.
    Reserved,
}

impl Event {
    const fn word0(&self) -> Word0 {
        Word0::from_bits(self.0[0])
    }

    const fn word1(&self) -> Word1 {
        Word1::from_bits(self.0[1])
    }

    /// What happened.
    #[must_use]
    pub const fn kind(&self) -> EventKind {
        EventKind(self.word0().kind())
    }

    /// Whose transaction it was.
    #[must_use]
    pub const fn stream(&self) -> StreamId {
        StreamId(self.word0().stream())
    }

    /// Its SubstreamID, where it had one. `C_BAD_SUBSTREAMID` always has.
    #[must_use]
    pub const fn substream(&self) -> Option<u32> {
        if self.word0().ssv() || matches!(self.kind(), EventKind::C_BAD_SUBSTREAMID) {
            Some(self.word0().substream())
        } else {
            None
        }
    }

    /// The address it came in with; of a page request, its page.
    #[must_use]
    pub fn input(&self) -> Option<Iova> {
        match self.kind() {
            EventKind::E_PAGE_REQUEST => Some(Iova(self.0[2] & !0xfff)),
            kind => kind.has_direction().then_some(Iova(self.0[2])),
        }
    }

    /// Whether it was a read; `None` where the record does not tell.
    #[must_use]
    pub fn is_read(&self) -> Option<bool> {
        self.kind().has_direction().then_some(self.word1().rnw())
    }

    /// The address of the structure that could not be fetched.
    #[must_use]
    pub fn fetch(&self) -> Option<PhysAddr> {
        let address = self.0[3] & 0x00ff_ffff_ffff_fff8;
        self.kind().has_fetch().then_some(PhysAddr(address))
    }

    /// The stage of translation, 1 or 2.
    #[must_use]
    pub fn stage(&self) -> Option<u8> {
        let stage = if self.word1().s2() { 2 } else { 1 };
        self.kind().has_stage().then_some(stage)
    }

    /// What was being accessed.
    #[must_use]
    pub fn class(&self) -> Option<FaultClass> {
        self.kind()
            .has_class()
            .then_some(match self.word1().class() {
                0 => FaultClass::Cd,
                1 => FaultClass::Table,
                2 => FaultClass::Input,
                _ => FaultClass::Reserved,
            })
    }

    /// The page that stage 2 could not translate.
    #[must_use]
    pub fn ipa(&self) -> Option<PhysAddr> {
        let address = self.0[3] & 0x00ff_ffff_ffff_f000;
        (self.stage() == Some(2) && !self.kind().has_fetch()).then_some(PhysAddr(address))
    }

    /// The tag of a transaction that waits for `CMD_RESUME`.
    #[must_use]
    pub fn stalled(&self) -> Option<u16> {
        (self.kind().can_stall() && self.word1().stall()).then_some(self.word1().stag())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: stream {}", self.kind(), self.stream())?;
        if let Some(substream) = self.substream() {
            write!(f, ", substream {substream:#x}")?;
        }
        if let (Some(input), Some(read)) = (self.input(), self.is_read()) {
            write!(f, ", {} of {input}", if read { "read" } else { "write" })?;
        }
        if let Some(stage) = self.stage() {
            write!(f, ", stage {stage}")?;
        }
        match self.class() {
            Some(FaultClass::Cd) => f.write_str(" fetching a CD")?,
            Some(FaultClass::Table) => f.write_str(" walking stage 1")?,
            Some(FaultClass::Reserved) => f.write_str(", reserved class")?,
            Some(FaultClass::Input) | None => {}
        }
        if let Some(ipa) = self.ipa() {
            write!(f, ", IPA {ipa}")?;
        }
        if let Some(fetch) = self.fetch() {
            write!(f, ", fetching {fetch}")?;
        }
        if let Some(tag) = self.stalled() {
            write!(f, ", stalled with tag {tag:#x}")?;
        }
        if self.kind().name().is_none() {
            write!(f, ", record {:x?}", self.0)?;
        }
        Ok(())
    }
}
