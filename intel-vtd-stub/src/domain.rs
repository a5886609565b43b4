//! Paging domains: a page table, and the domain id its translations carry in the IOTLB.

use alloc::sync::Arc;

use iommu_core::pgtable::{
    FirstStage, Format, PageTable, SecondStage, Undisturbed, Unmapped, Walker,
};
use iommu_core::{
    AddrRange, Error, ErrorKind, Flush, Geometry, Iova, MapError, PagingConfig, PagingOps,
    PhysAddr, Platform, Prot, Result, Slot, Stage, entry,
};
use lock_api::Mutex;

use crate::features::{Features, SecondStageFeatures};
use crate::inner::Inner;
use crate::spec::{AddressWidth, ContextEntry, Descriptor, Pages, PasidEntry};
use crate::write::Target;

const PAGE_SIZE: u64 = 1 << 12;

/// First-stage tables have 4 levels; addresses with bit 47 set would have to continue it above.
const FIRST_STAGE_BITS: u8 = 47;

/// A paging domain of one unit.
pub(crate) struct PagingDomain<P: Platform> {
    inner: Arc<Inner<P>>,
    tables: Tables<P>,
    did: u16,
    /// What the entries say that are on it.
    target: Target,
    users: Mutex<P::IrqLock, Users>,
    geometry: Geometry,
}

enum Tables<P: Platform> {
    First(PageTable<P::Memory, FirstStage>),
    Second(PageTable<P::Memory, SecondStage>),
}

/// `$result` with `$table` for the page table of either stage.
macro_rules! with_table {
    ($domain:expr, $table:ident => $result:expr) => {
        match &$domain.tables {
            Tables::First($table) => $result,
            Tables::Second($table) => $result,
        }
    };
}

/// Which PASIDs translations of the domain may be tagged with beside its id: those of attachments
/// there are, or may be, or were and could not be ended for certain.
#[derive(Clone, Copy, Default)]
struct Users {
    count: usize,
    pasid: u32,
    /// Whether there were other PASIDs since there were no users.
    several: bool,
}

impl<P: Platform> PagingDomain<P> {
    pub(crate) fn new(inner: &Arc<Inner<P>>, config: &PagingConfig) -> Result<Self> {
        if config.page_size.is_some_and(|size| size != PAGE_SIZE) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the smallest page of the unit has 4 KiB",
            ));
        }
        let features = &inner.features;
        let second = features.second_stage;
        let stage = match config.stage {
            Stage::Any => inner.config.stage,
            asked => asked,
        };
        match stage {
            Stage::Any | Stage::Second if second.is_some() => {}
            Stage::Any | Stage::First if features.first_stage_pages != 0 => {
                return Self::first_stage(inner, config.input_bits);
            }
            _ => return Err(no_stage()),
        }
        let second = second.ok_or_else(no_stage)?;
        Self::second_stage(inner, config.input_bits, second)
    }

    fn first_stage(inner: &Arc<Inner<P>>, input_bits: Option<u8>) -> Result<Self> {
        let features = &inner.features;
        let bits = width(input_bits, FIRST_STAGE_BITS)?;
        let memory = inner.unit.memory();
        let table = PageTable::new(memory, FIRST_STAGE_BITS.into(), features.output_bits.into())?
            .with_page_sizes(features.first_stage_pages)
            .with_live_resizing();
        let did = inner.dids.allocate()?;
        let entry = PasidEntry::first_stage(table.root(), did);
        let target = pasid_target(features, entry)?;
        let geometry = geometry(features, bits, features.first_stage_pages);
        let tables = Tables::First(table);
        Ok(Self::over(inner, tables, did, target, geometry))
    }

    fn second_stage(
        inner: &Arc<Inner<P>>,
        input_bits: Option<u8>,
        second: SecondStageFeatures,
    ) -> Result<Self> {
        let features = &inner.features;
        let bits = width(input_bits, second.input_bits)?;
        // As few levels as will do.
        let three = second.three_levels && (bits <= 39 || !second.four_levels);
        let (table_bits, aw) = if three {
            (39, AddressWidth::BITS_39)
        } else {
            (48, AddressWidth::BITS_48)
        };
        let memory = inner.unit.memory();
        let table = PageTable::new(memory, table_bits, features.output_bits.into())?
            .with_page_sizes(second.pages)
            .with_live_resizing();
        let did = inner.dids.allocate()?;
        let target = if features.scalable {
            pasid_target(features, PasidEntry::second_stage(table.root(), aw, did))?
        } else {
            let entry = ContextEntry::translating(table.root(), aw, did);
            Target::Context(entry::Target::new(entry.to_words())?)
        };
        let geometry = geometry(features, bits, second.pages);
        let tables = Tables::Second(table);
        Ok(Self::over(inner, tables, did, target, geometry))
    }

    fn over(
        inner: &Arc<Inner<P>>,
        tables: Tables<P>,
        did: u16,
        target: Target,
        geometry: Geometry,
    ) -> Self {
        Self {
            inner: inner.clone(),
            tables,
            did,
            target,
            users: Mutex::new(Users::default()),
            geometry,
        }
    }

    pub(crate) fn belongs_to(&self, inner: &Arc<Inner<P>>) -> bool {
        Arc::ptr_eq(&self.inner, inner)
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// From here on, translations may be tagged with the PASID of `slot`.
    pub(crate) fn hold(&self, slot: Slot) {
        let users = &mut *self.users.lock();
        let pasid = pasid_of(slot);
        if users.count == 0 {
            (users.pasid, users.several) = (pasid, false);
        }
        users.several |= users.pasid != pasid;
        users.count += 1;
    }

    /// One attachment has ended, or never began, and the IOTLB holds nothing of it.
    pub(crate) fn let_go(&self) {
        let users = &mut *self.users.lock();
        users.count = users.count.saturating_sub(1);
    }

    /// Invalidates what the IOTLB may hold of the range, and waits for it.
    fn invalidate(&self, iova: Iova, len: u64) -> Result {
        let pages = Pages::around(iova.0, len);
        let features = &self.inner.features;
        let selective = features
            .page_invalidation
            .is_some_and(|most| pages.order <= most);
        let descriptor = match &self.tables {
            Tables::Second(_) if selective => {
                Descriptor::iotlb_pages(self.did, pages, features.drain)
            }
            Tables::Second(_) => self.everything(),
            Tables::First(_) => {
                let users = *self.users.lock();
                match (users.count, users.several) {
                    (0, _) | (_, true) => self.everything(),
                    _ if selective => Descriptor::pasid_iotlb_pages(self.did, users.pasid, pages),
                    _ => Descriptor::pasid_iotlb(self.did, users.pasid),
                }
            }
        };
        self.inner.queue.run(&self.inner.unit, [descriptor])
    }

    /// Invalidates everything that carries the domain's id, of either stage (6.5.2.3, table 23).
    fn everything(&self) -> Descriptor {
        Descriptor::iotlb_domain(self.did, self.inner.features.drain)
    }

    /// Whether what was not mapped may be cached as such, or what was mapped may not be seen before
    /// the next invalidation. Nothing that the first stage refuses is cached (6.2.4.1).
    fn invalidates_fresh(&self) -> bool {
        let features = &self.inner.features;
        let second = matches!(self.tables, Tables::Second(_));
        features.write_buffers || features.caching_mode && second
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
        let range = changed.range();
        // Nobody waits inside. Where this fails, the tables stay.
        self.invalidate(Iova(range.start()), range.len_minus_one() + 1)?;
        if changed.has_tables() {
            self.enter(table).reclaim(changed);
        }
        Ok(())
    }

    fn enter<'a, F: Format>(&self, table: &'a PageTable<P::Memory, F>) -> Walker<'a, P::Memory, F> {
        table.enter(self.inner.unit.current_cpu())
    }
}

