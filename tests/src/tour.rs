//! A walk through the life of two devices behind an IOMMU: one plain, one that firmware pinned.
//!
//! Every step is checked as well as told: the tour ends with an error at the first thing that is
//! not as it must be.

mod smmu;
mod vtd;

use std::fmt::{self, Write};
use std::sync::Arc;

use iommu_core::{
    Device, DeviceInfo, DmaBlock, FirmwareRegion, Iommu, IommuOps, Iova, MappedBlock, NoControl,
    PhysAddr, Prot, ReservedKind, ReservedRegion, Rest, StreamId,
};
use mock_hw::MockMemory;

use crate::machine::{Machine, Master};

pub use smmu::Smmu;
pub use vtd::Vtd;

/// What firmware's framebuffer is made of.
const FRAMEBUFFER_LEN: usize = 0x1_0000;
const RW: Prot = Prot::READ.union(Prot::WRITE);

/// Why the tour ended early.
pub type Failure = Box<dyn std::error::Error>;

/// A driver, as far as the tour has to know it.
pub trait Driver: Sized {
    /// What it runs on.
    type Machine: Machine;
    /// What the hardware is called.
    const UNIT: &'static str;
    /// What the entry of a stream is called.
    const ENTRY: &'static str;
    /// Where in the machine's memory firmware keeps its framebuffer.
    const FRAMEBUFFER: u64;
    /// How the refusal of a device that is blocked is reported, if it is.
    const BLOCKED: Option<&'static str>;
    /// How that of the third device is reported, which nobody knows.
    const STRANGER: &'static str;
    /// How that of an access is reported where nothing is mapped.
    const UNMAPPED: &'static str;

    /// Brings the driver up on the machine. Firmware asked for one region.
    ///
    /// # Errors
    ///
    /// The driver's.
    fn bring_up(machine: &Self::Machine, firmware: FirmwareRegion) -> iommu_core::Result<Self>;
    /// What the hardware can do, in a few words.
    fn features(&self) -> String;
    /// What the core drives.
    fn ops(&self) -> impl IommuOps;
    /// The entry of a stream, for people to look at.
    fn entry(&self, stream: StreamId) -> String;
    /// The oldest refusal that was reported and not looked at.
    ///
    /// # Errors
    ///
    /// The driver's.
    fn next_refusal(&self) -> iommu_core::Result<Option<Refusal>>;
    /// Lets go of the hardware.
    ///
    /// # Errors
    ///
    /// The driver's.
    fn shut_down(self) -> iommu_core::Result;
}

/// A transaction that was refused, as the driver reports it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What the architecture calls the reason; `None` for one that the driver does not know.
    pub reason: Option<&'static str>,
    /// All that is known.
    pub text: String,
}

struct Tour<'a, D> {
    memory: MockMemory,
    driver: D,
    iommu: Iommu,
    nic: &'a dyn Master,
    gpu: &'a dyn Master,
    stranger: &'a dyn Master,
    out: &'a mut dyn Write,
}

/// Walks through it on `machine`, which has three masters, and tells about it.
///
/// # Errors
///
/// The first thing that is not as it must be.
pub fn run<D: Driver>(machine: &D::Machine, out: &mut dyn Write) -> Result<(), Failure> {
    let memory = machine.memory();
    let masters = machine.masters();
    let [nic, gpu, stranger] = masters[..] else {
        return Err("the tour needs three masters".into());
    };
    let at_first = memory.allocated();
    memory.reserve(PhysAddr(D::FRAMEBUFFER), FRAMEBUFFER_LEN);
    let len = FRAMEBUFFER_LEN as u64;
    let region = ReservedRegion::new(D::FRAMEBUFFER, len, ReservedKind::Direct)?;
    let firmware = FirmwareRegion {
        streams: vec![gpu.stream()],
        region,
    };

    writeln!(
        out,
        "== The {} is brought up; firmware pinned the gpu to {region}",
        D::UNIT
    )?;
    let driver = D::bring_up(machine, firmware)?;
    writeln!(out, "   {}", driver.features())?;
    let iommu = Iommu::new(driver.ops())?;
    let before = memory.allocated();
    let mut tour = Tour {
        memory,
        driver,
        iommu,
        nic,
        gpu,
        stranger,
        out,
    };
    tour.before_anybody_asked()?;
    let (nic, gpu) = tour.devices()?;
    let mapped = tour.paging(&nic)?;
    tour.unmap(mapped)?;
    tour.pinned(&gpu)?;
    tour.release(nic, gpu)?;
    tour.leave(before, at_first)
}

