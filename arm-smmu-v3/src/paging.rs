//! Mappings of paging domains: what drivers do all day, compiled for each format of page tables.

use alloc::sync::Arc;

use iommu_core::pgtable::{
    Format, Granule4K, Granule16K, Granule64K, PageTable, Stage1, Stage2, Undisturbed, Unmapped,
    Walker,
};
use iommu_core::{
    AddrRange, DmaMemory, Domain, DomainRef, Error, ErrorKind, Flush, Geometry, Iova, MapError,
    PagingConfig, PagingOps, PhysAddr, Platform, Prot, Result, Stage,
};

use crate::domain::PagingDomain;
use crate::entries::Table;
use crate::smmu::Inner;
use crate::spec::granule::Granule;

/// A paging domain with its page table.
struct Paging<P: Platform, F: Format> {
    domain: PagingDomain<P>,
    table: PageTable<P::Memory, F>,
}

/// A new paging domain.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`] and [`ErrorKind::OutOfRange`] where the SMMU does not have what
/// `config` asks for; of memory, and of tags.
pub(crate) fn new<P: Platform>(smmu: &Arc<Inner<P>>, config: &PagingConfig) -> Result<DomainRef> {
    let features = &smmu.features;
    let unsupported = |reason| Error::new(ErrorKind::Unsupported, reason);
    let stage1 = match config.stage {
        Stage::Any => features.stage1,
        Stage::First if features.stage1 => true,
        Stage::Second if features.stage2 => false,
        Stage::First | Stage::Second => {
            return Err(unsupported("the SMMU does not have this stage"));
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
    let granule = features
        .granule(config.page_size)
        .ok_or_else(|| unsupported("the SMMU does not have pages of this size"))?;
    match (stage1, granule) {
        (true, Granule::K4) => first::<P, Granule4K>(smmu, granule, bits),
        (true, Granule::K16) => first::<P, Granule16K>(smmu, granule, bits),
        (true, Granule::K64) => first::<P, Granule64K>(smmu, granule, bits),
        (false, Granule::K4) => second::<P, Granule4K>(smmu, granule, bits),
        (false, Granule::K16) => second::<P, Granule16K>(smmu, granule, bits),
        (false, Granule::K64) => second::<P, Granule64K>(smmu, granule, bits),
    }
}

/// What a domain is apart from its page table, where it is a paging domain of an SMMU.
pub(crate) fn paging<P: Platform>(domain: &DomainRef) -> Option<&PagingDomain<P>> {
    part::<P, Stage1<Granule4K>>(domain)
        .or_else(|| part::<P, Stage2<Granule4K>>(domain))
        .or_else(|| part::<P, Stage1<Granule64K>>(domain))
        .or_else(|| part::<P, Stage2<Granule64K>>(domain))
        .or_else(|| part::<P, Stage1<Granule16K>>(domain))
        .or_else(|| part::<P, Stage2<Granule16K>>(domain))
}

fn part<P: Platform, F: Format>(domain: &DomainRef) -> Option<&PagingDomain<P>> {
    let paging: &Paging<P, F> = domain.backend()?;
    Some(&paging.domain)
}

fn first<P: Platform, G>(smmu: &Arc<Inner<P>>, granule: Granule, bits: u8) -> Result<DomainRef>
where
    Stage1<G>: Format,
{
    let table = new_table::<P, Stage1<G>>(smmu, bits)?;
    let domain = PagingDomain::stage1(smmu, describe(&table, granule, bits))?;
    Ok(Domain::paging(Paging { domain, table }))
}

fn second<P: Platform, G>(smmu: &Arc<Inner<P>>, granule: Granule, bits: u8) -> Result<DomainRef>
where
    Stage2<G>: Format,
{
    let table = new_table::<P, Stage2<G>>(smmu, bits)?;
    let domain = PagingDomain::stage2(smmu, describe(&table, granule, bits))?;
    Ok(Domain::paging(Paging { domain, table }))
}

fn new_table<P: Platform, F: Format>(smmu: &Inner<P>, bits: u8) -> Result<PageTable<P::Memory, F>> {
    let memory = smmu.hardware.platform.memory();
    let table = PageTable::new(memory, bits.into(), smmu.features.output_bits.into())?;
    Ok(match smmu.features.live_resizing {
        true => table.with_live_resizing(),
        false => table,
    })
}

fn describe<M: DmaMemory, F: Format>(
    table: &PageTable<M, F>,
    granule: Granule,
    input_bits: u8,
) -> Table {
    Table {
        root: table.root(),
        root_level: table.root_level(),
        input_bits,
        granule,
    }
}

impl<P: Platform, F: Format> Paging<P, F> {
    #[inline(always)]
    fn enter(&self) -> Walker<'_, P::Memory, F> {
        self.table.enter(self.domain.current_cpu())
    }

    #[inline(never)]
    fn unmap_range(&self, iova: Iova, len: u64) -> Result {
        self.change(|walker| walker.unmap(iova, len))
    }

    #[inline(never)]
    fn unmap_range_lazily(&self, iova: Iova, len: u64) -> Result<Flush> {
        let unmapped = self.enter().unmap(iova, len)?;
        match unmapped.has_tables() {
            true => self.finish(unmapped).map(|()| Flush::NotNeeded),
            false => Ok(Flush::Needed),
        }
    }

    /// Changes mappings, has hardware forget what was there, and gives tables back.
    fn change(&self, change: impl FnOnce(&Walker<'_, P::Memory, F>) -> Result<Unmapped>) -> Result {
        let changed = change(&self.enter())?;
        self.finish(changed)
    }

    fn finish(&self, changed: Unmapped) -> Result {
        // Nobody waits inside. Where this fails, the tables stay.
        self.domain.forget(&changed)?;
        if changed.has_tables() {
            self.enter().reclaim(changed);
        }
        Ok(())
    }
}

impl<P: Platform, F: Format> PagingOps for Paging<P, F> {
    fn geometry(&self) -> Geometry {
        let first = |bits: u8| AddrRange::inclusive(0, u64::MAX >> (64 - bits));
        let (input_bits, output_bits) = self.domain.bits();
        Geometry {
            aperture: first(input_bits).unwrap_or(AddrRange::EVERYTHING),
            physical: first(output_bits).unwrap_or(AddrRange::EVERYTHING),
            page_sizes: self.table.page_sizes(),
        }
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
        self.enter().map(iova, phys, len, prot)
    }

    #[inline(always)]
    fn map_page(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> bool {
        len == self.table.page_size() && self.enter().map_page(iova, phys, len, prot)
    }

    fn unmap(&self, iova: Iova, len: u64) -> Result {
        // Nobody is inside any more when the wait begins.
        let page = self.enter().unmap_page(iova, len);
        match page {
            true => self.domain.forget_page(iova, len),
            false => self.unmap_range(iova, len),
        }
    }

    fn unmap_lazily(&self, iova: Iova, len: u64) -> Result<Flush> {
        let page = self.enter().unmap_page(iova, len);
        match page {
            true => Ok(Flush::Needed),
            false => self.unmap_range_lazily(iova, len),
        }
    }

    fn flush(&self) -> Result {
        self.domain.flush()
    }

    fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        self.enter().translate(iova)
    }

    fn protect(&self, iova: Iova, len: u64, prot: Prot) -> Result {
        self.change(|walker| walker.protect(iova, len, prot))
    }

    fn split(&self, iova: Iova) -> Result {
        self.change(|walker| walker.split(iova))
    }

    fn merge(&self, iova: Iova, size: u64, promise: Undisturbed) -> Result {
        self.change(|walker| walker.merge(iova, size, promise))
    }
}

impl<P: Platform, F: Format> Drop for Paging<P, F> {
    /// No stream is attached any more, but the TLB may be full of the domain's tag. Only when that
    /// is gone are the tables and the tag free for somebody else.
    fn drop(&mut self) {
        if let Err(error) = self.domain.end() {
            log::error!("a domain's tables and tag are never used again: {error}");
            self.table.leak();
        }
    }
}
