//! Bringing a unit up, and what its devices are on.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use iommu_core::{Attached, DeviceControl, DeviceInfo, Domain, DomainRef, StreamId};
use iommu_core::{DmaMemory, Error, ErrorKind, FirmwareRegion, IommuOps, Member, PagingConfig};
use iommu_core::{Platform, Probed, ReservedKind, ReservedRegion, Result, Slot};
use lock_api::Mutex;

use crate::spec::{ContextEntry, Gcmd, SourceId};
use crate::tables::{Entry, Tables};
use crate::unit::Unit;

/// The domain id of pass-through entries. With CAP.CM, hardware tags what is not present with 0, so
/// that one is no domain's.
const PASS_THROUGH_DID: u16 = 1;

/// Where the addresses begin whose writes are interrupts and are never translated.
const MSI_START: u64 = 0xfee0_0000;
/// How many of them there are.
const MSI_LEN: u64 = 0x10_0000;

/// What a platform tells the driver of a unit beside its registers.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long to wait for each answer of the hardware.
    pub timeout: Duration,
    /// The RMRRs of firmware's DMAR table: the regions that devices behind this unit go on using.
    /// The streams of those of kind [`ReservedKind::Direct`] and
    /// [`ReservedKind::DirectRelaxable`] pass through from the moment translation is on.
    pub rmrrs: Vec<FirmwareRegion>,
}

impl Default for Config {
    /// A second for each answer, and no RMRR.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            rmrrs: Vec::new(),
        }
    }
}

/// A VT-d remapping unit in legacy mode.
///
/// A cheap handle; clones are the same unit. Dropping the last one leaves translation on, with
/// every device where it is, and never frees the tables; [`shutdown`](Self::shutdown) is the way
/// to have them back.
pub struct IntelVtd<P: Platform> {
    inner: Arc<Inner<P>>,
}

struct Inner<P: Platform> {
    unit: Unit<P>,
    rmrrs: Vec<FirmwareRegion>,
    blocked: DomainRef,
    identity: Option<Identity>,
    /// Held while registers are written: the hardware takes one command of each kind at a time.
    state: Mutex<P::BlockingLock, State<P::Memory>>,
}

#[derive(Clone)]
struct Identity {
    domain: DomainRef,
    entry: ContextEntry,
}

struct State<M: DmaMemory> {
    tables: Tables<M>,
    switches: Gcmd,
}

impl<M: DmaMemory> State<M> {
    fn check_running(&self) -> Result {
        if self.switches.te() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NotPermitted,
            "translation was shut down",
        ))
    }
}

/// What is kept of a device.
struct Known<M: DmaMemory> {
    entries: Vec<(StreamId, Entry<M>)>,
}

impl<P: Platform> IntelVtd<P> {
    /// Takes over a remapping unit. When this returns `Ok`, translation is on: the devices that
    /// `config` lists an RMRR for pass through, and every other device's DMA is refused.
    ///
    /// Until translation is on, VT-d passes everything that firmware's protected memory regions do
    /// not keep out, so a device left active by firmware reaches all other memory up to the end of
    /// this call; there is no architected way to refuse it earlier. A unit that firmware left
    /// translating in legacy mode changes over to the new tables without such a gap; one left in
    /// another mode is switched off first. Firmware's protected memory regions end once
    /// translation is on. Without ECAP.PT nothing can pass through, and RMRR devices are refused
    /// too, which a warning says.
    ///
    /// The caller keeps out of GCMD_REG from here on; interrupt remapping that is on stays on.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidArgument`]: the register bank is too small, or the platform's memory
    ///   says it is coherent and the hardware says it is not;
    /// - [`ErrorKind::OutOfRange`]: a stream of an RMRR is not a source id;
    /// - [`ErrorKind::Unsupported`]: a version without register-based invalidation;
    /// - [`ErrorKind::OutOfMemory`]: no memory for the tables.
    ///
    /// In all these the hardware was not touched, and nothing is kept. Further:
    ///
    /// - [`ErrorKind::IommuTimedOut`]: the hardware did not answer; the error names the register;
    /// - [`ErrorKind::Hardware`]: it answered with something the architecture does not allow.
    ///
    /// The tables are then kept for good where the hardware may be using them.
    pub fn probe(platform: P, config: Config) -> Result<Self> {
        let unit = Unit::identify(platform, config.timeout)?;
        let identity = unit.pass_through().map(|aw| Identity {
            domain: Domain::identity(),
            entry: ContextEntry::pass_through(aw, PASS_THROUGH_DID),
        });
        let mut tables = Tables::new(unit.memory())?;
        for rmrr in config.rmrrs.iter().filter(|rmrr| is_direct(rmrr)) {
            let entries = tables.entries(&sources(&rmrr.streams)?)?;
            match &identity {
                Some(identity) => entries.iter().for_each(|entry| entry.fill(identity.entry)),
                None => log::warn!(
                    "{}: the hardware has no pass-through, so its devices lose it",
                    rmrr.region
                ),
            }
        }
        let switches = bring_up(&unit, &mut tables)?;
        Ok(Self {
            inner: Arc::new(Inner {
                unit,
                rmrrs: config.rmrrs,
                blocked: Domain::blocked(),
                identity,
                state: Mutex::new(State { tables, switches }),
            }),
        })
    }

