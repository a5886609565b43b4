//! The invalidation queue: waits, errors, and what stops it.

use super::*;

#[test]
fn a_wait_tells_by_status_and_by_message() {
    let rig = Rig::up();
    rig.poke(STATUS, &[0]);
    rig.submit(&[[0xabcd_1234_0000_0025, STATUS + 4]]);
    assert_eq!(rig.peek(STATUS), 0xabcd_1234_0000_0000);
    rig.bank.write32(0xa0, 0);
    rig.bank.write32(0xa4, 0x42);
    rig.bank.write32(0xa8, 0xfee0_0000);
    // Both at once, which is legal.
    rig.submit(&[[0x7_0000_0035, STATUS]]);
    assert_eq!(rig.peek(STATUS) & 0xff, 7);
    assert_eq!(rig.model.messages(), [(0xfee0_0000, 0x42)]);
    assert_eq!(rig.bank.read32(0x9c), 1);
    rig.submit(&[[0x7_0000_0035, STATUS]]);
    assert_eq!(rig.model.messages().len(), 1, "not served yet");
    rig.bank.write32(0x9c, 1);
    assert_eq!(rig.bank.read32(0x9c), 0);
    rig.is_clean();
}

#[test]
fn the_queue_wraps() {
    let rig = Rig::up();
    for _ in 0..300 {
        rig.submit(&[iotlb_domain(5), WAIT]);
    }
    assert_eq!(rig.bank.read64(IQH), rig.bank.read64(IQT));
    assert_eq!(rig.model.waits(), 302);
    assert_eq!(rig.model.descriptors().len(), 604);
    rig.is_clean();
}

#[test]
fn what_makes_no_sense_stops_the_queue() {
    let mut wrong = vec![
        [0x0, 0],
        [0x9, 0],
        [0x1f, 0],
        // Granularity 0.
        [0x1, 0],
        [0x2, 0],
        // Reserved bits.
        [0x12 | 1 << 32, 0],
        [0x12 | 1 << 8, 0],
        [0x32, 0x80],
        [0x11, 1],
        [0x11 | 1 << 50, 0],
        [0x0025 | 1 << 8, STATUS],
        [0x00a5, STATUS],
        [0x0025, STATUS + 1],
        // More pages than there may be.
        iotlb_page(5, 0, 19),
    ];
    // Of scalable mode, of devices with caches, and with bit 4 of a type.
    wrong.extend([[0x26, 0], [0x37, 0], [0x3, 0], [0x8, 0], [0x212, 0]]);
    for descriptor in wrong {
        let rig = Rig::up_with(VtdConfig {
            error_record: true,
            ..VtdConfig::default()
        });
        let head = rig.bank.read64(IQH);
        rig.submit(&[descriptor, WAIT]);
        assert_eq!(rig.bank.read32(FSTS), 0x10, "{descriptor:x?}");
        assert_eq!(rig.bank.read64(IQH), head);
        assert!(matches!(rig.bank.read64(0xb0), 3 | 4));
        rig.is_clean();
    }
}

#[test]
fn the_queue_goes_on_after_the_error_is_mended() {
    let rig = Rig::up();
    rig.poke(STATUS, &[0]);
    let (head, tail) = (rig.bank.read64(IQH), rig.bank.read64(IQT));
    rig.submit(&[[0, 0], WAIT]);
    rig.poke(QUEUE + tail, &[0x12, 0]);
    rig.bank.write32(FSTS, 0x10);
    assert_eq!((rig.bank.read64(IQH), rig.bank.read32(FSTS)), (head, 0));
    rig.bank.write64(IQT, tail + 32);
    assert_eq!((rig.bank.read64(IQH), rig.peek(STATUS)), (tail + 32, 1));
    rig.is_clean();
    let rig = Rig::up_with(VtdConfig {
        order: Order::InOrder,
        ..VtdConfig::default()
    });
    let tail = rig.bank.read64(IQT);
    rig.submit(&[[0, 0], WAIT]);
    rig.poke(QUEUE + tail, &[0x12, 0]);
    rig.bank.write32(FSTS, 0x10);
    assert_eq!(rig.bank.read64(IQH), tail + 32);
}

#[test]
fn tails_beyond_the_queue_stop_it() {
    let rig = Rig::up();
    rig.bank.write64(IQT, 0x1000);
    assert_eq!(rig.bank.read32(FSTS), 0x10);
    let rig = Rig::new(VtdConfig::default());
    rig.bank.write64(0x90, QUEUE | 1 << 11);
    assert_eq!(rig.bank.read32(FSTS), 0x10, "256 bits, in legacy mode");
    rig.noted("reserved bits 0x800");
}

