//! What context entries and PASID table entries say, decoded (9.1 to 9.6).

use iommu_core::PhysAddr;

use super::bits::{bit, bits, field, id, mask, page};
use super::reason::{self, Reason};
use super::settings::VtdConfig;

/// What a unit does with a source's requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceConfig {
    /// There is an entry that is present and makes no sense, or a table that cannot be read.
    Invalid {
        /// The number of the fault that requests meet.
        reason: u8,
    },
    /// There is no entry that is present.
    NotPresent,
    /// Requests pass untranslated.
    PassThrough {
        /// The domain id that tags what is cached.
        did: u16,
    },
    /// Requests are translated by second-level tables.
    SecondLevel {
        /// The first table.
        root: PhysAddr,
        /// The number of levels, 3 to 5.
        levels: u32,
        /// The domain id that tags what is cached.
        did: u16,
    },
    /// What becomes of requests is told by a table of PASIDs.
    Scalable {
        /// The PASID directory.
        directory: PhysAddr,
        /// The power of two that is the number of PASIDs.
        pasid_bits: u32,
        /// `PASIDE`: whether requests may carry a PASID.
        pasids: bool,
        /// The PASID of requests that carry none.
        rid_pasid: u32,
        /// What becomes of those.
        rid: PasidConfig,
    },
}

/// What a unit does with the requests of one PASID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PasidConfig {
    /// There is an entry that is present and makes no sense, or a table that cannot be read.
    Invalid {
        /// The number of the fault that requests meet.
        reason: u8,
    },
    /// There is no entry that is present.
    NotPresent,
    /// Requests pass untranslated.
    PassThrough {
        /// The domain id that tags what is cached.
        did: u16,
    },
    /// Requests are translated by second-level tables.
    SecondLevel {
        /// The first table.
        root: PhysAddr,
        /// The number of levels, 3 to 5.
        levels: u32,
        /// The domain id that tags what is cached.
        did: u16,
    },
    /// Requests are translated by first-level tables.
    FirstLevel {
        /// The first table.
        root: PhysAddr,
        /// The number of levels, 4 or 5.
        levels: u32,
        /// The domain id that tags what is cached, along with the PASID.
        did: u16,
    },
}

/// How addresses are translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Regime {
    PassThrough,
    Second {
        root: u64,
        levels: u32,
    },
    First {
        root: u64,
        levels: u32,
        snooped: bool,
    },
}

/// What a legacy context entry or a PASID entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mapping {
    pub(super) did: u16,
    pub(super) regime: Regime,
}

/// What a scalable-mode context entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Directory {
    pub(super) base: u64,
    /// The power of two that is the number of PASIDs.
    pub(super) pasid_bits: u32,
    pub(super) pasids: bool,
    pub(super) rid_pasid: u32,
}

/// Present entries have no bits set that mean nothing.
fn reserved(words: &[(u64, u64)], reason: Reason) -> Result<(), Reason> {
    match words.iter().any(|(word, bits)| word & bits != 0) {
        true => Err(reason),
        false => Ok(()),
    }
}

impl VtdConfig {
    /// The bits of an address that no memory has.
    pub(super) fn beyond_host(&self) -> u64 {
        !mask(self.host_bits)
    }

    /// The context table of a legacy root entry (9.1).
    pub(super) fn decode_root(&self, words: &[u64; 2]) -> Result<u64, Reason> {
        if !bit(words[0], 0) {
            return Err(reason::ROOT_NOT_PRESENT);
        }
        let low = 0xffe | self.beyond_host();
        reserved(&[(words[0], low), (words[1], !0)], reason::ROOT_RESERVED)?;
        Ok(page(words[0]))
    }

    /// The context table of one half of a scalable-mode root entry (9.2).
    pub(super) fn decode_scalable_root(&self, word: u64) -> Result<u64, Reason> {
        if !bit(word, 0) {
            return Err(reason::SM_ROOT_NOT_PRESENT);
        }
        let bits = 0xffe | self.beyond_host();
        reserved(&[(word, bits)], reason::SM_ROOT_RESERVED)?;
        Ok(page(word))
    }

    /// A legacy context entry (9.3).
    pub(super) fn decode_context(&self, words: &[u64; 2]) -> Result<Mapping, Reason> {
        if !bit(words[0], 0) {
            return Err(reason::CONTEXT_NOT_PRESENT);
        }
        let (low, high) = (0xff0 | self.beyond_host(), !mask(24) | 0x80);
        reserved(
            &[(words[0], low), (words[1], high)],
            reason::CONTEXT_RESERVED,
        )?;
        let width = field(words[1], 2, 0);
        let regime = match bits(words[0], 3, 2) {
            0 => self.decode_second(words[0], width),
            1 if self.has_device_tlbs() => self.decode_second(words[0], width),
            2 if self.ecap_bit(6) && self.largest_width() == Some(width) => {
                Some(Regime::PassThrough)
            }
            _ => None,
        };
        let did = id(words[1], 23, 8);
        let regime = regime.ok_or(reason::CONTEXT_INVALID)?;
        Ok(Mapping { did, regime })
    }

    fn decode_second(&self, word: u64, width: u32) -> Option<Regime> {
        let root = page(word);
        let levels = self.levels(width)?;
        Some(Regime::Second { root, levels })
    }

