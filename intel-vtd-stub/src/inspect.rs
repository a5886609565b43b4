//! What the tables say, for people to look at.

use core::fmt;

use iommu_core::{PhysAddr, Platform, StreamId};

use crate::spec::{ContextEntry, PasidEntry, Pgtt, SourceId, TranslationType};
use crate::tables::Seat;
use crate::vtd::IntelVtd;

/// What becomes of a device's requests without PASID, as its entry in memory says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceEntry {
    /// They are refused: no entry is present.
    Blocked,
    /// They pass as they are.
    PassThrough {
        /// The domain id.
        domain: u16,
    },
    /// They are translated by the first stage.
    FirstStage {
        /// The root of the page table.
        table: PhysAddr,
        /// The domain id that cached translations are tagged with.
        domain: u16,
    },
    /// They are translated by the second stage.
    SecondStage {
        /// The root of the page table.
        table: PhysAddr,
        /// The domain id that cached translations are tagged with.
        domain: u16,
    },
    /// Something that this driver does not write.
    Unknown,
}

impl From<ContextEntry> for SourceEntry {
    fn from(entry: ContextEntry) -> Self {
        let domain = entry.high.did();
        let table = PhysAddr(entry.low.asr() << 12);
        match (entry.low.p(), entry.low.tt()) {
            (false, _) => Self::Blocked,
            (true, TranslationType::TRANSLATE) => Self::SecondStage { table, domain },
            (true, TranslationType::PASS_THROUGH) => Self::PassThrough { domain },
            (true, _) => Self::Unknown,
        }
    }
}

impl From<PasidEntry> for SourceEntry {
    fn from(entry: PasidEntry) -> Self {
        let domain = entry.word1.did();
        let table = |page: u64| PhysAddr(page << 12);
        let [first, second] = [entry.word2.fsptptr(), entry.word0.ssptptr()].map(table);
        match (entry.word0.p(), entry.word0.pgtt()) {
            (false, _) => Self::Blocked,
            (true, Pgtt::FIRST_STAGE) => Self::FirstStage {
                table: first,
                domain,
            },
            (true, Pgtt::SECOND_STAGE) => Self::SecondStage {
                table: second,
                domain,
            },
            (true, Pgtt::PASS_THROUGH) => Self::PassThrough { domain },
            (true, _) => Self::Unknown,
        }
    }
}

impl fmt::Display for SourceEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocked => f.write_str("not present"),
            Self::PassThrough { domain } => write!(f, "pass-through, domain {domain}"),
            Self::FirstStage { table, domain } => {
                write!(f, "first stage at {table}, domain {domain}")
            }
            Self::SecondStage { table, domain } => {
                write!(f, "second stage at {table}, domain {domain}")
            }
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl<P: Platform> IntelVtd<P> {
    /// What the entry of a device says as it stands in memory; `None` for a stream that is not a
    /// source id.
    ///
    /// Context: may block.
    #[must_use]
    pub fn source_entry(&self, stream: StreamId) -> Option<SourceEntry> {
        let source = SourceId::try_from(stream).ok()?;
        let state = self.inner.state.lock();
        Some(match state.tables.seat(source) {
            None => SourceEntry::Blocked,
            Some(Seat::Context(site)) => ContextEntry::from_words(site.load()).into(),
            Some(Seat::Pasids(pasids)) => pasids.find(0).map_or(SourceEntry::Blocked, |site| {
                PasidEntry::from_words(site.load()).into()
            }),
        })
    }
}
