//! What devices reach, found out by DMA.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommu_core::{Iova, Pasid, PhysAddr};

use super::Machine;
use crate::memory::MockMemory;

/// Where DMA through an IOVA ends up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    /// Nowhere: reads and writes are refused.
    Nothing,
    /// In the page of this name, for reading and writing.
    Page(&'static str),
    /// In the page of this name, for reading alone.
    ReadOnly(&'static str),
    /// In the page of this name, for writing alone.
    WriteOnly(&'static str),
    /// Reads come from one place and writes go to another.
    Odd(String),
}

impl Reach {
    /// Whether it is this page or less. While entries change, a read may be refused and the write
    /// after it not.
    pub(crate) fn is_at_most(&self, page: &str) -> bool {
        match self {
            Self::Nothing => true,
            Self::Page(name) | Self::ReadOnly(name) | Self::WriteOnly(name) => *name == page,
            Self::Odd(_) => false,
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Page(name) => write!(f, "page {name}"),
            Self::ReadOnly(name) => write!(f, "page {name} for reading alone"),
            Self::WriteOnly(name) => write!(f, "page {name} for writing alone"),
            Self::Odd(what) => f.write_str(what),
        }
    }
}

/// Who does DMA, and where to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Aim {
    pub(crate) device: usize,
    pub(crate) pasid: Option<Pasid>,
    pub(crate) iova: Iova,
}

impl Aim {
    pub(crate) fn new(device: usize, iova: Iova) -> Self {
        let pasid = None;
        Self {
            device,
            pasid,
            iova,
        }
    }

    pub(crate) fn with(self, pasid: Pasid) -> Self {
        let pasid = Some(pasid);
        Self { pasid, ..self }
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}", self.device)?;
        if let Some(pasid) = self.pasid {
            write!(f, " with PASID {pasid}")?;
        }
        write!(f, " at {}", self.iova)
    }
}

/// Pages that are watched, each with a word in it that is nowhere else, so that a read tells which
/// page it came from.
pub(crate) struct Eyes {
    machine: Arc<dyn Machine>,
    memory: MockMemory,
    pages: Mutex<Vec<(&'static str, PhysAddr)>>,
    last: AtomicU32,
}

impl Eyes {
    pub(crate) fn new(machine: Arc<dyn Machine>) -> Self {
        let memory = machine.memory();
        Self {
            machine,
            memory,
            pages: Mutex::default(),
            last: AtomicU32::new(0x5eed),
        }
    }

    fn pages(&self) -> MutexGuard<'_, Vec<(&'static str, PhysAddr)>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the page at `addr`, which stays allocated or reserved until the end.
    pub(crate) fn watch(&self, name: &'static str, addr: PhysAddr) {
        self.put(addr, self.fresh());
        self.pages().push((name, addr));
    }

    /// Four bytes that were used nowhere before, none of them zero.
    fn fresh(&self) -> [u8; 4] {
        loop {
            let last = self.last.fetch_add(1, Ordering::Relaxed);
            let word = last.wrapping_mul(0x9e37_79b1).to_le_bytes();
            if !word.contains(&0) {
                return word;
            }
        }
    }

    fn put(&self, addr: PhysAddr, bytes: [u8; 4]) {
        let put = self.memory.dma_write(addr, &bytes);
        put.expect("a watched page is memory");
    }

    fn get(&self, addr: PhysAddr) -> [u8; 4] {
        let mut bytes = [0; 4];
        let got = self.memory.dma_read(addr, &mut bytes);
        got.expect("a watched page is memory");
        bytes
    }

    /// The page whose word is `bytes`.
    fn find(&self, pages: &[(&'static str, PhysAddr)], bytes: [u8; 4]) -> Option<&'static str> {
        let here = |page: &&(&'static str, PhysAddr)| self.get(page.1) == bytes;
        pages.iter().find(here).map(|page| page.0)
    }

    /// Lets a device read and write.
    pub(crate) fn look(&self, aim: Aim) -> Reach {
        let Aim {
            device,
            pasid,
            iova,
        } = aim;
        let pages = self.pages();
        let got = self.machine.dma_read(device, pasid, iova);
        let read = self.find(&pages, got);
        let sent = self.fresh();
        self.machine.dma_write(device, pasid, iova, sent);
        let written = self.find(&pages, sent);
        match (read, written) {
            (None, None) if got == [0; 4] => Reach::Nothing,
            (Some(read), Some(written)) if read == written => Reach::Page(read),
            (Some(read), None) => Reach::ReadOnly(read),
            (None, Some(written)) if got == [0; 4] => Reach::WriteOnly(written),
            (None, _) => Reach::Odd("memory that nobody gave it".into()),
            (Some(read), Some(written)) => Reach::Odd(format!(
                "page {read} for reading, page {written} for writing"
            )),
        }
    }
}
