//! Devices that do not answer, cannot be switched, or are gone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use iommu_core::{
    Attached, Culprit, DeviceControl, DeviceInfo, DmaBlock, ErrorKind, Iova, Prot, Stage, StreamId,
};
use mock_hw::smmuv3::{AtsDevice, Order, SmmuModel, StreamConfig};
use mock_hw::{DmaDevice, Outcome};
use tests::machine::Machine;

use super::rig::{AT, Rig, STREAMS, read};

#[test]
fn a_device_that_cannot_be_switched_on_goes_on_without() {
    let rig = Rig::new(Order::Adverse, 0, 2);
    let (one, two) = (rig.space(Stage::First, 1), rig.space(Stage::Second, 2));
    rig.hardware[0].fail_switch(true);
    rig.attach(&one.domain);
    assert!(!rig.hardware[0].is_on() && rig.hardware[1].is_on());
    rig.all_see(Some(1));
    rig.attach(&two.domain);
    rig.all_see(Some(2));
    rig.hardware[0].fail_switch(false);
    rig.attach(&one.domain);
    rig.are_on(true);
    rig.all_see(Some(1));
    rig.attach(&rig.blocked());
    rig.is_clean();
}

#[test]
fn a_device_that_does_not_answer_fails_alone() {
    for stage in [Stage::First, Stage::Second] {
        let rig = Rig::new(Order::Adverse, 0, 3);
        let one = rig.space(stage, 1);
        let mut two = rig.space(Stage::First, 2);
        rig.attach(&one.domain);
        rig.all_see(Some(1));
        rig.machine.model().kill_atc(0x101, true);
        let error = rig.devices[0].group().attach(&two.domain).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeviceTimedOut);
        let silent = Culprit::Device(rig.devices[1].name().into());
        assert_eq!(error.culprit(), &silent);
        // The others have moved. It reaches neither domain, whatever its cache has.
        rig.sees(0, Some(2));
        rig.sees(2, Some(2));
        rig.sees(1, None);
        let is_on = |device: usize| matches!(rig.devices[device].attached(), Attached::On(_));
        assert_eq!([0, 1, 2].map(is_on), [true, false, true]);
        assert!(!rig.hardware[1].is_on());
        // Their domain works, and blocked always does.
        Rig::unmap(&mut two).unwrap();
        rig.attach(&rig.blocked());
        rig.all_see(None);
        assert_eq!([0, 1, 2].map(is_on), [true; 3]);
        // It comes to its senses.
        rig.machine.model().kill_atc(0x101, false);
        rig.attach(&one.domain);
        rig.are_on(true);
        rig.all_see(Some(1));
        rig.is_clean();
    }
}

#[test]
fn a_newcomer_that_does_not_answer_goes_on_without() {
    let rig = Rig::new(Order::Adverse, 0, 2);
    let mut one = rig.space(Stage::First, 1);
    rig.silence(1, true);
    rig.attach(&one.domain);
    assert!(rig.hardware[0].is_on() && !rig.hardware[1].is_on());
    rig.all_see(Some(1));
    Rig::unmap(&mut one).unwrap();
    rig.all_see(None);
    rig.is_clean();
}

/// It neither answers nor lets itself be switched off, and goes on with what its cache has.
#[test]
fn a_device_that_nothing_can_stop_reaches_no_domain_that_it_left() {
    for parks in [true, false] {
        let rig = Rig::new(Order::Adverse, 0, 2);
        let (one, two) = (rig.space(Stage::First, 1), rig.space(Stage::First, 2));
        rig.attach(&one.domain);
        rig.all_see(Some(1));
        rig.silence(0, true);
        rig.hardware[0].fail_switch(true);
        if parks {
            rig.attach(&rig.blocked());
            rig.all_see(None);
        } else {
            let lost = rig.devices[0].group().attach(&two.domain).unwrap_err();
            assert_eq!(lost.kind(), ErrorKind::DeviceTimedOut);
            rig.sees(0, None);
        }
        let seen = Arc::new(Mutex::new(None));
        let (hung, sees) = (rig.hardware[0].clone(), seen.clone());
        let hook = move |_: &SmmuModel, _| {
            let mark = read(&hung, 0);
            let mut sees = sees.lock().unwrap();
            *sees = sees.or(mark);
        };
        rig.machine.model().set_command_hook(Some(Arc::new(hook)));
        rig.attach(&two.domain);
        rig.machine.model().set_command_hook(None);
        assert_eq!(*seen.lock().unwrap(), None);
        rig.sees(0, None);
        let config = rig.machine.model().stream_config(0);
        assert!(
            matches!(config, StreamConfig::Stage1 { eats: 0, .. }),
            "{config:?}"
        );
        rig.sees(1, Some(2));
        // It comes to its senses.
        rig.silence(0, false);
        rig.hardware[0].fail_switch(false);
        rig.attach(&rig.blocked());
        rig.attach(&two.domain);
        rig.all_see(Some(2));
        assert_eq!(rig.machine.model().violations(), [""; 0]);
    }
}

