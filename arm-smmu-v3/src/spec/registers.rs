//! The registers of the Non-secure programming interface (6.3): offsets and layouts.

use bitfield_struct::bitfield;

/// The size of the register file: pages 0 and 1, 64 KiB each (6.1).
pub const SIZE: usize = 0x2_0000;

/// Byte offsets from the start of page 0 (6.2).
#[expect(missing_docs, reason = "each is the register of that name")]
pub mod offset {
    pub const IDR0: usize = 0x00;
    pub const IDR1: usize = 0x04;
    pub const IDR3: usize = 0x0c;
    pub const IDR5: usize = 0x14;
    pub const AIDR: usize = 0x1c;
    pub const CR0: usize = 0x20;
    pub const CR0ACK: usize = 0x24;
    pub const CR1: usize = 0x28;
    pub const CR2: usize = 0x2c;
    pub const GBPA: usize = 0x44;
    pub const IRQ_CTRL: usize = 0x50;
    pub const IRQ_CTRLACK: usize = 0x54;
    pub const GERROR: usize = 0x60;
    pub const GERRORN: usize = 0x64;
    pub const GERROR_IRQ_CFG0: usize = 0x68;
    pub const STRTAB_BASE: usize = 0x80;
    pub const STRTAB_BASE_CFG: usize = 0x88;
    pub const CMDQ_BASE: usize = 0x90;
    pub const CMDQ_PROD: usize = 0x98;
    pub const CMDQ_CONS: usize = 0x9c;
    pub const EVENTQ_BASE: usize = 0xa0;
    pub const EVENTQ_IRQ_CFG0: usize = 0xb0;
    /// In page 1.
    pub const EVENTQ_PROD: usize = 0x1_00a8;
    /// In page 1.
    pub const EVENTQ_CONS: usize = 0x1_00ac;
}

/// `SMMU_IDR0` (6.3.1): what is implemented.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr0 {
    /// Stage 2.
    pub s2p: bool,
    /// Stage 1.
    pub s1p: bool,
    /// Table formats: bit 1 for VMSAv8-64.
    #[bits(2)]
    pub ttf: u8,
    /// Coherent access to tables and queues.
    pub cohacc: bool,
    /// Broadcast TLB maintenance.
    pub btm: bool,
    /// Hardware update of access and dirty flags.
    #[bits(2)]
    pub httu: u8,
    /// Dormant hint.
    pub dormhint: bool,
    /// EL2 stage 1.
    pub hyp: bool,
    /// ATS.
    pub ats: bool,
    /// Stage 1-only ATS not supported.
    pub ns1ats: bool,
    /// 16-bit ASIDs, else 8.
    pub asid16: bool,
    /// Message-signalled interrupts.
    pub msi: bool,
    /// Wake-up events for `CMD_SYNC`.
    pub sev: bool,
    /// Address translation operations.
    pub atos: bool,
    /// Page requests.
    pub pri: bool,
    /// VMID wildcards.
    pub vmw: bool,
    /// 16-bit VMIDs, else 8.
    pub vmid16: bool,
    /// 2-level CD tables.
    pub cd2l: bool,
    /// Virtual ATOS.
    pub vatos: bool,
    /// Endianness of table walks: 0 either, 2 little, 3 big.
    #[bits(2)]
    pub ttendian: u8,
    /// Errors of ATS requests are recorded.
    pub atsrecerr: bool,
    /// 0 stall and terminate, 1 terminate only, 2 stall only.
    #[bits(2)]
    pub stall_model: u8,
    /// Termination is always by abort.
    pub term_model: bool,
    /// 1 where 2-level stream tables are supported.
    #[bits(2)]
    pub st_level: u8,
    __: bool,
    /// Root and Realm states.
    pub rme_impl: bool,
    __: bool,
}

/// `SMMU_IDR1` (6.3.2): sizes.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr1 {
    /// Bits of a StreamID.
    #[bits(6)]
    pub sidsize: u8,
    /// Bits of a SubstreamID.
    #[bits(5)]
    pub ssidsize: u8,
    /// log2 of the largest PRI queue.
    #[bits(5)]
    pub priqs: u8,
    /// log2 of the largest event queue.
    #[bits(5)]
    pub eventqs: u8,
    /// log2 of the largest command queue.
    #[bits(5)]
    pub cmdqs: u8,
    /// Permission attributes can be overridden.
    pub attr_perms_ovr: bool,
    /// Memory types can be overridden.
    pub attr_types_ovr: bool,
    /// The preset bases are relative to the registers.
    pub rel: bool,
    /// The queues' places are fixed.
    pub queues_preset: bool,
    /// The tables' places are fixed.
    pub tables_preset: bool,
    /// Enhanced command queues.
    pub ecmdq: bool,
}

