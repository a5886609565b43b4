//! The registers, by the names that the specification gives them.

use bitfield_struct::bitfield;
use static_assertions::const_assert_eq;

/// Offset of the version register, 32 bits.
pub const VER: usize = 0x00;
/// Offset of the capability register, 64 bits.
pub const CAP: usize = 0x08;
/// Offset of the extended capability register, 64 bits.
pub const ECAP: usize = 0x10;
/// Offset of the global command register, 32 bits.
pub const GCMD: usize = 0x18;
/// Offset of the global status register, 32 bits.
pub const GSTS: usize = 0x1c;
/// Offset of the root table address register, 64 bits.
pub const RTADDR: usize = 0x20;
/// Offset of the fault status register, 32 bits.
pub const FSTS: usize = 0x34;
/// Offset of the protected memory enable register, 32 bits.
pub const PMEN: usize = 0x64;
/// Offset of the invalidation queue's head, 64 bits.
pub const IQH: usize = 0x80;
/// Offset of the invalidation queue's tail, 64 bits.
pub const IQT: usize = 0x88;
/// Offset of the invalidation queue's address, 64 bits.
pub const IQA: usize = 0x90;
/// Offset of the invalidation queue error record, 64 bits.
pub const IQERCD: usize = 0xb0;
/// Where the registers at fixed offsets end that this crate uses.
pub const FIXED_END: usize = 0xb8;
/// The bytes of one fault recording register.
pub const FRCD_SIZE: usize = 16;

/// VER_REG: which version of the architecture this is (11.4.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Ver {
    /// Bits 3:0: the minor version.
    #[bits(4)]
    pub minor: u8,
    /// Bits 7:4: the major version.
    #[bits(4)]
    pub major: u8,
    #[bits(24)]
    __: u32,
}

/// CAP_REG: what the hardware can do (11.4.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Cap {
    /// Bits 2:0: domain ids have 4 + 2 * this many bits; 7 is reserved.
    #[bits(3)]
    pub nd: u8,
    /// Bit 3: advanced fault logging.
    pub afl: bool,
    /// Bit 4: the hardware's write buffers have to be flushed after a change in memory.
    pub rwbf: bool,
    /// Bit 5: there is a low protected memory region.
    pub plmr: bool,
    /// Bit 6: there is a high protected memory region.
    pub phmr: bool,
    /// Bit 7: entries that are not present may be cached too.
    pub cm: bool,
    /// Bits 12:8: second-stage depths; bit 1 is 39-bit input, bit 2 is 48-bit, bit 3 is 57-bit.
    #[bits(5)]
    pub sagaw: u8,
    #[bits(3)]
    __: u8,
    /// Bits 21:16: the maximum guest address width, minus one.
    #[bits(6)]
    pub mgaw: u8,
    #[bits(2)]
    __: u8,
    /// Bits 33:24: where the fault recording registers are, in units of 16 bytes.
    #[bits(10)]
    pub fro: u16,
    /// Bits 37:34: second-stage pages; bit 0 is 2 MiB, bit 1 is 1 GiB.
    #[bits(4)]
    pub sslps: u8,
    #[bits(1)]
    __: u8,
    /// Bit 39: the IOTLB can be invalidated by pages.
    pub psi: bool,
    /// Bits 47:40: the number of fault recording registers, minus one.
    pub nfr: u8,
    /// Bits 53:48: the largest address mask of an invalidation by pages.
    #[bits(6)]
    pub mamv: u8,
    /// Bit 54: an IOTLB invalidation can drain writes that were translated before it.
    pub dwd: bool,
    /// Bit 55: an IOTLB invalidation can drain reads that were translated before it.
    pub drd: bool,
    /// Bit 56: first-stage pages of 1 GiB.
    pub fs1gp: bool,
    #[bits(7)]
    __: u8,
}

/// ECAP_REG: what else the hardware can do (11.4.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Ecap {
    /// Bit 0: the hardware's reads of its tables see the CPU's caches: of all in legacy mode, of
    /// all but paging entries in scalable mode.
    pub c: bool,
    /// Bit 1: queued invalidation.
    pub qi: bool,
    /// Bit 2: device TLBs (ATS).
    pub dt: bool,
    /// Bit 3: interrupt remapping.
    pub ir: bool,
    #[bits(2)]
    __: u8,
    /// Bit 6: the pass-through translation type.
    pub pt: bool,
    /// Bit 7: snoop control.
    pub sc: bool,
    #[bits(27)]
    __: u32,
    /// Bits 39:35: PASIDs have this many bits, and one more.
    #[bits(5)]
    pub pss: u8,
    /// Bit 40: requests with PASID.
    pub pasid: bool,
    #[bits(2)]
    __: u8,
    /// Bit 43: scalable mode.
    pub smts: bool,
    #[bits(2)]
    __: u8,
    /// Bit 46: second-stage translation in scalable mode.
    pub ssts: bool,
    /// Bit 47: first-stage translation.
    pub fsts: bool,
    /// Bit 48: in scalable mode, the hardware's reads of paging entries can see the CPU's caches.
    pub smpwc: bool,
    #[bits(15)]
    __: u16,
}

