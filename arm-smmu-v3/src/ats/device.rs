//! Devices that have ATS: their switches, and what the driver knows of their caches.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;
use core::sync::atomic::{AtomicBool, Ordering};

use iommu_core::{DeviceControl, DeviceInfo, Error, ErrorKind, RawLock, Result, StreamId};
use lock_api::Mutex;

use super::{AtcSet, invalidate_everything};
use crate::spec::commands::Command;
use crate::write::SteTarget;

/// A device that has ATS.
pub(crate) struct Endpoint {
    name: String,
    control: Arc<dyn DeviceControl>,
    /// All that it presents, sorted.
    streams: Vec<StreamId>,
    /// Its ATS may be on.
    on: AtomicBool,
}

impl Endpoint {
    pub(crate) fn new(info: &DeviceInfo, control: Arc<dyn DeviceControl>) -> Self {
        Self {
            name: info.name().into(),
            control,
            streams: info.stream_ids().to_vec(),
            on: AtomicBool::new(false),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    pub(super) fn is_reachable(&self) -> bool {
        self.control.is_reachable()
    }

    /// Switches its ATS off. A device that cannot be is no obstacle: it is its stream table entries
    /// that decide in the end.
    pub(super) fn switch_off(&self) {
        self.on.store(false, Ordering::Release);
        if self.is_reachable()
            && let Err(error) = self.control.set_ats(false)
        {
            log::error!("{}: its ATS cannot be switched off: {error}", self.name);
        }
    }

    /// Has it invalidate everything.
    pub(super) fn flush(&self) -> impl Iterator<Item = Command> {
        invalidate_everything(self.streams.iter().copied())
    }
}

/// All devices behind one SMMU that have ATS: it has to be off before translation is (3.9.1).
pub(crate) struct Endpoints<L: RawLock>(Mutex<L, Known>);

struct Known {
    all: Vec<Arc<Endpoint>>,
    /// Translation is being turned off: no device is switched on any more.
    closed: bool,
}

impl<L: RawLock> Endpoints<L> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Known {
            all: Vec::new(),
            closed: false,
        }))
    }

    pub(crate) fn add(&self, endpoint: Arc<Endpoint>) -> Result {
        let all = &mut self.0.lock().all;
        all.try_reserve(1)
            .map_err(|_| Error::out_of_memory("the devices with ATS"))?;
        all.push(endpoint);
        Ok(())
    }

    pub(crate) fn remove(&self, endpoint: &Arc<Endpoint>) {
        let all = &mut self.0.lock().all;
        all.retain(|other| !Arc::ptr_eq(other, endpoint));
    }

    /// Whether one of them presents this stream.
    pub(crate) fn present(&self, stream: StreamId) -> bool {
        let known = self.0.lock();
        let mut all = known.all.iter();
        all.any(|endpoint| endpoint.streams.binary_search(&stream).is_ok())
    }

    /// Switches the ATS of a device on, whose cache is empty and whose entries allow it.
    pub(super) fn switch_on(&self, endpoint: &Endpoint) -> Result {
        let known = self.0.lock();
        if known.closed {
            return Err(Error::new(
                ErrorKind::Busy,
                "translation is off, or about to be",
            ));
        }
        endpoint.control.set_ats(true)?;
        endpoint.on.store(true, Ordering::Release);
        Ok(())
    }

    /// Switches all devices off for good. `run` waits for commands that have those that were on
    /// invalidate everything.
    pub(super) fn close(&self, run: impl FnOnce(&mut dyn Iterator<Item = Command>) -> Result) {
        let known = &mut *self.0.lock();
        known.closed = true;
        let mut on = mem::take(&mut known.all);
        on.retain(|endpoint| endpoint.is_on());
        if on.is_empty() {
            return;
        }
        on.iter().for_each(|endpoint| endpoint.switch_off());
        let reachable = on.iter().filter(|endpoint| endpoint.is_reachable());
        let mut commands = reachable.flat_map(|endpoint| endpoint.flush());
        if let Err(error) = run(&mut commands) {
            log::error!("what devices have translated may be under way still: {error}");
        }
    }
}

/// What the driver knows of the ATS of a device that has it.
pub(crate) struct Ats<L: RawLock> {
    endpoint: Arc<Endpoint>,
    /// What the pending commit makes of the entries; `None` where it ends with ATS off.
    target: Option<SteTarget>,
    /// The cache may have translations of domains that the device has left: it did not answer, or
    /// was not asked. Nothing of that passes as long as no entry allows ATS.
    stale: bool,
    /// It is to invalidate everything before its entries change.
    flushes: bool,
    /// Why the commit under way did not move the device.
    lost: Option<Error>,
    /// The sets that its streams are in, each as often as they are; that of the pending domain last.
    listed: Vec<Arc<AtcSet<L>>>,
}

