//! Two threads that lend and take back in one domain, while the device hammers at every address that
//! they use or used: it never reaches a page after its unmap returned.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use iommu_core::dma::{Bidirectional, Dma};
use iommu_core::{AddrRange, DmaBlock, Domain, Iova, PhysAddr, Prot};
use mock_hw::{DmaDevice, MockMemory, Outcome};

use super::setup::{PAGE, Setup};

const OWNERS: usize = 2;
/// How often each owner lends and takes back.
const ROUNDS: usize = 400;
/// Every so many rounds it is a whole table of pages.
const LARGE: usize = 16;
/// So many addresses of each owner are hammered at, the last ones.
const RECENT: usize = 6;
/// So many blocks has each owner to lend, in turn.
const BLOCKS: usize = 12;
const M2: usize = 2 << 20;
const WORDS: usize = PAGE / 8;

/// What a page begins with while it is lent, beside where.
const LENT: u64 = 0x1e47_0000_0000_0000;
/// What it begins with while it is not, twice.
const TAKEN: u64 = 0x7a4e_7a4e_7a4e_7a4e;

/// The device, and what it is told to hammer at.
struct Hammer<'a> {
    device: &'a DmaDevice,
    board: [AtomicU64; OWNERS * RECENT],
    /// How often it went through all of the board.
    passes: AtomicUsize,
    enough: AtomicBool,
    /// Held for as long as an access is under way. Hardware confirms an invalidation when those are
    /// over that used what was invalidated; the models make accesses in two steps, and do not wait.
    under_way: Mutex<()>,
}

impl<'a> Hammer<'a> {
    fn new(device: &'a DmaDevice) -> Self {
        Self {
            device,
            board: [const { AtomicU64::new(0) }; OWNERS * RECENT],
            passes: AtomicUsize::new(0),
            enough: AtomicBool::new(false),
            under_way: Mutex::new(()),
        }
    }

    /// Hammers until told that it is enough. How many reads got through, or what went wrong.
    fn run(&self) -> Result<usize, String> {
        let mut through = 0;
        let mut result = Ok(());
        while !self.enough.load(Ordering::Relaxed) {
            for iova in &self.board {
                let iova = iova.load(Ordering::Relaxed);
                if iova == 0 || result.is_err() {
                    continue;
                }
                match self.access(iova) {
                    Ok(reached) => through += usize::from(reached),
                    Err(what) => result = Err(what),
                }
            }
            // Owners wait for this, whatever went wrong.
            self.passes.fetch_add(1, Ordering::Relaxed);
            thread::yield_now();
        }
        result.map(|()| through)
    }

    /// Reads a word, and writes the next. Whether they were there.
    fn access(&self, iova: u64) -> Result<bool, String> {
        let _guard = self.hold();
        let mut word = [0; 8];
        let outcome = self.device.read(iova, &mut word);
        let word = u64::from_le_bytes(word);
        // Taken back meanwhile, or not: what it leaves in a page that was is found there.
        let _ = self.device.write(iova + 8, b"hammered");
        match outcome {
            Outcome::Translated(_) if word == LENT || word == LENT | iova => Ok(true),
            Outcome::Translated(phys) => {
                Err(format!("at {iova:#x} the device reads {word:#x} of {phys}"))
            }
            _ => Ok(false),
        }
    }

