//! Devices with a translation cache of their own (PCIe ATS), through all that is done to them. The
//! model notes every rule of ATS that is broken on the way.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod rig;
mod silent;

use std::sync::{Arc, Mutex, Weak};

use arm_smmu_v3::ShutdownPolicy;
use iommu_core::{DomainRef, Iova, NoControl, Rest, Stage, StreamId};
use mock_hw::smmuv3::{AtsEvent, Order, SmmuModel, StreamConfig};

use rig::{AT, Rig, STREAMS, Space, first_stream, read};

const ATC_INV: u64 = 0x40;

#[test]
fn every_device_sees_its_domain_and_nothing_else() {
    for (order, seeds) in [
        (Order::Adverse, 1),
        (Order::InOrder, 1),
        (Order::Random, 30),
    ] {
        for seed in 0..seeds {
            let rig = Rig::new(order, seed, 2);
            let spaces = [
                rig.space(Stage::First, 1),
                rig.space(Stage::Second, 2),
                rig.space(Stage::First, 3),
                rig.space(Stage::Second, 4),
            ];
            let mut chance: u64 = seed;
            rig.all_see(None);
            for _ in 0..30 {
                chance = chance
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let pick = (chance >> 33) as usize % 6;
                match spaces.get(pick) {
                    Some(space) => {
                        rig.attach(&space.domain);
                        rig.are_on(true);
                        rig.all_see(Some(space.mark));
                    }
                    None if pick == 4 => {
                        rig.attach(&rig.blocked());
                        rig.are_on(false);
                        rig.all_see(None);
                    }
                    None => {
                        rig.attach(&rig.identity());
                        rig.are_on(false);
                    }
                }
                rig.is_clean();
            }
            let Rig {
                devices, machine, ..
            } = rig;
            for device in devices {
                assert_eq!(device.release().unwrap(), Rest::Blocked);
            }
            assert_eq!(machine.model().violations(), [""; 0]);
        }
    }
}

#[test]
fn devices_go_on_with_dma_while_they_move() {
    for seed in 0..10 {
        let rig = Rig::new(Order::Random, seed, 2);
        let spaces = [
            rig.space(Stage::First, 1),
            rig.space(Stage::Second, 2),
            rig.space(Stage::First, 3),
            rig.space(Stage::Second, 4),
        ];
        let hardware = rig.hardware.clone();
        let hook = move |_: &SmmuModel, _| {
            for (device, hardware) in hardware.iter().enumerate() {
                for stream in 0..STREAMS {
                    read(hardware, first_stream(device) + stream);
                }
            }
        };
        rig.machine.model().set_command_hook(Some(Arc::new(hook)));
        for pick in [0, 1, 0, 2, 3, 1, 3, 2, 0] {
            rig.attach(&spaces[pick].domain);
            rig.all_see(Some(spaces[pick].mark));
        }
        rig.machine.model().set_command_hook(None);
        rig.is_clean();
    }
}

#[test]
fn what_is_unmapped_is_gone_at_the_devices_with_one_wait() {
    for stage in [Stage::First, Stage::Second] {
        for seed in 0..20 {
            let order = match seed {
                0 => Order::Adverse,
                _ => Order::Random,
            };
            let rig = Rig::new(order, seed, 2);
            let mut space = rig.space(stage, 7);
            rig.attach(&space.domain);
            rig.all_see(Some(7));
            rig.machine.model().clear_waits();
            Rig::unmap(&mut space).unwrap();
            assert_eq!(rig.machine.model().waits(), 1);
            rig.all_see(None);
            space.mark = 9;
            rig.map(&mut space);
            rig.all_see(Some(9));
            rig.is_clean();
        }
    }
}

#[test]
fn a_flush_reaches_the_devices_with_one_wait() {
    for stage in [Stage::First, Stage::Second] {
        let rig = Rig::new(Order::Adverse, 0, 2);
        let mut space = rig.space(stage, 7);
        rig.attach(&space.domain);
        rig.all_see(Some(7));
        rig.machine.model().clear_waits();
        // The memory is nobody else's until the end.
        std::mem::forget(space.block.take());
        let unflushed = space.domain.unmap_lazily(Iova(AT), 4096).unwrap();
        assert_eq!(rig.machine.model().waits(), 0);
        assert!(!space.domain.is_flushed(unflushed));
        rig.all_see(Some(7));
        space.domain.flush().unwrap();
        assert_eq!(rig.machine.model().waits(), 1);
        rig.all_see(None);
        rig.is_clean();
    }
}

/// How many `CMD_ATC_INV` an unmap sends.
fn asked(rig: &Rig, space: &mut Space) -> usize {
    rig.machine.model().clear_commands();
    Rig::unmap(space).unwrap();
    rig.map(space);
    let commands = rig.machine.model().commands();
    let asks = |[word, _]: &&[u64; 2]| word & 0xff == ATC_INV;
    commands.iter().filter(asks).count()
}

#[test]
fn a_domain_asks_only_devices_that_are_on_it_with_ats() {
    let rig = Rig::new(Order::Adverse, 0, 1);
    let (mut one, mut two) = (rig.space(Stage::First, 1), rig.space(Stage::Second, 2));
    let both = |one: &mut Space, two: &mut Space| (asked(&rig, one), asked(&rig, two));
    let streams = STREAMS as usize;
    assert_eq!(both(&mut one, &mut two), (0, 0));
    rig.attach(&one.domain);
    assert_eq!(both(&mut one, &mut two), (streams, 0));
    rig.attach(&one.domain);
    assert_eq!(both(&mut one, &mut two), (streams, 0));
    rig.attach(&two.domain);
    assert_eq!(both(&mut one, &mut two), (0, streams));
    rig.attach(&rig.blocked());
    assert_eq!(both(&mut one, &mut two), (0, 0));
    rig.attach(&one.domain);
    rig.attach(&rig.identity());
    assert_eq!(both(&mut one, &mut two), (0, 0));
    rig.hardware[0].fail_switch(true);
    rig.attach(&two.domain);
    assert_eq!(both(&mut one, &mut two), (0, 0));
    let config = rig.machine.model().stream_config(0);
    assert!(
        matches!(config, StreamConfig::Stage2 { eats: 0, .. }),
        "{config:?}"
    );
    rig.is_clean();
}

