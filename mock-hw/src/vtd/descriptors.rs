//! Invalidation descriptors (6.5.2).

use iommu_core::PhysAddr;

use super::State;
use super::bits::{bit, bits, field, id, mask, page};
use super::cache::{ContextScope, PasidScope};
use super::faults::ITE;
use super::global::function_mask;
use super::iotlb::Flush;
use super::order::Pending;

/// Why the queue stopped, as `IQERCD.IQEI` tells (10.4.29).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum QueueError {
    /// `IQT_REG` is beyond the queue.
    Tail = 1,
    Fetch = 2,
    Type = 3,
    Reserved = 4,
    Width = 5,
    Misaligned = 6,
    /// The root table's mode is a reserved one.
    Mode = 7,
}

/// What became of a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Done {
    Yes,
    /// A wait descriptor was aborted: a device did not answer.
    TimedOut,
}

/// What a descriptor asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    Invalidate(Pending),
    /// A device's translation cache is invalidated.
    Device(u16),
    /// Interrupt entries, which are not modelled, are invalidated.
    Interrupts,
    Wait,
}

/// The type of a descriptor: bits 11:9 and 3:0.
pub(super) fn kind(descriptor: &[u64; 4]) -> u64 {
    bits(descriptor[0], 11, 9) << 4 | bits(descriptor[0], 3, 0)
}

/// Whether a descriptor is a wait descriptor behind which nothing starts before it is complete.
pub(super) fn is_fence(descriptor: &[u64; 4]) -> bool {
    kind(descriptor) == 5 && bit(descriptor[0], 6)
}

impl State {
    /// What a descriptor asks for.
    pub(super) fn decode(&self, descriptor: &[u64; 4]) -> Result<Asked, QueueError> {
        let [low, high, ..] = *descriptor;
        let ids = &self.config;
        let there = |condition: bool| condition.then_some(()).ok_or(QueueError::Type);
        let clear = |low_bits: u64, high_bits: u64| {
            let upper = descriptor[2] | descriptor[3];
            let wrong = low & low_bits | high & high_bits | upper;
            (wrong == 0).then_some(()).ok_or(QueueError::Reserved)
        };
        let granularity = bits(low, 5, 4);
        let did = id(low, 31, 16);
        let pasid = field(low, 51, 32);
        match kind(descriptor) {
            1 => {
                clear(0xfffc_0000_0000_f1c0, !0)?;
                let scope = match granularity {
                    1 => ContextScope::All,
                    2 => ContextScope::Domain(did),
                    3 => ContextScope::Source {
                        source: id(low, 47, 32),
                        functions: function_mask(field(low, 49, 48)),
                        did,
                    },
                    _ => return Err(QueueError::Reserved),
                };
                Ok(Asked::Invalidate(Pending::Context(scope)))
            }
            2 => {
                clear(0xffff_ffff_0000_f100, 0xf80)?;
                let flush = match granularity {
                    1 => Flush::All,
                    2 => Flush::Domain(did),
                    3 if bits(high, 5, 0) <= ids.max_address_mask() => {
                        self.pages(did, page(high), bits(high, 5, 0), bit(high, 6))
                    }
                    _ => return Err(QueueError::Reserved),
                };
                Ok(Asked::Invalidate(Pending::Iotlb(flush)))
            }
            3 => {
                there(ids.has_device_tlbs())?;
                clear(0x000f_0000_ffe0_01f0, 0xffe)?;
                Ok(Asked::Device(id(low, 47, 32)))
            }
            4 => {
                clear(0xffff_0000_07ff_f1e0, !0)?;
                Ok(Asked::Interrupts)
            }
            5 => {
                let drain = if ids.ecap_bit(42) { 0 } else { 1 << 7 };
                clear(0xffff_f100 | drain, 3)?;
                Ok(Asked::Wait)
            }
            6 => {
                there(ids.has_scalable_mode())?;
                clear(0xfff0_0000_0000_f1c0, 0xf80)?;
                let (first, last) = range(page(high), bits(high, 5, 0));
                let flush = match granularity {
                    2 => Flush::Pasid { did, pasid },
                    3 => Flush::PasidPages {
                        did,
                        pasid,
                        first,
                        last,
                        leaves: bit(high, 6),
                    },
                    _ => return Err(QueueError::Reserved),
                };
                Ok(Asked::Invalidate(Pending::Iotlb(flush)))
            }
            7 => {
                there(ids.has_scalable_mode())?;
                clear(0xfff0_0000_0000_f1c0, !0)?;
                let scope = match granularity {
                    0 => PasidScope::Domain(did),
                    1 => PasidScope::Pasid { did, pasid },
                    3 => PasidScope::All,
                    _ => return Err(QueueError::Reserved),
                };
                Ok(Asked::Invalidate(Pending::Pasid(scope)))
            }
            8 => {
                there(ids.has_device_tlbs() && ids.has_pasids())?;
                clear(0, 0x7fe)?;
                Ok(Asked::Device(id(low, 31, 16)))
            }
            _ => Err(QueueError::Type),
        }
    }

