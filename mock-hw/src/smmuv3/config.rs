//! What stream table entries and context descriptors say, decoded (5.2, 5.4).

use iommu_core::PhysAddr;

/// What an SMMU does with a stream's transactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamConfig {
    /// There is no valid entry: transactions fault.
    Invalid,
    /// Transactions are refused silently.
    Abort,
    /// Transactions pass untranslated.
    Bypass,
    /// Transactions are translated by stage 1.
    Stage1 {
        /// Stage 1.
        stage1: Stage1,
        /// `EATS`: what ATS the stream may do.
        eats: u8,
    },
    /// Transactions are translated by stage 2.
    Stage2 {
        /// Stage 2.
        stage2: Stage2,
        /// `EATS`: what ATS the stream may do.
        eats: u8,
    },
    /// Transactions are translated by stage 1, and the results by stage 2.
    Nested {
        /// Stage 1, with addresses that stage 2 translates.
        stage1: Stage1,
        /// Stage 2.
        stage2: Stage2,
        /// `EATS`: what ATS the stream may do.
        eats: u8,
    },
}

/// A stream's stage 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage1 {
    /// The VMID that tags its TLB entries.
    pub vmid: u16,
    /// `S1ContextPtr`: its context descriptor or a table of them; an intermediate address if nested.
    pub context: PhysAddr,
    /// `S1CDMax`: the power of two that is the number of context descriptors.
    pub context_bits: u32,
    /// `S1Fmt`: how that table is laid out.
    pub format: u8,
    /// `S1DSS`: what becomes of transactions without substream where substreams are in use.
    pub default_substream: u8,
    /// `S1STALLD`: whether stalls are forbidden.
    pub stall_disabled: bool,
    /// Whether TLB entries belong to the hypervisor's own regime (`STRW` is NS-EL2).
    pub hypervisor: bool,
    /// `S1PIE`: whether its context descriptors may enable permission indirection.
    pub permission_indirection: bool,
    /// The descriptor of substream 0, if it is there and valid. Not looked up where nested.
    pub descriptor: Option<Context>,
}

/// A context descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// The ASID that tags TLB entries.
    pub asid: u16,
    /// `ASET`: whether the ASID is apart from those of CPUs.
    pub private_asid: bool,
    /// The tables for addresses whose bit 55 is 0, if enabled.
    pub low: Option<Tables>,
    /// The tables for addresses whose bit 55 is 1, if enabled.
    pub high: Option<Tables>,
    /// `TBI0`, `TBI1`: whether the top byte of low and high addresses is ignored.
    pub ignore_top_byte: [bool; 2],
    /// `HAD0`, `HAD1`: whether limits in table descriptors are ignored.
    pub ignore_table_limits: [bool; 2],
    /// `AFFD`: whether the access flag is taken as set.
    pub ignore_access_flag: bool,
    /// `A`: whether a refused transaction sees an error.
    pub abort: bool,
    /// `R`: whether faults are recorded.
    pub record: bool,
    /// `S`: whether faulting transactions stall.
    pub stall: bool,
    /// `MAIR1` and `MAIR0`.
    pub mair: u64,
}

/// A stream's stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2 {
    /// The VMID that tags TLB entries.
    pub vmid: u16,
    /// The tables.
    pub tables: Tables,
    /// `S2AFFD`: whether the access flag is taken as set.
    pub ignore_access_flag: bool,
    /// `S2R`: whether faults are recorded.
    pub record: bool,
    /// `S2S`: whether faulting transactions stall.
    pub stall: bool,
}

/// One tree of translation tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tables {
    /// The first table, aligned to its size; several concatenated ones count as one.
    pub root: PhysAddr,
    /// The number of address bits that are translated.
    pub input_bits: u32,
    /// The number of address bits that may come out.
    pub output_bits: u32,
    /// The size of a page as a power of two.
    pub granule_bits: u32,
    /// The level of the first table, 0 to 3.
    pub start_level: u32,
}
