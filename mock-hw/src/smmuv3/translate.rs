//! From a transaction to an address (3.3, 3.4, 7.3.22).

use iommu_core::PhysAddr;

use super::State;
use super::bits::mask;
use super::claims::Signature;
use super::config::{Context, Stage1, Stage2, Tables};
use super::decode::Ste;
use super::events::{Class, Fault, Kind, Transaction};
use super::tlb::{Content, Entry, Leaf, Space, Tag};
use super::walk::{Limits, Permissions, Stage1Permissions, Step};
use crate::device::Access;

/// Why a transaction does not go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// Refused; nobody is told.
    Silent,
    /// Refused, with a record.
    Record(Fault),
    /// Waits for software, with a record.
    Stall(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Record(fault)
    }
}

/// A step of a translation: what its faults have in common.
#[derive(Clone, Copy)]
struct Walker {
    stage2: bool,
    class: Class,
    /// The intermediate address, at stage 2.
    address: u64,
}

impl Walker {
    fn fault(self, kind: Kind) -> Fault {
        let Self {
            stage2,
            class,
            address,
        } = self;
        Fault::Walk {
            kind,
            class,
            stage2,
            address,
        }
    }

    /// A descriptor at `address` could not be fetched. Stage 1 says that it was a table's.
    fn abort(self, address: u64) -> Fault {
        let class = if self.stage2 {
            self.class
        } else {
            Class::Table
        };
        Self {
            class,
            address,
            ..self
        }
        .fault(Kind::Abort)
    }
}

/// The leaf at the end of a walk.
struct Found {
    output: u64,
    descriptor: u64,
    limits: Limits,
    level: u32,
    /// Its size as a power of two.
    bits: u32,
}

impl State {
    /// Translates a transaction; the SMMU is enabled.
    pub(super) fn translate(&mut self, t: &mut Transaction) -> Result<u64, Stop> {
        self.remember_stream(t.stream);
        let ste = self.ste(t.stream)?;
        t.privileged = ste.privileged;
        if !ste.passes {
            return Err(Stop::Silent);
        }
        self.translate_by(&ste, t).map(|leaf| leaf.output)
    }

    /// Translates a transaction by an entry that lets something pass.
    pub(super) fn translate_by(&mut self, ste: &Ste, t: &Transaction) -> Result<Leaf, Stop> {
        let index = context_index(ste, t.substream)?;
        let Some((stage1, index)) = ste.stage1.as_ref().zip(index) else {
            return self.without_stage1(ste, t);
        };
        let (cd, signature) = self
            .cd(t, ste, stage1, index)
            .map_err(|fault| configured(fault, ste, None))?;
        self.claim_stage1(stage1, cd.asid, ste.stage2.is_some(), signature);
        self.virtual_address(t, ste, stage1, &cd)
            .map_err(|fault| configured(fault, ste, Some(&cd)))
    }

    /// Translates a transaction by stage 2, if there is one, and by nothing else.
    pub(super) fn without_stage1(&mut self, ste: &Ste, t: &Transaction) -> Result<Leaf, Stop> {
        self.bypass_stage1(t, ste)
            .map_err(|fault| configured(fault, ste, None))
    }

    fn bypass_stage1(&mut self, t: &Transaction, ste: &Ste) -> Result<Leaf, Fault> {
        let walker = Walker {
            stage2: false,
            class: Class::Input,
            address: 0,
        };
        let bits = match ste.stage2 {
            Some(_) => self.config.intermediate_bits(),
            None => self.config.output_bits(),
        };
        if t.iova >> bits != 0 {
            return Err(walker.fault(Kind::AddressSize));
        }
        let Some(stage2) = &ste.stage2 else {
            return Ok(Leaf {
                output: t.iova,
                intermediate: t.iova,
                stage1: Stage1Permissions::ALL,
                stage2: Permissions::ALL,
            });
        };
        let walker = Walker {
            stage2: true,
            address: t.iova,
            ..walker
        };
        let leaf = self.stage2_leaf(t, stage2, ste.signature, walker)?;
        check_stage2(walker, leaf.stage2, t.access)?;
        self.remember(t);
        Ok(leaf)
    }

    /// The address of something that stage 1 reads for itself.
    pub(super) fn intermediate(
        &mut self,
        t: &Transaction,
        (stage2, signature): (&Stage2, Signature),
        address: u64,
        class: Class,
    ) -> Result<u64, Fault> {
        let walker = Walker {
            stage2: true,
            class,
            address,
        };
        let leaf = self.stage2_leaf(t, stage2, signature, walker)?;
        check_stage2(walker, leaf.stage2, Access::Read)?;
        Ok(leaf.output)
    }

