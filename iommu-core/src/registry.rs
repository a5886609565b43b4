//! Which IOMMUs there are, and which streams and groups devices have.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use lock_api::Mutex;

use crate::addr::StreamId;
use crate::device::DeviceInfo;
use crate::error::{Culprit, Error, ErrorKind, Result};
use crate::group::{Locked, State};
use crate::iommu::{DeviceId, Instance};
use crate::platform::RawLock;

pub(crate) struct Registry<L: RawLock> {
    instances: Vec<Arc<Instance>>,
    next_device: u64,
    /// By the index of the IOMMU and the stream.
    streams: BTreeMap<(usize, StreamId), StreamUse<L>>,
    groups: Vec<Entry<L>>,
}

/// A stream that devices present: all of them are in one group.
struct StreamUse<L: RawLock> {
    group: Arc<Locked<L>>,
    devices: usize,
    /// The hardware did not confirm that a device has left it: it is nobody's any more.
    lost: bool,
}

struct Entry<L: RawLock> {
    name: Option<String>,
    instance: usize,
    state: Arc<Locked<L>>,
    /// Devices in it, and on their way into or out of it.
    devices: usize,
}

impl<L: RawLock> Registry<L> {
    pub(crate) fn new(first: Arc<Instance>) -> Self {
        Self {
            instances: vec![first],
            next_device: 0,
            streams: BTreeMap::new(),
            groups: Vec::new(),
        }
    }

    /// Adds an IOMMU and returns its index.
    pub(crate) fn add_instance(&mut self, instance: Arc<Instance>) -> usize {
        self.instances.push(instance);
        self.instances.len() - 1
    }

    pub(crate) fn instance(&self, index: usize) -> Option<Arc<Instance>> {
        self.instances.get(index).cloned()
    }

    pub(crate) fn group_of(&self, instance: usize, stream: StreamId) -> Option<Arc<Locked<L>>> {
        self.streams
            .get(&(instance, stream))
            .map(|used| used.group.clone())
    }

    /// Takes the device's streams and a place in its group: all of it or nothing.
    pub(crate) fn claim(
        &mut self,
        info: &DeviceInfo,
    ) -> Result<(DeviceId, Arc<Instance>, Arc<Locked<L>>)> {
        let culprit = || Culprit::Device(info.shared_name());
        let wrong = |reason| Err(Error::new(ErrorKind::InvalidArgument, reason).of(culprit()));
        let index = info.instance().index();
        let Some(instance) = self.instance(index) else {
            return wrong("there is no such IOMMU");
        };
        if info.stream_ids().is_empty() {
            return wrong("a device without streams");
        }
        let named = info.group_name();
        let named = self
            .groups
            .iter()
            .find(|group| named.is_some() && group.name.as_deref() == named);
        if named.is_some_and(|group| group.instance != index) {
            return wrong("the devices of a group are behind one IOMMU");
        }
        let mut group = named.map(|group| group.state.clone());
        for stream in info.stream_ids() {
            let Some(used) = self.streams.get(&(index, *stream)) else {
                continue;
            };
            let same = match &group {
                Some(group) => Arc::ptr_eq(group, &used.group),
                // A group that was asked for by name and is new has no streams yet.
                None => info.group_name().is_none(),
            };
            if used.lost || !same {
                let reason = if used.lost {
                    "the hardware may still be using this stream"
                } else {
                    "another group has this stream"
                };
                return Err(Error::new(ErrorKind::Busy, reason).of(Culprit::Stream(*stream)));
            }
            group = Some(used.group.clone());
        }
        let state = match group {
            Some(state) => {
                if let Some(entry) = self.entry(&state) {
                    entry.devices += 1;
                }
                state
            }
            None => {
                let state = Arc::new(Mutex::new(State::empty(instance.clone())));
                self.groups.push(Entry {
                    name: info.group_name().map(Into::into),
                    instance: index,
                    state: state.clone(),
                    devices: 1,
                });
                state
            }
        };
        for stream in info.stream_ids() {
            let used = self
                .streams
                .entry((index, *stream))
                .or_insert_with(|| StreamUse {
                    group: state.clone(),
                    devices: 0,
                    lost: false,
                });
            used.devices += 1;
        }
        let id = DeviceId(self.next_device);
        self.next_device += 1;
        Ok((id, instance, state))
    }

    fn entry(&mut self, state: &Arc<Locked<L>>) -> Option<&mut Entry<L>> {
        self.groups
            .iter_mut()
            .find(|entry| Arc::ptr_eq(&entry.state, state))
    }

    /// Gives the place in the group back and, if the device is `clean` out of the hardware, its
    /// streams too.
    pub(crate) fn unclaim(&mut self, info: &DeviceInfo, state: &Arc<Locked<L>>, clean: bool) {
        for stream in info.stream_ids() {
            let key = (info.instance().index(), *stream);
            let Some(used) = self.streams.get_mut(&key) else {
                continue;
            };
            used.devices -= 1;
            if used.devices > 0 {
                // Somebody else presents it, and it stays on what they are on.
                continue;
            }
            if clean && !used.lost {
                self.streams.remove(&key);
            } else {
                used.lost = true;
            }
        }
        if let Some(entry) = self.entry(state) {
            entry.devices -= 1;
        }
        self.groups.retain(|entry| entry.devices > 0);
    }
}
