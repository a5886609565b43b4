//! From reset to shutdown, and back.

use arm_smmu_v3::ShutdownPolicy;
use iommu_core::{ErrorKind, Iova};

use super::bank::opcode;
use super::lab::{Lab, PAGE};
use crate::machine::Machine;

const AT: u64 = 0x3_0000;

/// DMA passes before the driver comes, and not any more when it is there.
pub fn a_driver_closes_what_firmware_left_open<M: Machine>(lab: &Lab<M>) {
    let block = lab.block(PAGE);
    lab.reaches(0, block.addr().0, &block, 0);
    let rig = lab.rig();
    lab.refused(0, block.addr().0, &block, 0);
    rig.silent();
}

fn shut_down<M: Machine>(lab: &Lab<M>, policy: ShutdownPolicy) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block(2 * PAGE);
    lab.map(&domain, AT, &block, 0, 2 * PAGE).unwrap();
    lab.reaches(0, AT, &block, 0);
    rig.smmu.shutdown(policy).unwrap();
    lab.refused(0, AT, &block, 0);
    for master in [0, 1] {
        match policy {
            ShutdownPolicy::Abort => lab.refused(master, block.addr().0, &block, 0),
            ShutdownPolicy::Bypass => lab.reaches(master, block.addr().0, &block, 0),
        }
    }
    rig.silent();
    // Nothing is translated, so mappings go without the hardware.
    domain.unmap(Iova(AT), PAGE).unwrap();
    // An SMMU that is off takes a new policy.
    for again in [ShutdownPolicy::Bypass, ShutdownPolicy::Abort, policy] {
        rig.smmu.shutdown(again).unwrap();
        match again {
            ShutdownPolicy::Abort => lab.refused(0, block.addr().0, &block, 0),
            ShutdownPolicy::Bypass => lab.reaches(0, block.addr().0, &block, 0),
        }
    }
    drop(device);
}

/// After a shutdown that aborts, nothing is reached.
pub fn a_shutdown_can_abort<M: Machine>(lab: &Lab<M>) {
    shut_down(lab, ShutdownPolicy::Abort);
}

/// After a shutdown that bypasses, everything is reached, untranslated.
pub fn a_shutdown_can_bypass<M: Machine>(lab: &Lab<M>) {
    shut_down(lab, ShutdownPolicy::Bypass);
}

/// When the last handle of a driver goes, so does translation, and nothing is reached.
pub fn a_driver_that_ends_leaves_everything_closed<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let block = lab.block(PAGE);
    device
        .attach(&rig.iommu.identity_domain().unwrap())
        .unwrap();
    lab.reaches(0, block.addr().0, &block, 0);
    let domain = rig.domain();
    drop(device);
    drop(rig);
    // A domain keeps the driver alive.
    lab.map(&domain, AT, &block, 0, PAGE).unwrap();
    domain.unmap(Iova(AT), PAGE).unwrap();
    assert_ne!(lab.memory().allocated(), block.size());
    drop(domain);
    assert_eq!(lab.memory().allocated(), block.size());
    lab.refused(0, block.addr().0, &block, 0);
    lab.refused(1, block.addr().0, &block, 0);
}

/// A driver that comes after another one finds nothing of it in the caches: not its configuration,
/// and not its translations, though its ids are the same.
pub fn a_second_driver_starts_from_nothing<M: Machine>(lab: &Lab<M>) {
    let block = lab.block(3 * PAGE);
    let policies = [
        ShutdownPolicy::Abort,
        ShutdownPolicy::Bypass,
        ShutdownPolicy::Abort,
    ];
    for (at, policy) in [0, PAGE, 2 * PAGE].into_iter().zip(policies) {
        let rig = lab.rig();
        lab.refused(0, AT, &block, at);
        rig.silent();
        let device = rig.add(0);
        lab.map(&device.domain().unwrap(), AT, &block, at, PAGE)
            .unwrap();
        lab.reaches(0, AT, &block, at);
        for other in [0, PAGE, 2 * PAGE].into_iter().filter(|&other| other != at) {
            lab.misses(0, AT, &block, other);
        }
        rig.silent();
        // Off first: nobody tells the caches that the device and the domain end.
        rig.smmu.shutdown(policy).unwrap();
        drop(device);
    }
}

/// That [`a_second_driver_starts_from_nothing`] would notice a reset that leaves the TLB as it is.
pub fn a_reset_without_tlb_invalidation_shows<M: Machine>(lab: &Lab<M>) {
    let block = lab.block(2 * PAGE);
    let rig = lab.rig();
    let device = rig.add(0);
    lab.map(&device.domain().unwrap(), AT, &block, 0, PAGE)
        .unwrap();
    lab.reaches(0, AT, &block, 0);
    rig.smmu.shutdown(ShutdownPolicy::Abort).unwrap();
    drop((device, rig));

    lab.bank().leave_out(&[opcode::TLBI_NSNH_ALL]);
    let rig = lab.rig();
    lab.bank().behave();
    let device = rig.add(0);
    lab.map(&device.domain().unwrap(), AT, &block, PAGE, PAGE)
        .unwrap();
    lab.reaches(0, AT, &block, 0);
    lab.misses(0, AT, &block, 4096);
    device.release().unwrap();
}

