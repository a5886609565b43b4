//! What becomes of a class of transactions, as far as software can tell.

use std::fmt;

use super::super::bits::{bit, field, span};
use super::super::config::Stage1;
use super::super::decode;
use super::super::settings::ModelConfig;
use super::fields::{self, Reading};

/// Why a structure is not valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Invalid {
    /// V is 0.
    Unset,
    /// V is 1, and this is wrong.
    Illegal(&'static str),
}

/// What becomes of transactions of one class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Behaviour {
    /// Refused, and nobody is told.
    Aborted,
    /// Refused, with a record of this.
    Faulted(Event),
    /// Not translated.
    Bypassed {
        /// See [`fields::attributes`].
        attributes: [u64; 4],
    },
    /// Translated by one stage or two.
    Translated {
        /// See [`fields::attributes`].
        attributes: [u64; 4],
        stage1: Option<Translation>,
        /// See [`fields::stage2`].
        stage2: Option<[u64; 5]>,
    },
}

/// A record of a refusal whatever the address (7.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// `C_BAD_STE`: V is 0.
    InvalidEntry,
    /// `C_BAD_SUBSTREAMID`: out of range, or there are no substreams.
    NoSubstream,
    /// `C_BAD_CD` since V is 0, or `C_BAD_SUBSTREAMID` for a first level that leads nowhere. It is one
    /// and the same to have no descriptor and to have no table for it.
    NoDescriptor,
    /// `F_STREAM_DISABLED`: excluded by S1DSS.
    Disabled,
}

/// A stage 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Translation {
    pub(super) hypervisor: bool,
    pub(super) vmid: u16,
    pub(super) context: Source,
}

/// A context descriptor that is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// See [`fields::stage1`].
    Words([u64; 8]),
    /// It is behind stage 2, where its owner writes it: what identifies it stands for it.
    Guest(Guest),
}

/// A context descriptor behind stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Guest {
    /// The intermediate address of the table.
    pub(super) table: u64,
    pub(super) format: u8,
    pub(super) index: u32,
    /// The stage 2 that translates it.
    pub(super) vmid: u16,
    pub(super) root: u64,
}

/// What becomes of ATS Translation Requests of one class (3.9.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// Unsupported Request; with F_BAD_ATS_TREQ unless all is aborted silently.
    Denied,
    /// Answered as EATS says, from what ordinary transactions see. Their refusal is a Completer Abort.
    Given { eats: u8, from: Behaviour },
}

/// Where a class of transactions goes after the stream table entry.
pub(super) enum Route {
    Settled(Behaviour),
    /// To this context descriptor.
    Context(u32),
}

/// A valid stream table entry, decoded.
pub(super) struct Entry {
    pub(super) stage1: Option<Stage1>,
    stage2: Option<[u64; 5]>,
    passes: bool,
    /// EATS as it is in force, if there is ATS at all.
    eats: Option<u8>,
    vmid: u16,
    /// S1MPAM, where there is MPAM.
    partition: bool,
    /// What holds where stage 1 is in use, and where it is not.
    attributes: [[u64; 4]; 2],
}

impl Entry {
    pub(super) fn read(ids: &ModelConfig, words: &[u64; 8]) -> Result<Self, Invalid> {
        if !bit(words, 0) {
            return Err(Invalid::Unset);
        }
        let ste = decode::stream_table_entry(ids, words).map_err(Invalid::Illegal)?;
        if field(words, 80, 77) != 0 {
            return Err(Invalid::Illegal("CONT is in use, which is not modelled"));
        }
        let (one, two) = (ste.stage1.is_some(), ste.stage2.is_some());
        if let Some(stage1) = &ste.stage1 {
            check_alignment(stage1).map_err(Invalid::Illegal)?;
        }
        let vmid = ste
            .stage1
            .map(|of| of.vmid)
            .or(ste.stage2.map(|of| of.vmid));
        let stage2 = ste.stage2.as_ref();
        let stage2 = stage2.map(|of| fields::stage2(ids, words, of, one));
        Ok(Self {
            stage1: ste.stage1,
            stage2,
            passes: ste.passes,
            eats: ids.has_ats().then_some(ste.eats),
            vmid: vmid.unwrap_or(0),
            partition: ids.idr3_bit(7) && bit(words, 90),
            attributes: [false, one]
                .map(|one| fields::attributes(ids, words, (one, two), ste.eats)),
        })
    }

    /// Where transactions with this substream go (3.3.2, 5.2 S1CDMax and S1DSS).
    pub(super) fn route(&self, substream: Option<u32>) -> Route {
        let fault = |event| Route::Settled(Behaviour::Faulted(event));
        if !self.passes {
            return Route::Settled(Behaviour::Aborted);
        }
        match (&self.stage1, substream) {
            (None, None) => Route::Settled(self.without_stage1()),
            (None, Some(_)) => fault(Event::NoSubstream),
            (Some(one), Some(id)) if one.context_bits == 0 || id >> one.context_bits != 0 => {
                fault(Event::NoSubstream)
            }
            (Some(one), Some(0)) if one.default_substream == 2 => fault(Event::Disabled),
            (Some(_), Some(id)) => Route::Context(id),
            (Some(one), None) => match (one.context_bits, one.default_substream) {
                (0, _) | (_, 2) => Route::Context(0),
                (_, 1) => Route::Settled(self.without_stage1()),
                _ => fault(Event::Disabled),
            },
        }
    }