/// `SMMU_IDR3` (6.3.4): features added by later versions. Of its fields, those used here.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr3 {
    #[bits(8)]
    __: u8,
    /// Stage 2 can force write-back.
    pub fwb: bool,
    /// Small translation tables.
    pub stt: bool,
    /// Range invalidation.
    pub ril: bool,
    /// How a block may be replaced by a table and back.
    #[bits(2)]
    pub bbml: u8,
    #[bits(19)]
    __: u32,
}

/// `SMMU_IDR5` (6.3.6): address sizes.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr5 {
    /// Output address size, encoded; see [`Idr5::output_bits`].
    #[bits(3)]
    pub oas: u8,
    __: bool,
    /// 4 KiB granule.
    pub gran4k: bool,
    /// 16 KiB granule.
    pub gran16k: bool,
    /// 64 KiB granule.
    pub gran64k: bool,
    /// 52-bit addresses with small granules.
    pub ds: bool,
    /// 128-bit descriptors.
    pub d128: bool,
    __: bool,
    /// Input addresses: 0 for 48 bits, 1 for 52, 2 for 56.
    #[bits(2)]
    pub vax: u8,
    #[bits(4)]
    __: u8,
    /// How many transactions can be stalled.
    pub stall_max: u16,
}

impl Idr5 {
    /// The bits of an output address; `None` for an encoding that is reserved.
    #[must_use]
    pub const fn output_bits(self) -> Option<u8> {
        match self.oas() {
            0 => Some(32),
            1 => Some(36),
            2 => Some(40),
            3 => Some(42),
            4 => Some(44),
            5 => Some(48),
            6 => Some(52),
            _ => None,
        }
    }
}

/// `SMMU_AIDR` (6.3.8): the architecture's version.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Aidr {
    /// Minor version.
    #[bits(4)]
    pub minor: u8,
    /// Major version; 0 is SMMUv3.
    #[bits(4)]
    pub major: u8,
    #[bits(24)]
    __: u32,
}

/// `SMMU_CR0` and `SMMU_CR0ACK` (6.3.9, 6.3.10): what is enabled.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cr0 {
    /// Translation.
    pub smmuen: bool,
    /// The PRI queue.
    pub priqen: bool,
    /// The event queue.
    pub eventqen: bool,
    /// The command queue.
    pub cmdqen: bool,
    /// Check ATS-translated transactions.
    pub atschk: bool,
    __: bool,
    /// VMID wildcard.
    #[bits(3)]
    pub vmw: u8,
    __: bool,
    /// Device permission table walks.
    pub dpt_walk_en: bool,
    #[bits(21)]
    __: u32,
}

/// `SMMU_CR1` (6.3.11): memory attributes of tables and queues. Cacheability: 0 none, 1
/// write-back, 2 write-through. Shareability: 0 none, 2 outer, 3 inner.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cr1 {
    /// Queues, inner cacheability.
    #[bits(2)]
    pub queue_ic: u8,
    /// Queues, outer cacheability.
    #[bits(2)]
    pub queue_oc: u8,
    /// Queues, shareability.
    #[bits(2)]
    pub queue_sh: u8,
    /// Tables, inner cacheability.
    #[bits(2)]
    pub table_ic: u8,
    /// Tables, outer cacheability.
    #[bits(2)]
    pub table_oc: u8,
    /// Tables, shareability.
    #[bits(2)]
    pub table_sh: u8,
    #[bits(20)]
    __: u32,
}

/// `SMMU_CR2` (6.3.12).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cr2 {
    /// EL2-E2H regime.
    pub e2h: bool,
    /// Record `C_BAD_STREAMID` for StreamIDs out of range.
    pub recinvsid: bool,
    /// Take no part in broadcast TLB maintenance.
    pub ptm: bool,
    /// Record configuration errors of ATS requests.
    pub rec_cfg_ats: bool,
    #[bits(28)]
    __: u32,
}