/// GCMD_REG: commands. Bits 31, 28, 26, 25 and 23 are switches that every write sets anew; the
/// others make something happen once.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Gcmd {
    #[bits(23)]
    __: u32,
    /// Bit 23: let interrupts in the compatibility format pass.
    pub cfi: bool,
    /// Bit 24, once: take over the interrupt remapping table's address.
    pub sirtp: bool,
    /// Bit 25: interrupt remapping.
    pub ire: bool,
    /// Bit 26: queued invalidation.
    pub qie: bool,
    /// Bit 27, once: flush the write buffers.
    pub wbf: bool,
    /// Bit 28: advanced fault logging.
    pub eafl: bool,
    /// Bit 29, once: take over the fault log's address.
    pub sfl: bool,
    /// Bit 30, once: take over the root table's address.
    pub srtp: bool,
    /// Bit 31: translation.
    pub te: bool,
}

/// GSTS_REG: what became of the commands, each at the position it has in [`Gcmd`].
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Gsts {
    #[bits(23)]
    __: u32,
    /// Bit 23: interrupts in the compatibility format pass.
    pub cfis: bool,
    /// Bit 24: the interrupt remapping table's address was taken over.
    pub irtps: bool,
    /// Bit 25: interrupt remapping is on.
    pub ires: bool,
    /// Bit 26: queued invalidation is on.
    pub qies: bool,
    /// Bit 27: a flush of the write buffers is under way.
    pub wbfs: bool,
    /// Bit 28: advanced fault logging is on.
    pub afls: bool,
    /// Bit 29: the fault log's address was taken over.
    pub fls: bool,
    /// Bit 30: the root table's address was taken over.
    pub rtps: bool,
    /// Bit 31: translation is on.
    pub tes: bool,
}

/// RTADDR_REG: where the root table is, and of which kind.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Rtaddr {
    #[bits(10)]
    __: u16,
    /// Bits 11:10: the translation table mode: 0 legacy, 1 scalable, 3 abort.
    #[bits(2)]
    pub ttm: u8,
    /// Bits 63:12: the root table's address, in units of 4 KiB.
    #[bits(52)]
    pub rta: u64,
}

/// FSTS_REG: faults that wait to be looked at (11.4.7.1). Writing 1 clears `pfo`, `iqe`, `ice` and
/// `ite`.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Fsts {
    /// Bit 0: faults were lost, and none are recorded until this is cleared.
    pub pfo: bool,
    /// Bit 1: there is a fault record.
    pub ppf: bool,
    #[bits(2)]
    __: u8,
    /// Bit 4: an error in the invalidation queue.
    pub iqe: bool,
    /// Bit 5: an error in a device's answer to an invalidation.
    pub ice: bool,
    /// Bit 6: a device did not answer an invalidation.
    pub ite: bool,
    #[bits(1)]
    __: u8,
    /// Bits 15:8: the index of the first fault record.
    pub fri: u8,
    __: u16,
}

/// IQA_REG: where the invalidation queue is (11.4.9.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Iqa {
    /// Bits 2:0: log2 of the queue's size in pages of 4 KiB.
    #[bits(3)]
    pub qs: u8,
    __: u8,
    /// Bit 11: descriptors have 256 bits instead of 128.
    pub dw: bool,
    /// Bits 63:12: the queue's address, in units of 4 KiB.
    #[bits(52)]
    pub iqa: u64,
}

/// IQERCD_REG: what was wrong with the invalidation queue (11.4.9.9). Zero where the hardware does
/// not have it.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Iqercd {
    /// Bits 3:0: why the hardware refused a descriptor; 0 where it does not say.
    #[bits(4)]
    pub iqei: u8,
    #[bits(28)]
    __: u32,
    /// Bits 47:32: the source id of the device that did not answer.
    pub itesid: u16,
    /// Bits 63:48: the source id of the device that answered wrongly.
    pub icesid: u16,
}

/// PMEN_REG: the regions of memory that firmware keeps all DMA out of, translated or not.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Pmen {
    /// Bit 0: the regions are protected.
    pub prs: bool,
    #[bits(30)]
    __: u32,
    /// Bit 31: protect the regions.
    pub epm: bool,
}

const_assert_eq!(size_of::<Gcmd>(), 4);
const_assert_eq!(size_of::<Gsts>(), 4);
const_assert_eq!(size_of::<Iqa>(), 8);
const_assert_eq!(size_of::<Iqercd>(), 8);
const_assert_eq!(size_of::<Rtaddr>(), 8);