    /// A scalable-mode context entry (9.4).
    pub(super) fn decode_scalable_context(&self, words: &[u64; 4]) -> Result<Directory, Reason> {
        if !bit(words[0], 0) {
            return Err(reason::SM_CONTEXT_NOT_PRESENT);
        }
        let unless = |there: bool, bits: u64| if there { 0 } else { bits };
        let low = 0x1e0
            | self.beyond_host()
            | unless(self.has_device_tlbs(), 1 << 2)
            | unless(self.has_pasids(), 1 << 3)
            | unless(self.ecap_bit(29), 1 << 4);
        let high =
            !mask(21) | unless(self.ecap_bit(49), mask(20)) | unless(self.ecap_bit(53), 1 << 20);
        reserved(
            &[
                (words[0], low),
                (words[1], high),
                (words[2], !0),
                (words[3], !0),
            ],
            reason::SM_CONTEXT_RESERVED,
        )?;
        let directory = Directory {
            base: page(words[0]),
            pasid_bits: field(words[0], 11, 9) + 7 + 6,
            pasids: bit(words[0], 3),
            rid_pasid: field(words[1], 19, 0),
        };
        if directory.rid_pasid >> directory.pasid_bits != 0 {
            return Err(reason::SM_CONTEXT_RID_PASID);
        }
        Ok(directory)
    }

    /// The PASID table of a directory entry (9.5).
    pub(super) fn decode_directory(&self, word: u64) -> Result<u64, Reason> {
        if !bit(word, 0) {
            return Err(reason::DIRECTORY_NOT_PRESENT);
        }
        let bits = 0xffc | self.beyond_host();
        reserved(&[(word, bits)], reason::DIRECTORY_RESERVED)?;
        Ok(page(word))
    }

    /// A PASID table entry (9.6).
    pub(super) fn decode_pasid(&self, words: &[u64; 8]) -> Result<Mapping, Reason> {
        if !bit(words[0], 0) {
            return Err(reason::PASID_NOT_PRESENT);
        }
        let unless = |there: bool, bits: u64| if there { 0 } else { bits };
        let kind = bits(words[0], 8, 6);
        let beyond = self.beyond_host();
        // Execute requests and the second level's accessed flags are not modelled.
        let low = 0xe20 | unless(kind != 2, beyond);
        let middle = 0x7f_0000
            | unless(self.ecap_bit(48), 1 << 23)
            | unless(self.ecap_bit(7), 1 << 24)
            | unless(self.ecap_bit(25), 0xffff_ffff_fe00_0000);
        let upper = 0xf62
            | unless(self.ecap_bit(31), 1 | 1 << 4)
            | unless(self.ecap_bit(34), 1 << 7)
            | unless(kind != 1, beyond);
        reserved(
            &[(words[0], low), (words[1], middle), (words[2], upper)],
            reason::PASID_RESERVED,
        )?;
        let snooped = self.is_coherent() || bit(words[1], 23);
        let regime = match kind {
            1 if self.ecap_bit(47) => self.decode_first(words[2], snooped),
            2 if self.ecap_bit(46) => self.decode_second(words[0], field(words[0], 4, 2)),
            4 if self.ecap_bit(6) => Some(Regime::PassThrough),
            _ => None,
        };
        let did = id(words[1], 15, 0);
        let regime = regime.ok_or(reason::PASID_INVALID)?;
        Ok(Mapping { did, regime })
    }

    fn decode_first(&self, word: u64, snooped: bool) -> Option<Regime> {
        let levels = match bits(word, 3, 2) {
            0 => 4,
            1 if self.cap_bit(60) => 5,
            _ => return None,
        };
        let root = page(word);
        Some(Regime::First {
            root,
            levels,
            snooped,
        })
    }
}

impl PasidConfig {
    pub(super) fn new(entry: Result<Mapping, Reason>) -> Self {
        match entry {
            Ok(Mapping { did, regime }) => match regime {
                Regime::PassThrough => Self::PassThrough { did },
                Regime::Second { root, levels } => {
                    let root = PhysAddr(root);
                    Self::SecondLevel { root, levels, did }
                }
                Regime::First { root, levels, .. } => {
                    let root = PhysAddr(root);
                    Self::FirstLevel { root, levels, did }
                }
            },
            Err(reason::DIRECTORY_NOT_PRESENT | reason::PASID_NOT_PRESENT) => Self::NotPresent,
            Err(Reason(reason)) => Self::Invalid { reason },
        }
    }
}

impl SourceConfig {
    pub(super) fn new(entry: Result<Mapping, Reason>) -> Self {
        match entry {
            Ok(Mapping { did, regime }) => match regime {
                Regime::Second { root, levels } => {
                    let root = PhysAddr(root);
                    Self::SecondLevel { root, levels, did }
                }
                // Context entries name no first level.
                Regime::PassThrough | Regime::First { .. } => Self::PassThrough { did },
            },
            Err(reason) => Self::refused(reason),
        }
    }

    /// A source without an entry that counts.
    pub(super) fn refused(reason: Reason) -> Self {
        match reason {
            reason::ROOT_NOT_PRESENT
            | reason::CONTEXT_NOT_PRESENT
            | reason::SM_ROOT_NOT_PRESENT
            | reason::SM_CONTEXT_NOT_PRESENT => Self::NotPresent,
            Reason(reason) => Self::Invalid { reason },
        }
    }
}
