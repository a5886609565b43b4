//! Looking at the model between any two commands, waiting for it, and chance.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const CFGI_5: [u64; 2] = [0x0005_0000_0003, 1];

#[test]
fn a_hook_sees_the_model_after_each_command() {
    let rig = Rig::up();
    rig.ste(5, &[BYPASS]);
    rig.read(5, 0);
    rig.ste(5, &[ABORT]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    rig.model
        .set_command_hook(Some(Arc::new(move |model: &SmmuModel, [word, _]| {
            // All of the model may be used, its registers too.
            let outcome = model.transact(5, None, 0x1000, Access::Read);
            let cons = model.bank().read32(0x9c);
            log.lock().unwrap().push((word, cons, outcome));
        })));
    let start = rig.bank.read32(0x9c);
    rig.submit(&[CFGI_5, SYNC, TLBI_ALL]);
    let seen = seen.lock().unwrap().clone();
    assert_eq!(
        seen,
        [
            (CFGI_5[0], start + 1, to(0x1000)),
            (SYNC[0], start + 2, Outcome::Aborted),
            (TLBI_ALL[0], start + 3, Outcome::Aborted),
        ]
    );
    rig.model.set_command_hook(None);
    rig.submit(&[SYNC]);
    assert_eq!(rig.model.max_batch(), 4, "when it was set up");
    rig.is_clean();
}

#[test]
fn a_hook_may_submit_commands() {
    let rig = Arc::new(Rig::up());
    let left = AtomicUsize::new(2);
    let inner = rig.clone();
    rig.model.clear_commands();
    rig.model
        .set_command_hook(Some(Arc::new(move |_: &SmmuModel, _| {
            if left.load(Ordering::Relaxed) != 0 {
                left.fetch_sub(1, Ordering::Relaxed);
                inner.submit(&[TLBI_ALL, SYNC]);
            }
        })));
    rig.submit(&[SYNC]);
    assert_eq!(rig.model.commands(), [SYNC, TLBI_ALL, SYNC, TLBI_ALL, SYNC]);
    rig.model.set_command_hook(None);
}

#[test]
fn a_hook_that_panics_leaves_a_consumer() {
    let rig = Rig::up();
    rig.model
        .set_command_hook(Some(Arc::new(|_: &SmmuModel, _| panic!("as asked"))));
    let submit = || rig.submit(&[SYNC]);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(submit)).unwrap_err();
    rig.model.set_command_hook(None);
    rig.model.clear_commands();
    rig.submit(&[SYNC]);
    assert_eq!(rig.model.syncs(), 1);
}

#[test]
fn waits_are_counted_once_each() {
    let rig = Rig::up();
    let look = || rig.bank.read32(0x9c);
    look();
    rig.model.clear_waits();
    rig.submit(&[TLBI_ALL]);
    look();
    assert_eq!(rig.model.waits(), 0, "there is nothing to wait for");
    // Three CMD_SYNCs, one look; and looks after it.
    rig.submit(&[CFGI_ALL, SYNC, TLBI_ALL, SYNC, SYNC]);
    assert_eq!(rig.model.waits(), 0, "nobody looked");
    look();
    look();
    rig.bank.read32(0x60);
    look();
    assert_eq!(rig.model.waits(), 1);
    rig.bank.write32(0x1_00ac, 0);
    look();
    assert_eq!(rig.model.waits(), 1);
    rig.submit(&[SYNC]);
    look();
    rig.submit(&[SYNC]);
    look();
    assert_eq!(rig.model.waits(), 3);
    // Two batches, one wait.
    rig.submit(&[SYNC]);
    rig.submit(&[SYNC]);
    look();
    assert_eq!(rig.model.waits(), 4);
    // In vain: but it was a wait, and an interrupted one goes on as another.
    rig.model.freeze_commands(true);
    rig.submit(&[SYNC]);
    look();
    look();
    assert_eq!(rig.model.waits(), 5);
    rig.bank.write32(0x1_00ac, 0);
    look();
    assert_eq!(rig.model.waits(), 6);
    rig.model.freeze_commands(false);
    look();
    assert_eq!(rig.model.waits(), 6);
    rig.model.clear_waits();
    assert_eq!(rig.model.waits(), 0);
    rig.is_clean();
}

