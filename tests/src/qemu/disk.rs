//! An NVMe disk as a DMA master that reaches many pages by one command.
//!
//! From the NVM Express Base Specification 1.4: registers 3.1, queues 4.1 to 4.6, PRPs 4.3, admin
//! commands 5.3 and 5.4; the read is 6.9.

use std::cell::Cell;
use std::time::{Duration, Instant};

use iommu_core::{Iova, MappedBlock, StreamId};
use mock_hw::MockMemory;

use super::error::QemuError;
use super::pci::{AddressSpace, Function};
use super::qtest::Qtest;

/// Device 0x0010 of vendor 0x1b36.
pub(super) const DISK_ID: u32 = 0x0010_1b36;

const CONFIGURATION: u64 = 0x14;
/// Entries of 16 bytes for completions, of 64 for commands; enabled.
const ENABLE: u32 = 4 << 20 | 6 << 16 | 1;
const STATUS: u64 = 0x1c;
const READY: u32 = 1;
const ADMIN_SIZES: u64 = 0x24;
const ADMIN_COMMANDS: u64 = 0x28;
const ADMIN_COMPLETIONS: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;

const CREATE_SUBMISSION_QUEUE: u64 = 0x01;
const CREATE_COMPLETION_QUEUE: u64 = 0x05;
const READ: u64 = 0x02;
const NAMESPACE_1: u64 = 1 << 32;

/// Entries of each queue; completions come in order, a phase bit tells those of each round.
const ENTRIES: u32 = 32;
const PAGE: u64 = 4096;
const BLOCKS_PER_PAGE: u64 = 8;

const BOUND: Duration = Duration::from_secs(20);

/// An NVMe disk that has no medium: a read takes as long as its DMA takes to be set up, which
/// translates each page, and changes no memory.
///
/// All methods panic where QEMU does not answer or the disk does not finish.
#[derive(Clone, Debug)]
pub struct Disk {
    qtest: Qtest,
    bar: u64,
    stream: StreamId,
}

impl Disk {
    pub(super) fn enable(
        qtest: &Qtest,
        function: Function,
        space: &mut AddressSpace,
    ) -> Result<Self, QemuError> {
        let bar = function.enable(&mut qtest.session(), space)?;
        Ok(Self {
            qtest: qtest.clone(),
            bar,
            stream: StreamId(function.bdf()),
        })
    }

    /// The StreamID of the disk's transactions.
    #[must_use]
    pub fn stream_id(&self) -> StreamId {
        self.stream
    }

    /// Brings the disk up, with its queues in `memory`, of [`SIZE`](DiskQueues::SIZE) bytes.
    ///
    /// # Panics
    ///
    /// Where the disk does not come up.
    #[must_use]
    pub fn start(&self, memory: MappedBlock<MockMemory>) -> DiskQueues {
        let queues = DiskQueues {
            disk: self.clone(),
            memory,
            admin: Pair::new(0),
            reads: Pair::new(1),
        };
        let sizes = ENTRIES - 1;
        self.write32(ADMIN_SIZES, sizes << 16 | sizes);
        let admin = [
            (ADMIN_COMMANDS, Page::AdminCommands),
            (ADMIN_COMPLETIONS, Page::AdminCompletions),
        ];
        for (register, page) in admin {
            self.qtest.writeq(self.bar + register, queues.at(page).0);
        }
        self.write32(CONFIGURATION, ENABLE);
        until("came up", || {
            self.qtest.readl(self.bar + STATUS) & READY != 0
        });
        // Queue 1, its memory in one piece, without an interrupt; its commands complete in queue 1.
        let queue = u64::from(sizes) << 16 | 1;
        let (in_one_piece, of_queue_1) = (1 << 32, 1 << 48);
        let completions = [queues.at(Page::Completions).0, 0];
        let commands = [queues.at(Page::Commands).0, 0];
        let flags = [queue | in_one_piece, 0];
        queues.run(&queues.admin, CREATE_COMPLETION_QUEUE, completions, flags);
        let flags = [queue | in_one_piece | of_queue_1, 0];
        queues.run(&queues.admin, CREATE_SUBMISSION_QUEUE, commands, flags);
        queues
    }

    fn write32(&self, register: u64, value: u32) {
        self.qtest.writel(self.bar + register, value);
    }
}

/// The pages of the disk's memory.
#[derive(Clone, Copy)]
enum Page {
    AdminCommands,
    AdminCompletions,
    Commands,
    Completions,
    /// Where the pages of a read are, after the first.
    Places,
}

/// A disk that reads.
#[derive(Debug)]
pub struct DiskQueues {
    disk: Disk,
    memory: MappedBlock<MockMemory>,
    admin: Pair,
    reads: Pair,
}

/// A queue of commands and one of completions.
#[derive(Debug)]
struct Pair {
    number: u64,
    /// How many commands were run.
    count: Cell<u32>,
}

impl Pair {
    fn new(number: u64) -> Self {
        let count = Cell::new(0);
        Self { number, count }
    }
}

impl DiskQueues {
    /// The size of the queues' memory, in bytes.
    pub const SIZE: u64 = 5 * PAGE;
    /// The most pages of a read.
    pub const PAGES: u64 = PAGE / 8 + 1;

    /// Reads into `count` pages of 4 KiB from `iova` on.
    ///
    /// # Panics
    ///
    /// Where the disk does not finish, or not well; where there are fewer than 3 or more than
    /// [`PAGES`](Self::PAGES).
    pub fn read(&self, iova: Iova, count: u64) {
        assert!((3..=Self::PAGES).contains(&count), "{count} pages");
        for (word, page) in (0..).zip(1..count) {
            self.store(Page::Places, word, iova.0 + page * PAGE);
        }
        let pages = [iova.0, self.at(Page::Places).0];
        let blocks = count * BLOCKS_PER_PAGE - 1;
        self.run(&self.reads, READ | NAMESPACE_1, pages, [0, blocks]);
    }

    /// Runs one command: its first word, where its data are, and its own parameters.
    fn run(&self, pair: &Pair, what: u64, data: [u64; 2], parameters: [u64; 2]) {
        let (commands, completions) = match pair.number {
            0 => (Page::AdminCommands, Page::AdminCompletions),
            _ => (Page::Commands, Page::Completions),
        };
        let count = pair.count.replace(pair.count.get() + 1);
        let (slot, next) = (count % ENTRIES, (count + 1) % ENTRIES);
        let what = what | u64::from(slot) << 16;
        let ([data, more], [first, second]) = (data, parameters);
        let command = [what, 0, 0, data, more, first, second, 0];
        for (word, value) in (slot * 8..).zip(command) {
            self.store(commands, word, value);
        }
        let doorbell = DOORBELLS + pair.number * 8;
        self.disk.write32(doorbell, next);
        let phase = u64::from((count / ENTRIES).is_multiple_of(2));
        let mut completion = 0;
        until("completed a command", || {
            completion = self.memory.block().load(index(completions, slot * 2 + 1));
            completion >> 48 & 1 == phase
        });
        assert_eq!(completion >> 49, 0, "the status of {command:x?}");
        self.disk.write32(doorbell + 4, next);
    }

    fn at(&self, page: Page) -> Iova {
        Iova(self.memory.iova().0 + page as u64 * PAGE)
    }

    fn store(&self, page: Page, word: u32, value: u64) {
        self.memory.block().store(index(page, word), value);
    }
}

fn index(page: Page, word: u32) -> usize {
    page as usize * 512 + word as usize
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < BOUND, "the disk never {what}");
    }
}
