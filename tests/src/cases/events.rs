//! The event queue: in order, complete, and honest where it was full.

use arm_smmu_v3::spec::events::{EventKind, FaultClass};
use iommu_core::{Iova, PhysAddr, Prot};

use super::lab::{Hardware, Lab, PAGE};
use super::outsider::{Kind, Record};
use crate::machine::Machine;

const AT: u64 = 0x9_0000;

/// Events come in the order in which they happened, of all devices, and each once.
pub fn events_come_in_order<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let devices = [0, 1].map(|master| rig.add(master));
    // Several times around the queue.
    for round in 0..40 {
        let sent = (0..10).map(|step| {
            let master = usize::from(step % 3 == 0);
            (master, AT + (round * 10 + step) * 0x1010)
        });
        let sent: Vec<(usize, u64)> = sent.collect();
        for &(master, iova) in &sent {
            lab.put(master, iova, &lab.fresh());
        }
        let events = rig.events();
        let seen = events.iter().map(|event| (event.stream(), event.input()));
        let expected = sent
            .iter()
            .map(|&(master, iova)| (u64::from(lab.stream(master).0), iova));
        assert!(seen.eq(expected), "sent {sent:x?}, got {events:#?}");
        assert!(events.iter().all(|event| event.is(Kind::Translation)));
    }
    assert_eq!(rig.smmu.event_overflows(), 0);
    for device in devices {
        device.release().unwrap();
    }
}

/// The driver reads out of a record what the specification puts in.
pub fn the_driver_reads_records_right<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let block = lab.block(PAGE);
    let domain = device.domain().unwrap();
    lab.map_as(&domain, AT, &block, 0, PAGE, Prot::READ)
        .unwrap();
    let stage = if lab.is_stage2() { 2 } else { 1 };
    for (kind, name, iova, read) in [
        (EventKind::F_PERMISSION, "F_PERMISSION", AT + 0x10, false),
        (EventKind::F_TRANSLATION, "F_TRANSLATION", AT + PAGE, false),
        (
            EventKind::F_TRANSLATION,
            "F_TRANSLATION",
            AT + 2 * PAGE,
            true,
        ),
    ] {
        if read {
            let _: [u8; 4] = lab.get(0, iova);
        } else {
            lab.put(0, iova, &lab.fresh());
        }
        let event = rig.smmu.next_event().unwrap().unwrap();
        assert_eq!(event.kind(), kind, "{event}");
        assert_eq!(event.kind().name(), Some(name));
        assert_eq!(event.stream(), lab.stream(0), "{event}");
        assert_eq!(event.input(), Some(Iova(iova)), "{event}");
        assert_eq!(event.is_read(), Some(read), "{event}");
        assert_eq!(event.stage(), Some(stage), "{event}");
        assert_eq!(event.class(), Some(FaultClass::Input), "{event}");
        let ipa = event.ipa().map(|ipa| PhysAddr(ipa.0 & !0xfff));
        assert_eq!(
            ipa,
            (stage == 2).then_some(PhysAddr(iova & !0xfff)),
            "{event}"
        );
        assert_eq!(
            (event.substream(), event.stalled(), event.fetch()),
            (None, None, None)
        );
        let text = event.to_string();
        let parts = [name, "0x0010", if read { "read" } else { "write" }];
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        rig.silent();
    }
    device.release().unwrap();
}

/// A queue that is full keeps what it has and tells that something was lost; when it was read, it
/// goes on.
pub fn a_full_queue_tells_and_goes_on<M: Machine>(lab: &Lab<M>) {
    let mut config = lab.config();
    config.event_queue_log2 = 2;
    let rig = lab.rig_with(config);
    let device = rig.add(0);
    for round in 1..=3 {
        for step in 0..7 {
            lab.put(0, AT + step * PAGE, &lab.fresh());
        }
        let inputs = |events: Vec<Record>| events.iter().map(Record::input).collect::<Vec<_>>();
        match lab.hardware() {
            Hardware::Model => {
                assert_eq!(
                    inputs(rig.events()),
                    [0, 1, 2, 3].map(|step| AT + step * PAGE)
                );
                assert!(rig.smmu.handle_global_errors().is_empty());
            }
            // QEMU takes a full queue for one that cannot be written: no overflow is flagged, but a
            // global error is raised. The driver then trusts nothing that is in the queue (7.2.2).
            Hardware::Qemu => {
                let errors = rig.smmu.handle_global_errors();
                assert!(errors.bits().eventq_abt(), "{errors}");
                assert!(rig.smmu.handle_global_errors().is_empty());
                rig.silent();
            }
        }
        assert_eq!(rig.smmu.event_overflows(), round);

        lab.put(0, AT + 9 * PAGE, &lab.fresh());
        assert_eq!(rig.event().input(), AT + 9 * PAGE);
    }
    device.release().unwrap();
}

/// The smallest queue holds one event.
pub fn a_queue_of_one_event_works<M: Machine>(lab: &Lab<M>) {
    let mut config = lab.config();
    config.event_queue_log2 = 0;
    let rig = lab.rig_with(config);
    let device = rig.add(0);
    for step in 0..5 {
        lab.put(0, AT + step * PAGE, &lab.fresh());
        assert_eq!(rig.event().input(), AT + step * PAGE);
    }
    assert!(rig.smmu.handle_global_errors().is_empty());
    device.release().unwrap();
}

/// Events of a driver before are not this one's.
pub fn events_do_not_outlive_their_driver<M: Machine>(lab: &Lab<M>) {
    for _ in 0..2 {
        let rig = lab.rig();
        rig.silent();
        let device = rig.add(0);
        for step in 0..3 {
            lab.put(0, AT + step * PAGE, &lab.fresh());
        }
        assert_eq!(
            rig.smmu.next_event().unwrap().unwrap().input(),
            Some(Iova(AT))
        );
        rig.smmu
            .shutdown(arm_smmu_v3::ShutdownPolicy::Abort)
            .unwrap();
        assert_eq!(rig.smmu.next_event(), Ok(None));
        drop(device);
    }
}