impl<D: Driver> Tour<'_, D> {
    fn before_anybody_asked(&mut self) -> Result<(), Failure> {
        writeln!(self.out, "== Before any device is given access")?;
        let buffer = DmaBlock::new(&self.memory, 4096, 4096, "a buffer")?;
        let address = Iova(buffer.addr().0);
        let (nic, gpu, stranger) = (self.nic, self.gpu, self.stranger);
        self.step(
            &[nic],
            "the nic writes to memory by its physical address",
            |tour| {
                nic.write(address, b"unasked!");
                tour.nothing_written(&buffer)?;
                tour.expect_refusal(D::BLOCKED)
            },
        )?;
        self.step(&[gpu], "the gpu scans out its framebuffer", |tour| {
            tour.framebuffer_works(gpu)?;
            Ok("the data moves: firmware's DMA goes on".into())
        })?;
        self.step(&[], "a device that nobody knows writes", |tour| {
            stranger.write(address, b"who?");
            tour.nothing_written(&buffer)?;
            tour.expect_refusal(Some(D::STRANGER))
        })
    }

    fn devices(&mut self) -> Result<(Device, Device), Failure> {
        writeln!(
            self.out,
            "== Both devices are added; each gets a paging domain of its own"
        )?;
        let (nic, gpu) = (self.nic, self.gpu);
        let mut added = Vec::new();
        for (name, master) in [("nic", nic), ("gpu", gpu)] {
            self.step(&[master], &format!("add the {name}"), |tour| {
                let info = DeviceInfo::new(name).streams([master.stream()]);
                let device = tour.iommu.add_device(info, Arc::new(NoControl))?;
                let mut regions = device.reserved_regions().iter();
                let direct = regions.find(|region| region.kind() == ReservedKind::Direct);
                let text = match direct {
                    None => "attached to an empty paging domain".to_owned(),
                    Some(region) => format!("attached to a paging domain that maps {region} 1:1"),
                };
                added.push(device);
                Ok(text)
            })?;
        }
        let [nic, gpu] = added.try_into().map_err(|_| "two devices")?;
        Ok((nic, gpu))
    }

    fn paging(&mut self, nic: &Device) -> Result<MappedBlock<MockMemory>, Failure> {
        writeln!(self.out, "== The nic moves data through its domain")?;
        let master = self.nic;
        let domain = nic.domain().ok_or("no default domain")?;
        let block = DmaBlock::new(&self.memory, 8192, 4096, "a buffer")?;
        let mapped = domain.map_block(Iova(0x1_0000), block, RW)?;
        writeln!(
            self.out,
            "   8192 bytes of memory are mapped at IOVA {}",
            mapped.iova()
        )?;
        self.step(&[], "the nic writes across both pages", |_| {
            let data: Vec<u8> = (0..=255).cycle().take(6000).collect();
            master.write(Iova(0x1_0100), &data);
            let mut found = vec![0; data.len()];
            mapped.block().read_at(0x100, &mut found);
            check(
                found == data,
                "the bytes in memory are those that the device wrote",
            )?;
            Ok("6000 bytes arrive in memory".into())
        })?;
        self.step(&[], "the nic reads what the CPU wrote", |_| {
            mapped.block().write_at(0x1f00, b"from the CPU");
            let mut read = [0; 12];
            master.read(Iova(0x1_1f00), &mut read);
            check(
                &read == b"from the CPU",
                "the device reads what is in memory",
            )?;
            Ok("12 bytes arrive in the device".into())
        })?;
        self.step(&[], "the nic writes where nothing is mapped", |tour| {
            master.write(Iova(0x5_0000), &[1, 2, 3, 4]);
            tour.expect_refusal(Some(D::UNMAPPED))
        })?;
        Ok(mapped)
    }

    fn unmap(&mut self, mapped: MappedBlock<MockMemory>) -> Result<(), Failure> {
        let master = self.nic;
        self.step(
            &[],
            "the buffer is unmapped and the nic writes once more",
            |tour| {
                let iova = mapped.iova();
                let block = mapped.unmap()?;
                let mut before = [0; 4];
                block.read_at(0, &mut before);
                master.write(iova, &[0xff; 4]);
                let mut after = [0; 4];
                block.read_at(0, &mut after);
                check(before == after, "memory that was given back stays as it is")?;
                tour.expect_refusal(Some(D::UNMAPPED))
            },
        )
    }

    fn pinned(&mut self, gpu: &Device) -> Result<(), Failure> {
        writeln!(self.out, "== The gpu, which firmware pinned")?;
        let master = self.gpu;
        self.step(&[], "the gpu scans out its framebuffer", |tour| {
            tour.framebuffer_works(master)?;
            Ok("the data moves, through the 1:1 mapping".into())
        })?;
        self.step(&[], "the gpu writes beside its framebuffer", |tour| {
            master.write(Iova(D::FRAMEBUFFER + FRAMEBUFFER_LEN as u64), &[1, 2, 3, 4]);
            tour.expect_refusal(Some(D::UNMAPPED))
        })?;
        self.step(
            &[master],
            "attach the blocked domain to the gpu",
            |tour| match gpu.attach(&tour.iommu.blocked_domain()) {
                Ok(()) => Err("blocking a pinned device must be refused".into()),
                Err(refused) => Ok(refused.to_string()),
            },
        )?;
        self.step(&[], "the gpu scans out its framebuffer", |tour| {
            tour.framebuffer_works(master)?;
            Ok("the data moves".into())
        })?;
        self.step(
            &[master],
            "attach another paging domain to the gpu",
            |tour| {
                gpu.attach(&tour.iommu.paging_domain(&Default::default())?)?;
                tour.framebuffer_works(master)?;
                Ok("the data moves: the region came along".into())
            },
        )
    }

    fn release(&mut self, nic: Device, gpu: Device) -> Result<(), Failure> {
        writeln!(self.out, "== Both devices are released")?;
        for (device, master, rest) in [
            (nic, self.nic, Rest::Blocked),
            (gpu, self.gpu, Rest::Identity),
        ] {
            self.step(&[master], &format!("release the {}", device.name()), |_| {
                let found = device.release()?;
                check(found == rest, "each rests where it must")?;
                Ok(format!("it rests on {found:?}"))
            })?;
        }
        let buffer = DmaBlock::new(&self.memory, 4096, 4096, "a buffer")?;
        let (nic, gpu) = (self.nic, self.gpu);
        self.step(
            &[],
            "the nic writes to memory by its physical address",
            |tour| {
                nic.write(Iova(buffer.addr().0), b"after all");
                tour.nothing_written(&buffer)?;
                tour.expect_refusal(D::BLOCKED)
            },
        )?;
        self.step(&[], "the gpu scans out its framebuffer", |tour| {
            tour.framebuffer_works(gpu)?;
            Ok("the data moves: firmware has its device back".into())
        })
    }

    fn leave(self, before: usize, at_first: usize) -> Result<(), Failure> {
        let Self {
            memory,
            driver,
            iommu,
            out,
            ..
        } = self;
        let left = memory.allocated();
        check(
            left == before,
            "all memory of devices and domains was given back",
        )?;
        drop(iommu);
        driver.shut_down()?;
        check(
            memory.allocated() == at_first,
            "all memory of the driver was given back",
        )?;
        let violations = memory.violations();
        check(violations.is_empty(), &violations.join("; "))?;
        writeln!(
            out,
            "== The {} is shut down; all memory is back, none was misused",
            D::UNIT
        )?;
        Ok(())
    }

    /// Does one step, and tells what it was, what came of it, and the entries of `masters` before
    /// and after.
    fn step(
        &mut self,
        masters: &[&dyn Master],
        what: &str,
        act: impl FnOnce(&mut Self) -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        let before: Vec<String> = masters
            .iter()
            .map(|master| self.driver.entry(master.stream()))
            .collect();
        let outcome = act(self).map_err(|error| format!("{what}: {error}"))?;
        writeln!(self.out, "   {what}: {outcome}")?;
        for (master, before) in masters.iter().zip(before) {
            let (stream, entry) = (master.stream(), D::ENTRY);
            let after = self.driver.entry(stream);
            if before == after {
                writeln!(self.out, "      {entry} {stream}: {after}")?;
            } else {
                writeln!(self.out, "      {entry} {stream}: {before}  =>  {after}")?;
            }
        }
        Ok(())
    }

    fn nothing_written(&self, block: &DmaBlock<MockMemory>) -> Result<(), Failure> {
        check(
            block.words().len() == 512 && (0..512).all(|word| block.load(word) == 0),
            "nothing was written",
        )
    }

    fn framebuffer_works(&mut self, gpu: &dyn Master) -> Result<(), Failure> {
        let mut pixels = *b"a pixel and another one.";
        let (first, last) = (D::FRAMEBUFFER, D::FRAMEBUFFER + FRAMEBUFFER_LEN as u64 - 24);
        for at in [first, last] {
            pixels.rotate_left(1);
            self.memory.dma_write(PhysAddr(at), &pixels)?;
            let mut read = [0; 24];
            gpu.read(Iova(at), &mut read);
            check(read == pixels, "the device reads firmware's region")?;
            gpu.write(Iova(at), b"drawn");
            let mut found = [0; 5];
            self.memory.dma_read(PhysAddr(at), &mut found)?;
            check(&found == b"drawn", "the device writes firmware's region")?;
        }
        self.expect_refusal(None).map(drop)
    }

    /// Takes all reports of refusals, of which there must be those for `reason` and no others. A
    /// master may split an access, and then causes several.
    fn expect_refusal(&mut self, reason: Option<&str>) -> Result<String, Failure> {
        let mut first = None;
        while let Some(refusal) = self.driver.next_refusal()? {
            let text = refusal.text;
            check(refusal.reason == reason, &format!("unexpected: {text}"))?;
            first.get_or_insert(text);
        }
        match (reason, first) {
            (None, _) => Ok("terminated silently".into()),
            (Some(_), Some(text)) => Ok(format!("refused, {text}")),
            (Some(reason), None) => Err(format!("no report, where {reason} was due").into()),
        }
    }
}

fn check(holds: bool, what: &str) -> Result<(), Failure> {
    if holds {
        Ok(())
    } else {
        Err(format!("not so: {what}").into())
    }
}

impl<D> fmt::Debug for Tour<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tour").finish_non_exhaustive()
    }
}