/// `SMMU_GBPA` (6.3.14): what happens to transactions while translation is off. The attribute
/// fields are kept as they are read.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Gbpa {
    #[bits(20)]
    attributes: u32,
    /// Abort them, instead of letting them pass.
    pub abort: bool,
    #[bits(10)]
    __: u16,
    /// Set in a write to make it count; cleared by the hardware when it does.
    pub update: bool,
}

impl Gbpa {
    /// The bits that are always zero.
    pub const RESERVED: u32 = 0x3ff << 21 | 0b11 << 14 | 0b111 << 5;
}

/// `SMMU_IRQ_CTRL` and `SMMU_IRQ_CTRLACK` (6.3.15).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IrqCtrl {
    /// Global errors.
    pub gerror: bool,
    /// The PRI queue.
    pub priq: bool,
    /// The event queue.
    pub eventq: bool,
    #[bits(29)]
    __: u32,
}

/// `SMMU_GERROR` and `SMMU_GERRORN` (6.3.17): an error is active while its bits differ.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Gerror {
    /// The command queue stopped; see `SMMU_CMDQ_CONS.ERR`.
    pub cmdq: bool,
    __: bool,
    /// A write to the event queue was aborted; events are lost.
    pub eventq_abt: bool,
    /// A write to the PRI queue was aborted.
    pub priq_abt: bool,
    /// The MSI of a `CMD_SYNC` was aborted.
    pub msi_cmdq_abt: bool,
    /// An MSI of the event queue was aborted.
    pub msi_eventq_abt: bool,
    /// An MSI of the PRI queue was aborted.
    pub msi_priq_abt: bool,
    /// An MSI of a global error was aborted.
    pub msi_gerror_abt: bool,
    /// Service failure mode: the SMMU has stopped working.
    pub sfm: bool,
    /// A command in a command queue control page failed.
    pub cmdqp: bool,
    /// A DPT walk failed.
    pub dpt: bool,
    #[bits(21)]
    __: u32,
}

/// `SMMU_STRTAB_BASE` (6.3.24), of which the address is `base & ADDRESS`.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct StrtabBase {
    #[bits(6)]
    __: u8,
    /// The address divided by 64.
    #[bits(50)]
    pub addr: u64,
    #[bits(6)]
    __: u8,
    /// Read-allocate hint.
    pub ra: bool,
    __: bool,
}

/// `SMMU_STRTAB_BASE_CFG` (6.3.25).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct StrtabBaseCfg {
    /// log2 of the number of StreamIDs covered.
    #[bits(6)]
    pub log2size: u8,
    /// Bits of a StreamID that index the second level: 6, 8 or 10.
    #[bits(5)]
    pub split: u8,
    #[bits(5)]
    __: u8,
    /// 0 linear, 1 two levels.
    #[bits(2)]
    pub fmt: u8,
    #[bits(14)]
    __: u16,
}

/// `SMMU_CMDQ_BASE` and `SMMU_EVENTQ_BASE` (6.3.26, 6.3.29).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct QueueBase {
    /// log2 of the number of entries.
    #[bits(5)]
    pub log2size: u8,
    /// The address divided by 32.
    #[bits(51)]
    pub addr: u64,
    #[bits(6)]
    __: u8,
    /// Allocation hint.
    pub allocate: bool,
    __: bool,
}

/// `SMMU_CMDQ_CONS` (6.3.28).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CmdqCons {
    /// Index and wrap bit of the next command.
    #[bits(20)]
    pub rd: u32,
    #[bits(4)]
    __: u8,
    /// Why the queue stopped; stays after recovery.
    #[bits(7)]
    pub err: u8,
    __: bool,
}

impl CmdqCons {
    /// The bits that are always zero.
    pub const RESERVED: u32 = 1 << 31 | 0xf << 20;
}

/// Reasons in [`CmdqCons::err`] (7.1).
pub mod cerror {
    /// No error.
    pub const NONE: u8 = 0;
    /// An illegal command.
    pub const ILL: u8 = 1;
    /// The fetch of a command was aborted.
    pub const ABT: u8 = 2;
    /// A `CMD_SYNC` found that an ATC invalidation had timed out.
    pub const ATC_INV_SYNC: u8 = 3;
}