/// The PASID that entries of a slot are under.
pub(crate) const fn pasid_of(slot: Slot) -> u32 {
    match slot {
        Slot::Rid => 0,
        Slot::Pasid(pasid) => pasid.get(),
    }
}

pub(crate) fn pasid_target(features: &Features, entry: PasidEntry) -> Result<Target> {
    let word1 = entry.word1.with_pwsnp(features.walk_snoop);
    let words = PasidEntry { word1, ..entry }.to_words();
    Ok(Target::Pasid(entry::Target::new(words)?))
}

fn width(asked: Option<u8>, widest: u8) -> Result<u8> {
    match asked {
        Some(bits) if bits > widest => Err(Error::new(
            ErrorKind::OutOfRange,
            "more input bits than the unit has",
        )),
        Some(bits) if bits < 32 => Err(Error::new(
            ErrorKind::InvalidArgument,
            "input addresses of 32 bits at least",
        )),
        Some(bits) => Ok(bits),
        None => Ok(widest),
    }
}

fn geometry(features: &Features, input_bits: u8, page_sizes: u64) -> Geometry {
    let first = |bits: u8| AddrRange::inclusive(0, u64::MAX >> (64 - bits));
    Geometry {
        aperture: first(input_bits).unwrap_or(AddrRange::EVERYTHING),
        physical: first(features.output_bits).unwrap_or(AddrRange::EVERYTHING),
        page_sizes,
    }
}

fn no_stage() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "the unit does not have this stage in the mode it is driven in",
    )
}

impl<P: Platform> PagingOps for PagingDomain<P> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn map(
        &self,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
    ) -> core::result::Result<(), MapError> {
        with_table!(self, table => self.enter(table).map(iova, phys, len, prot))?;
        if self.invalidates_fresh() {
            let result = self.invalidate(iova, len);
            return result.map_err(|error| MapError { mapped: len, error });
        }
        Ok(())
    }

    fn unmap(&self, iova: Iova, len: u64) -> Result {
        with_table!(self, table => self.change_in(table, |walker| walker.unmap(iova, len)))
    }

    fn unmap_lazily(&self, iova: Iova, len: u64) -> Result<Flush> {
        with_table!(self, table => {
            let unmapped = self.enter(table).unmap(iova, len)?;
            match unmapped.has_tables() {
                true => self.finish(table, unmapped).map(|()| Flush::NotNeeded),
                false => Ok(Flush::Needed),
            }
        })
    }

    fn flush(&self) -> Result {
        self.inner.queue.run(&self.inner.unit, [self.everything()])
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
    /// Nothing is attached any more, but the IOTLB may be full of the domain's id. Only when that is
    /// gone are the tables and the id free for somebody else.
    fn drop(&mut self) {
        let entries = if self.inner.features.scalable {
            Descriptor::pasids_domain(self.did)
        } else {
            Descriptor::contexts_domain(self.did)
        };
        let queue = &self.inner.queue;
        let stale = [entries, queue.fence(), self.everything()];
        match queue.run(&self.inner.unit, stale) {
            Ok(()) => self.inner.dids.free(self.did),
            Err(error) => {
                log::error!("a domain's tables and id are never used again: {error}");
                match &mut self.tables {
                    Tables::First(table) => table.leak(),
                    Tables::Second(table) => table.leak(),
                }
            }
        }
    }
}

/// The domain is not this unit's.
pub(crate) fn foreign() -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        "the domain belongs to another IOMMU",
    )
}