    fn hold(&self) -> impl Drop {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the device hammer at `iova`, in place of the oldest of the owner's, and waits until it has
    /// been there.
    fn at(&self, owner: usize, round: usize, iova: u64) {
        let slot = owner * RECENT + round % RECENT;
        self.board[slot].store(iova, Ordering::Relaxed);
        let passes = self.passes.load(Ordering::Relaxed);
        while self.passes.load(Ordering::Relaxed) < passes + 2 {
            thread::yield_now();
        }
    }

    /// Waits until what was under way is over.
    fn drain(&self) {
        drop(self.hold());
    }
}

/// Marks each page of a block: as lent at `at`, or as taken back.
fn mark(block: &DmaBlock<MockMemory>, at: Option<u64>) {
    for page in 0..block.size() / PAGE {
        let lent = |at: u64| LENT | (at + (page * PAGE) as u64);
        block.store(page * WORDS, at.map_or(TAKEN, lent));
        block.store(page * WORDS + 1, TAKEN);
    }
}

/// Nobody wrote there since it was taken back.
fn check(block: &DmaBlock<MockMemory>) {
    for page in 0..block.size() / PAGE {
        let words = [0, 1].map(|word| block.load(page * WORDS + word));
        assert_eq!(words, [TAKEN; 2], "page {page} of {block:x?}");
    }
}

/// Runs owners, each told its number, while the device hammers.
fn run(device: &DmaDevice, owner: impl Fn(&Hammer<'_>, usize) + Sync) {
    let hammer = Hammer::new(device);
    thread::scope(|scope| {
        let hammering = scope.spawn(|| hammer.run());
        let owners = [0, 1].map(|number| {
            let (owner, hammer) = (&owner, &hammer);
            scope.spawn(move || owner(hammer, number))
        });
        let owners = owners.map(thread::ScopedJoinHandle::join);
        hammer.enough.store(true, Ordering::Relaxed);
        let through = hammering.join().unwrap().unwrap();
        owners.into_iter().for_each(|owner| owner.unwrap());
        assert!(through > ROUNDS, "only {through} reads got through");
    });
}

fn blocks(memory: &MockMemory) -> Vec<DmaBlock<MockMemory>> {
    let block = |n: usize| {
        let block = DmaBlock::new(memory, (1 + n % 4) * PAGE, PAGE, "a buffer").unwrap();
        mark(&block, None);
        block
    };
    (0..BLOCKS).map(block).collect()
}

/// From here on addresses are mapped by hand.
const BY_HAND: u64 = 1 << 38;

/// Where an owner maps in a round. Both use the same tables, and soon the next ones; but those that a
/// large block fills are its own.
fn place(owner: usize, round: usize) -> u64 {
    let (table, slot) = match round % LARGE {
        0 => ((1 << 12) + round * OWNERS + owner, 0),
        slot => (round / LARGE, (slot * OWNERS + owner) * 4),
    };
    BY_HAND + (table * M2 + slot * PAGE) as u64
}

fn maps_by_hand(hammer: &Hammer<'_>, owner: usize, domain: &Domain, memory: &MockMemory) {
    let blocks = blocks(memory);
    // Not aligned to 2 MiB, so by pages.
    let _page = DmaBlock::new(memory, PAGE, M2, "a page at a boundary").unwrap();
    let large = DmaBlock::new(memory, M2, PAGE, "a large buffer").unwrap();
    mark(&large, None);
    for round in 0..ROUNDS {
        let block = match round % LARGE {
            0 => &large,
            _ => &blocks[round % BLOCKS],
        };
        check(block);
        let (iova, len) = (place(owner, round), block.size() as u64);
        mark(block, Some(iova));
        let to: PhysAddr = block.addr();
        // SAFETY: the block is kept, and marked before and after; its words are atomic.
        unsafe { domain.map(Iova(iova), to, len, Prot::READ | Prot::WRITE) }.unwrap();
        let page = round * 7 % (block.size() / PAGE) * PAGE;
        hammer.at(owner, round, iova + page as u64);
        domain.unmap(Iova(iova), len).unwrap();
        hammer.drain();
        mark(block, None);
    }
    blocks.iter().chain([&large]).for_each(check);
}

#[test]
fn a_hammering_device_never_reaches_what_two_threads_unmapped() {
    for setup in Setup::both() {
        setup.slow_down();
        let (device, dma) = setup.nic();
        dma.reserve(AddrRange::new(BY_HAND, 1 << 38).unwrap())
            .unwrap();
        let domain = device.domain().unwrap();
        let memory = &setup.memory;
        run(&setup.hardware, |hammer, owner| {
            maps_by_hand(hammer, owner, &domain, memory);
        });
        setup.check();
    }
}

fn maps_and_unmaps(hammer: &Hammer<'_>, owner: usize, dma: &Dma<MockMemory>, memory: &MockMemory) {
    let mut blocks: VecDeque<_> = blocks(memory).into();
    for round in 0..ROUNDS {
        let block = blocks.pop_front().unwrap();
        check(&block);
        // Where it will be nobody knows yet.
        (0..block.size() / PAGE).for_each(|page| block.store(page * WORDS, LENT));
        let page = round * 7 % (block.size() / PAGE) * PAGE;
        let lent = dma.map(block, Bidirectional).unwrap();
        hammer.at(owner, round, lent.iova().0 + page as u64);
        let block = lent.unmap().unwrap();
        hammer.drain();
        mark(&block, None);
        blocks.push_back(block);
    }
    blocks.iter().for_each(check);
}

#[test]
fn a_hammering_device_never_reaches_what_two_threads_took_back() {
    for setup in Setup::both() {
        setup.slow_down();
        let (_device, dma) = setup.nic();
        let memory = &setup.memory;
        run(&setup.hardware, |hammer, owner| {
            maps_and_unmaps(hammer, owner, &dma, memory);
        });
        setup.check();
    }
}
