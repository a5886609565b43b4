//! What a unit can do, as far as this driver makes use of it.

use iommu_core::{Culprit, Error, ErrorKind, RegisterBank, Result};

use crate::config::{Config, Mode};
use crate::spec::{self, AddressWidth, Cap, Drain, Ecap, Ver};

/// What a unit can do in the mode that it is driven in. Capabilities that are not known here count
/// for nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Features {
    /// The version of the architecture: major and minor.
    pub version: (u8, u8),
    /// Whether it is driven in scalable mode.
    pub scalable: bool,
    /// The second stage, where there is one.
    pub second_stage: Option<SecondStageFeatures>,
    /// The page sizes of the first stage, a bit for each; 0 where there is no first stage.
    pub first_stage_pages: u64,
    /// What entries that pass through say of their width, where there can be such entries.
    pub pass_through: Option<AddressWidth>,
    /// The width of physical addresses that tables can name, at most 48.
    pub output_bits: u8,
    /// The largest domain id.
    pub max_domain_id: u16,
    /// The largest PASID of a device, 0 where there are none.
    pub max_pasid: u32,
    /// What is not present may be cached (CAP.CM).
    pub caching_mode: bool,
    /// Changes in memory are seen after the next invalidation only (CAP.RWBF).
    pub write_buffers: bool,
    /// The largest address mask of an IOTLB invalidation by pages; `None` where there is none.
    pub page_invalidation: Option<u8>,
    /// What IOTLB invalidations can drain.
    pub drain: Drain,
    /// Page-table walks of scalable mode can see the CPU's caches.
    pub walk_snoop: bool,
    /// There are protected memory regions.
    pub protected_regions: bool,
    /// The offset of the first fault recording register.
    pub fault_records: usize,
    /// The number of fault recording registers: 1 to 256.
    pub fault_record_count: usize,
}

/// What a second stage can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SecondStageFeatures {
    /// Tables of 3 levels, for addresses of 39 bits.
    pub three_levels: bool,
    /// Tables of 4 levels, for addresses of 48 bits.
    pub four_levels: bool,
    /// The widest address that is translated, at most 48 bits.
    pub input_bits: u8,
    /// The page sizes, a bit for each.
    pub pages: u64,
}

/// PASID directories have as many entries as fit the smallest size there is.
const DIRECTORY_PASIDS: u32 = 128 * spec::TABLE_PASIDS;

const fn pages(two_mib: bool, one_gib: bool) -> u64 {
    1 << 12 | (two_mib as u64) << 21 | (one_gib as u64) << 30
}

fn refused(kind: ErrorKind, reason: &'static str, name: &'static str, value: u64) -> Error {
    Error::new(kind, reason).of(Culprit::Register { name, value })
}