#[test]
fn a_device_that_does_not_answer_aborts_the_wait() {
    let rig = Rig::up_with(VtdConfig {
        error_record: true,
        ..VtdConfig::default().with_device_tlbs(true)
    });
    rig.poke(STATUS, &[0]);
    let device = |source: u64| [0x3 | source << 32, 0x7fff_ffff_ffff_f001];
    rig.submit(&[device(8), WAIT]);
    assert_eq!(rig.peek(STATUS), 1);
    rig.poke(STATUS, &[0]);
    rig.model.kill_device_tlb(8, true);
    rig.submit(&[device(9), WAIT]);
    assert_eq!(rig.peek(STATUS), 1);
    rig.poke(STATUS, &[0]);
    rig.submit(&[device(8), WAIT, IOTLB_ALL, WAIT]);
    let tail = rig.bank.read64(IQT);
    assert_eq!((rig.bank.read32(FSTS), rig.peek(STATUS)), (0x40, 0));
    assert_eq!(rig.bank.read64(IQH), tail - 32);
    assert_eq!(rig.bank.read64(0xb0), 8 << 32);
    rig.bank.write32(FSTS, 0x40);
    rig.bank.write64(IQT, tail);
    assert_eq!((rig.bank.read64(IQH), rig.peek(STATUS)), (tail, 1));
    rig.model.raise_completion_error(8);
    assert_eq!(rig.bank.read32(FSTS), 0x20);
    rig.poke(STATUS, &[0]);
    rig.submit(&[WAIT]);
    assert_eq!(rig.peek(STATUS), 0);
    rig.bank.write32(FSTS, 0x20);
    rig.bank.write64(IQT, tail + 16);
    assert_eq!(rig.peek(STATUS), 1);
    rig.is_clean();
}

#[test]
fn tests_can_break_it() {
    let rig = Rig::up();
    rig.poke(STATUS, &[0]);
    rig.model.drop_status_writes(true);
    rig.submit(&[WAIT]);
    assert_eq!(rig.peek(STATUS), 0);
    rig.model.drop_status_writes(false);
    rig.model.freeze_queue(true);
    rig.submit(&[WAIT]);
    assert_eq!(rig.peek(STATUS), 0);
    rig.model.freeze_queue(false);
    assert_eq!(rig.peek(STATUS), 1);
    rig.model.fail_descriptor(1);
    rig.submit(&[IOTLB_ALL, WAIT]);
    assert_eq!(rig.bank.read32(FSTS), 0x10);
    rig.bank.write32(FSTS, 0x10);
    rig.bank.write64(IQT, rig.bank.read64(IQT));
    assert_eq!(rig.bank.read64(IQH), rig.bank.read64(IQT));
    rig.second_level();
    rig.read(8, 0x20_3000);
    rig.poke(S2 + 0x2018, &[0]);
    rig.model.ignore_descriptor(Box::new(|kind| kind == 2));
    rig.flush(&[IOTLB_ALL]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.is_clean();
}

#[test]
fn the_queue_may_lag_behind() {
    let rig = Rig::up();
    rig.poke(STATUS, &[0]);
    rig.model.set_lag(2);
    rig.submit(&[WAIT]);
    assert_eq!(rig.peek(STATUS), 0);
    rig.bank.read32(FSTS);
    assert_eq!(rig.peek(STATUS), 0);
    rig.bank.read32(FSTS);
    assert_eq!(rig.peek(STATUS), 1);
    // What lies there stays as it is.
    let tail = rig.bank.read64(IQT);
    rig.submit(&[IOTLB_ALL, WAIT]);
    rig.poke(QUEUE + tail, &CONTEXT_ALL);
    rig.bank.read32(FSTS);
    rig.bank.read32(FSTS);
    rig.noted("the descriptor at IQH");
}

#[test]
fn a_hook_sees_each_descriptor() {
    use std::sync::{Arc, Mutex};
    let rig = Rig::up();
    rig.second_level();
    rig.read(8, 0x20_3000);
    rig.poke(S2 + 0x2018, &[0]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let seen = seen.clone();
        move |model: &VtdModel, [low, ..]: [u64; 4]| {
            let outcome = model.transact(8, None, 0x20_3000, Access::Read);
            let head = model.bank().read64(IQH);
            seen.lock().unwrap().push((low & 0xf, outcome, head));
        }
    };
    rig.model.on_descriptor(Some(Arc::new(hook)));
    let head = rig.bank.read64(IQH);
    rig.submit(&[iotlb_domain(5), WAIT]);
    rig.model.on_descriptor(None);
    assert_eq!(
        *seen.lock().unwrap(),
        [(2, to(DATA), head + 16), (5, Outcome::Faulted, head + 32)]
    );
    rig.is_clean();
}

#[test]
fn what_stopped_the_queue_may_be_replaced_by_its_like() {
    let rig = Rig::up();
    rig.poke(STATUS, &[0]);
    let tail = rig.bank.read64(IQT);
    rig.submit(&[[0x25 | 1 << 8, STATUS]]);
    assert_eq!(rig.bank.read32(FSTS), 0x10);
    rig.poke(QUEUE + tail, &WAIT);
    rig.bank.write32(FSTS, 0x10);
    rig.bank.write64(IQT, tail + 16);
    assert_eq!(rig.peek(STATUS), 1);
    rig.is_clean();
}

#[test]
fn a_fence_may_tell_nobody() {
    let rig = Rig::up();
    rig.second_level();
    rig.read(8, 0x20_3000);
    rig.poke(S2 + 0x2018, &[0]);
    rig.submit(&[iotlb_domain(5), [0x45, 0]]);
    assert_eq!(rig.bank.read64(IQH), rig.bank.read64(IQT));
    rig.refuses(8, 0x20_3000, 6);
    rig.is_clean();
}

#[test]
fn the_tail_does_not_pass_the_head() {
    let rig = Rig::up();
    rig.model.freeze_queue(true);
    rig.submit(&[IOTLB_ALL; 255]);
    rig.is_clean();
    rig.submit(&[IOTLB_ALL; 2]);
    rig.noted("IQT was moved to 0x50, past IQH or back");
}