#[test]
fn a_message_is_a_wait_too() {
    let rig = Rig::up_with(ModelConfig {
        idr0: 0x0d44_301b,
        ..Default::default()
    });
    rig.bank.read32(0x9c);
    rig.model.clear_waits();
    let by_message = [0x1234_5678_0000_1046, DATA + 4];
    rig.submit(&[by_message, TLBI_ALL, by_message]);
    rig.bank.read32(0x9c);
    assert_eq!(rig.model.waits(), 1);
    rig.submit(&[by_message]);
    assert_eq!(rig.model.waits(), 2);
    rig.submit(&[TLBI_ALL]);
    assert_eq!(rig.model.waits(), 2);
}

#[test]
fn commands_taken_back_are_not_waited_for() {
    let rig = Rig::up();
    let start = rig.bank.read32(0x9c);
    rig.model.clear_waits();
    rig.submit(&[[0xff, 0], SYNC]);
    rig.bank.write32(0x98, start);
    rig.bank.write32(0x64, 1);
    rig.bank.read32(0x9c);
    assert_eq!(rig.model.waits(), 0);
    rig.is_clean();
}

#[test]
fn a_queue_may_lag_behind() {
    let rig = Rig::up();
    rig.model.set_lag(3);
    let start = rig.bank.read32(0x9c);
    rig.model.clear_waits();
    rig.submit(&[SYNC, SYNC]);
    let seen = [0; 5].map(|_: u32| rig.bank.read32(0x9c) - start);
    assert_eq!((seen, rig.model.waits()), ([0, 0, 0, 2, 2], 1));
    // Other accesses do not help it on.
    rig.submit(&[SYNC]);
    for _ in 0..9 {
        rig.bank.read32(0x98);
        rig.read(5, 0);
    }
    let seen = [0; 4].map(|_: u32| rig.bank.read32(0x9c) - start);
    assert_eq!(seen, [2, 2, 2, 3]);
    let rig = Rig::new(ModelConfig {
        lag: 1,
        ..Default::default()
    });
    rig.queues();
    rig.cr0(8);
    rig.submit(&[SYNC]);
    assert_eq!([rig.bank.read32(0x9c), rig.bank.read32(0x9c)], [0, 1]);
}

#[test]
fn a_stall_is_never_lost_for_want_of_room() {
    let rig = Rig::up_with(ModelConfig {
        idr0: 0x0844_101b,
        ..Default::default()
    });
    rig.stage1();
    rig.poke(CD, &[CD_39 | 1 << 44]);
    for _ in 0..4 {
        rig.model.post_raw_event([7; 4]);
    }
    let stall = |iova| {
        let Outcome::Stalled(tag) = rig.read(5, iova) else {
            panic!()
        };
        u64::from(tag)
    };
    let tags = [stall(0x20_4000), stall(0x20_5000), stall(0x20_6000)];
    assert_eq!(rig.bank.read32(0x1_00a8), 4, "no overflow");
    // One of them is terminated before it could be told.
    rig.submit(&[[0x0005_0000_0044, tags[1]]]);
    assert_eq!(rig.events().len(), 4);
    let told = rig
        .events()
        .iter()
        .map(|event| (event[1] & 0xffff, event[2]))
        .collect::<Vec<_>>();
    assert_eq!(told, [(tags[0], 0x20_4000), (tags[2], 0x20_6000)]);
    // All of the stream are.
    for _ in 0..4 {
        rig.model.post_raw_event([7; 4]);
    }
    stall(0x20_8000);
    rig.submit(&[[0x0005_0000_0045, 0]]);
    assert_eq!((rig.events().len(), rig.events().len()), (4, 0));
    // The same while the queue is disabled.
    rig.cr0(9);
    let tag = stall(0x20_7000);
    rig.cr0(0xd);
    assert_eq!(rig.events()[0][1] & 0xffff, tag);
    rig.is_clean();
}