    /// The stage 2 translation of `walker.address`, from the TLB or the tables.
    fn stage2_leaf(
        &mut self,
        t: &Transaction,
        stage2: &Stage2,
        signature: Signature,
        walker: Walker,
    ) -> Result<Leaf, Fault> {
        self.claim_stage2(stage2, signature);
        let address = walker.address;
        if address >> stage2.tables.input_bits != 0 {
            return Err(walker.fault(Kind::Translation));
        }
        let tag = Tag {
            space: Space::Intermediate,
            hypervisor: false,
            vmid: stage2.vmid,
            asid: None,
        };
        if let Some(leaf) = self.known_leaf(&tag, address) {
            return Ok(leaf);
        }
        let found = self.walk(t, &stage2.tables, &tag, address, None, walker)?;
        if found.descriptor & 1 << 10 == 0 && !stage2.ignore_access_flag {
            return Err(walker.fault(Kind::AccessFlag));
        }
        let base = address & !mask(found.bits);
        let leaf = Leaf {
            output: found.output,
            intermediate: base,
            stage1: Stage1Permissions::ALL,
            stage2: Permissions::of_stage2(found.descriptor),
        };
        self.tlb.insert(Entry {
            tag,
            global: false,
            base,
            bits: found.bits,
            span_bits: found.bits,
            granule_bits: stage2.tables.granule_bits,
            level: found.level,
            content: Content::Leaf(leaf),
        });
        let offset = address & mask(found.bits);
        Ok(Leaf {
            output: leaf.output | offset,
            intermediate: address,
            ..leaf
        })
    }

    /// What the TLB knows about an address. Where it knows two things, that is noted, and the older
    /// one holds.
    fn known_leaf(&mut self, tag: &Tag, address: u64) -> Option<Leaf> {
        let sizes_may_change = self.config.sizes_may_change();
        let (leaf, conflict) = self.tlb.leaf(tag, address, sizes_may_change)?;
        if conflict {
            self.violation_once(format!(
                "the TLB has conflicting translations of {address:#x} for {tag:x?}"
            ));
        }
        Some(leaf)
    }

    fn virtual_address(
        &mut self,
        t: &Transaction,
        ste: &Ste,
        stage1: &Stage1,
        cd: &Context,
    ) -> Result<Leaf, Fault> {
        let walker = Walker {
            stage2: false,
            class: Class::Input,
            address: 0,
        };
        let (tables, high, va) = select(cd, t.iova).ok_or(walker.fault(Kind::Translation))?;
        let tag = Tag {
            space: Space::Virtual,
            hypervisor: stage1.hypervisor,
            vmid: stage1.vmid,
            asid: (!stage1.hypervisor).then_some((cd.asid, cd.private_asid)),
        };
        let leaf = match self.known_leaf(&tag, va) {
            Some(leaf) => leaf,
            None => self.virtual_leaf(t, ste, cd, (&tables, high), &tag, va, walker)?,
        };
        let allowed = leaf.stage1.write || t.access == Access::Read;
        // The hypervisor's regime has one level of privilege only.
        if !allowed || !(leaf.stage1.unprivileged || t.privileged || stage1.hypervisor) {
            return Err(walker.fault(Kind::Permission));
        }
        let walker = Walker {
            stage2: true,
            address: leaf.intermediate,
            ..walker
        };
        check_stage2(walker, leaf.stage2, t.access)?;
        self.remember(t);
        Ok(leaf)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "all that a lookup has found out so far"
    )]
    fn virtual_leaf(
        &mut self,
        t: &Transaction,
        ste: &Ste,
        cd: &Context,
        (tables, high): (&Tables, bool),
        tag: &Tag,
        va: u64,
        walker: Walker,
    ) -> Result<Leaf, Fault> {
        let stage2 = ste.stage2.as_ref().map(|stage2| (stage2, ste.signature));
        let found = self.walk(t, tables, tag, va, stage2, walker)?;
        if found.descriptor & 1 << 10 == 0 && !cd.ignore_access_flag {
            return Err(walker.fault(Kind::AccessFlag));
        }
        let limits = if cd.ignore_table_limits[usize::from(high)] {
            Limits::default()
        } else {
            found.limits
        };
        let stage1 = Stage1Permissions::of(found.descriptor, limits);
        let intermediate = found.output | va & mask(found.bits);
        // Stage 1 refuses before stage 2 is looked at.
        let write = t.access == Access::Write;
        if write && !stage1.write || !(stage1.unprivileged || t.privileged || tag.hypervisor) {
            return Err(walker.fault(Kind::Permission));
        }
        let (output, bits, stage2) = match &ste.stage2 {
            None => (intermediate, found.bits, Permissions::ALL),
            Some(stage2) => {
                let walker = Walker {
                    stage2: true,
                    address: intermediate,
                    ..walker
                };
                let leaf = self.stage2_leaf(t, stage2, ste.signature, walker)?;
                // Pages this small are in any stage 2; what is larger is not worth knowing here.
                let bits = found.bits.min(stage2.tables.granule_bits);
                (leaf.output, bits, leaf.stage2)
            }
        };
        let leaf = Leaf {
            output,
            intermediate,
            stage1,
            stage2,
        };
        self.tlb.insert(Entry {
            tag: *tag,
            global: tag.asid.is_some() && found.descriptor & 1 << 11 == 0,
            base: va & !mask(bits),
            bits,
            span_bits: found.bits,
            granule_bits: tables.granule_bits,
            level: found.level,
            content: Content::Leaf(Leaf {
                output: output & !mask(bits),
                intermediate: intermediate & !mask(bits),
                ..leaf
            }),
        });
        Ok(leaf)
    }

    /// Walks tables from the last one that the TLB knows.
    fn walk(
        &mut self,
        t: &Transaction,
        tables: &Tables,
        tag: &Tag,
        input: u64,
        nested: Option<(&Stage2, Signature)>,
        walker: Walker,
    ) -> Result<Found, Fault> {
        let root = (tables.root.0, tables.start_level, Limits::default());
        let known = self.tlb.table(tag, input, tables.granule_bits);
        let (mut table, mut level, mut limits) = known.unwrap_or(root);
        loop {
            let mut at = tables.descriptor(table, level, input);
            if let Some(stage2) = nested {
                at = self.intermediate(t, stage2, at, Class::Table)?;
            }
            let descriptor = self
                .memory
                .read_word(PhysAddr(at))
                .map_err(|_| walker.abort(at))?;
            let bits = tables.shift(level);
            match tables
                .decode(level, descriptor)
                .map_err(|kind| walker.fault(kind))?
            {
                Step::Leaf(output) => {
                    return Ok(Found {
                        output,
                        descriptor,
                        limits,
                        level,
                        bits,
                    });
                }
                Step::Table(next) => {
                    limits = limits.and(descriptor);
                    self.tlb.insert(Entry {
                        tag: *tag,
                        global: false,
                        base: input & !mask(bits),
                        bits,
                        span_bits: bits,
                        granule_bits: tables.granule_bits,
                        level,
                        content: Content::Table { next, limits },
                    });
                    (table, level) = (next, level + 1);
                }
            }
        }
    }
}

