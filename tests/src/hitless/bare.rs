//! An SMMU without a driver: a stream table, two queues, and whoever writes into them.

use std::sync::Arc;

use arm_smmu_v3::spec::commands::Command;
use arm_smmu_v3::spec::registers::offset;
use iommu_core::{DmaBlock, DmaMemory, RegisterBank};
use mock_hw::MockMemory;

/// Memory that an SMMU reads.
pub type Block = Arc<DmaBlock<MockMemory>>;

/// The stream table has 2 to the power of this many entries.
const STREAM_BITS: u32 = 6;
/// And the queues this many.
const QUEUE_BITS: u32 = 7;
const QUEUE_MASK: u32 = (1 << QUEUE_BITS) - 1;
/// An index and its wrap bit.
const INDEX_MASK: u32 = (2 << QUEUE_BITS) - 1;

/// `CR0` (6.3.9): SMMUEN, EVENTQEN, CMDQEN.
const ENABLED: u32 = 0b1101;
/// `CR1` (6.3.11): tables and queues write-back, inner shareable.
const WRITE_BACK: u32 = 0x0d75;
/// `CR2.RECINVSID` (6.3.12).
const RECORD_BAD_STREAMS: u32 = 1 << 1;
/// No hardware here needs to be asked more often.
const LOOKS: usize = 1000;

/// An SMMU that translates, and nobody drives. No stream has a valid entry at first.
#[derive(Debug)]
pub struct Bare<B: RegisterBank> {
    bank: B,
    streams: Block,
    commands: DmaBlock<MockMemory>,
    events: DmaBlock<MockMemory>,
    produced: u32,
    consumed: u32,
}

impl<B: RegisterBank> Bare<B> {
    /// Brings up an SMMU that is as after reset (3.11).
    #[must_use]
    pub fn start(bank: B, memory: &MockMemory) -> Self {
        let block = |size: usize| DmaBlock::new(memory, size, size, "an SMMU's").unwrap();
        let (streams, commands, events) = (
            Arc::new(block(64 << STREAM_BITS)),
            block(16 << QUEUE_BITS),
            block(32 << QUEUE_BITS),
        );
        bank.write32(offset::CR1, WRITE_BACK);
        bank.write32(offset::CR2, RECORD_BAD_STREAMS);
        bank.write64(offset::STRTAB_BASE, streams.addr().0);
        bank.write32(offset::STRTAB_BASE_CFG, STREAM_BITS);
        let queue = |block: &DmaBlock<MockMemory>| block.addr().0 | u64::from(QUEUE_BITS);
        bank.write64(offset::CMDQ_BASE, queue(&commands));
        bank.write32(offset::CMDQ_PROD, 0);
        bank.write32(offset::CMDQ_CONS, 0);
        bank.write64(offset::EVENTQ_BASE, queue(&events));
        bank.write32(offset::EVENTQ_PROD, 0);
        bank.write32(offset::EVENTQ_CONS, 0);
        let mut smmu = Self {
            bank,
            streams,
            commands,
            events,
            produced: 0,
            consumed: 0,
        };
        smmu.enable(ENABLED & !1);
        for command in [
            Command::cfgi_all(),
            Command::sync(),
            Command::tlbi_nsnh_all(),
            Command::sync(),
        ] {
            smmu.submit(command);
        }
        smmu.enable(ENABLED);
        smmu
    }

    fn enable(&self, bits: u32) {
        self.bank.write32(offset::CR0, bits);
        let done = (0..LOOKS).any(|_| self.bank.read32(offset::CR0ACK) == bits);
        assert!(done, "CR0 = {bits:#x} is not acknowledged");
    }

    /// The stream table: 64 entries, one after the other.
    #[must_use]
    pub fn streams(&self) -> &Block {
        &self.streams
    }

    /// Has one command consumed.
    pub fn submit(&mut self, Command(words): Command) {
        let slot = (self.produced & QUEUE_MASK) as usize;
        self.commands.store(slot * 2, words[0]);
        self.commands.store(slot * 2 + 1, words[1]);
        self.commands.memory().write_barrier();
        self.produced = (self.produced + 1) & INDEX_MASK;
        self.bank.write32(offset::CMDQ_PROD, self.produced);
        let consumed = || self.bank.read32(offset::CMDQ_CONS) == self.produced;
        let done = (0..LOOKS).any(|_| consumed());
        assert!(done, "{words:x?} is not consumed");
    }

    /// Takes all events out of their queue: what each is (7.3).
    pub fn events(&mut self) -> Vec<u8> {
        let produced = self.bank.read32(offset::EVENTQ_PROD);
        assert_eq!(produced >> 31, 0, "events were lost");
        let mut events = Vec::new();
        while self.consumed != produced {
            let slot = (self.consumed & QUEUE_MASK) as usize;
            events.push(self.events.load(slot * 4).to_le_bytes()[0]);
            self.consumed = (self.consumed + 1) & INDEX_MASK;
        }
        if !events.is_empty() {
            self.bank.write32(offset::EVENTQ_CONS, self.consumed);
        }
        events
    }
}

impl<B: RegisterBank> Drop for Bare<B> {
    /// Nothing is in use any more.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.enable(0);
        }
    }
}