#[test]
fn a_device_invalidates_everything_before_it_is_on_and_after_it_is_off() {
    use AtsEvent::{Off, On};
    const EVERYTHING: AtsEvent = AtsEvent::EVERYTHING;
    let rig = Rig::new(Order::Adverse, 0, 1);
    let (one, two) = (rig.space(Stage::First, 1), rig.space(Stage::First, 2));
    let on = |domain: &DomainRef| {
        rig.hardware[0].clear_events();
        rig.attach(domain);
        rig.hardware[0].events(STREAMS - 1)
    };
    assert_eq!(on(&one.domain), [EVERYTHING, On]);
    assert_eq!(on(&one.domain), []);
    assert_eq!(on(&two.domain), [EVERYTHING]);
    assert_eq!(on(&rig.blocked()), [Off, EVERYTHING]);
    assert_eq!(on(&rig.identity()), []);
    assert_eq!(on(&one.domain), [EVERYTHING, On]);
    rig.is_clean();
}

#[test]
fn a_plan_tells_of_ats() {
    let rig = Rig::with(Order::Adverse, 0, 2, |device, hardware| match device {
        0 => Arc::new(hardware.clone()),
        _ => Arc::new(NoControl),
    });
    let plan = |device, space: &Space| {
        let stream = StreamId(first_stream(device) + 1);
        rig.smmu.plan(stream, &space.domain).unwrap().to_string()
    };
    let spaces = [1, 2].map(|mark| rig.space(Stage::First, mark));
    let both = |space| (plan(0, space), plan(1, space));
    let is = |first: &str, second: &str| (first.to_string(), second.to_string());
    assert_eq!(both(&spaces[0]), is("fill 1, swing 0", "swing 0"));
    rig.attach(&spaces[0].domain);
    assert_eq!(both(&spaces[0]), is("nothing", "nothing"));
    assert_eq!(both(&spaces[1]), is("swing 0", "swing 0"));
}

#[test]
fn a_device_in_reset_is_off_and_comes_back() {
    let rig = Rig::new(Order::Adverse, 0, 2);
    let one = rig.space(Stage::First, 1);
    rig.attach(&one.domain);
    rig.all_see(Some(1));
    let fence = rig.devices[0].reset_fence().unwrap();
    assert!(!rig.hardware[0].is_on() && rig.hardware[1].is_on());
    rig.sees(0, None);
    rig.sees(1, Some(1));
    fence.end().unwrap();
    rig.are_on(true);
    rig.all_see(Some(1));
    rig.is_clean();
}

#[test]
fn devices_with_ats_and_without_share_a_domain() {
    let rig = Rig::with(Order::Adverse, 0, 2, |device, hardware| match device {
        0 => Arc::new(hardware.clone()),
        _ => Arc::new(NoControl),
    });
    let mut spaces = [rig.space(Stage::First, 1), rig.space(Stage::First, 2)];
    for space in &mut spaces {
        rig.attach(&space.domain);
        rig.all_see(Some(space.mark));
        assert!(rig.hardware[0].is_on() && !rig.hardware[1].is_on());
        let eats = |device| match rig.machine.model().stream_config(first_stream(device)) {
            StreamConfig::Stage1 { eats, .. } => eats,
            other => panic!("{other:?}"),
        };
        assert_eq!((eats(0), eats(1)), (1, 0));
        assert_eq!(asked(&rig, space), STREAMS as usize);
    }
    assert_eq!(rig.hardware[1].events(first_stream(1)), []);
    rig.is_clean();
}

#[test]
fn no_device_has_ats_on_when_translation_is_turned_off() {
    for policy in [ShutdownPolicy::Abort, ShutdownPolicy::Bypass] {
        let rig = Rig::new(Order::Adverse, 0, 3);
        let one = rig.space(Stage::First, 1);
        rig.attach(&one.domain);
        rig.all_see(Some(1));
        // One that answers nothing, and one that is gone, hold nothing up.
        rig.silence(1, true);
        rig.hardware[2].unplug();
        rig.smmu.shutdown(policy).unwrap();
        assert!(!rig.hardware[0].is_on() && !rig.hardware[1].is_on());
        // Nor is it switched on afterwards.
        rig.attach(&rig.blocked());
        rig.attach(&one.domain);
        assert!(!rig.hardware[0].is_on());
        rig.is_clean();
    }
}

#[test]
fn a_device_that_was_released_is_forgotten() {
    let controls = Mutex::new(Vec::new());
    let mut rig = Rig::with(Order::Adverse, 0, 2, |_, hardware| {
        let control = Arc::new(hardware.clone());
        controls.lock().unwrap().push(Arc::downgrade(&control));
        control
    });
    let one = rig.space(Stage::First, 1);
    rig.attach(&one.domain);
    let released = rig.devices.pop().unwrap();
    assert_eq!(released.release().unwrap(), Rest::Blocked);
    assert!(rig.hardware[0].is_on() && !rig.hardware[1].is_on());
    let known = controls
        .lock()
        .unwrap()
        .iter()
        .map(Weak::strong_count)
        .collect::<Vec<_>>();
    assert!(known[0] > 0 && known[1] == 0, "{known:?}");
    rig.sees(0, Some(1));
    rig.is_clean();
}
