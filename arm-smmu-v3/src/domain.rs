//! Paging domains: a page table, and the tag its translations carry in the TLB.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU16, Ordering, fence};

use iommu_core::entry::Target;
use iommu_core::pgtable::{Format, PageTable, Stage1, Stage2, Undisturbed, Unmapped, Walker};
use iommu_core::{
    AddrRange, DmaBlock, DmaMemory, Error, ErrorKind, Flush, Geometry, Iova, MapError,
    PagingConfig, PagingOps, PhysAddr, Platform, Prot, Result, Stage,
};
use lock_api::Mutex;

use crate::ats::AtcSet;
use crate::entries::{self, Table};
use crate::features::Features;
use crate::gather::Scope;
use crate::smmu::Inner;
use crate::spec::commands::Command;
use crate::spec::ste::Ste;
use crate::write::{SteTarget, WithAts};

/// The smallest page.
const PAGE_SIZE: u64 = 4096;

/// A paging domain of one SMMU.
pub(crate) struct PagingDomain<P: Platform> {
    smmu: Arc<Inner<P>>,
    tables: Tables<P>,
    /// What the STE of an attached stream says.
    ste: SteTarget,
    /// The same with ATS, where the SMMU has that.
    ste_with_ats: Option<SteTarget>,
    /// The devices that may have translations of this domain in their caches.
    atcs: Arc<AtcSet<P::IrqLock>>,
    /// What its translations are invalidated by.
    scope: Scope,
    geometry: Geometry,
    /// How many devices are attached, or about to be, or were and could not be moved for certain.
    /// Held by whoever has to be alone with the domain.
    pub(crate) users: Mutex<P::BlockingLock, usize>,
}

enum Tables<P: Platform> {
    Stage1 {
        table: PageTable<P::Memory, Stage1>,
        cd: DmaBlock<P::Memory>,
        asid: u16,
        /// The VMID of the stage-2 domain that a device is moved from or to, 0 for none: meanwhile
        /// translations are tagged with that too.
        also: AtomicU16,
    },
    Stage2 {
        table: PageTable<P::Memory, Stage2>,
        vmid: u16,
    },
}

/// `$result` with `$table` for the page table of either stage.
macro_rules! with_table {
    ($domain:expr, $table:ident => $result:expr) => {
        match &$domain.tables {
            Tables::Stage1 { table: $table, .. } => $result,
            Tables::Stage2 { table: $table, .. } => $result,
        }
    };
}