impl<L: RawLock> Ats<L> {
    pub(crate) const fn new(endpoint: Arc<Endpoint>) -> Self {
        Self {
            endpoint,
            target: None,
            stale: false,
            flushes: false,
            lost: None,
            listed: Vec::new(),
        }
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// What the pending commit makes of the entries, if it ends with ATS on.
    pub(crate) fn target(&self) -> Option<&SteTarget> {
        self.target.as_ref()
    }

    /// Whether the pending commit ends with ATS on.
    pub(super) fn is_wanted(&self) -> bool {
        self.target.is_some()
    }

    /// Whether it has to be switched on for that.
    pub(super) fn joins(&self) -> bool {
        self.is_wanted() && !self.endpoint.is_on()
    }

    /// Lists the device with its new domain, whose invalidations have to reach it before its entries
    /// change, and notes what those will be: where all of its `streams` move.
    pub(crate) fn prepare(
        &mut self,
        target: &SteTarget,
        set: &Arc<AtcSet<L>>,
        streams: &[StreamId],
    ) -> Result {
        if streams.len() != self.endpoint.streams.len() || !self.endpoint.is_reachable() {
            return Ok(());
        }
        let full = |_| Error::out_of_memory("a device's domains");
        self.listed.try_reserve(1).map_err(full)?;
        // Nobody waits for what may not answer, before it has.
        set.add(streams, self.stale)?;
        self.listed.push(set.clone());
        self.target = Some(*target);
        Ok(())
    }

    /// The pending commit ends without ATS, or does not come. Allocates nothing.
    pub(crate) fn renounce(&mut self) {
        if self.target.take().is_some()
            && let Some(set) = self.listed.pop()
        {
            set.remove(&self.endpoint.streams);
        }
    }

    /// Switches the device off if it may not have ATS on while its entries change, or afterwards; and
    /// if it is to get ATS with a cache that nobody vouches for. For that it [flushes](Self::flushes)
    /// if it can, and what comes of it goes to [`answered`](Self::answered). A device that is gone
    /// gets no ATS. Returns whether that changed what its entries become.
    ///
    /// An entry that `breaks` refuses requests in between, just as one without ATS does.
    pub(super) fn leave(&mut self, breaks: bool) -> bool {
        let reachable = self.endpoint.is_reachable();
        let gone = self.is_wanted() && !reachable;
        if gone {
            self.renounce();
        }
        let leaves = self.endpoint.is_on() && (!self.is_wanted() || breaks);
        self.stale |= leaves;
        if leaves || self.is_wanted() && self.stale {
            self.endpoint.switch_off();
            self.flushes = reachable;
        }
        gone
    }

    /// Whether it is being flushed before its entries change.
    pub(super) fn flushes(&self) -> bool {
        self.flushes
    }

    /// It was to flush before its entries change, and did, or did not answer: then its pending
    /// commit ends without ATS. Returns whether that changed what its entries become.
    pub(super) fn answered(&mut self, well: bool) -> bool {
        self.flushes = false;
        self.stale = !well;
        let silent = self.is_wanted() && !well;
        if silent {
            self.renounce();
        } else if well {
            let sets = self.listed.iter();
            sets.for_each(|set| set.ask(&self.endpoint.streams));
        }
        silent
    }

    /// Has it invalidate everything.
    pub(super) fn flush(&self) -> impl Iterator<Item = Command> {
        self.endpoint.flush()
    }

    /// Nobody knows what its cache has.
    pub(super) fn distrust(&mut self) {
        self.stale = true;
    }

    /// The commit does not move it. Its entries are known to abort: whatever its cache holds counts
    /// for nothing.
    pub(super) fn lose(&mut self, error: Error) {
        self.renounce();
        self.unlist(0);
        self.lost = Some(error);
    }

    /// Switches it off if it is on: its entries are about to abort.
    pub(crate) fn stop(&self) {
        if self.endpoint.is_on() {
            self.endpoint.switch_off();
        }
    }

    /// The entries of `streams` abort, in memory.
    pub(crate) fn refuse(&mut self, streams: &[StreamId]) {
        self.stale = true;
        self.listed.iter().for_each(|set| set.refuse(streams));
    }

    /// Ends a commit that the SMMU has confirmed, or has not. Returns whether it moved the device.
    ///
    /// # Errors
    ///
    /// It moved all others.
    pub(crate) fn finish(&mut self, confirmed: bool) -> Result<bool> {
        self.flushes = false;
        if confirmed {
            self.unlist(usize::from(self.is_wanted()));
        } else if let Some((new, others)) = self.listed.split_last()
            && others.iter().any(|other| Arc::ptr_eq(other, new))
        {
            // Once is enough, or it would be one more with every attempt.
            self.renounce();
        }
        self.target = None;
        self.lost.take().map_or(Ok(confirmed), Err)
    }

    /// Takes the device out of all sets but the last `stay` ones.
    fn unlist(&mut self, stay: usize) {
        let left = self.listed.len().saturating_sub(stay);
        for set in self.listed.drain(..left) {
            set.remove(&self.endpoint.streams);
        }
    }
}