    /// Switches translation off, to hand the machine over: every device then reaches all of memory.
    /// The tables are freed with the last handle. Attaching fails from here on, and what devices
    /// were said to be attached to no longer counts. Without effect the second time.
    ///
    /// Context: may block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::IommuTimedOut`]: the hardware did not confirm, and is still driven as if
    /// translation were on.
    pub fn shutdown(&self) -> Result {
        let state = &mut *self.inner.state.lock();
        self.inner.unit.translate(&mut state.switches, false)?;
        state.tables.walked = false;
        Ok(())
    }

    /// Whether the hardware has recorded a fault, or lost one. Faults are not decoded, and stay.
    ///
    /// Context: any, interrupt-safe.
    #[must_use]
    pub fn fault_pending(&self) -> bool {
        self.inner.unit.fault_pending()
    }
}

/// From tables in memory to a unit that translates with them. The switches as they stand come back.
fn bring_up<P: Platform>(unit: &Unit<P>, tables: &mut Tables<P::Memory>) -> Result<Gcmd> {
    let mut switches = unit.switches();
    unit.retire_queue(&mut switches)?;
    if switches.te() && !unit.is_legacy() {
        unit.translate(&mut switches, false)?;
    }
    unit.memory().write_barrier();
    unit.flush_write_buffers(switches)?;
    tables.walked = switches.te();
    unit.set_root(switches, tables.root())?;
    unit.invalidate()?;
    tables.walked = true;
    unit.translate(&mut switches, true)?;
    unit.unprotect()?;
    Ok(switches)
}

fn is_direct(rmrr: &FirmwareRegion) -> bool {
    matches!(
        rmrr.region.kind(),
        ReservedKind::Direct | ReservedKind::DirectRelaxable
    )
}

fn sources(streams: &[StreamId]) -> Result<Vec<SourceId>> {
    streams.iter().map(|stream| (*stream).try_into()).collect()
}

/// Where a member goes, as its context entries say it; `None` for not present.
type Target = Option<ContextEntry>;

impl<P: Platform> Inner<P> {
    fn target(&self, domain: &DomainRef) -> Result<Target> {
        if Arc::ptr_eq(domain, &self.blocked) {
            return Ok(None);
        }
        match &self.identity {
            Some(identity) if Arc::ptr_eq(domain, &identity.domain) => Ok(Some(identity.entry)),
            _ => Err(Error::new(
                ErrorKind::InvalidArgument,
                "not a domain of this IOMMU",
            )),
        }
    }

    /// Where a member is on its way to; nothing for one that stays.
    fn plan(&self, member: &Member) -> Result<Option<Target>> {
        let Some(domain) = member.pending() else {
            return Ok(None);
        };
        let target = self.target(domain)?;
        match member.state::<Known<P::Memory>>() {
            Some(_) => Ok(Some(target)),
            None => Err(
                Error::new(ErrorKind::Internal, "a device of another backend").of(member.culprit()),
            ),
        }
    }

