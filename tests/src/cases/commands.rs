//! Commands that the hardware refuses or never sees: an error that names the command, and a queue
//! that goes on.

use std::sync::Arc;
use std::time::Duration;

use iommu_core::{Attached, Culprit, DmaBlock, Error, ErrorKind, Iova};

use super::lab::{Lab, PAGE, RW};
use crate::machine::Machine;

const AT: u64 = 0x6_0000;

/// Checks that `error` names the slot of the command that was made illegal.
#[track_caller]
fn names_the_slot<M: Machine>(lab: &Lab<M>, error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Hardware, "{error}");
    let Culprit::Command { queue, index, .. } = error.culprit() else {
        panic!("{error}");
    };
    assert_eq!(*queue, "command queue");
    assert_eq!(
        Some(u64::from(*index)),
        lab.bank().changed_slot(),
        "{error}"
    );
}

/// An invalidation that the hardware refuses fails the unmap that asked for it. The next one works.
pub fn an_illegal_command_fails_its_unmap<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block(2 * PAGE);
    lab.map(&domain, AT, &block, 0, 2 * PAGE).unwrap();
    lab.reaches(0, AT, &block, 0);
    lab.reaches(0, AT + PAGE, &block, 4096);

    lab.bank().corrupt_next();
    let error = domain.unmap(Iova(AT), PAGE).unwrap_err();
    names_the_slot(lab, &error);
    lab.bank().behave();
    // The error was true: nothing was invalidated.
    lab.reaches(0, AT, &block, 0);

    domain.unmap(Iova(AT + PAGE), PAGE).unwrap();
    lab.refused(0, AT + PAGE, &block, 4096);
    assert!(rig.smmu.handle_global_errors().is_empty());
    device.release().unwrap();
}

/// Each of several illegal commands is got over; one call, one error.
pub fn several_illegal_commands_fail_one_unmap<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block(40 * PAGE);
    for _ in 0..3 {
        lab.map(&domain, AT, &block, 0, 40 * PAGE).unwrap();
        let mut count = 0;
        lab.bank().rewrite(move |command| {
            count += 1;
            if count % 2 == 0 && count <= 40 {
                super::bank::ILLEGAL
            } else {
                command
            }
        });
        let error = domain.unmap(Iova(AT), 40 * PAGE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Hardware, "{error}");
        lab.bank().behave();
        lab.map(&domain, AT, &block, 0, 40 * PAGE).unwrap();
        domain.unmap(Iova(AT), 40 * PAGE).unwrap();
    }
    for page in 0..40 {
        lab.refused(0, AT + page * PAGE, &block, page * PAGE);
    }
    device.release().unwrap();
}

/// A buffer whose unmap failed is never given back, and counted.
pub fn a_buffer_stays_where_its_unmap_failed<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let buffer = DmaBlock::new(&lab.memory(), 4096, 4096, "a buffer").unwrap();
    let addr = buffer.addr();
    let mapped = domain.map_block(Iova(AT), buffer, RW).unwrap();
    lab.reaches(0, AT, mapped.block(), 0);
    lab.bank().corrupt_next();
    names_the_slot(lab, &mapped.unmap().unwrap_err());
    lab.bank().behave();
    assert_eq!(domain.leaked_bytes(), 4096);
    lab.expect_leak(4096);
    // The device does reach it still, and harms nobody.
    lab.put(0, AT, b"who is there");
    let mut seen = [0; 12];
    lab.memory().dma_read(addr, &mut seen).unwrap();
    assert_eq!(&seen, b"who is there");
    device.release().unwrap();
}

/// An attach that the hardware did not confirm leaves the device uncertain, and can be tried
/// again.
pub fn an_illegal_command_fails_its_attach<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let page = lab.page(&domain, AT);
    lab.reaches(0, AT, page.block(), 0);
    let other = rig.domain();
    let elsewhere = lab.page(&other, AT);

    lab.bank().corrupt_next();
    let error = device.attach(&other).unwrap_err();
    names_the_slot(lab, &error);
    lab.bank().behave();
    let Attached::Uncertain { old, new } = device.attached() else {
        panic!("{:?}", device.attached());
    };
    assert!(Arc::ptr_eq(&old.unwrap(), &domain));
    assert!(Arc::ptr_eq(&new, &other));
    // Whatever the hardware does meanwhile, it never is on the domain that was asked for without
    // the driver knowing.
    lab.misses(0, AT, elsewhere.block(), 0);

    device.attach(&other).unwrap();
    assert!(device.attached().is(&other));
    lab.reaches(0, AT, elsewhere.block(), 0);
    lab.misses(0, AT, page.block(), 0);
    device.attach(&domain).unwrap();
    lab.reaches(0, AT, page.block(), 0);
    device.release().unwrap();
}

