//! Devices that look at addresses when they are told to.

use std::cell::{Cell, RefCell};

use iommu_core::{DmaBlock, DomainRef, Iova, PhysAddr, Prot, Result};
use mock_hw::{DmaDevice, MockMemory, Outcome};

use crate::qemu::Edu;

/// A device on a domain.
pub trait Prober {
    /// The device was attached to `domain`, where nothing of the prober's is mapped yet.
    ///
    /// # Errors
    ///
    /// What the prober needs cannot be mapped.
    fn attached(&self, domain: &DomainRef) -> Result;

    /// Reads a word at `iova`.
    fn read(&self, iova: u64);

    /// Writes a word to `iova` that it never wrote before, and says which.
    fn write(&self, iova: u64) -> u64;

    /// What was read since the last call, in order; `None` where that was refused.
    fn seen(&self) -> Vec<Option<u64>>;
}

/// A device behind a model.
#[derive(Debug)]
pub struct ModelProber {
    device: DmaDevice,
    written: Cell<u64>,
    seen: RefCell<Vec<Option<u64>>>,
}

impl ModelProber {
    /// That device.
    #[must_use]
    pub fn new(device: DmaDevice) -> Self {
        Self {
            device,
            written: Cell::default(),
            seen: RefCell::default(),
        }
    }
}

impl Prober for ModelProber {
    fn attached(&self, _: &DomainRef) -> Result {
        Ok(())
    }

    fn read(&self, iova: u64) {
        let mut word = [0; 8];
        let outcome = self.device.read(iova, &mut word);
        let there = matches!(outcome, Outcome::Translated(_));
        let word = there.then(|| u64::from_le_bytes(word));
        self.seen.borrow_mut().push(word);
    }

    fn write(&self, iova: u64) -> u64 {
        let word = self.written.get() + 1;
        self.written.set(word);
        // What is refused changes nothing, and that is looked at in memory.
        let _ = self.device.write(iova, &word.to_le_bytes());
        word
    }

    fn seen(&self) -> Vec<Option<u64>> {
        self.seen.take()
    }
}

/// QEMU's `edu`, whose buffer is filled and looked at through pages of the domain itself: nothing is
/// switched off for that, and no cache is emptied.
#[derive(Debug)]
pub struct EduProber {
    edu: Edu,
    memory: MockMemory,
    /// A page that the device fills its buffer from, and one that it empties it to.
    pages: DmaBlock<MockMemory>,
    /// How many words of the first half of the buffer have been read to, and how many of the second
    /// half have been written from, since the buffer was filled.
    used: Cell<(usize, usize)>,
    /// How many of the former have been looked at.
    taken: Cell<usize>,
    written: Cell<u64>,
    seen: RefCell<Vec<Option<u64>>>,
}

/// Where these pages are mapped, far from what sequences map.
const PAGES: u64 = 0x10_0000;
const PAGE: usize = 4096;
/// The words of half of the buffer.
const HALF: usize = 256;

/// What the first half of the buffer has where nothing was read. No page begins with that.
const NOTHING: u64 = 0x6e6f_7468_696e_6721;

impl EduProber {
    /// The device, and the memory that it shares with this process.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfMemory`](iommu_core::ErrorKind::OutOfMemory).
    pub fn new(edu: &Edu, memory: &MockMemory) -> Result<Self> {
        let pages = DmaBlock::new(memory, 2 * PAGE, PAGE, "a device's pages")?;
        for word in 0..HALF {
            pages.store(word, NOTHING);
        }
        Ok(Self {
            edu: edu.clone(),
            memory: memory.clone(),
            pages,
            used: Cell::new((HALF, HALF)),
            taken: Cell::new(HALF),
            written: Cell::default(),
            seen: RefCell::default(),
        })
    }

    /// Makes room for one more word of either half.
    fn make_room(&self) {
        let (read, written) = self.used.get();
        if read < HALF && written < HALF {
            return;
        }
        self.empty();
        for (n, word) in (HALF..2 * HALF).zip(self.written.get()..) {
            self.pages.store(n, word);
        }
        self.edu.receive(0, PAGE, Iova(PAGES));
        self.used.set((0, 0));
        self.taken.set(0);
    }

    /// Takes what was read out of the buffer.
    fn empty(&self) {
        let (first, last) = (self.taken.get(), self.used.get().0);
        if first == last {
            return;
        }
        let at = PAGE + first * 8;
        self.edu
            .send(first * 8, (last - first) * 8, Iova(PAGES + at as u64));
        let word = |n: usize| {
            let at = PhysAddr(self.pages.addr().0 + (PAGE + n * 8) as u64);
            let word = self.memory.read_word(at).expect("the prober's own page");
            // What is refused leaves the buffer as it was, or zeroes it.
            (word != NOTHING && word != 0).then_some(word)
        };
        self.seen.borrow_mut().extend((first..last).map(word));
        self.taken.set(last);
    }
}

impl Prober for EduProber {
    fn attached(&self, domain: &DomainRef) -> Result {
        let (at, len) = (Iova(PAGES), self.pages.size() as u64);
        let prot = Prot::READ | Prot::WRITE;
        // SAFETY: only the device uses these pages, and this prober knows.
        unsafe { domain.map(at, self.pages.addr(), len, prot) }
    }

    fn read(&self, iova: u64) {
        self.make_room();
        let (read, written) = self.used.get();
        self.edu.receive(read * 8, 8, Iova(iova));
        self.used.set((read + 1, written));
    }

    fn write(&self, iova: u64) -> u64 {
        self.make_room();
        let (read, written) = self.used.get();
        self.edu.send((HALF + written) * 8, 8, Iova(iova));
        self.used.set((read, written + 1));
        let word = self.written.get();
        self.written.set(word + 1);
        word
    }

    fn seen(&self) -> Vec<Option<u64>> {
        self.empty();
        self.seen.take()
    }
}