impl<P: Platform> PagingDomain<P> {
    pub(crate) fn new(smmu: &Arc<Inner<P>>, config: &PagingConfig) -> Result<Self> {
        let features = &smmu.features;
        let stage1 = match config.stage {
            Stage::Any => features.stage1,
            Stage::First if features.stage1 => true,
            Stage::Second if features.stage2 => false,
            Stage::First | Stage::Second => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "the SMMU does not have this stage",
                ));
            }
        };
        let widest = if stage1 { 48 } else { features.output_bits };
        let bits = config.input_bits.unwrap_or(widest);
        if bits > widest {
            return Err(Error::new(
                ErrorKind::OutOfRange,
                "more input bits than the SMMU has",
            ));
        }
        if stage1 {
            Self::stage1(smmu, bits)
        } else {
            Self::stage2(smmu, bits)
        }
    }

    fn stage1(smmu: &Arc<Inner<P>>, input_bits: u8) -> Result<Self> {
        let memory = smmu.hardware.platform.memory();
        let output_bits = smmu.features.output_bits.into();
        let table = new_table(&smmu.features, memory, input_bits)?;
        let cd = DmaBlock::new(memory, 64, 64, "a context descriptor")?.below(output_bits)?;
        let asid = smmu.asids.allocate()?;
        let words = entries::cd(
            &smmu.features,
            smmu.walk,
            describe(&table, input_bits),
            asid,
        )
        .to_words();
        // No STE points to the CD yet, so it needs no order and no invalidation (3.21.3).
        for (index, word) in words.into_iter().enumerate() {
            cd.store(index, word);
        }
        let ste = entries::stage1(&smmu.features, smmu.walk, cd.addr());
        let tables = Tables::Stage1 {
            table,
            cd,
            asid,
            also: AtomicU16::new(0),
        };
        Self::over(smmu, tables, &ste, input_bits)
    }

    fn stage2(smmu: &Arc<Inner<P>>, input_bits: u8) -> Result<Self> {
        let memory = smmu.hardware.platform.memory();
        let table = new_table(&smmu.features, memory, input_bits)?;
        let vmid = smmu.vmids.allocate()?;
        let ste = entries::stage2(
            &smmu.features,
            smmu.walk,
            describe(&table, input_bits),
            vmid,
        );
        let tables = Tables::Stage2 { table, vmid };
        Self::over(smmu, tables, &ste, input_bits)
    }

    fn over(smmu: &Arc<Inner<P>>, tables: Tables<P>, ste: &Ste, input_bits: u8) -> Result<Self> {
        let with_ats = smmu.features.ats.then(|| {
            let word1 = ste.word1.with_eats(Ste::FULL_ATS);
            Target::new(Ste { word1, ..*ste }.to_words())
        });
        Ok(Self {
            smmu: smmu.clone(),
            ste: Target::new(ste.to_words())?,
            ste_with_ats: with_ats.transpose()?,
            atcs: Arc::new(AtcSet::new()),
            scope: scope(&smmu.features, &tables),
            geometry: geometry(&smmu.features, &tables, input_bits),
            tables,
            users: Mutex::new(0),
        })
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
        match self.tables {
            Tables::Stage1 { .. } => None,
            Tables::Stage2 { vmid, .. } => Some(vmid),
        }
    }

    /// Tags this stage-1 domain's translations may carry from here on, besides its own: those with
    /// `vmid`. Returns whether that could be had: one at a time.
    pub(crate) fn tag_also(&self, vmid: u16) -> bool {
        let Tables::Stage1 { also, .. } = &self.tables else {
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
        if let Tables::Stage1 { also, .. } = &self.tables {
            also.store(0, Ordering::SeqCst);
        }
    }

    /// What else is to be invalidated with what carries the domain's tag.
    fn invalidate_also(&self) -> Option<Command> {
        fence(Ordering::SeqCst);
        match &self.tables {
            Tables::Stage1 { also, .. } => match also.load(Ordering::SeqCst) {
                0 => None,
                vmid => Some(Command::tlbi_vmid(vmid)),
            },
            Tables::Stage2 { .. } => None,
        }
    }

    /// Invalidates what the TLB and devices may hold of a page, and waits for it.
    #[inline(always)]
    fn invalidate_page(&self, iova: Iova) -> Result {
        let command = self.scope.page(iova);
        if self.invalidate_also().is_some() || !self.atcs.is_empty() {
            return self.invalidate_page_of_all(iova);
        }
        let done = self.smmu.invalidate_one(command);
        // Somebody may have come meanwhile; the TLB is done with then.
        match done.is_ok() && self.atcs.is_empty() {
            true => Ok(()),
            false => self.invalidate_page_at_devices(iova, done),
        }
    }

    #[cold]
    #[inline(never)]
    fn invalidate_page_of_all(&self, iova: Iova) -> Result {
        let range = AddrRange::page(iova.0, PAGE_SIZE);
        self.end_translations([self.scope.page(iova)], range)
    }

    #[cold]
    #[inline(never)]
    fn invalidate_page_at_devices(&self, iova: Iova, done: Result) -> Result {
        done?;
        let range = AddrRange::page(iova.0, PAGE_SIZE);
        self.smmu.end_at_devices(&self.atcs, range)
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

    #[inline(never)]
    fn unmap_range(&self, iova: Iova, len: u64) -> Result {
        with_table!(self, table => self.change_in(table, |walker| walker.unmap(iova, len)))
    }

    #[inline(never)]
    fn unmap_range_lazily(&self, iova: Iova, len: u64) -> Result<Flush> {
        with_table!(self, table => {
            let unmapped = self.enter(table).unmap(iova, len)?;
            match unmapped.has_tables() {
                true => self.finish(table, unmapped).map(|()| Flush::NotNeeded),
                false => Ok(Flush::Needed),
            }
        })
    }

    /// Changes mappings, has hardware forget what was there, and gives tables back.
    fn change_in<F: Format>(
        &self,
        table: &PageTable<P::Memory, F>,
        change: impl FnOnce(&Walker<'_, P::Memory, F>) -> Result<Unmapped>,
    ) -> Result {
        let changed = change(&self.enter(table))?;
        self.finish(table, changed)
    }

    fn finish<F: Format>(&self, table: &PageTable<P::Memory, F>, changed: Unmapped) -> Result {
        // Nobody waits inside. Where this fails, the tables stay.
        self.end_translations(self.scope.of(&changed), changed.range())?;
        if changed.has_tables() {
            self.enter(table).reclaim(changed);
        }
        Ok(())
    }

    #[inline(always)]
    fn enter<'a, F: Format>(&self, table: &'a PageTable<P::Memory, F>) -> Walker<'a, P::Memory, F> {
        table.enter(self.smmu.hardware.platform.current_cpu())
    }
}

