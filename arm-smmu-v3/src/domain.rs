//! Paging domains: the tag that their translations carry in the TLB, and what entries say of them.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU16, Ordering, fence};

use iommu_core::entry::Target;
use iommu_core::pgtable::Unmapped;
use iommu_core::{AddrRange, DmaBlock, DmaMemory, Error, ErrorKind, Iova, Platform, Result};
use lock_api::Mutex;

use crate::ats::AtcSet;
use crate::entries::{self, Table};
use crate::gather::Scope;
use crate::smmu::Inner;
use crate::spec::commands::Command;
use crate::spec::ste::Ste;
use crate::write::{SteTarget, WithAts};

/// A paging domain of one SMMU, apart from its page table.
pub(crate) struct PagingDomain<P: Platform> {
    smmu: Arc<Inner<P>>,
    tag: Tag<P::Memory>,
    /// What the STE of an attached stream says.
    ste: SteTarget,
    /// The same with ATS, where the SMMU has that.
    ste_with_ats: Option<SteTarget>,
    /// The devices that may have translations of this domain in their caches.
    atcs: Arc<AtcSet<P::IrqLock>>,
    /// What its translations are invalidated by.
    scope: Scope,
    input_bits: u8,
    /// How many devices are attached, or about to be, or were and could not be moved for certain.
    /// Held by whoever has to be alone with the domain.
    pub(crate) users: Mutex<P::BlockingLock, usize>,
}

/// What the domain's translations carry in the TLB.
enum Tag<M: DmaMemory> {
    Stage1 {
        cd: DmaBlock<M>,
        asid: u16,
        /// The VMID of the stage-2 domain that a device is moved from or to, 0 for none: meanwhile
        /// translations are tagged with that too.
        also: AtomicU16,
    },
    Stage2 {
        vmid: u16,
    },
}

impl<P: Platform> PagingDomain<P> {
    /// Over a table of stage 1.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSpace`] without an ASID, [`ErrorKind::OutOfMemory`] and
    /// [`ErrorKind::OutOfRange`] for the CD.
    pub(crate) fn stage1(smmu: &Arc<Inner<P>>, table: Table) -> Result<Self> {
        let (features, walk) = (&smmu.features, smmu.walk);
        let memory = smmu.hardware.platform.memory();
        let cd = DmaBlock::new(memory, 64, 64, "a context descriptor")?;
        let cd = cd.below(features.output_bits.into())?;
        let asid = smmu.asids.allocate()?;
        let words = entries::cd(features, walk, table, asid).to_words();
        // No STE points to the CD yet, so it needs no order and no invalidation (3.21.3).
        for (index, word) in words.into_iter().enumerate() {
            cd.store(index, word);
        }
        let ste = entries::stage1(features, walk, cd.addr());
        let commands = (Command::tlbi_va(asid, Iova(0)), Command::tlbi_asid(asid));
        let tag = Tag::Stage1 {
            cd,
            asid,
            also: AtomicU16::new(0),
        };
        Self::over(smmu, table, tag, commands, &ste)
    }

    /// Over a table of stage 2.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSpace`] without a VMID.
    pub(crate) fn stage2(smmu: &Arc<Inner<P>>, table: Table) -> Result<Self> {
        let vmid = smmu.vmids.allocate()?;
        let ste = entries::stage2(&smmu.features, smmu.walk, table, vmid);
        let commands = (Command::tlbi_ipa(vmid, Iova(0)), Command::tlbi_vmid(vmid));
        Self::over(smmu, table, Tag::Stage2 { vmid }, commands, &ste)
    }

    /// With the commands that invalidate address 0 and everything.
    fn over(
        smmu: &Arc<Inner<P>>,
        table: Table,
        tag: Tag<P::Memory>,
        (by_address, by_tag): (Command, Command),
        ste: &Ste,
    ) -> Result<Self> {
        let features = &smmu.features;
        let with_ats = features.ats.then(|| {
            let word1 = ste.word1.with_eats(Ste::FULL_ATS);
            Target::new(Ste { word1, ..*ste }.to_words())
        });
        let ranges = features.range_invalidation;
        Ok(Self {
            smmu: smmu.clone(),
            ste: Target::new(ste.to_words())?,
            ste_with_ats: with_ats.transpose()?,
            atcs: Arc::new(AtcSet::new()),
            scope: Scope::new(by_address, by_tag, table.granule, ranges),
            input_bits: table.input_bits,
            tag,
            users: Mutex::new(0),
        })
    }

    /// The bits of addresses: of those that can be mapped, and of those that can be mapped to.
    pub(crate) fn bits(&self) -> (u8, u8) {
        (self.input_bits, self.smmu.features.output_bits)
    }

    /// The CPU this runs on.
    #[inline(always)]
    pub(crate) fn current_cpu(&self) -> usize {
        self.smmu.hardware.platform.current_cpu()
    }

    pub(crate) fn belongs_to(&self, smmu: &Arc<Inner<P>>) -> bool {
        Arc::ptr_eq(&self.smmu, smmu)
    }

