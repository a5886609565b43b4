//! Taking a unit over, and handing it back.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use iommu_core::{DmaMemory, Domain, Error, ErrorKind, FirmwareRegion, Ids, Platform, RawLock};
use iommu_core::{ReservedKind, Result, entry};
use lock_api::Mutex;

use crate::config::{Config, ShutdownPolicy};
use crate::domain::pasid_target;
use crate::faults::FaultRecords;
use crate::features::Features;
use crate::inner::{Fixed, Inner, PASS_THROUGH_DID, State, internal};
use crate::queue::Queue;
use crate::spec::{self, AddressWidth, ContextEntry, PasidEntry, SourceId};
use crate::tables::{Seat, TableLayout, Tables};
use crate::unit::Unit;
use crate::write::Target;

/// Makes a unit of a platform: reads what it is, allocates all it needs, then starts it.
pub(crate) fn bring_up<P: Platform>(platform: P, config: Config) -> Result<Inner<P>> {
    let mut inner = build(platform, config)?;
    start(&mut inner)?;
    Ok(inner)
}

fn build<P: Platform>(platform: P, config: Config) -> Result<Inner<P>> {
    let coherent = platform.memory().is_coherent();
    let features = Features::read(platform.bank(), coherent, &config)?;
    let unit = Unit::new(platform, config.timeout);
    let (scalable, output_bits) = (features.scalable, features.output_bits);
    let queue = Queue::new(unit.memory(), config.queue_log2, scalable, output_bits)?;
    let layout = TableLayout {
        scalable,
        pasids: features.max_pasid != 0,
        output_bits,
    };
    let tables = Tables::new(unit.memory(), layout)?;
    let blocked = Fixed {
        domain: Domain::blocked(),
        target: blocked(&features)?,
    };
    let identity = features.pass_through.map(|width| {
        let target = pass_through(&features, width)?;
        let domain = Domain::identity();
        Ok::<_, Error>(Fixed { domain, target })
    });
    let inner = Inner {
        unit,
        queue,
        faults: FaultRecords::new(&features),
        dids: Ids::new(
            "no domain id is free",
            PASS_THROUGH_DID + 1,
            features.max_domain_id,
        ),
        blocked,
        identity: identity.transpose()?,
        doubts: AtomicU64::new(0),
        running: AtomicBool::new(false),
        state: Mutex::new(State {
            tables,
            switches: spec::Gcmd::new(),
            walked: false,
            queued: false,
        }),
        features,
        config,
    };
    inner.preset_rmrrs()?;
    Ok(inner)
}

fn blocked(features: &Features) -> Result<Target> {
    Ok(if features.scalable {
        Target::Pasid(entry::Target::new([0; spec::PASID_WORDS])?)
    } else {
        Target::Context(entry::Target::new([0; spec::CONTEXT_ENTRY_WORDS])?)
    })
}

fn pass_through(features: &Features, width: AddressWidth) -> Result<Target> {
    if features.scalable {
        return pasid_target(features, PasidEntry::pass_through(width, PASS_THROUGH_DID));
    }
    let words = ContextEntry::pass_through(width, PASS_THROUGH_DID).to_words();
    Ok(Target::Context(entry::Target::new(words)?))
}

/// Whether firmware's devices are to go on reaching the region.
pub(crate) fn is_direct(rmrr: &FirmwareRegion) -> bool {
    matches!(
        rmrr.region.kind(),
        ReservedKind::Direct | ReservedKind::DirectRelaxable
    )
}

impl<P: Platform> Inner<P> {
    /// Lets the devices pass that firmware goes on using. The hardware does not see the tables yet.
    ///
    /// A stream that is not a source id is firmware's mistake and is logged; running out of memory
    /// is not.
    fn preset_rmrrs(&self) -> Result {
        let tables = &mut self.state.lock().tables;
        for rmrr in self.config.rmrrs.iter().filter(|rmrr| is_direct(rmrr)) {
            let Some(identity) = &self.identity else {
                log::warn!(
                    "{}: the hardware has no pass-through, so its devices lose it",
                    rmrr.region
                );
                continue;
            };
            let mut sources: Vec<SourceId> = Vec::new();
            for stream in &rmrr.streams {
                match (*stream).try_into() {
                    Ok(source) => sources.push(source),
                    Err(error) => log::error!("firmware asks for {}: {error}", rmrr.region),
                }
            }
            let (seats, _) = tables.seats(&sources)?;
            for seat in &seats {
                set(seat, &identity.target)?;
            }
        }
        Ok(())
    }
}

/// Makes the entry of a device that hardware does not see yet its target.
fn set<M: DmaMemory, L: RawLock>(seat: &Seat<M, L>, target: &Target) -> Result {
    match (seat, target) {
        (Seat::Context(site), Target::Context(target)) => site.change(target),
        (Seat::Pasids(pasids), Target::Pasid(target)) => pasids.reach(0)?.change(target),
        _ => Err(internal("an entry of another mode")),
    }
}

/// From tables in memory to a unit that translates with them.
fn start<P: Platform>(inner: &mut Inner<P>) -> Result {
    let scalable = inner.features.scalable;
    let mut switches = inner.unit.switches();
    inner.unit.retire_queue(&mut switches)?;
    if switches.te() && !inner.unit.is_in_mode(scalable) {
        inner.unit.translate(&mut switches, false)?;
    }
    inner.unit.publish();
    if inner.features.write_buffers {
        inner.unit.flush_write_buffers(switches)?;
    }
    inner.state.get_mut().queued = true;
    let queue = inner.queue.address();
    inner.unit.start_queue(&mut switches, queue)?;
    inner.queue.open();
    let state = inner.state.get_mut();
    let root = state.tables.root();
    // From here on the hardware may read them; where it does not translate, nothing makes it.
    state.walked = switches.te();
    inner.unit.set_root(switches, root, scalable)?;
    inner.forget_everything()?;
    inner.state.get_mut().walked = true;
    inner.unit.translate(&mut switches, true)?;
    if inner.features.protected_regions {
        inner.unit.unprotect()?;
    }
    inner.state.get_mut().switches = switches;
    *inner.running.get_mut() = true;
    Ok(())
}

impl<P: Platform> Inner<P> {
    pub(crate) fn shutdown(&self, policy: ShutdownPolicy) -> Result {
        let state = &mut *self.state.lock();
        match policy {
            ShutdownPolicy::KeepBlocked => {
                if !state.switches.te() {
                    return Err(Error::new(
                        ErrorKind::NotPermitted,
                        "translation is off: nothing can be kept out",
                    ));
                }
                self.running.store(false, Ordering::Release);
                state.tables.revoke_all();
                self.forget_everything()
            }
            ShutdownPolicy::PassThrough => {
                self.unit.translate(&mut state.switches, false)?;
                self.running.store(false, Ordering::Release);
                state.walked = false;
                self.queue.close();
                self.unit.retire_queue(&mut state.switches)?;
                state.queued = false;
                Ok(())
            }
        }
    }
}