#[test]
fn a_device_that_went_away_is_parked_without_being_asked() {
    let rig = Rig::new(Order::Adverse, 0, 1);
    let one = rig.space(Stage::First, 1);
    rig.attach(&one.domain);
    rig.all_see(Some(1));
    rig.hardware[0].unplug();
    rig.hardware[0].clear_events();
    rig.machine.model().clear_waits();
    rig.attach(&rig.blocked());
    assert_eq!(rig.machine.model().waits(), 1);
    assert_eq!(rig.hardware[0].events(0), []);
    rig.is_clean();
}

/// A device that is gone after it was looked for so many times.
struct Leaving {
    device: AtsDevice,
    looks: AtomicUsize,
}

impl DeviceControl for Leaving {
    fn is_reachable(&self) -> bool {
        let count = |looks: usize| looks.checked_sub(1);
        let looked = self
            .looks
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
        if looked.is_err() {
            self.device.unplug();
        }
        self.device.is_reachable()
    }

    fn has_ats(&self) -> bool {
        true
    }

    fn set_ats(&self, on: bool) -> iommu_core::Result {
        self.device.set_ats(on)
    }
}

#[test]
fn a_device_may_go_away_at_any_moment() {
    for looks in 0..20 {
        let rig = Rig::with(Order::Adverse, 0, 2, |device, hardware| match device {
            0 => Arc::new(Leaving {
                device: hardware.clone(),
                looks: looks.into(),
            }),
            _ => Arc::new(hardware.clone()),
        });
        let mut spaces = [
            rig.space(Stage::First, 1),
            rig.space(Stage::Second, 2),
            rig.space(Stage::Second, 3),
            rig.space(Stage::First, 4),
        ];
        for space in &mut spaces {
            rig.attach(&space.domain);
            rig.sees(1, Some(space.mark));
        }
        rig.attach(&rig.blocked());
        spaces
            .iter_mut()
            .for_each(|space| Rig::unmap(space).unwrap());
        rig.is_clean();
    }
}

#[test]
fn after_quarantine_others_unmap_without_the_dead_device() {
    let rig = Rig::new(Order::Adverse, 0, 1);
    let info = DeviceInfo::new("nic").streams([0x800].map(StreamId));
    let nic = AtsDevice::new(rig.machine.model(), [0x800]);
    let other = rig.iommu.add_device(info, Arc::new(nic.clone())).unwrap();
    let mut one = rig.space(Stage::First, 1);
    rig.attach(&one.domain);
    other.attach(&one.domain).unwrap();
    rig.all_see(Some(1));
    assert_eq!(read(&nic, 0x800), Some(1));
    rig.machine.model().kill_atc(STREAMS - 1, true);
    let error = one.block.take().unwrap().unmap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceTimedOut);
    rig.devices[0].group().quarantine();
    assert!(!rig.hardware[0].is_on());

    let block = DmaBlock::new(&rig.machine.memory(), 4096, 4096, "a buffer").unwrap();
    let block = one
        .domain
        .map_block(Iova(2 * AT), block, Prot::READ)
        .unwrap();
    let dma = DmaDevice::new(&nic, 0x800);
    let reaches = || matches!(dma.read(2 * AT, &mut [0]), Outcome::Translated(_));
    assert!(reaches());
    drop(block.unmap().unwrap());
    assert!(!reaches());
    rig.all_see(None);
    rig.is_clean();
}