    pub(crate) fn ste(&self) -> &SteTarget {
        &self.ste
    }

    /// What the STE of an attached stream says whose device has ATS, where the SMMU has that.
    pub(crate) fn with_ats(&self) -> Option<WithAts<'_, P>> {
        self.ste_with_ats.as_ref().map(|target| WithAts {
            target,
            set: &self.atcs,
        })
    }

    /// The VMID of a stage-2 domain.
    pub(crate) fn vmid(&self) -> Option<u16> {
        match self.tag {
            Tag::Stage1 { .. } => None,
            Tag::Stage2 { vmid } => Some(vmid),
        }
    }

    /// Tags this stage-1 domain's translations may carry from here on, besides its own: those with
    /// `vmid`. Returns whether that could be had: one at a time.
    pub(crate) fn tag_also(&self, vmid: u16) -> bool {
        let Tag::Stage1 { also, .. } = &self.tag else {
            return false;
        };
        let claimed = also.compare_exchange(0, vmid, Ordering::SeqCst, Ordering::SeqCst);
        // Whoever unmaps either sees it, or has cleared its descriptors before anything can be
        // translated under the tag.
        fence(Ordering::SeqCst);
        claimed.is_ok()
    }

    /// No translation carries the VMID any more, and the TLB holds none.
    pub(crate) fn tag_no_more(&self) {
        if let Tag::Stage1 { also, .. } = &self.tag {
            also.store(0, Ordering::SeqCst);
        }
    }

    /// What else is to be invalidated with what carries the domain's tag.
    fn invalidate_also(&self) -> Option<Command> {
        fence(Ordering::SeqCst);
        match &self.tag {
            Tag::Stage1 { also, .. } => match also.load(Ordering::SeqCst) {
                0 => None,
                vmid => Some(Command::tlbi_vmid(vmid)),
            },
            Tag::Stage2 { .. } => None,
        }
    }

    /// Invalidates what the TLB and devices may hold of a page of `len` bytes, and waits for it.
    #[inline(always)]
    pub(crate) fn forget_page(&self, iova: Iova, len: u64) -> Result {
        let Command([first, second]) = self.scope.page(iova);
        if self.invalidate_also().is_some() || !self.atcs.is_empty() {
            return self.forget_page_everywhere(iova, len);
        }
        let done = self.smmu.invalidate_one(first, second);
        // Somebody may have come meanwhile; the TLB is done with then.
        match done.is_ok() && self.atcs.is_empty() {
            true => Ok(()),
            false => self.forget_page_at_devices(iova, len, done),
        }
    }

    #[cold]
    #[inline(never)]
    fn forget_page_everywhere(&self, iova: Iova, len: u64) -> Result {
        self.end_translations([self.scope.page(iova)], AddrRange::page(iova.0, len))
    }

    #[cold]
    #[inline(never)]
    fn forget_page_at_devices(&self, iova: Iova, len: u64, done: Result) -> Result {
        done?;
        let range = AddrRange::page(iova.0, len);
        self.smmu.end_at_devices(&self.atcs, range)
    }

    /// The same of whatever was changed.
    pub(crate) fn forget(&self, changed: &Unmapped) -> Result {
        self.end_translations(self.scope.of(changed), changed.range())
    }

    /// The same of everything.
    pub(crate) fn flush(&self) -> Result {
        self.end_translations([self.scope.by_tag], AddrRange::EVERYTHING)
    }

    /// Has the TLB forget the domain when no stream is on it any more, and gives the tag back. Where
    /// that fails, neither it nor what hardware reads is ever used again.
    pub(crate) fn end(&self) -> Result {
        let commands = [self.scope.by_tag].into_iter();
        let clean = self.smmu.invalidate(commands.chain(self.invalidate_also()));
        match (&clean, &self.tag) {
            (Ok(()), Tag::Stage1 { asid, .. }) => self.smmu.asids.free(*asid),
            (Ok(()), Tag::Stage2 { vmid }) => self.smmu.vmids.free(*vmid),
            (Err(_), Tag::Stage1 { cd, .. }) => cd.leak(),
            (Err(_), Tag::Stage2 { .. }) => {}
        }
        clean
    }

    fn end_translations(
        &self,
        commands: impl IntoIterator<Item = Command>,
        range: AddrRange,
    ) -> Result {
        match self.invalidate_also() {
            None => self.smmu.end_translations(&self.atcs, commands, range),
            Some(also) => self.end_translations_of_both(commands, also, range),
        }
    }

    #[cold]
    #[inline(never)]
    fn end_translations_of_both(
        &self,
        commands: impl IntoIterator<Item = Command>,
        also: Command,
        range: AddrRange,
    ) -> Result {
        let commands = commands.into_iter().chain(Some(also));
        self.smmu.end_translations(&self.atcs, commands, range)
    }
}

/// The domain is not this SMMU's.
pub(crate) fn foreign() -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        "the domain belongs to another IOMMU",
    )
}