/// A release that the hardware did not confirm fails, and what the hardware may go on using stays.
pub fn an_illegal_command_fails_its_release<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let page = lab.page(&device.domain().unwrap(), AT);
    lab.reaches(0, AT, page.block(), 0);
    lab.bank().corrupt_next();
    let error = device.release().unwrap_err();
    names_the_slot(lab, &error);
    lab.bank().behave();
    let error = rig.add_as(rig.info(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    // Another device is not concerned.
    let other = rig.add(1);
    let elsewhere = lab.page(&other.domain().unwrap(), AT);
    lab.reaches(1, AT, elsewhere.block(), 0);
    drop(elsewhere);
    other.release().unwrap();
    let block = page.unmap().unwrap();
    lab.refused(0, AT, &block, 0);
    drop(block);
    rig.smmu
        .shutdown(arm_smmu_v3::ShutdownPolicy::Abort)
        .unwrap();
    drop(rig);
    assert_ne!(lab.expect_leak_of_everything(), 0);
}

/// A domain whose last invalidation failed never gives its tables back, and the driver goes on.
pub fn an_illegal_command_keeps_a_domains_tables<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let block = lab.block(2 * PAGE);
    let domain = rig.domain();
    lab.map(&domain, AT, &block, 0, PAGE).unwrap();
    device.attach(&domain).unwrap();
    lab.reaches(0, AT, &block, 0);
    device.detach().unwrap();
    let before = lab.memory().allocated();
    lab.bank().corrupt_next();
    drop(domain);
    assert_eq!(lab.memory().allocated(), before);
    lab.bank().behave();

    // Its id is not used again, so what the TLB holds of it is nobody's: with all other ids in use
    // one after the other, no domain finds it.
    for _ in 0..300 {
        let domain = rig.domain();
        device.attach(&domain).unwrap();
        lab.refused(0, AT, &block, 0);
    }
    device.release().unwrap();
    drop(rig);
    assert_ne!(lab.expect_leak_of_everything(), 0);
}

/// A probe that the hardware refuses a command of fails, gives its memory back, and can be tried
/// again.
pub fn an_illegal_command_fails_the_probe<M: Machine>(lab: &Lab<M>) {
    let block = lab.block(PAGE);
    lab.bank().corrupt_next();
    let error = lab.probe(lab.config()).unwrap_err();
    names_the_slot(lab, &error);
    lab.bank().behave();
    assert_eq!(lab.memory().allocated(), block.size());
    lab.refused(0, block.addr().0, &block, 0);
    let rig = lab.rig();
    let device = rig.add(0);
    lab.map(&device.domain().unwrap(), AT, &block, 0, PAGE)
        .unwrap();
    lab.reaches(0, AT, &block, 0);
    device.release().unwrap();
}

/// Hardware that does not look at its commands ends in an error within the bound, and what comes
/// after it looked again works.
pub fn a_queue_that_stands_still_times_out<M: Machine>(lab: &Lab<M>) {
    let mut config = lab.config();
    config.timeout = Duration::from_millis(20);
    let rig = lab.rig_with(config);
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block(3 * PAGE);
    lab.map(&domain, AT, &block, 0, 3 * PAGE).unwrap();
    lab.reaches(0, AT, &block, 0);
    lab.reaches(0, AT + PAGE, &block, 4096);
    lab.bank().be_deaf(true);
    let error = domain.unmap(Iova(AT), PAGE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IommuTimedOut, "{error}");
    assert!(
        matches!(error.culprit(), Culprit::Command { .. }),
        "{error}"
    );
    lab.reaches(0, AT, &block, 0);
    lab.bank().be_deaf(false);
    domain.unmap(Iova(AT + PAGE), PAGE).unwrap();
    lab.refused(0, AT + PAGE, &block, 4096);
    // The late command came through too.
    lab.refused(0, AT, &block, 0);
    device.release().unwrap();
}