    /// What a device finds itself on: what its entries say, which were made before it was known.
    fn found(&self, entries: &[Entry<P::Memory>]) -> Attached {
        let blocked = Attached::On(self.blocked.clone());
        let Some(identity) = &self.identity else {
            return blocked;
        };
        let mut open = entries.iter().map(|entry| entry.load() == identity.entry);
        let first = open.next().unwrap_or(false);
        if open.any(|other| other != first) {
            return Attached::Uncertain {
                old: Some(self.blocked.clone()),
                new: identity.domain.clone(),
            };
        }
        if first {
            Attached::On(identity.domain.clone())
        } else {
            blocked
        }
    }
}

/// The entries of the source ids that an attach of the member moves.
fn places<P: Platform>(member: &Member) -> impl Iterator<Item = &Entry<P::Memory>> {
    let known = member.state::<Known<P::Memory>>();
    let all = known.into_iter().flat_map(|known| &known.entries);
    all.filter(|(stream, _)| member.streams().contains(stream))
        .map(|(_, entry)| entry)
}

fn rid_only(slot: Slot) -> Result {
    match slot {
        Slot::Rid => Ok(()),
        Slot::Pasid(_) => Err(Error::new(
            ErrorKind::Unsupported,
            "legacy mode knows no PASIDs",
        )),
    }
}

impl<P: Platform> IommuOps for IntelVtd<P> {
    fn blocked_domain(&self) -> Option<DomainRef> {
        Some(self.inner.blocked.clone())
    }

    fn identity_domain(&self) -> Option<DomainRef> {
        self.inner
            .identity
            .as_ref()
            .map(|identity| identity.domain.clone())
    }

    fn paging_domain(&self, _: &PagingConfig) -> Result<DomainRef> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "this backend has no paging domains",
        ))
    }

    fn probe(&self, device: &DeviceInfo, _: Arc<dyn DeviceControl>) -> Result<Probed> {
        let sources = sources(device.stream_ids())?;
        let inner = &*self.inner;
        let mut state = inner.state.lock();
        state.check_running()?;
        let entries = state.tables.entries(&sources)?;
        let attached = inner.found(&entries);
        let mut reserved: Vec<ReservedRegion> = inner
            .rmrrs
            .iter()
            .filter(|rmrr| rmrr.streams.iter().any(|s| device.stream_ids().contains(s)))
            .map(|rmrr| rmrr.region)
            .collect();
        reserved.push(ReservedRegion::new(MSI_START, MSI_LEN, ReservedKind::Msi)?);
        Ok(Probed {
            state: Box::new(Known {
                entries: device.stream_ids().iter().copied().zip(entries).collect(),
            }),
            reserved,
            attached,
            max_pasids: 0,
        })
    }

    fn prepare(&self, member: &mut Member, slot: Slot) -> Result {
        rid_only(slot)?;
        self.inner.plan(member)?;
        Ok(())
    }

    fn cancel(&self, _: &mut Member, _: Slot) {}

    fn commit(&self, members: &mut [Member], slot: Slot) -> Result {
        rid_only(slot)?;
        let inner = &*self.inner;
        let state = inner.state.lock();
        state.check_running()?;
        let mut failure = None;
        for member in &mut *members {
            match inner.plan(member) {
                Ok(Some(Some(entry))) => places::<P>(member).for_each(|at| at.fill(entry)),
                Ok(Some(None)) => places::<P>(member).for_each(Entry::revoke),
                Ok(None) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Err(error) = inner.unit.invalidate() {
            return Err(failure.unwrap_or(error));
        }
        for member in members {
            let Ok(Some(target)) = inner.plan(member) else {
                continue;
            };
            if target.is_none() {
                places::<P>(member).for_each(Entry::clear_rest);
            }
            member.landed();
        }
        failure.map_or(Ok(()), Err)
    }

    fn quarantine(&self, members: &mut [Member]) {
        let known = members
            .iter()
            .filter_map(|member| member.state::<Known<P::Memory>>());
        for (_, entry) in known.flat_map(|known| &known.entries) {
            entry.revoke();
        }
        self.inner.unit.memory().write_barrier();
    }

    fn release(&self, _: &mut Member) {}
}

impl<P: Platform> Clone for IntelVtd<P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<P: Platform> fmt::Debug for IntelVtd<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntelVtd")
            .field("identity", &self.inner.identity.is_some())
            .field("rmrrs", &self.inner.rmrrs)
            .finish_non_exhaustive()
    }
}