    /// The invalidation of some pages of a domain: of the whole domain, where there is no other.
    pub(super) fn pages(&self, did: u16, addr: u64, pages: u64, leaves: bool) -> Flush {
        if !self.config.cap_bit(39) {
            return Flush::Domain(did);
        }
        let (first, last) = range(addr, pages);
        Flush::Pages {
            did,
            first,
            last,
            leaves,
        }
    }

    pub(super) fn execute(&mut self, descriptor: &[u64; 4]) -> Result<Done, QueueError> {
        let asked = self.decode(descriptor)?;
        self.check_descriptor(descriptor);
        match asked {
            Asked::Invalidate(what) => {
                let early = self.queue.early.remove(&self.queue.head);
                if !early && !self.queue.ignores(kind(descriptor)) {
                    self.push(what);
                }
            }
            Asked::Device(source) => self.queue.devices.push(source),
            Asked::Interrupts => {}
            Asked::Wait => return self.wait(descriptor),
        }
        Ok(Done::Yes)
    }

    /// Completes all that was asked for, and tells so.
    fn wait(&mut self, descriptor: &[u64; 4]) -> Result<Done, QueueError> {
        let devices = std::mem::take(&mut self.queue.devices);
        let dead = devices
            .iter()
            .find(|of| self.queue.dead_devices.contains(of));
        if let Some(source) = dead {
            self.queue.error = u64::from(*source) << 32;
            self.faults.raise_error(ITE);
            return Ok(Done::TimedOut);
        }
        self.overtake(descriptor);
        self.drain();
        let [low, high, ..] = *descriptor;
        if bit(low, 5) && !self.queue.drops_status {
            let data = field(low, 63, 32).to_le_bytes();
            // Nobody is told of a status that reaches no memory, but by what the memory notes.
            let _ = self.memory.dma_write(PhysAddr(high & !3), &data);
        }
        if bit(low, 4) {
            self.faults.raise_wait_event();
        }
        self.queue.waits += 1;
        Ok(Done::Yes)
    }

    /// Takes on the IOTLB invalidations that are queued behind a wait descriptor up to the next
    /// fence: nothing keeps hardware from doing them first.
    fn overtake(&mut self, wait: &[u64; 4]) {
        if self.config.order != super::Order::Adverse || is_fence(wait) {
            return;
        }
        let mut at = self.next_index(self.queue.head);
        while at != self.queue.tail {
            let Ok(descriptor) = self.descriptor(at) else {
                return;
            };
            match self.decode(&descriptor) {
                Ok(Asked::Invalidate(what @ Pending::Iotlb(_))) => {
                    if !self.queue.ignores(kind(&descriptor)) && self.queue.early.insert(at) {
                        self.push(what);
                    }
                }
                Ok(_) if !is_fence(&descriptor) => {}
                _ => return,
            }
            at = self.next_index(at);
        }
    }

    fn check_descriptor(&mut self, descriptor: &[u64; 4]) {
        let (low, kind) = (descriptor[0], kind(descriptor));
        let granularity = bits(low, 5, 4);
        let by_domain = matches!((kind, granularity), (1 | 2, 2 | 3) | (6, _) | (7, 0 | 1));
        let did = bits(low, 31, 16);
        if by_domain && did & !mask(self.config.domain_bits()) != 0 {
            self.violation(format!(
                "a descriptor names domain id {did:#x}, where there are {} bits of them",
                self.config.domain_bits()
            ));
        }
        if (kind, granularity) == (2, 3) && !self.config.cap_bit(39) {
            self.violation("pages were invalidated, where only domains can be".into());
        }
        if (kind, granularity) == (1, 2) && self.global.mode() == 1 {
            self.violation(
                "context entries were invalidated by domain id, which they have not in scalable mode"
                    .into(),
            );
        }
        if kind == 4 && !self.config.ecap_bit(3) {
            self.violation("interrupt entries were invalidated, where there are none".into());
        }
    }
}

/// The first and the last address of a power of two of pages.
fn range(addr: u64, pages: u64) -> (u64, u64) {
    let below = mask(u32::try_from(pages).unwrap_or(52).min(52) + 12);
    (addr & !below, addr | below)
}