/// That [`a_second_driver_starts_from_nothing`] would notice a reset that leaves configuration
/// cached.
pub fn a_reset_without_configuration_invalidation_shows<M: Machine>(lab: &Lab<M>) {
    let block = lab.block(PAGE);
    let rig = lab.rig();
    let device = rig.add(0);
    device
        .attach(&rig.iommu.identity_domain().unwrap())
        .unwrap();
    lab.reaches(0, block.addr().0, &block, 0);
    rig.smmu.shutdown(ShutdownPolicy::Abort).unwrap();
    drop((device, rig));

    lab.bank().leave_out(&[opcode::CFGI_ALL]);
    let rig = lab.rig();
    lab.bank().behave();
    lab.reaches(0, block.addr().0, &block, 0);
    let device = rig.add(0);
    lab.refused(0, block.addr().0, &block, 0);
    device.release().unwrap();
}

/// A driver takes over from one that vanished without a shutdown, translation on.
pub fn a_driver_takes_over_from_a_crashed_one<M: Machine>(lab: &Lab<M>) {
    let block = lab.block(2 * PAGE);
    let rig = lab.rig();
    let device = rig.add(0);
    lab.map(&device.domain().unwrap(), AT, &block, 0, PAGE)
        .unwrap();
    lab.reaches(0, AT, &block, 0);
    std::mem::forget(device);
    std::mem::forget(rig);
    lab.expect_leak_of_everything();
    lab.reaches(0, AT, &block, 0);

    let rig = lab.rig();
    lab.refused(0, AT, &block, 0);
    lab.refused(0, block.addr().0, &block, 0);
    rig.silent();
    let device = rig.add(0);
    lab.map(&device.domain().unwrap(), AT, &block, PAGE, PAGE)
        .unwrap();
    lab.reaches(0, AT, &block, 4096);
    lab.misses(0, AT, &block, 0);
    rig.silent();
    device.release().unwrap();
}

/// Where memory runs out, nothing has changed: DMA passes as before, and the next try succeeds.
pub fn a_probe_without_memory_changes_nothing<M: Machine>(lab: &Lab<M>) {
    let block = lab.block(PAGE);
    let memory = lab.memory();
    let mut failures = 0;
    let smmu = loop {
        memory.fail_allocation(Some(failures));
        let result = lab.probe(lab.config());
        memory.fail_allocation(None);
        match result {
            Ok(smmu) => break smmu,
            Err(error) => assert_eq!(error.kind(), ErrorKind::OutOfMemory),
        }
        failures += 1;
        assert_eq!(memory.allocated(), block.size());
        lab.reaches(0, block.addr().0, &block, 0);
    };
    // A stream table and two queues at least.
    assert!(failures >= 3, "only {failures} allocations");
    lab.refused(0, block.addr().0, &block, 0);
    drop(smmu);
}

/// Where memory for a device runs out, it is as if it had never been asked for.
pub fn a_device_without_memory_changes_nothing<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let memory = lab.memory();
    let block = lab.block(PAGE);
    let mut failures = 0;
    let device = loop {
        memory.fail_allocation(Some(failures));
        let result = rig.add_as(rig.info(0));
        memory.fail_allocation(None);
        match result {
            Ok(device) => break device,
            Err(error) => assert_eq!(error.kind(), ErrorKind::OutOfMemory),
        }
        failures += 1;
        lab.refused(0, block.addr().0, &block, 0);
        rig.silent();
    };
    assert!(failures > 0, "a device needs no memory");
    lab.map(&device.domain().unwrap(), AT, &block, 0, PAGE)
        .unwrap();
    lab.reaches(0, AT, &block, 0);
    device.release().unwrap();
}

/// Everything that a device and a domain took is given back with them.
pub fn memory_comes_back_with_each_device<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let block = lab.block(PAGE);
    // A second level of the stream table is made once and kept.
    rig.add(0).release().unwrap();
    let before = lab.memory().allocated();
    for round in 0..20 {
        let device = rig.add(0);
        let domain = device.domain().unwrap();
        lab.map(&domain, AT << round, &block, 0, PAGE).unwrap();
        lab.reaches(0, AT << round, &block, 0);
        device.release().unwrap();
        domain.unmap(Iova(AT << round), PAGE).unwrap();
        drop(domain);
        assert_eq!(lab.memory().allocated(), before, "in round {round}");
    }
}