    fn without_stage1(&self) -> Behaviour {
        let [attributes, _] = self.attributes;
        match self.stage2 {
            None => Behaviour::Bypassed { attributes },
            stage2 => Behaviour::Translated {
                attributes,
                stage1: None,
                stage2,
            },
        }
    }

    /// What becomes of transactions that use this context descriptor.
    pub(super) fn translated(&self, context: Source) -> Behaviour {
        let stage1 = self.stage1.map(|of| Translation {
            hypervisor: of.hypervisor,
            vmid: of.vmid,
            context,
        });
        Behaviour::Translated {
            attributes: self.attributes[1],
            stage1,
            stage2: self.stage2,
        }
    }

    /// How context descriptors are read.
    pub(super) fn reading(&self) -> Option<Reading> {
        self.stage1.map(|of| Reading {
            hypervisor: of.hypervisor,
            stall_disabled: of.stall_disabled,
            indirection: of.permission_indirection,
            partition: self.partition,
        })
    }

    /// What a context descriptor with these words is here.
    pub(super) fn context(&self, ids: &ModelConfig, cd: &[u64; 8]) -> Result<Source, Invalid> {
        let (Some(stage1), Some(reading)) = (&self.stage1, self.reading()) else {
            return Err(Invalid::Unset);
        };
        if !bit(cd, 31) {
            return Err(Invalid::Unset);
        }
        let decoded = decode::context(ids, stage1, cd).map_err(Invalid::Illegal)?;
        Ok(Source::Words(fields::stage1(ids, reading, cd, &decoded)))
    }

    /// The descriptor number `index` where stage 2 hides it.
    pub(super) fn guest(&self, index: u32) -> Option<Guest> {
        let (stage1, stage2) = (self.stage1?, self.stage2?);
        Some(Guest {
            table: stage1.context.0,
            format: stage1.format,
            index,
            vmid: self.vmid,
            root: stage2[2],
        })
    }

    /// What becomes of the Translation Requests of a class whose transactions fare like this; none
    /// without ATS.
    pub(super) fn answer(&self, behaviour: &Behaviour) -> Option<Answer> {
        Some(match self.eats? {
            0 => Answer::Denied,
            eats => Answer::Given {
                eats,
                from: behaviour.without_fault_bits(),
            },
        })
    }
}

/// Bits of S1ContextPtr that its configuration makes RES0 make hardware read anything (5.2, S1Fmt).
fn check_alignment(stage1: &Stage1) -> Result<(), &'static str> {
    let bits = stage1.context_bits;
    let align = match stage1.format {
        0 => bits + 6,
        1 => (bits.max(6) - 6 + 3).max(6),
        _ => (bits.max(10) - 10 + 3).max(6),
    };
    if span(&[stage1.context.0], align - 1, 0) == 0 {
        Ok(())
    } else {
        Err("S1ContextPtr is not aligned to its table")
    }
}

impl Behaviour {
    /// A, R and S do not matter where no fault is reported.
    fn without_fault_bits(mut self) -> Self {
        if let Self::Translated { stage1, stage2, .. } = &mut self {
            if let Some(Translation {
                context: Source::Words(cd),
                ..
            }) = stage1
            {
                cd[0] &= !(0b111 << 44);
            }
            if let Some(stage2) = stage2 {
                stage2[1] &= !(0b11 << 57);
            }
        }
        self
    }
}

impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (attributes, stage1, stage2) = match self {
            Self::Aborted => return f.write_str("aborted silently"),
            Self::Faulted(event) => return write!(f, "refused with {event}"),
            Self::Bypassed { attributes } => {
                f.write_str("passed untranslated")?;
                (attributes, &None, &None)
            }
            Self::Translated {
                attributes,
                stage1,
                stage2,
            } => (attributes, stage1, stage2),
        };
        if let Some(of) = stage1 {
            let (regime, vmid) = (if of.hypervisor { "NS-EL2" } else { "NS-EL1" }, of.vmid);
            write!(f, "translated by stage 1 ({regime}, VMID {vmid:#x}, ")?;
            match &of.context {
                Source::Words(cd) => {
                    let (asid, ttb) = (cd[0] >> 48, [cd[1], cd[2]]);
                    write!(f, "ASID {asid:#x}, TTB {ttb:x?}, control {:#x}", cd[0])?;
                }
                Source::Guest(guest) => write!(f, "{guest:x?}")?,
            }
            f.write_str(")")?;
        }
        if let Some(words) = stage2 {
            let (vmid, root, control) = (words[1] & fields::VMID, words[2], words[1]);
            let and = if stage1.is_some() {
                ", and"
            } else {
                "translated"
            };
            write!(
                f,
                "{and} by stage 2 (VMID {vmid:#x}, TTB {root:#x}, control {control:#x})"
            )?;
        }
        if *attributes != [0; 4] {
            write!(f, ", attributes {attributes:x?}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidEntry => "C_BAD_STE",
            Self::NoSubstream => "C_BAD_SUBSTREAMID",
            Self::NoDescriptor => "C_BAD_CD or C_BAD_SUBSTREAMID",
            Self::Disabled => "F_STREAM_DISABLED",
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str("denied"),
            Self::Given { eats, from } => write!(f, "answered (EATS {eats}) from: {from}"),
        }
    }
}
