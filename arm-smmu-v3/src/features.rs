//! What an SMMU can do, from its identification registers.

use iommu_core::{Culprit, Error, ErrorKind, RegisterBank, Result};

use crate::spec::granule::Granule;
use crate::spec::registers::{Aidr, Idr0, Idr1, Idr3, Idr5, offset};

/// Identification registers, as read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdRegisters {
    /// `SMMU_IDR0`.
    pub idr0: Idr0,
    /// `SMMU_IDR1`.
    pub idr1: Idr1,
    /// `SMMU_IDR3`.
    pub idr3: Idr3,
    /// `SMMU_IDR5`.
    pub idr5: Idr5,
    /// `SMMU_AIDR`.
    pub aidr: Aidr,
}

impl IdRegisters {
    pub(crate) fn read(bank: &impl RegisterBank) -> Self {
        Self {
            idr0: bank.read32(offset::IDR0).into(),
            idr1: bank.read32(offset::IDR1).into(),
            idr3: bank.read32(offset::IDR3).into(),
            idr5: bank.read32(offset::IDR5).into(),
            aidr: bank.read32(offset::AIDR).into(),
        }
    }
}

/// What an SMMU can do, of what this driver uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// Bits of a StreamID.
    pub stream_bits: u32,
    /// 2-level stream tables.
    pub two_level_table: bool,
    /// log2 of the largest command queue.
    pub command_queue_log2: u8,
    /// log2 of the largest event queue.
    pub event_queue_log2: u8,
    /// Stage 1.
    pub stage1: bool,
    /// Stage 2.
    pub stage2: bool,
    /// The largest ASID.
    pub max_asid: u16,
    /// The largest VMID.
    pub max_vmid: u16,
    /// The granules that tables can have: the sizes of their pages, a bit for each.
    pub granules: u64,
    /// Bits of a physical address that the driver uses: at most 48, which all its formats have.
    pub output_bits: u8,
    /// The encoding of `output_bits` for `STE.S2PS` and `CD.IPS`.
    pub output_size: u8,
    /// EL2 translations exist and may be cached.
    pub el2: bool,
    /// Walks and queue accesses see the CPU's caches, by the hardware's own account.
    pub coherent: bool,
    /// Stalls exist, and are turned off for each stream.
    pub stalls: bool,
    /// `STE.SHCFG` is obeyed.
    pub shareability_override: bool,
    /// Interrupts can be messages.
    pub msi: bool,
    /// CPUs' broadcast invalidation reaches the TLB unless told not to.
    pub broadcast: bool,
    /// Invalidations can name ranges and levels.
    pub range_invalidation: bool,
    /// A block may become a table of the same translations, and back, without having been invalid
    /// in between.
    pub live_resizing: bool,
    /// ATS exists. What a device claims to have translated is checked: it passes where the stream's
    /// entry allows ATS.
    pub ats: bool,
}

fn refuse(reason: &'static str, name: &'static str, value: u32) -> Error {
    Error::new(ErrorKind::Unsupported, reason).of(Culprit::Register {
        name,
        value: value.into(),
    })
}

impl Features {
    /// What the registers say.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] with the reason and the register, for hardware that this driver
    /// cannot drive. Encodings that are reserved count as that.
    pub fn decode(id: &IdRegisters) -> Result<Self> {
        let IdRegisters {
            idr0,
            idr1,
            idr3,
            idr5,
            aidr,
        } = *id;
        let no = |reason, name, value| Err(refuse(reason, name, value));
        if aidr.major() != 0 {
            return no("not an SMMUv3", "SMMU_AIDR", aidr.into());
        }
        if idr1.tables_preset() || idr1.queues_preset() || idr1.rel() {
            return no(
                "tables or queues at preset places",
                "SMMU_IDR1",
                idr1.into(),
            );
        }
        if idr1.sidsize() > 32 {
            return no("a reserved StreamID size", "SMMU_IDR1", idr1.into());
        }
        if idr1.cmdqs() == 0 || idr1.cmdqs() > 19 || idr1.eventqs() > 19 {
            return no(
                "a command queue of one entry or a reserved size",
                "SMMU_IDR1",
                idr1.into(),
            );
        }
        if !idr0.s1p() && !idr0.s2p() {
            return no("neither stage of translation", "SMMU_IDR0", idr0.into());
        }
        if idr0.ttf() & 0b10 == 0 {
            return no("no VMSAv8-64 tables", "SMMU_IDR0", idr0.into());
        }
        if !matches!(idr0.ttendian(), 0 | 2) {
            return no("no little-endian table walks", "SMMU_IDR0", idr0.into());
        }
        if idr0.stall_model() > 1 {
            return no(
                "faults stall and nothing can turn that off",
                "SMMU_IDR0",
                idr0.into(),
            );
        }
        let offered = [idr5.gran4k(), idr5.gran16k(), idr5.gran64k()];
        let granules = Granule::ALL.into_iter().zip(offered);
        let granules = granules.fold(0, |all, (granule, offered)| {
            all | u64::from(offered) << granule.shift()
        });
        if granules == 0 {
            return no("no granule", "SMMU_IDR5", idr5.into());
        }
        // Sizes beyond 48 bits, and encodings that later versions may define, contain 48 bits.
        let output_bits = idr5.output_bits().unwrap_or(48).min(48);
        Ok(Self {
            stream_bits: idr1.sidsize().into(),
            two_level_table: idr0.st_level() == 1,
            command_queue_log2: idr1.cmdqs(),
            event_queue_log2: idr1.eventqs(),
            stage1: idr0.s1p(),
            stage2: idr0.s2p(),
            max_asid: if idr0.asid16() { u16::MAX } else { 0xff },
            max_vmid: if idr0.vmid16() { u16::MAX } else { 0xff },
            granules,
            output_bits,
            output_size: idr5.oas().min(5),
            el2: idr0.hyp(),
            coherent: idr0.cohacc(),
            stalls: idr0.stall_model() == 0,
            shareability_override: idr1.attr_types_ovr(),
            msi: idr0.msi(),
            broadcast: idr0.btm(),
            range_invalidation: idr3.ril(),
            live_resizing: idr3.bbml() == 2,
            ats: idr0.ats(),
        })
    }