impl Features {
    /// Reads the identification registers and refuses what cannot work. Writes nothing.
    pub(crate) fn read(bank: &impl RegisterBank, coherent: bool, config: &Config) -> Result<Self> {
        if bank.len() < spec::FIXED_END {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "the register bank is too small for a remapping unit",
            ));
        }
        let ver = Ver::from_bits(bank.read32(spec::VER));
        let cap = Cap::from_bits(bank.read64(spec::CAP));
        let ecap = Ecap::from_bits(bank.read64(spec::ECAP));
        if ver.major() == 0 {
            return Err(refused(
                ErrorKind::Unsupported,
                "not a version of the architecture",
                "VER_REG",
                ver.into_bits().into(),
            ));
        }
        let features = Self::decode(ver, cap, ecap, config)?;
        let in_cap = |kind, reason| Err(refused(kind, reason, "CAP_REG", cap.into_bits()));
        let end = features.fault_records + features.fault_record_count * spec::FRCD_SIZE;
        if features.fault_records < spec::FIXED_END {
            let reason = "the fault recording registers lie on top of other registers";
            return in_cap(ErrorKind::Hardware, reason);
        }
        if end > bank.len() {
            let reason = "the fault recording registers lie beyond the end of the register bank";
            return in_cap(ErrorKind::InvalidArgument, reason);
        }
        let sees_caches = ecap.c() && (!features.scalable || ecap.smpwc());
        if coherent && !sees_caches {
            return Err(refused(
                ErrorKind::InvalidArgument,
                "table walks do not see the CPU's caches, but the platform's memory says they do",
                "ECAP_REG",
                ecap.into_bits(),
            ));
        }
        Ok(features)
    }

    fn decode(ver: Ver, cap: Cap, ecap: Ecap, config: &Config) -> Result<Self> {
        if cap.nd() == 7 {
            return Err(refused(
                ErrorKind::Hardware,
                "the number of domain ids is a reserved encoding",
                "CAP_REG",
                cap.into_bits(),
            ));
        }
        let in_ecap = |reason| {
            let bits = ecap.into_bits();
            Err(refused(ErrorKind::Unsupported, reason, "ECAP_REG", bits))
        };
        if !ecap.qi() {
            return in_ecap("the unit has no invalidation queue");
        }
        let legacy_translates = cap.sagaw() & 0b110 != 0;
        let scalable = match config.mode {
            Mode::Legacy => false,
            Mode::Scalable => true,
            Mode::Auto => !legacy_translates && ecap.smts() && ecap.fsts(),
        };
        if scalable && !ecap.smts() {
            return in_ecap("the unit has no scalable mode");
        }
        let input_bits = (cap.mgaw() + 1).min(48);
        let host_bits = config.host_address_bits.unwrap_or(input_bits);
        let second_stage = (legacy_translates && (!scalable || ecap.ssts())).then(|| {
            let four_levels = cap.sagaw() & 0b100 != 0;
            SecondStageFeatures {
                three_levels: cap.sagaw() & 0b010 != 0,
                four_levels,
                input_bits: input_bits.min(if four_levels { 48 } else { 39 }),
                pages: pages(cap.sslps() & 0b01 != 0, cap.sslps() & 0b10 != 0),
            }
        });
        let first_stage = scalable && ecap.fsts();
        // Reserved in scalable mode without second stage (9.6, AW).
        let width = if scalable && !ecap.ssts() {
            Some(AddressWidth::NONE)
        } else {
            widest(cap)
        };
        let pasids = scalable && ecap.pasid();
        let pasid_bits = u32::from(ecap.pss()) + 1;
        Ok(Self {
            version: (ver.major(), ver.minor()),
            scalable,
            // The page tables of the core begin there.
            second_stage: second_stage.filter(|stage| stage.input_bits >= 32),
            first_stage_pages: if first_stage {
                pages(true, cap.fs1gp())
            } else {
                0
            },
            pass_through: width.filter(|_| ecap.pt()),
            output_bits: host_bits.min(48),
            max_domain_id: ((1_u32 << (4 + 2 * cap.nd())) - 1).min(0xffff) as u16,
            max_pasid: if pasids {
                ((1 << pasid_bits.min(20)) - 1).min(DIRECTORY_PASIDS - 1)
            } else {
                0
            },
            caching_mode: cap.cm(),
            write_buffers: cap.rwbf(),
            page_invalidation: cap.psi().then(|| cap.mamv()),
            drain: Drain {
                reads: cap.drd(),
                writes: cap.dwd(),
            },
            walk_snoop: scalable && ecap.smpwc(),
            protected_regions: cap.plmr() || cap.phmr(),
            fault_records: usize::from(cap.fro()) * 16,
            fault_record_count: usize::from(cap.nfr()) + 1,
        })
    }

    /// Whether an entry that was not present has to be invalidated too when it becomes present.
    pub(crate) const fn invalidates_fresh(&self) -> bool {
        self.caching_mode || self.write_buffers
    }
}

/// The greatest depth there is: what entries that pass through name.
fn widest(cap: Cap) -> Option<AddressWidth> {
    let widths = [
        (1 << 3, AddressWidth::BITS_57),
        (1 << 2, AddressWidth::BITS_48),
        (1 << 1, AddressWidth::BITS_39),
    ];
    let has = |(bit, _): &(u8, AddressWidth)| cap.sagaw() & bit != 0;
    widths.into_iter().find(has).map(|(_, width)| width)
}
