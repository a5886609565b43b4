//! A walk through the life of two devices behind an SMMUv3: one plain, one that firmware pinned.
//!
//! Every step is checked as well as told: the tour ends with an error at the first thing that is
//! not as it must be.

use std::fmt::{self, Write};
use std::sync::Arc;

use arm_smmu_v3::{ArmSmmuV3, Config, ShutdownPolicy};
use iommu_core::{
    BasicPlatform, Device, DeviceInfo, DmaBlock, FirmwareRegion, Iommu, Iova, MappedBlock,
    NoControl, PhysAddr, Prot, ReservedKind, ReservedRegion, Rest, StreamId,
};
use mock_hw::MockMemory;

use crate::machine::{Machine, Master};

/// Where firmware keeps its framebuffer, and what it is made of.
const FRAMEBUFFER: u64 = 0x4180_0000;
const FRAMEBUFFER_LEN: usize = 0x1_0000;
/// The stream table covers the first 32 streams: the third master's is not among them.
const STREAM_BITS: u8 = 5;
const RW: Prot = Prot::READ.union(Prot::WRITE);

/// Why the tour ended early.
pub type Failure = Box<dyn std::error::Error>;

type Smmu<M> = ArmSmmuV3<BasicPlatform<<M as Machine>::Bank, MockMemory, <M as Machine>::Clock>>;

struct Tour<'a, M: Machine> {
    memory: MockMemory,
    smmu: Smmu<M>,
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
pub fn run<M: Machine>(machine: &M, out: &mut dyn Write) -> Result<(), Failure> {
    let memory = machine.memory();
    let masters = machine.masters();
    let [nic, gpu, stranger] = masters[..] else {
        return Err("the tour needs three masters".into());
    };
    let at_first = memory.allocated();
    memory.reserve(PhysAddr(FRAMEBUFFER), FRAMEBUFFER_LEN);
    let region = ReservedRegion::new(FRAMEBUFFER, FRAMEBUFFER_LEN as u64, ReservedKind::Direct)?;
    let config = Config {
        rmrs: vec![FirmwareRegion {
            streams: vec![gpu.stream()],
            region,
        }],
        stream_bits: STREAM_BITS,
        ..Config::default()
    };

    writeln!(
        out,
        "== The SMMU is brought up; firmware pinned the gpu to {region}"
    )?;
    let smmu = ArmSmmuV3::probe(machine.platform(), config)?;
    let features = smmu.features();
    writeln!(
        out,
        "   stages {}{}, {} stream bits of which {STREAM_BITS} are used, {} bits of physical address",
        if features.stage1 { "1 " } else { "" },
        if features.stage2 { "2" } else { "" },
        features.stream_bits,
        features.output_bits
    )?;
    let iommu = Iommu::new(smmu.clone())?;
    let before = memory.allocated();
    let mut tour = Tour::<M> {
        memory,
        smmu,
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

impl<M: Machine> Tour<'_, M> {
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
                tour.expect_event(None)?;
                Ok("terminated silently".into())
            },
        )?;
        self.step(&[gpu], "the gpu scans out its framebuffer", |tour| {
            tour.framebuffer_works(gpu)?;
            Ok("the data moves: firmware's DMA goes on".into())
        })?;
        self.step(
            &[],
            "a device whose stream is outside the table writes",
            |tour| {
                stranger.write(address, b"who?");
                tour.nothing_written(&buffer)?;
                tour.expect_event(Some("C_BAD_STREAMID"))
            },
        )
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
                let text = match device.reserved_regions() {
                    [] => "attached to an empty paging domain".to_owned(),
                    [region, ..] => format!("attached to a paging domain that maps {region} 1:1"),
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
            tour.expect_event(Some("F_TRANSLATION"))
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
                tour.expect_event(Some("F_TRANSLATION"))
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
            master.write(Iova(FRAMEBUFFER + FRAMEBUFFER_LEN as u64), &[1, 2, 3, 4]);
            tour.expect_event(Some("F_TRANSLATION"))
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
                tour.expect_event(None)?;
                Ok("terminated silently".into())
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
            smmu,
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
        smmu.shutdown(ShutdownPolicy::Abort)?;
        drop(smmu);
        check(
            memory.allocated() == at_first,
            "all memory of the SMMU was given back",
        )?;
        let violations = memory.violations();
        check(violations.is_empty(), &violations.join("; "))?;
        writeln!(
            out,
            "== The SMMU is shut down; all memory is back, none was misused"
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
            .map(|master| self.entry(master.stream()))
            .collect();
        let outcome = act(self).map_err(|error| format!("{what}: {error}"))?;
        writeln!(self.out, "   {what}: {outcome}")?;
        for (master, before) in masters.iter().zip(before) {
            let (stream, after) = (master.stream(), self.entry(master.stream()));
            if before == after {
                writeln!(self.out, "      STE {stream}: {after}")?;
            } else {
                writeln!(self.out, "      STE {stream}: {before}  =>  {after}")?;
            }
        }
        Ok(())
    }

    fn entry(&self, stream: StreamId) -> String {
        self.smmu
            .stream_entry(stream)
            .map_or("none".into(), |entry| entry.to_string())
    }

    fn nothing_written(&self, block: &DmaBlock<MockMemory>) -> Result<(), Failure> {
        check(
            block.words().len() == 512 && (0..512).all(|word| block.load(word) == 0),
            "nothing was written",
        )
    }

    fn framebuffer_works(&mut self, gpu: &dyn Master) -> Result<(), Failure> {
        let mut pixels = *b"a pixel and another one.";
        let (first, last) = (FRAMEBUFFER, FRAMEBUFFER + FRAMEBUFFER_LEN as u64 - 24);
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
        self.expect_event(None).map(drop)
    }

    /// Takes all events, of which there must be those of `kind` and no others. A master may split
    /// an access, and then causes several.
    fn expect_event(&mut self, kind: Option<&str>) -> Result<String, Failure> {
        let mut first = None;
        while let Some(event) = self.smmu.next_event()? {
            check(kind == event.kind().name(), &format!("unexpected: {event}"))?;
            first.get_or_insert(event);
        }
        match (kind, first) {
            (None, _) => Ok(String::new()),
            (Some(_), Some(event)) => Ok(format!("refused, {event}")),
            (Some(kind), None) => Err(format!("no event, where {kind} was due").into()),
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

impl<M: Machine> fmt::Debug for Tour<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tour").finish_non_exhaustive()
    }
}