/// Which context descriptor a transaction uses; `None` where it bypasses stage 1 (5.2, S1DSS).
fn context_index(ste: &Ste, substream: Option<u32>) -> Result<Option<u32>, Fault> {
    match (&ste.stage1, substream) {
        (None, None) => Ok(None),
        (None, Some(id)) => Err(Fault::BadSubstreamId(id)),
        (Some(stage1), Some(id)) if id >> stage1.context_bits != 0 || stage1.context_bits == 0 => {
            Err(Fault::BadSubstreamId(id))
        }
        (Some(stage1), Some(0)) if stage1.default_substream == 2 => Err(Fault::StreamDisabled),
        (Some(_), Some(id)) => Ok(Some(id)),
        (Some(stage1), None) => match (stage1.context_bits, stage1.default_substream) {
            (0, _) | (_, 2) => Ok(Some(0)),
            (_, 1) => Ok(None),
            _ => Err(Fault::StreamDisabled),
        },
    }
}

/// The tables for an address, whether they are the upper ones, and the address as they take it; none
/// where it is in neither range (3.4.1).
fn select(cd: &Context, iova: u64) -> Option<(Tables, bool, u64)> {
    let high = iova & 1 << 55 != 0;
    let tables = if high { cd.high } else { cd.low }?;
    let sign = if high { u64::MAX } else { 0 };
    let top = if cd.ignore_top_byte[usize::from(high)] {
        56
    } else {
        64
    };
    let va = iova & mask(top) | sign & !mask(top);
    ((va ^ sign) >> tables.input_bits == 0).then_some((tables, high, va))
}

fn check_stage2(walker: Walker, allowed: Permissions, access: Access) -> Result<(), Fault> {
    let allowed = match access {
        Access::Read => allowed.read,
        Access::Write => allowed.write,
    };
    if allowed {
        Ok(())
    } else {
        Err(walker.fault(Kind::Permission))
    }
}

/// What the fault bits of the stage that refused make of a fault (5.5).
fn configured(fault: Fault, ste: &Ste, cd: Option<&Context>) -> Stop {
    if !fault.is_configurable() {
        return Stop::Record(fault);
    }
    let (record, stall) = match (fault, &ste.stage2, cd) {
        (Fault::Walk { stage2: true, .. }, Some(stage2), _) => (stage2.record, stage2.stall),
        (Fault::Walk { stage2: false, .. }, _, Some(cd)) => (cd.record, cd.stall),
        _ => (true, false),
    };
    match (stall, record) {
        (true, _) => Stop::Stall(fault),
        (false, true) => Stop::Record(fault),
        (false, false) => Stop::Silent,
    }
}
