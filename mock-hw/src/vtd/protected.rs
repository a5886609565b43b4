//! The protected memory regions (10.4.16 to 10.4.20): what firmware keeps devices out of until
//! translation takes over.

use super::State;
use super::global::Handshake;

/// Regions start and end at multiples of this.
const GRAIN: u64 = 0x10_0000;
const EPM: u32 = 1 << 31;
const PRS: u32 = 1 << 0;

#[derive(Default)]
pub(super) struct Protected {
    /// `PMEN_REG`, with `PRS` as it is in force.
    enable: u32,
    left: usize,
    /// `PLMBASE` and `PLMLIMIT`.
    pub(super) low: [u32; 2],
    /// `PHMBASE` and `PHMLIMIT`.
    pub(super) high: [u64; 2],
}

impl Protected {
    pub(super) fn is_on(&self) -> bool {
        self.enable & PRS != 0
    }
}

/// Whether a region from `base` to `limit`, both rounded outwards, contains an address. A limit
/// below its base is no region.
fn contains([base, limit]: [u64; 2], addr: u64) -> bool {
    (base & !(GRAIN - 1)..=limit | (GRAIN - 1)).contains(&addr)
}

impl State {
    pub(super) fn has_protected_regions(&self) -> bool {
        self.config.cap_bit(5) || self.config.cap_bit(6)
    }

    pub(super) fn write_pmen(&mut self, value: u32) {
        self.protected.enable = self.protected.enable & PRS | value & EPM;
        self.protected.left = self.config.ack_reads;
        self.settle_pmen();
    }

    pub(super) fn read_pmen(&mut self) -> u32 {
        let seen = self.protected.enable;
        self.protected.left = self.protected.left.saturating_sub(1);
        self.settle_pmen();
        seen
    }

    pub(super) fn settle_pmen(&mut self) {
        let stuck = self.global.stuck.contains(&Handshake::ProtectedMemory);
        if self.protected.left == 0 && !stuck {
            let on = if self.protected.enable & EPM != 0 {
                PRS
            } else {
                0
            };
            self.protected.enable = self.protected.enable & EPM | on;
        }
    }

    /// Whether devices are kept out of an address.
    pub(super) fn is_protected(&self, addr: u64) -> bool {
        let regions = &self.protected;
        let low = self.config.cap_bit(5) && contains(regions.low.map(u64::from), addr);
        let high = self.config.cap_bit(6) && contains(regions.high, addr);
        regions.is_on() && (low || high)
    }
}