    /// The granule whose pages have `size` bytes, or the smallest, where the hardware has that.
    #[must_use]
    pub fn granule(&self, size: Option<u64>) -> Option<Granule> {
        Granule::ALL.into_iter().find(|granule| {
            self.granules & granule.size() != 0 && size.is_none_or(|size| size == granule.size())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What QEMU 10.0's SMMUv3 reports with both stages.
    const QEMU: [u32; 5] = [0x0d44_101b, 0x0273_0010, 0x1414, 0x74, 1];

    fn decode(registers: [u32; 5]) -> Result<Features> {
        let [idr0, idr1, idr3, idr5, aidr] = registers;
        Features::decode(&IdRegisters {
            idr0: idr0.into(),
            idr1: idr1.into(),
            idr3: idr3.into(),
            idr5: idr5.into(),
            aidr: aidr.into(),
        })
    }

    #[test]
    fn qemu_is_understood() {
        let features = decode(QEMU).unwrap();
        assert_eq!(
            features,
            Features {
                stream_bits: 16,
                two_level_table: true,
                command_queue_log2: 19,
                event_queue_log2: 19,
                stage1: true,
                stage2: true,
                max_asid: 0xffff,
                max_vmid: 0xffff,
                granules: 1 << 12 | 1 << 14 | 1 << 16,
                output_bits: 44,
                output_size: 4,
                el2: false,
                coherent: true,
                stalls: false,
                shareability_override: false,
                msi: false,
                broadcast: false,
                range_invalidation: true,
                live_resizing: true,
                ats: false,
            }
        );
    }

    #[test]
    fn hardware_that_cannot_work_is_refused_with_the_register() {
        let cases: [(usize, u32, u32, &str); 13] = [
            (0, 0b11, 0, "neither stage of translation"),
            (0, 0b11 << 2, 0b01 << 2, "no VMSAv8-64 tables"),
            (0, 0b11 << 21, 0b11 << 21, "no little-endian table walks"),
            (0, 0b11 << 21, 0b01 << 21, "no little-endian table walks"),
            (
                0,
                0b11 << 24,
                0b10 << 24,
                "faults stall and nothing can turn that off",
            ),
            (
                0,
                0b11 << 24,
                0b11 << 24,
                "faults stall and nothing can turn that off",
            ),
            (1, 1 << 30, 1 << 30, "tables or queues at preset places"),
            (1, 1 << 29, 1 << 29, "tables or queues at preset places"),
            (1, 0x3f, 33, "a reserved StreamID size"),
            (
                1,
                0x1f << 21,
                0,
                "a command queue of one entry or a reserved size",
            ),
            (
                1,
                0x1f << 21,
                20 << 21,
                "a command queue of one entry or a reserved size",
            ),
            (3, 0b111 << 4, 0, "no granule"),
            (4, 0xf0, 0x10, "not an SMMUv3"),
        ];
        for (register, mask, value, reason) in cases {
            let mut registers = QEMU;
            registers[register] = registers[register] & !mask | value;
            let error = decode(registers).unwrap_err();
            assert_eq!(
                (error.kind(), error.reason()),
                (ErrorKind::Unsupported, reason)
            );
            assert!(
                matches!(error.culprit(), Culprit::Register { .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn sizes_of_later_versions_are_used_up_to_48_bits() {
        for oas in [5, 6, 7] {
            let mut registers = QEMU;
            registers[3] = 0x70 | oas;
            let features = decode(registers).unwrap();
            assert_eq!((features.output_bits, features.output_size), (48, 5));
        }
    }

    #[test]
    fn no_value_of_any_register_makes_it_panic() {
        let mut seed = 1_u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 32) as u32
        };
        for _ in 0..10_000 {
            let _ = decode([next(), next(), next(), next(), next()]);
        }
    }
}