fn new_table<M: DmaMemory, F: Format>(
    features: &Features,
    memory: &M,
    input_bits: u8,
) -> Result<PageTable<M, F>> {
    let table = PageTable::new(memory, input_bits.into(), features.output_bits.into())?;
    Ok(match features.live_resizing {
        true => table.with_live_resizing(),
        false => table,
    })
}

fn scope<P: Platform>(features: &Features, tables: &Tables<P>) -> Scope {
    let (by_address, by_tag) = match *tables {
        Tables::Stage1 { asid, .. } => (Command::tlbi_va(asid, Iova(0)), Command::tlbi_asid(asid)),
        Tables::Stage2 { vmid, .. } => (Command::tlbi_ipa(vmid, Iova(0)), Command::tlbi_vmid(vmid)),
    };
    Scope::new(by_address, by_tag, features.range_invalidation)
}

fn describe<M: DmaMemory, F: Format>(table: &PageTable<M, F>, input_bits: u8) -> Table {
    Table {
        root: table.root(),
        root_level: table.root_level(),
        input_bits,
    }
}

fn geometry<P: Platform>(features: &Features, tables: &Tables<P>, input_bits: u8) -> Geometry {
    let first = |bits: u8| AddrRange::inclusive(0, u64::MAX >> (64 - bits));
    Geometry {
        aperture: first(input_bits).unwrap_or(AddrRange::EVERYTHING),
        physical: first(features.output_bits).unwrap_or(AddrRange::EVERYTHING),
        page_sizes: match tables {
            Tables::Stage1 { table, .. } => table.page_sizes(),
            Tables::Stage2 { table, .. } => table.page_sizes(),
        },
    }
}

impl<P: Platform> PagingOps for PagingDomain<P> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn checks_ranges(&self) -> bool {
        true
    }

    fn map(
        &self,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
    ) -> core::result::Result<(), MapError> {
        with_table!(self, table => self.enter(table).map(iova, phys, len, prot))
    }

    #[inline(always)]
    fn map_page(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> bool {
        len == PAGE_SIZE
            && with_table!(self, table => self.enter(table).map_page(iova, phys, len, prot))
    }

    fn unmap(&self, iova: Iova, len: u64) -> Result {
        // Nobody is inside any more when the wait begins.
        let page = with_table!(self, table => self.enter(table).unmap_page(iova, len));
        match page {
            true => self.invalidate_page(iova),
            false => self.unmap_range(iova, len),
        }
    }

    fn unmap_lazily(&self, iova: Iova, len: u64) -> Result<Flush> {
        let page = with_table!(self, table => self.enter(table).unmap_page(iova, len));
        match page {
            true => Ok(Flush::Needed),
            false => self.unmap_range_lazily(iova, len),
        }
    }

    fn flush(&self) -> Result {
        self.end_translations([self.scope.by_tag], AddrRange::EVERYTHING)
    }

    fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        with_table!(self, table => self.enter(table).translate(iova))
    }

    fn protect(&self, iova: Iova, len: u64, prot: Prot) -> Result {
        with_table!(self, table => self.change_in(table, |walker| walker.protect(iova, len, prot)))
    }

    fn split(&self, iova: Iova) -> Result {
        with_table!(self, table => self.change_in(table, |walker| walker.split(iova)))
    }

    fn merge(&self, iova: Iova, size: u64, promise: Undisturbed) -> Result {
        with_table!(self, table => {
            self.change_in(table, |walker| walker.merge(iova, size, promise))
        })
    }
}

impl<P: Platform> Drop for PagingDomain<P> {
    /// No stream is attached any more, but the TLB may be full of the domain's tag. Only when that
    /// is gone are the tables and the tag free for somebody else.
    fn drop(&mut self) {
        let commands = [self.scope.by_tag].into_iter();
        let clean = self.smmu.invalidate(commands.chain(self.invalidate_also()));
        match (clean, &mut self.tables) {
            (Ok(()), Tables::Stage1 { asid, .. }) => self.smmu.asids.free(*asid),
            (Ok(()), Tables::Stage2 { vmid, .. }) => self.smmu.vmids.free(*vmid),
            (Err(error), tables) => {
                log::error!("a domain's tables and tag are never used again: {error}");
                match tables {
                    Tables::Stage1 { table, cd, .. } => {
                        cd.leak();
                        table.leak();
                    }
                    Tables::Stage2 { table, .. } => table.leak(),
                }
            }
        }
    }
}

/// The domain is not this SMMU's.
pub(crate) fn foreign() -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        "the domain belongs to another IOMMU",
    )
}
